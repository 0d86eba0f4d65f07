"""The gradients of `operators.layer` from the engine; second derivatives from the plain loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lapse.backends.torch import operators
from lapse.backends.torch.arrays import TorchArrays
from lapse.backends.torch.operators import Settings
from lapse.backends.torch.private import direct
from lapse.core.cells import unroll
from lapse.core.masks import Masks
from lapse.core.plan import STATES
from lapse.core.weights import Weights
from lapse.engines.arrays import SLOTS, Gradients, Inputs, writes_outputs
from lapse.engines.interface import Again

_FIRST_MASK = Inputs._fields.index("x_mask")
_LEAVES = Gradients._fields  # the first of `Inputs`, for which backward computes gradients


def _setup(
    ctx: Any, settings: Settings, arrays: Sequence[Tensor], output: Sequence[Tensor],
    again: Sequence[Again] = (),
) -> None:  # fmt: skip
    _, _, h, c, saved, y = output
    outputs = writes_outputs(Inputs.of(settings.places, arrays))
    ctx.mark_non_differentiable(c, saved, h if outputs else y)
    ctx.set_materialize_grads(False)
    ctx.settings, ctx.outputs = settings, outputs
    ctx.again = {n + _FIRST_MASK: redraw for n, redraw in enumerate(again) if redraw is not None}
    kept = [
        None if place in ctx.again else array
        for place, array in zip(settings.places, arrays, strict=True)
    ]
    ctx.save_for_backward(*kept, h, c, saved)


def _gradients(
    back: Callable, ctx: Any, wanted: Sequence[bool], given: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradient of each array, or None if it is not wanted.

    Args:
        back: `operators.backward` or `operators.layer_backward`.
        given: the gradients of what forward returned.
    """
    settings, (*arrays, h, c, saved) = ctx.settings, ctx.saved_tensors
    places = settings.places
    arrays = [
        ctx.again[place]() if place in ctx.again else array
        for place, array in zip(places, arrays, strict=True)
    ]
    dlast_h, dlast_c, dh, _, _, dy = given
    of_results = (dlast_h, dlast_c, dy if ctx.outputs else dh)
    if torch.is_grad_enabled():  # create_graph=True: these gradients have gradients themselves
        return _differentiable(settings, arrays, wanted, of_results)
    of_places = dict(zip(places, arrays, strict=True))
    columns_first = of_places[_LEAVES.index("recurrent_kernel")].stride(0) == 1
    of_places.pop(_LEAVES.index("bias"), None)
    found = list(
        back(
            settings._replace(places=tuple(of_places)),
            [*of_places.values(), h, c, saved],
            *of_results,
            wanted[0],  # x is the first
            columns_first,
        )
    )
    if columns_first:
        for kernel in (_LEAVES.index("kernel"), _LEAVES.index("recurrent_kernel")):
            found[kernel] = found[kernel].t()
    return [found[place] if want else None for place, want in zip(places, wanted, strict=True)]


def _differentiable(
    settings: Settings, arrays: Sequence[Tensor], wanted: Sequence[bool], given: tuple
) -> list[Tensor | None]:
    """The gradients of the wanted arrays, in a graph.

    It uses `torch.func.vjp`, because tensors saved under a transform of torch.func may have lost
    their graph.
    """

    def layer(*needed: Tensor) -> tuple:
        some = iter(needed)
        full = [next(some) if want else array for array, want in zip(arrays, wanted, strict=True)]
        results = _plain(settings, Inputs.of(settings.places, full))
        return tuple(out for out, grad in zip(results, given, strict=True) if grad is not None)

    needed = (array for array, want in zip(arrays, wanted, strict=True) if want)
    back = torch.func.vjp(layer, *needed)[1]
    found = iter(back(tuple(grad for grad in given if grad is not None)))
    return [next(found) if want else None for want in wanted]


def _plain(settings: Settings, inputs: Inputs) -> tuple[Tensor, Tensor | None, Tensor]:
    """The last h and c, and the outputs with timesteps first, from the plain loop."""
    cell, units = settings.cell, inputs.recurrent_kernel.shape[0]
    bias = inputs.bias
    if bias is not None and cell == "GRU" and settings.reset_after:
        of_x, last = bias.split([3 * units, units])
        bias = torch.stack([of_x, torch.cat([torch.zeros_like(of_x[: 2 * units]), last])])
    filled = {}
    masks = (inputs.x_mask, inputs.h_mask, *inputs.slots)
    for slot, mask, scale in zip(("x", "h", *SLOTS[cell]), masks, settings.scales, strict=True):
        if mask is not None:
            values = mask * scale if mask.dtype == torch.uint8 else mask
            filled[slot] = values if slot in "xh" else values[:, :, None]
    y, state = unroll(
        cell,
        inputs.x,
        Weights(inputs.kernel, inputs.recurrent_kernel, bias),
        Masks(**filled),
        initial_state=None if inputs.h0 is None else (inputs.h0, inputs.c0)[: STATES[cell]],
        running=inputs.running,
        reset_after=settings.reset_after,
        reverse=settings.reverse,
        backend=TorchArrays(),
    )
    last_h, last_c = (*state, None)[:2]
    return last_h, last_c, y.swapaxes(0, 1)


def _setup_operator(ctx: Any, inputs: Sequence, output: Sequence[Tensor]) -> None:
    *settings, arrays = inputs
    _setup(ctx, Settings(*settings), arrays, output)


def _backward_operator(ctx: Any, given: Sequence[Tensor | None]) -> tuple:
    *rest, wanted = ctx.needs_input_grad
    return *(None for _ in rest), _gradients(_by_operator, ctx, wanted, given)


def _by_operator(settings: Settings, *given: Any) -> tuple[Tensor, ...]:
    return operators.layer_backward(*settings, *given)  # type: ignore[no-any-return]


operators.layer.register_autograd(_backward_operator, setup_context=_setup_operator)


class _Direct(torch.autograd.Function):
    """`operators.layer` without the overhead of operators, which can be as long as the layer."""

    @staticmethod
    def forward(settings: Settings, again: Sequence[Again], *arrays: Tensor) -> tuple:
        return tuple(operators.forward(settings, arrays))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        settings, again, *arrays = inputs
        _setup(ctx, settings, arrays, output, again)

    @staticmethod
    def backward(ctx: Any, *given: Any) -> tuple:
        back = operators.backward if direct(*given) else _by_operator
        return None, None, *_gradients(back, ctx, ctx.needs_input_grad[2:], given)


def run(settings: Settings, arrays: Sequence[Tensor], again: Sequence[Again]) -> Sequence[Tensor]:
    """`operators.layer`, called directly, without the operator, where that is possible.

    Args:
        again: for the mask of x, the mask of h and the slots, a function that draws it again for
            backward; None where the mask is kept. An operator keeps all masks.
    """
    if direct(*arrays):
        found: tuple = _Direct.apply(settings, again, *arrays)  # type: ignore[no-untyped-call]
        return found
    return operators.layer(*settings, arrays)  # type: ignore[no-any-return]
