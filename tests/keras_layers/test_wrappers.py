"""Lapse's layers and cells inside Keras's wrappers, with several options at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras_support import (
    BATCH,
    EVERYWHERE,
    FEATURES,
    PER_SEQUENCE,
    SIZES,
    TIMESTEPS,
    array,
    close,
    lapse_cell,
    lapse_layer,
    oracle,
    problem,
    seed_state,
    stock_cell,
    stock_layer,
)

from catalog import CELLS, GRU, LSTM, SIMPLE_RNN, Cell, distance
from lapse.core import drawing

CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
KIND = pytest.mark.parametrize("cell", [LSTM, GRU, SIMPLE_RNN], ids=lambda cell: cell.id)

RUNNING = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 0, 0]], bool)
X = problem(LSTM).x


def both(make: Callable[[Callable, Callable], Any]) -> tuple[Any, Any]:
    """What `make` makes of Keras's layers and cells and of lapse's, with the same weights."""
    stock, ours = make(stock_layer, stock_cell), make(lapse_layer, lapse_cell)
    for one in (stock, ours):
        one.build(X.shape)
    ours.set_weights(stock.get_weights())
    return stock, ours


def same(found: Any, expected: Any) -> None:
    found, expected = array(found), array(expected)
    if not isinstance(expected, tuple):
        found, expected = (found,), (expected,)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        close(a, b, what=f"result {number}")


# Bidirectional.


@CELL
@pytest.mark.parametrize("merge", ["concat", "ave", None])
@pytest.mark.parametrize("sequences", [True, False], ids=["sequences", "last output"])
def test_bidirectional_is_keras_s(cell: Cell, merge: str | None, sequences: bool) -> None:
    """With padding, and the states beside the outputs."""
    options = {"return_sequences": sequences, "return_state": True}
    stock, ours = both(
        lambda layer, _: layers.Bidirectional(layer(cell, **options), merge_mode=merge)
    )
    same(ours(X, mask=RUNNING), stock(X, mask=RUNNING))


@KIND
def test_bidirectional_begins_with_the_states_that_are_given(cell: Cell) -> None:
    stock, ours = both(lambda layer, _: layers.Bidirectional(layer(cell, return_sequences=True)))
    states = [*problem(cell).state, *problem(cell, seed=7).state]
    found = array(ours(X, initial_state=states))
    same(found, stock(X, initial_state=states))
    assert distance(found, array(ours(X))) > 0.01


@KIND
def test_stateful_layers_in_bidirectional_go_on_as_keras_s(cell: Cell) -> None:
    stock, ours = both(
        lambda layer, _: layers.Bidirectional(layer(cell, return_sequences=True, stateful=True))
    )
    first = array(ours(X, mask=RUNNING))
    same(first, stock(X, mask=RUNNING))
    second = array(ours(X, mask=RUNNING))
    same(second, stock(X, mask=RUNNING))
    assert distance(second, first) > 0.01
    ours.reset_state()
    np.testing.assert_array_equal(array(ours(X, mask=RUNNING)), first)


@CELL
def test_padding_leaves_the_state_of_a_stateful_layer(cell: Cell) -> None:
    stock, ours = both(lambda layer, _: layer(cell, stateful=True, return_sequences=True))
    for call, running in enumerate((RUNNING, RUNNING[::-1], np.zeros_like(RUNNING), RUNNING)):
        for one in (stock, ours):
            one(X, mask=running)
        for found, expected in zip(ours.states, stock.states, strict=True):
            close(array(found), array(expected), what=f"state after call {call}")


# TimeDistributed.


@KIND
def test_time_distributed_runs_a_layer_over_each_sequence(cell: Cell) -> None:
    """Over the sentences of documents: each has noise of its own, in training and in order."""
    sentences = np.stack([problem(cell, seed=seed).x for seed in range(4)], axis=1)
    given = problem(cell)
    layer = lapse_layer(cell, EVERYWHERE, return_sequences=True, seed=5)
    over = layers.TimeDistributed(layer)
    over.build(sentences.shape)
    given.give(layer)
    found, trained = array(over(sentences)), array(over(sentences, training=True))
    assert seed_state(layer) == [5, 4]
    for call in range(4):
        sentence = given._replace(x=sentences[:, call])
        close(found[:, call], oracle(cell, sentence, layer.plan.expected)[0])
        masks = drawing.draw(layer.plan, 5 | call << 32, **SIZES)
        close(trained[:, call], oracle(cell, sentence, masks)[0], what=f"sentence {call}")


# RNN and StackedRNNCells.

RNN_OPTIONS: dict[str, dict[str, Any]] = {
    "backwards": {"go_backwards": True, "return_sequences": True},
    "unrolled": {"unroll": True, "return_sequences": True},
    "state": {"return_state": True},
    "zeros in padding": {"zero_output_for_mask": True, "return_sequences": True},
}


@CELL
@pytest.mark.parametrize("options", RNN_OPTIONS)
def test_rnn_of_a_cell_is_keras_s(cell: Cell, options: str) -> None:
    stock, ours = both(lambda _, one: layers.RNN(one(cell), **RNN_OPTIONS[options]))
    running = keras.ops.convert_to_tensor(RUNNING)
    for masked in ({}, {"mask": running}) if options != "unrolled" else ({},):
        same(ours(X, **masked), stock(X, **masked))


def test_rnn_of_cells_is_keras_s() -> None:
    """Given their states, going on with them, and with a stack inside the stack."""

    def stack(_: Callable, cell: Callable) -> Any:
        inner = layers.StackedRNNCells([cell(GRU, units=7), cell(SIMPLE_RNN)])
        options = {"return_sequences": True, "return_state": True, "stateful": True}
        return layers.RNN([cell(LSTM), inner], **options)

    stock, ours = both(stack)
    first = array(ours(X))
    same(keras.tree.flatten(first), keras.tree.flatten(array(stock(X))))
    second = array(ours(X))
    same(keras.tree.flatten(second), keras.tree.flatten(array(stock(X))))
    assert distance(second[0], first[0]) > 0.01


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@KIND
def test_cells_in_half_precision(cell: Cell, policy: str) -> None:
    half = policy.removeprefix("mixed_")
    given = problem(cell)
    made = lapse_cell(cell, PER_SEQUENCE, dtype=policy, seed=5)
    loop = layers.RNN(made, return_sequences=True, dtype=policy)
    loop.build(X.shape)
    given.give(made)
    y = loop(given.x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == half
    assert {weight.dtype for weight in made.weights} == {"float32"}
    expected = oracle(cell, given, drawing.draw(made.plan, 5, **SIZES))[0]
    close(keras.ops.cast(y, "float32"), expected, half)


# Files.


@CELL
@pytest.mark.parametrize("bidirectional", [False, True], ids=["", "bidirectional"])
def test_a_file_keeps_every_option_and_what_training_draws(
    cell: Cell, bidirectional: bool, tmp_path: Path
) -> None:
    """The loaded model computes the same, with noise and without, not only its configuration."""
    options: dict[str, Any] = {
        **{
            "activation": "softsign",
            "kernel_regularizer": "l1",
            "recurrent_constraint": "max_norm",
        },
        **{"dropout": 0.25, "recurrent_dropout": 0.5, "seed": 7, "kernel_initializer": "he_normal"},
        **{
            "return_sequences": True,
            "stateful": True,
            "unroll": True,
            "zero_output_for_mask": True,
        },
    }
    if not bidirectional:
        options |= {"go_backwards": True, "return_state": True, "use_bias": False}
    layer = lapse_layer(cell, "y:0.2@BTF s:0.2@BTF>prev", **options)
    inputs = keras.Input(batch_shape=X.shape)
    layer = layers.Bidirectional(layer, merge_mode="sum") if bidirectional else layer
    model = keras.Model(inputs, layer(layers.Masking()(inputs)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.where(RUNNING[..., None], X, 0)
    for training in (True, True, False):
        found, expected = (array(one(x, training=training)) for one in (loaded, model))
        for a, b in zip(*(keras.tree.flatten(one) for one in (found, expected)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_weight_files_of_rnn_move_between_lapse_and_keras(tmp_path: Path) -> None:
    def model(cell: Callable) -> Any:
        cells = [cell(LSTM), cell(GRU, units=7)]
        inputs = keras.Input((TIMESTEPS, FEATURES))
        return keras.Model(inputs, layers.RNN(cells)(layers.RNN(cell(SIMPLE_RNN), True)(inputs)))

    for number, (source, target) in enumerate([(lapse_cell, stock_cell), (stock_cell, lapse_cell)]):
        saved, loaded = model(source), model(target)
        saved.save_weights(tmp_path / f"{number}.weights.h5")
        loaded.load_weights(tmp_path / f"{number}.weights.h5")
        close(loaded(X), array(saved(X)))
        assert array(loaded(X)).shape == (BATCH, 7)
