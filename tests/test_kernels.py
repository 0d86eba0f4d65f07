"""The C++ kernels against the plain loop in float64: outputs and every gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from catalog import CASE_IDS, CASES, CELLS, NOISE, Cell, distance, frozen_masks, problem, quiet_plan
from lapse import LapseError, cells
from lapse import masks as drawing
from lapse.cells import Weights
from lapse.kernels import choose, dispatch
from lapse.kernels.cpu import extension, instruction_set
from lapse.plan import Masks
from lapse.torch import GRU, LSTM, fused, ops
from lapse.torch.plain import LIBRARY

RUN = [(cell, name) for cell, name in CASES if cell.reset_after]
RUN_IDS = [case for (cell, _), case in zip(CASES, CASE_IDS, strict=True) if cell.reset_after]
KERNEL_CELLS = [cell for cell in CELLS if cell.reset_after]
CELL = pytest.mark.parametrize("cell", KERNEL_CELLS, ids=lambda cell: cell.id)
TOLERANCE = 1e-5  # float32 against float64, relative to the largest entry or to 1

# Every slot of each cell, in all shapes of masks.
EVERYTHING = {
    "LSTM": "x:0.2@BFG h:0.2@BFG i:0.2@BTF f:0.2@BF g:0.2@BT o:0.2@F c:0.2@BTF>prev s:0.2@BT>prev",
    "GRU": "x:0.2@BFG h:0.2@BTFG z:0.2@BTF r:0.2@BF n:0.2@BT s:0.2@BTF>prev state:0.2@BF!exp",
    "SimpleRNN": "x:0.2@BF h:0.2@BTF s:0.2@BF s:0.2@BTF>prev W:0.2@IO U:0.2@IO y:0.2@BTF",
}


def results(run: Any, cell: Cell, given: Any, masks: Masks, dtype: Any, **options: Any) -> list:
    """Outputs, last states, and the gradients of all inputs for one weighting of all outputs."""

    def leaf(value: Any) -> Any:
        return None if value is None else torch.tensor(value, dtype=dtype, requires_grad=True)

    x, state = leaf(given.x), tuple(map(leaf, given.state))
    weights = Weights(*map(leaf, given.weights))
    torch_masks = Masks(
        *(torch.tensor(m, dtype=dtype) if isinstance(m, np.ndarray) else m for m in masks)
    )
    y, last = run(cell.name, x, weights, torch_masks, initial_state=state, **options)
    random = np.random.default_rng(7)
    outputs = [y, *last]
    sum(
        (out * torch.tensor(random.normal(size=out.shape), dtype=dtype)).sum() for out in outputs
    ).backward()
    leaves = [t for t in (x, *weights, *state) if t is not None]
    return [*outputs, *(torch.zeros_like(t) if t.grad is None else t.grad for t in leaves)]


def reference(*arguments: Any, **options: Any) -> Any:
    return cells.unroll(*arguments, library=LIBRARY, **options)


def check(cell: Cell, given: Any, masks: Masks, lengths: Any = None) -> None:
    if lengths is None:
        options: tuple[dict, dict] = {}, {}
    else:
        lengths = torch.tensor(lengths)
        running = torch.arange(given.x.shape[1]) < lengths[:, None]
        options = {"lengths": lengths}, {"running": running}
    found = results(fused.unroll, cell, given, masks, torch.float32, **options[0])
    expected = results(reference, cell, given, masks, torch.float64, **options[1])
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        apart = distance(one.detach().numpy(), other.detach().numpy())
        assert apart < TOLERANCE, f"result {number} is {apart:.2g} apart"


def masks_of(cell: Cell, noise: Any, given: Any) -> Masks:
    return frozen_masks(cell, noise, given.x, given.weights.recurrent_kernel.shape[0])


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel forgets to write is no number, not an old right one."""
    plain = Tensor.new_empty

    def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        return plain(self, *size, **options).fill_(float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", new_empty)
    monkeypatch.setattr(torch, "empty_like", lambda t: torch.full_like(t, float("nan")))


@pytest.mark.parametrize(("cell", "name"), RUN, ids=RUN_IDS)
def test_training_and_evaluation_are_the_plain_loop_s(cell: Cell, name: str) -> None:
    given = problem(cell, units=7, batch=5)
    check(cell, given, masks_of(cell, NOISE[name], given))
    check(cell, given, drawing.expected(quiet_plan(NOISE[name], cell)))


@CELL
@pytest.mark.parametrize("noise", ["", "everything"])
@pytest.mark.parametrize(
    ("batch", "timesteps", "features", "units"),
    [(1, 1, 1, 1), (7, 3, 31, 15), (2, 31, 7, 16), (13, 5, 1, 17), (3, 4, 5, 31), (9, 2, 3, 63),
     (31, 2, 63, 64), (1, 7, 2, 65), (4, 3, 9, 100), (33, 3, 4, 300)],
)  # fmt: skip
def test_sizes(
    cell: Cell, noise: str, batch: int, timesteps: int, features: int, units: int
) -> None:
    """Rows, vectors and panels that are full, nearly full, and one too many."""
    given = problem(cell, batch=batch, timesteps=timesteps, features=features, units=units)
    text = EVERYTHING[cell.name] if noise else ""
    check(cell, given, masks_of(cell, text, given))
    lengths = [(5 * n + 1) % (timesteps + 1) for n in range(batch)]
    check(cell, given, masks_of(cell, text, given), lengths)


@CELL
@pytest.mark.parametrize("isa", extension().instruction_sets())
def test_every_instruction_set_that_runs_here(
    cell: Cell, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "instruction_set", lambda: isa)
    given = problem(cell, batch=8, units=39)
    check(cell, given, masks_of(cell, EVERYTHING[cell.name], given), [0, 5, 2, 3, 5, 1, 4, 5])
    check(cell, given, Masks())


@CELL
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_long_sequences_stay_together(cell: Cell, bias: bool) -> None:
    given = problem(cell, timesteps=300, units=31, bias=bias)
    check(cell, given, masks_of(cell, "h:0.3@BFG", given))


@CELL
def test_one_thread_and_two_give_the_same_bits(cell: Cell) -> None:
    given = problem(cell, batch=9, timesteps=7, units=65)
    masks = masks_of(cell, EVERYTHING[cell.name], given)
    before = torch.get_num_threads()
    runs = []
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        outputs = results(fused.unroll, cell, given, masks, torch.float32)
        runs.append(outputs)
    torch.set_num_threads(before)
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert torch.equal(one, two)


@CELL
@pytest.mark.parametrize("read", [0, 1, "gates"])
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
def test_the_operator_keeps_pytorch_s_contract(cell: Cell, read: Any, padded: bool) -> None:
    """Schema, fake kernel and autograd registration, as torch.library.opcheck reads them."""
    given = problem(cell, batch=2, timesteps=3, features=4, units=5)

    def leaf(value: Any) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, requires_grad=True)

    h0, c0 = (*map(leaf, given.state), None)[:2]
    masks = [torch.ones(2, 1, 5)] * (cell.gates if read == "gates" else read)
    slots: list[Tensor | None] = [None] * 7
    slots[6] = torch.full((2, 3, 5), 0.5)
    bias = leaf(np.ones(ops.SAVED[cell.name] * 5))
    arguments = (leaf(given.x), leaf(given.weights[0]), leaf(given.weights[1]), bias)
    lengths = torch.tensor([3, 1]) if padded else None
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    full = (cell.name, *arguments, h0, c0, lengths, [], masks, slots)
    torch.library.opcheck(ops.layer, full, test_utils=tests)


