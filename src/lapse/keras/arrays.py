"""The arrays of Keras's backends: what drawing masks and running cells take from them.

Inside a compiled graph of JAX or TensorFlow the seed is no number yet, so the graph draws, or calls
NumPy when it calls the C++ kernels too; everywhere else NumPy does. The bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops

from lapse.core import arrays, cells, masks, packing
from lapse.core.noise import parse
from lapse.core.philox import WORD
from lapse.core.plan import Masks
from lapse.core.planned import Planned
from lapse.keras.exporting import exporting
from lapse.kernels import choose

_Function = TypeVar("_Function", bound=Callable)


class _Graph:
    """`arrays.NumpyArrays` in `keras.ops`; subclasses say how words are held."""

    dtype: str

    def word(self, value: Any) -> Any:
        return ops.cast(ops.convert_to_tensor(value, self.dtype), self.dtype)

    words = word

    def range(self, count: Any) -> Any:
        return ops.arange(count, dtype=self.dtype)

    def interleave(self, parts: tuple[Any, ...]) -> Any:
        stacked = ops.stack(parts, axis=-1)
        *shape, last, four = ops.shape(stacked)
        return ops.reshape(stacked, (*shape, last * four))

    def at_least(self, words: Any, threshold: int) -> Any:
        if threshold > WORD:
            return ops.zeros_like(words, dtype="bool")
        return words >= self.word(threshold)

    def floats(self, values: Any) -> Any:
        return ops.cast(values, "float32")

    def scaled(self, coins: Any, factor: float) -> Any:
        return self.floats(coins) * factor

    def quotient(self, words: Any, divisor: int) -> Any:
        return ops.zeros_like(words) if divisor > WORD else words // self.word(divisor)

    log, cos = staticmethod(ops.log), staticmethod(ops.cos)
    sqrt, tanh = staticmethod(ops.sqrt), staticmethod(ops.tanh)

    def running_max(self, words: Any, axis: int, window: int) -> Any:
        # By doubling, which leaves shapes as they are known. Those of ops.associative_scan are
        # unknown in graphs of TensorFlow, where loops and XLA then fail.
        front, width = (slice(None),) * axis, 1
        while width < window:
            nothing = ops.zeros_like(words[(*front, slice(None, width))])
            before = words[(*front, slice(None, -width))]
            words = ops.maximum(words, ops.concatenate([nothing, before], axis=axis))
            width *= 2
        return words

    def hold(self, values: Any, fresh: Any, axis: int) -> Any:
        def step(carry: tuple, now: dict) -> tuple:
            return (ops.where(now["fresh"], now["value"], carry[0]),)

        values, fresh = ops.moveaxis(values, axis, 0), ops.moveaxis(fresh, axis, 0)
        _, held = scan(step, (values[0],), {"value": values, "fresh": fresh})
        return ops.moveaxis(held, 0, axis)


class _Words32(_Graph):
    """JAX: uint32, whose products are put together from halves."""

    dtype = "uint32"

    def word(self, value: Any) -> Any:
        return ops.convert_to_tensor(
            np.asarray(value, np.uint32) if _known(value) else value, "uint32"
        )

    words = word

    def add(self, word: Any, constant: int) -> Any:
        return word + np.uint32(constant)

    def multiply(self, word: Any, constant: int) -> tuple[Any, Any]:
        half = np.uint32(0xFFFF)
        bits = np.uint32(16)
        low, high = word & half, word >> bits
        c_low, c_high = np.uint32(constant & 0xFFFF), np.uint32(constant >> 16)
        middle = high * c_low + (low * c_low >> bits)
        carry = low * c_high + (middle & half)
        return high * c_high + (middle >> bits) + (carry >> bits), word * np.uint32(constant)


class _Words64(_Graph):
    """TensorFlow: int64, whose products wrap around with the right bits in them."""

    dtype = "int64"

    def add(self, word: Any, constant: int) -> Any:
        return (word + constant) & WORD

    def multiply(self, word: Any, constant: int) -> tuple[Any, Any]:
        product = word * constant
        return ops.right_shift(product, ops.cast(32, "int64")) & WORD, product & WORD


def _known(value: Any) -> bool:
    return isinstance(value, (int, list, np.ndarray))


def _as_written(function: _Function) -> _Function:
    """Keeps TensorFlow from rewriting what a function calls where a user's tf.function calls it.

    Inside the call of a layer Keras keeps it from that itself.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    kept: _Function = tf.autograph.experimental.do_not_convert(function)
    return kept


