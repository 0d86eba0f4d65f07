"""The equations and the loop: against PyTorch, finite differences, and identities on paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import catalog
from lapse.backends.torch import BACKEND
from lapse.core.cells import unroll
from lapse.core.masks import Masks
from lapse.core.noise import collect
from lapse.core.numpy_backend import NUMPY
from lapse.core.plan import plan
from lapse.core.weights import Weights
from torch_support import one_thread  # noqa: F401  for every test here

DOUBLE = catalog.TOLERANCE["float64"]
NO_MASKS = Masks()
MODULES = {"LSTM": nn.LSTM, "GRU": nn.GRU, "SimpleRNN": nn.RNN}
PYTORCHS = (catalog.LSTM, catalog.GRU, catalog.SIMPLE_RNN)
CELL_IDS = [cell.id for cell in catalog.CELLS]
in_every_cell = pytest.mark.parametrize("cell", catalog.CELLS, ids=CELL_IDS)
in_every_case = pytest.mark.parametrize(("cell", "name"), catalog.CASES, ids=catalog.CASE_IDS)


def run(
    cell: catalog.Cell, given: catalog.Problem, drawn: Masks = NO_MASKS, **options: Any
) -> tuple:
    """y, and the parts of the last state."""
    y, last = unroll(
        cell.name,
        given.x,
        given.weights,
        drawn,
        initial_state=given.state,
        reset_after=cell.reset_after,
        **options,
    )
    return y, *last


def as_torch(value: Any, grad: bool = False) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple):
        parts = [as_torch(part, grad) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return torch.tensor(value, requires_grad=grad)


def assert_close(found: tuple, expected: tuple, tolerance: float = DOUBLE.values) -> None:
    for one, other in zip(found, expected, strict=True):
        one, other = (v.detach() if isinstance(v, torch.Tensor) else v for v in (one, other))
        assert catalog.distance(one, other) < tolerance


def assert_apart(found: tuple, plain: tuple, what: str) -> None:
    apart = max(catalog.distance(a, b) for a, b in zip(found, plain, strict=True))
    assert apart > 1e-4, f"{what} changes nothing"


def native(cell: catalog.Cell, given: catalog.Problem) -> nn.Module:
    """PyTorch's own module with the weights of a problem, its gate order written out here."""
    features, units = given.x.shape[2], given.state[0].shape[1]
    W, U, b, _ = given.weights
    module = MODULES[cell.name](features, units, bias=b is not None, batch_first=True).double()
    order = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "SimpleRNN": (0,)}[cell.name]

    def rows(value: np.ndarray) -> torch.Tensor:
        parts = [value[..., k * units : (k + 1) * units] for k in order]
        return torch.tensor(np.concatenate(parts, axis=-1).T.copy())

    arrays = {"weight_ih_l0": rows(W), "weight_hh_l0": rows(U)}
    if b is not None:
        split = (b[0], b[1]) if b.ndim == 2 else (b, np.zeros_like(b))
        arrays |= {"bias_ih_l0": rows(split[0]), "bias_hh_l0": rows(split[1])}
    module.load_state_dict(arrays)
    return module


