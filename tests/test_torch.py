"""The PyTorch modules: nn's own layers wherever there is no noise, and the noise where there is."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import catalog
import lapse
from lapse.core import drawing
from lapse.core.cells import unroll
from lapse.core.errors import LapseError
from lapse.core.masks import Masks
from lapse.core.noise import Term
from lapse.core.numpy_backend import NUMPY
from lapse.core.plan import GATES
from lapse.core.weights import TorchWeights, from_torch
from lapse.torch import GRU, LSTM, RNN
from torch_support import (
    PAIRS,
    assert_close,
    flat,
    gradients,
    in_every_module,
    in_every_pair,
    one_thread,  # noqa: F401  for every test here
    pair,
    state_of,
)

# Each noise that a module can run, by the module.
CASES = [(PAIRS[cell.name][0], name) for cell, name in catalog.CASES if cell.reset_after]
CASE_IDS = [f"{module.__name__} {name}" for module, name in CASES]
in_every_case = pytest.mark.parametrize(("ours", "name"), CASES, ids=CASE_IDS)
quiet = pytest.mark.filterwarnings("ignore:.*forgets at evaluation:UserWarning")


# The same as nn.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("features", "units"), [(1, 1), (7, 31), (63, 3)])
@in_every_pair
def test_state_dicts_are_interchangeable(
    ours: type, theirs: type, features: int, units: int, bias: bool
) -> None:
    """A checkpoint must load strictly both ways, or deploying without lapse is a migration."""
    one, other = ours(features, units, bias=bias), theirs(features, units, bias=bias)
    assert list(one.state_dict()) == list(other.state_dict())
    assert {k: v.shape for k, v in one.state_dict().items()} == {
        k: v.shape for k, v in other.state_dict().items()
    }
    other.load_state_dict(one.state_dict(), strict=True)
    one.load_state_dict(other.state_dict(), strict=True)
    assert [k for k, _ in one.named_parameters()] == [k for k, _ in other.named_parameters()]


@in_every_pair
def test_initial_weights_are_pytorchs(ours: type, theirs: type) -> None:
    """The same seed starts the same training, whichever module stands there."""
    torch.manual_seed(5)
    one = ours(7, 31, recurrent_dropout=0.2)
    torch.manual_seed(5)
    other = theirs(7, 31)
    for name, value in other.state_dict().items():
        assert torch.equal(one.state_dict()[name], value)


@pytest.mark.parametrize("given_state", [True, False], ids=["hx", "no hx"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("layout", ["batch first", "time first", "unbatched"])
@in_every_pair
def test_outputs_and_gradients_are_pytorchs(
    ours: type, theirs: type, layout: str, bias: bool, given_state: bool
) -> None:
    """Everything that comes out and every gradient that goes back, in each layout."""
    ones = pair(ours, theirs, 7, 5, bias=bias, batch_first=layout == "batch first")
    shapes = {"batch first": (3, 31, 7), "time first": (31, 3, 7), "unbatched": (31, 7)}
    torch.manual_seed(1)
    x = torch.randn(*shapes[layout], dtype=torch.float64, requires_grad=True)
    hx = state_of(ones[0], *((1, 5) if layout == "unbatched" else (1, 3, 5)))
    inputs = [x, *(hx if isinstance(hx, tuple) else (hx,))] if given_state else [x]
    found, expected = (flat(one(x, hx) if given_state else one(x)) for one in ones)
    assert_close(found, expected, catalog.TOLERANCE["float64"].values)
    back = [gradients(one, r, inputs) for one, r in zip(ones, (found, expected), strict=True)]
    assert_close(*back, catalog.TOLERANCE["float64"].gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", catalog.ODD_SIZES)
@in_every_pair
def test_odd_sizes_and_types(ours: type, theirs: type, size: int, dtype: torch.dtype) -> None:
    """Batch, features and units of every kind of width, one step and many."""
    tolerance = catalog.TOLERANCE[str(dtype).removeprefix("torch.")]
    for timesteps, batch in ((1, size), (9, 1), (7, 3)):
        ones = pair(ours, theirs, size, max(size // 2, 1), dtype=dtype)
        torch.manual_seed(1)
        x = torch.randn(timesteps, batch, size, dtype=dtype, requires_grad=True)
        found, expected = (flat(one(x)) for one in ones)
        assert_close(found, expected, tolerance.values)
        back = [gradients(one, r, [x]) for one, r in zip(ones, (found, expected), strict=True)]
        assert_close(*back, tolerance.gradients)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("by_keyword", [True, False])
def test_nonlinearities(nonlinearity: str, by_keyword: bool) -> None:
    """relu must reach the step, and stand fourth as in nn.RNN."""
    torch.manual_seed(0)
    if by_keyword:
        one, other = (m(7, 5, nonlinearity=nonlinearity).double() for m in (RNN, nn.RNN))
    else:
        one, other = (m(7, 5, 1, nonlinearity).double() for m in (RNN, nn.RNN))
    one.load_state_dict(other.state_dict())
    assert one.nonlinearity == other.nonlinearity == nonlinearity
    x = torch.randn(9, 3, 7, dtype=torch.float64, requires_grad=True)
    found, expected = flat(one(x)), flat(other(x))
    assert_close(found, expected, catalog.TOLERANCE["float64"].values)
    back = gradients(one, found, [x]), gradients(other, expected, [x])
    assert_close(*back, catalog.TOLERANCE["float64"].gradients)
    if nonlinearity == "relu":
        assert (found[0] == 0).any()
        assert (found[0] >= 0).all()


@in_every_pair
def test_signatures_are_pytorchs(ours: type, theirs: type) -> None:
    """Every positional argument of nn's constructor means the same here."""
    after = ("relu",) if theirs is nn.RNN else ()
    one, other = ours(7, 5, 1, *after, False, True), theirs(7, 5, 1, *after, False, True)
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "mode"):
        assert getattr(one, name) == getattr(other, name)
    assert not one.bias
    assert one.batch_first
    assert isinstance(one, nn.RNNBase)
    double = ours(7, 5, device="cpu", dtype=torch.float64)
    assert all(p.dtype == torch.float64 for p in double.parameters())


