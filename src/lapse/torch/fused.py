"""`cells.unroll` on the C++ kernels, and what keeps a call from running on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lapse.cells import Weights, drop
from lapse.plan import STATES, Masks
from lapse.torch import ops


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
    lengths: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs a cell over whole sequences, with `reset_after` for GRU.

    Takes and gives what `cells.unroll` does, but instead of `running`:

    Args:
        lengths: (batch,) whole numbers, the real steps at the start of each sample.
    """
    W, U = drop(weights.kernel, masks.W), drop(weights.recurrent_kernel, masks.U)
    batch, timesteps, _ = x.shape
    if lengths is not None:
        lengths = lengths.to(torch.int64)
        running = torch.arange(timesteps) < lengths[:, None]
        x = torch.where(running[..., None], x, 0)  # whatever stands in padding stays there
    if initial_state is None:
        initial_state = (x.new_zeros(batch, U.shape[0]),) * STATES[cell]
    h0, c0 = (*initial_state, None)[:2]
    last_h, last_c, h, _, _ = ops.layer(
        cell,
        x,
        W,
        U,
        _bias(weights.bias, U.shape[0]),
        h0,
        c0,
        lengths,
        _by_gate(masks.x, W),
        _by_gate(masks.h, U),
        [next(iter(_by_gate(getattr(masks, slot, None), U)), None) for slot in ops.SLOTS[cell]],
    )
    y = h.swapaxes(0, 1)
    if masks.y is not None:
        y = y * (masks.y if isinstance(masks.y, float) else masks.y[:, :, 0])
    if lengths is not None:
        y = _hold(y, lengths)
    return y, (last_h, last_c) if cell == "LSTM" else (last_h,)


def _bias(bias: Tensor | None, units: int) -> Tensor | None:
    """One number for each part of z; a GRU's two rows become z r n, and last what n reads of h."""
    if bias is None or bias.dim() == 1:
        return bias
    inputs, recurrent = bias
    both, last = 2 * units, recurrent[2 * units :]
    return torch.cat([inputs[:both] + recurrent[:both], inputs[both:], last])


def _by_gate(mask: Any, like: Tensor) -> list[Tensor]:
    """Masks (batch or 1, timesteps or 1, width), one a gate; a row lies side by side in memory."""
    if mask is None:
        return []
    width = like.shape[0]
    if isinstance(mask, float):
        return [like.new_full((1, 1, width), mask)]
    parts = mask.expand(*mask.shape[:3], width).unbind(2)
    return [part if part.stride(2) == 1 else part.contiguous() for part in parts]


def _hold(y: Tensor, lengths: Tensor) -> Tensor:
    """Past its length, each sample's last output; 0 where there is none."""
    last = torch.clamp(lengths - 1, min=0)[:, None]
    step = torch.minimum(torch.arange(y.shape[1]), last)
    held = y.gather(1, step[..., None].expand_as(y))
    return torch.where(lengths[:, None, None] > 0, held, 0)