# Without noise: PyTorch's modules.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", catalog.ODD_SIZES)
@pytest.mark.parametrize("cell", PYTORCHS, ids=lambda cell: cell.id)
def test_plain_cells_are_pytorchs(cell: catalog.Cell, size: int, bias: bool) -> None:
    """The oracle of everything else: a wrong gate here would be called right everywhere."""
    given = catalog.problem(
        cell, batch=size, timesteps=7, features=size, units=max(size // 2, 1), bias=bias
    )
    hx = tuple(torch.tensor(part)[None] for part in given.state)
    y, last = native(cell, given)(torch.tensor(given.x), hx if cell.name == "LSTM" else hx[0])
    last = last if cell.name == "LSTM" else (last,)
    assert_close(run(cell, given), (y, *(part[0] for part in last)))


@pytest.mark.parametrize("timesteps", [1, 31, 63])
@pytest.mark.parametrize("cell", PYTORCHS, ids=lambda cell: cell.id)
def test_gradients_are_pytorchs(cell: catalog.Cell, timesteps: int) -> None:
    """The same lines on tensors: all gradients, through all steps, as nn's own backward."""
    given = catalog.problem(cell, batch=7, timesteps=timesteps, features=5, units=3)
    random = torch.Generator().manual_seed(0)
    to_y = torch.randn(7, timesteps, 3, generator=random, dtype=torch.float64)
    to_last = torch.randn(7, 3, generator=random, dtype=torch.float64)

    module = native(cell, given)
    x, hx = torch.tensor(given.x, requires_grad=True), as_torch(given.state, grad=True)
    stacked = tuple(part[None] for part in hx)
    y, last = module(x, stacked if cell.name == "LSTM" else stacked[0])
    last = last[1] if cell.name == "LSTM" else last
    expected = torch.autograd.grad((y * to_y).sum() + (last[0] * to_last).sum(), (x, *hx))

    problem = as_torch(given, grad=True)
    y, *last = run(cell, problem, backend=BACKEND)
    loss = (y * to_y).sum() + (last[-1] * to_last).sum()
    found = torch.autograd.grad(loss, (problem.x, *problem.state))
    assert_close(found, expected, DOUBLE.gradients)


def test_sigmoid_does_not_overflow() -> None:
    """Large negative gates are common after training; NumPy's exp would warn and give inf."""
    with np.errstate(all="raise"):
        found = NUMPY.sigmoid(np.array([-1e4, -40.0, 0.0, 40.0, 1e4]))
    np.testing.assert_allclose(found, [0, 4.248354255291589e-18, 0.5, 1, 1], atol=1e-16)


@in_every_cell
def test_states_default_to_zero(cell: catalog.Cell) -> None:
    """Without an initial state the first step reads zeros."""
    given = catalog.problem(cell)
    zeros = given._replace(state=tuple(np.zeros_like(part) for part in given.state))
    y, last = unroll(cell.name, given.x, given.weights, reset_after=cell.reset_after)
    for one, other in zip((y, *last), run(cell, zeros), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_two_grus_differ() -> None:
    """With `reset_after` ignored, all else would still agree with itself."""
    given = catalog.problem(catalog.GRU, bias=False)
    after, before = run(catalog.GRU, given), run(catalog.GRU_RESET_BEFORE, given)
    assert catalog.distance(after[0], before[0]) > 1e-3


# With noise: two libraries, and gradients.


@in_every_case
def test_numpy_and_torch_agree(cell: catalog.Cell, name: str) -> None:
    """The same lines on two libraries; what differs in `Backend` shows here."""
    given = catalog.problem(cell, batch=3, timesteps=5)
    drawn = catalog.frozen_masks(cell, catalog.NOISE[name], given.x, units=3)
    found = run(cell, as_torch(given), as_torch(drawn), backend=BACKEND)
    assert_close(found, run(cell, given, drawn))


@in_every_case
def test_gradients_against_finite_differences(cell: catalog.Cell, name: str) -> None:
    """Every entry of every gradient, for frozen masks: x, weights, bias and initial state."""
    given = catalog.problem(cell, batch=2, timesteps=3, features=2, units=2)
    drawn = catalog.frozen_masks(cell, catalog.NOISE[name], given.x, units=2, seed=3)
    random = np.random.default_rng(1)
    outputs = run(cell, given, drawn)
    towards = [random.normal(size=part.shape) for part in outputs]

    problem = as_torch(given, grad=True)
    tensors = (problem.x, *problem.weights[:3], *problem.state)
    results = run(cell, problem, as_torch(drawn), backend=BACKEND)
    loss = sum((a * torch.tensor(b)).sum() for a, b in zip(results, towards, strict=True))
    found = torch.autograd.grad(loss, tensors)

    def value() -> float:
        results = run(cell, given, drawn)
        return float(sum((a * b).sum() for a, b in zip(results, towards, strict=True)))

    step = 1e-5
    for array, gradient in zip((given.x, *given.weights[:3], *given.state), found, strict=True):
        expected = np.empty_like(array)
        for at in np.ndindex(array.shape):
            kept = array[at]
            array[at] = kept + step
            above = value()
            array[at] = kept - step
            expected[at] = (above - value()) / (2 * step)
            array[at] = kept
        error = np.linalg.norm(gradient.numpy() - expected)
        assert error <= DOUBLE.differences * max(np.linalg.norm(expected), 1e-3)


@in_every_case
def test_each_noise_changes_the_output(cell: catalog.Cell, name: str) -> None:
    """A mask that is drawn and not used is a silent no-op: each slot must count by itself."""
    given = catalog.problem(cell, batch=7, timesteps=7, features=7, units=7)
    drawn = catalog.frozen_masks(cell, catalog.NOISE[name], given.x, units=7)
    plain = run(cell, given)
    assert_apart(run(cell, given, drawn), plain, "the noise")
    for slot, mask in drawn._asdict().items():
        if mask is not None:
            assert_apart(run(cell, given, Masks(**{slot: mask})), plain, f"the mask of {slot}")


@in_every_case
def test_evaluation_is_what_constant_masks_give(cell: catalog.Cell, name: str) -> None:
    """Numbers and arrays take different lines in the loop; both must mean the same."""
    given = catalog.problem(cell)
    constants = plan(catalog.NOISE[name], cell.name).expected
    arrays = Masks(
        **{
            slot: np.full((1, 1) if slot in "WU" else (1, 1, 1, 1), value)
            for slot, value in constants._asdict().items()
            if value is not None
        }
    )
    assert_close(run(cell, given, constants), run(cell, given, arrays))
    terms = collect(catalog.NOISE[name])
    if all(term.fill != "prev" and term.scale != "exp" for term in terms):
        for one, other in zip(run(cell, given, constants), run(cell, given), strict=True):
            np.testing.assert_array_equal(one, other)
    else:
        assert_apart(run(cell, given, constants), run(cell, given), "evaluation")


@in_every_cell
def test_rate_0_is_no_noise(cell: catalog.Cell) -> None:
    """Bit for bit: a layer with its rates set to 0 is the plain layer."""
    given = catalog.problem(cell)
    texts = ("x:0@BTF h:0@BFG y:0@BF W:0@IO U:0@IO s:0@BTF>prev state:0@BT>prev", "x:0@BT[3]!none")
    for text in texts:
        drawn = catalog.frozen_masks(cell, text, given.x, units=3)
        assert drawn == Masks()
        for one, other in zip(run(cell, given, drawn), run(cell, given), strict=True):
            np.testing.assert_array_equal(one, other)


@in_every_case
def test_masks_of_one_change_nothing(cell: catalog.Cell, name: str) -> None:
    """Noise that happens to drop nothing, in every slot that this noise fills."""
    given = catalog.problem(cell)
    drawn = catalog.frozen_masks(cell, catalog.NOISE[name], given.x, units=3)
    ones = Masks(*(None if mask is None else np.ones_like(mask) for mask in drawn))
    assert_close(run(cell, given, ones), run(cell, given))


# Padding.


def padded(cell: catalog.Cell, name: str, side: str) -> tuple:
    """A problem, its masks, and which steps run: lengths 7, 1, 4 of 7, with NaN in the padding."""
    given = catalog.problem(cell, batch=3, timesteps=7)
    drawn = catalog.frozen_masks(cell, catalog.NOISE[name], given.x, units=3)
    running = np.zeros((3, 7), dtype=bool)
    for row, length in zip(running, (7, 1, 4), strict=True):
        row[slice(None, length) if side == "right" else slice(7 - length, None)] = True
    return given._replace(x=np.where(running[..., None], given.x, np.nan)), drawn, running


def sequence(given: catalog.Problem, b: int, steps: np.ndarray) -> catalog.Problem:
    """One sequence alone, with some of its steps."""
    state = tuple(part[b : b + 1] for part in given.state)
    return catalog.Problem(given.x[b : b + 1, steps], given.weights, state)


def assert_sequence(found: tuple, b: int, steps: np.ndarray, alone: tuple) -> None:
    """Outputs at those steps and last states are those of the sequence alone."""
    y, *last = found
    assert_close((y[b : b + 1, steps], *(part[b : b + 1] for part in last)), alone)


def rows_of(mask: Any, slot: str, b: int, steps: np.ndarray) -> Any:
    """The mask of one sample at its real steps."""
    if mask is None or slot in "WU":
        return mask
    mask = mask if mask.shape[0] == 1 else mask[b : b + 1]
    return mask if mask.shape[1] == 1 else mask[:, steps]


@pytest.mark.parametrize("side", ["right", "left"])
@in_every_case
def test_padding_takes_no_part(cell: catalog.Cell, name: str, side: str) -> None:
    """Each sequence as if it were alone; NaN in the padding reaches neither outputs nor states."""
    given, drawn, running = padded(cell, name, side)
    found = run(cell, given, drawn, running=running)
    assert np.isfinite(found[0]).all()
    for b in range(3):
        steps = np.flatnonzero(running[b])
        own = Masks(*(rows_of(mask, slot, b, steps) for slot, mask in drawn._asdict().items()))
        assert_sequence(found, b, steps, run(cell, sequence(given, b, steps), own))


@in_every_cell
def test_padding_holds_state_and_output(cell: catalog.Cell) -> None:
    """As in Keras: a padded step repeats the last output, dropped as it was; at first that is 0."""
    given = catalog.problem(cell, batch=1, timesteps=7)
    drawn = catalog.frozen_masks(cell, "y:0.5@BTF", given.x, units=3)
    running = np.array([[False, False, True, True, False, True, False]])
    y, *last = run(cell, given, drawn, running=running)
    np.testing.assert_array_equal(y[0, :2], np.zeros((2, 3)))
    np.testing.assert_array_equal(y[0, 4], y[0, 3])
    np.testing.assert_array_equal(y[0, 6], y[0, 5])
    assert (y[0, 5] != y[0, 3]).any()
    steps = np.flatnonzero(running[0])
    plain_y, *plain_last = run(cell, sequence(given, 0, steps))
    assert_close((y[:, steps], *last), (plain_y * drawn.y[:, steps, 0], *plain_last))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["x:0.5@BTF", "h:0.5@BTFG", "s:0.3@BTF>prev", "y:0.5@BTF"])
@in_every_cell
def test_gradients_of_padding(cell: catalog.Cell, name: str, side: str) -> None:
    """One NaN in one padded step would turn every weight's gradient into NaN."""
    given, drawn, running = padded(cell, name, side)

    def gradients(x: np.ndarray) -> tuple:
        problem = as_torch(given._replace(x=x), grad=True)
        tensors = (problem.x, *problem.weights[:3], *problem.state)
        y, *last = run(
            cell, problem, as_torch(drawn), backend=BACKEND, running=torch.tensor(running)
        )
        real = y[torch.tensor(running)]
        loss = (real**2).sum() + sum((part**2).sum() for part in last)
        return torch.autograd.grad(loss, tensors)

    found = gradients(given.x)
    assert (found[0][torch.tensor(~running)] == 0).all()
    assert_close(found, gradients(np.nan_to_num(given.x, nan=1e3)), DOUBLE.gradients)
    assert all((part != 0).any() for part in found)


# Identities on paper.


def draws(cell: catalog.Cell, text: str, given: catalog.Problem) -> Masks:
    return catalog.frozen_masks(cell, text, given.x, units=given.state[0].shape[1])


def test_zoneout_of_the_cell_is_gate_noise() -> None:
    """c: f' = d + (1-d) f and i' = (1-d) i, while h reads the un-zoned c."""
    given = catalog.problem(catalog.LSTM, batch=7, timesteps=7)
    drawn = draws(catalog.LSTM, "c:0.4@BTF>prev", given)
    W, U, b, _ = given.weights
    h, c = given.state
    outputs = []
    for t in range(7):
        i, f, g, o = np.split(given.x[:, t] @ W + b + h @ U, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
        d = 1 - drawn.k_c[:, t, 0]
        h = o * np.tanh(f * c + i * np.tanh(g))
        c = (d + (1 - d) * f) * c + (1 - d) * i * np.tanh(g)
        outputs.append(h)
    assert_close(run(catalog.LSTM, given, drawn), (np.stack(outputs, 1), h, c))


@pytest.mark.parametrize("cell", [catalog.GRU, catalog.GRU_RESET_BEFORE], ids=lambda c: c.id)
def test_zoneout_of_a_gru_is_gate_noise(cell: catalog.Cell) -> None:
    """z' = d + (1-d) z: as if the masks of z came from outside, (d + (1-d) z) / z."""
    given = catalog.problem(cell, batch=7, timesteps=1)
    drawn = draws(cell, "s:0.4@BTF>prev", given)
    W, U, b, _ = given.weights
    b = b if b.ndim == 2 else np.stack([b, np.zeros_like(b)])
    z = given.x[:, 0] @ W + b[0] + given.state[0] @ U + b[1]
    z = 1 / (1 + np.exp(-np.split(z, 3, axis=1)[0]))
    d = 1 - drawn.k_h[:, 0, 0]
    as_gate = Masks(z=((d + (1 - d) * z) / z)[:, None, None])
    assert_close(run(cell, given, drawn), run(cell, given, as_gate))


@in_every_cell
def test_skipping_steps_is_deleting_them(cell: catalog.Cell) -> None:
    """`state:p@BT>prev`: with the skipped steps cut out, the end is the same."""
    given = catalog.problem(cell, batch=7, timesteps=31)
    drawn = draws(cell, "state:0.5@BT>prev", given)
    found = run(cell, given, drawn)
    for b in range(7):
        steps = np.flatnonzero(drawn.k_h[b, :, 0, 0])
        assert 0 < len(steps) < 31
        assert_sequence(found, b, steps, run(cell, sequence(given, b, steps)))


def test_rnn_drop_is_one_mask_on_the_cell() -> None:
    """m (f c + i g) = (m f) c + (m i) g: the term at c fills the slots of i and f."""
    given = catalog.problem(catalog.LSTM, batch=7, timesteps=7)
    drawn = draws(catalog.LSTM, "c:0.4@BTF!exp", given)
    W, U, b, _ = given.weights
    h, c = given.state
    outputs = []
    for t in range(7):
        i, f, g, o = np.split(given.x[:, t] @ W + b + h @ U, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-a)) for a in (i, f, o))
        c = drawn.i[:, t, 0] * (f * c + i * np.tanh(g))
        h = o * np.tanh(c)
        outputs.append(h)
    assert_close(run(catalog.LSTM, given, drawn), (np.stack(outputs, 1), h, c))
    only_one = run(catalog.LSTM, given, Masks(f=drawn.f))
    assert_apart(run(catalog.LSTM, given, drawn), only_one, "the mask of i")


