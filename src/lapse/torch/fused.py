"""`cells.unroll` on the C++ kernels, and what keeps a call from running on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lapse.cells import Weights, drop
from lapse.plan import STATES, Coins, Masks
from lapse.torch import ops
from lapse.torch.pointers import SLOTS


def obstacle(
    x: Tensor,
    weights: Weights,
    masks: Masks,
    initial_state: tuple[Tensor, ...] | None,
    *,
    activations: bool = True,
) -> str | None:
    """What about a call the kernels can't do, in words; None if nothing.

    Args:
        activations: whether they are tanh and sigmoid.
    """
    if x.device.type != "cpu":
        return f"the input is on the device {x.device.type}"
    of_noise = [mask for mask in masks if isinstance(mask, Tensor)]
    for tensor in (x, *weights, *of_noise, *(initial_state or ())):
        if tensor is not None and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            return f"it computes in float32, and was given {kind}"
    if any(mask.requires_grad for mask in of_noise):
        return "it has no gradients for masks"
    if not activations:
        return "its activations are tanh and sigmoid"
    return None


def unroll(
    cell: str,
    x: Tensor,
    weights: Weights,
    masks: Masks,
    *,
    initial_state: tuple[Tensor, ...] | None = None,
    running: Tensor | None = None,
    reset_after: bool = True,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs a cell over whole sequences; takes and gives what `cells.unroll` does.

    Masks may be `Coins`.
    """
    W, U = drop(weights.kernel, masks.W), drop(weights.recurrent_kernel, masks.U)
    state = initial_state or (x.new_zeros(x.shape[0], U.shape[0]),) * STATES[cell]
    h0, c0 = (*state, None)[:2]
    x_mask, x_scale = _array(masks.x, W)
    h_mask, h_scale = _array(masks.h, U)
    slots = [_array(getattr(masks, slot, None), U) for slot in SLOTS[cell]]
    last_h, last_c, h, _, _ = ops.run(
        cell,
        reset_after,
        reverse,
        x,
        W,
        U,
        _bias(weights.bias, U.shape[0]),
        h0,
        c0,
        running,
        x_mask,
        h_mask,
        [None if mask is None else mask[:, :, 0] for mask, _ in slots],
        [x_scale, h_scale, *(scale for _, scale in slots)],
    )
    y = _dropped(h.swapaxes(0, 1), masks.y)
    if running is not None and (initial_state is not None or masks.y is not None):
        y = _hold(y, running, reverse)
    return y, (last_h, last_c) if cell == "LSTM" else (last_h,)


def _bias(bias: Tensor | None, units: int) -> Tensor | None:
    """One number for each part of z; a GRU's two rows become z r n, and last what n reads of h."""
    if bias is None or bias.dim() == 1:
        return bias
    inputs, recurrent = bias
    both, last = 2 * units, recurrent[2 * units :]
    return torch.cat([inputs[:both] + recurrent[:both], inputs[both:], last])


def _array(mask: Any, like: Tensor) -> tuple[Tensor | None, float]:
    """(batch or 1, timesteps or 1, gates or 1, width), and what its bytes are multiplied by."""
    if mask is None:
        return None, 1.0
    width = like.shape[0]
    if isinstance(mask, float):
        return like.new_full((1, 1, 1, width), mask), 1.0
    array, scale = mask if isinstance(mask, Coins) else (mask, 1.0)
    return array if array.shape[3] == width else array.expand(*array.shape[:3], width), scale


def _dropped(y: Tensor, mask: Any) -> Tensor:
    if isinstance(mask, Coins):
        return torch.where(mask.kept[:, :, 0].view(torch.bool), y * mask.scale, 0)
    whole = mask is None or isinstance(mask, float)
    return drop(y, mask if whole else mask[:, :, 0])  # type: ignore[no-any-return]


def _hold(y: Tensor, running: Tensor, reverse: bool) -> Tensor:
    """In padding, the output of the real step before; 0 where there is none."""
    steps = torch.arange(y.shape[1])
    if reverse:
        nearest = torch.where(running, steps, y.shape[1]).flip(1).cummin(1).values.flip(1)
    else:
        nearest = torch.where(running, steps, -1).cummax(1).values
    found = (nearest >= 0) & (nearest < y.shape[1])
    held = y.gather(1, torch.where(found, nearest, 0)[..., None].expand_as(y))
    return torch.where(found[..., None], held, 0)
