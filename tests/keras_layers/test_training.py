"""When the layers draw, what Keras's own arguments mean, and where Keras itself goes wrong.

The numbers B1 to B10 at the end of the file are only there to tell the bugs apart.
"""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import pytest
from keras_support import (
    BACKEND,
    BATCH,
    EVERYWHERE,
    FEATURES,
    FORM_CASES,
    PER_SEQUENCE,
    PER_STEP,
    SIZES,
    TIMESTEPS,
    UNITS,
    array,
    close,
    gradients,
    lapse_layer,
    on_backend,
    oracle,
    problem,
    seed_state,
    stock_layer,
)

import lapse
from catalog import CELLS, GRU, LSTM, NOISE, SIMPLE_RNN, Cell, distance, plan_for
from lapse.core import drawing

CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
KIND = pytest.mark.parametrize("cell", [LSTM, GRU, SIMPLE_RNN], ids=lambda cell: cell.id)
FORMS_OF_LSTM = [noise for cell, noise in FORM_CASES if cell == LSTM]


# When masks are drawn.


@pytest.mark.parametrize("noise", FORMS_OF_LSTM)
def test_each_training_call_draws_anew_and_a_seed_repeats_the_first(noise: str) -> None:
    given = problem(LSTM)
    once, again = (
        given.give(lapse_layer(LSTM, NOISE[noise], return_sequences=True, seed=5)) for _ in "12"
    )
    first, second = (array(once(given.x, training=True)) for _ in "12")
    assert distance(first, second) > 1e-3, "a second call repeats the first one's masks"
    np.testing.assert_array_equal(array(again(given.x, training=True)), first)


def test_set_random_seed_repeats_weights_and_noise() -> None:
    x, results = problem(GRU).x, []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        results.append(array(lapse_layer(GRU, "x:0.5@BF")(x, training=True)))
    np.testing.assert_array_equal(results[0], results[1])
    assert distance(results[0], results[2]) > 0.01


def test_layers_without_a_seed_have_different_noise() -> None:
    random.seed(1)
    one, other = (problem(LSTM).give(lapse_layer(LSTM, "x:0.5@BF")) for _ in "12")
    assert (array(one.draw_masks(BATCH, 1).x) != array(other.draw_masks(BATCH, 1).x)).any()


def test_evaluation_draws_nothing() -> None:
    """Nor does an evaluation between two training calls change the second one's masks."""
    layer = lapse_layer(LSTM, EVERYWHERE, dropout=0.5, recurrent_dropout=0.5, seed=5)
    model = keras.Sequential([layer])
    model.compile(loss="mse")
    x = problem(LSTM).x
    layer(x)
    layer(x, training=False)
    model(x)
    model.predict(x, verbose=0)
    model.evaluate(x, np.zeros((BATCH, UNITS)), verbose=0)
    assert seed_state(layer) == [5, 0]


@CELL
def test_evaluation_with_keras_s_dropout_is_the_layer_without(cell: Cell) -> None:
    given = problem(cell)
    stock = given.give(stock_layer(cell, return_sequences=True))
    ours = given.give(lapse_layer(cell, dropout=0.5, recurrent_dropout=0.5, return_sequences=True))
    close(ours(given.x), array(stock(given.x)))
    close(ours(given.x, training=False), array(stock(given.x)))


def test_one_layer_takes_batches_and_lengths_of_every_size() -> None:
    """A mask kept from an earlier call would not fit the next one."""
    layer = lapse_layer(LSTM, "x:0.3@BTF h:0.3@BFG", return_sequences=True, seed=5)
    for call, (batch, timesteps) in enumerate([(3, 7), (7, 7), (3, 1), (3, 7)]):
        given = problem(LSTM, batch=batch, timesteps=timesteps)
        given.give(layer)
        sizes = {**SIZES, "batch": batch, "timesteps": timesteps}
        masks = drawing.draw(layer.plan, 5 | call << 32, **sizes)
        close(layer(given.x, training=True), oracle(LSTM, given, masks)[0], what=f"call {call}")


# What dropout= and recurrent_dropout= mean: masks per sequence, per gate with recurrent_dropout.