def test_dropping_i_is_dropping_g() -> None:
    """Semeniuta's masked product is the same whichever factor is named."""
    given = catalog.problem(catalog.LSTM, batch=7, timesteps=7)
    drawn = draws(catalog.LSTM, "g:0.4@BTF", given)
    assert_close(run(catalog.LSTM, given, drawn), run(catalog.LSTM, given, Masks(i=drawn.g)))


def test_dropping_s_of_an_lstm_is_dropping_o() -> None:
    """The LSTM's h is o tanh(c), read and emitted with one mask."""
    given = catalog.problem(catalog.LSTM, batch=7, timesteps=7)
    drawn = draws(catalog.LSTM, "s:0.4@BTF", given)
    y, h, c = run(catalog.LSTM, given, drawn)
    np.testing.assert_array_equal(y == 0, drawn.o[:, :, 0] == 0)
    np.testing.assert_array_equal(h, y[:, -1])
    assert (c != 0).all()


@in_every_cell
def test_rows_of_a_weight_are_units_of_its_input(cell: catalog.Cell) -> None:
    """`U:p@I` = `h:p@F` and `W:p@I` = `x:p@F`: rule 5's way out says so."""
    given = catalog.problem(cell, batch=7, timesteps=7)
    drawn = draws(cell, "U:0.4@I W:0.4@I", given)
    on_reads = Masks(h=drawn.U.reshape(1, 1, 1, -1), x=drawn.W.reshape(1, 1, 1, -1))
    assert_close(run(cell, given, drawn), run(cell, given, on_reads))


