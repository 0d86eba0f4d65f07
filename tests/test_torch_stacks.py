"""Several layers, two directions and packed sequences: nn's own, and noise in each of them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import catalog
from lapse.core import drawing
from lapse.core.errors import LapseError
from lapse.core.plan import plan
from lapse.torch import LSTM
from torch_support import (
    arrays_of,
    assert_close,
    doubled,
    flat,
    gradients,
    in_every_module,
    in_every_pair,
    one_thread,  # noqa: F401  for every test here
    pair,
    stacked,
    state_of,
    weights_of,
)

LENGTHS = torch.tensor([9, 1, 4, 9, 7])
STACKS = [
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "bias": False},
]
in_every_stack = pytest.mark.parametrize("options", STACKS, ids=str)
TOLERANCE = catalog.TOLERANCE["float64"]
NOISE = "x:.3@BF h:.4@BFG s:.1@BTF>prev U:.2@IO y:.2@BTF"


def count(options: dict[str, Any]) -> int:
    """How many layers and directions."""
    return int(options.get("num_layers", 1) * (1 + options.get("bidirectional", False)))


# The same as nn.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", ["batch first", "time first", "unbatched"])
@in_every_stack
@in_every_pair
def test_outputs_and_gradients_are_pytorchs(
    ours: type, theirs: type, options: dict[str, Any], layout: str, dtype: torch.dtype
) -> None:
    ones = pair(ours, theirs, 7, 5, batch_first=layout == "batch first", dtype=dtype, **options)
    shape = {"batch first": (3, 31, 7), "time first": (31, 3, 7), "unbatched": (31, 7)}[layout]
    torch.manual_seed(1)
    x = torch.randn(*shape, dtype=dtype, requires_grad=True)
    rows = (count(options), 5) if layout == "unbatched" else (count(options), 3, 5)
    hx = state_of(ones[0], *rows)
    for state in (None, hx):
        inputs = [x, *(() if state is None else hx if isinstance(hx, tuple) else (hx,))]
        found, expected = (flat(one(x, state)) for one in ones)
        tolerance = catalog.TOLERANCE[str(dtype).removeprefix("torch.")]
        assert_close(found, expected, tolerance.values)
        back = [gradients(one, r, inputs) for one, r in zip(ones, (found, expected), strict=True)]
        assert_close(*back, tolerance.gradients)


@in_every_stack
@in_every_pair
def test_state_dicts_are_interchangeable(ours: type, theirs: type, options: dict[str, Any]) -> None:
    one, other = ours(7, 5, **options), theirs(7, 5, **options)
    assert list(one.state_dict()) == list(other.state_dict())
    other.load_state_dict(one.state_dict(), strict=True)
    one.load_state_dict(other.state_dict(), strict=True)


@pytest.mark.parametrize("ordered", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("options", [{}, *STACKS], ids=str)
@in_every_pair
def test_packed_sequences_are_pytorchs(
    ours: type, theirs: type, options: dict[str, Any], ordered: bool
) -> None:
    ones = pair(ours, theirs, 7, 5, **options)
    lengths = LENGTHS.sort(descending=True).values if ordered else LENGTHS
    torch.manual_seed(1)
    x = torch.randn(9, 5, 7, dtype=torch.float64, requires_grad=True)
    hx = state_of(ones[0], count(options), 5, 5)
    (y, last), (wanted, wanted_last) = (
        one(pack_padded_sequence(x, lengths, enforce_sorted=ordered), hx) for one in ones
    )
    assert isinstance(y, PackedSequence)
    for one, other in zip(y[1:], wanted[1:], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    found, expected = flat((y.data, last)), flat((wanted.data, wanted_last))
    assert_close(found, expected, TOLERANCE.values)
    inputs = [x, *(hx if isinstance(hx, tuple) else (hx,))]
    back = [gradients(one, r, inputs) for one, r in zip(ones, (found, expected), strict=True)]
    assert_close(*back, TOLERANCE.gradients)


# Noise.


@in_every_stack
@in_every_module
def test_a_packed_batch_has_the_masks_of_the_padded_one(
    ours: type, options: dict[str, Any]
) -> None:
    """Bit for bit, in the order of the batch before it was packed."""
    torch.manual_seed(0)
    module, x = ours(7, 5, noise=NOISE, **options), torch.randn(9, 5, 7)
    torch.manual_seed(3)
    y, last = module(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
    torch.manual_seed(3)
    wanted, wanted_last = module(x, lengths=LENGTHS)
    for one, other in zip(
        flat((pad_packed_sequence(y)[0], last)), flat((wanted, wanted_last)), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("between", [0.0, 0.3])
@in_every_stack
@in_every_module
def test_training_is_the_oracle_layer_by_layer(
    ours: type, options: dict[str, Any], between: float
) -> None:
    """Each layer and direction has a stream of its own, with one seed for all."""
    layers, directions = options.get("num_layers", 1), 1 + options.get("bidirectional", False)
    options = {**options, "dropout": between if layers > 1 else 0.0}
    torch.manual_seed(0)
    module = ours(7, 5, batch_first=True, noise=NOISE, **options).double()
    x = torch.randn(3, 9, 7, dtype=torch.float64)
    found = flat(module(x, masks=module.draw_masks(3, 9, seed=11)))
    drawn = []
    for layer in range(layers):
        terms = NOISE + (f" x:{between}@BTF" if layer and between else "")
        for direction in range(directions):
            masks = drawing.draw(
                plan(terms, module.cell), 11, batch=3, timesteps=9,
                features=5 * directions if layer else 7, units=5, layer=layer, direction=direction,
                compact=True,
            )  # fmt: skip
            drawn.append(doubled(masks))
    weights = weights_of(module, arrays_of(module))
    expected = stacked(module.cell, x.numpy(), weights, drawn, directions=directions)
    assert_close(found, list(map(torch.tensor, expected)), TOLERANCE.values)


@in_every_module
def test_what_is_drawn_is_what_draw_masks_gives(ours: type) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dropout": 0.5}
    module, x = ours(7, 5, noise=NOISE, **options), torch.randn(9, 3, 7)
    torch.manual_seed(3)
    drawn = module.draw_masks(3, 9)
    torch.manual_seed(3)
    for one, other in zip(flat(module(x)), flat(module(x, masks=drawn)), strict=True):
        assert torch.equal(one, other)
    assert len(drawn) == 4
    for n in range(4):  # the second layer reads two directions, and drops between layers too
        assert drawn[n].x.shape == (3, 1 if n < 2 else 9, 1, 7 if n < 2 else 10)
        for m in range(n):
            assert not torch.equal(drawn[m].h, drawn[n].h)


@in_every_pair
def test_dropout_between_layers_acts_in_training_only(ours: type, theirs: type) -> None:
    one, other = pair(ours, theirs, 7, 5, num_layers=2, dropout=0.5)
    x = torch.randn(9, 3, 7, dtype=torch.float64)
    assert not torch.equal(one(x)[0], one(x)[0])
    assert_close(flat(one.eval()(x)), flat(other.eval()(x)), TOLERANCE.values)


def test_dropout_may_change_after_construction() -> None:
    one, other = pair(LSTM, nn.LSTM, 7, 5, num_layers=2, dropout=0.5)
    x = torch.randn(9, 3, 7, dtype=torch.float64)
    one.dropout = other.dropout = 0.0
    assert_close(flat(one(x)), flat(other(x)), TOLERANCE.values)
    one.dropout = 0.5
    assert set(one.draw_masks(3, 9)[1].x.unique().tolist()) == {0.0, 2.0}


def test_what_is_dropped_between_layers_is_scaled_as_in_pytorch() -> None:
    """Half of what the second layer reads is 0, the rest is doubled."""
    torch.manual_seed(0)
    module = LSTM(7, 300, num_layers=2, dropout=0.5)
    (first, second) = module.draw_masks(3, 31)
    assert first.x is None
    assert set(second.x.unique().tolist()) == {0.0, 2.0}
    assert abs(float((second.x == 0).double().mean()) - 0.5) < 0.01  # 27,900 coins: 3.3 deviations


def test_a_compiled_stack_is_the_eager_one() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    module = LSTM(7, 5, num_layers=2, bidirectional=True, dropout=0.3, noise="h:.4@BFG y:.2@BTF")
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(9, 3, 7)
    torch.manual_seed(3)
    found = flat(compiled(x))
    torch.manual_seed(3)
    expected = flat(module(x))
    back = [gradients(module, results, []) for results in (found, expected)]
    for one, other in zip([*found, *back[0]], [*expected, *back[1]], strict=True):
        torch.testing.assert_close(one, other)
    torch.compiler.reset()


# As a module among modules.

WHOLE: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "noise": NOISE}


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@in_every_module
def test_copies_of_a_stack_after_training(ours: type, how: str) -> None:
    torch.manual_seed(0)
    module, x = ours(7, 5, **WHOLE), torch.randn(9, 3, 7)
    module(x)[0].sum().backward()
    other = copy.deepcopy(module) if how == "deepcopy" else pickle.loads(pickle.dumps(module))
    results = []
    for one in (module, other):
        torch.manual_seed(3)
        results.append(flat(one(x)))
    for one, copied in zip(*results, strict=True):
        assert torch.equal(one, copied)
    with torch.no_grad():
        other.weight_hh_l1_reverse.zero_()
    assert (module.weight_hh_l1_reverse != 0).any()


@in_every_module
def test_functional_call_reaches_every_layer_and_direction(ours: type) -> None:
    torch.manual_seed(0)
    one, other, x = ours(7, 5, **WHOLE), ours(7, 5, **WHOLE), torch.randn(9, 3, 7)
    masks = one.draw_masks(3, 9)
    expected = flat(other(x, masks=masks))
    found = flat(functional_call(one, dict(other.named_parameters()), (x,), {"masks": masks}))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one(x, masks=masks)[0], found[0])


@pytest.mark.parametrize(
    "norm",
    [parametrizations.weight_norm, parametrizations.spectral_norm],
    ids=["weight", "spectral"],
)
@in_every_module
def test_gradients_reach_what_weights_are_made_of(ours: type, norm: Any) -> None:
    torch.manual_seed(0)
    module, x = ours(7, 5, **WHOLE), torch.randn(9, 3, 7)
    for name in ("weight_hh_l0", "weight_hh_l1_reverse"):
        norm(module, name)
    module.eval()  # a spectral norm moves on at each call in training
    masks = module.draw_masks(3, 9)
    (y, _), plain = module(x, masks=masks), {}
    for name, value in module.state_dict().items():
        if "parametrizations" not in name:
            plain[name] = value
    for name in ("weight_hh_l0", "weight_hh_l1_reverse"):
        plain[name] = getattr(module, name)
    other = ours(7, 5, **WHOLE)
    other.load_state_dict(plain, strict=True)
    assert torch.equal(y, other(x, masks=masks)[0])
    y.square().sum().backward()
    for name in ("weight_hh_l0", "weight_hh_l1_reverse"):
        for original in module.parametrizations[name].parameters():
            assert (original.grad != 0).any()


# Mistakes.


def test_masks_for_another_number_of_layers() -> None:
    module, x = LSTM(7, 5, num_layers=2, noise="x:.5@BF"), torch.zeros(9, 3, 7)
    one = LSTM(7, 5, noise="x:.5@BF").draw_masks(3, 9)
    for wrong, number in ((one, 1), ([one] * 3, 3)):
        with pytest.raises(LapseError, match=rf"has length {number}; .* 2 in all"):
            module(x, masks=wrong)
    with pytest.raises(LapseError, match="mask for x"):  # the second layer reads 5 features, not 7
        module(x, masks=[one, one])


def test_states_of_another_number_of_layers() -> None:
    state = (torch.zeros(2, 3, 5),) * 2
    with pytest.raises(LapseError, match=r"of shape \(4, 3, 5\)"):
        LSTM(7, 5, num_layers=2, bidirectional=True)(torch.zeros(9, 3, 7), state)


def test_lengths_beside_a_packed_sequence() -> None:
    packed = pack_padded_sequence(torch.zeros(9, 3, 7), torch.tensor([9, 4, 1]))
    with pytest.raises(LapseError, match="has its own"):
        LSTM(7, 5)(packed, lengths=[9, 4, 1])


def test_a_packed_sequence_of_other_features() -> None:
    packed: Tensor | PackedSequence = pack_padded_sequence(
        torch.zeros(9, 3, 6), torch.tensor([9, 4, 1])
    )
    with pytest.raises(LapseError, match=r"needs .*7\)"):
        nn.Sequential(LSTM(7, 5))(packed)
