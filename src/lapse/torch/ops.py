"""`kernels.layer` as two PyTorch operators, opaque to torch.compile; `autograd.py` joins them.

Masks on weights are plain PyTorch around it; see `fused.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lapse.kernels import layer as kernels
from lapse.kernels.layer import Flags, Inputs, Results
from lapse.torch.mapping import in_turn
from lapse.torch.memory import MEMORY


def forward(
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
    x_mask: Tensor | None,
    h_mask: Tensor | None,
    slots: Sequence[Tensor | None],
    scales: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`kernels.layer.forward`, in the flat form that operators have."""
    inputs = Inputs(
        x, kernel, recurrent_kernel, bias, h0, c0, running, x_mask, h_mask, slots
    )  # fmt: skip
    return tuple(kernels.forward(MEMORY, Flags(cell, reset_after, reverse), inputs, scales))


layer = torch.library.custom_op("lapse::layer", forward, mutates_args=())


@layer.register_fake
def _(
    cell: str, reset_after: bool, reverse: bool, x: Tensor, kernel: Any, recurrent: Any, bias: Any,
    h0: Tensor, c0: Any, running: Any, x_mask: Any, h_mask: Any, slots: Any, scales: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    (batch, timesteps, _), units, masks_y = x.shape, h0.shape[1], slots[-1] is not None
    shapes = kernels.result_shapes(cell, reset_after, batch, timesteps, units, masks_y)
    return tuple(map(x.new_empty, shapes))


def backward(
    cell: str,
    reset_after: bool,
    reverse: bool,
    x: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    running: Tensor | None,
    x_mask: Tensor | None,
    h_mask: Tensor | None,
    slots: Sequence[Tensor | None],
    scales: Sequence[float],
    h: Tensor,
    c: Tensor,
    saved: Tensor,
    dlast_h: Tensor | None,
    dlast_c: Tensor | None,
    dh: Tensor | None,
    of_x: bool,
    columns_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`kernels.layer.backward`, in the flat form that operators have."""
    found = kernels.backward(
        MEMORY,
        Flags(cell, reset_after, reverse),
        Inputs(x, kernel, recurrent_kernel, None, h0, c0, running, x_mask, h_mask, slots),
        scales,
        Results(None, None, h, c, saved, None),
        dlast_h,
        dlast_c,
        dh,
        of_x=of_x,
        columns_first=columns_first,
    )
    return tuple(found)


layer_backward = torch.library.custom_op("lapse::layer_backward", backward, mutates_args=())
layer_backward.register_vmap(in_turn(layer_backward))


@layer_backward.register_fake
def _(
    cell: str, reset_after: bool, reverse: bool, x: Tensor, kernel: Tensor, recurrent: Tensor,
    h0: Tensor, c0: Any, running: Any, x_mask: Any, h_mask: Any, slots: Any, scales: Any,
    h: Any, c: Any, saved: Tensor, dlast_h: Any, dlast_c: Any, dh: Any, of_x: bool,
    columns_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    units, size = h0.shape[1], tuple(x.shape)
    shapes = kernels.gradient_shapes(cell, reset_after, size, units, of_x, columns_first)
    return tuple(map(x.new_empty, shapes))
