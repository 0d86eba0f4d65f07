"""Whole models as Keras compiles them: `fit`, sizes that change, half precision, padding."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras_support import (
    BATCH,
    EVERYWHERE,
    FEATURES,
    FORM_CASES,
    PER_STEP,
    SIZES,
    TIMESTEPS,
    UNITS,
    Problem,
    array,
    close,
    ids,
    lapse_layer,
    noise_of,
    on_backend,
    oracle,
    problem,
    seed_state,
    turned,
)

from catalog import CELLS, GRU, LSTM, SIMPLE_RNN, Cell, frozen_masks
from lapse.core import drawing

FIT_CASES = [
    *((cell, noise) for cell, noise in FORM_CASES if cell == LSTM),
    *((cell, EVERYWHERE) for cell in CELLS[1:]),
]


def model_of(layer: Any, timesteps: int | None = TIMESTEPS) -> Any:
    """Keras's defaults but for the learning rate, which leaves the weights alone."""
    model = keras.Sequential([keras.Input((timesteps, FEATURES)), layer])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def loss(cell: Cell, layer: Any, given: Problem, call: int, **options: Any) -> float:
    """The loss against 0 of a training step, from the masks of a seed's n-th call."""
    batch, timesteps, _ = given.x.shape
    sizes = {**SIZES, "batch": batch, "timesteps": timesteps}
    masks = drawing.draw(layer.plan, layer.cell.seed | call << 32, **sizes)
    return float(np.mean(oracle(cell, given, masks, **options)[0] ** 2))


def zeros(given: Problem) -> np.ndarray:
    return np.zeros((*given.x.shape[:2], UNITS), np.float32)


@pytest.mark.parametrize(("cell", "noise"), FIT_CASES, ids=ids(FIT_CASES))
def test_fit_trains_on_the_masks_of_seed_and_call(cell: Cell, noise: str) -> None:
    """An epoch of two batches; a graph that draws once for all would give other losses."""
    given = problem(cell, batch=2 * BATCH)
    layer = lapse_layer(cell, noise_of(noise), return_sequences=True, seed=5)
    model = model_of(layer)
    given.give(layer)
    history = model.fit(given.x, zeros(given), batch_size=BATCH, shuffle=False, verbose=0)
    halves = [given._replace(x=given.x[n : n + BATCH]) for n in (0, BATCH)]
    expected = [loss(cell, layer, half, call) for call, half in enumerate(halves)]
    close(history.history["loss"][0], np.mean(expected))
    assert seed_state(layer) == [5, 2]


def test_lengths_may_change_from_batch_to_batch() -> None:
    layer = lapse_layer(
        LSTM, f"{EVERYWHERE} {PER_STEP} o:0.2@BT~0.5F", return_sequences=True, seed=5
    )
    model = model_of(layer, timesteps=None)
    for call, timesteps in enumerate((7, 5, 7)):
        given = problem(LSTM, timesteps=timesteps)
        given.give(layer)
        found = model.train_on_batch(given.x, zeros(given))
        close(found, loss(LSTM, layer, given, call), what=f"call {call}")