@in_every_pair
def test_empty_batches(ours: type, theirs: type) -> None:
    """The last part of a split may be empty; nn takes it."""
    one, other = pair(ours, theirs, 7, 5)
    x = torch.zeros(9, 0, 7, dtype=torch.float64)
    assert [r.shape for r in flat(one(x))] == [r.shape for r in flat(other(x))]
    noisy = ours(7, 5, noise="x:0.5@BTF h:0.5@BFG").double()
    assert noisy(x)[0].shape == (9, 0, 5)


# Lengths.

LENGTHS = torch.tensor([9, 1, 4, 9, 7])


@pytest.mark.parametrize("given_state", [True, False], ids=["hx", "no hx"])
@pytest.mark.parametrize("batch_first", [True, False])
@in_every_pair
def test_lengths_are_packed_sequences(
    ours: type, theirs: type, batch_first: bool, given_state: bool
) -> None:
    """nn's packed sequences: outputs 0 in the padding, last states at the lengths, gradients."""
    ours_one, theirs_one = pair(ours, theirs, 7, 5, batch_first=batch_first)
    torch.manual_seed(1)
    shape = (5, 9, 7) if batch_first else (9, 5, 7)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    hx = state_of(ours_one, 1, 5, 5)
    inputs = [x, *(hx if isinstance(hx, tuple) else (hx,))] if given_state else [x]
    state = hx if given_state else None
    found = flat(ours_one(x, state, lengths=LENGTHS))
    packed = pack_padded_sequence(x, LENGTHS, batch_first=batch_first, enforce_sorted=False)
    y, last = theirs_one(packed, state)
    expected = flat((pad_packed_sequence(y, batch_first=batch_first, total_length=9)[0], last))
    assert_close(found, expected, catalog.TOLERANCE["float64"].values)
    back = gradients(ours_one, found, inputs), gradients(theirs_one, expected, inputs)
    assert_close(*back, catalog.TOLERANCE["float64"].gradients)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, torch.IntTensor])
@in_every_module
def test_kinds_of_lengths(ours: type, kind: Any) -> None:
    """Lengths come as lists as often as tensors."""
    torch.manual_seed(0)
    module, x = ours(7, 5).eval(), torch.randn(9, 5, 7)
    expected = module(x, lengths=LENGTHS)[0]
    assert torch.equal(module(x, lengths=kind(LENGTHS.tolist()))[0], expected)