@CELL
def test_keras_s_rates_mean_what_they_mean_in_keras_3(cell: Cell) -> None:
    """Seen in the gradients of one sample: a dropped row of a kernel gets none, at any step."""
    given = problem(cell, batch=1)
    rates = {
        5: {"dropout": 0.5},
        6: {"recurrent_dropout": 0.5},
        7: {"dropout": 0.5, "recurrent_dropout": 0.5},
    }
    gates = {5: (1, None), 6: (None, cell.gates), 7: (cell.gates, cell.gates)}
    layers = [
        lapse_layer(cell, return_sequences=True, seed=seed, **given_rates)
        for seed, given_rates in rates.items()
    ]
    given.give(*layers)
    target = np.random.default_rng(1).normal(size=(1, TIMESTEPS, UNITS)).astype("f")
    found = gradients(layers, given.x, target)
    for seed, layer, (kernel, recurrent, *_) in zip(rates, layers, found, strict=True):
        masks = drawing.draw(layer.plan, seed, **{**SIZES, "batch": 1})
        sides = ((masks.x, kernel, FEATURES), (masks.h, recurrent, UNITS))
        for (mask, gradient, width), drawn_gates in zip(sides, gates[seed], strict=True):
            if drawn_gates is None:
                assert mask is None and gradient.any(axis=1).all()
                continue
            assert mask.shape == (1, 1, drawn_gates, width)
            kept = np.broadcast_to(mask[0, 0], (cell.gates, width)) > 0
            for gate, of_gate in enumerate(np.split(gradient, cell.gates, axis=1)):
                np.testing.assert_array_equal(of_gate.any(axis=1), kept[gate], f"gate {gate}")
        assert 0 < (masks.x if masks.x is not None else masks.h).mean() < 2


@KIND
def test_masks_of_a_layer_that_is_not_built(cell: Cell) -> None:
    with pytest.raises(lapse.LapseError, match="call it or build it first"):
        lapse_layer(cell, "x:0.5@BF", name="thinker").draw_masks(3, 7)


@KIND
def test_masks_that_do_not_fit_are_refused(cell: Cell) -> None:
    given = problem(cell)
    layer = given.give(lapse_layer(cell, "x:0.5@BTF"))
    masks = layer.draw_masks(BATCH - 1, TIMESTEPS, seed=np.int64(1))
    with pytest.raises(lapse.LapseError, match=r"the mask for x has shape \(2, 7, 1, 5\)"):
        layer(given.x, masks=masks)


@KIND
def test_masks_of_keras_s_rates_differ_between_gates_and_samples(cell: Cell) -> None:
    given = problem(cell, features=31, units=31)
    layer = given.give(lapse_layer(cell, units=31, dropout=0.5, recurrent_dropout=0.5))
    masks = layer.draw_masks(BATCH, TIMESTEPS, seed=1)
    for mask in (array(masks.x), array(masks.h)):
        assert mask.shape == (BATCH, 1, cell.gates, 31)
        assert set(np.unique(mask)) == {0.0, 2.0}
        assert len(np.unique(mask.reshape(-1, 31), axis=0)) == BATCH * cell.gates


def test_noise_adds_to_keras_s_rates() -> None:
    layer = lapse_layer(LSTM, lapse.WeightDrop(0.5), dropout=0.25, seed=5, return_sequences=True)
    assert [str(term) for term in layer.plan.terms] == ["x:0.25@BF", "U:0.5@IO"]
    given = problem(LSTM)
    given.give(layer)
    masks = drawing.draw(plan_for("x:0.25@BF U:0.5@IO", LSTM), 5, **SIZES)
    close(layer(given.x, training=True), oracle(LSTM, given, masks)[0])