def test_a_model_learns_with_noise() -> None:
    """To remember the sign of the first step, with gradients through noise of every kind."""
    random = np.random.default_rng(0)
    x = random.normal(size=(63, TIMESTEPS, FEATURES)).astype("f")
    y = (x[:, :1, 0] > 0).astype("f")
    model = keras.Sequential(
        [lapse_layer(LSTM, "x:0.1@BTF h:0.1@BFG U:0.1@IO s:0.1@BTF>prev"), keras.layers.Dense(1)]
    )
    from_logits = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), from_logits)
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=21, epochs=30, verbose=0)
    assert before > 0.5 and model.evaluate(x, y, verbose=0) < 0.2


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("cell", [LSTM, GRU, SIMPLE_RNN], ids=lambda cell: cell.id)
def test_half_precision(cell: Cell, policy: str) -> None:
    """Outputs, states and masks are in half precision, the weights are not."""
    half = policy.removeprefix("mixed_")
    given = problem(cell)
    layer = lapse_layer(
        cell, EVERYWHERE, dtype=policy, return_sequences=True, return_state=True, seed=5
    )
    given.give(layer)
    masks = frozen_masks(cell, EVERYWHERE, given.x, UNITS)
    y, *state = layer(given.x, training=True, masks=on_backend(masks, half))
    for result in (y, *state, layer.draw_masks(BATCH, TIMESTEPS, seed=1).x):
        assert keras.backend.standardize_dtype(result.dtype) == half
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    expected, last = oracle(cell, given, masks)
    close(keras.ops.cast(y, "float32"), expected, half)
    for found, exact in zip(state, last, strict=True):
        close(keras.ops.cast(found, "float32"), exact, half)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_trains(policy: str) -> None:
    given = problem(LSTM)
    layer = lapse_layer(LSTM, EVERYWHERE, dtype=policy, return_sequences=True, seed=5)
    model = model_of(layer)
    given.give(layer)
    found = model.train_on_batch(given.x, zeros(given))
    assert abs(found - loss(LSTM, layer, given, 0)) < 0.03


def test_masking_in_front_says_what_is_padding() -> None:
    given = problem(LSTM)
    running = np.arange(TIMESTEPS) < np.array([[7], [4], [1]])
    x = np.where(running[..., None], given.x, 0)
    layer = lapse_layer(LSTM, EVERYWHERE, return_sequences=True, seed=5)
    model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Masking(), layer])
    given.give(layer)
    masks = drawing.draw(layer.plan, 5, **SIZES)
    expected, _ = oracle(LSTM, given._replace(x=x), masks, running=running)
    close(model(x, training=True), expected)


def test_an_embedding_in_front_says_what_is_padding() -> None:
    """Through a stack of layers: the second one holds its state in the padding too."""
    tokens = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 0, 0, 0], [8, 0, 0, 0, 0, 0, 0]])
    lower = lapse_layer(GRU, "x:0.3@BTF h:0.3@BTF", return_sequences=True, seed=5)
    upper = lapse_layer(LSTM, "x:0.3@BTF s:0.3@BTF>prev", seed=6)
    table = keras.layers.Embedding(10, FEATURES, mask_zero=True)
    model = keras.Sequential([keras.Input((TIMESTEPS,), dtype="int32"), table, lower, upper])
    first, second = problem(GRU), problem(LSTM, features=UNITS)
    first.give(lower)
    second.give(upper)
    rows = first.x.reshape(-1, FEATURES)[:10]
    table.set_weights([rows])
    found = array(model(tokens, training=True))
    running = tokens != 0
    masks = drawing.draw(lower.plan, 5, **SIZES)
    between, _ = oracle(GRU, first._replace(x=rows[tokens]), masks, running=running)
    masks = drawing.draw(upper.plan, 6, **{**SIZES, "features": UNITS})
    expected, _ = oracle(LSTM, second._replace(x=between), masks, running=running)
    close(found, expected[:, -1])


def test_bidirectional_trains_in_a_compiled_model() -> None:
    given = problem(LSTM)
    both = keras.layers.Bidirectional(
        lapse_layer(LSTM, PER_STEP, return_sequences=True, seed=5), merge_mode=None
    )
    inputs = keras.Input(given.x.shape[1:])
    model = keras.Model(inputs, list(both(inputs)))
    model.compile(keras.optimizers.SGD(0.0), ["mse", "mse"])
    given.give(both.forward_layer, both.backward_layer)
    found = model.train_on_batch(given.x, [zeros(given)] * 2)[0]
    expected = 0.0
    for direction, x in enumerate((given.x, given.x[:, ::-1])):
        masks = drawing.draw(both.forward_layer.plan, 5, **SIZES, direction=direction)
        masks = turned(masks) if direction else masks
        expected += np.mean(oracle(LSTM, given._replace(x=x), masks)[0] ** 2)
    close(found, expected)
