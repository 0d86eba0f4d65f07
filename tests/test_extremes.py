"""Numbers at the ends: activations that saturate, and states far larger than the new ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from catalog import CELLS, Cell, problem
from lapse.backends import callbacks
from lapse.core import cells
from lapse.core.masks import Masks
from lapse.core.plan import STATES
from lapse.core.weights import Weights
from lapse.engines.arrays import Flags, Inputs
from lapse.engines.cpu import pointers
from lapse.engines.cpu.loading import extension
from lapse.torch import GRU, LSTM
from torch_support import on_cpu, reference

LSTM_CELL = CELLS[0]
CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
ISA = pytest.mark.parametrize("isa", extension().instruction_sets() if extension() else ["none"])
pytestmark = pytest.mark.skipif(extension() is None, reason="installed without a C++ compiler")


def numbers() -> np.ndarray:
    """Every 4099th of all floats, and those between which tanh and sigmoid turn."""
    words = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32)
    some = words.view(np.float32)
    return np.concatenate([some[np.isfinite(some)], np.linspace(-20, 20, 400_001, dtype="f")])


def activations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sigmoid and tanh of numbers, as an LSTM of one unit computes its gates."""
    nothing = np.zeros((len(x), 1), np.float32)
    inputs = Inputs(
        x=np.asarray(x, np.float32)[:, None, None],
        kernel=np.ones((1, 4), np.float32),
        recurrent_kernel=np.zeros((1, 4), np.float32),
        bias=None,
        h0=nothing,
        c0=nothing,
        running=None,
        x_mask=None,
        h_mask=None,
        slots=[None] * 8,
    )
    gates = callbacks.Forward("cpu", Flags("LSTM", True, False), (1.0,) * 10)(inputs).saved[0]
    return gates[:, 0], gates[:, 2]


@pytest.fixture
def on(isa: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pointers, "instruction_set", lambda: isa)
    yield


@ISA
@pytest.mark.usefixtures("on")
class TestActivations:
    def test_they_are_within_1e_7_everywhere(self) -> None:
        x = numbers()
        sigmoid, tanh = activations(x)
        exact = x.astype(np.float64)
        assert np.abs(tanh - np.tanh(exact)).max() <= 1e-7
        assert np.abs(sigmoid - (0.5 + 0.5 * np.tanh(exact / 2))).max() <= 1e-7

    def test_small_numbers_keep_their_digits(self) -> None:
        x = numbers()
        x = x[(np.abs(x) < 1) & (np.abs(x) > 1e-37)]
        _, tanh = activations(x)
        np.testing.assert_allclose(tanh, np.tanh(x.astype(np.float64)), rtol=3e-7)

    def test_they_reach_their_ends_and_stay_there(self) -> None:
        x = np.array([10, 20, 88, 89, 1e6, 3e38, np.inf], np.float32)
        sigmoid, tanh = activations(x)
        assert (tanh == 1).all() and (sigmoid[1:] == 1).all()
        sigmoid, tanh = activations(-x)
        assert (tanh == -1).all() and (sigmoid[3:] == 0).all()

    def test_what_is_not_a_number_stays_so(self) -> None:
        for one in activations(np.array([np.nan, 1.0], np.float32)):
            assert np.isnan(one[0]) and np.isfinite(one[1])

    def test_a_gate_that_is_wide_open_leaks_nothing(self) -> None:
        steps = 100_000
        layer = open_gate()
        with torch.no_grad():
            _, (_, c) = layer(torch.zeros(steps, 1, 1), (torch.zeros(1, 1, 3), ones(1, 1, 3)))
        assert torch.equal(c, ones(1, 1, 3))

    def test_saturated_units_have_no_gradient(self) -> None:
        """A derivative of 5e-7 times inputs of 1e6 would drown those of the other units."""
        torch.manual_seed(0)
        layer = GRU(5, 7, engine="cpu")
        x = torch.randn(9, 3, 5)
        x[:, 1] *= 1e6
        exact = GRU(5, 7, engine="reference").double()
        exact.load_state_dict(layer.state_dict())
        for one, values in ((layer, x), (exact, x.double())):
            one(values)[0].sum().backward()
        for found, expected in zip(layer.parameters(), exact.parameters(), strict=True):
            assert found.grad is not None and expected.grad is not None
            torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-3, atol=1e-3)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape)


