"""The ONNX operator, called from PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lapse.core.plan import STATES
from lapse.engines.interface import Call


def impossible(call: Call) -> str | None:
    """What prevents ONNX's operator from running a call; None if nothing does."""
    if not (torch.onnx.is_in_onnx_export() and torch.compiler.is_exporting()):
        return "only torch.onnx.export(dynamo=True) can write it"
    factors = call.masks if call.masks is not None else call.plan.expected
    if call.training or any(factor is not None for factor in factors):
        return "it has no masks"
    if call.keras_weights().projection is not None:
        return "it has no projection of h"
    # onnxruntime has it only in float32, and torch.compile can't trace it.
    if call.x.dtype != torch.float32 or torch.compiler.is_dynamo_compiling():
        return "it needs float32, outside torch.compile"
    if call.running is not None and call.lengths is None:
        return "it needs padding to be at the end of each sequence"
    if call.recurrent_activation is not None or call.activation not in (None, torch.relu):
        return "its activations are tanh and sigmoid"
    return None


def run(call: Call) -> tuple[Tensor, tuple]:
    """Runs the operator. ONNX has Keras's weights transposed, and the gates of LSTM as i o f g."""
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
