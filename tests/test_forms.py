"""Each published method against its paper's formula, worked by hand on two units and three steps.

The formulas below are written from the papers, per gate and per step, with coins in {0, 1}; only
the coins themselves are lapse's. Rates of forms that scale up are 1/2 and 3/4, where 1 / (1 - rate)
is exact in the masks' float32.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import pickle
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import catalog
import lapse
from lapse.core.cells import unroll
from lapse.core.drawing import draw, draw_rows
from lapse.core.errors import LapseError
from lapse.core.forms import FORMS, Form
from lapse.core.masks import Masks
from lapse.core.noise import collect, parse
from lapse.core.plan import check_rows, expected_rows, plan

BATCH, STEPS, FEATURES, UNITS = 3, 3, 5, 2
LSTM, GRU, GRU_BEFORE, RNN = catalog.CELLS


# The algebra of each form.

TABLE = [
    (lapse.Dropout(0.4), "x:0.4@BTF"),
    (lapse.SpatialDropout(0.4), "x:0.4@BF"),
    (lapse.TimestepDropout(0.4), "x:0.4@BT"),
    (lapse.KerasDropout(0.4), "x:0.4@BF"),
    (lapse.KerasDropout(0.4, 0.3), "x:0.4@BFG h:0.3@BFG"),
    (lapse.Variational(0.4, 0.3, 0.4), "x:0.4@BF h:0.3@BF y:0.4@BF"),
    (lapse.Variational(0.4, 0.3, 0.4, tied=False), "x:0.4@BFG h:0.3@BFG y:0.4@BF"),
    (lapse.RnnDrop(0.4), "c:0.4@BF!exp"),
    (lapse.NoMemoryLoss(0.4), "g:0.4@BTF"),
    (lapse.Zoneout(hidden=0.05, cell=0.5), "c:.5@BTF>prev s:.05@BTF>prev"),
    (lapse.AwdLstm(0.5, 0.4, 0.25), "U:.5@IO x:.4@BF y:.25@BF"),
    (lapse.Gaps(0.4), "x:0.4@BT!none"),
    (lapse.Gaps(0.4, longest=5), "x:0.4@BT[5]!none"),
    (lapse.SkipSteps(0.4), "state:0.4@BT>prev"),
    # Not rows of their own, but parts of rows.
    (lapse.KerasDropout(0.0, 0.3), "h:0.3@BFG"),
    (lapse.NoMemoryLoss(0.4, per_step=False), "g:0.4@BF"),
    (lapse.Zoneout(hidden=0.05), "s:.05@BTF>prev"),
    (lapse.WeightDrop(0.5), "U:0.5@IO"),
    (lapse.Locked(0.4, 0.25), "x:0.4@BF y:0.25@BF"),
    (lapse.EmbeddingDropout(0.1), "emb:0.1@V"),
    (lapse.EmbeddingDropout(0.1, per_sample=True), "emb:0.1@BV"),
]


@pytest.mark.parametrize(("form", "text"), TABLE, ids=lambda value: str(value))
def test_terms(form: Form, text: str) -> None:
    """A form that stands for other terms than its paper's is another method under its name."""
    assert form.terms == parse(text)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_forms_are_values(form: type[Form]) -> None:
    """People compare, print and store forms: each option must show and count, and none move."""
    one = form()
    assert one == form()
    assert hash(one) == hash(form())
    assert one.paper and all(part.strip() for part in one.paper.split(","))
    assert re.search(r"\b20\d\d\b", one.paper)
    options = dataclasses.fields(one)
    shown = ", ".join(f"{field.name}={getattr(one, field.name)!r}" for field in options)
    assert repr(one) == f"{form.__name__}({shown})"
    for field in options:
        other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 + 0.3}
        value = getattr(one, field.name)
        changed = dataclasses.replace(one, **{field.name: other[type(value)](value)})
        assert changed != one
        assert changed.terms != one.terms
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field.name, value)
    assert parse(one.text())
    assert one.__doc__


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_terms_are_made_once(form: type[Form], monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer asks for them at every call, where reading text would take longer than the noise."""
    one = form()
    monkeypatch.delattr(form, "text")
    assert one.terms is one.terms
    for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other == one and other.terms == one.terms


def test_forms_differ_by_type() -> None:
    """Two methods with equal rates are not the same method."""
    assert lapse.Dropout(0.5) != lapse.SpatialDropout(0.5)
    for one, other in itertools.combinations(FORMS, 2):
        assert one() != other()


def test_every_form_is_public() -> None:
    """A form that `import lapse` doesn't offer can't be used as the documentation says."""
    for form in FORMS:
        assert getattr(lapse, form.__name__) is form
    public = [value for value in vars(lapse).values() if isinstance(value, type)]
    assert {value for value in public if issubclass(value, Form)} == {Form, *FORMS}


def test_a_form_must_say_its_terms() -> None:
    """A new form without terms must fail where it is made, and say what is missing."""

    class Unfinished(Form):
        paper = "none"

    with pytest.raises(TypeError, match=r"Unfinished.*text"):
        Unfinished()


def test_rates_of_0_leave_terms_out() -> None:
    """Each part of a form can be switched off by itself."""
    assert lapse.KerasDropout().terms == ()
    assert lapse.Zoneout(0.0, 0.5).terms == parse("c:0.5@BTF>prev")
    assert lapse.Variational(0.0, 0.3, 0.0).terms == parse("h:0.3@BF")
    assert lapse.AwdLstm(0.0, 0.0, 0.25).terms == parse("y:0.25@BF")


def test_keras_masks_are_per_gate_only_with_recurrent_dropout() -> None:
    """Keras 3 ties the input's mask unless there is recurrent dropout; the rule is easily lost."""
    assert "G" not in lapse.KerasDropout(0.5).terms[0].axes
    assert all("G" in term.axes for term in lapse.KerasDropout(0.5, 1e-6).terms)


# Hand-worked steps. P holds one (W, U, b) a gate; xs and hs what each gate reads.


class Hand:
    """A cell by hand: the same weights, taken apart into gates."""

    def __init__(self, cell: catalog.Cell, bias: bool = True) -> None:
        self.cell = cell
        self.problem = catalog.problem(
            cell, batch=BATCH, timesteps=STEPS, features=FEATURES, units=UNITS, bias=bias
        )
        W, U, b, _ = self.problem.weights
        rows = np.atleast_2d(b)
        self.W = [W[:, k * UNITS : (k + 1) * UNITS] for k in range(cell.gates)]
        self.U = [U[:, k * UNITS : (k + 1) * UNITS] for k in range(cell.gates)]
        self.b = [rows[0, k * UNITS : (k + 1) * UNITS] for k in range(cell.gates)]
        self.b_read = [rows[-1, k * UNITS : (k + 1) * UNITS] for k in range(cell.gates)]

    def step(self, xs: list, hs: list, state: tuple, U: list | None = None) -> dict[str, Any]:
        """One noiseless step from what each gate reads; `state` is what is carried."""
        U = self.U if U is None else U
        xW = [x @ W + b for x, W, b in zip(xs, self.W, self.b, strict=True)]
        if self.cell is LSTM:
            i, f, g, o = (a + h @ U_k for a, h, U_k in zip(xW, hs, U, strict=True))
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c = f * state[1] + i * g
            return {"i": i, "f": f, "g": g, "o": o, "c": c, "h": o * np.tanh(c)}
        if self.cell is RNN:
            return {"h": np.tanh(xW[0] + hs[0] @ U[0])}
        if self.cell is GRU:
            z, r, n = (h @ U_k + b for h, U_k, b in zip(hs, U, self.b_read, strict=True))
            z, r = sigmoid(xW[0] + z), sigmoid(xW[1] + r)
            n = np.tanh(xW[2] + r * n)
        else:
            z, r = sigmoid(xW[0] + hs[0] @ U[0]), sigmoid(xW[1] + hs[1] @ U[1])
            n = np.tanh(xW[2] + (r * hs[2]) @ U[2])
        return {"z": z, "r": r, "n": n, "h": z * state[0] + (1 - z) * n}

    def run(self, advance: Callable) -> tuple[np.ndarray, tuple]:
        """`advance(t, x, state)` gives the next state; the outputs are its h."""
        state, outputs = self.problem.state, []
        for t in range(STEPS):
            state = advance(t, self.problem.x[:, t], state)
            outputs.append(state[0])
        return np.stack(outputs, axis=1), state

    def carried(self, step: dict[str, Any]) -> tuple:
        return (step["h"], step["c"]) if self.cell is LSTM else (step["h"],)


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


Coins = dict[str, np.ndarray]


def coins(drawn: Masks) -> Coins:
    """1 where lapse keeps, 0 where it drops, by slot; and no mask may be all one or the other."""
    found = {
        slot: (mask != 0).astype(float)
        for slot, mask in drawn._asdict().items()
        if mask is not None
    }
    for slot, mask in found.items():
        assert 0 < mask.mean() < 1, f"the coins of {slot} are all equal: choose another seed"
    return found


def reads(
    hand: Hand,
    noisy_x: Callable = lambda x, t, k: x,
    noisy_h: Callable = lambda h, t, k: h,
    U: list | None = None,
) -> Callable:
    """Steps whose gates k read noisy x and h, and are otherwise plain."""

    def advance(t: int, x: np.ndarray, state: tuple) -> tuple:
        gates = range(hand.cell.gates)
        xs, hs = [noisy_x(x, t, k) for k in gates], [noisy_h(state[0], t, k) for k in gates]
        return hand.carried(hand.step(xs, hs, state, U))

    return advance


def plain(hand: Hand) -> tuple[np.ndarray, tuple]:
    return hand.run(reads(hand))


# One function a form: the paper's training pass.


def dropout(hand: Hand, form: lapse.Dropout, m: Coins) -> tuple:
    """Zaremba et al.: a fresh coin for each number."""
    return hand.run(reads(hand, lambda x, t, k: x * m["x"][:, t, 0] / (1 - form.rate)))


def spatial(hand: Hand, form: lapse.SpatialDropout, m: Coins) -> tuple:
    """Tompson et al.: one coin a feature map, for all its positions."""
    return hand.run(reads(hand, lambda x, t, k: x * m["x"][:, 0, 0] / (1 - form.rate)))


def timestep(hand: Hand, form: lapse.TimestepDropout, m: Coins) -> tuple:
    """Iyyer et al.: one coin a word, for all its features."""
    assert m["x"].shape == (BATCH, STEPS, 1, 1)
    return hand.run(reads(hand, lambda x, t, k: x * m["x"][:, t, 0] / (1 - form.rate)))


def gaps(hand: Hand, form: lapse.Gaps, m: Coins) -> tuple:
    """Park et al.: masked steps are 0 and the others stay as they are."""
    assert m["x"].shape == (BATCH, STEPS, 1, 1)
    return hand.run(reads(hand, lambda x, t, k: x * m["x"][:, t, 0]))


def keras(hand: Hand, form: lapse.KerasDropout, m: Coins) -> tuple:
    """Keras 3: dp_mask and rec_dp_mask, constant in time; by gate with recurrent dropout."""
    untied = form.recurrent_dropout > 0

    def noisy_x(x: np.ndarray, t: int, k: int) -> np.ndarray:
        if not form.dropout:
            return x
        return x * m["x"][:, 0, k if untied else 0] / (1 - form.dropout)

    def noisy_h(h: np.ndarray, t: int, k: int) -> np.ndarray:
        return h * m["h"][:, 0, k] / (1 - form.recurrent_dropout) if untied else h

    return hand.run(reads(hand, noisy_x, noisy_h))


def variational(hand: Hand, form: lapse.Variational, m: Coins) -> tuple:
    """Gal & Ghahramani: x z_x and h z_h, the same z at every step."""
    y, state = hand.run(
        reads(
            hand,
            lambda x, t, k: x * m["x"][:, 0, 0 if form.tied else k] / (1 - form.inputs),
            lambda h, t, k: h * m["h"][:, 0, 0 if form.tied else k] / (1 - form.recurrent),
        )
    )
    return y * m["y"][:, :, 0] / (1 - form.outputs), state


def rnn_drop(hand: Hand, form: lapse.RnnDrop, m: Coins) -> tuple:
    """Moon et al.: c_t = m (f c + i g), one m a sequence, and h reads the dropped c."""
    np.testing.assert_array_equal(m["i"], m["f"])

    def advance(t: int, x: np.ndarray, state: tuple) -> tuple:
        s = hand.step([x] * 4, [state[0]] * 4, state)
        c = m["i"][:, 0, 0] * s["c"]
        return s["o"] * np.tanh(c), c

    return hand.run(advance)


def no_memory_loss(hand: Hand, form: lapse.NoMemoryLoss, m: Coins) -> tuple:
    """Semeniuta et al.: c = f c + i d(g); h = z h + (1-z) d(n), z in Keras's sign."""

    def advance(t: int, x: np.ndarray, state: tuple) -> tuple:
        gates = hand.cell.gates
        s = hand.step([x] * gates, [state[0]] * gates, state)
        when = t if form.per_step else 0
        if hand.cell is LSTM:
            c = s["f"] * state[1] + s["i"] * (m["g"][:, when, 0] * s["g"])
            return s["o"] * np.tanh(c), c
        return (s["z"] * state[0] + (1 - s["z"]) * (m["n"][:, when, 0] * s["n"]),)

    return hand.run(advance)


def zoneout(hand: Hand, form: lapse.Zoneout, m: Coins) -> tuple:
    """Krueger et al.: d keeps the old value; h is made from the un-zoned c."""

    def advance(t: int, x: np.ndarray, state: tuple) -> tuple:
        gates = hand.cell.gates
        s = hand.step([x] * gates, [state[0]] * gates, state)
        d_h = 1 - m["k_h"][:, t, 0] if form.hidden else 0
        d_c = 1 - m["k_c"][:, t, 0] if form.cell else 0
        h = d_h * state[0] + (1 - d_h) * s["h"]
        if hand.cell is not LSTM:
            return (h,)
        return h, d_c * state[1] + (1 - d_c) * s["c"]

    return hand.run(advance)


def weight_drop(hand: Hand, form: Any, m: Coins) -> tuple:
    """Merity et al.: M U, one mask for all steps and samples."""
    rate = form.rate if isinstance(form, lapse.WeightDrop) else form.weights
    M = m["U"]
    assert M.shape == (UNITS, UNITS * hand.cell.gates)
    columns = [M[:, k * UNITS : (k + 1) * UNITS] for k in range(hand.cell.gates)]
    U = [U_k * M_k / (1 - rate) for U_k, M_k in zip(hand.U, columns, strict=True)]
    if isinstance(form, lapse.WeightDrop):
        return hand.run(reads(hand, U=U))
    y, state = hand.run(reads(hand, lambda x, t, k: x * m["x"][:, 0, 0] / (1 - form.inputs), U=U))
    return y * m["y"][:, :, 0] / (1 - form.outputs), state


def locked(hand: Hand, form: lapse.Locked, m: Coins) -> tuple:
    """Merity et al.: one mask a sequence on what goes in and out."""
    y, state = hand.run(reads(hand, lambda x, t, k: x * m["x"][:, 0, 0] / (1 - form.inputs)))
    return (y * m["y"][:, :, 0] / (1 - form.outputs) if form.outputs else y), state


def skip_steps(hand: Hand, form: lapse.SkipSteps, m: Coins) -> tuple:
    """Krueger et al.: with one coin a step, all of the state is kept."""

    def advance(t: int, x: np.ndarray, state: tuple) -> tuple:
        new = reads(hand)(t, x, state)
        kept = m["k_h"][:, t, 0] == 0
        return tuple(np.where(kept, a, b) for a, b in zip(state, new, strict=True))

    return hand.run(advance)


ALL, GATED, ONLY_LSTM = catalog.CELLS, (LSTM, GRU, GRU_BEFORE), (LSTM,)
BY_HAND: list[tuple[Form, Callable, tuple[catalog.Cell, ...]]] = [
    (lapse.Dropout(0.5), dropout, ALL),
    (lapse.Dropout(0.75), dropout, ALL),
    (lapse.SpatialDropout(0.5), spatial, ALL),
    (lapse.TimestepDropout(0.5), timestep, ALL),
    (lapse.Gaps(0.3), gaps, ALL),
    (lapse.Gaps(0.4, longest=2), gaps, ALL),
    (lapse.KerasDropout(0.5), keras, ALL),
    (lapse.KerasDropout(0.0, 0.5), keras, ALL),
    (lapse.KerasDropout(0.5, 0.75), keras, ALL),
    (lapse.Variational(0.5, 0.75, 0.5), variational, ALL),
    (lapse.Variational(0.5, 0.75, 0.5, tied=False), variational, ALL),
    (lapse.RnnDrop(0.3), rnn_drop, ONLY_LSTM),
    (lapse.NoMemoryLoss(0.3), no_memory_loss, GATED),
    (lapse.NoMemoryLoss(0.3, per_step=False), no_memory_loss, GATED),
    (lapse.Zoneout(hidden=0.3), zoneout, ALL),
    (lapse.Zoneout(hidden=0.3, cell=0.4), zoneout, ONLY_LSTM),
    (lapse.Zoneout(hidden=0.0, cell=0.4), zoneout, ONLY_LSTM),
    (lapse.WeightDrop(0.5), weight_drop, ALL),
    (lapse.AwdLstm(0.5, 0.75, 0.5), weight_drop, ALL),
    (lapse.Locked(0.5), locked, ALL),
    (lapse.Locked(0.5, outputs=0.75), locked, ALL),
    (lapse.SkipSteps(0.4), skip_steps, ALL),
]
HAND_CASES = [(cell, form, formula) for form, formula, cells in BY_HAND for cell in cells]
HAND_IDS = [f"{cell.id} {form}" for cell, form, _ in HAND_CASES]


def test_every_form_is_worked_by_hand() -> None:
    """A form without a formula here is tested by its own terms only."""
    assert {type(form) for form, _, _ in BY_HAND} | {lapse.EmbeddingDropout} == set(FORMS)
    for form, _, cells in BY_HAND:
        assert [cell for cell in ALL if catalog.legal(cell, form)] == list(cells)


@pytest.mark.parametrize(("cell", "form", "formula"), HAND_CASES, ids=HAND_IDS)
def test_training(cell: catalog.Cell, form: Form, formula: Callable) -> None:
    """The cell with the form's masks is the paper's formula with the same coins."""
    hand = Hand(cell)
    frozen = catalog.frozen_masks(cell, form, hand.problem.x, UNITS, seed=_mixed_seed(cell, form))
    x, weights, state = hand.problem
    y, last = unroll(
        cell.name, x, weights, frozen, initial_state=state, reset_after=cell.reset_after
    )
    y_hand, last_hand = formula(hand, form, coins(frozen))
    tolerance = catalog.TOLERANCE["float64"].values
    for found, expected in zip((y, *last), (y_hand, *last_hand), strict=True):
        assert catalog.distance(found, expected) < tolerance
    assert catalog.distance(y, plain(hand)[0]) > 1e-3  # the coins did something


def _mixed_seed(cell: catalog.Cell, noise: Form | str) -> int:
    """The first seed with which no mask is all kept or all dropped."""
    x = np.zeros((BATCH, STEPS, FEATURES))
    for seed in range(100):
        drawn = catalog.frozen_masks(cell, noise, x, UNITS, seed)
        if all(mask is None or 0 < (mask != 0).mean() < 1 for mask in drawn):
            return seed
    raise AssertionError("no seed gives mixed masks")


# At evaluation: inverted forms and gaps are plain; the others are their expectation.


def expected_rnn_drop(hand: Hand, form: lapse.RnnDrop) -> tuple:
    """Moon et al.: at test the cell is multiplied by the keep probability, at every step."""

    def advance(t: int, x: np.ndarray, state: tuple) -> tuple:
        s = hand.step([x] * 4, [state[0]] * 4, state)
        c = (1 - form.rate) * s["c"]
        return s["o"] * np.tanh(c), c

    return hand.run(advance)


def expected_no_memory_loss(hand: Hand, form: lapse.NoMemoryLoss) -> tuple:
    """Semeniuta et al.: at test d(g) = (1 - rate) g."""

    def advance(t: int, x: np.ndarray, state: tuple) -> tuple:
        gates = hand.cell.gates
        s = hand.step([x] * gates, [state[0]] * gates, state)
        if hand.cell is LSTM:
            c = s["f"] * state[1] + s["i"] * (1 - form.rate) * s["g"]
            return s["o"] * np.tanh(c), c
        return (s["z"] * state[0] + (1 - s["z"]) * (1 - form.rate) * s["n"],)

    return hand.run(advance)


def expected_mix(hand: Hand, hidden: float, cell: float) -> tuple:
    """Krueger et al.: rate * old + (1 - rate) * new."""

    def advance(t: int, x: np.ndarray, state: tuple) -> tuple:
        gates = hand.cell.gates
        s = hand.step([x] * gates, [state[0]] * gates, state)
        h = hidden * state[0] + (1 - hidden) * s["h"]
        return (h, cell * state[1] + (1 - cell) * s["c"]) if hand.cell is LSTM else (h,)

    return hand.run(advance)


@pytest.mark.parametrize(("cell", "form", "formula"), HAND_CASES, ids=HAND_IDS)
def test_evaluation(cell: catalog.Cell, form: Form, formula: Callable) -> None:
    """A model is judged and deployed with these constants: they must be the paper's."""
    hand = Hand(cell)
    constants = plan(form, cell.name).expected
    assert all(value is None or isinstance(value, float) for value in constants)
    x, weights, state = hand.problem
    y, last = unroll(
        cell.name, x, weights, constants, initial_state=state, reset_after=cell.reset_after
    )
    if isinstance(form, lapse.RnnDrop):
        expected = expected_rnn_drop(hand, form)
    elif isinstance(form, lapse.NoMemoryLoss):
        expected = expected_no_memory_loss(hand, form)
    elif isinstance(form, lapse.Zoneout):
        expected = expected_mix(hand, form.hidden, form.cell)
    elif isinstance(form, lapse.SkipSteps):
        expected = expected_mix(hand, form.rate, form.rate)
    else:
        assert constants == Masks()
        expected = plain(hand)
    tolerance = catalog.TOLERANCE["float64"].values
    for found, wanted in zip((y, *last), (expected[0], *expected[1]), strict=True):
        assert catalog.distance(found, wanted) < tolerance


def test_h_reads_the_cell_before_its_zoneout() -> None:
    """With the cell held for good, h must still move: it is made from the new, un-zoned c."""
    hand = Hand(LSTM)
    x, weights, state = hand.problem
    y, (_, c) = unroll("LSTM", x, weights, Masks(k_c=np.zeros((1, 1, 1, 1))), initial_state=state)
    np.testing.assert_array_equal(c, state[1])
    step = hand.step([x[:, 0]] * 4, [state[0]] * 4, state)
    assert catalog.distance(y[:, 0], step["o"] * np.tanh(step["c"])) < 1e-12
    assert catalog.distance(y[:, 0], step["o"] * np.tanh(state[1])) > 1e-3


@pytest.mark.parametrize("turn", [1, -1], ids=["mask first", "prev first"])
@pytest.mark.parametrize(
    ("cell", "site"),
    [(cell, site) for cell in catalog.CELLS for site in ("s", "state")] + [(LSTM, "c")],
    ids=str,
)
def test_masks_act_before_prev(cell: catalog.Cell, site: str, turn: int) -> None:
    """Two terms at one site, in either order: what is kept is the old value, and never masked."""
    noise = " ".join([f"{site}:0.4@BF!exp", f"{site}:0.4@BF>prev"][::turn])
    hand = Hand(cell)
    x, weights, state = hand.problem
    x = x[:, :1]
    drawn = catalog.frozen_masks(cell, noise, x, UNITS, seed=_mixed_seed(cell, noise))
    call = {"initial_state": state, "reset_after": cell.reset_after}
    _, found = unroll(cell.name, x, weights, drawn, **call)
    _, new = unroll(cell.name, x, weights, **call)
    masked = [value * 1.0 for value in new]
    gate = drawn.s if cell is not LSTM else drawn.f if site == "c" else drawn.o
    if cell is LSTM and site != "s":
        masked[1] = gate[:, 0, 0] * new[1]
        _, (masked[0], _) = unroll(cell.name, x, weights, Masks(i=gate, f=gate), **call)
    if site != "c":
        masked[0] = gate[:, 0, 0] * masked[0]
    for n, (slot, value) in enumerate(zip(("k_h", "k_c"), found, strict=False)):
        moves = getattr(drawn, slot)
        expected = masked[n] if moves is None else np.where(moves[:, 0, 0], masked[n], state[n])
        assert catalog.distance(value, expected) < catalog.TOLERANCE["float64"].values


def test_tied_and_untied_masks() -> None:
    """Tied: all gates share; untied: each gate its own coins, and the output never by gate."""
    sizes = {"batch": 7, "timesteps": 31, "features": 63, "units": 31}
    tied = draw(plan(lapse.Variational(), "LSTM"), 3, **sizes)
    untied = draw(plan(lapse.Variational(tied=False), "LSTM"), 3, **sizes)
    assert tied.x.shape == (7, 1, 1, 63)
    assert tied.h.shape == (7, 1, 1, 31)
    assert untied.x.shape == (7, 1, 4, 63)
    assert untied.h.shape == (7, 1, 4, 31)
    for mask in (untied.x, untied.h):
        for one, other in itertools.combinations(range(4), 2):
            assert (mask[:, :, one] != mask[:, :, other]).any()
    np.testing.assert_array_equal(tied.y, untied.y)


# Embeddings.


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("rate", [0.5, 0.75])
def test_embedding_dropout(rate: float, per_sample: bool) -> None:
    """Gal & Ghahramani drop word types: every occurrence of a word shares one coin."""
    batch, vocabulary, width = 7, 63, 3
    form = lapse.EmbeddingDropout(rate, per_sample=per_sample)
    rows = draw_rows(form.terms, 5, batch=batch, vocabulary=vocabulary)
    assert rows.shape == (batch if per_sample else 1, vocabulary)
    assert rows.dtype == np.float32
    assert set(np.unique(rows)) == {0.0, 1 / (1 - rate)}
    if per_sample:
        assert len({row.tobytes() for row in rows}) == batch

    random = np.random.default_rng(0)
    table = random.normal(size=(vocabulary, width))
    words = random.integers(vocabulary, size=(batch, 31))
    for b in range(batch):
        coin = rows[b if per_sample else 0] != 0
        by_hand = np.stack([coin[word] * table[word] / (1 - rate) for word in words[b]])
        found = (table * rows[b if per_sample else 0][:, None])[words[b]]
        assert catalog.distance(found, by_hand) < catalog.TOLERANCE["float64"].values


def test_embedding_rows_do_not_depend_on_the_table() -> None:
    """A word keeps its coin when the vocabulary grows or the batch is cut."""
    terms = lapse.EmbeddingDropout(0.4, per_sample=True).terms
    whole = draw_rows(terms, 9, batch=7, vocabulary=63)
    np.testing.assert_array_equal(whole[:3, :31], draw_rows(terms, 9, batch=3, vocabulary=31))


def test_embedding_rows_of_several_terms() -> None:
    """Two terms at emb multiply, each with coins of its own."""
    terms = collect([lapse.EmbeddingDropout(0.5), lapse.EmbeddingDropout(0.5, per_sample=True)])
    both = draw_rows(terms, 9, batch=31, vocabulary=63)
    first = draw_rows(terms[:1], 9, batch=31, vocabulary=63)
    assert both.shape == (31, 63)
    assert set(np.unique(both)) == {0.0, 4.0}
    assert not both[:, first[0] == 0].any()
    assert both[:, first[0] != 0].any(axis=0).all()


@pytest.mark.parametrize("text", ["emb:0.1@V x:0.5@BF", "U:0.5@IO", "h:0.5@BF"])
def test_only_embedding_terms_have_rows(text: str) -> None:
    """Other noise on an embedding table would drop something else than was asked for."""
    check_rows(parse("emb:0.1@V emb:0.2@BV!exp"))
    with pytest.raises(LapseError) as caught:
        check_rows(parse(text))
    assert str(parse(text)[-1]) in str(caught.value)


def test_embedding_rows_at_evaluation() -> None:
    """Rows that are scaled up in training are plain at evaluation; unscaled ones shrink."""
    assert expected_rows(lapse.EmbeddingDropout(0.3).terms) == 1
    assert expected_rows(parse("emb:0.3@V!none")) == 1
    assert expected_rows(parse("emb:0.3@V!exp emb:0.2@BV!exp")) == pytest.approx(0.56)


def test_embedding_rows_without_noise() -> None:
    """A rate of 0 leaves no term: nothing is drawn."""
    assert draw_rows(lapse.EmbeddingDropout(0.0).terms, 0, batch=7, vocabulary=7) is None


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: lapse.KerasDropout(None), "KerasDropout was given dropout=None; write a float"),
        (lambda: lapse.WeightDrop(True), "WeightDrop was given rate=True; write a float"),
        (lambda: lapse.Zoneout(cell=".5"), "Zoneout was given cell='.5'; write a float"),
        (lambda: lapse.Gaps(longest=2.5), "Gaps was given longest=2.5; write an int"),
        (lambda: lapse.Variational(tied=1), "Variational was given tied=1; write a bool"),
        (lambda: lapse.Dropout(math.nan), "rate=nan"),
    ],
)
def test_wrong_kinds_of_values(make: Callable, why: str) -> None:
    with pytest.raises(LapseError, match=re.escape(why)):
        make()


