"""The C++ kernels as JAX functions: callbacks into NumPy with gradients of their own.

The callbacks are of the kind that reads and writes XLA's own buffers. `jax.pure_callback` makes
arrays of JAX of them instead, and where a process has one processor, the thread that would fill
these arrays is the one that waits for them: the process hangs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.experimental.buffer_callback import buffer_callback

from lapse.core import masks
from lapse.core.errors import LapseError
from lapse.core.packing import outlines, packed, scales, unpacked
from lapse.core.plan import Masks, Plan
from lapse.kernels.host import Backward, Forward
from lapse.kernels.layer import Flags, Inputs, Results, gradient_shapes, result_shapes

Scales = tuple[float, ...]
_Outline: Any = jax.ShapeDtypeStruct


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def layer(flags: Flags, scales: Scales, inputs: Inputs) -> tuple[Any, Any, Any, Any]:
    """`kernels.layer.forward`, of whose results it gives the last h and c, all h and outputs."""
    found = _forward(flags, scales, inputs)
    return found.last_h, found.last_c, found.h, found.y


def _forward(flags: Flags, scales: Scales, inputs: Inputs) -> Results:
    (batch, timesteps, _), units = inputs.x.shape, inputs.h0.shape[1]
    shapes = result_shapes(
        flags.cell, flags.reset_after, batch, timesteps, units, inputs.slots[-1] is not None
    )
    return Results._make(_called(Forward(flags, scales), shapes, inputs))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _called(function: Callable, shapes: Any, *given: Any) -> Any:
    """What a function of NumPy arrays gives, float32 arrays of these shapes."""
    results = type(shapes)._make(_Outline(shape, np.float32) for shape in shapes)
    return buffer_callback(_InPlace(function), results, vmap_method="sequential")(*given)


@_called.defjvp
def _(*_: Any) -> Any:
    raise LapseError(
        "a gradient of gradients is asked for, and the C++ kernel has none on JAX; give the layer "
        "kernel='reference'."
    )


@dataclass(frozen=True)
class _InPlace:
    """Has a function of NumPy arrays write its results where XLA wants them."""

    function: Callable

    def __call__(self, context: Any, out: Any, *given: Any) -> None:
        self.function(*given, into=jax.tree.map(np.asarray, out))


def _with_residuals(flags: Flags, scales: Scales, inputs: Any) -> tuple[Any, Any]:
    of_masks = inputs.x_mask, inputs.h_mask, inputs.slots
    if any(mask.perturbed for mask in jax.tree.leaves(of_masks, is_leaf=_is_primal)):
        raise LapseError(
            "the gradient of a mask is asked for, and the C++ kernel has none; give the layer "
            "kernel='reference'."
        )
    # Of x only where it is asked for; a structure rather than a value, so that it is known in time.
    of_x = () if inputs.x.perturbed else None
    values = jax.tree.map(lambda primal: primal.value, inputs, is_leaf=_is_primal)
    found = _forward(flags, scales, values)
    kept = values, found.h, found.c, found.saved, of_x
    return (found.last_h, found.last_c, found.h, found.y), kept


def _is_primal(value: Any) -> bool:
    return hasattr(value, "perturbed")


def _gradients(flags: Flags, scales: Scales, kept: Any, given: Any) -> tuple[Inputs]:
    inputs, h, c, saved, of_x = kept
    last_h, last_c, dh, dy = (None if isinstance(one, SymbolicZero) else one for one in given)
    wanted = of_x is not None
    shapes = gradient_shapes(
        flags.cell, flags.reset_after, inputs.x.shape, inputs.h0.shape[1], wanted
    )
    found = _called(
        Backward(flags, scales, wanted),
        shapes,
        *(inputs, h, c, saved, last_h, last_c if flags.cell == "LSTM" else None),
        dh if inputs.slots[-1] is None else dy,
    )
    return (
        Inputs(
            x=found.x if wanted else None,
            kernel=found.kernel,
            recurrent_kernel=found.recurrent_kernel,
            bias=None if inputs.bias is None else found.bias,
            h0=found.h0,
            c0=found.c0 if flags.cell == "LSTM" else None,
            running=None,
            x_mask=None,
            h_mask=None,
            slots=[None for _ in inputs.slots],
        ),
    )


layer.defvjp(_with_residuals, _gradients, symbolic_zeros=True)


@dataclass(frozen=True)
class _Draw:
    """`masks.draw` by NumPy, as the arrays of the slots in turn."""

    plan: Plan
    sizes: tuple[tuple[str, int], ...]

    def __call__(self, seed: Any, into: list[Any]) -> None:
        words = [int(word) for word in np.asarray(seed)]
        drawn = masks.draw(self.plan, words, **dict(self.sizes), packed=True)
        for array, mask in zip(into, packed(self.plan, drawn), strict=True):
            array[...] = mask


def draw(plan: Plan, seed: Any, *, direction: int, **sizes: int) -> Masks:
    """`masks.draw` inside a compiled graph, by a callback; coins of each step as `Coins`."""
    results = [
        _Outline(shape, np.uint8 if of_bytes else np.float32)
        for shape, of_bytes in outlines(plan, **sizes)
    ]
    called: Callable = _Draw(plan, tuple({**sizes, "direction": direction}.items()))
    drawn = buffer_callback(_InPlace(called), results, vmap_method="sequential")(seed)
    return unpacked(scales(plan), drawn)
