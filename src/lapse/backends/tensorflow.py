"""TensorFlow: words in int64; engines as calls of NumPy with their own gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from lapse.backends import callbacks
from lapse.backends.callbacks import Backward, Forward, known_words
from lapse.core import drawing
from lapse.core.errors import LapseError
from lapse.core.masks import Masks, from_arrays, outlines, to_arrays
from lapse.core.noise import Term
from lapse.core.philox import WORD
from lapse.core.plan import Plan
from lapse.engines import Call, Framework
from lapse.engines.arrays import (
    Flags,
    Gradients,
    Inputs,
    gradient_shapes,
    result_shapes,
    writes_outputs,
)
from lapse.engines.cpu.drawing import FAST_NUMPY
from lapse.engines.interface import Again, Function


class Tensorflow(Framework):
    """Runs engines on the processor, also inside graphs."""

    name = "tensorflow"
    compiles_engines = False

    def as_written(self, function: Function) -> Function:
        kept: Function = tf.autograph.experimental.do_not_convert(function)
        return kept

    def word(self, value: Any) -> Any:
        return tf.cast(tf.convert_to_tensor(value), tf.int64) & WORD

    def multiply(self, word: Any, constant: int) -> tuple[Any, Any]:
        product = word * constant  # wraps around, with the right low bits
        high = tf.bitwise.right_shift(product, tf.constant(32, tf.int64))
        return high & WORD, product & WORD

    def add(self, word: Any, constant: int) -> Any:
        return (word + constant) & WORD

    def quotient(self, words: Any, divisor: int) -> Any:
        return words // divisor

    def at_least(self, words: Any, threshold: int) -> Any:
        return words >= threshold

    def range(self, count: Any) -> Any:
        return tf.range(tf.cast(count, tf.int64), dtype=tf.int64)

    def running_max(self, words: Any, axis: int, window: int) -> Any:
        # Doubling keeps known shapes known. In graphs the shapes of a scan are unknown, and then
        # loops and XLA fail.
        front, width = (slice(None),) * axis, 1
        while width < window:
            nothing = tf.zeros_like(words[(*front, slice(None, width))])
            before = words[(*front, slice(None, -width))]
            words = tf.maximum(words, tf.concat([nothing, before], axis))
            width *= 2
        return words

    def floats(self, values: Any) -> Any:
        return tf.cast(values, tf.float32)

    tanh, sigmoid = staticmethod(tf.tanh), staticmethod(tf.sigmoid)
    log, cos, sqrt = staticmethod(tf.math.log), staticmethod(tf.cos), staticmethod(tf.sqrt)
    concatenate, stack, split = map(staticmethod, (tf.concat, tf.stack, tf.split))
    broadcast = staticmethod(tf.broadcast_to)

    def swapaxes(self, array: Any, first: int, second: int) -> Any:
        order = list(range(len(array.shape)))
        order[first], order[second] = order[second], order[first]
        return tf.transpose(array, order)

    def flip(self, array: Any, axis: int) -> Any:
        return tf.reverse(array, [axis])

    def where(self, condition: Any, then: Any, otherwise: Any) -> Any:
        like = then if tf.is_tensor(then) else otherwise
        return tf.where(condition, tf.cast(then, like.dtype), tf.cast(otherwise, like.dtype))

    def zeros(self, shape: Any, like: Any) -> Any:
        return tf.zeros(shape, like.dtype)

    def shape(self, array: Any) -> tuple[Any, ...]:
        now = tf.shape(array)
        return tuple(now[n] if size is None else size for n, size in enumerate(array.shape))

    def reshape(self, array: Any, shape: Any) -> Any:
        return tf.reshape(array, shape)

    def scan(self, step: Callable, carry: tuple, inputs: dict[str, Any]) -> tuple[tuple, Any]:
        if next(iter(inputs.values())).shape[0] == 1:
            return self.once(step, carry, inputs)
        outputs, *states = tf.scan(step, inputs, carry)
        return (outputs[-1], *(state[-1] for state in states)), outputs

    def like(self, array: Any, other: Any) -> Any:
        return tf.cast(array, other.dtype)

    def dtype(self, array: Any) -> str:
        return str(tf.as_dtype(array.dtype).name)

    def device(self, array: Any) -> str:
        return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"

    def in_graph(self, array: Any = None) -> bool:
        return not tf.executing_eagerly()

    def transform(self, call: Call) -> str | None:
        return None

    def differentiable(
        self, engine: str, flags: Flags, inputs: Inputs, scales: tuple[float, ...],
        again: tuple[Again, ...],
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        return _layer(engine, flags, scales, inputs)

    def draw(self, plan: Plan, seed: Any, **sizes: Any) -> Masks:
        if self.in_graph():
            return _draw(plan, seed, **sizes)
        drawn = callbacks.draw(plan, known_words(seed), **sizes)
        return from_arrays(plan.scales, map(tf.convert_to_tensor, to_arrays(plan, drawn)))

    def draw_in_graph(self, plan: Plan, seed: Any, **sizes: Any) -> Masks:
        if not self.in_graph():
            return self.draw(plan, seed, **sizes)
        return drawing.draw(plan, seed, **sizes, backend=self)

    def draw_rows(self, terms: Sequence[Term], seed: Any, **sizes: Any) -> Any:
        if self.in_graph(seed):
            return drawing.draw_rows(terms, seed, **sizes, backend=self)
        return tf.convert_to_tensor(
            drawing.draw_rows(terms, known_words(seed), **sizes, backend=FAST_NUMPY)
        )


def _layer(
    engine: str, flags: Flags, scales: tuple[float, ...], inputs: Inputs
) -> tuple[Any, Any, Any, Any]:
    """The last h and c, all h and outputs."""
    places, values = inputs.flat()
    shapes = result_shapes(flags, inputs)
    outputs = writes_outputs(inputs)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*given: Any) -> tuple[Any, Callable]:
        forward = Forward(engine, flags, scales)
        found = _called(lambda *arrays: forward(Inputs.of(places, arrays)), shapes, given)

        def gradients(of_last_h: Any, of_last_c: Any, of_h: Any, of_y: Any) -> list[Any]:
            backward = Backward(engine, flags, scales, of_x=True)
            last_c = [of_last_c] if flags.cell == "LSTM" else []
            of_outputs = of_y if outputs else of_h
            kept = [found.h, found.c, found.saved, of_outputs, of_last_h, *last_c]

            def back(*arrays: Any) -> Any:
                h, c, saved, dy, last_h, *last_c = arrays[: len(kept)]
                return backward(
                    Inputs.of(places, arrays[len(kept) :]),
                    *(h, c, saved, last_h, last_c[0] if last_c else None, dy),
                )

            of_each = _first(back, gradient_shapes(flags, inputs, of_x=True))(*kept, *given)
            # Masks have no gradients; None stands for them in TensorFlow.
            return [of_each[place] if place < len(Gradients._fields) else None for place in places]

        return (found.last_h, found.last_c, found.h, found.y), gradients

    return run(*values)  # type: ignore[no-any-return]


def _first(back: Callable, shapes: Gradients) -> Callable:
    """Calls a function of NumPy arrays that returns gradients, which have no gradients."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def first(*given: Any) -> tuple[Any, Callable]:
        def second(*_: Any) -> None:
            raise LapseError(
                "a gradient of a gradient is needed, which on TensorFlow only the plain loop has; "
                "give the layer engine='reference'."
            )

        return tuple(_called(back, shapes, given)), second

    return first  # type: ignore[no-any-return]


