"""The C++ kernels against the plain loop in float64: outputs and every gradient."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from catalog import CASE_IDS, CASES, CELLS, NOISE, Cell, distance, problem
from lapse import LapseError, PlainLoopWarning
from lapse.backends.torch import BACKEND, autograd, operators, private
from lapse.core.masks import Coins, Masks, Redrawn
from lapse.core.plan import plan
from lapse.core.weights import Weights
from lapse.engines import ENGINES, choice, cpu
from lapse.engines.arrays import Inputs, saved_per_unit, writes_outputs
from lapse.engines.cpu import pointers
from lapse.engines.cpu.loading import extension, instruction_set
from lapse.engines.interface import Engine
from lapse.torch import GRU, LSTM, RNN
from torch_support import masks_of, on_cpu, poisoned, reference, results, tensor  # noqa: F401

CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
TOLERANCE = 1e-5  # float32 against float64, relative to the largest entry or to 1

# Every slot of each cell, in all shapes of masks.
EVERYTHING = {
    "LSTM": "x:0.2@BFG h:0.2@BFG i:0.2@BTF f:0.2@BF g:0.2@BT o:0.2@F c:0.2@BTF>prev s:0.2@BT>prev "
    "y:0.2@BF",
    "GRU": "x:0.2@BFG h:0.2@BTFG z:0.2@BTF r:0.2@BF n:0.2@BT s:0.2@BTF>prev state:0.2@BF!exp "
    "y:0.2@BT",
    "SimpleRNN": "x:0.2@BF h:0.2@BTF s:0.2@BF s:0.2@BTF>prev W:0.2@IO U:0.2@IO y:0.2@BTF",
}


# Noise that no coins make, new at each step.
FLEETING = "x:0.5@BTF~gauss h:0.5@BTFG~uniform g:0.3@BTF~concrete y:0.3@BTF~gauss"
OF_RNN = "x:0.5@BTF~gauss h:0.5@BTF~uniform s:0.3@BTF~concrete!exp y:0.3@BTF~gauss"

# Coins of their own at each step in every slot at once: each needs room of its own.
ALL_AT_EACH_STEP = {
    "LSTM": "x:.2@BTFG h:.2@BTFG i:.2@BTF f:.2@BTF g:.2@BTF o:.2@BTF c:.2@BTF>prev s:.2@BTF>prev "
    "y:.2@BTF",
    "GRU": "x:.2@BTFG h:.2@BTFG z:.2@BTF r:.2@BTF n:.2@BTF s:.2@BTF!exp s:.2@BTF>prev y:.2@BTF",
    "SimpleRNN": "x:.2@BTF h:.2@BTF s:.2@BTF!exp s:.2@BTF>prev y:.2@BTF",
}


def check(
    cell: Cell, given: Any, masks: Masks, running: Any = None, *, reverse: bool = False
) -> None:
    running = None if running is None else torch.tensor(running)
    options = {"running": running, "reverse": reverse}
    found = results(on_cpu, cell, given, masks, torch.float32, **options)
    expected = results(reference, cell, given, masks, torch.float64, **options)
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        apart = distance(one.detach().numpy(), other.detach().numpy())
        assert apart < TOLERANCE, f"result {number} is {apart:.2g} apart"


def paddings(batch: int, timesteps: int) -> dict[str, np.ndarray]:
    """(batch, timesteps) real steps: at the start, at the end, and with holes."""
    lengths = np.array([(5 * n + 1) % (timesteps + 1) for n in range(batch)])
    behind = np.arange(timesteps) < lengths[:, None]
    holes = np.random.default_rng(3).random((batch, timesteps)) < 0.6
    return {"behind": behind, "in front": behind[:, ::-1].copy(), "holes": holes}


@pytest.mark.parametrize(("cell", "name"), CASES, ids=CASE_IDS)
def test_training_and_evaluation_are_the_plain_loop_s(cell: Cell, name: str) -> None:
    given = problem(cell, units=7, batch=5)
    check(cell, given, masks_of(cell, NOISE[name], given))
    check(cell, given, masks_of(cell, NOISE[name], given, compact=True))
    check(cell, given, plan(NOISE[name], cell.name).expected)


@CELL
@pytest.mark.parametrize("padding", ["behind", "in front", "holes"])
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("noise", ["", "everything", "h:0.3@BF", "h:0.3@BFG"])
def test_padding_in_both_directions(cell: Cell, padding: str, reverse: bool, noise: str) -> None:
    """Among the samples one is all padding; what stands in padding is never read."""
    given = problem(cell, units=7, batch=7, timesteps=6)
    running = paddings(7, 6)[padding]
    running[3] = False
    dirty = given._replace(x=np.where(running[..., None], given.x, np.nan))
    masks = masks_of(cell, EVERYTHING.get(noise and cell.name, "") if noise == "everything"
                     else noise, given, compact=True)  # fmt: skip
    check(cell, dirty, masks, running, reverse=reverse)


@CELL
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize(
    ("batch", "timesteps", "lengths"), [(33, 20, [7]), (2, 300, [2, 130]), (1, 150, [0])]
)
def test_long_stretches_of_nothing_but_padding(
    cell: Cell, reverse: bool, batch: int, timesteps: int, lengths: list[int]
) -> None:
    """Longer than the blocks in which the weights' gradients are added up."""
    given = problem(cell, units=5, batch=batch, timesteps=timesteps)
    running = np.arange(timesteps) < np.resize(lengths, batch)[:, None]
    for padded in (running, running[:, ::-1].copy()):
        check(cell, given, Masks(), padded, reverse=reverse)


