"""A recurrent layer over whole sequences as one PyTorch operator, on the CPU kernels of `csrc/`.

`layer` and `layer_backward` are opaque to autograd and to torch.compile; second derivatives take
the plain loop. Modules call `run`. Masks on weights are plain PyTorch around it; see
`fused.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lapse.torch import plain
from lapse.torch.pointers import check, direct, parts
from lapse.torch.pointers import run as _run

Again = Callable[[], Tensor] | None


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
    _run(
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
    _run(
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


def _setup(ctx: Any, inputs: Sequence, output: tuple, again: Sequence[Again] = ()) -> None:
    *flags, x, kernel, recurrent, bias, h0, c0, running, x_mask, h_mask, slots, scales = inputs
    _, _, h, c, saved, y = output
    ctx.mark_non_differentiable(c, saved, y if slots[-1] is None else h)
    ctx.set_materialize_grads(False)
    ctx.flags, ctx.scales = flags, scales
    masks = [x_mask, h_mask, *slots]
    ctx.again = again or [None] * len(masks)
    kept = (None if redraw else mask for mask, redraw in zip(masks, ctx.again, strict=True))
    ctx.save_for_backward(x, kernel, recurrent, bias, h0, c0, running, h, c, saved, *kept)


def _gradients(
    back: Callable, ctx: Any, dlast_h: Tensor | None, dlast_c: Tensor | None, dh: Tensor | None,
    dc: None, dsaved: None, dy: Tensor | None,
) -> tuple:  # fmt: skip
    x, kernel, recurrent, bias, h0, c0, running, h, c, saved, *masks = ctx.saved_tensors
    masks = [again() if again else mask for mask, again in zip(masks, ctx.again, strict=True)]
    x_mask, h_mask, *slots = masks
    dh = dh if slots[-1] is None else dy
    wanted = ctx.needs_input_grad[3:9]
    leaves = x, kernel, recurrent, bias, h0, c0
    if torch.is_grad_enabled():  # create_graph=True: these gradients have gradients themselves
        cell, reset_after, reverse = ctx.flags
        by_slot = plain.by_slot(cell, masks, ctx.scales)
        outputs = plain.layer(cell, reset_after, reverse, *leaves, running, by_slot)
        gradients = _differentiable(outputs, (dlast_h, dlast_c, dh), leaves, wanted)
    else:
        columns_first = recurrent.stride(0) == 1
        dx, *dkernels, dbias, dh0, dc0 = back(
            *ctx.flags, x, kernel, recurrent, h0, c0, running, x_mask, h_mask, slots, ctx.scales,
            h, c, saved, dlast_h, dlast_c, dh, wanted[0], columns_first,
        )  # fmt: skip
        if columns_first:
            dkernels = [dkernel.t() for dkernel in dkernels]
        found = dx, *dkernels, dbias, dh0, dc0
        gradients = tuple(g if want else None for g, want in zip(found, wanted, strict=True))
    return None, None, None, *gradients, None, None, None, None, None


def _differentiable(outputs: Any, given: Any, leaves: Any, wanted: Any) -> tuple:
    """The gradients of the wanted leaves, in a graph."""
    known = [(out, grad) for out, grad in zip(outputs, given, strict=True) if grad is not None]
    needed = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in known],
            needed,
            [grad for _, grad in known],
            create_graph=True,
            allow_unused=True,
        )
    )
    return tuple(next(found) if want else None for want in wanted)


layer.register_autograd(partial(_gradients, layer_backward), setup_context=_setup)


class _Direct(torch.autograd.Function):
    """`layer` without what PyTorch does around an operator, which can take as long as a layer."""

    @staticmethod
    def forward(*arguments: Any) -> tuple:  # its own names would be read anew at each call
        return forward(*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        *arguments, again = inputs
        _setup(ctx, arguments, output, again)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple:
        return *_gradients(
            backward if direct(*gradients) else layer_backward, ctx, *gradients
        ), None


def run(*arguments: Any, again: Sequence[Again]) -> tuple[Tensor, ...]:
    """`layer`, called directly where that makes no difference but of time.

    Args:
        arguments: those of `layer`.
        again: for the mask of x, that of h and the slots, what draws it again for backward; None
            where it is to be kept, as an operator keeps all of them.
    """
    *tensors, slots = arguments[3:13]
    if not direct(*tensors, *slots):
        return tuple(layer(*arguments))
    return tuple(_Direct.apply(*arguments, again))  # type: ignore[no-untyped-call]
