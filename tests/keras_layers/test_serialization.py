"""Configs, files, weights and copies: what is saved comes back, to lapse and to Keras."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras_support import (
    EVERYWHERE,
    FEATURES,
    PER_SEQUENCE,
    TIMESTEPS,
    UNITS,
    array,
    close,
    lapse_cell,
    lapse_layer,
    problem,
    stock_layer,
)

import lapse.keras
from catalog import CELLS, GRU, LSTM, SIMPLE_RNN, Cell

CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
KIND = pytest.mark.parametrize("cell", [LSTM, GRU, SIMPLE_RNN], ids=lambda cell: cell.id)
CLASSES = ["LSTM", "GRU", "SimpleRNN", "LSTMCell", "GRUCell", "SimpleRNNCell"]

# For each argument of Keras's constructors a value that is not its default.
NOT_DEFAULT: dict[str, Any] = {
    "units": 3,
    "activation": "relu",
    "recurrent_activation": "hard_sigmoid",
    "use_bias": False,
    "kernel_initializer": "he_normal",
    "recurrent_initializer": "he_uniform",
    "bias_initializer": "ones",
    "unit_forget_bias": False,
    "kernel_regularizer": "l1",
    "recurrent_regularizer": "l2",
    "bias_regularizer": "l1",
    "activity_regularizer": "l2",
    "kernel_constraint": "unit_norm",
    "recurrent_constraint": "max_norm",
    "bias_constraint": "non_neg",
    "dropout": 0.25,
    "recurrent_dropout": 0.5,
    "seed": 7,
    "return_sequences": True,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "unroll": True,
    "reset_after": False,
    "use_cudnn": False,
}

# Things that hold noise, and how to read it back.
HOLDERS: dict[str, tuple[Callable[[], Any], Callable[[Any], list[str]]]] = {
    **{
        cell.id: (
            lambda cell=cell: lapse_layer(cell, EVERYWHERE, dropout=0.25, seed=5),
            lambda layer: [layer.noise],
        )
        for cell in CELLS
    },
    "RNN of a cell": (
        lambda: keras.layers.RNN(lapse_cell(GRU, PER_SEQUENCE, seed=5)),
        lambda layer: [layer.cell.noise],
    ),
    "RNN of cells": (
        lambda: keras.layers.RNN(
            [lapse_cell(LSTM, PER_SEQUENCE), lapse_cell(SIMPLE_RNN, "s:.3@BF")]
        ),
        lambda layer: [cell.noise for cell in layer.cell.cells],
    ),
    "Bidirectional": (
        lambda: keras.layers.Bidirectional(lapse_layer(LSTM, "x:0.2@BTF", seed=5)),
        lambda layer: [layer.forward_layer.noise, layer.backward_layer.noise],
    ),
    "two layers in Bidirectional": (
        lambda: keras.layers.Bidirectional(
            lapse_layer(LSTM, "x:0.2@BTF"),
            backward_layer=lapse_layer(LSTM, "x:0.3@BTF", go_backwards=True),
        ),
        lambda layer: [layer.forward_layer.noise, layer.backward_layer.noise],
    ),
    "Dropout": (
        lambda: lapse.keras.Dropout(0.3, over="BT[2]", scale="none", seed=5),
        lambda layer: [str(layer.term)],
    ),
    "SpatialDropout1D": (
        lambda: lapse.keras.SpatialDropout1D(0.3, seed=5),
        lambda layer: [str(layer.term)],
    ),
    "TimestepDropout": (
        lambda: lapse.keras.TimestepDropout(0.3, seed=5, scale="none"),
        lambda layer: [str(layer.term)],
    ),
}


def model_of(layer: Any) -> Any:
    return keras.Sequential([keras.Input((TIMESTEPS, FEATURES)), layer])


# Constructors.


@pytest.mark.parametrize("name", CLASSES)
def test_arguments_stand_in_keras_s_order(name: str) -> None:
    """Given by position, each means what it means in Keras."""
    stock, ours = getattr(keras.layers, name), getattr(lapse.keras, name)
    parameters = list(inspect.signature(stock).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    values = [NOT_DEFAULT[argument] for argument in positional]
    config = ours(*values).get_config()
    expected = stock(*values).get_config()
    assert {key: config[key] for key in expected if key != "name"} == {
        key: value for key, value in expected.items() if key != "name"
    }
    assert set(config) - set(expected) <= {"noise", "seed", "engine"}


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_of_keras_s_is_saved(name: str) -> None:
    """B10: SimpleRNN forgot its seed."""
    ours = getattr(lapse.keras, name)
    stock = inspect.signature(getattr(keras.layers, name)).parameters
    options = {key: NOT_DEFAULT[key] for key in stock if key in NOT_DEFAULT}
    made = ours(**options, noise="x:0.5@BF")
    again = ours.from_config(made.get_config())
    assert again.get_config() == made.get_config()
    assert again.noise == "x:0.5@BF"
    assert again.plan == made.plan
    generator = getattr(again, "cell", again).seed_generator
    assert int(array(generator.state)[0]) == NOT_DEFAULT["seed"]


@KIND
def test_a_layer_is_made_from_keras_s_config(cell: Cell) -> None:
    stock = stock_layer(cell, dropout=0.25, recurrent_dropout=0.5, go_backwards=True)
    ours = type(lapse_layer(cell)).from_config(stock.get_config())
    config = ours.get_config()
    assert {key: config[key] for key in stock.get_config()} == stock.get_config()
    assert config["noise"] == ""


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, ""),
        (lapse.Zoneout(hidden=0.1, cell=0.5), "c:0.5@BTF>prev s:0.1@BTF>prev"),
        ([lapse.WeightDrop(0.5), "x:.4@BF"], "U:0.5@IO x:0.4@BF"),
        (lapse.Term("x", 0.3, "BTF", law="gauss"), "x:0.3@BTF~gauss"),
        ("x:0.4@BT[3]!none", "x:0.4@BT[3]!none"),
    ],
    ids=str,
)
def test_noise_is_saved_as_text(given: Any, text: str) -> None:
    config = lapse.keras.LSTM(3, noise=given).get_config()
    assert config["noise"] == text
    assert lapse.keras.LSTM.from_config(config).get_config()["noise"] == text


# Files.


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_saved_model_comes_back_with_its_noise_and_predictions(
    holder: str, tmp_path: Path
) -> None:
    make, noise_of = HOLDERS[holder]
    layer = make()
    model = model_of(layer)
    x = problem(LSTM).x
    expected = array(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is type(layer)
    assert noise_of(loaded.layers[0]) == noise_of(layer)
    as_json = [json.loads(json.dumps(one.get_config())) for one in (loaded.layers[0], layer)]
    assert as_json[0] == as_json[1]
    np.testing.assert_array_equal(array(loaded(x)), expected)


@CELL
@pytest.mark.parametrize("wrap", ["", "Bidirectional"], ids=["layer", "bidirectional"])
def test_weight_files_move_between_lapse_and_keras(cell: Cell, wrap: str, tmp_path: Path) -> None:
    """Train with lapse, deploy without it; and the other way."""
    x = problem(cell).x

    def model(make: Callable, **options: Any) -> Any:
        layer = make(cell, return_sequences=True, **options)
        return model_of(keras.layers.Bidirectional(layer) if wrap else layer)

    ours, stock = model(lapse_layer, noise="x:0.5@BTF"), model(stock_layer)
    ours.save_weights(tmp_path / "ours.weights.h5")
    stock.load_weights(tmp_path / "ours.weights.h5")
    close(stock(x), array(ours(x)))
    fresh, again = model(stock_layer), model(lapse_layer, noise="x:0.5@BTF")
    fresh.save_weights(tmp_path / "stock.weights.h5")
    again.load_weights(tmp_path / "stock.weights.h5")
    close(again(x), array(fresh(x)))


@KIND
def test_weights_are_keras_s_in_order_name_and_shape(cell: Cell) -> None:
    ours, stock = lapse_layer(cell, EVERYWHERE, name="a"), stock_layer(cell, name="a")
    for layer in (ours, stock):
        layer.build((None, None, FEATURES))
    found, expected = ([(w.name, w.shape) for w in layer.weights] for layer in (ours, stock))
    assert found == expected
    assert [w.path for w in ours.weights] == [w.path for w in stock.weights]


# Copies.


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_cloned_model_keeps_its_noise(holder: str) -> None:
    make, noise_of = HOLDERS[holder]
    model = model_of(make())
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert noise_of(clone.layers[0]) == noise_of(model.layers[0])
    x = problem(LSTM).x
    np.testing.assert_array_equal(array(clone(x)), array(model(x)))


def test_a_model_of_keras_s_layers_is_cloned_into_one_of_lapse_s() -> None:
    model = keras.Sequential(
        [
            keras.Input((TIMESTEPS, FEATURES)),
            keras.layers.GRU(UNITS, return_sequences=True),
            keras.layers.LSTM(UNITS),
        ]
    )

    def swapped(layer: Any) -> Any:
        kind = getattr(lapse.keras, type(layer).__name__)
        return kind.from_config({**layer.get_config(), "noise": "x:0.5@BTF"})

    clone = keras.models.clone_model(model, clone_function=swapped)
    clone.set_weights(model.get_weights())
    assert [layer.noise for layer in clone.layers] == ["x:0.5@BTF"] * 2
    x = problem(LSTM).x
    close(clone(x), array(model(x)))