@CELL
@pytest.mark.parametrize("padding", [None, "holes"])
@pytest.mark.filterwarnings("ignore:.*forgets at evaluation")
def test_coins_at_each_step_in_every_slot(cell: Cell, padding: str | None) -> None:
    given = problem(cell, units=17, batch=5, timesteps=6)
    masks = masks_of(cell, ALL_AT_EACH_STEP[cell.name], given, compact=True)
    assert sum(isinstance(mask, Coins) for mask in masks) >= 5
    check(cell, given, masks, None if padding is None else paddings(5, 6)[padding])


@CELL
def test_backwards(cell: Cell) -> None:
    """Steps keep their places and their masks; turning everything around gives the same."""
    given = problem(cell, units=5)
    masks = masks_of(cell, EVERYTHING[cell.name], given)
    check(cell, given, masks, reverse=True)

    def turned(mask: Any) -> Any:
        return mask[:, ::-1].copy() if mask is not None and mask.ndim == 4 else mask

    around = given._replace(x=given.x[:, ::-1].copy())
    once = results(on_cpu, cell, given, masks, torch.float32, reverse=True)
    other = results(on_cpu, cell, around, Masks(*map(turned, masks)), torch.float32)
    assert torch.equal(once[1], other[1])  # the last state; the rest is weighed by its place
    assert torch.equal(once[0], other[0].flip(1))


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
    masks = masks_of(cell, EVERYTHING[cell.name] if noise else "", given, compact=True)
    check(cell, given, masks)
    check(cell, given, masks, paddings(batch, timesteps)["behind"], reverse=True)


@CELL
@pytest.mark.parametrize("isa", extension().instruction_sets())
def test_every_instruction_set_that_runs_here(
    cell: Cell, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pointers, "instruction_set", lambda: isa)
    given = problem(cell, batch=8, units=39)
    masks = masks_of(cell, EVERYTHING[cell.name], given, compact=True)
    for padding in (None, *paddings(8, 5).values()):
        check(cell, given, masks, padding, reverse=True)
        check(cell, given, Masks(), padding)
        check(cell, given._replace(state=()), Masks(), padding)


@CELL
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_long_sequences_stay_together(cell: Cell, bias: bool) -> None:
    given = problem(cell, timesteps=300, units=31, bias=bias)
    check(cell, given, masks_of(cell, "h:0.3@BFG", given))