@quiet
@pytest.mark.parametrize("training", [True, False])
@in_every_case
def test_padding_leaks_nothing(ours: type, name: str, training: bool) -> None:
    """NaN in the padding reaches no output, state or gradient, whatever the noise."""
    torch.manual_seed(0)
    module = ours(7, 5, noise=catalog.NOISE[name], batch_first=True).double().train(training)
    x = torch.randn(5, 9, 7, dtype=torch.float64)
    padding = torch.arange(9) >= LENGTHS[:, None]
    results = []
    for inside in (torch.nan, 0.0):
        inputs = x.masked_fill(padding[..., None], inside).requires_grad_()
        torch.manual_seed(3)
        result = flat(module(inputs, lengths=LENGTHS))
        results.append([*result, *gradients(module, result, [inputs])])
    assert (results[0][0][padding] == 0).all()
    assert (results[0][-1 - len(list(module.parameters()))][padding] == 0).all()
    for one, other in zip(*results, strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)


# Evaluation.


@quiet
@in_every_case
def test_evaluation_draws_nothing(ours: type, name: str) -> None:
    """Evaluation is a function of weights and input alone, and leaves the generator alone."""
    torch.manual_seed(0)
    module = ours(7, 5, noise=catalog.NOISE[name]).eval()
    x = torch.randn(9, 3, 7)
    before = torch.get_rng_state()
    first = flat(module(x))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    for one, other in zip(first, flat(module(x)), strict=True):
        assert torch.equal(one, other)


@quiet
@in_every_case
def test_evaluation_is_the_plain_layer_or_the_expectation(ours: type, name: str) -> None:
    """Where scaling is inverted or absent, nn itself; else the oracle with the constants."""
    theirs = {LSTM: nn.LSTM, GRU: nn.GRU, RNN: nn.RNN}[ours]
    torch.manual_seed(0)
    module, plain = ours(7, 5, noise=catalog.NOISE[name]).double().eval(), theirs(7, 5).double()
    plain.load_state_dict(module.state_dict())
    x = torch.randn(9, 3, 7, dtype=torch.float64)
    found = flat(module(x))
    tolerance = catalog.TOLERANCE["float64"].values
    constants = module.plans()[0][0].expected
    if constants == Masks():
        assert_close(found, flat(plain(x)), tolerance)
        return
    y, last = oracle(module, x, constants)
    assert_close(found, [torch.tensor(y), *(torch.tensor(part)[None] for part in last)], tolerance)
    assert catalog.distance(found[0].detach(), plain(x)[0].detach()) > 1e-4


def oracle(module: Any, x: Tensor, drawn: Masks) -> tuple:
    """The NumPy loop with a module's weights, time first."""
    arrays = [p.detach().numpy() for p in module.parameters()]
    weights = from_torch(module.cell, TorchWeights(*arrays), NUMPY)
    as_numpy = Masks(*(m.numpy() if isinstance(m, Tensor) else m for m in drawn))
    y, last = unroll(module.cell, x.detach().numpy().swapaxes(0, 1), weights, as_numpy)
    return y.swapaxes(0, 1), last


# Training.


@quiet
@in_every_case
def test_training_is_the_oracle_with_the_masks_drawn(ours: type, name: str) -> None:
    """`draw_masks` and `masks=` repeat a call, and the module runs the masks that it draws."""
    torch.manual_seed(0)
    module = ours(7, 5, noise=catalog.NOISE[name]).double()
    x = torch.randn(9, 3, 7, dtype=torch.float64)
    torch.manual_seed(3)
    drawn = module.draw_masks(3, 9)
    torch.manual_seed(3)
    first = flat(module(x))
    again = flat(module(x, masks=drawn))
    evaluated = flat(module.eval()(x, masks=drawn))
    for one, other, third in zip(first, again, evaluated, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)  # given masks hold in evaluation, too
    y, last = oracle(module, x, drawn)
    tolerance = catalog.TOLERANCE["float64"].values
    assert_close(first, [torch.tensor(y), *(torch.tensor(part)[None] for part in last)], tolerance)
    for mask in drawn:
        assert mask is None or (mask.dtype == torch.float64 and not mask.requires_grad)


