"""Layers in graphs that leave PyTorch, for any batch and any number of timesteps.

`torch.export` keeps the operator of `ops.py`, which runs where lapse is installed. ONNX has no such
operator, but an LSTM, a GRU and an RNN of its own: evaluation is one of these, where no noise
leaves a factor in it. Everything else is the plain loop, as one operator that scans over time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lapse.core import cells
from lapse.core.cells import Library, Weights
from lapse.core.errors import LapseError
from lapse.core.plan import STATES, Masks
from lapse.torch.memory import constant
from lapse.torch.plain import LIBRARY


def exporting() -> bool:
    """Whether `torch.export` is writing the call down, be it for ONNX or not."""
    return torch.compiler.is_exporting()


# torch.compile would assume that it is never for ONNX, were it to look inside.
@constant
def to_onnx() -> bool:
    """Whether `torch.onnx.export` is writing the call down, in one of its two ways."""
    if not (torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None):
        return False  # what comes next takes longer to ask
    return torch.onnx.is_in_onnx_export()


def obstacle() -> str | None:
    """What about an export keeps the C++ kernel out of it, in words; None if nothing."""
    return "ONNX has no operator for it" if to_onnx() else None


def refuse_drawing() -> None:
    """Raises `LapseError` where masks are to be drawn in a graph that can't."""
    if to_onnx():
        raise LapseError(
            "the model is in training, and ONNX has nothing that draws lapse's masks; call "
            "model.eval() before torch.onnx.export."
        )


def unroll(
    cell: str,
    x: Tensor,
    weights: Weights,
    masks: Masks,
    *,
    initial_state: tuple[Tensor, ...] | None = None,
    running: Tensor | None = None,
    reverse: bool = False,
    library: Library = LIBRARY,
) -> tuple[Tensor, tuple]:
    """Runs a cell over whole sequences; takes and gives what `cells.unroll` does."""
    plain = all(mask is None for mask in masks) and weights.projection is None
    # onnxruntime has them in float32 alone, and torch.compile can't write them down.
    possible = x.dtype == torch.float32 and not torch.compiler.is_dynamo_compiling()
    if to_onnx() and plain and possible:
        return _operator(cell, x, weights, initial_state, running, reverse, library)
    return cells.unroll(
        cell,
        x,
        weights,
        masks,
        initial_state=initial_state,
        running=running,
        reverse=reverse,
        library=library._replace(scan=_scan),
    )


def _scan(step: Callable, carry: tuple, inputs: dict) -> tuple:
    """`cells.plain_scan` as one operator, which wants no tensor to stand in two places."""
    from torch._higher_order_ops.scan import scan  # with a compiler, that takes a second to import

    def apart(parts: tuple) -> tuple:
        return tuple(part.clone() for part in parts)

    def once(carry: tuple, now: dict) -> tuple:
        new = step(carry, now)
        return apart(new), new[0].clone()

    last, outputs = scan(once, apart(carry), inputs)
    return last, outputs


def _operator(
    cell: str,
    x: Tensor,
    weights: Weights,
    initial_state: tuple[Tensor, ...] | None,
    running: Tensor | None,
    reverse: bool,
    library: Library,
) -> tuple[Tensor, tuple]:
    """ONNX's own layer. Its weights are Keras's turned around, its LSTM's gates i o f g."""
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
    ends = None if running is None else running.sum(1).to(torch.int32)
    states = [part[None] for part in initial_state or ()]
    attributes: dict[str, Any] = {
        "hidden_size": units,
        "direction": "reverse" if reverse else "forward",
    }
    if cell == "GRU":
        attributes["linear_before_reset"] = 1
    if cell == "SimpleRNN":
        attributes["activations"] = ["Relu" if library.tanh is torch.relu else "Tanh"]
    y, *last = torch.onnx.ops.symbolic_multi_out(
        "RNN" if cell == "SimpleRNN" else cell,
        [x.swapaxes(0, 1), *(array[None] for array in (W, U, torch.cat(both))), ends, *states],
        attributes,
        dtypes=[x.dtype] * (1 + STATES[cell]),
        shapes=[(timesteps, 1, batch, units), *[(1, batch, units)] * STATES[cell]],
    )
    return y[:, 0].swapaxes(0, 1), tuple(part[0] for part in last)
