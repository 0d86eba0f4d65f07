"""PyTorch's own kernel with masks folded in, against the plain loop: outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from catalog import CASES, CELLS, GRU_RESET_BEFORE, NOISE, Cell, distance, problem
from lapse import LapseError
from lapse.backends.torch import BACKEND
from lapse.core.masks import Masks
from lapse.core.plan import plan
from lapse.core.weights import TorchWeights, Weights
from lapse.engines import Call, choose, named
from lapse.torch import GRU, LSTM, RNN
from torch_support import masks_of, on_native, reference, results
from torch_support import one_thread as one_thread  # for every test here

DOUBLE = 1e-12
NATIVE = named("native")
# Sites whose masks multiply outside the recurrence; on h only without the axes B and T.
OUTSIDE = ("x", "y", "W", "U")


def folds(noise: Any, cell: Cell) -> bool:
    """Whether all masks stay outside the recurrence, from the text of the terms."""
    if cell == GRU_RESET_BEFORE:
        return False
    terms = plan(noise, cell.name).terms
    return all(t.site in OUTSIDE or (t.site == "h" and not set(t.axes) & set("BT")) for t in terms)


def agree(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert distance(one.detach(), other.detach()) < DOUBLE


FOLDED = [(cell, name) for cell, name in CASES if folds(NOISE[name], cell)]
OTHERS = [case for case in CASES if case not in FOLDED]


@pytest.mark.parametrize(("cell", "name"), FOLDED, ids=[f"{c.id} {n}" for c, n in FOLDED])
@pytest.mark.parametrize(
    ("timesteps", "reverse"), [(1, False), (7, False), (7, True)], ids=["one step", "", "reverse"]
)
def test_it_is_the_plain_loop(cell: Cell, name: str, timesteps: int, reverse: bool) -> None:
    given = problem(cell, batch=3, timesteps=timesteps, features=5, units=7)
    for masks in (masks_of(cell, NOISE[name], given), plan(NOISE[name], cell.name).expected):
        runs = (on_native, reference)
        agree(*(results(r, cell, given, masks, torch.float64, reverse=reverse) for r in runs))


def test_it_says_what_it_can_and_what_not() -> None:
    assert len(FOLDED) > 50 and len(OTHERS) > 50
    for cell, name in CASES:
        given = problem(cell, batch=3, timesteps=7, features=5, units=7)
        weights = Weights(*map(torch.tensor, given.weights[:3]))
        made = plan(NOISE[name], cell.name)
        call = Call(BACKEND, cell.name, torch.tensor(given.x), weights, made, training=True)
        call = call._replace(reset_after=cell.reset_after)
        assert (NATIVE.obstacle(call) is None) == ((cell, name) in FOLDED), f"{cell.id} {name}"
        with_masks = call._replace(masks=as_tensors(masks_of(cell, NOISE[name], given)))
        assert (NATIVE.obstacle(with_masks) is None) == ((cell, name) in FOLDED)
        if (cell, name) in OTHERS:
            with pytest.raises(LapseError, match="engine='native' asks for PyTorch's own kernel"):
                choose(call, "native")


def as_tensors(masks: Masks) -> Masks:
    return Masks(*(mask if mask is None else torch.tensor(mask) for mask in masks))


@pytest.mark.parametrize("cell", [c for c in CELLS if c != GRU_RESET_BEFORE], ids=lambda c: c.id)
@pytest.mark.parametrize("noise", ["", "x:.3@BTF y:.4@BTF U:.2@IO", "h:.3@FG x:.2@BFG"])
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
def test_padding_at_the_end(cell: Cell, noise: str, reverse: bool) -> None:
    given = problem(cell, batch=4, timesteps=9)
    masks = masks_of(cell, noise, given)
    lengths = torch.tensor([9, 1, 4, 6])
    running = torch.arange(9) < lengths[:, None]
    options = {"running": running, "reverse": reverse}
    found = results(on_native, cell, given, masks, torch.float64, **options, lengths=lengths)
    agree(found, results(reference, cell, given, masks, torch.float64, **options))


def test_padding_elsewhere_is_an_obstacle() -> None:
    given = problem(CELLS[0])
    weights = Weights(*map(torch.tensor, given.weights[:3]))
    call = Call(BACKEND, "LSTM", torch.tensor(given.x), weights, plan("", "LSTM"))
    holes = call._replace(running=torch.ones(given.x.shape[:2], dtype=torch.bool))
    assert NATIVE.obstacle(call) is None
    assert NATIVE.obstacle(holes) == "it takes padding as lengths, and the call has a mask"


@pytest.mark.parametrize("ours", [LSTM, GRU, RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_a_single_step_of_modules(ours: type, options: dict[str, Any], batch: int) -> None:
    """Chosen by itself; with and without states, it gives what the plain loop does."""
    layer = ours(7, 5, dtype=torch.float64, **options)
    exact = ours(7, 5, dtype=torch.float64, **options, engine="reference")
    exact.load_state_dict(layer.state_dict())
    x, state = torch.randn(1, batch, 7, dtype=torch.float64), None
    for _ in range(3):
        (y, state), (wanted, last) = layer(x, state), exact(x, state)
        agree([y, *state], [wanted, *last]) if ours is LSTM else agree([y, state], [wanted, last])


@pytest.mark.parametrize("ours", [LSTM, GRU, RNN])
@pytest.mark.parametrize(("shape", "engine"), [((1, 32), "native"), ((9, 1), "cpu")], ids=str)
def test_short_calls_choose_it(ours: type, shape: tuple[int, int], engine: str) -> None:
    layer, (timesteps, batch) = ours(7, 5), shape
    assert layer.choices(batch, timesteps, training=True)[0].engine.name == engine
    with torch.no_grad():
        assert layer.choices(batch, timesteps, training=False)[0].engine.name == engine
        assert layer.choices(batch, 8, training=False)[0].engine.name == "native"
    assert (
        layer.choices(batch, 2, training=True)[0].engine.name == "cpu"
    )  # and its second derivatives
    noisy = ours(7, 5, noise="h:.3@BF")
    assert noisy.choices(batch, 1, training=True)[0].engine.name == "cpu"
    assert noisy.choices(batch, 1, training=False)[0].engine.name == "native"


@pytest.mark.parametrize("ours", [LSTM, GRU, RNN])
def test_second_derivatives_of_one_step(ours: type) -> None:
    """A gradient penalty works whichever engine is chosen."""
    layer, x = ours(7, 5), torch.randn(1, 3, 7, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    first.square().sum().backward()
    found = [x.grad, *(p.grad for p in layer.parameters())]
    layer.engine, x.grad = "reference", None
    layer.zero_grad()
    (first,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
    first.square().sum().backward()
    for one, p in zip(found, [x, *layer.parameters()], strict=True):
        torch.testing.assert_close(one, p.grad, rtol=1e-4, atol=1e-5)


def test_masks_with_gradients_keep_them() -> None:
    given = problem(CELLS[0], timesteps=5)
    x, units = torch.tensor(given.x), given.weights.recurrent_kernel.shape[0]
    weights = Weights(*map(torch.tensor, given.weights[:3]))
    found = []
    for run in (on_native, reference):
        mask = torch.full((1, 1, 4, units), 0.5, dtype=torch.float64, requires_grad=True)
        y, _ = run("LSTM", x, weights, Masks(h=mask))
        (gradient,) = torch.autograd.grad(y.square().sum(), mask)
        found.append(gradient)
    agree(*([one] for one in found))


def test_it_takes_pytorchs_weights_as_they_are() -> None:
    """No gate changes place on the way, so the result is that of nn, bit for bit."""
    stock, x = nn.GRU(7, 5, batch_first=True), torch.randn(3, 4, 7)
    weights = TorchWeights(*stock.parameters())
    call = Call(BACKEND, "GRU", x, weights, plan("", "GRU"))
    y, (last,) = NATIVE.unroll(call, Masks())
    wanted, wanted_last = stock(x)
    assert torch.equal(y, wanted) and torch.equal(last, wanted_last[0])
    assert call.torch_weights() is weights


@pytest.mark.parametrize("ours", [LSTM, GRU, RNN])
def test_lengths_of_an_empty_batch(ours: type) -> None:
    """PyTorch packs no empty batch."""
    layer = ours(7, 5).eval()
    with torch.no_grad():
        y, _ = layer(torch.zeros(2, 0, 7), lengths=torch.zeros(0, dtype=torch.int64))
    assert y.shape == (2, 0, 5)
