"""JAX: words in uint32; engines as callbacks into NumPy with their own gradients.

The callbacks read and write XLA's own buffers. `jax.pure_callback` would pass arrays of JAX: with
one processor, the thread that fills these arrays is the one that waits for them, and the process
hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.custom_derivatives import SymbolicZero

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
    Inputs,
    Results,
    gradient_shapes,
    result_shapes,
    writes_outputs,
)
from lapse.engines.cpu.drawing import FAST_NUMPY
from lapse.engines.interface import Again

Scales = tuple[float, ...]
_Outline: Any = jax.ShapeDtypeStruct


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _layer(engine: str, flags: Flags, scales: Scales, inputs: Inputs) -> tuple[Any, Any, Any, Any]:
    """The last h and c, all h and outputs."""
    found = _forward(engine, flags, scales, inputs)
    return found.last_h, found.last_c, found.h, found.y


def _forward(engine: str, flags: Flags, scales: Scales, inputs: Inputs) -> Results:
    shapes = result_shapes(flags, inputs)
    return Results._make(_called(Forward(engine, flags, scales), shapes, inputs))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _called(function: Callable, shapes: Any, *given: Any) -> Any:
    """Calls a function of NumPy arrays that returns float32 arrays of these shapes."""
    results = type(shapes)._make(_Outline(shape, np.float32) for shape in shapes)
    return _callback(_InPlace(function), results)(*given)


@_called.defjvp
def _(*_: Any) -> Any:
    raise LapseError(
        "a gradient of a gradient is needed, which on JAX only the plain loop has; give the layer "
        "engine='reference'."
    )


def _callback(function: Callable, results: Any) -> Callable:
    # Imported here because it is experimental, so a later version of JAX may not have it.
    from jax.experimental.buffer_callback import buffer_callback

    found: Callable = buffer_callback(function, results, vmap_method="sequential")
    return found


@dataclass(frozen=True)
class _InPlace:
    """Calls a function of NumPy arrays so that it writes its results into XLA's buffers."""

    function: Callable

    def __call__(self, context: Any, out: Any, *given: Any) -> None:
        self.function(*given, into=jax.tree.map(np.asarray, out))


def _with_residuals(engine: str, flags: Flags, scales: Scales, inputs: Any) -> tuple[Any, Any]:
    of_masks = inputs.x_mask, inputs.h_mask, inputs.slots
    if any(mask.perturbed for mask in jax.tree.leaves(of_masks, is_leaf=_is_primal)):
        raise LapseError(
            "the gradient of a mask is needed, which on JAX only the plain loop has; give the "
            "layer engine='reference'."
        )
    # The gradient of x is computed only if it is needed. The structure of the arguments says so,
    # because a value would not be known while JAX traces.
    of_x = () if inputs.x.perturbed else None
    values = jax.tree.map(lambda primal: primal.value, inputs, is_leaf=_is_primal)
    found = _forward(engine, flags, scales, values)
    kept = values, found.h, found.c, found.saved, of_x
    return (found.last_h, found.last_c, found.h, found.y), kept


def _is_primal(value: Any) -> bool:
    return hasattr(value, "perturbed")


def _gradients(engine: str, flags: Flags, scales: Scales, kept: Any, given: Any) -> tuple[Inputs]:
    inputs, h, c, saved, of_x = kept
    last_h, last_c, dh, dy = (None if isinstance(one, SymbolicZero) else one for one in given)
    wanted, has_c = of_x is not None, flags.cell == "LSTM"
    found = _called(
        Backward(engine, flags, scales, wanted),
        gradient_shapes(flags, inputs, wanted),
        *(inputs, h, c, saved, last_h, last_c if has_c else None),
        dy if writes_outputs(inputs) else dh,
    )
    nothing = inputs.each(lambda _: None)
    return (
        nothing._replace(
            x=found.x if wanted else None,
            kernel=found.kernel,
            recurrent_kernel=found.recurrent_kernel,
            bias=None if inputs.bias is None else found.bias,
            h0=None if inputs.h0 is None else found.h0,
            c0=None if inputs.c0 is None else found.c0,
        ),
    )


_layer.defvjp(_with_residuals, _gradients, symbolic_zeros=True)


