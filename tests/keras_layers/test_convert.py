"""Whole models from Keras's layers to lapse's and back."""

from __future__ import annotations

import re
import warnings
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

X = np.random.default_rng(0).normal(size=(BATCH, TIMESTEPS, FEATURES)).astype("float32")
STOCK = (layers.LSTM, layers.GRU, layers.SimpleRNN)
CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)


class Halve(layers.Layer):
    """A layer that nobody registered."""

    def call(self, x: Any) -> Any:
        return x / 2


def stack(kind: Any) -> Any:
    return keras.Sequential(
        [
            keras.Input((TIMESTEPS, FEATURES)),
            layers.Masking(),
            kind(UNITS, return_sequences=True, dropout=0.2, recurrent_dropout=0.3, seed=3),
            layers.Dropout(0.5),
            kind(UNITS, go_backwards=True),
            layers.Dense(2),
        ]
    )


def wrapped(kind: Any) -> Any:
    """Inside wrappers, inside a model inside the model, with two inputs to one layer."""
    number = STOCK.index(kind)
    cells = [CELLS[number](UNITS), CELLS[number](UNITS)]
    both = layers.Bidirectional(kind(UNITS, return_sequences=True), merge_mode="sum")
    inside = keras.Sequential([keras.Input((TIMESTEPS, UNITS)), kind(FEATURES)], name="inside")
    x, y = keras.Input((TIMESTEPS, FEATURES)), keras.Input((TIMESTEPS, FEATURES))
    outputs = [inside(both(Halve()(x))), layers.RNN(cells)(y), both(y)]
    return keras.Model([x, y], outputs)


def inputs_of(model: Any) -> Any:
    return X if len(model.inputs) == 1 else [X, X[::-1].copy()]


def recurrent(model: Any) -> list[Any]:
    """The recurrent layers, and the cells in RNN, of a model, wherever they stand."""
    found = list(model._flatten_layers())
    of_layers = {id(one.cell) for one in found if isinstance(one, STOCK)}
    return [one for one in found if isinstance(one, (*STOCK, *CELLS)) and id(one) not in of_layers]