@quiet
@in_every_case
def test_training_twice_differs_and_repeats_by_seed(ours: type, name: str) -> None:
    """Each call has fresh noise, and `torch.manual_seed` repeats it bit for bit."""
    torch.manual_seed(0)
    module = ours(31, 31, noise=catalog.NOISE[name])
    x = torch.randn(7, 7, 31)

    def call() -> list[Tensor]:
        result = flat(module(x))
        return [r.detach() for r in result] + gradients(module, result, [])

    def differ(seed: int) -> bool:
        torch.manual_seed(seed)
        return any((a != b).any() for a, b in zip(call(), call(), strict=True))

    assert any(map(differ, range(9)))  # two throws of a single coin may agree
    calls = []
    for _ in range(2):
        torch.manual_seed(1)
        calls.append(call())
    for one, other in zip(*calls, strict=True):
        assert torch.equal(one, other)


@in_every_module
def test_seeds_of_draw_masks(ours: type) -> None:
    """The seed is that of `lapse.core.masks.draw`: stored seeds repeat masks in any framework."""
    module = ours(7, 5, noise="x:0.5@BTF h:0.25@BFG")
    drawn = module.draw_masks(3, 9, seed=2**63 + 5)
    expected = drawing.draw(
        module.plans()[0][0], 2**63 + 5, batch=3, timesteps=9, features=7, units=5
    )
    assert torch.equal(drawn.x, torch.tensor(expected.x))
    assert torch.equal(drawn.h, torch.tensor(expected.h))
    assert drawn.y is None
    with pytest.raises(LapseError, match="seed -1"):
        module.draw_masks(3, 9, seed=-1)


