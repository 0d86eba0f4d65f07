"""Noise that stays on in evaluation, and what `lapse.predict` says of it; for Keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras_support import BATCH, FEATURES, TIMESTEPS, UNITS, array

import lapse
import lapse.keras
from lapse.core.errors import LapseError
from lapse.keras import mc_dropout

X = np.random.default_rng(0).normal(size=(BATCH, TIMESTEPS, FEATURES)).astype("float32")
WORDS = np.arange(BATCH * TIMESTEPS).reshape(BATCH, TIMESTEPS)
BOTH: dict[str, Any] = {"dropout": 0.3, "recurrent_dropout": 0.4, "seed": 3}


class Always(layers.Dropout):
    """The usual recipe for dropout in evaluation."""

    def call(self, inputs: Any) -> Any:
        return super().call(inputs, training=True)


class Block(layers.Layer):
    """A layer with layers inside."""

    def __init__(self) -> None:
        super().__init__()
        self.normal = layers.BatchNormalization()
        self.drop = layers.Dropout(0.3, seed=3)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.drop(self.normal(x, training=training), training=training)


class Mine(keras.Model):
    """A subclassed model, which hands on no `training`."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.parts = list(parts)

    def call(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x


def sequential(*parts: Any) -> Any:
    return keras.Sequential([keras.Input((TIMESTEPS, FEATURES)), *parts])


def attending() -> Any:
    x = keras.Input((TIMESTEPS, FEATURES))
    return keras.Model(x, layers.MultiHeadAttention(2, 3, dropout=0.4, seed=3)(x, x))


def attention(kind: Any) -> Any:
    x = keras.Input((TIMESTEPS, FEATURES))
    return keras.Model(x, kind(dropout=0.4, seed=3)([x, x]))


def stacked(module: Any) -> Any:
    """Cells know nothing of the sequence, so their masks are drawn around the loop."""
    cells = [module.LSTMCell(UNITS, dropout=0.3, seed=3), module.GRUCell(UNITS, dropout=0.3)]
    cells[1].seed_generator = keras.random.SeedGenerator(4)
    return sequential(layers.RNN(cells, return_sequences=True))


def nested() -> Any:
    inside = sequential(layers.Dense(UNITS), layers.Dropout(0.4, seed=3))
    x = keras.Input((TIMESTEPS, FEATURES))
    return keras.Model(x, layers.Dense(2)(layers.TimeDistributed(layers.Dense(3))(inside(x))))


def subclassed() -> Any:
    model = Mine(Block(), layers.GRU(UNITS, **BOTH))
    model(X)
    return model


STOCK: dict[str, Callable] = {
    "Dropout": lambda: sequential(layers.Dropout(0.5, seed=3)),
    "SpatialDropout1D": lambda: sequential(layers.SpatialDropout1D(0.5, seed=3)),
    "AlphaDropout": lambda: sequential(layers.AlphaDropout(0.5, seed=3)),
    "GaussianDropout": lambda: sequential(layers.GaussianDropout(0.5, seed=3)),
    "GaussianNoise": lambda: sequential(layers.GaussianNoise(0.5, seed=3)),
    "LSTM": lambda: sequential(layers.LSTM(UNITS, **BOTH)),
    "GRU with dropout= alone": lambda: sequential(layers.GRU(UNITS, dropout=0.3, seed=3)),
    "SimpleRNN": lambda: sequential(layers.SimpleRNN(UNITS, **BOTH)),
    "ConvLSTM1D": lambda: keras.Sequential(
        [
            keras.Input((TIMESTEPS, FEATURES, 2)),
            layers.ConvLSTM1D(3, 3, recurrent_dropout=0.4, seed=3),
        ]
    ),
    "cells": lambda: stacked(layers),
    "Bidirectional": lambda: sequential(layers.Bidirectional(layers.GRU(UNITS, **BOTH))),
    "TimeDistributed": lambda: sequential(layers.TimeDistributed(layers.Dropout(0.5, seed=3))),
    "MultiHeadAttention": attending,
    "Attention": lambda: attention(layers.Attention),
    "AdditiveAttention": lambda: attention(layers.AdditiveAttention),
    "in a model inside": nested,
    "subclassed": subclassed,
}
OURS: dict[str, Callable] = {
    "LSTM": lambda: sequential(lapse.keras.LSTM(UNITS, noise="U:.5@IO s:.2@BTF>prev", seed=3)),
    "GRU": lambda: sequential(lapse.keras.GRU(UNITS, **BOTH)),
    "SimpleRNN": lambda: sequential(lapse.keras.SimpleRNN(UNITS, **BOTH)),
    "cells": lambda: stacked(lapse.keras),
    "Bidirectional": lambda: sequential(layers.Bidirectional(lapse.keras.LSTM(UNITS, **BOTH))),
    "Dropout": lambda: sequential(lapse.keras.Dropout(0.5, over="BF", seed=3)),
    "noise_shape": lambda: sequential(
        lapse.keras.Dropout(0.5, noise_shape=(None, 1, None), seed=3)
    ),
    "SpatialDropout1D": lambda: sequential(lapse.keras.SpatialDropout1D(0.5, seed=3)),
    "TimestepDropout": lambda: sequential(lapse.keras.TimestepDropout(0.5, seed=3)),
    "TimeDistributed": lambda: sequential(layers.TimeDistributed(lapse.keras.Dropout(0.5, seed=3))),
    "Embedding": lambda: keras.Sequential(
        [keras.Input((TIMESTEPS,)), lapse.keras.Embedding(31, 3, noise="emb:.5@BV", seed=3)]
    ),
    "converted": lambda: lapse.keras.convert(
        sequential(layers.LSTM(UNITS, **BOTH), layers.Dropout(0.3, seed=4)), noise="y:.2@BF"
    ),
}
EVERY = {
    **{f"Keras's {name}": make for name, make in STOCK.items()},
    **{f"lapse's {name}": make for name, make in OURS.items()},
}


def whole() -> Any:
    """Batch normalization between noise, in a functional model."""
    x = keras.Input((TIMESTEPS, FEATURES))
    y = layers.BatchNormalization()(layers.LSTM(UNITS, **BOTH)(x))
    y = layers.Dense(4, activation="softmax")(layers.Dropout(0.4)(y))
    model = keras.Model(x, y)
    model.layers[2].moving_mean.assign(np.linspace(-1, 1, UNITS))
    return model


def whole_of_ours() -> Any:
    return lapse.keras.convert(whole(), noise="h:.2@BF")


WHOLE = pytest.mark.parametrize("make", [whole, whole_of_ours])


def inputs_of(model: Any) -> np.ndarray:
    shape = model.inputs[0].shape if hasattr(model, "inputs") else X.shape
    if len(shape) == 2:
        return WORDS
    return X if len(shape) == 3 else np.stack([X, X[::-1]], axis=-1)


def seeds(model: Any) -> list[Any]:
    return [weight for weight in model.variables if weight.name == "seed_generator_state"]


def rewound(model: Any) -> None:
    for number, state in enumerate(seeds(model)):
        state.assign([number + 1, 0])


def predicted(model: Any, x: np.ndarray = X) -> np.ndarray:
    return model.predict(x, verbose=0)


def attributes(model: Any) -> list[set[str]]:
    return [set(vars(layer)) for layer in model._flatten_layers()]


@pytest.mark.parametrize("name", EVERY)
def test_what_it_draws_is_what_training_draws(name: str) -> None:
    model = EVERY[name]()
    x = inputs_of(model)
    quiet = array(model(x))
    before = attributes(model), model.get_config() if name != "Keras's subclassed" else None
    normal = [one for one in model._flatten_layers() if isinstance(one, layers.BatchNormalization)]
    for layer in normal:
        layer.trainable = False  # as in evaluation, in training too
    rewound(model)
    trained = [array(model(x, training=True)) for _ in range(2)]
    rewound(model)
    with mc_dropout(model):
        assert len(seeds(model)) > 0
        kept = [array(model(x)), array(model(x, training=False))]
    for one, other in zip(kept, trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert (one != quiet).any()
    assert (kept[0] != kept[1]).any()
    assert (array(model(x)) == quiet).all()
    after = attributes(model), model.get_config() if name != "Keras's subclassed" else None
    assert after == before


@WHOLE
def test_predict_and_evaluate_draw_inside_and_nowhere_else(make: Callable) -> None:
    """Both are compiled, and what is compiled for one must not serve the other."""
    model = make()
    model.compile(loss="mse")
    y = np.zeros((BATCH, 4))
    statistics = array(model.layers[2].moving_mean)
    quiet, loss = predicted(model), model.evaluate(X, y, verbose=0)
    for _ in range(2):
        with mc_dropout(model):
            one, other = predicted(model), predicted(model)
            assert (one != other).any() and (one != quiet).any()
            losses = [model.evaluate(X, y, verbose=0) for _ in range(2)]
            assert losses[0] != losses[1] and loss not in losses
            with mc_dropout(model):
                assert (predicted(model) != predicted(model)).any()
            assert (predicted(model) != predicted(model)).any()
        np.testing.assert_allclose(predicted(model), quiet, rtol=1e-6)
        np.testing.assert_allclose(model.evaluate(X, y, verbose=0), loss, rtol=1e-6)
    assert (array(model.layers[2].moving_mean) == statistics).all()


def test_evaluate_may_come_first() -> None:
    """Keras then asks for shapes, on PyTorch with tensors of which no number is known."""
    for part in (lapse.keras.LSTM(UNITS, dropout=0.3), lapse.keras.Dropout(0.3)):
        model = sequential(part)
        model.compile(loss="mse")
        y = np.zeros(array(model(X)).shape)
        with mc_dropout(model):
            assert model.evaluate(X, y, verbose=0) != model.evaluate(X, y, verbose=0)


@WHOLE
def test_an_error_inside_ends_it(make: Callable) -> None:
    model = make()
    quiet, before = predicted(model), attributes(model)
    with pytest.raises(ZeroDivisionError), mc_dropout(model):
        predicted(model)
        _ = 1 / 0
    assert attributes(model) == before
    np.testing.assert_allclose(predicted(model), quiet, rtol=1e-6)


def test_a_model_saved_inside_is_the_model(tmp_path: Path) -> None:
    model = whole_of_ours()
    with mc_dropout(model):
        model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(loaded(X)), array(model(X)), rtol=1e-6)


def test_a_layer_that_draws_always_is_noise_too() -> None:
    model = sequential(Always(0.5, seed=3))
    with mc_dropout(model):
        assert (array(model(X)) != array(model(X))).any()


def test_what_has_no_noise_is_refused() -> None:
    quiet = [
        layers.Dropout(0.0),
        layers.LSTM(UNITS),
        lapse.keras.GRU(UNITS),
        lapse.keras.Dropout(0.0),
        layers.BatchNormalization(),
    ]
    for layer in quiet:
        model = sequential(layer)
        with pytest.raises(LapseError, match="has no noise to keep on"), mc_dropout(model):
            pass
        with pytest.raises(LapseError, match="has no noise to keep on"):
            lapse.predict(model, X)
    table = keras.Sequential([keras.Input((TIMESTEPS,)), lapse.keras.Embedding(31, 3)])
    with pytest.raises(LapseError, match="has no noise to keep on"), mc_dropout(table):
        pass


def test_what_is_not_built_and_what_is_no_model_is_refused() -> None:
    with pytest.raises(LapseError, match="is not built yet"), mc_dropout(Mine(layers.Dropout(0.5))):
        pass
    for wrong in (None, "model.keras", layers.Dropout):
        with pytest.raises(LapseError, match="is not a model or layer of Keras"), mc_dropout(wrong):
            pass
        with pytest.raises(LapseError, match="which is not a model of Keras or PyTorch"):
            lapse.predict(wrong, X)
    with pytest.raises(LapseError, match=r"keras\.Sequential\(\[layer\]\)"):
        lapse.predict(layers.Dropout(0.5), X)


@WHOLE
def test_predict_is_mean_and_spread_of_the_model_s_own_draws(make: Callable) -> None:
    model = make()
    keras.utils.set_random_seed(5)  # Keras's Dropout without a seed draws from PyTorch's generator
    rewound(model)
    with mc_dropout(model):
        draws = np.array([predicted(model) for _ in range(5)], np.float64)
    keras.utils.set_random_seed(5)
    rewound(model)
    found = lapse.predict(model, X, samples=5, classes="probabilities")
    np.testing.assert_allclose(found.mean, draws.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.spread, draws.std(0, ddof=1), rtol=1e-4)
    entropies = -(draws * np.log(draws)).sum(-1)
    unsure = -(draws.mean(0) * np.log(draws.mean(0))).sum(-1)
    np.testing.assert_allclose(found.entropy, unsure, rtol=1e-5)
    np.testing.assert_allclose(
        found.mutual_information, unsure - entropies.mean(0), rtol=1e-3, atol=1e-7
    )


@WHOLE
def test_a_seed_repeats_all_and_moves_no_generator(make: Callable) -> None:
    """One of the layers has no seed of its own."""
    model = make()
    before = [array(state).tolist() for state in seeds(model)]
    one, same, other = (lapse.predict(model, X, 3, seed=seed) for seed in (7, 7, 8))
    assert [array(state).tolist() for state in seeds(model)] == before
    assert (one.mean == same.mean).all() and (one.spread == same.spread).all()
    assert (one.mean != other.mean).any()
    free, again = (lapse.predict(model, X, 3) for _ in range(2))
    assert (free.mean != again.mean).any()


def test_a_seed_gives_each_layer_its_own() -> None:
    x = keras.Input((TIMESTEPS, FEATURES))
    sides = [lapse.keras.Dropout(0.5, seed=3)(x) for _ in range(2)]
    model = keras.Model(x, keras.ops.abs(sides[0] - sides[1]))
    assert (lapse.predict(model, X, 3, seed=1).mean > 0).mean() > 0.3


def test_a_stateful_model_starts_each_pass_where_it_stood() -> None:
    layer = lapse.keras.GRU(UNITS, stateful=True, dropout=0.3, seed=3)
    model = keras.Sequential([keras.Input(batch_shape=X.shape), layer])
    predicted(model)
    state = array(layer.states[0])
    rewound(model)
    first = lapse.predict(model, X, 2, batch_size=BATCH)
    assert (array(layer.states[0]) == state).all()
    rewound(model)
    again = lapse.predict(model, X, 2, batch_size=BATCH)
    assert (first.mean == again.mean).all()


def test_several_outputs_are_refused() -> None:
    x = keras.Input((TIMESTEPS, FEATURES))
    model = keras.Model(x, [layers.Dropout(0.5)(x), x])
    with pytest.raises(LapseError, match="has several outputs"):
        lapse.predict(model, X)


def test_a_model_of_keras_s_on_pytorch_is_taken_for_keras_s() -> None:
    """On that backend it is a module of PyTorch's as well."""
    model = whole_of_ours()
    found = lapse.predict(model, X.astype("float64"), 2, batch_size=1)
    assert found.mean.shape == (BATCH, 4) and found.spread.any()


def test_inputs_that_change_from_pass_to_pass_are_refused() -> None:
    model = keras.Sequential([keras.Input((7, 5)), lapse.keras.LSTM(3, recurrent_dropout=0.5)])
    for x in (iter([np.zeros((2, 7, 5))]), (np.zeros((2, 7, 5)) for _ in range(2))):
        with pytest.raises(LapseError, match="its samples must be the same in each pass"):
            lapse.predict(model, x)