def same(one: Any, other: Any) -> None:
    found, expected = (m(inputs_of(one), training=False) for m in (one, other))
    if not isinstance(expected, (list, tuple)):
        found, expected = [found], [expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(array(a), array(b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("made", [stack, wrapped])
@pytest.mark.parametrize("kind", STOCK, ids=lambda kind: kind.__name__)
def test_there_and_back(kind: Any, made: Any, tmp_path: Path) -> None:
    model = made(kind)
    ours = lapse.keras.convert(model)
    assert recurrent(ours)
    for one, other in zip(recurrent(model), recurrent(ours), strict=True):
        assert type(other).__module__.startswith("lapse.keras")
        assert (other.name, type(other).__name__) == (one.name, type(one).__name__)
    same(ours, model)
    for one, other in zip(model.get_weights(), ours.get_weights(), strict=True):
        assert (one == other).all()
    assert not [one for one in ours._flatten_layers() if type(one) is layers.Dropout]
    back = lapse.keras.to_native(ours)
    for one, other in zip(model._flatten_layers(), back._flatten_layers(), strict=True):
        assert type(other) is type(one)
        if isinstance(one, layers.Dropout):
            assert other.get_config() == one.get_config()
    for one, other in zip(recurrent(model), recurrent(back), strict=True):
        assert type(other) is type(one)
        assert other.get_config() == one.get_config()
    same(back, model)
    ours.save_weights(tmp_path / "ours.weights.h5")
    model.load_weights(tmp_path / "ours.weights.h5")


def test_noise_is_each_layer_s_and_acts_in_training() -> None:
    model = lapse.keras.convert(stack(layers.LSTM), noise=lapse.WeightDrop(0.5))
    assert [one.noise for one in recurrent(model)] == ["U:0.5@IO", "U:0.5@IO"]
    first = recurrent(model)[0]
    assert {str(term) for term in first.plan.terms} >= {"U:0.5@IO", "x:0.2@BFG", "h:0.3@BFG"}
    assert (array(model(X, training=True)) != array(model(X, training=True))).any()
    assert recurrent(lapse.keras.to_native(model))[0].dropout == 0.2


def test_the_copy_learns_alone() -> None:
    model = stack(layers.GRU)
    model.compile("sgd", "mse")
    before, ours = model.get_weights(), lapse.keras.convert(model)
    ours.train_on_batch(X, np.ones((BATCH, 2)))
    for one, other, trained in zip(before, model.get_weights(), ours.get_weights(), strict=True):
        assert (one == other).all()
        assert (one != trained).any()


@pytest.mark.parametrize("kind", STOCK, ids=lambda kind: kind.__name__)
def test_a_layer_alone(kind: Any) -> None:
    layer = kind(UNITS, return_sequences=True)
    y = array(layer(X))
    ours = lapse.keras.convert(layer, noise="y:0.3@BF")
    np.testing.assert_allclose(array(ours(X)), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(lapse.keras.to_native(ours)(X)), y, rtol=1e-5, atol=1e-6)
    assert not lapse.keras.convert(kind(UNITS)).built


@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
def test_a_cell_alone(kind: Any) -> None:
    cell = kind(UNITS)
    cell.build((BATCH, FEATURES))
    for one in (lapse.keras.convert(cell), lapse.keras.to_native(lapse.keras.convert(cell))):
        for found, wanted in zip(one.get_weights(), cell.get_weights(), strict=True):
            assert (found == wanted).all()


def test_names_of_weights_stay() -> None:
    model = stack(layers.LSTM)
    wanted = [weight.path.split("/")[1:] for weight in keras.models.clone_model(model).weights]
    found = [weight.path.split("/")[1:] for weight in lapse.keras.convert(model).weights]
    assert found == wanted


def test_nothing_of_lapse_is_left_to_deploy(tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input((TIMESTEPS,)),
            lapse.keras.Embedding(31, FEATURES, noise=lapse.EmbeddingDropout(0.1)),
            lapse.keras.SpatialDropout1D(0.1),
            lapse.keras.TimestepDropout(0.2),
            lapse.keras.Dropout(0.3, over="BF"),
            lapse.keras.LSTM(UNITS, dropout=0.2, noise="U:.5@IO"),
            lapse.keras.Dropout(0.4),
        ]
    )
    back = lapse.keras.to_native(model)
    assert all(type(layer).__module__.startswith("keras.") for layer in back.layers)
    shapes = [layer.noise_shape for layer in back.layers if type(layer) is layers.Dropout]
    assert shapes == [(None, None, 1), (None, 1, None), None]
    assert [layer.rate for layer in back.layers if hasattr(layer, "rate")] == [0.1, 0.2, 0.3, 0.4]
    x = np.arange(BATCH * TIMESTEPS).reshape(BATCH, TIMESTEPS)
    np.testing.assert_allclose(array(back(x)), array(model(x)), rtol=1e-5, atol=1e-6)
    back.save(tmp_path / "back.keras")
    assert "lapse" not in back.to_json()


def test_a_dropout_layer_that_keras_lacks_has_no_way_back() -> None:
    model = keras.Sequential([keras.Input((7, 3)), lapse.keras.Dropout(0.3, over="BT[5]")])
    with pytest.raises(LapseError, match=r"drops over BT\[5\] with the scale inv"):
        lapse.keras.to_native(model)


def test_a_cell_inside_two_layers_is_refused() -> None:
    cell, x = layers.LSTMCell(FEATURES), keras.Input((TIMESTEPS, FEATURES))
    model = keras.Model(x, layers.RNN(cell)(layers.RNN(cell, return_sequences=True)(x)))
    with pytest.raises(LapseError, match="inside several other layers"):
        lapse.keras.convert(model)


def test_noise_that_acts_in_evaluation_has_no_way_back() -> None:
    model = lapse.keras.convert(stack(layers.LSTM), noise=lapse.Zoneout())
    with pytest.raises(LapseError, match=r"s:0\.05@BTF>prev, which acts in evaluation"):
        lapse.keras.to_native(model)
    for layer in (
        lapse.keras.Dropout(0.3, scale="exp"),
        lapse.keras.Embedding(31, 5, noise="emb:.1@V!exp"),
    ):
        with pytest.raises(LapseError, match=r"acts in evaluation|the scale exp"):
            lapse.keras.to_native(layer)


def test_subclassed_models_are_refused() -> None:
    class Mine(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(LapseError, match="Mine is a subclassed model"):
        lapse.keras.convert(Mine())


@pytest.mark.parametrize("wrong", [None, 3, "model.keras", layers.LSTM], ids=str)
def test_what_is_no_model(wrong: Any) -> None:
    with pytest.raises(LapseError, match="is not a model or layer of Keras"):
        lapse.keras.convert(wrong)


def test_illegal_noise_is_refused() -> None:
    with pytest.raises(LapseError, match="not a noise term"):
        lapse.keras.convert(stack(layers.LSTM), noise="half")
    with pytest.raises(LapseError, match="r"):
        lapse.keras.convert(stack(layers.SimpleRNN), noise="r:0.5@BF")


def test_noise_that_no_layer_takes_is_said() -> None:
    for layer in (keras.layers.Dense(3), lapse.keras.LSTM(3)):
        model = keras.Sequential([keras.Input((7, 5)), layer])
        with pytest.raises(LapseError, match="that could take the noise"):
            lapse.keras.convert(model, noise="x:.3@BF")
        assert type(lapse.keras.convert(model).layers[0]) is type(layer)


def test_dropout_layers_are_exchanged_with_what_they_have() -> None:
    """A mask that Keras's `noise_shape` shares stays shared."""
    shared = {"noise_shape": (None, 1, None), "seed": 5}
    parts = [layers.Dropout(0.3, **shared), layers.SpatialDropout1D(0.2), layers.Dropout(0.4)]
    ours = lapse.keras.convert(keras.Sequential([keras.Input((TIMESTEPS, FEATURES)), *parts]))
    kinds = [lapse.keras.Dropout, lapse.keras.SpatialDropout1D, lapse.keras.Dropout]
    assert [type(one) for one in ours.layers] == kinds
    assert [one.rate for one in ours.layers] == [0.3, 0.2, 0.4]
    kept = array(ours.layers[0](X, training=True)) != 0
    assert (kept == kept[:, :1]).all() and not kept.all() and kept.any()
    back = lapse.keras.to_native(ours)
    assert [one.get_config() for one in back.layers] == [one.get_config() for one in parts]


@keras.saving.register_keras_serializable(package="test")
class Mine(layers.LSTM):
    """A class of the user's own."""


@keras.saving.register_keras_serializable(package="test")
class MineCell(layers.GRUCell):
    """A class of the user's own."""


@keras.saving.register_keras_serializable(package="test")
class Plus(layers.Layer):
    """A cell of the user's own."""

    state_size = output_size = FEATURES

    def call(self, x: Any, states: Any, training: bool = False) -> Any:
        return x + states[0], [x + states[0]]


class Always(layers.Dropout):
    """The usual recipe for dropout in evaluation."""

    def call(self, inputs: Any) -> Any:
        return super().call(inputs, training=True)


@keras.saving.register_keras_serializable(package="test")
class Block(layers.Layer):
    """It makes a recurrent layer for itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = layers.LSTM(5, return_sequences=True, name="inner")

    def call(self, x: Any) -> Any:
        return self.inner(x)


STAYS: dict[str, tuple[Any, str]] = {
    "in a layer": (lambda: Block(), r"inner \(LSTM\): it is made inside a custom layer"),
    "a subclass": (lambda: Mine(5, name="p"), r"p \(Mine\): .*lapse\.keras\.LSTM"),
    "in Bidirectional": (lambda: layers.Bidirectional(Mine(5)), r"\(Mine\): "),
    "a rate of 1": (lambda: layers.GRU(5, dropout=1.0), r"\(GRU\): it has dropout=1\.0"),
    "Dropout(1.0)": (lambda: layers.Dropout(1.0, name="p"), r"p \(Dropout\): it has rate=1\.0"),
    "a Dropout": (lambda: Always(0.5), r"\(Always\): .*lapse\.keras\.Dropout"),
    "a cell": (lambda: layers.RNN(Plus()), r"\(Plus\): a custom cell"),
    "cells": (
        lambda: layers.RNN([layers.LSTMCell(5), MineCell(5)]),
        r"\(MineCell\): .*lapse\.keras\.GRUCell",
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_keras_s_is_named_with_the_reason(name: str) -> None:
    make, reason = STAYS[name]
    model = keras.Sequential([keras.Input((TIMESTEPS, FEATURES)), make(), layers.Dropout(0.5)])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        ours = lapse.keras.convert(model)
    (warning,) = said
    assert re.match(f"These layers stay Keras's: .*{reason}", str(warning.message))
    assert warning.filename == __file__
    assert type(ours.layers[0]) is type(model.layers[0])
    assert type(ours.layers[1]) is lapse.keras.Dropout
    if name != "cells":  # of which one takes the noise
        with pytest.raises(LapseError, match=reason):
            lapse.keras.convert(model, noise="x:.3@BF")


def test_dropout_that_keras_makes_for_itself_is_not_named() -> None:
    x = keras.Input((TIMESTEPS, FEATURES))
    y = layers.MultiHeadAttention(2, 3, dropout=0.3)(x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        lapse.keras.convert(keras.Model(x, layers.Bidirectional(layers.GRU(5))(y)))


def test_convolutions_stay() -> None:
    model = keras.Sequential([keras.Input((3, 5, 5, 2)), layers.ConvLSTM2D(2, 3)])
    with pytest.warns(UserWarning, match=r"\(ConvLSTM2D\): lapse has no convolutional"):
        lapse.keras.convert(model)


@pytest.mark.parametrize(
    ("noise", "rates"),
    [
        (lapse.KerasDropout(0.2, 0.3), (0.2, 0.3)),
        (lapse.KerasDropout(0.2), (0.2, 0.0)),
        (lapse.SpatialDropout(0.2), (0.2, 0.0)),
        (lapse.KerasDropout(0.0, 0.3), (0.0, 0.3)),
        (lapse.Variational(0.2, 0.3, 0.0, tied=False), (0.2, 0.3)),
        (lapse.Variational(0.2, 0.3, 0.0), (0.0, 0.0)),  # masks that all gates share
        ("x:.2@BF x:.2@BF", (0.0, 0.0)),
        ("x:.2@BF~gauss", (0.0, 0.0)),
    ],
    ids=str,
)
def test_noise_that_keras_has_goes_into_its_arguments(noise: Any, rates: Any) -> None:
    for kind in (lapse.keras.LSTM, lapse.keras.GRUCell):
        back = lapse.keras.to_native(kind(UNITS, noise=noise))
        assert (back.dropout, back.recurrent_dropout) == rates


def test_arguments_and_noise_together_are_what_keras_has_or_stay() -> None:
    for noise in ("h:.3@BF", "x:.3@BTF", "h:.3@BFG"):
        back = lapse.keras.to_native(lapse.keras.LSTM(UNITS, dropout=0.2, noise=noise))
        assert (back.dropout, back.recurrent_dropout) == (0.2, 0.0)


def test_a_stateful_layer_keeps_its_state() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    stock = keras.Sequential(
        [keras.Input((5, 3), batch_size=2), keras.layers.GRU(4, stateful=True)]
    )
    stock(x)
    ours = lapse.keras.convert(stock)
    back = lapse.keras.to_native(ours)
    expected = array(stock(x))
    for copy in (ours, back):
        np.testing.assert_allclose(array(copy(x)), expected, atol=1e-6)