def _called(function: Callable, shapes: Any, given: Any) -> Any:
    """Calls a function of NumPy arrays that returns float32 arrays of these shapes."""
    found = tf.numpy_function(function, given, [tf.float32] * len(shapes), stateful=False)
    for array, shape in zip(found, shapes, strict=True):
        array.set_shape(shape)
    return type(shapes)(*found)


def _draw(plan: Plan, seed: Any, *, batch: Any, timesteps: Any, **rest: Any) -> Masks:
    """Draws inside a graph, by a call of NumPy."""
    of_stream = {"direction": rest.pop("direction", 0)}

    def drawn(words: Any, counts: Any) -> list[Any]:
        batch, timesteps = map(int, counts)
        sizes = {"batch": batch, "timesteps": timesteps, **rest, **of_stream}
        return to_arrays(plan, callbacks.draw(plan, known_words(words), **sizes))

    known = {
        name: None if tf.is_tensor(size) else size
        for name, size in (("batch", batch), ("timesteps", timesteps))
    }
    expected = outlines(plan, **known, **rest)
    types = [tf.uint8 if of_bytes else tf.float32 for _, of_bytes in expected]
    counts = tf.stack([tf.cast(batch, tf.int64), tf.cast(timesteps, tf.int64)])
    arrays = tf.numpy_function(drawn, [seed, counts], types, stateful=False)
    for array, (shape, _) in zip(arrays, expected, strict=True):
        array.set_shape(shape)
    return from_arrays(plan.scales, arrays)


BACKEND = Tensorflow()