def open_gate() -> LSTM:
    """It remembers c: the forget gate is open, the input gate is shut."""
    layer = LSTM(1, 3, engine="cpu")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.bias_ih_l0[:3], layer.bias_ih_l0[3:6] = -1000, 20
    return layer


def coins(units: int) -> np.ndarray:
    random = np.random.default_rng(3)
    return random.integers(0, 2, (3, 1, 1, units)).astype(np.float32)


def unrolled(run: Any, cell: Cell, given: Any, state: tuple, masks: Masks) -> list[np.ndarray]:
    """The last states after one step in float32."""
    make = np.asarray if run is cells.unroll else torch.tensor

    def single(array: Any) -> Any:
        return None if array is None else make(np.asarray(array, np.float32))

    with np.errstate(invalid="ignore"):  # NumPy says where it meets 0 * infinity
        _, last = run(
            cell.name,
            single(given.x),
            Weights(*map(single, given.weights)),
            Masks(*(single(mask) if isinstance(mask, np.ndarray) else mask for mask in masks)),
            initial_state=tuple(map(single, state)),
            reset_after=cell.reset_after,
        )
    return [np.asarray(part) for part in last]


RUN = pytest.mark.parametrize(
    "run", [on_cpu, reference, cells.unroll], ids=["kernel", "PyTorch", "NumPy"]
)


@RUN
@CELL
@pytest.mark.parametrize("units", [3, 31])
def test_a_coin_takes_one_of_two_states_as_it_is(run: Any, cell: Cell, units: int) -> None:
    """The old one is far larger: their difference has lost the new one."""
    given = problem(cell, timesteps=1, units=units)
    state = tuple(1e6 * part for part in given.state)
    kept = coins(units)
    last = 1 if cell.name == "LSTM" else 0
    masks = Masks(k_c=kept) if cell.name == "LSTM" else Masks(k_h=kept)
    new = unrolled(run, cell, given, state, Masks())[last]
    found = unrolled(run, cell, given, state, masks)[last]
    expected = np.where(kept[:, 0, 0] == 1, new, state[last].astype(np.float32))
    np.testing.assert_array_equal(found, expected)


@RUN
def test_zoneout_of_h_leaves_c_as_it_is(run: Any) -> None:
    given = problem(LSTM_CELL, timesteps=1)
    state = (given.state[0], 1e6 * given.state[1])
    new = unrolled(run, LSTM_CELL, given, state, Masks())[1]
    found = unrolled(run, LSTM_CELL, given, state, Masks(k_h=coins(3)))[1]
    np.testing.assert_array_equal(found, new)


@RUN
@pytest.mark.parametrize("slot", ["k_c", "k_h"])
def test_an_infinite_cell_stays_infinite_and_no_more(run: Any, slot: str) -> None:
    """The difference of two infinities is not a number."""
    given = problem(LSTM_CELL, timesteps=1)
    state = (given.state[0], np.full((3, 3), np.inf))
    h, c = unrolled(run, LSTM_CELL, given, state, Masks(**{slot: coins(3)}))
    assert np.isposinf(c).all() and np.isfinite(h).all()


@RUN
@CELL
def test_an_expectation_lies_between(run: Any, cell: Cell) -> None:
    given = problem(cell, timesteps=1)
    masks = Masks(k_h=0.75)
    new = unrolled(run, cell, given, given.state, Masks())[0]
    found = unrolled(run, cell, given, given.state, masks)[0]
    np.testing.assert_allclose(found, 0.25 * given.state[0] + 0.75 * new, rtol=1e-6, atol=1e-7)


@CELL
def test_a_coin_that_is_given_has_a_gradient(cell: Cell) -> None:
    """As straight-through estimators need it: 0 and 1 forward, a number between backward."""
    given = problem(cell, timesteps=1)
    kept = torch.tensor(coins(3), dtype=torch.float64, requires_grad=True)
    weights = Weights(*(None if w is None else torch.tensor(w) for w in given.weights))

    def last(mask: Any) -> Tensor:
        _, state = reference(
            cell.name,
            torch.tensor(given.x),
            weights,
            Masks(k_h=mask),
            initial_state=tuple(map(torch.tensor, given.state)),
            reset_after=cell.reset_after,
        )
        return state[0]

    assert len(given.state) == STATES[cell.name]
    last(kept).sum().backward()
    assert kept.grad is not None
    expected = last(None) - torch.tensor(given.state[0])
    torch.testing.assert_close(kept.grad[:, 0, 0], expected)
