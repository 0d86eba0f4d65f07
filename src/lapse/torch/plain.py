"""The plain loop of `cells.py` on PyTorch, also as the operator of `ops.py` has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lapse.core import cells
from lapse.core.cells import Weights
from lapse.core.plan import STATES, Coins, Fleeting, Masks
from lapse.kernels.layer import SLOTS

LIBRARY = cells.Library(
    tanh=torch.tanh,
    sigmoid=torch.sigmoid,
    concatenate=torch.cat,
    split=torch.chunk,
    swapaxes=torch.swapaxes,
    where=torch.where,
    flip=lambda array, axis: array.flip(axis),
    zeros=lambda shape, like: torch.zeros(shape, dtype=like.dtype, device=like.device),
    scan=cells.plain_scan(torch.stack),
)


def floats(masks: Masks, like: Tensor) -> Masks:
    """Masks with the dtype and on the device of a tensor, all of them numbers."""

    def one(mask: Any) -> Any:
        if isinstance(mask, Coins):
            return mask.kept.to(like) * mask.scale
        mask = mask.numbers if isinstance(mask, Fleeting) else mask
        return mask.to(like) if isinstance(mask, Tensor) else mask

    return Masks(*map(one, masks))


def layer(
    cell: str,
    reset_after: bool,
    reverse: bool,
    x: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor | None,
    running: Tensor | None,
    masks: Masks,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What `ops.layer` computes, differentiable any number of times: the last h and c, all h."""
    if bias is not None and cell == "GRU" and reset_after:
        inputs, last = bias.split([3 * h0.shape[1], h0.shape[1]])
        recurrent = torch.cat([torch.zeros_like(inputs[: -len(last)]), last])
        bias = torch.stack([inputs, recurrent])
    y, state = cells.unroll(
        cell,
        x,
        Weights(kernel, recurrent_kernel, bias),
        floats(masks, x),
        initial_state=(h0, c0)[: STATES[cell]],
        running=running,
        reset_after=reset_after,
        reverse=reverse,
        library=LIBRARY,
    )
    last_h, last_c = (*state, None)[:2]
    return last_h, last_c, y.swapaxes(0, 1)


def by_slot(cell: str, masks: Sequence[Tensor | None], scales: Sequence[float]) -> Masks:
    """The masks of `ops.layer`, of x, of h and the slots, as `cells.unroll` takes them."""
    filled = {}
    for slot, mask, scale in zip(("x", "h", *SLOTS[cell]), masks, scales, strict=True):
        if mask is not None:
            values = mask * scale if mask.dtype == torch.uint8 else mask
            filled[slot] = values if slot in "xh" else values[:, :, None]
    return Masks(**filled)
