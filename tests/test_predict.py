"""Noise that stays on in evaluation, and what `lapse.predict` says of it; for PyTorch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lapse
from lapse import LapseError
from lapse.torch import GRU, LSTM, RNN, Embedding, convert, mc_dropout
from lapse.uncertainty import Moments
from torch_support import MODULES, one_thread  # noqa: F401  the fixture is for all here

FEATURES, UNITS, BATCH, TIMESTEPS = 7, 11, 3, 31


class Reader(nn.Module):
    """A recurrent module, batch normalization and what an application puts around it."""

    def __init__(self, recurrent: nn.Module, outputs: int = 5) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.normal = nn.BatchNorm1d(UNITS)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(UNITS, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.recurrent(x)
        return self.last(self.drop(self.normal(y[:, -1])))


class First(nn.Module):
    """The first output of a module that has several."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.inner(*inputs)[0]


class Mine(nn.Dropout):
    """Derived from a module with noise."""


def stock(**options: Any) -> nn.Module:
    return nn.LSTM(FEATURES, UNITS, 2, dropout=0.4, batch_first=True, **options)


def parametrized() -> nn.Module:
    module = GRU(FEATURES, UNITS, noise="U:.5@IO")
    return nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")


def transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 13, dropout=0.4, batch_first=True)


def transformers() -> nn.Module:
    return nn.TransformerEncoder(transformer(), 2)


X = torch.randn(BATCH, TIMESTEPS, FEATURES, generator=torch.Generator().manual_seed(0))
X8 = torch.randn(BATCH, TIMESTEPS, 8, generator=torch.Generator().manual_seed(0))
WORDS = torch.arange(BATCH * TIMESTEPS).reshape(BATCH, TIMESTEPS)

NOISY: dict[str, tuple[Callable, Tensor]] = {
    "Dropout": (lambda: nn.Dropout(0.5), X),
    "derived from Dropout": (lambda: Mine(0.5), X),
    "Dropout1d": (lambda: nn.Dropout1d(0.5), X),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), X[None]),
    "Dropout3d": (lambda: nn.Dropout3d(0.5), X[None, None]),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.5), X),
    "FeatureAlphaDropout": (lambda: nn.FeatureAlphaDropout(0.5), X),
    "PyTorch's LSTM": (lambda: First(stock()), X),
    "PyTorch's GRU": (lambda: First(nn.GRU(FEATURES, UNITS, 2, dropout=0.5)), X),
    "attention": (lambda: Attending(0.5), X8),
    "a transformer": (transformer, X8),
    "transformers": (transformers, X8),
    "LSTM": (lambda: First(LSTM(FEATURES, UNITS, noise=lapse.Zoneout(0.3))), X),
    "GRU": (lambda: First(GRU(FEATURES, UNITS, recurrent_dropout=0.3)), X),
    "RNN between layers": (lambda: First(RNN(FEATURES, UNITS, 2, dropout=0.3)), X),
    "parametrized": (lambda: First(parametrized()), X),
    "Embedding": (lambda: Embedding(100, 3, noise="emb:.5@BV"), WORDS),
    "in the middle of a model": (lambda: Reader(LSTM(FEATURES, UNITS, batch_first=True)), X),
    "converted": (lambda: Reader(convert(stock(), noise="h:.3@BFG")), X),
}
QUIET: dict[str, Callable] = {
    "Linear": lambda: nn.Linear(3, 2),
    "Dropout at rate 0": lambda: nn.Dropout(0.0),
    "a single layer": lambda: LSTM(FEATURES, UNITS),
    "dropout=0": lambda: nn.LSTM(FEATURES, UNITS, 2),
    "Embedding": lambda: Embedding(100, 3),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "a transformer": lambda: nn.TransformerEncoderLayer(8, 2, dropout=0.0),
}


