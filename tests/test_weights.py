"""Weights between Keras's layout and PyTorch's: exact there and back, and meaning the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import catalog
from lapse.backends.torch import BACKEND
from lapse.core.cells import unroll
from lapse.core.numpy_backend import NUMPY
from lapse.core.weights import TorchWeights, Weights, from_torch, to_torch

CELLS = (catalog.LSTM, catalog.GRU, catalog.SIMPLE_RNN)  # those that PyTorch has
MODULES = {"LSTM": nn.LSTM, "GRU": nn.GRU, "SimpleRNN": nn.RNN}
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
in_every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
with_and_without_bias = pytest.mark.parametrize("bias", [True, False])
in_odd_sizes = pytest.mark.parametrize(("features", "units"), [(1, 1), (7, 3), (31, 7), (3, 63)])


def given(cell: catalog.Cell, features: int, units: int, bias: bool) -> Weights:
    return catalog.problem(cell, features=features, units=units, bias=bias).weights


def assert_equal(found: tuple, expected: tuple) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


@in_odd_sizes
@with_and_without_bias
@in_every_cell
def test_from_keras_and_back(cell: catalog.Cell, bias: bool, features: int, units: int) -> None:
    """Train with one, deploy with the other: not a bit may change on the way."""
    weights = given(cell, features, units, bias)
    arrays = to_torch(cell.name, weights, NUMPY)
    shapes = [(cell.gates * units, features), (cell.gates * units, units)]
    shapes += [(cell.gates * units,)] * (2 if bias else 0)
    assert [array.shape for array in arrays if array is not None] == shapes
    assert_equal(from_torch(cell.name, TorchWeights(*arrays), NUMPY), weights)


@in_odd_sizes
@with_and_without_bias
@in_every_cell
def test_from_pytorch_and_back(cell: catalog.Cell, bias: bool, features: int, units: int) -> None:
    """PyTorch has two biases, Keras one: only their sum can come back, but that exactly."""
    random = np.random.default_rng(0)
    rows = cell.gates * units
    arrays = [random.normal(size=(rows, width)) for width in (features, units)]
    arrays += [random.normal(size=rows) if bias else None for _ in range(2)]
    weights = from_torch(cell.name, TorchWeights(*arrays), NUMPY)
    assert isinstance(weights, Weights)
    assert weights.kernel.shape == (features, rows)
    assert weights.recurrent_kernel.shape == (units, rows)
    back = to_torch(cell.name, weights, NUMPY)
    if bias and cell.name != "GRU":
        assert_equal(back[:2], tuple(arrays[:2]))
        assert_equal(back[2:4], (arrays[2] + arrays[3], np.zeros(rows)))
    else:
        assert_equal(back[:4], tuple(arrays))
    assert back.weight_hr is None


def keras_cell(cell: catalog.Cell, x: np.ndarray, weights: Weights, state: tuple) -> np.ndarray:
    """Keras's documented steps: i f c o for LSTM, z r h for GRU with reset_after, by name."""
    kernel, recurrent, bias, _ = weights
    units = recurrent.shape[0]

    def sigmoid(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    for t in range(x.shape[1]):
        h = state[0]
        if cell.name == "GRU":
            input_bias, read_bias = (0, 0) if bias is None else bias
            x_z, x_r, x_h = np.split(x[:, t] @ kernel + input_bias, 3, axis=1)
            h_z, h_r, h_h = np.split(h @ recurrent + read_bias, 3, axis=1)
            z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
            state = (z * h + (1 - z) * np.tanh(x_h + r * h_h),)
            continue
        both = x[:, t] @ kernel + h @ recurrent + (0 if bias is None else bias)
        if cell.name == "SimpleRNN":
            state = (np.tanh(both),)
            continue
        i, f, c, o = (both[:, k * units : (k + 1) * units] for k in range(4))
        carry = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(c)
        state = (sigmoid(o) * np.tanh(carry), carry)
    return np.concatenate(state)


def torch_cell(cell: catalog.Cell, x: np.ndarray, arrays: TorchWeights, state: tuple) -> np.ndarray:
    """PyTorch's module with those arrays."""
    bias = arrays.bias_ih is not None
    module = MODULES[cell.name](x.shape[2], state[0].shape[1], bias=bias, batch_first=True).double()
    named = zip(NAMES, arrays[:4], strict=True)
    module.load_state_dict({k: torch.tensor(v.copy()) for k, v in named if v is not None})
    hx = tuple(torch.tensor(part)[None] for part in state)
    with torch.no_grad():
        _, last = module(torch.tensor(x), hx if cell.name == "LSTM" else hx[0])
    return torch.cat([part[0] for part in (last if cell.name == "LSTM" else (last,))]).numpy()


@in_odd_sizes
@with_and_without_bias
@in_every_cell
def test_both_layouts_compute_the_same(
    cell: catalog.Cell, bias: bool, features: int, units: int
) -> None:
    """Round trips can't see two swapped gates; three computations of one layer can."""
    problem = catalog.problem(cell, features=features, units=units, bias=bias)
    x, weights, state = problem
    by_hand = keras_cell(cell, x, weights, state)
    arrays = to_torch(cell.name, weights, NUMPY)
    tolerance = catalog.TOLERANCE["float64"].values
    assert catalog.distance(torch_cell(cell, x, arrays, state), by_hand) < tolerance
    _, last = unroll(cell.name, x, weights, initial_state=state)
    assert catalog.distance(np.concatenate(last), by_hand) < tolerance


def parameters(module: nn.Module) -> list[torch.Tensor | None]:
    """What `from_torch` takes; both biases None if the module has none."""
    return [getattr(module, name, None) for name in NAMES]


@with_and_without_bias
@in_every_cell
def test_modules_of_pytorch_convert(cell: catalog.Cell, bias: bool) -> None:
    """With PyTorch's own initial weights, whose two biases both count."""
    torch.manual_seed(0)
    module = MODULES[cell.name](7, 5, bias=bias, batch_first=True).double()
    arrays = [None if p is None else p.detach().numpy() for p in parameters(module)]
    weights = from_torch(cell.name, TorchWeights(*arrays), NUMPY)
    x = np.random.default_rng(0).normal(size=(3, 31, 7))
    with torch.no_grad():
        expected, _ = module(torch.tensor(x))
    y, _ = unroll(cell.name, x, weights)
    assert catalog.distance(y, expected.numpy()) < catalog.TOLERANCE["float64"].values


@with_and_without_bias
@in_every_cell
def test_gradients_pass_through(cell: catalog.Cell, bias: bool) -> None:
    """The layers convert at each call: a detached or copied part would never be trained."""
    module = MODULES[cell.name](3, 2, bias=bias).double()
    weights = from_torch(cell.name, TorchWeights(*parameters(module)), BACKEND)
    parts = [part.ravel() for part in weights if part is not None]
    loss = sum((part * torch.arange(1, part.numel() + 1)).sum() for part in parts)
    loss.backward()
    for parameter in parameters(module):
        if parameter is not None:
            values = parameter.grad.ravel().sort().values
            assert (values > 0).all()
            assert len(values.unique()) == len(values)  # each entry has gone to its own place


def test_a_keras_bias_goes_to_one_of_pytorchs_whole() -> None:
    """Split in halves it would come back rounded, and weight decay would see another norm."""
    weights = given(catalog.LSTM, 3, 2, True)
    arrays = to_torch("LSTM", weights, NUMPY)
    np.testing.assert_array_equal(arrays.bias_ih, weights.bias)
    np.testing.assert_array_equal(arrays.bias_hh, np.zeros(8))
