"""The call of PyTorch's kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lapse.core.cells import drop
from lapse.core.masks import Masks
from lapse.core.plan import GATES
from lapse.core.weights import TorchWeights, Weights, to_torch
from lapse.engines.interface import Call

_NO_MASKS = Masks()


def run(call: Call, masks: Masks) -> tuple[Tensor, tuple[Tensor, ...]]:
    """See `Engine.run`."""
    call, x = call.with_weights_like_x(), call.x
    if masks == _NO_MASKS:
        weights, y_mask = call.torch_weights(), None
    else:
        x, weights, y_mask = _folded(call, call.backend.numbers(masks, x))
    if x.shape[1] == 1 and weights.weight_hr is None:
        return _one_step(call, x, weights, y_mask)
    flat = [weight for weight in weights if weight is not None]
    rest = (flat, weights.bias_ih is not None, 1, 0.0, torch.is_grad_enabled(), False)
    function = call.backend.sequences[call.cell, call.activation]
    state = _states(call, weights)
    x = _turned(x, call.lengths) if call.reverse else x
    if call.lengths is not None:
        y, last = _packed(function, x, call.lengths, state, rest)
    else:
        y, *last = function(x, state if len(state) > 1 else state[0], *rest, True)
    y = _turned(y, call.lengths) if call.reverse else y
    y = drop(y, y_mask)
    if call.lengths is not None:
        y = _hold(y, call.lengths, call.reverse)
    return y, tuple(last if call.leading_axis else [part.squeeze(0) for part in last])


def _one_step(
    call: Call, x: Tensor, weights: TorchWeights, y_mask: Any
) -> tuple[Tensor, tuple[Tensor, ...]]:
    function = call.backend.steps[call.cell, call.activation]
    state, leading = call.initial_state, call.leading_axis
    if state is None:
        h = x.new_zeros(x.shape[0], weights.weight_hh.shape[1])
        state = (h, h)
    elif leading:
        state = tuple([part.squeeze(0) for part in state])
    if call.cell == "LSTM":
        last = function(x.squeeze(1), state, *weights[:4])
    else:
        last = (function(x.squeeze(1), state[0], *weights[:4]),)
    y = drop(last[0].unsqueeze(1), y_mask)
    return y, tuple([part.unsqueeze(0) for part in last]) if leading else last


def _states(call: Call, weights: TorchWeights) -> tuple[Tensor, ...]:
    """The states before the first step, (1, batch, width) each."""
    if call.initial_state is not None:
        state = call.initial_state
        return state if call.leading_axis else tuple([part.unsqueeze(0) for part in state])
    batch, (columns, width) = call.x.shape[0], weights.weight_hh.shape
    h = call.x.new_zeros(1, batch, width)
    if call.cell != "LSTM":
        return (h,)
    return h, h if weights.weight_hr is None else call.x.new_zeros(1, batch, columns // 4)


def _folded(call: Call, masks: Masks) -> tuple[Tensor, TorchWeights, Any]:
    """The input and weights times their masks, and the mask of y, (batch, timesteps, units)."""
    gates, stored = len(GATES[call.cell]), call.keras_weights()
    x, kernel = call.x, drop(stored.kernel, masks.W)
    recurrent = drop(stored.recurrent_kernel, masks.U)
    if isinstance(masks.x, float) or masks.x is None:
        x = drop(x, masks.x)
    elif masks.x.shape[2] == 1:
        x = x * masks.x[:, :, 0]
    else:  # one input for each gate, and a kernel in which each gate reads its own input
        x = (x[:, :, None] * masks.x).flatten(2)
        kernel = torch.block_diag(*kernel.chunk(gates, 1))
    if isinstance(masks.h, float):
        recurrent = recurrent * masks.h
    elif masks.h is not None:
        of_gates = masks.h[0, 0].expand(gates, len(recurrent))  # the mask of each gate
        parts = zip(recurrent.chunk(gates, 1), of_gates, strict=True)
        recurrent = torch.cat([part * mask[:, None] for part, mask in parts], 1)
    weights = Weights(kernel, recurrent, stored.bias, stored.projection)
    of_y = masks.y if masks.y is None or isinstance(masks.y, float) else masks.y[:, :, 0]
    return x, to_torch(call.cell, weights, call.backend), of_y


def _packed(
    function: Callable, x: Tensor, lengths: Tensor, state: tuple[Tensor, ...], rest: tuple
) -> tuple[Tensor, list[Tensor]]:
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    order: Any = packed.sorted_indices
    first = [part.index_select(1, order) for part in state]
    data, *last = function(
        packed.data, packed.batch_sizes, first if len(first) > 1 else first[0], *rest
    )
    y, _ = pad_packed_sequence(
        PackedSequence(data, *packed[1:]), batch_first=True, total_length=x.shape[1]
    )
    back: Any = packed.unsorted_indices
    return y, [part.index_select(1, back) for part in last]


def _turned(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverses the real steps of each sequence."""
    if lengths is None:
        return values.flip(1)
    steps = torch.arange(values.shape[1], device=values.device)
    ends = lengths.to(values.device)[:, None]
    turned = torch.where(steps < ends, ends - 1 - steps, steps)
    return values.gather(1, turned[..., None].expand_as(values))


def _hold(y: Tensor, lengths: Tensor, reverse: bool) -> Tensor:
    """In padding, the output of the last real step before it, or 0 if there is no such step."""
    steps = torch.arange(y.shape[1], device=y.device)
    ends = lengths.to(y.device)[:, None]
    if reverse:
        return torch.where((steps < ends)[..., None], y, 0)
    return y.gather(1, steps.minimum(ends - 1)[..., None].expand_as(y))