@in_every_cell
def test_tied_masks_are_equal_untied_ones(cell: catalog.Cell) -> None:
    """One mask for all gates and the same mask once a gate take different lines of the loop."""
    given = catalog.problem(cell, batch=7, timesteps=7)
    for over in ("BF", "BTF"):
        drawn = draws(cell, f"h:0.4@{over} x:0.4@{over}", given)
        untied = Masks(
            h=np.repeat(drawn.h, cell.gates, axis=2), x=np.repeat(drawn.x, cell.gates, axis=2)
        )
        assert_close(run(cell, given, drawn), run(cell, given, untied))


@in_every_case
def test_shared_masks_are_their_copies(cell: catalog.Cell, name: str) -> None:
    """A mask of size 1 along an axis means the same as that mask repeated along it."""
    given = catalog.problem(cell, batch=3, timesteps=5)
    drawn = catalog.frozen_masks(cell, catalog.NOISE[name], given.x, units=3)
    full = {}
    for slot, mask in drawn._asdict().items():
        if mask is None:
            continue
        if slot in "WU":
            shape: tuple = (4 if slot == "W" else 3, 3 * cell.gates)
        else:
            gates = cell.gates if slot in "xh" else 1
            shape = (3, 5, gates, 4 if slot == "x" else 3)
        full[slot] = np.broadcast_to(mask, shape)
    assert_close(run(cell, given, drawn), run(cell, given, Masks(**full)))


