"""The C++ kernels as TensorFlow functions: calls of NumPy with gradients of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from lapse.core import masks, packing
from lapse.core.errors import LapseError
from lapse.core.plan import Masks, Plan
from lapse.kernels.host import Backward, Forward
from lapse.kernels.layer import Flags, Gradients, Inputs, gradient_shapes, result_shapes


def layer(flags: Flags, scales: tuple[float, ...], inputs: Inputs) -> tuple[Any, Any, Any, Any]:
    """`kernels.layer.forward`, of whose results it gives the last h and c, all h and outputs.

    Args:
        scales: what each mask is multiplied by, where it is uint8.
    """
    nest = _Nest.of(inputs)
    batch, timesteps, _ = inputs.x.shape
    units, masks_y = inputs.h0.shape[1], inputs.slots[-1] is not None
    shapes = result_shapes(flags.cell, flags.reset_after, batch, timesteps, units, masks_y)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*given: Any) -> tuple[Any, Callable]:
        forward = Forward(flags, scales)
        found = _called(lambda *arrays: forward(nest.filled(arrays)), shapes, given)

        def gradients(of_last_h: Any, of_last_c: Any, of_h: Any, of_y: Any) -> list[Any]:
            backward = Backward(flags, scales, of_x=True)
            last_c = [of_last_c] if flags.cell == "LSTM" else []
            kept = [found.h, found.c, found.saved, of_y if masks_y else of_h, of_last_h, *last_c]

            def back(*arrays: Any) -> Any:
                h, c, saved, dh, last_h, *last_c = arrays[: len(kept)]
                return backward(
                    nest.filled(arrays[len(kept) :]),
                    *(h, c, saved, last_h, last_c[0] if last_c else None, dh),
                )

            size = (batch, timesteps, inputs.x.shape[2])
            of_each = gradient_shapes(flags.cell, flags.reset_after, size, units, of_x=True)
            of_inputs = Gradients(*_first(back, of_each)(*kept, *given))._asdict()
            # There is none for masks: where one asks, TensorFlow says that it is missing.
            return [of_inputs.get(name) for name in nest.names]

        return (found.last_h, found.last_c, found.h, found.y), gradients

    return run(*nest.values)  # type: ignore[no-any-return]


def _first(back: Callable, shapes: Gradients) -> Callable:
    """Calls a function of NumPy arrays that gives gradients, which have none themselves."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def first(*given: Any) -> tuple[Any, Callable]:
        def second(*_: Any) -> None:
            raise LapseError(
                "a gradient of gradients is asked for, and the C++ kernel has none on TensorFlow; "
                "give the layer kernel='reference'."
            )

        return tuple(_called(back, shapes, given)), second

    return first  # type: ignore[no-any-return]


def _called(function: Callable, shapes: Any, given: Any) -> Any:
    """Calls a function of NumPy arrays that gives float32 arrays of these shapes."""
    found = tf.numpy_function(function, given, [tf.float32] * len(shapes), stateful=False)
    for array, shape in zip(found, shapes, strict=True):
        array.set_shape(shape)
    return type(shapes)(*found)


class _Nest(NamedTuple):
    """The tensors of `Inputs` in a row, and their names; slots have numbers."""

    names: list[Any]
    values: list[Any]
    slots: int

    @classmethod
    def of(cls, inputs: Inputs) -> _Nest:
        *fields, _ = inputs._asdict().items()
        named: list[tuple[Any, Any]] = [*fields, *enumerate(inputs.slots)]
        found = [(name, value) for name, value in named if value is not None]
        return cls([name for name, _ in found], [value for _, value in found], len(inputs.slots))

    def filled(self, arrays: Any) -> Inputs:
        """The same with other values."""
        found = dict(zip(self.names, arrays, strict=True))
        *fields, _ = Inputs._fields
        return Inputs._make([*map(found.get, fields), list(map(found.get, range(self.slots)))])


def draw(plan: Plan, seed: Any, *, direction: int, batch: Any, timesteps: Any, **of: int) -> Masks:
    """`masks.draw` inside a graph, by a call of NumPy; coins of each step as `Coins`.

    Args:
        of: features and units.
    """

    def drawn(words: Any, counts: Any) -> list[Any]:
        batch, timesteps = map(int, counts)
        sizes = {"batch": batch, "timesteps": timesteps, **of, "direction": direction}
        return packing.packed(plan, masks.draw(plan, [*map(int, words)], **sizes, packed=True))

    known = {
        name: None if tf.is_tensor(size) else size
        for name, size in (("batch", batch), ("timesteps", timesteps))
    }
    expected = packing.outlines(plan, **known, **of)
    types = [tf.uint8 if bytes_ else tf.float32 for _, bytes_ in expected]
    counts = tf.stack([tf.cast(batch, tf.int64), tf.cast(timesteps, tf.int64)])
    arrays = tf.numpy_function(drawn, [seed, counts], types, stateful=False)
    for array, (shape, _) in zip(arrays, expected, strict=True):
        array.set_shape(shape)
    return packing.unpacked(packing.scales(plan), arrays)
