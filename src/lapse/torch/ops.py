"""A recurrent layer over whole sequences as one PyTorch operator, on the CPU kernels of `csrc/`.

`layer` and `layer_backward` are opaque to torch.compile; `autograd.py` joins them. Masks on weights
are plain PyTorch around it; see `fused.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lapse.torch.mapping import in_turn
from lapse.torch.pointers import check, parts, run


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
    """Runs a cell over whole sequences.

    Args:
        cell, reset_after: "LSTM", "GRU" (reset_after says which) or "SimpleRNN".
        reverse: whether to begin with the last step.
        x: (batch, timesteps, features).
        kernel, recurrent_kernel: (features, gates*units), (units, gates*units).
        bias: (gates*units,), for GRU with reset_after that of what n reads of h behind it.
        h0, c0: (batch, units).
        running: (batch, timesteps) booleans, False where a step is padding.
        x_mask, h_mask: (batch or 1, timesteps or 1, gates or 1, width), float32, or uint8 of 0
            and 1.
        slots: the same without the axis of gates, in the order of `pointers.SLOTS`.
        scales: what each of all these masks is multiplied by, if it is of uint8.

    Returns:
        The last h and c (batch, units), all h and all c (timesteps, batch, units), what backward
        needs, (timesteps, batch, parts*units), and all outputs (timesteps, batch, units), with
        nothing in padding. Where there is no c, both are empty; so are outputs that no mask makes
        differ from h.
    """
    check(
        cell, reset_after, x, kernel, recurrent_kernel, bias, h0, c0, running,
        x_mask, h_mask, slots,
    )  # fmt: skip
    last_h, last_c, h, c, saved, y = made = _empty(cell, reset_after, x, h0, slots)
    run(
        cell,
        reset_after,
        reverse,
        x,
        (kernel, recurrent_kernel),
        (x_mask, h_mask, *slots),
        scales,
        {"bias": bias, "h0": h0, "c0": c0, "running": running},
        {"h": h, "c": c, "saved": saved, "y": y},
    )
    last = 0 if reverse else -1
    last_h.copy_(h[last])
    if c0 is not None:
        last_c.copy_(c[last])
    return made


layer = torch.library.custom_op("lapse::layer", forward, mutates_args=())


@layer.register_fake
def _(
    cell: str, reset_after: bool, reverse: bool, x: Tensor, kernel: Any, recurrent: Any, bias: Any,
    h0: Tensor, c0: Any, running: Any, x_mask: Any, h_mask: Any, slots: Any, scales: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _empty(cell, reset_after, x, h0, slots)


def _empty(
    cell: str, reset_after: bool, x: Tensor, h0: Tensor, slots: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, timesteps, units = x.shape[0], x.shape[1], h0.shape[1]
    has_c = cell == "LSTM"
    return (
        x.new_empty(batch, units),
        x.new_empty(batch, units) if has_c else x.new_empty(0),
        x.new_empty(timesteps, batch, units),
        x.new_empty(timesteps, batch, units) if has_c else x.new_empty(0),
        x.new_empty(timesteps, batch, parts(cell, reset_after) * units),
        x.new_empty(0) if slots[-1] is None else x.new_empty(timesteps, batch, units),
    )


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
    """The gradients of x (empty unless `of_x`), kernel, recurrent_kernel, bias, h0 and c0.

    Args:
        h, c, saved: what `layer` returned; all before are what it was given.
        dlast_h, dlast_c: (batch, units), of the last states; None where there is none.
        dh: (timesteps, batch, units), of all h, or of the outputs that a mask makes of them.
        columns_first: gives (gates*units, features) and (gates*units, units), as PyTorch's weights
            lie in memory, for the two kernels.
    """
    check(
        cell, reset_after, x, kernel, recurrent_kernel, None, h0, c0, running,
        x_mask, h_mask, slots,
        {"h": h, "c": c, "saved": saved, "dh": dh, "dlast_h": dlast_h, "dlast_c": dlast_c},
    )  # fmt: skip
    dx, dkernel, drecurrent, dbias, dh0, dc0 = found = _empty_gradients(
        cell, x, kernel, recurrent_kernel, h0, saved, of_x, columns_first
    )
    if columns_first:
        dkernel, drecurrent = dkernel.t(), drecurrent.t()
    for gradient, last in ((dh0, dlast_h), (dc0, dlast_c)):
        if last is None:
            gradient.zero_()
        else:
            gradient.copy_(last)
    run(
        cell,
        reset_after,
        reverse,
        x,
        (kernel, recurrent_kernel),
        (x_mask, h_mask, *slots),
        scales,
        {"h0": h0, "c0": c0, "h": h, "c": c, "saved": saved, "running": running},
        {"dbias": dbias, "dh0": dh0, "dc0": dc0},
        dh=None if dh is None else dh.swapaxes(0, 1),
        dx=dx if of_x else None,
        dkernels=(dkernel, drecurrent),
    )
    return found


layer_backward = torch.library.custom_op("lapse::layer_backward", backward, mutates_args=())
layer_backward.register_vmap(in_turn(layer_backward))


@layer_backward.register_fake
def _(
    cell: str, reset_after: bool, reverse: bool, x: Tensor, kernel: Tensor, recurrent: Tensor,
    h0: Tensor, c0: Any, running: Any, x_mask: Any, h_mask: Any, slots: Any, scales: Any,
    h: Any, c: Any, saved: Tensor, dlast_h: Any, dlast_c: Any, dh: Any, of_x: bool,
    columns_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _empty_gradients(cell, x, kernel, recurrent, h0, saved, of_x, columns_first)


def _empty_gradients(
    cell: str,
    x: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    h0: Tensor,
    saved: Tensor,
    of_x: bool,
    columns_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    order = slice(None, None, -1 if columns_first else 1)
    return (
        x.new_empty(x.shape if of_x else 0),
        x.new_empty(kernel.shape[order]),
        x.new_empty(recurrent_kernel.shape[order]),
        x.new_empty(saved.shape[2]),
        x.new_empty(h0.shape),
        x.new_empty(h0.shape if cell == "LSTM" else 0),
    )