@pytest.mark.parametrize("slot", ["x", "h", "y"])
@in_every_cell
def test_what_reads_which_mask(cell: catalog.Cell, slot: str) -> None:
    """Dropping all of x is zeros for x; all of h unlinks the steps; y leaves the state alone."""
    given = catalog.problem(cell, batch=3, timesteps=5)
    y, *last = run(cell, given, Masks(**{slot: np.zeros((1, 1, 1, 1))}))
    if slot == "x":
        expected = run(cell, given._replace(x=np.zeros_like(given.x)))
        assert_close((y, *last), expected)
    elif slot == "h":
        W, U, b, _ = given.weights
        unlinked = given._replace(weights=Weights(W, np.zeros_like(U), b))
        assert_close((y, *last), run(cell, unlinked))
    else:
        assert (y == 0).all()
        assert_close(tuple(last), run(cell, given)[1:])


def test_masks_of_other_timesteps_are_refused() -> None:
    """Masks for other timesteps than the input's must not be cut or repeated in silence."""
    given = catalog.problem(catalog.LSTM, batch=3, timesteps=5)
    longer = catalog.problem(catalog.LSTM, batch=3, timesteps=6)
    for text in ("h:0.4@BTF", "x:0.4@BTF", "y:0.4@BTF"):
        with pytest.raises(ValueError, match=r"argument|broadcast|shape"):
            run(catalog.LSTM, given, draws(catalog.LSTM, text, longer))