@KIND
@pytest.mark.parametrize("argument", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize("rate", [1.0, 1.5, -0.5])
def test_rates_out_of_range_raise_though_keras_clips_them(
    cell: Cell, argument: str, rate: float
) -> None:
    """B4: in Keras a rate of 1 drops everything in one place and nothing in another."""
    with pytest.raises(
        lapse.LapseError, match=rf"the rate {rate} is not a probability of dropping"
    ):
        lapse_layer(cell, **{argument: rate})


def test_rates_given_by_position_are_read() -> None:
    until_dropout = ["tanh", "sigmoid", True, *["zeros"] * 3, True, *[None] * 7]
    layer = lapse.keras.LSTM(UNITS, *until_dropout, 0.25, 0.5)
    assert [str(term) for term in layer.plan.terms] == ["x:0.25@BFG", "h:0.5@BFG"]


def test_illegal_noise_raises_when_the_layer_is_made() -> None:
    with pytest.raises(lapse.LapseError, match="GRU has no cell state"):
        lapse_layer(GRU, "c:0.5@BTF>prev")
    with pytest.raises(lapse.LapseError, match="is not a noise term"):
        lapse_layer(GRU, "half of everything")


def test_a_form_that_forgets_at_evaluation_warns_when_the_layer_is_made() -> None:
    with pytest.warns(UserWarning, match="forgets at evaluation") as caught:
        lapse.keras.LSTM(UNITS, noise=lapse.RnnDrop(0.25))
    assert len(caught) == 1


# Padding takes no part.


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=lambda cell: cell.id)
@pytest.mark.parametrize(
    ("noise", "backwards"),
    [(PER_STEP, False), (PER_STEP, True), (PER_SEQUENCE, False), (PER_SEQUENCE, True)],
    ids=["per step", "per step, backwards", "per sequence", "per sequence, backwards"],
)
def test_padding_at_the_end_changes_neither_masks_nor_results(
    cell: Cell, noise: str, backwards: bool
) -> None:
    """What stands in the padding doesn't matter either, not even if it is no number."""
    given, longer = problem(cell), TIMESTEPS + 4
    options = {"return_sequences": True, "return_state": True, "go_backwards": backwards}
    short, long = (lapse_layer(cell, noise, seed=5, **options) for _ in "12")
    given.give(short, long)
    x = np.full((BATCH, longer, FEATURES), np.nan, np.float32)
    x[:, :TIMESTEPS] = given.x
    running = np.arange(longer) < np.full((BATCH, 1), TIMESTEPS)
    y_short, *states_short = array(short(given.x, training=True))
    y_long, *states_long = array(long(x, mask=running, training=True))
    real = y_long[:, -TIMESTEPS:] if backwards else y_long[:, :TIMESTEPS]
    close(real, y_short, what="outputs")
    for found, expected in zip(states_long, states_short, strict=True):
        close(found, expected, what="state")


def test_a_sample_s_noise_does_not_depend_on_the_batch_it_is_in() -> None:
    given = problem(LSTM)
    layer = given.give(lapse_layer(LSTM, PER_STEP))
    whole = array(layer.draw_masks(BATCH, TIMESTEPS, seed=9))
    part = array(layer.draw_masks(1, TIMESTEPS, seed=9))
    for mask, alone in zip(whole, part, strict=True):
        if mask is not None:
            np.testing.assert_array_equal(mask[:1], alone)


# Inside Keras's own layers and models.


