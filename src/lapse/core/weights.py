"""Weights between the layouts of Keras, which lapse computes in, and PyTorch.

Keras:    kernel (features, gates*units), recurrent_kernel (units, gates*units), bias;
          GRU gates z r n
PyTorch:  weight_ih (gates*units, features), weight_hh (gates*units, units), bias_ih and bias_hh
          (gates*units,) each; GRU gates r z n

Both functions are differentiable where the arrays are. PyTorch's GRU is the one of `reset_after`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lapse.core.cells import Weights


def from_torch(
    cell: str,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any,
    bias_hh: Any,
    weight_hr: Any = None,
    *,
    concatenate: Callable,
) -> Weights:
    """PyTorch's arrays as `Weights`; both biases None for a layer without.

    Args:
        weight_hr: (projected, units), of an LSTM with `proj_size`.
        concatenate: the arrays' own `concatenate(arrays, axis)`, e.g. `numpy.concatenate`.
    """
    if cell == "GRU":
        weight_ih = _swap_gates(weight_ih, concatenate)
        weight_hh = _swap_gates(weight_hh, concatenate)
    bias = None
    if bias_ih is not None and cell == "GRU":
        rows = [_swap_gates(bias, concatenate)[None] for bias in (bias_ih, bias_hh)]
        bias = concatenate(rows, 0)
    elif bias_ih is not None:
        bias = bias_ih + bias_hh
    projection = None if weight_hr is None else weight_hr.T
    return Weights(weight_ih.T, weight_hh.T, bias, projection)


def to_torch(cell: str, weights: Weights, *, concatenate: Callable) -> tuple[Any, Any, Any, Any]:
    """weight_ih, weight_hh, bias_ih, bias_hh; a single Keras bias goes to bias_ih whole."""
    weight_ih, weight_hh, bias = weights.kernel.T, weights.recurrent_kernel.T, weights.bias
    if cell == "GRU":
        weight_ih = _swap_gates(weight_ih, concatenate)
        weight_hh = _swap_gates(weight_hh, concatenate)
    if bias is None:
        return weight_ih, weight_hh, None, None
    if cell != "GRU":
        return weight_ih, weight_hh, bias, bias * 0
    bias_ih, bias_hh = (_swap_gates(row, concatenate) for row in (bias[0], bias[1]))
    return weight_ih, weight_hh, bias_ih, bias_hh


def _swap_gates(value: Any, concatenate: Callable) -> Any:
    """z r n <-> r z n along the first axis."""
    first, second, third = value.reshape(3, -1, *value.shape[1:])
    return concatenate([second, first, third], 0)