class Attending(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=rate, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("name", NOISY)
def test_what_it_draws_is_what_training_draws(name: str) -> None:
    torch.manual_seed(0)
    make, x = NOISY[name]
    model = make()
    normal = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    model.train()
    for module in normal:
        module.eval()
    with torch.no_grad():
        torch.manual_seed(5)
        trained = [model(x) for _ in range(2)]
        model.eval()
        quiet = model(x)
        torch.manual_seed(5)
        with mc_dropout(model):
            kept = [model(x) for _ in range(2)]
        assert torch.equal(model(x), quiet)
    for one, other in zip(kept, trained, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        assert (one != quiet).any()
    assert (kept[0] != kept[1]).any()


def test_all_else_stays_as_it_is_and_is_put_back() -> None:
    """In evaluation, in training, nested, and where an error ends it."""
    model = Reader(nn.utils.parametrizations.weight_norm(stock(), "weight_hh_l0"))
    model.eval()
    model.normal.running_mean += 1
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with mc_dropout(model):
        model(X)
        within = flags(model)
        assert model.drop.training and model.recurrent.training
        assert sum(within) == 2
        with mc_dropout(model.drop):
            pass
        assert flags(model) == within
    assert not any(flags(model))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    model.train()
    model.drop.eval()
    mixed = flags(model)
    with pytest.raises(ZeroDivisionError), mc_dropout(model):
        assert all(flags(model))
        _ = 1 / 0
    assert flags(model) == mixed


@pytest.mark.parametrize("name", QUIET)
def test_a_model_without_noise_is_refused(name: str) -> None:
    model = QUIET[name]()
    before = flags(model)
    with pytest.raises(LapseError, match="has no noise to keep on"), mc_dropout(model):
        pass
    with pytest.raises(LapseError, match="has no noise to keep on"):
        lapse.predict(model, X)
    assert flags(model) == before


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(LapseError, match="is not a module of PyTorch"), mc_dropout(3):  # type: ignore[arg-type]
        pass
    for wrong in (None, 3, nn.LSTM, lambda x: x):
        with pytest.raises(LapseError, match="which is not a model of Keras or PyTorch"):
            lapse.predict(wrong, X)


class Scripted(nn.Module):
    """Gives what it is told, pass by pass; its noise goes unused."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs = [torch.tensor(one) for one in outputs]
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs.pop(0)


def scripted(outputs: Any, **options: Any) -> lapse.Prediction:
    return lapse.predict(Scripted(outputs), X, samples=len(outputs), **options)


def test_mean_and_spread_by_hand() -> None:
    found = scripted([[[1.0, 5.0]], [[2.0, 5.0]], [[6.0, 5.0]]])
    assert found.mean.tolist() == [[3.0, 5.0]]
    np.testing.assert_allclose(found.spread, [[math.sqrt((4 + 1 + 9) / 2), 0]], rtol=1e-15)
    assert found.entropy is found.mutual_information is None


def test_entropy_and_mutual_information_by_hand() -> None:
    """Four inputs: sure and agreed, sure and disagreed, unsure and agreed, and between these."""
    first = [[1.0, 0, 0], [1.0, 0, 0], [0.5, 0.5, 0], [0.7, 0.2, 0.1]]
    other = [[1.0, 0, 0], [0.0, 1, 0], [0.5, 0.5, 0], [0.1, 0.2, 0.7]]
    found = scripted(np.array([first, other]), classes="probabilities")
    assert found.mean.shape == found.spread.shape == (4, 3)
    of_mean = -(0.8 * math.log(0.4) + 0.2 * math.log(0.2))
    of_each = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    log2 = math.log(2)
    np.testing.assert_allclose(found.entropy, [0, log2, log2, of_mean], atol=1e-15)
    np.testing.assert_allclose(
        found.mutual_information, [0, log2, 0, of_mean - of_each], atol=1e-15
    )


def test_logits_become_probabilities_in_each_pass() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (7, BATCH, 5, 3))
    powers = np.exp(logits)
    draws = powers / powers.sum(-1, keepdims=True)
    found = scripted(logits, classes="logits")
    np.testing.assert_allclose(found.mean, draws.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.spread, draws.std(0, ddof=1), rtol=1e-9)
    same = scripted(draws, classes="probabilities")
    np.testing.assert_allclose(found.entropy, same.entropy, rtol=1e-12)
    np.testing.assert_allclose(found.mutual_information, same.mutual_information, atol=1e-12)
    assert found.entropy.shape == (BATCH, 5)
    huge = scripted([[[1e4, 0.0]], [[0.0, -1e4]]], classes="logits")
    assert huge.entropy.tolist() == [0] and huge.mean.tolist() == [[1, 0]]


@pytest.mark.parametrize("classes", ["logits", "probabilities"])
def test_one_class_is_one_against_another(classes: str) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (7, BATCH, 1))
    draws = 1 / (1 + np.exp(-logits))
    found = scripted(logits if classes == "logits" else draws, classes=classes)
    assert found.mean.shape == found.spread.shape == (BATCH, 1)
    np.testing.assert_allclose(found.mean, draws.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.spread, draws.std(0, ddof=1), rtol=1e-9)
    both = scripted(np.concatenate([draws, 1 - draws], -1), classes="probabilities")
    np.testing.assert_allclose(found.entropy, both.entropy, rtol=1e-12)
    np.testing.assert_allclose(found.mutual_information, both.mutual_information, atol=1e-12)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([[0.5, 0.6]], "sum to 1.1 to 1.1, not 1"),
        ([[-0.5, 1.5]], "run from -0.5 to 1.5"),
        ([[1.5]], "run from -0.5 to 1.5"),
        ([[math.nan, 1.0]], "run from nan to nan"),
    ],
    ids=["sum", "negative", "above 1", "nan"],
)
def test_probabilities_that_are_none_are_refused(outputs: Any, said: str) -> None:
    with pytest.raises(LapseError, match=re.escape(said)):
        scripted([outputs, outputs], classes="probabilities")


def test_moments_are_numpy_s() -> None:
    """Also where the mean is far larger than the spread, which sums of squares would lose."""
    draws = 1e9 + np.random.default_rng(0).normal(size=(100, 7, 3))
    found = Moments()
    for one in draws:
        found.add(one)
    np.testing.assert_allclose(found.mean, draws.mean(0), rtol=1e-15)
    np.testing.assert_allclose(found.spread, draws.std(0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_a_linear_layer_behind_dropout_has_the_moments_of_theory(rate: float) -> None:
    """Each weight's part w x varies by (w x)^2 rate / (1 - rate), apart from all others."""
    torch.manual_seed(0)
    linear, x, samples = nn.Linear(63, 2).double(), torch.randn(7, 63).double(), 4000
    found = lapse.predict(nn.Sequential(nn.Dropout(rate), linear), x, samples, seed=1)
    mean = linear(x).detach().numpy()
    parts = (x[:, None] * linear.weight).detach().numpy() ** 2 * rate / (1 - rate)
    variance = parts.sum(-1)
    assert (abs(found.mean - mean) < 5 * np.sqrt(variance / samples)).all()
    excess = (1 / (rate * (1 - rate)) - 6) * (parts**2).sum(-1) / variance**2
    error = variance * np.sqrt((excess + 2) / samples)
    assert (abs(found.spread**2 - variance) < 5 * error).all()


@pytest.mark.parametrize("ours", MODULES, ids=lambda module: module.__name__)
def test_recurrent_noise_spreads_as_training_does(ours: type) -> None:
    """A model of ours; batch normalization as in evaluation."""
    torch.manual_seed(0)
    model = Reader(ours(FEATURES, UNITS, batch_first=True, recurrent_dropout=0.3)).double()
    model.drop.p = 0.0
    model.train()
    model.normal.eval()
    torch.manual_seed(5)
    with torch.no_grad():
        draws = np.array([model(X.double()).numpy() for _ in range(9)])
    torch.manual_seed(5)
    found = lapse.predict(model, X.double(), samples=9)
    np.testing.assert_allclose(found.mean, draws.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.spread, draws.std(0, ddof=1), rtol=1e-9, atol=1e-12)
    assert (found.spread > 0).all()


MODELS = {
    "PyTorch's": lambda **_: Reader(stock()),
    "converted": lambda **_: Reader(convert(stock(), recurrent_dropout=0.2)),
    "lapse's": lambda **options: Reader(
        LSTM(FEATURES, UNITS, batch_first=True, recurrent_dropout=0.2, **options)
    ),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("own", [False, True], ids=["global", "own generator"])
def test_a_seed_repeats_all_and_moves_no_generator(kind: str, own: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    model = MODELS[kind](**({"generator": generator} if own else {}))
    states = torch.random.get_rng_state(), generator.get_state()
    one, same, other = (lapse.predict(model, X, 5, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])
    assert (one.mean == same.mean).all() and (one.spread == same.spread).all()
    assert (one.mean != other.mean).any()
    free, again = (lapse.predict(model, X, 5) for _ in range(2))
    assert (free.mean != again.mean).any()


def test_generators_of_two_layers_do_not_draw_the_same() -> None:
    made = [torch.Generator(), torch.Generator()]
    side = nn.ModuleList(
        Embedding(100, 1, noise="emb:.5@V", generator=generator) for generator in made
    )
    for module in side:
        nn.init.ones_(module.weight)

    class Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.side = side

        def forward(self, x: Tensor) -> Tensor:
            return (self.side[0](x) != self.side[1](x)).double()

    assert lapse.predict(Side(), WORDS, 5, seed=1).mean.mean() > 0.3


def test_the_model_is_left_as_it_was() -> None:
    model = Reader(stock())
    for mode in (model.train, model.eval):
        mode()
        model.drop.train(not model.training)
        before, state = flags(model), {k: v.clone() for k, v in model.state_dict().items()}
        lapse.predict(model, X, 3)
        assert flags(model) == before
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.is_grad_enabled()


def test_an_error_leaves_the_model_as_it_was_at_once() -> None:
    model = Reader(LSTM(FEATURES, UNITS, batch_first=True, recurrent_dropout=0.5))
    state = torch.random.get_rng_state()
    try:
        lapse.predict(model, X, 3, classes="probabilities", seed=1)
    except LapseError:  # while its traceback still holds all frames
        assert all(flags(model)) and torch.is_grad_enabled()
        assert torch.equal(torch.random.get_rng_state(), state)
    else:
        pytest.fail("these outputs are no probabilities")


def test_modules_that_do_more_when_they_train_get_to_do_it() -> None:
    class Merging(nn.Dropout):
        merged = False

        def train(self, mode: bool = True) -> nn.Module:
            self.merged = not mode
            return super().train(mode)

        def forward(self, x: Tensor) -> Tensor:
            assert self.merged
            return super().forward(x)

    model = Merging(0.5)
    lapse.predict(model, X, 2)
    assert not model.merged


def test_batches_are_passed_one_by_one() -> None:
    seen = []
    model = nn.Sequential(nn.Linear(FEATURES, 2), nn.Dropout(0.5))
    model.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    x = torch.randn(7, FEATURES)
    whole = lapse.predict(model, x, 2)
    assert seen == [7, 7]
    seen.clear()
    parts = lapse.predict(model, x, 2, batch_size=3)
    assert seen == [3, 3, 1] * 2
    assert parts.mean.shape == whole.mean.shape == (7, 2)
    # Twice the output or nothing, from the sample at the same place.
    exact = model.eval()(x).detach().numpy()
    assert np.isin((parts.mean / exact).round(5), [0, 1, 2]).all()


def test_arrays_become_tensors_of_the_model_s_type() -> None:
    model = Reader(stock())
    given = X.double().numpy()
    given.flags.writeable = False
    tensor, array = (lapse.predict(model, x, 2, seed=1).mean for x in (X, given))
    assert (tensor == array).all()
    half = nn.Sequential(nn.Linear(FEATURES, 2), nn.Dropout(0.5)).bfloat16()
    found = lapse.predict(half, given, 3, seed=1)
    assert found.mean.dtype == np.float64 and found.spread.any()
    words = lapse.predict(Embedding(100, 3, noise="emb:.5@BV"), WORDS.numpy(), 2)
    assert words.mean.shape == (BATCH, TIMESTEPS, 3)


def test_a_tuple_holds_the_arguments() -> None:
    module = First(nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True))
    arguments = (X8, X8.numpy(), X8)
    one = lapse.predict(module, arguments, 3, seed=1)
    other = lapse.predict(Attending(0.5), X8, 3, seed=1)
    assert one.mean.shape == other.mean.shape == (BATCH, TIMESTEPS, 8)
    with pytest.raises(LapseError, match="first axes must have the same size"):
        lapse.predict(module, (X8, X8[:1], X8), 3, batch_size=2)


@pytest.mark.parametrize(
    "wrong",
    [[X], {"x": X}, None, nn.utils.rnn.pack_sequence([X[0]])],
    ids=["list", "dict", "None", "packed"],
)
def test_inputs_that_are_no_tensors_are_refused(wrong: Any) -> None:
    with pytest.raises(LapseError, match="an argument of the model has the type"):
        lapse.predict(Reader(stock()), wrong)


def test_several_outputs_are_refused() -> None:
    with pytest.raises(LapseError, match=r"gave a tuple.*such as lstm\(x\)"):
        lapse.predict(stock(), X)


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 1},
        {"samples": True},
        {"samples": 2.0},
        {"batch_size": 0},
        {"classes": True},
        {"classes": "softmax"},
        {"seed": -1},
        {"seed": 0.5},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(LapseError, match=f"^{name}={value!r} was given"):
        lapse.predict(nn.Dropout(0.5), X, **wrong)
