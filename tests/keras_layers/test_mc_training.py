"""Under `mc_dropout` noise is all that training does: no other layer notices it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras_support import BATCH, FEATURES, TIMESTEPS, UNITS, array

import lapse
import lapse.keras
from lapse.keras import mc_dropout

X = np.random.default_rng(0).normal(size=(BATCH, TIMESTEPS, FEATURES)).astype("float32")
IMAGES = np.random.default_rng(1).normal(size=(BATCH, 3, 5, 5, 2)).astype("float32")
BOTH: dict[str, Any] = {"dropout": 0.3, "recurrent_dropout": 0.4, "seed": 3}


def cells(module: Any) -> Any:
    return layers.RNN(
        layers.StackedRNNCells([module.LSTMCell(UNITS, **BOTH), module.GRUCell(UNITS, **BOTH)])
    )


def inside() -> Any:
    """A model with a recurrent layer, to stand in another model."""
    return keras.Sequential([keras.Input((TIMESTEPS, FEATURES)), layers.LSTM(UNITS, **BOTH)])


NOISY: dict[str, Callable] = {
    "LSTM": lambda: layers.LSTM(UNITS, **BOTH),
    "GRU": lambda: layers.GRU(UNITS, **BOTH),
    "SimpleRNN": lambda: layers.SimpleRNN(UNITS, **BOTH),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(UNITS, **BOTH)),
    "StackedRNNCells": lambda: cells(layers),
    "ConvLSTM2D": lambda: layers.ConvLSTM2D(2, 3, **BOTH),
    "in a model inside": inside,
    "lapse's LSTM": lambda: lapse.keras.LSTM(UNITS, **BOTH),
    "lapse's in Bidirectional": lambda: layers.Bidirectional(lapse.keras.LSTM(UNITS, **BOTH)),
    "lapse's cells": lambda: cells(lapse.keras),
    "lapse's cells in Bidirectional": lambda: layers.Bidirectional(
        layers.RNN(lapse.keras.LSTMCell(UNITS, **BOTH))
    ),
    "lapse's Dropout in TimeDistributed": lambda: layers.TimeDistributed(
        lapse.keras.Dropout(0.3, seed=3)
    ),
}
HANDING = ("LSTM", "ConvLSTM2D", "lapse's cells")  # also in a subclassed model
CASE = pytest.mark.parametrize("name", NOISY)


class Handing(keras.Model):
    """A subclassed model that hands on no `training`: its layers read it from the outer call."""

    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.parts = list(parts)

    def call(self, x: Any) -> tuple:
        found = []
        for part in self.parts:
            x = part(x)
            found.append(x)
        return tuple(found)


def input_of(name: str) -> np.ndarray:
    return IMAGES if name == "ConvLSTM2D" else X


def models(name: str) -> list[Any]:
    """The noise, batch normalization behind it, and a Dropout behind that: the outputs of each."""

    def parts() -> list[Any]:
        return [NOISY[name](), layers.BatchNormalization(), layers.Dropout(0.5, seed=5)]

    x = keras.Input(input_of(name).shape[1:])
    outputs = [x]
    for part in parts():
        outputs.append(part(outputs[-1]))
    made = [keras.Model(x, outputs[1:])]
    if name in HANDING:
        made.append(Handing(*parts()))
    for model in made:
        model(input_of(name))
        normal = normalization(model)
        random = np.random.default_rng(2)
        values = [random.uniform(0.5, 2, size=weight.shape) for weight in normal.get_weights()]
        normal.set_weights(values)
    return made


def normalization(model: Any) -> Any:
    (found,) = (
        one for one in model._flatten_layers() if isinstance(one, layers.BatchNormalization)
    )
    return found


def normalized(normal: Any, x: np.ndarray) -> np.ndarray:
    """What batch normalization is in evaluation."""
    scale, offset, mean, variance = normal.get_weights()
    return (x - mean) / np.sqrt(variance + normal.epsilon) * scale + offset


@CASE
def test_batch_normalization_behind_noise_uses_its_averages_and_keeps_them(name: str) -> None:
    x = input_of(name)
    for model in models(name):
        normal = normalization(model)
        before = normal.get_weights()
        with mc_dropout(model):
            draws = [array(model(x)) for _ in range(2)]
        if isinstance(model, Handing):  # `predict` of the other: in the next test
            with mc_dropout(model):
                draws.append(model.predict(x, verbose=0))
        for noise, behind, dropped in draws:
            np.testing.assert_allclose(behind, normalized(normal, noise), rtol=1e-4, atol=1e-5)
            assert 0.2 < (dropped == 0).mean() < 0.8
        assert (draws[0][0] != draws[1][0]).any()
        for one, other in zip(normal.get_weights(), before, strict=True):
            assert (one == other).all()


def rewound(model: Any) -> None:
    states = [one for one in model.variables if one.name == "seed_generator_state"]
    for number, state in enumerate(states):
        state.assign([number + 1, 0])


@pytest.mark.parametrize(
    "name", ["LSTM", "Bidirectional", "ConvLSTM2D", "in a model inside", "lapse's cells"]
)
def test_the_spread_of_calls_is_that_of_predict(name: str) -> None:
    x = input_of(name)
    found = models(name)[0]
    model = keras.Model(found.inputs[0], found.outputs[1])
    rewound(model)
    with mc_dropout(model):
        draws = np.array([array(model(x)) for _ in range(5)], np.float64)
    rewound(model)
    spread = lapse.predict(model, x, samples=5).spread
    np.testing.assert_allclose(spread, draws.std(0, ddof=1), rtol=1e-3, atol=1e-5)


def test_a_call_that_keeps_its_noise_trains_nothing_behind_it() -> None:
    x = keras.Input((TIMESTEPS, FEATURES))
    parts = [
        lapse.keras.LSTM(UNITS, **BOTH),
        lapse.keras.Dropout(0.3, noise_shape=(1, None), seed=3),
    ]
    y = parts[1](parts[0](x, training=True), training=True)
    model = keras.Model(x, [y, layers.BatchNormalization()(y)])
    normal = normalization(model)
    normal(np.random.default_rng(3).normal(size=(BATCH, UNITS)), training=True)
    before = normal.get_weights()
    draws = [array(model(X)) for _ in range(2)]
    assert (draws[0][0] != draws[1][0]).any()
    for noise, behind in draws:
        np.testing.assert_allclose(behind, normalized(normal, noise), rtol=1e-4, atol=1e-5)
    for one, other in zip(normal.get_weights(), before, strict=True):
        assert (one == other).all()


class Attempting(keras.Model):
    """Its recurrent layer fails in the cell, and the model goes on without."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = layers.LSTM(UNITS, **BOTH)
        self.normal = layers.BatchNormalization()

    def build(self, shape: Any) -> None:
        self.recurrent.build((*shape[:-1], shape[-1] + 1))
        self.normal.build(shape)

    def call(self, x: Any) -> Any:
        with pytest.raises(Exception, match="LSTMCell"):
            self.recurrent(keras.ops.pad(x, [(0, 0), (0, 0), (1, 1)]))
        return self.normal(x)


def test_an_error_in_the_noise_leaves_no_training_behind() -> None:
    model = Attempting()
    model.build(X.shape)
    model.recurrent.input_spec = None  # the error is to come from inside
    with mc_dropout(model):
        y = array(model(X))
    np.testing.assert_allclose(y, normalized(model.normal, X), rtol=1e-4, atol=1e-5)


def test_a_layer_called_past_keras_opens_no_call() -> None:
    """Keras would take it for the outermost of all later calls."""
    layer = layers.LSTM(UNITS, **BOTH)
    layer.build(X.shape)
    with mc_dropout(layer):
        layer.call(keras.ops.convert_to_tensor(X))
    normal = layers.BatchNormalization()
    normal(X, training=True)
    before = normal.get_weights()
    np.testing.assert_allclose(array(normal(X)), normalized(normal, X), rtol=1e-4, atol=1e-5)
    for one, other in zip(normal.get_weights(), before, strict=True):
        assert (one == other).all()