@KIND
def test_the_two_directions_of_bidirectional_have_their_own_masks(cell: Cell) -> None:
    """B9: Keras gives both directions the layer's seed, and so the same masks."""
    given = problem(cell)
    both = keras.layers.Bidirectional(lapse_layer(cell, "x:0.5@BTF", return_sequences=True, seed=5))
    outputs = array(both(given.x, training=True))
    assert both.forward_layer.cell.seed == both.backward_layer.cell.seed == 5
    made = both.forward_layer.plan
    forwards, backwards = (drawing.draw(made, 5, **SIZES, direction=n) for n in (0, 1))
    assert (forwards.x != backwards.x).any()
    there = array(both.forward_layer(given.x, masks=on_backend(forwards)))
    back = array(both.backward_layer(given.x, masks=on_backend(backwards)))[:, ::-1]
    np.testing.assert_array_equal(outputs, np.concatenate([there, back], axis=-1))


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=lambda cell: cell.id)
@pytest.mark.parametrize("noise", [lapse.Zoneout(0.5), "x:0.5@BTF"], ids=str)
def test_bidirectional_never_takes_a_kernel_that_knows_no_noise(
    cell: Cell, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, Keras runs both directions in one call unless dropout= is set."""

    def fused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the fused kernel ran instead of the layers")

    monkeypatch.setattr(keras.src.backend, f"bidirectional_{cell.name.lower()}", fused)
    both = keras.layers.Bidirectional(lapse_layer(cell, noise))
    given = problem(cell)
    both.build(given.x.shape)
    both(given.x, training=True)


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=lambda cell: cell.id)
def test_a_kernel_that_lapse_does_not_run_is_refused(cell: Cell) -> None:
    with pytest.raises(lapse.LapseError, match=r"use_cudnn=True was given.* write 'auto' or False"):
        lapse_layer(cell, use_cudnn=True)
    lapse_layer(cell, use_cudnn="auto")
    lapse_layer(cell, use_cudnn=False)


def test_training_true_in_a_functional_model_keeps_the_noise_on() -> None:
    """Dropout at prediction, for Monte Carlo estimates: written once, where the model is made."""
    given = problem(LSTM)
    inputs = keras.Input((TIMESTEPS, FEATURES))
    layer = lapse_layer(LSTM, "x:0.5@BF", seed=5)
    model = keras.Model(inputs, layer(inputs, training=True))
    given.give(layer)
    for call, options in enumerate([{}, {}, {"training": True}]):
        expected = drawing.draw(layer.plan, 5 | call << 32, **SIZES)
        found = model(given.x, **options)
        close(found, oracle(LSTM, given, expected)[0][:, -1], what=f"call {call}")


@KIND
def test_stateful_layers_train(cell: Cell) -> None:
    """B7: the state of the last batch goes into the next one, without its gradient."""
    if BACKEND == "jax":
        pytest.skip("Keras keeps no state of stateful layers between compiled steps on JAX")
    given = problem(cell)
    layer = lapse_layer(cell, "x:0.3@BF", stateful=True, return_sequences=True, seed=5)
    inputs = keras.Input(batch_shape=given.x.shape)
    model = keras.Model(inputs, layer(inputs))
    given.give(layer)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    state, target = None, np.zeros((BATCH, TIMESTEPS, UNITS))
    for call in range(2):
        loss = model.train_on_batch(given.x, target)
        masks = drawing.draw(layer.plan, 5 | call << 32, **SIZES)
        expected, state = oracle(cell, given, masks, initial_state=state)
        close(loss, np.mean(expected**2), what=f"call {call}")


# Bugs of Keras 3.15 that a subclass could inherit.


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=lambda cell: cell.id)
def test_implementation_1_with_dropout_runs_and_is_the_same(cell: Cell) -> None:
    """B1: a list of masks went where one mask was expected."""
    given = problem(cell)
    outputs = []
    for implementation in (1, 2):
        layer = lapse_layer(cell, dropout=0.5, seed=5, implementation=implementation)
        outputs.append(array(given.give(layer)(given.x, training=True)))
    np.testing.assert_array_equal(outputs[0], outputs[1])


@KIND
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_an_unrolled_layer_masks_as_any_other(cell: Cell, backwards: bool) -> None:
    """B5 and B6: it crashed on PyTorch when backwards, and forgot to zero padding on JAX."""
    given = problem(cell)
    running = np.arange(TIMESTEPS) < np.array([[7], [4], [1]])
    options = {
        "return_sequences": True,
        "go_backwards": backwards,
        "zero_output_for_mask": True,
    }
    unrolled, other = (lapse_layer(cell, unroll=unroll, **options) for unroll in (True, False))
    given.give(unrolled, other)
    found, expected = array(unrolled(given.x, mask=running)), array(other(given.x, mask=running))
    np.testing.assert_array_equal(found, expected)
    padded = ~running[:, ::-1] if backwards else ~running
    assert not found[padded].any() and found[~padded].all()


def test_neighbouring_seeds_are_unrelated() -> None:
    """B9: on PyTorch, seed s at its second draw gave the masks of seed s + 1 at its first."""
    five, six = (problem(LSTM).give(lapse_layer(LSTM, "x:0.5@BTF", seed=s)) for s in (5, 6))
    draws = [array(layer.draw_masks(BATCH, TIMESTEPS).x) for layer in (five, five, six, six)]
    for n, one in enumerate(draws):
        for other in draws[:n]:
            assert 0.3 < np.mean(one != other) < 0.7


def test_a_call_that_fails_leaves_no_mask_behind() -> None:
    """B9: the next call met the masks of the one that failed."""
    given = problem(LSTM, batch=7)
    layer = given.give(lapse_layer(LSTM, PER_STEP, dropout=0.5, recurrent_dropout=0.5))
    wrong = [np.zeros((BATCH, UNITS + 1), np.float32)] * 2
    with pytest.raises(Exception, match=r"(?s)LSTM\.call\(\)"):  # each backend has its own type
        layer(given.x[:BATCH], initial_state=wrong, training=True)
    assert np.isfinite(array(layer(given.x, training=True))).all()