class Jax(Framework):
    """Runs engines on the processor, also inside compiled graphs."""

    name = "jax"

    def word(self, value: Any) -> Any:
        known = isinstance(value, (int, list, np.ndarray))
        return jnp.asarray(np.asarray(value, np.uint32) if known else value).astype("uint32")

    def multiply(self, word: Any, constant: int) -> tuple[Any, Any]:
        """Computed by halves of words, whose products fit into a word."""
        half, bits = np.uint32(0xFFFF), np.uint32(16)
        low, high = word & half, word >> bits
        c_low, c_high = np.uint32(constant & 0xFFFF), np.uint32(constant >> 16)
        middle = high * c_low + (low * c_low >> bits)
        carry = low * c_high + (middle & half)
        return high * c_high + (middle >> bits) + (carry >> bits), word * np.uint32(constant)

    def add(self, word: Any, constant: int) -> Any:
        return word + np.uint32(constant)

    def quotient(self, words: Any, divisor: int) -> Any:
        return jnp.zeros_like(words) if divisor > WORD else words // np.uint32(divisor)

    def at_least(self, words: Any, threshold: int) -> Any:
        if threshold > WORD:
            return jnp.zeros(words.shape, bool)
        return words >= np.uint32(threshold)

    def range(self, count: Any) -> Any:
        return jnp.arange(count, dtype="uint32")

    def running_max(self, words: Any, axis: int, window: int) -> Any:
        return jax.lax.cummax(words, axis)

    def floats(self, values: Any) -> Any:
        return values.astype("float32")

    tanh, sigmoid = staticmethod(jnp.tanh), staticmethod(jax.nn.sigmoid)
    log, cos, sqrt = staticmethod(jnp.log), staticmethod(jnp.cos), staticmethod(jnp.sqrt)
    concatenate, stack = staticmethod(jnp.concatenate), staticmethod(jnp.stack)
    split, swapaxes = staticmethod(jnp.split), staticmethod(jnp.swapaxes)
    flip, where = staticmethod(jnp.flip), staticmethod(jnp.where)
    broadcast = staticmethod(jnp.broadcast_to)

    def zeros(self, shape: Any, like: Any) -> Any:
        return jnp.zeros(shape, like.dtype)

    def scan(self, step: Callable, carry: tuple, inputs: dict[str, Any]) -> tuple[tuple, Any]:
        if next(iter(inputs.values())).shape[0] == 1:
            return self.once(step, carry, inputs)

        def both(carry: tuple, now: dict) -> tuple[tuple, Any]:
            new = step(carry, now)
            return new, new[0]

        last, outputs = jax.lax.scan(both, carry, inputs)
        return last, outputs

    def like(self, array: Any, other: Any) -> Any:
        return jnp.asarray(array, other.dtype)

    def dtype(self, array: Any) -> str:
        return str(array.dtype)

    def device(self, array: Any) -> str:
        return str(jax.default_backend())

    def in_graph(self, array: Any = None) -> bool:
        return isinstance(array, jax.core.Tracer)

    def transform(self, call: Call) -> str | None:
        if find_spec("jax.experimental.buffer_callback") is None:
            return "this version of JAX has no jax.experimental.buffer_callback"
        return None

    def differentiable(
        self, engine: str, flags: Flags, inputs: Inputs, scales: Scales, again: tuple[Again, ...]
    ) -> tuple[Any, Any, Any, Any]:
        found: tuple = _layer(engine, flags, scales, inputs)
        return found

    def draw(self, plan: Plan, seed: Any, **sizes: Any) -> Masks:
        if not self.in_graph(seed):
            drawn = callbacks.draw(plan, known_words(seed), **sizes)
            return from_arrays(plan.scales, map(jnp.asarray, to_arrays(plan, drawn)))
        stream = {"direction": sizes.pop("direction", 0)}
        results = [
            _Outline(shape, np.uint8 if of_bytes else np.float32)
            for shape, of_bytes in outlines(plan, **sizes)
        ]
        draw = _InPlace(callbacks.Draw(plan, tuple({**sizes, **stream}.items())))
        return from_arrays(plan.scales, _callback(draw, results)(seed))

    def draw_in_graph(self, plan: Plan, seed: Any, **sizes: Any) -> Masks:
        if not self.in_graph(seed):
            return self.draw(plan, seed, **sizes)
        return drawing.draw(plan, seed, **sizes, backend=self)

    def draw_rows(self, terms: Sequence[Term], seed: Any, **sizes: Any) -> Any:
        if self.in_graph(seed):
            return drawing.draw_rows(terms, seed, **sizes, backend=self)
        return jnp.asarray(drawing.draw_rows(terms, known_words(seed), **sizes, backend=FAST_NUMPY))


BACKEND = Jax()