@pytest.fixture(params=["samples", "units"])
def sharing(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What threads share: forced, for sizes as small as these are no reason to share units."""
    monkeypatch.setattr(pointers, "shares_units", lambda *_: request.param == "units")


@CELL
@pytest.mark.parametrize("noise", ["", "everything", "h:0.3@BFG"])
@pytest.mark.parametrize("padding", [None, "holes"], ids=["", "padded"])
@pytest.mark.parametrize(("batch", "features", "units"), [(9, 3, 65), (1, 33, 39), (3, 1, 100)])
@pytest.mark.usefixtures("sharing")
def test_any_number_of_threads_gives_the_same_bits(
    cell: Cell, noise: str, padding: str | None, batch: int, features: int, units: int
) -> None:
    given = problem(cell, batch=batch, timesteps=7, features=features, units=units)
    text = EVERYTHING[cell.name] if noise == "everything" else noise
    masks = masks_of(cell, text, given, compact=True)
    running = None if padding is None else paddings(batch, 7)[padding]
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 2, 3, 8):
            torch.set_num_threads(threads)
            options = {"running": None if running is None else torch.tensor(running)}
            runs.append(results(on_cpu, cell, given, masks, torch.float32, **options))
            check(cell, given, masks, running, reverse=True)
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert torch.equal(one, two)


@CELL
@pytest.mark.parametrize("padding", ["in front", "holes"])
@pytest.mark.parametrize("states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("noise", ["", "y:0.4@BTF"])
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.usefixtures("sharing")
def test_outputs_in_padding(
    cell: Cell, padding: str, states: bool, noise: str, reverse: bool
) -> None:
    """They are those of the real step before, and so get their gradients."""
    given = problem(cell, batch=7, timesteps=6, units=39)
    given = given if states else given._replace(state=())
    running = paddings(7, 6)[padding]
    running[3] = False
    masks = masks_of(cell, noise, given, compact=True)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            check(cell, given, masks, running, reverse=reverse)
    finally:
        torch.set_num_threads(before)


@CELL
@pytest.mark.parametrize("states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
def test_gradients_of_the_last_state_alone(cell: Cell, states: bool, reverse: bool) -> None:
    given = problem(cell)
    running = torch.tensor(paddings(3, 5)["holes"])
    found = []
    for run, dtype in ((on_cpu, torch.float32), (reference, torch.float64)):
        x, kernel, recurrent, bias, *state = (
            torch.tensor(a, dtype=dtype, requires_grad=True)
            for a in (given.x, *given.weights[:3], *(given.state if states else ()))
        )
        _, last = run(
            cell.name, x, Weights(kernel, recurrent, bias), Masks(),
            initial_state=tuple(state) or None, running=running, reset_after=cell.reset_after,
            reverse=reverse,
        )  # fmt: skip
        loss = last[0].square().sum()
        found.append(torch.autograd.grad(loss, [x, kernel, recurrent, bias, *state]))
    for one, other in zip(*found, strict=True):
        assert distance(one.numpy(), other.numpy()) < TOLERANCE


@CELL
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("masked", [True, False], ids=["mask of y", ""])
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.usefixtures("sharing")
def test_states_and_outputs_are_written_at_every_step(
    cell: Cell, padded: bool, states: bool, masked: bool, reverse: bool
) -> None:
    """New arrays are full of NaN here; y is one where outputs may differ from h."""
    given = problem(cell, batch=5, timesteps=6, units=39)
    h0, c0 = (*given.state, None)[:2] if states else (None, None)
    numbers = (given.x, *given.weights[:2], None, h0, c0)
    arrays = [None if a is None else torch.tensor(a, dtype=torch.float32) for a in numbers]
    running = torch.tensor(paddings(5, 6)["holes"]) if padded else None
    slots = [*[None] * 7, torch.full((5, 1, 39), 0.5) if masked else None]
    inputs = Inputs(*arrays, running, None, None, slots)
    assert writes_outputs(inputs) == (masked or (padded and states))
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            places, arrays = inputs.flat()
            flags = (cell.name, cell.reset_after, reverse)
            found = operators.layer("cpu", *flags, [1.0] * 10, list(places), arrays)
            last_h, last_c, h, c, _, y = found
            assert all(array.isfinite().all() for array in (last_h, last_c, h, c, y))
            assert y.shape == (h.shape if writes_outputs(inputs) else (0,))
    finally:
        torch.set_num_threads(before)


def test_what_threads_share() -> None:
    """Samples, unless there are few of them and the weights are large."""
    mebibyte = 2**18
    assert not pointers.shares_units(1, 5 * mebibyte, threads=1)
    assert not pointers.shares_units(32, 5 * mebibyte, threads=2)
    assert pointers.shares_units(31, 5 * mebibyte, threads=2)
    assert not pointers.shares_units(1, mebibyte, threads=8)
    assert pointers.shares_units(1, mebibyte + mebibyte // 4, threads=2)


@CELL
@pytest.mark.parametrize(
    ("read", "states"), [(0, True), (1, True), ("gates", True), (0, False)],
    ids=["0", "1", "gates", "no states"],
)  # fmt: skip
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
def test_the_operator_keeps_pytorch_s_contract(
    cell: Cell, read: Any, padded: bool, states: bool
) -> None:
    """Schema, fake kernel and autograd registration, as torch.library.opcheck reads them."""
    given = problem(cell, batch=2, timesteps=3, features=4, units=5)

    def leaf(value: Any) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, requires_grad=True)

    h0, c0 = (*map(leaf, given.state), None)[:2] if states else (None, None)
    mask = torch.ones(2, 1, cell.gates if read == "gates" else 1, 5) if read else None
    slots: list[Tensor | None] = [None] * 8
    slots[6] = torch.full((2, 3, 5), 0.5)
    slots[0] = torch.ones(2, 3, 5, dtype=torch.uint8)
    slots[7] = torch.ones(2, 1, 5) if read else None
    bias = leaf(np.ones(saved_per_unit(cell.name, cell.reset_after) * 5))
    arguments = (leaf(given.x), leaf(given.weights[0]), leaf(given.weights[1]), bias)
    running = torch.tensor([[True] * 3, [True, False, False]]) if padded else None
    scales = [2.0] * (2 + len(slots))
    inputs = Inputs(*arguments, h0, c0, running, None, mask, slots)
    places, arrays = inputs.flat()
    full = ("cpu", cell.name, cell.reset_after, padded, scales, list(places), arrays)
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if not padded:  # in padding, what is kept for backward is whatever stood there
        tests.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(operators.layer, full, test_utils=tests)


@CELL
def test_the_operator_and_the_direct_way_around_it_give_the_same_bits(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = problem(cell, units=7)
    masks = masks_of(cell, EVERYTHING[cell.name], given, compact=True)
    assert private.direct(torch.ones(1))
    direct = results(on_cpu, cell, given, masks, torch.float32)
    monkeypatch.setattr(autograd, "direct", lambda *tensors: False)
    operator = results(on_cpu, cell, given, masks, torch.float32)
    for one, other in zip(direct, operator, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_whoever_looks_at_operators_meets_them() -> None:
    layer, x = LSTM(3, 4, recurrent_dropout=0.5), torch.randn(2, 3, 3)
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Recorder():
        layer(x)
    assert {"lapse.draw.default", "lapse.layer.default"} <= set(seen)
    y = layer(x)[0].sum()
    with Recorder():
        y.backward()
    assert "lapse.layer_backward.default" in seen

    layer.eval()
    traced = torch.jit.trace(layer, x, check_trace=False)
    other = torch.randn(2, 3, 3)  # another input: it must not keep one result instead
    torch.testing.assert_close(traced(other)[0], layer(other)[0])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(mode.from_tensor(x))[0].shape == (2, 3, 4)


@pytest.mark.parametrize("noise", ["", "x:.5@BF h:.5@BFG y:.5@BF U:.5@IO", FLEETING])
def test_the_gradient_as_a_transform_and_many_at_once(noise: str) -> None:
    layer, x = LSTM(3, 4, noise=noise, engine="cpu"), torch.randn(2, 3, 3)
    torch.manual_seed(3)
    found = torch.func.grad(lambda x: layer(x)[0].sum())(x)
    x.requires_grad_()
    torch.manual_seed(3)
    y = layer(x)[0]
    (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.testing.assert_close(found, expected)
    each = torch.ones(2, *y.shape)
    (both,) = torch.autograd.grad(y, x, each, is_grads_batched=True)
    torch.testing.assert_close(both, torch.stack([expected] * 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_default_dtype_changes_nothing(dtype: torch.dtype) -> None:
    layer = LSTM(3, 4, noise="x:.3@BF U:.3@IO y:.3@BTF x:.5@BTF~gauss", engine="cpu")
    x = torch.randn(2, 5, 3, requires_grad=True)
    found = []
    for default in (torch.float32, dtype):
        torch.manual_seed(4)
        torch.set_default_dtype(default)
        try:
            y = layer(x)[0]
            found.append([y, *torch.autograd.grad(y.sum(), x)])
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, *found))


def test_no_steps_and_no_samples_have_masks_too() -> None:
    layer = LSTM(3, 4, noise="x:.5@BTF h:.5@BFG")
    assert layer.draw_masks(2, 0).x.shape == (2, 0, 1, 3)
    assert layer.draw_masks(0, 2).h.shape == (0, 1, 4, 4)


def test_tensors_without_memory_are_refused() -> None:
    """Beside an input that has some, the kernel must not look for an address."""
    with FakeTensorMode():
        layer = LSTM(3, 4)
    with pytest.raises(Exception, match=r"[Ff]ake"):
        layer(torch.randn(2, 5, 3))


def test_what_is_saved_for_backward() -> None:
    """Six numbers a unit and step for an LSTM; noise that is constant over time adds none, coins
    that are drawn for each step a byte each, and all else that is drawn for each step none."""
    sizes = {}
    for noise in (
        *("", "h:0.5@BFG", "x:0.5@BF h:0.5@BF U:0.5@IO", "y:0.5@BTF"),
        *("c:0.5@BTF>prev s:0.5@BTF>prev", "x:0.5@BTF h:0.5@BTF", FLEETING),
    ):
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
    assert a_step["h:0.5@BFG"] == a_step["x:0.5@BF h:0.5@BF U:0.5@IO"] == a_step[""]
    assert a_step["c:0.5@BTF>prev s:0.5@BTF>prev"] == a_step[""] + 3 * 2 * 31
    assert a_step["x:0.5@BTF h:0.5@BTF"] == a_step[""] + 3 * (4 + 31)
    assert a_step["y:0.5@BTF"] == a_step[""] + 3 * 31
    assert a_step[FLEETING] == a_step[""]


@pytest.mark.parametrize(
    ("ours", "noise"), [(LSTM, FLEETING), (GRU, FLEETING.replace("g:", "n:")), (RNN, OF_RNN)]
)
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("create_graph", [False, True], ids=["", "create_graph"])
@pytest.mark.filterwarnings("ignore:.*forgets at evaluation")
def test_noise_that_is_drawn_again_for_backward_is_not_kept(
    ours: Any, noise: str, padded: bool, create_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = torch.tensor([5, 2, 3]) if padded else None
    alive, draw = [], BACKEND.draw

    def watched(*arguments: Any, **sizes: Any) -> Masks:
        masks = draw(*arguments, **sizes)
        alive.extend(weakref.ref(mask.numbers) for mask in masks if isinstance(mask, Redrawn))
        return masks

    monkeypatch.setattr(BACKEND, "draw", watched)
    layer, x = ours(4, 7, batch_first=True, noise=noise, engine="cpu"), torch.randn(3, 5, 4)
    x.requires_grad_()
    leaves = [x, *layer.parameters()]
    torch.manual_seed(5)
    y = layer(x, lengths=lengths)[0]
    assert len(alive) == 4 and not any(one() is not None for one in alive)
    found = torch.autograd.grad(y.square().sum(), leaves, create_graph=create_graph)
    torch.manual_seed(5)
    kept = layer.draw_masks(3, 5)
    assert kept.h.shape[1] == 5 and not any(isinstance(mask, Redrawn) for mask in kept)
    expected = layer(x, masks=kept, lengths=lengths)[0]
    assert torch.equal(y, expected)
    for one, other in zip(
        found,
        torch.autograd.grad(expected.square().sum(), leaves, create_graph=create_graph),
        strict=True,
    ):
        assert torch.equal(one, other)


@CELL
@pytest.mark.parametrize("padding", [None, "in front"], ids=["", "padded"])
@pytest.mark.parametrize("states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("noise", ["", "everything"])
def test_second_derivatives(cell: Cell, padding: str | None, states: bool, noise: str) -> None:
    """Those of a gradient penalty, which take the plain loop."""
    given = problem(cell, units=5)
    masks = masks_of(cell, EVERYTHING[cell.name] if noise else "", given, compact=True)
    running = None if padding is None else torch.tensor(paddings(3, 5)[padding])
    found = []
    for run, dtype in ((on_cpu, torch.float32), (reference, torch.float64)):
        leaves = [
            torch.tensor(a, dtype=dtype, requires_grad=True)
            for a in (given.x, *given.weights[:3], *(given.state if states else ()))
        ]
        x, kernel, recurrent, bias, *state = leaves
        weights = Weights(kernel, recurrent, bias)
        torch_masks = Masks(*(tensor(mask, dtype) for mask in masks))
        y, last = run(
            cell.name, x, weights, torch_masks, initial_state=tuple(state) or None, running=running,
            reset_after=cell.reset_after, reverse=True,
        )  # fmt: skip
        loss = (y**2).sum() + sum((part**3).sum() for part in last)
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), leaves)
        found.append([*first, *second])
    for one, other in zip(*found, strict=True):
        assert distance(one.detach().numpy(), other.detach().numpy()) < 1e-4


def single(array: Any) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)


@CELL
def test_what_does_not_fit_is_refused_before_any_address_is_read(cell: Cell) -> None:
    given = problem(cell, batch=2, timesteps=3, features=4, units=5)
    x, kernel, recurrent = map(single, (given.x, *given.weights[:2]))
    h0, c0 = (*map(single, given.state), None)[:2]
    mask = torch.ones(2, 3, 5)
    no = [None] * 7
    right = Inputs(x, kernel, recurrent, None, h0, c0, None, None, mask[:, :, None], [*no, mask])

    def run(inputs: Inputs) -> None:
        places, arrays = inputs.flat()
        flags = (cell.name, cell.reset_after, False)
        operators.layer("cpu", *flags, [1.0] * 10, list(places), arrays)

    run(right)
    wrong = {
        "x": x[..., :3], "kernel": kernel[:, 1:], "recurrent_kernel": recurrent[:, 1:],
        "bias": torch.ones(5 * saved_per_unit(cell.name, cell.reset_after) - 1), "h0": h0[:1],
        "c0": None if cell.name == "LSTM" else h0, "running": torch.tensor([3, 2]),
        "x_mask": mask[:, :, None], "h_mask": mask[:, :2, None], "slots": [*no, mask.double()],
    }  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(LapseError, match=r"needs|which a"):
            run(right._replace(**{name: value}))


@CELL
def test_what_does_not_fit_is_refused_by_backward_too(cell: Cell) -> None:
    given = problem(cell, batch=2, timesteps=3, features=4, units=5)
    x, *matrices = map(single, (given.x, *given.weights[:2]))
    h0, c0 = (*map(single, given.state), None)[:2]
    inputs = Inputs(x, *matrices, None, h0, c0, None, None, None, [None] * 8)

    def run(inputs: Inputs, results: tuple, gradients: tuple) -> None:
        places, arrays = inputs.flat()
        settings = ("cpu", cell.name, cell.reset_after, False, [1.0] * 10, list(places))
        operators.layer_backward(*settings, [*arrays, *results], *gradients, True, False)

    places, arrays = inputs.flat()
    flags = (cell.name, cell.reset_after, False)
    _, _, h, c, saved, _ = operators.layer("cpu", *flags, [1.0] * 10, list(places), arrays)
    run(inputs, (h, c, saved), (None, None, h))
    for wrong_results in ((h[1:], c, saved), (h, torch.ones(3), saved), (h, c, saved[..., 1:])):
        with pytest.raises(LapseError, match="needs"):
            run(inputs, wrong_results, (None, None, h))
    for gradients in ((h0[:, 1:], None, h), (None, h0[1:], h), (None, None, h[:2])):
        with pytest.raises(LapseError, match="needs"):
            run(inputs, (h, c, saved), gradients)
    for wrong in ({"h0": h0[:1]}, {"h_mask": torch.ones(2, 3, 1, 4, dtype=torch.float64)}):
        with pytest.raises(LapseError, match="needs"):
            run(inputs._replace(**wrong), (h, c, saved), (None, None, h))


def test_masks_with_gradients_take_the_plain_loop() -> None:
    layer, x = LSTM(3, 4, noise="x:.5@BF"), torch.randn(2, 3, 3)
    mask = torch.ones(3, 1, 1, 3, requires_grad=True)
    layer(x, masks=Masks(x=mask))[0].sum().backward()
    assert mask.grad is not None and mask.grad.abs().sum() > 0


# Which engine runs.


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that ran, by name."""
    names: list[str] = []

    def watched(engine: Engine) -> Any:
        run = engine.run
        return lambda *given: names.append(engine.name) or run(*given)

    for engine in ENGINES:
        monkeypatch.setattr(engine, "run", watched(engine))
    return names


def test_the_engine_can_be_chosen(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = LSTM(3, 4, noise="h:.5@BF"), torch.randn(2, 3, 3)
    for wanted, expected in {"auto": "cpu", "cpu": "cpu", "reference": "reference"}.items():
        monkeypatch.setenv("LAPSE_ENGINE", wanted)
        layer(x)
        assert ran.pop() == expected
    monkeypatch.setenv("LAPSE_ENGINE", "cpu")
    with pytest.raises(LapseError, match="compute in float32, and were given float64"):
        layer.double()(x.double())
    monkeypatch.setenv("LAPSE_ENGINE", "fastest")
    with pytest.raises(LapseError, match="LAPSE_ENGINE=fastest is unknown"):
        layer(x.double())


def test_a_layer_can_ask_for_its_engine(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 3)
    monkeypatch.setenv("LAPSE_ENGINE", "cpu")
    LSTM(3, 4, engine="reference")(x)
    LSTM(3, 4, engine="native")(x)
    monkeypatch.setenv("LAPSE_ENGINE", "reference")
    LSTM(3, 4, engine="cpu")(x)
    assert ran == ["reference", "native", "cpu"]
    with pytest.raises(LapseError, match=r"engine='cpu' asks .* given float64"):
        LSTM(3, 4, engine="cpu").double()(x.double())
    with pytest.raises(LapseError, match="engine='fastest' is unknown"):
        LSTM(3, 4, engine="fastest")


def test_the_plain_loop_warns_once_for_each_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_warned", set())
    layer, x = LSTM(3, 4, noise="h:.5@BF").double(), torch.randn(2, 3, 3).double()
    with pytest.warns(PlainLoopWarning, match=r"given float64\. .*several times slower") as caught:
        layer(x)
        layer(x)
    assert len(caught) == 1
    with pytest.warns(PlainLoopWarning, match="activations are tanh and sigmoid"):
        RNN(3, 4, nonlinearity="relu", noise="h:.5@BF")(x.float())


def test_without_a_compiler_layers_run_and_say_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_warned", set())
    layer, x = LSTM(3, 4, noise="h:.5@BF"), torch.randn(2, 3, 3)
    masks = layer.draw_masks(3, 2)
    expected = layer(x, masks=masks)[0]
    monkeypatch.setattr(cpu, "extension", lambda: None)
    monkeypatch.setattr(cpu.drawing, "extension", lambda: None)
    with pytest.warns(PlainLoopWarning, match="installed without a C\\+\\+ compiler") as caught:
        torch.testing.assert_close(layer(x, masks=masks)[0], expected)
        layer(x)
    assert len(caught) == 1
    monkeypatch.setenv("LAPSE_ENGINE", "cpu")
    with pytest.raises(LapseError, match="which can't run here: lapse was installed without"):
        layer(x)


def test_the_widest_instruction_set_runs() -> None:
    assert instruction_set() == extension().instruction_sets()[0]
    assert extension().instruction_sets()[-1] == "generic"
