"""The gradients of `ops.layer`: by its backward kernel; those of gradients by the plain loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lapse.torch import ops, plain
from lapse.torch.memory import direct

Again = Callable[[], Tensor] | None


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
        by_slot = plain.by_slot(ctx.flags[0], masks, ctx.scales)

        def layer(*leaves: Any) -> tuple:
            arguments = (*ctx.flags, *leaves, running, by_slot)
            return plain.layer(*arguments)

        gradients = _differentiable(layer, (dlast_h, dlast_c, dh), leaves, wanted)
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


def _differentiable(layer: Callable, given: tuple, leaves: tuple, wanted: tuple) -> tuple:
    """The gradients of the wanted leaves, in a graph.

    By `torch.func.vjp`, as what is saved under a transform of torch.func may have lost its graph.
    """

    def known(*needed: Tensor) -> tuple:
        some = iter(needed)
        full = [next(some) if want else leaf for leaf, want in zip(leaves, wanted, strict=True)]
        return tuple(out for out, grad in zip(layer(*full), given, strict=True) if grad is not None)

    needed = (leaf for leaf, want in zip(leaves, wanted, strict=True) if want)
    back = torch.func.vjp(known, *needed)[1]
    found = iter(back(tuple(grad for grad in given if grad is not None)))
    return tuple(next(found) if want else None for want in wanted)


ops.layer.register_autograd(partial(_gradients, ops.layer_backward), setup_context=_setup)


class _Direct(torch.autograd.Function):
    """`ops.layer` without what PyTorch does around operators, which can take as long as it."""

    @staticmethod
    def forward(*arguments: Any) -> tuple:  # its own names would be read anew at each call
        return ops.forward(*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        *arguments, again = inputs
        _setup(ctx, arguments, output, again)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple:
        return *_gradients(
            ops.backward if direct(*gradients) else ops.layer_backward, ctx, *gradients
        ), None


def run(*arguments: Any, again: Sequence[Again]) -> tuple[Tensor, ...]:
    """`ops.layer`, called directly where that makes no difference but of time.

    Args:
        arguments: those of `ops.layer`.
        again: for the mask of x, that of h and the slots, what draws it again for backward; None
            where it is to be kept, as an operator keeps all of them.
    """
    *tensors, slots = arguments[3:13]
    if not direct(*tensors, *slots):
        return tuple(ops.layer(*arguments))
    return tuple(_Direct.apply(*arguments, again))  # type: ignore[no-untyped-call]