@in_every_module
def test_a_generator_of_ones_own(ours: type) -> None:
    """`generator=` decides alone, and the global generator stays where it is."""
    torch.manual_seed(0)
    x = torch.randn(9, 3, 7)
    generator = torch.Generator().manual_seed(7)
    module = ours(7, 5, noise="h:0.5@BTFG", generator=generator)
    before = torch.get_rng_state()
    first, second = module(x)[0], module(x)[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert (first != second).any()
    generator.manual_seed(7)
    torch.manual_seed(99)
    assert torch.equal(module(x)[0], first)


@in_every_module
def test_without_noise_nothing_is_drawn(ours: type) -> None:
    """In place of nn's layer, a noiseless one must leave the random numbers of others alone."""
    module, x = ours(7, 5), torch.randn(9, 3, 7)
    before = torch.get_rng_state()
    assert module.training
    module(x)
    assert torch.equal(torch.get_rng_state(), before)


@in_every_module
def test_masks_do_not_depend_on_the_batch(ours: type) -> None:
    """A sequence's result must not change with its neighbours, its padding or the batch's size."""
    torch.manual_seed(0)
    noise = "x:0.5@BTF h:0.5@BFG s:0.3@BTF>prev y:0.3@BF U:0.3@IO"
    module = ours(7, 5, noise=noise, batch_first=True).double()
    x, others = (torch.randn(7, 9, 7, dtype=torch.float64) for _ in range(2))
    tolerance = catalog.TOLERANCE["float64"].values

    def trained(x: Tensor, **options: Any) -> list[Tensor]:
        torch.manual_seed(3)
        return flat(module(x, **options))

    whole = trained(x)
    changed = trained(torch.cat([x[:3], others[3:]]))
    assert_close([changed[0][:3]], [whole[0][:3]], tolerance)
    assert catalog.distance(changed[0][3:].detach(), whole[0][3:].detach()) > 1e-3
    assert_close([trained(x[:3])[0]], [whole[0][:3]], tolerance)
    padded = torch.cat([x, others], dim=1)
    lengths = torch.full((7,), 9)
    longer = trained(padded, lengths=lengths)
    assert_close([longer[0][:, :9], *longer[1:]], whole, tolerance)


@quiet
@in_every_case
def test_gradients_reach_everything(ours: type, name: str) -> None:
    """A noise that cuts a parameter off would leave it at its initial value for good."""
    torch.manual_seed(0)
    module = ours(31, 31, noise=catalog.NOISE[name])
    x = torch.randn(9, 31, 31, requires_grad=True)
    result = flat(module(x))
    for gradient in gradients(module, result, [x]):
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()


@in_every_module
def test_weights_stay_as_they_are(ours: type) -> None:
    """Weight drop multiplies a copy: elsewhere, dropped weights have been lost for good."""
    torch.manual_seed(0)
    module = ours(7, 31, noise=[lapse.WeightDrop(0.5), "W:0.5@IO"])
    before = copy.deepcopy(module.state_dict())
    x = torch.randn(9, 3, 7)
    outputs = [module(x)[0] for _ in range(5)]
    assert all((a != b).any() for a, b in itertools.pairwise(outputs))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


@in_every_module
def test_weight_drop_acts_from_the_second_step(ours: type) -> None:
    """From zeros, the first step reads nothing through U: the mask shows from the second on."""
    torch.manual_seed(0)
    module = ours(7, 31, noise=lapse.WeightDrop(0.5))
    x = torch.randn(9, 3, 7)
    noisy, plain = module(x)[0], module.eval()(x)[0]
    assert torch.equal(noisy[0], plain[0])
    assert all((noisy[t] != plain[t]).any() for t in range(1, 9))


@in_every_module
def test_recurrent_dropout_is_kerass(ours: type) -> None:
    """`recurrent_dropout=p` is `h:p@BFG`, the noise of the algebra, and adds to `noise=`."""
    torch.manual_seed(0)
    one, other = ours(7, 5, recurrent_dropout=0.3), ours(7, 5, noise="h:0.3@BFG")
    other.load_state_dict(one.state_dict())
    assert one.plans()[0] == other.plans()[0]
    assert one.noise == other.noise == "h:0.3@BFG"
    x = torch.randn(9, 3, 7)
    results = []
    for module in (one, other):
        torch.manual_seed(3)
        results.append(module(x)[0])
    assert torch.equal(*results)
    both = ours(7, 5, recurrent_dropout=0.3, noise=lapse.Locked(0.4))
    assert both.noise == "h:0.3@BFG x:0.4@BF"


@in_every_module
def test_rates_of_0_are_no_noise(ours: type) -> None:
    """Bit for bit, in training."""
    torch.manual_seed(0)
    noise = "x:0@BTF h:0@BFG y:0@BF U:0@IO s:0@BTF>prev"
    one, other = ours(7, 5, noise=noise, recurrent_dropout=0.0), ours(7, 5)
    other.load_state_dict(one.state_dict())
    x = torch.randn(9, 3, 7)
    for a, b in zip(flat(one(x)), flat(other(x)), strict=True):
        assert torch.equal(a, b)


# As a module among modules.


@in_every_module
def test_no_buffers_and_no_hidden_state(ours: type) -> None:
    """Masks or seeds in buffers end up in checkpoints and break loading into nn."""
    torch.manual_seed(0)
    module = ours(7, 5, noise="x:0.5@BTF h:0.5@BFG s:0.3@BTF>prev")
    keys, attributes = list(module.state_dict()), set(vars(module))
    module(torch.randn(9, 3, 7))[0].sum().backward()
    assert list(module.state_dict()) == keys
    assert set(vars(module)) == attributes
    assert not list(module.buffers())
    assert len(keys) == 4


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@in_every_module
def test_copies_after_training(ours: type, how: str) -> None:
    """A module that has trained must copy, keep its noise, and then go its own way."""
    torch.manual_seed(0)
    module = ours(7, 5, noise=[lapse.Locked(0.4, 0.2), "h:0.5@BFG"], recurrent_dropout=0.2)
    x = torch.randn(9, 3, 7)
    module(x)[0].sum().backward()
    if how == "deepcopy":
        other = copy.deepcopy(module)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(module))
    else:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert repr(other) == repr(module)
    assert other.plans()[0][0] == module.plans()[0][0]
    results = []
    for one in (module, other):
        torch.manual_seed(3)
        results.append(one(x)[0])
    assert torch.equal(*results)
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    assert (module.weight_hh_l0 != 0).any()


@in_every_module
def test_copies_of_a_generator(ours: type) -> None:
    """A copy draws what the original would, without moving it."""
    module = ours(7, 5, noise="h:0.5@BTFG", generator=torch.Generator().manual_seed(7))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        first = other.draw_masks(3, 9).h
        assert other.generator is not module.generator
        assert torch.equal(first, copy.deepcopy(module).draw_masks(3, 9).h)