def next_seed(generator: Any) -> Any:
    """The pair that a `keras.random.SeedGenerator` gives next."""
    if keras.backend.backend() == "torch":
        return _on_backend().next_seed(generator)
    return generator.next()


@_as_written
def draw(noise: Planned, seed: Any, dtype: str, *, packed: bool = False, **sizes: Any) -> Masks:
    """`masks.draw` with the arrays of the current backend, in `dtype`.

    Args:
        seed: a whole number, or the pair that a `keras.random.SeedGenerator` gives.
        packed: whether masks are drawn for the C++ kernels, with `Coins` or `Fleeting` among them.
        sizes: batch, timesteps, features, units and direction, as for `masks.draw`.
    """
    if packed:
        return _packed(noise, seed, sizes)
    if keras.backend.backend() == "torch" and _in_a_graph(seed):
        drawn = _on_backend().floats(_on_backend().draw(noise, seed, **sizes))
    else:
        on, seed = _drawn_on(seed)
        drawn = masks.draw(noise.plan, seed, arrays=on, **sizes)

    def tensor(mask: Any) -> Any:
        return None if mask is None else ops.convert_to_tensor(mask, dtype)

    return Masks(*map(tensor, drawn))


def _packed(noise: Planned, seed: Any, sizes: dict[str, Any]) -> Masks:
    if keras.backend.backend() == "torch":
        found: Masks = _on_backend().draw(noise, seed, **sizes)
        return found
    if not _in_a_graph(seed):
        _, seed = _drawn_on(seed)
        drawn = packing.packed(noise.plan, masks.draw(noise.plan, seed, **sizes, packed=True))
        return packing.unpacked(noise.scales, map(ops.convert_to_tensor, drawn))
    made: Masks = _on_backend().draw(noise.plan, seed, **{"direction": 0, **sizes})
    return made


def _on_backend() -> Any:
    """The kernels as functions of the backend."""
    if keras.backend.backend() == "torch":
        from lapse.keras import on_torch

        return on_torch
    if keras.backend.backend() == "jax":
        from lapse.keras import on_jax

        return on_jax
    from lapse.keras import on_tensorflow

    return on_tensorflow


@_as_written
def draw_rows(noise: str, seed: Any, dtype: str, **sizes: Any) -> Any:
    """`masks.draw_rows` with the arrays of the current backend, in `dtype`.

    Args:
        noise: terms.
    """
    if keras.backend.backend() == "torch" and _in_a_graph(seed):
        return ops.convert_to_tensor(_on_backend().draw_rows(noise, seed, **sizes), dtype)
    on, seed = _drawn_on(seed)
    return ops.convert_to_tensor(masks.draw_rows(parse(noise), seed, arrays=on, **sizes), dtype)


def _drawn_on(seed: Any) -> tuple[Any, Any]:
    """The arrays to draw on, and the seed as they take it."""
    if keras.backend.backend() in _GRAPHS and _in_a_graph(seed):
        return _GRAPHS[keras.backend.backend()], seed
    seed = masks.seed_words(seed)
    if not isinstance(seed, tuple):
        seed = [int(half) & WORD for half in ops.convert_to_numpy(seed)]
    if keras.backend.backend() == "torch":
        return _on_backend().ARRAYS, seed
    return arrays.NUMPY, seed


def _in_a_graph(seed: Any) -> bool:
    if keras.backend.backend() == "jax":
        import jax

        return isinstance(seed, jax.core.Tracer)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return not tf.executing_eagerly()
    found: bool = _on_backend().in_a_graph(seed)
    return found


_GRAPHS = {"jax": _Words32(), "tensorflow": _Words64()}


@_as_written
def chosen(x: Any, cell: Any, masks: Masks, state: tuple | None, kernel: str) -> str:
    """The kernel for a call, "cpu" or "reference".

    Args:
        masks: those that the layer was given.
        kernel: what it asks for; see `kernels.choose`.
    """
    if keras.backend.backend() == "torch" and x.device.type == "meta":
        return "reference"  # Keras asks for the shapes, with any loop
    why_not, leaving = obstacle(x, cell, masks, state), exporting()
    if leaving and why_not is None:
        why_not = "the model is being exported, to run where there is no lapse"
    pick = _on_backend().chosen if keras.backend.backend() == "torch" else choose
    found: str = pick(why_not, kernel, expected=leaving)
    return found