def test_what_is_saved_for_backward() -> None:
    """Six numbers a unit and step for an LSTM; noise that is constant over time adds none."""
    sizes = {}
    for noise in ("", "h:0.5@BFG", "x:0.5@BF h:0.5@BF U:0.5@IO"):
        torch.manual_seed(0)
        layer = LSTM(4, 31, batch_first=True, noise=noise)
        stored: dict[int, int] = {}

        def note(tensor: Tensor, stored: dict[int, int] = stored) -> Tensor:
            storage = tensor.untyped_storage()
            stored[storage.data_ptr()] = storage.nbytes()
            return tensor

        for timesteps in (50, 100):
            stored.clear()
            x = torch.randn(3, timesteps, 4)
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                layer(x)
            sizes[noise, timesteps] = sum(stored.values())
    a_step = {noise: (sizes[noise, 100] - sizes[noise, 50]) / 50 for noise, _ in sizes}
    assert a_step[""] == 4 * 3 * (6 * 31 + 4)
    assert a_step["h:0.5@BFG"] == a_step[""]


def test_second_derivatives_are_refused_in_words() -> None:
    layer, x = GRU(3, 4), torch.randn(2, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=False)
    assert gradient.shape == x.shape
    with pytest.raises(LapseError, match=r"no second derivatives .*LAPSE_KERNEL=reference"):
        torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)


