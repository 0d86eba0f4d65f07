"""The cells: alone, in `keras.layers.RNN`, and stacked in one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras_support import (
    BATCH,
    EVERY_CASE,
    FORM_CASES,
    PER_SEQUENCE,
    SIZES,
    TIMESTEPS,
    UNITS,
    Problem,
    array,
    close,
    ids,
    lapse_cell,
    lapse_layer,
    noise_of,
    on_backend,
    oracle,
    problem,
    seed_state,
    stock_cell,
)

import lapse
from catalog import CELLS, GRU, LSTM, SIMPLE_RNN, Cell, distance, frozen_masks, plan_for
from lapse.core import drawing
from lapse.core.errors import LapseError
from lapse.core.masks import Masks
from lapse.core.noise import collect

CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
KIND = pytest.mark.parametrize("cell", [LSTM, GRU, SIMPLE_RNN], ids=lambda cell: cell.id)

PER_SEQUENCE_CASES = [
    (cell, noise)
    for cell, noise in [*FORM_CASES, *((cell, PER_SEQUENCE) for cell in CELLS)]
    if all("T" not in term.axes for term in collect(noise_of(noise)))
]
CONSTANT_STATE = "s:0.3@BF>prev"  # zoneout with one coin for a whole sequence


def one_step(given: Problem) -> tuple[Any, Any]:
    """The first step of a problem, and its state as a cell takes it."""
    return given.x[:, 0], list(given.state)


def expected_step(cell: Cell, given: Problem, masks: Masks) -> tuple[np.ndarray, tuple]:
    first = given._replace(x=given.x[:, :1])
    y, state = oracle(cell, first, masks, initial_state=given.state)
    return y[:, 0], state


def frozen(cell: Cell, noise: Any, seed: int = 1) -> Masks:
    return frozen_masks(cell, noise, np.zeros((BATCH, 1, SIZES["features"])), UNITS, seed)


# Alone.


@CELL
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_cell_without_noise_is_keras_s(cell: Cell, bias: bool) -> None:
    given = problem(cell, bias=bias)
    stock, ours = stock_cell(cell, use_bias=bias), lapse_cell(cell, use_bias=bias)
    for one in (stock, ours):
        one.build((BATCH, SIZES["features"]))
        given.give(one)
    (y, state), (wanted, wanted_state) = (array(one(*one_step(given))) for one in (ours, stock))
    close(y, wanted, what="output")
    for found, expected in zip(state, wanted_state, strict=True):
        close(found, expected, what="state")
    whole = np.arange(BATCH * SIZES["features"]).reshape(BATCH, -1)
    close(array(ours(whole, given.state)[0]), array(stock(whole, given.state)[0]), what="integers")


@pytest.mark.parametrize(("cell", "noise"), PER_SEQUENCE_CASES, ids=ids(PER_SEQUENCE_CASES))
def test_a_step_is_the_oracle_s_on_the_same_masks(cell: Cell, noise: str) -> None:
    given = problem(cell)
    layer = built(cell, given, noise_of(noise))
    for masks, options in (
        (frozen(cell, noise_of(noise)), {"training": True}),
        (plan_for(noise_of(noise), cell).expected, {}),
    ):
        passed = {"masks": on_backend(masks)} if options else {}
        y, state = array(layer(*one_step(given), **options, **passed))
        wanted, wanted_state = expected_step(cell, given, masks)
        close(y, wanted, what=f"output {options}")
        for found, expected in zip(state, wanted_state, strict=True):
            close(found, expected, what=f"state {options}")


def built(cell: Cell, given: Problem, noise: Any = None, **options: Any) -> Any:
    made = lapse_cell(cell, noise, **options)
    made.build((BATCH, SIZES["features"]))
    return given.give(made)


@KIND
def test_masks_drawn_by_a_cell_are_those_of_a_layer_with_its_seed(cell: Cell) -> None:
    given = problem(cell)
    masks = array(built(cell, given, PER_SEQUENCE).draw_masks(BATCH, seed=7))
    expected = drawing.draw(plan_for(PER_SEQUENCE, cell), 7, **SIZES)
    for slot, mask, wanted in zip(Masks._fields, masks, expected, strict=True):
        if wanted is None:
            assert mask is None, slot
        else:
            np.testing.assert_array_equal(mask, wanted, slot)


@KIND
def test_a_cell_alone_draws_for_each_call_and_any_batch(cell: Cell) -> None:
    """B9: Keras's cell keeps the mask of its first call for ever, and then meets a new batch."""
    given, larger = problem(cell), problem(cell, batch=7)
    made = built(cell, given, "x:0.5@BF h:0.5@BF", seed=5)
    first, second = (array(made(*one_step(given), training=True)[0]) for _ in "12")
    assert distance(first, second) > 1e-3
    for call, (found, on) in enumerate([(first, given), (second, given)]):
        masks = drawing.draw(made.plan, 5 | call << 32, **SIZES)
        close(found, expected_step(cell, on, masks)[0], what=f"call {call}")
    masks = drawing.draw(made.plan, 5 | 2 << 32, **{**SIZES, "batch": 7})
    found = made(*one_step(larger), training=True)[0]
    close(found, expected_step(cell, larger, masks)[0], what="larger batch")


def test_evaluation_of_a_cell_draws_nothing() -> None:
    given = problem(LSTM)
    made = built(LSTM, given, PER_SEQUENCE, dropout=0.5, recurrent_dropout=0.5, seed=5)
    made(*one_step(given))
    keras.layers.RNN(made)(given.x)
    assert seed_state(made) == [5, 0]