@_as_written
def unroll(
    kind: str, x: Any, cell: Any, masks: Masks, kernel: str, **call: Any
) -> tuple[Any, tuple]:
    """`cells.unroll` with the weights of a Keras cell, on the kernel that was `chosen`.

    Args:
        call: initial_state, running and reverse.
    """
    call["reset_after"] = getattr(cell, "reset_after", True)
    if kernel == "reference":
        masks = Masks(*(_cast(mask, x.dtype) for mask in masks))
        return cells.unroll(kind, x, weights(cell), masks, **call, library=library(cell, scan))
    if keras.backend.backend() == "torch":
        found: tuple = _on_backend().unroll(kind, x, weights(cell), masks, **call)
        return found
    from lapse.keras import fused as in_ops

    return in_ops.unroll(kind, x, weights(cell), masks, **call, layer=_on_backend().layer)


def _cast(mask: Any, dtype: Any) -> Any:
    return mask if mask is None or isinstance(mask, float) else ops.cast(mask, dtype)


def obstacle(x: Any, cell: Any, masks: Masks, state: tuple | None) -> str | None:
    """What about a call the C++ kernels can't do, in words; None if nothing."""
    own = has_own_activations(cell)
    if keras.backend.backend() == "torch":
        found: str | None = _on_backend().obstacle(x, weights(cell), masks, state, activations=own)
        return found
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype not in ("float32", "float16", "bfloat16"):
        return f"it computes in float32, and was given {dtype}"
    if (device := _accelerator()) is not None:
        return f"the backend runs on {device}"
    if keras.backend.backend() == "jax" and find_spec("jax.experimental.buffer_callback") is None:
        return "this version of JAX has no jax.experimental.buffer_callback"
    return None if own else "its activations are tanh and sigmoid"


def has_own_activations(cell: Any) -> bool:
    """Whether a cell has the activations of the C++ kernels."""
    return cell.activation is keras.activations.tanh and (
        getattr(cell, "recurrent_activation", None) in (None, keras.activations.sigmoid)
    )


def _accelerator() -> str | None:
    """What JAX or TensorFlow runs on, if it isn't the processor."""
    if keras.backend.backend() == "jax":
        import jax

        platform = str(jax.default_backend())
        return None if platform == "cpu" else platform
    import tensorflow as tf

    return "gpu" if tf.config.list_logical_devices("GPU") else None


def scan(step: Callable, carry: tuple, inputs: dict) -> tuple:
    """The loop of `cells.plain_scan` in the form that the backend compiles."""
    if keras.backend.backend() == "torch":
        plain: Callable = cells.plain_scan(ops.stack)
        return plain(step, carry, inputs)  # type: ignore[no-any-return]

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Not ops.scan, which fails where the number of timesteps is unknown (Keras 3.15).
        outputs, *states = tf.scan(step, inputs, carry)
        return (outputs[-1], *(state[-1] for state in states)), outputs

    def both(carry: tuple, now: dict) -> tuple[tuple, Any]:
        new = step(carry, now)
        return new, new[0]

    return ops.scan(both, carry, inputs)  # type: ignore[no-any-return]


def once(step: Callable, carry: tuple, inputs: dict) -> tuple:
    """The loop over a single step."""
    carry = step(carry, {name: value[0] for name, value in inputs.items()})
    return carry, carry[0][None]


def library(cell: Any, loop: Callable) -> cells.Library:
    """What the loop takes from Keras, with the activations of a Keras cell."""
    return cells.Library(
        tanh=cell.activation,
        sigmoid=getattr(cell, "recurrent_activation", ops.sigmoid),  # SimpleRNN has no gates
        concatenate=ops.concatenate,
        split=ops.split,
        swapaxes=ops.swapaxes,
        where=ops.where,
        flip=ops.flip,
        zeros=lambda shape, like: ops.zeros((ops.shape(like)[0], *shape[1:]), like.dtype),
        scan=loop,
    )


def weights(cell: Any) -> cells.Weights:
    """The weights of a Keras cell, as tensors of the backend."""
    variables = (cell.kernel, cell.recurrent_kernel, cell.bias if cell.use_bias else None)
    return cells.Weights(*(v if v is None else ops.convert_to_tensor(v) for v in variables))