def test_whole_and_numpy_numbers_are_numbers() -> None:
    assert lapse.Zoneout(0, np.float32(0.5)).terms == lapse.Zoneout(0.0, 0.5).terms


@pytest.mark.parametrize("rate", [Fraction(1, 3), np.float64(0.3), np.float32(0.25), 0])
def test_a_rate_of_any_kind_of_number_is_a_number(rate: Any) -> None:
    """The text form, and files of models, have no other kind."""
    form = lapse.KerasDropout(recurrent_dropout=rate)
    assert type(form.recurrent_dropout) is float and form.recurrent_dropout == float(rate)
    assert [term.rate for term in form.terms] == ([float(rate)] if rate else [])


def test_fields_of_another_type_are_refused_in_words() -> None:
    """In a user's own file, types may be classes rather than their names."""
    fields = [("rate", float, 0.5)]
    own = dataclasses.make_dataclass(
        "Own", fields, bases=(Form,), frozen=True,
        namespace={"paper": "none", "text": lambda self: f"x:{self.rate}@BTF"},
    )  # fmt: skip
    assert str(own(0.25).terms[0]) == "x:0.25@BTF"
    named = dataclasses.make_dataclass(
        "Named", [("name", str, "a")], bases=(Form,), frozen=True,
        namespace={"paper": "none", "text": lambda self: ""},
    )  # fmt: skip
    with pytest.raises(LapseError, match="Named has the field name of type str; the fields of a"):
        named()