@CELL
def test_what_does_not_fit_is_refused_before_any_address_is_read(cell: Cell) -> None:
    given = problem(cell, batch=2, timesteps=3, features=4, units=5)
    x, kernel, recurrent = (
        torch.tensor(a, dtype=torch.float32) for a in (given.x, *given.weights[:2])
    )
    h0, c0 = (*(torch.tensor(s, dtype=torch.float32) for s in given.state), None)[:2]
    mask = torch.ones(2, 3, 5)
    right = (cell.name, x, kernel, recurrent, None, h0, c0, None, [], [mask], [None] * 6 + [mask])
    ops.layer(*right)
    wrong = {
        1: x[..., :3], 2: kernel[:, 1:], 3: recurrent[:, 1:],
        4: torch.ones(5 * ops.SAVED[cell.name] - 1), 5: h0[:1], 7: torch.tensor([3, 4]),
        8: [mask], 9: [mask[:, :2]],
        10: [None] * 6 + [mask.double()],
    }  # fmt: skip
    for place, value in wrong.items():
        arguments = list(right)
        arguments[place] = value
        with pytest.raises(LapseError, match=r"kernel needs|lengths must lie"):
            ops.layer(*arguments)


def test_masks_with_gradients_take_the_plain_loop() -> None:
    layer, x = LSTM(3, 4, noise="x:.5@BF"), torch.randn(2, 3, 3)
    mask = torch.ones(3, 1, 1, 3, requires_grad=True)
    layer(x, masks=Masks(x=mask))[0].sum().backward()
    assert mask.grad is not None and mask.grad.abs().sum() > 0


# Which kernel runs.


def test_the_kernel_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    plain = fused.unroll
    monkeypatch.setattr(fused, "unroll", lambda *a, **o: ran.append("cpu") or plain(*a, **o))
    layer, x = LSTM(3, 4), torch.randn(2, 3, 3)
    for wanted, expected in {"auto": ["cpu"], "cpu": ["cpu"], "reference": []}.items():
        monkeypatch.setenv("LAPSE_KERNEL", wanted)
        ran.clear()
        layer(x)
        assert ran == expected
    monkeypatch.setenv("LAPSE_KERNEL", "cpu")
    with pytest.raises(LapseError, match="computes in float32, and was given float64"):
        layer.double()(x.double())
    monkeypatch.setenv("LAPSE_KERNEL", "fastest")
    with pytest.raises(LapseError, match="LAPSE_KERNEL=fastest is unknown"):
        layer(x)


def test_without_a_compiler_layers_run_and_say_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "extension", lambda: None)
    dispatch._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="without a C\\+\\+ compiler") as caught:
        assert choose(None) == choose(None) == "reference"
    assert len(caught) == 1
    monkeypatch.setenv("LAPSE_KERNEL", "cpu")
    with pytest.raises(LapseError, match="which can't run here: lapse was installed without"):
        choose(None)


def test_the_widest_instruction_set_runs() -> None:
    assert instruction_set() == extension().instruction_sets()[0]
    assert extension().instruction_sets()[-1] == "generic"