@in_every_module
def test_functional_call_and_parametrizations(ours: type) -> None:
    """Weights are read by name at each call: a cached list would keep the old ones."""
    torch.manual_seed(0)
    module, x = ours(7, 5).eval(), torch.randn(9, 3, 7)
    doubled = copy.deepcopy(module)
    with torch.no_grad():
        doubled.weight_hh_l0 *= 2
    expected = doubled(x)[0]
    assert (module(x)[0] != expected).any()
    weights = {**dict(module.named_parameters()), "weight_hh_l0": 2 * module.weight_hh_l0}
    assert torch.equal(functional_call(module, weights, (x,))[0], expected)

    class Twice(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    parametrize.register_parametrization(module, "weight_hh_l0", Twice())
    assert torch.equal(module(x)[0], expected)


@in_every_module
def test_training_lowers_the_loss(ours: type) -> None:
    """The whole of it: noise, gradients and an optimiser on a task that needs memory."""
    torch.manual_seed(0)
    module, readout = ours(1, 31, noise=lapse.Variational(0.1, 0.1, 0.1)), nn.Linear(31, 1)
    x = torch.randint(2, (11, 63, 1)).float()
    target = x[6]
    optimizer = torch.optim.Adam([*module.parameters(), *readout.parameters()], 0.01)
    losses = []
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(readout(module(x)[0][-1]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    module.eval()
    final = nn.functional.binary_cross_entropy_with_logits(readout(module(x)[0][-1]), target)
    assert final.item() < 0.75 * losses[0]


def test_repr_shows_the_noise() -> None:
    """Printing a model is how people check what they have built."""
    assert repr(LSTM(7, 5)) == "LSTM(7, 5)"
    assert repr(LSTM(7, 5, recurrent_dropout=0.2)) == "LSTM(7, 5, noise='h:0.2@BFG')"
    zoneout = RNN(7, 5, noise=lapse.Zoneout(0.1), batch_first=True)
    assert repr(zoneout) == "RNN(7, 5, batch_first=True, noise='s:0.1@BTF>prev')"


# Mistakes.


@in_every_module
@pytest.mark.parametrize(
    "shape",
    [(), (7,), (9, 3, 6), (9, 3, 8), (9, 6), (0, 3, 7), (0, 7), (9, 3, 7, 1), (2, 9, 3, 7)],
    ids=str,
)
def test_wrong_inputs(ours: type, shape: tuple[int, ...]) -> None:
    """The message shows the shape that was given and the one that is needed."""
    with pytest.raises(LapseError, match=r"timesteps, batch, 7\)") as caught:
        ours(7, 5)(torch.zeros(shape))
    assert str(tuple(shape)) in str(caught.value)
    with pytest.raises(LapseError, match=r"batch, timesteps, 7\)"):
        ours(7, 5, batch_first=True)(torch.zeros(shape if shape[:1] != (0,) else (3, 0, 7)))


@in_every_module
@pytest.mark.parametrize(
    ("lengths", "why"),
    [
        (torch.tensor([9, 3]), "one whole number for each of the 3"),
        (torch.tensor([[9, 3, 1]]), "one whole number for each of the 3"),
        (torch.tensor(9), "one whole number for each of the 3"),
        (torch.tensor([9.0, 3.0, 1.0]), "whole number"),
        (torch.tensor([9, 3, 0]), "from 0 to 9"),
        (torch.tensor([10, 3, 1]), "from 1 to 10"),
        (torch.tensor([9, -1, 1]), "from -1 to 9"),
        ([9, 3], "one whole number for each of the 3"),
        ([0, 0, 0], "from 0 to 0"),
    ],
    ids=str,
)
def test_wrong_lengths(ours: type, lengths: Any, why: str) -> None:
    """A length of 0 or past the end has no last state."""
    with pytest.raises(LapseError, match=f"lengths .*{why}"):
        ours(7, 5)(torch.zeros(9, 3, 7), lengths=lengths)


@in_every_module
def test_wrong_masks(ours: type) -> None:
    """Masks of another call would broadcast, or turn noise off, in silence."""
    layer, x = ours(7, 5, noise="x:.5@BTF U:.5@IO"), torch.zeros(9, 3, 7)
    layer(x, masks=layer.draw_masks(3, 9))
    layer(x[:, :1], masks=layer.draw_masks(1, 9)._replace(x=None))
    with pytest.raises(LapseError, match=r"mask for x has shape \(2, 9, 1, 7\); .*needs \(3, 9, "):
        layer(x, masks=layer.draw_masks(2, 9))
    with pytest.raises(LapseError, match=r"mask for x has shape \(3, 8, 1, 7\); .*needs \(3, 9, "):
        layer(x, masks=layer.draw_masks(3, 8))
    with pytest.raises(LapseError, match=r"mask for x has shape \(3, 9, 7\)"):
        layer(x, masks=Masks(x=torch.ones(3, 9, 7)))
    with pytest.raises(LapseError, match=r"mask for U has shape \(4, 5\)"):
        layer(x, masks=Masks(U=torch.ones(4, 5)))
    with pytest.raises(LapseError, match=r"one for k_h, where this layer has no noise \(its noise"):
        layer(x, masks=ours(7, 5, noise="s:.5@BTF>prev").draw_masks(3, 9))


@in_every_module
@pytest.mark.parametrize(
    "shape", [(3, 5), (2, 3, 5), (1, 2, 5), (1, 3, 4), (1, 5), (5,), (1, 1, 3, 5)], ids=str
)
def test_wrong_states(ours: type, shape: tuple[int, ...]) -> None:
    """A state for another batch or another layer would broadcast in silence."""
    part = torch.zeros(shape)
    with pytest.raises(LapseError, match=r"hx has shapes .*\(1, 3, 5\)") as caught:
        ours(7, 5)(torch.zeros(9, 3, 7), (part, part) if ours is LSTM else part)
    assert str(tuple(shape)) in str(caught.value)
    with pytest.raises(LapseError, match=r"hx has shapes .*\(1, 5\)"):
        state = torch.zeros(1, 3, 5)
        ours(7, 5)(torch.zeros(9, 7), (state, state) if ours is LSTM else state)


GOOD = torch.zeros(1, 3, 5)


@pytest.mark.parametrize(
    ("ours", "hx"),
    [
        (LSTM, GOOD),
        (LSTM, (GOOD,)),
        (LSTM, (GOOD, GOOD, GOOD)),
        (LSTM, (GOOD, torch.zeros(1, 3, 4))),
        (LSTM, (GOOD, None)),
        (GRU, (GOOD,)),
        (GRU, (GOOD, GOOD)),
        (RNN, [GOOD]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_states_of_the_wrong_kind(ours: type, hx: Any) -> None:
    """A pair for a GRU or one tensor for an LSTM is the mistake of whoever swaps the layer."""
    with pytest.raises(LapseError, match="hx"):
        ours(7, 5)(torch.zeros(9, 3, 7), hx)


@in_every_module
def test_states_of_another_type(ours: type) -> None:
    layer = ours(7, 5)
    hx = torch.zeros(1, 3, 5, dtype=torch.float64)
    with pytest.raises(LapseError, match=r"write hx\.to\(torch\.float32\)"):
        layer(torch.zeros(9, 3, 7), (hx, hx) if ours is LSTM else hx)


@pytest.mark.parametrize("masks", [3, {"h": 1}, torch.ones(3), [torch.ones(3)]], ids=str)
@in_every_module
def test_masks_that_are_none(ours: type, masks: Any) -> None:
    with pytest.raises(
        LapseError, match=r"which is not lapse\.Masks; pass what draw_masks returns"
    ):
        ours(7, 5, recurrent_dropout=0.2)(torch.zeros(9, 3, 7), masks=masks)


@in_every_module
def test_numbers_where_there_is_no_noise_or_no_mask(ours: type) -> None:
    layer, x = ours(7, 5, recurrent_dropout=0.2), torch.zeros(9, 3, 7)
    with pytest.raises(LapseError, match="hold one for y, where this layer has no noise"):
        layer(x, masks=Masks(y=0.25))
    with pytest.raises(LapseError, match="the mask for h is 1; pass what draw_masks returns"):
        layer(x, masks=Masks(h=1))


@in_every_module
def test_noise_is_given_once(ours: type) -> None:
    layer = ours(7, 5, noise="x:.3@BF")
    for name, value in (("noise", ""), ("recurrent_dropout", 0.2)):
        with pytest.raises(LapseError, match=f"{name}=.* was set on a"):
            setattr(layer, name, value)
    assert layer.noise == "x:0.3@BF"


@in_every_module
def test_shapes_on_the_meta_device(ours: type) -> None:
    layer = ours(7, 5, 2, device="meta", noise="x:.3@BTF")
    y, _ = layer(torch.zeros(9, 3, 7, device="meta"))
    assert y.shape == (9, 3, 5) and y.device.type == "meta"


@pytest.mark.parametrize(
    ("noise", "why"),
    [
        (0.5, "noise=0.5 is not noise"),
        ([0.5], "is not noise"),
        (lapse.Zoneout, "is not noise"),
        ("half", "not a noise term"),
        ("x:0.5", "not a noise term"),
        ("q:0.5@BF", "site 'q'"),
        ("x:1.5@BF", r"\[0, 1\)"),
        ("U:0.5@BF", "shared by batch"),
        ("x:0.5@BT>prev", "no previous value"),
        ("x:learned@BF~concrete", "no layer runs yet"),
        (lapse.EmbeddingDropout(0.1), "embedding table"),
    ],
    ids=str,
)
@in_every_module
def test_wrong_noise(ours: type, noise: Any, why: str) -> None:
    """Refused when the module is made, not in the first training step."""
    with pytest.raises(LapseError, match=why):
        ours(7, 5, noise=noise)


@pytest.mark.parametrize(
    "rate", [1.0, 1, -0.1, 2.5, float("nan"), float("inf"), "half", None, True]
)
@in_every_module
def test_wrong_recurrent_dropout(ours: type, rate: Any) -> None:
    """nn takes a dropout of 1; here nothing could be scaled up to make up for it."""
    with pytest.raises(LapseError):
        ours(7, 5, recurrent_dropout=rate)


@pytest.mark.parametrize("ours", [GRU, RNN])
def test_a_site_that_the_cell_lacks(ours: type) -> None:
    """Only the LSTM has a cell; the message lists what there is."""
    with pytest.raises(LapseError, match="no cell state; its sites are x h y W U"):
        ours(7, 5, noise=lapse.Zoneout(0.1, 0.1))


def test_unknown_nonlinearity() -> None:
    """nn.RNN's message for this names no choice."""
    for wrong in ("sigmoid", "", "TANH"):
        with pytest.raises(LapseError, match="'tanh' or 'relu'"):
            RNN(7, 5, nonlinearity=wrong)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_between_layers_needs_layers(rate: float) -> None:
    """nn warns that `dropout=` does nothing in one layer; the warning must come through."""
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        LSTM(7, 5, dropout=rate)


@in_every_module
def test_a_mask_has_gates_only_where_several_gates_read_it(ours: type) -> None:
    """More would be dropped in silence."""
    layer = ours(4, 8, noise="y:.5@BF x:.5@BF")
    layer(torch.zeros(3, 2, 4), masks=Masks(x=torch.ones(2, 1, 1, 4)))
    gates = len(GATES[layer.cell])
    with pytest.raises(LapseError, match=r"the mask for y has shape .* needs \(2, 3, 1, 8\)"):
        layer(torch.zeros(3, 2, 4), masks=Masks(y=torch.ones(2, 1, gates + 1, 8)))


@in_every_module
def test_seeds_are_drawn_on_the_processor(ours: type) -> None:
    """Whatever the default device is when the layer is called."""
    layer = ours(4, 8, recurrent_dropout=0.2)
    torch.manual_seed(3)
    expected = layer(torch.zeros(3, 2, 4))[0]
    torch.manual_seed(3)
    x = torch.zeros(3, 2, 4)
    with torch.device("meta"):
        found = layer(x)[0]
    assert torch.equal(found, expected)


@in_every_module
def test_a_call_makes_no_terms(ours: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is read once, when the layer is made; also in copies."""
    layer = ours(4, 8, num_layers=2, dropout=0.1, recurrent_dropout=0.2, noise="y:.5@BF")
    copies = [copy.deepcopy(layer), layer.eval()]
    monkeypatch.setattr(Term, "__post_init__", lambda term: pytest.fail(f"{term.site} is read"))
    for one in (layer, *copies):
        one.train()(torch.zeros(3, 2, 4))[0].sum().backward()
        one.eval()(torch.zeros(1, 2, 4))
        one.draw_masks(2, 3)
