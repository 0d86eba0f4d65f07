"""Weights in the layouts of Keras, which lapse computes in, and of PyTorch.

Keras:    kernel (features, gates*units), recurrent_kernel (units, gates*units), bias;
          GRU gates z r n
PyTorch:  weight_ih (gates*units, features), weight_hh (gates*units, units), bias_ih and bias_hh
          (gates*units,) each; GRU gates r z n

The functions between them are differentiable where the arrays are. PyTorch's GRU is the one of
`reset_after`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lapse.core.backend import Backend


class Weights(NamedTuple):
    """kernel (features, gates*units), recurrent_kernel (units, gates*units), bias or None.

    The bias is (gates*units,), for GRU with reset_after (2, gates*units): input row, recurrent row.
    An LSTM may have a projection of its hidden state, (units, projected), as in Sak et al. 2014,
    arXiv:1402.1128; h then has `projected` numbers, and recurrent_kernel as many rows.
    """

    kernel: Any
    recurrent_kernel: Any
    bias: Any = None
    projection: Any = None


class TorchWeights(NamedTuple):
    """PyTorch's arrays by its names; both biases are None for a layer without.

    weight_hr is (projected, units), of an LSTM with `proj_size`.
    """

    weight_ih: Any
    weight_hh: Any
    bias_ih: Any = None
    bias_hh: Any = None
    weight_hr: Any = None


def from_torch(cell: str, weights: TorchWeights, backend: Backend) -> Weights:
    """PyTorch's arrays in Keras's layout."""
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = weights
    if cell == "GRU":
        weight_ih = _swap_gates(weight_ih, backend)
        weight_hh = _swap_gates(weight_hh, backend)
    bias = None
    if bias_ih is not None and cell == "GRU":
        rows = [_swap_gates(bias, backend)[None] for bias in (bias_ih, bias_hh)]
        bias = backend.concatenate(rows, 0)
    elif bias_ih is not None:
        bias = bias_ih + bias_hh
    projection = None if weight_hr is None else weight_hr.T
    return Weights(weight_ih.T, weight_hh.T, bias, projection)


def to_torch(cell: str, weights: Weights, backend: Backend) -> TorchWeights:
    """Arrays of Keras's layout in PyTorch's; a single bias goes to bias_ih whole."""
    weight_ih, weight_hh, bias = weights.kernel.T, weights.recurrent_kernel.T, weights.bias
    weight_hr = None if weights.projection is None else weights.projection.T
    if cell == "GRU":
        weight_ih = _swap_gates(weight_ih, backend)
        weight_hh = _swap_gates(weight_hh, backend)
    if bias is None:
        return TorchWeights(weight_ih, weight_hh, weight_hr=weight_hr)
    if cell != "GRU":
        return TorchWeights(weight_ih, weight_hh, bias, bias * 0, weight_hr)
    bias_ih, bias_hh = (_swap_gates(row, backend) for row in (bias[0], bias[1]))
    return TorchWeights(weight_ih, weight_hh, bias_ih, bias_hh)


def _swap_gates(value: Any, backend: Backend) -> Any:
    """z r n <-> r z n along the first axis."""
    first, second, third = value.reshape(3, -1, *value.shape[1:])
    return backend.concatenate([second, first, third], 0)
