"""`cells.unroll` on the C++ kernels under JAX and TensorFlow, in `keras.ops`.

`lapse.torch.fused` is the same for PyTorch's tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from lapse.core.cells import Weights, drop
from lapse.core.plan import Coins, Masks
from lapse.kernels.layer import SLOTS, Flags, Inputs


def unroll(
    cell: str,
    x: Any,
    weights: Weights,
    masks: Masks,
    *,
    layer: Callable,
    initial_state: tuple[Any, ...],
    running: Any = None,
    reset_after: bool = True,
    reverse: bool = False,
) -> tuple[Any, tuple[Any, ...]]:
    """Runs a cell over whole sequences; takes and gives what `cells.unroll` does.

    Half precision is computed in float32. Masks may be `Coins`; `layer` is that of `on_jax` or
    `on_tensorflow`.
    """
    dtype = x.dtype
    W, U = drop(weights.kernel, masks.W), drop(weights.recurrent_kernel, masks.U)
    (features, _), (units, _) = W.shape, U.shape
    x_mask, h_mask = _given(masks.x, features), _given(masks.h, units)
    slots = [_given(getattr(masks, slot, None), units, of_gates=False) for slot in SLOTS[cell]]
    h0, c0 = (*initial_state, None)[:2]
    inputs = Inputs(
        x=_float32(x),
        kernel=_float32(W),
        recurrent_kernel=_float32(U),
        bias=_float32(_bias(weights.bias, units)),
        h0=_float32(h0),
        c0=_float32(c0),
        running=running,
        x_mask=x_mask.array,
        h_mask=h_mask.array,
        slots=[mask.array for mask in slots],
    )
    scales = tuple(mask.scale for mask in (x_mask, h_mask, *slots))
    last_h, last_c, h, outputs = layer(Flags(cell, reset_after, reverse), scales, inputs)
    y = ops.swapaxes(h if masks.y is None else outputs, 0, 1)
    if running is not None:
        y = _hold(y, running, reverse)
    state = (last_h, last_c) if cell == "LSTM" else (last_h,)
    return ops.cast(y, dtype), tuple(ops.cast(part, dtype) for part in state)


def _float32(value: Any) -> Any:
    return None if value is None else ops.cast(value, "float32")


def _bias(bias: Any, units: int) -> Any:
    """One number for each part of z; a GRU's two rows become z r n, and last what n reads of h."""
    if bias is None or len(bias.shape) == 1:
        return bias
    inputs, recurrent = bias[0], bias[1]
    both, last = 2 * units, recurrent[2 * units :]
    return ops.concatenate([inputs[:both] + recurrent[:both], inputs[both:], last])


class _Given(NamedTuple):
    """A mask as the kernels take it, and what its bytes are multiplied by."""

    array: Any = None
    scale: float = 1.0


def _given(mask: Any, width: int, of_gates: bool = True) -> _Given:
    if mask is None:
        return _Given()
    if isinstance(mask, float):
        mask = ops.full((1, 1, 1, 1), mask, "float32")
    array, scale = (mask.kept, mask.scale) if isinstance(mask, Coins) else (_float32(mask), 1.0)
    if array.shape[3] != width:
        array = ops.broadcast_to(array, (*ops.shape(array)[:3], width))
    return _Given(array if of_gates else array[:, :, 0], scale)


def _hold(y: Any, running: Any, reverse: bool) -> Any:
    """In padding, the output of the real step before; 0 where there is none."""
    if reverse:
        return ops.flip(_hold(ops.flip(y, 1), ops.flip(running, 1), False), 1)
    timesteps = ops.shape(y)[1]
    real_first = ops.argsort(ops.where(running, ops.arange(timesteps), timesteps), axis=1)
    so_far = ops.cumsum(ops.cast(running, "int32"), axis=1)  # how many real steps
    nearest = ops.take_along_axis(real_first, ops.maximum(so_far - 1, 0), axis=1)
    held = ops.take_along_axis(y, nearest[..., None], axis=1)
    return ops.where(so_far[..., None] > 0, held, 0)