@KIND
def test_noise_per_step_is_refused_with_what_to_write_instead(cell: Cell) -> None:
    """A cell doesn't know which step it is at."""
    with pytest.raises(lapse.LapseError) as caught:
        lapse_cell(cell, ["x:0.5@BF", "h:0.5@BTF"])
    assert f"write lapse.keras.{cell.name}(..., noise='h:0.5@BTF')" in str(caught.value)
    # What it says to write works.
    eval(f"lapse.keras.{cell.name}(3, noise='h:0.5@BTF')", {"lapse": lapse})


def test_blocks_of_steps_are_noise_per_step_too() -> None:
    with pytest.raises(lapse.LapseError, match="a cell does not know its step"):
        lapse_cell(GRU, "x:0.5@BT/2F")


# In keras.layers.RNN.


@pytest.mark.parametrize("cell", CELLS if EVERY_CASE else [LSTM, GRU], ids=lambda cell: cell.id)
def test_rnn_runs_a_cell_as_the_layer_with_the_same_masks(cell: Cell) -> None:
    """One mask for all steps of a sequence, and new ones for the next call."""
    given = problem(cell)
    noise = PER_SEQUENCE + " " + CONSTANT_STATE
    options = {"return_sequences": True, "return_state": True}
    made = built(cell, given, noise, seed=5)
    loop, layer = keras.layers.RNN(made, **options), lapse_layer(cell, noise, **options)
    given.give(layer)
    for call in range(2):
        masks = drawing.draw(layer.plan, 5 | call << 32, **SIZES)
        found = array(loop(given.x, training=True))
        expected = array(layer(given.x, masks=on_backend(masks)))
        for a, b in zip(found, expected, strict=True):
            close(a, b, what=f"call {call}")
    assert seed_state(made) == [5, 2], "one draw a call, whatever the number of steps"


@KIND
def test_rnn_evaluates_a_cell_as_the_layer(cell: Cell) -> None:
    given, noise = problem(cell), CONSTANT_STATE + " x:0.3@BF!exp"
    layer = given.give(lapse_layer(cell, noise, return_sequences=True))
    loop = keras.layers.RNN(built(cell, given, noise), return_sequences=True)
    close(loop(given.x), array(layer(given.x)))


def test_rnn_holds_a_cell_s_state_in_padding() -> None:
    given = problem(LSTM)
    running = np.arange(TIMESTEPS) < np.array([[7], [4], [1]])
    noise = "x:0.2@BF h:0.2@BFG U:0.2@IO"  # none on y: on JAX, Keras repeats states as outputs
    loop = keras.layers.RNN(built(LSTM, given, noise, seed=5), return_sequences=True)
    masks = drawing.draw(loop.cell.plan, 5, **SIZES)
    found = loop(given.x, mask=keras.ops.convert_to_tensor(running), training=True)
    close(found, oracle(LSTM, given, masks, running=running)[0])


def test_a_loop_that_fails_leaves_no_mask_behind_in_the_cell() -> None:
    """B9: the next call met the masks of the one that failed."""
    given = problem(LSTM)
    made = built(LSTM, given, "x:0.5@BF", seed=5)
    wrong = [np.zeros((BATCH, UNITS + 1), np.float32)] * 2
    with pytest.raises(Exception, match=r"LSTMCell\.call\(\)"):  # each backend has its own type
        keras.layers.RNN(made)(given.x, initial_state=wrong, training=True)
    masks = drawing.draw(made.plan, 5 | 1 << 32, **SIZES)
    found = made(*one_step(given), training=True)[0]
    close(found, expected_step(LSTM, given, masks)[0])


@pytest.mark.parametrize("stack", [list, keras.layers.StackedRNNCells], ids=["list", "stacked"])
def test_stacked_cells_keep_a_mask_each_for_the_sequence(stack: Any) -> None:
    """The first steps of a stack are run twice by Keras, which must not draw twice."""
    lower, upper = problem(LSTM), problem(GRU, features=UNITS)
    upper_cell = lapse_cell(GRU, "x:0.3@BF h:0.3@BFG", seed=6)
    loop = keras.layers.RNN(
        stack([lapse_cell(LSTM, PER_SEQUENCE, seed=5), upper_cell]), return_sequences=True
    )
    loop.build(lower.x.shape)
    for made, given in zip(loop.cell.cells, (lower, upper), strict=True):
        given.give(made)
    for call in range(2):
        masks = drawing.draw(loop.cell.cells[0].plan, 5 | call << 32, **SIZES)
        between, _ = oracle(LSTM, lower, masks)
        masks = drawing.draw(upper_cell.plan, 6 | call << 32, **{**SIZES, "features": UNITS})
        expected, _ = oracle(GRU, upper._replace(x=between), masks)
        close(loop(lower.x, training=True), expected, what=f"call {call}")


def test_cells_train_in_a_compiled_model() -> None:
    """The loss of each step is that of the masks which seed and call number stand for."""
    given = problem(LSTM)
    made = built(LSTM, given, PER_SEQUENCE, seed=5)
    model = keras.Sequential([keras.layers.RNN(made, return_sequences=True)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    for call in range(2):
        loss = model.train_on_batch(given.x, np.zeros((BATCH, TIMESTEPS, UNITS)))
        y, _ = oracle(LSTM, given, drawing.draw(made.plan, 5 | call << 32, **SIZES))
        close(loss, np.mean(y**2), what=f"call {call}")


def test_masks_for_another_cell_or_sequence_are_refused() -> None:
    given = problem(LSTM)
    cell = given.give(lapse_cell(LSTM, "h:0.5@BFG"))
    x, state = given.x[:, 0], list(given.state)
    for masks in (
        Masks(i=np.ones((1, 1, 1, UNITS), "f")),
        Masks(h=np.ones((BATCH, 7, 4, UNITS), "f")),
        cell.draw_masks(BATCH + 2),
    ):
        with pytest.raises(LapseError, match="mask"):
            cell(x, state, masks=masks)
