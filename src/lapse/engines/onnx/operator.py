"""The operator in PyTorch's words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lapse.core.plan import STATES
from lapse.engines.interface import Call


def impossible(call: Call) -> str | None:
    """What about a call ONNX's operator can't do, in words; None if nothing."""
    if not (torch.onnx.is_in_onnx_export() and torch.compiler.is_exporting()):
        return "only torch.onnx.export(dynamo=True) writes it down"
    factors = call.masks if call.masks is not None else call.plan.expected
    if call.training or any(factor is not None for factor in factors):
        return "it has no masks"
    if call.keras_weights().projection is not None:
        return "it has no projection of h"
    # onnxruntime has it in float32 alone, and torch.compile can't write it down.
    if call.x.dtype != torch.float32 or torch.compiler.is_dynamo_compiling():
        return "it takes float32, in graphs that torch.compile doesn't make"
    if call.running is not None and call.lengths is None:
        return "it needs padding to be at the end of each sequence"
    if call.recurrent_activation is not None or call.activation not in (None, torch.relu):
        return "its activations are tanh and sigmoid"
    return None


def run(call: Call) -> tuple[Tensor, tuple]:
    """ONNX's weights are Keras's turned around, and its LSTM's gates i o f g."""
    weights, x, cell = call.keras_weights(), call.x, call.cell
    (batch, timesteps, _), (units, columns) = x.shape, weights.recurrent_kernel.shape
    bias = weights.bias
    if bias is None:
        bias = x.new_zeros(2, columns)
    elif bias.dim() == 1:
        bias = torch.stack([bias, torch.zeros_like(bias)])
    arrays = [weights.kernel.t(), weights.recurrent_kernel.t(), *bias]
    if cell == "LSTM":
        arrays = [torch.cat([a[:units], a[3 * units :], a[units : 3 * units]]) for a in arrays]
    W, U, *both = arrays
    ends = None if call.running is None else call.running.sum(1).to(torch.int32)
    states = [part[None] for part in call.initial_state or ()]
    attributes: dict[str, Any] = {
        "hidden_size": units,
        "direction": "reverse" if call.reverse else "forward",
    }
    if cell == "GRU":
        attributes["linear_before_reset"] = int(call.reset_after)
    if cell == "SimpleRNN":
        attributes["activations"] = ["Tanh" if call.activation is None else "Relu"]
    y, *last = torch.onnx.ops.symbolic_multi_out(
        "RNN" if cell == "SimpleRNN" else cell,
        [x.swapaxes(0, 1), *(array[None] for array in (W, U, torch.cat(both))), ends, *states],
        attributes,
        dtypes=[x.dtype] * (1 + STATES[cell]),
        shapes=[(timesteps, 1, batch, units), *[(1, batch, units)] * STATES[cell]],
    )
    return y[:, 0].swapaxes(0, 1), tuple(part[0] for part in last)
