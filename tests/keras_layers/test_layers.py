"""The layers' values: against Keras's own layers without noise, against the oracle with it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_support import (
    BACKEND_CASES,
    BATCH,
    EVERY_CASE,
    EVERYWHERE,
    FORM_CASES,
    PER_STEP,
    PLAIN_CASES,
    SIZES,
    TIMESTEPS,
    UNITS,
    Problem,
    array,
    close,
    compiled,
    gradients,
    ids,
    lapse_layer,
    noise_of,
    on_backend,
    oracle,
    oracle_gradients,
    problem,
    seed_state,
    stock_layer,
    turned,
)

import lapse
import lapse.keras
from catalog import (
    CASES,
    CELLS,
    GRU,
    LSTM,
    SIMPLE_RNN,
    TERMS,
    Cell,
    distance,
    frozen_masks,
    legal,
    plan_for,
)
from lapse import LapseError
from lapse.core import drawing, forms
from lapse.core.masks import Masks

CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
KIND = pytest.mark.parametrize("cell", [LSTM, GRU, SIMPLE_RNN], ids=lambda cell: cell.id)

OPTIONS: dict[str, dict[str, Any]] = {
    "last output": {},
    "sequences": {"return_sequences": True},
    "state": {"return_state": True},
    "backwards": {"go_backwards": True, "return_sequences": True, "return_state": True},
    "no bias": {"use_bias": False, "return_sequences": True},
    "relu": {"activation": "relu", "return_sequences": True},
    "unrolled": {"unroll": True, "return_sequences": True, "return_state": True},
}

# Rows of real (1) and padded (0) steps.
PADDING = {
    "no padding": "1111111",
    "one real step": "1000000",
    "padding on the right": "1111000",
    "padding on the left": "0011111",
    "padding on both sides": "0110100",
    "holes": "1010010",
    "nothing but padding": "0000000",
}
RUNNING = np.array([[digit == "1" for digit in row] for row in PADDING.values()])

PADDED: dict[str, dict[str, Any]] = {
    "sequences": {"return_sequences": True, "return_state": True},
    "backwards": {"return_sequences": True, "return_state": True, "go_backwards": True},
    "zeros in padding": {"return_sequences": True, "zero_output_for_mask": True},
    "zeros in padding, last output": {"return_state": True, "zero_output_for_mask": True},
}


ENGINE = pytest.mark.parametrize("engine", ["auto", "reference"])

# Where each case is compiled, those that evaluate as without noise are left to one layer.
EVALUATED = [
    (cell, noise)
    for cell, noise in BACKEND_CASES
    if EVERY_CASE or any(plan_for(noise_of(noise), cell).expected) or cell == LSTM
]


def layers_of_both(cell: Cell, given: Problem, **options: Any) -> tuple[Any, Any]:
    both = stock_layer(cell, **options), lapse_layer(cell, **options)
    given.give(*both)
    return both


def same(found: Any, expected: Any) -> None:
    found, expected = array(found), array(expected)
    if not isinstance(expected, tuple):
        found, expected = (found,), (expected,)
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        close(a, b, what=f"result {number}")


# Without noise: Keras's own layers.


@CELL
@pytest.mark.parametrize("options", OPTIONS)
def test_a_layer_without_noise_is_keras_s(cell: Cell, options: str) -> None:
    given = problem(cell, bias=OPTIONS[options].get("use_bias", True))
    stock, ours = layers_of_both(cell, given, **OPTIONS[options])
    same(ours(given.x), stock(given.x))


@CELL
@pytest.mark.parametrize("options", PADDED)
def test_padding_is_keras_s(cell: Cell, options: str) -> None:
    given = problem(cell, batch=len(PADDING))
    stock, ours = layers_of_both(cell, given, **PADDED[options])
    found, expected = array(ours(given.x, mask=RUNNING)), array(stock(given.x, mask=RUNNING))
    for number, (result, wanted) in enumerate(zip(found, expected, strict=True)):
        if options == "zeros in padding":  # one result: go through its samples
            close(result, wanted, what=list(PADDING)[number])
            continue
        for row, name in enumerate(PADDING):
            close(result[row], wanted[row], what=f"result {number}, {name}")


@CELL
def test_whole_numbers_are_taken_as_keras_takes_them(cell: Cell) -> None:
    stock, ours = layers_of_both(cell, problem(cell))
    x = np.arange(BATCH * TIMESTEPS * SIZES["features"]).reshape(BATCH, TIMESTEPS, -1) % 5
    same(ours(x), stock(x))


@CELL
def test_initial_state_is_keras_s(cell: Cell) -> None:
    given = problem(cell)
    stock, ours = layers_of_both(cell, given, return_sequences=True, return_state=True)
    state = list(given.state)
    same(ours(given.x, initial_state=state), stock(given.x, initial_state=state))


@CELL
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_before_the_first_real_step_the_output_is_0_and_the_state_the_initial_one(
    cell: Cell, backwards: bool
) -> None:
    """Keras gives zeros on PyTorch and TensorFlow, but the initial state on JAX."""
    given = problem(cell, batch=len(PADDING))
    ours = lapse_layer(cell, return_sequences=True, return_state=True, go_backwards=backwards)
    given.give(ours)
    outputs, *states = array(ours(given.x, initial_state=list(given.state), mask=RUNNING))
    if backwards:
        given = given._replace(x=given.x[:, ::-1])
    running = RUNNING[:, ::-1] if backwards else RUNNING
    y, state = oracle(cell, given, initial_state=given.state, running=running)
    close(outputs, y)
    for found, expected in zip(states, state, strict=True):
        close(found, expected)
    nothing = list(PADDING).index("nothing but padding")
    assert not outputs[nothing].any()
    for found, initial in zip(states, given.state, strict=True):
        np.testing.assert_array_equal(found[nothing], initial[nothing])


@CELL
def test_a_stateful_layer_goes_on_until_it_is_reset_as_keras_s(cell: Cell) -> None:
    given = problem(cell)
    stock, ours = layers_of_both(
        cell, given, stateful=True, return_sequences=True, return_state=True
    )
    first = array(ours(given.x))
    same(first, stock(given.x))
    second = array(ours(given.x))
    same(second, stock(given.x))
    assert distance(second[0], first[0]) > 0.01
    ours.reset_state()
    np.testing.assert_array_equal(array(ours(given.x))[0], first[0])


@CELL
def test_one_training_step_gives_keras_s_weights(cell: Cell) -> None:
    given = problem(cell)
    both = layers_of_both(cell, given, return_sequences=True)
    target = np.random.default_rng(1).normal(size=(BATCH, TIMESTEPS, UNITS)).astype("f")
    expected, found = gradients(list(both), given.x, target)
    for name, a, b in zip(("kernel", "recurrent_kernel", "bias"), found, expected, strict=True):
        close(a, b, "gradients", name)


# With noise: the oracle in float64, on the same masks.


@pytest.mark.parametrize(("cell", "noise"), BACKEND_CASES, ids=ids(BACKEND_CASES))
def test_outputs_are_the_oracle_s_on_the_same_masks(cell: Cell, noise: str) -> None:
    are_the_oracle_s(cell, noise)


@pytest.mark.parametrize(("cell", "noise"), PLAIN_CASES, ids=ids(PLAIN_CASES))
def test_those_of_the_plain_loop_are_too(cell: Cell, noise: str) -> None:
    are_the_oracle_s(cell, noise, engine="reference")


def are_the_oracle_s(cell: Cell, noise: str, **options: Any) -> None:
    """Outputs and states on the same masks."""
    given = problem(cell)
    options |= {"return_sequences": True, "return_state": True}
    layer = given.give(lapse_layer(cell, noise_of(noise), **options))
    masks = frozen_masks(cell, noise_of(noise), given.x, UNITS)
    outputs, *states = array(layer(given.x, training=True, masks=on_backend(masks)))
    y, state = oracle(cell, given, masks)
    close(outputs, y, what="outputs")
    for found, expected in zip(states, state, strict=True):
        close(found, expected, what="state")


@ENGINE
@pytest.mark.parametrize(("cell", "noise"), EVALUATED, ids=ids(EVALUATED))
def test_evaluation_is_the_oracle_s_with_the_expected_masks(
    cell: Cell, noise: str, engine: str
) -> None:
    """Terms that scale at evaluation, and zoneout's mean step, are easily left out there."""
    given = problem(cell)
    layer = given.give(lapse_layer(cell, noise_of(noise), return_sequences=True, engine=engine))
    y, _ = oracle(cell, given, plan_for(noise_of(noise), cell).expected)
    close(layer(given.x), y)


@ENGINE
@CELL
def test_gradients_are_the_oracle_s_on_the_same_masks(cell: Cell, engine: str) -> None:
    """All noise side by side in one model, so that a backend compiles once."""
    noises = [EVERYWHERE, PER_STEP]
    if EVERY_CASE:
        noises += [noise for own, noise in FORM_CASES if own == cell]
    given = problem(cell)
    options = {"return_sequences": True, "engine": engine}
    layers = [lapse_layer(cell, noise_of(noise), **options) for noise in noises]
    given.give(*layers)
    masks = [frozen_masks(cell, noise_of(noise), given.x, UNITS) for noise in noises]
    target = np.random.default_rng(1).normal(size=(BATCH, TIMESTEPS, UNITS)).astype("f")
    found = gradients(layers, given.x, target, [on_backend(m) for m in masks])
    for noise, of_layer, m in zip(noises, found, masks, strict=True):
        expected = oracle_gradients(cell, given, m, target)
        for name, a, b in zip(("kernel", "recurrent", "bias"), of_layer, expected, strict=True):
            close(a, b, "gradients", f"{noise}: {name}")


@ENGINE
@CELL
@pytest.mark.parametrize("options", ["backwards", "no bias", "unrolled", "state"])
def test_noise_goes_with_every_option(cell: Cell, options: str, engine: str) -> None:
    """The masks of a layer that goes backwards stand in the order of its input."""
    both = {"return_sequences": True, "return_state": True, "engine": engine}
    chosen = {**both, **OPTIONS[options]}
    given = problem(cell, bias=chosen.get("use_bias", True))
    layer = given.give(lapse_layer(cell, EVERYWHERE, **chosen))
    masks = frozen_masks(cell, EVERYWHERE, given.x, UNITS)
    found, *_ = array(layer(given.x, training=True, masks=on_backend(masks)))
    if chosen.get("go_backwards"):
        given, masks = given._replace(x=given.x[:, ::-1]), turned(masks)
    close(found, oracle(cell, given, masks)[0])


@pytest.mark.parametrize("cell", CELLS if EVERY_CASE else [LSTM], ids=lambda cell: cell.id)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (7, 1, 31, 1), (1, 31, 1, 7), (31, 7, 1, 31)], ids=str
)
def test_sizes_of_one_are_not_taken_for_shared_axes(cell: Cell, sizes: tuple) -> None:
    """A mask of one step or one feature looks like one that is the same for all."""
    batch, timesteps, features, units = sizes
    named = {"batch": batch, "timesteps": timesteps, "features": features, "units": units}
    given = problem(cell, **named)
    layer = given.give(lapse_layer(cell, EVERYWHERE, units, return_sequences=True))
    masks = frozen_masks(cell, EVERYWHERE, given.x, units)
    run = compiled(lambda x, masks: layer(x, training=True, masks=masks))
    found = run(ops.convert_to_tensor(given.x), on_backend(masks))
    close(found, oracle(cell, given, masks)[0])


@ENGINE
@CELL
def test_noise_and_padding_together(cell: Cell, engine: str) -> None:
    given = problem(cell, batch=len(PADDING))
    noise = EVERYWHERE + " " + PER_STEP
    layer = given.give(lapse_layer(cell, noise, return_sequences=True, engine=engine))
    masks = frozen_masks(cell, noise, given.x, UNITS)
    outputs = array(layer(given.x, mask=RUNNING, training=True, masks=on_backend(masks)))
    expected, _ = oracle(cell, given, masks, running=RUNNING)
    for row, name in enumerate(PADDING):
        close(outputs[row], expected[row], what=name)


@KIND
def test_the_padding_of_a_masking_layer_holds_beside_masks(cell: Cell) -> None:
    """Keras passes on an implicit mask only to calls with one tensor, and these are several."""
    given = problem(cell)
    running = np.arange(TIMESTEPS) < np.array([[7], [4], [1]])
    x = np.where(running[..., None], given.x, 0)
    layer = given.give(lapse_layer(cell, "x:0.5@BTF", return_sequences=True))
    masks = frozen_masks(cell, "x:0.5@BTF", x, UNITS)

    def call(x: Any) -> Any:
        return layer(keras.layers.Masking()(x), masks=on_backend(masks))

    expected = oracle(cell, given, masks, running=running)[0]
    close(call(x), expected)
    close(compiled(call)(ops.convert_to_tensor(x.astype("float32"))), expected)


@KIND
def test_padding_beside_initial_state_is_keras_s(cell: Cell) -> None:
    """It loses an implicit mask there; what is trained with lapse is deployed with Keras."""
    words = np.array([[3, 4, 5, 6], [0, 4, 5, 6], [3, 0, 5, 6], [3, 4, 5, 0]])
    tokens = keras.Input((4,), dtype="int32")
    embedded = keras.layers.Embedding(9, 3, mask_zero=True)(tokens)
    state = keras.layers.Flatten()(keras.layers.Embedding(9, 3)(tokens))
    state = keras.layers.Dense(UNITS)(state)
    stock = stock_layer(cell, return_sequences=True)
    states = [state] * len(problem(cell).state)
    model = keras.Model(tokens, stock(embedded, initial_state=states))
    ours = lapse.keras.convert(model)
    expected = model.predict(words, verbose=0)
    close(ours.predict(words, verbose=0), expected)
    close(ours(words), expected)
    close(lapse.keras.to_native(ours).predict(words, verbose=0), expected)


def test_activations_of_the_layer_are_used() -> None:
    """The noisy loop runs the activations that were asked for, not tanh and sigmoid."""
    chosen = {"activation": "relu", "recurrent_activation": "hard_sigmoid"}
    given = problem(LSTM)
    stock = given.give(stock_layer(LSTM, return_sequences=True, **chosen))
    ours = given.give(lapse_layer(LSTM, "h:0.5@BFG", return_sequences=True, **chosen))
    masks = on_backend(Masks(h=np.ones((1, 1, 4, UNITS), "f")))
    same(ours(given.x, masks=masks), stock(given.x))


def test_given_masks_hold_in_evaluation_too_and_nothing_is_drawn() -> None:
    given = problem(GRU)
    layer = given.give(lapse_layer(GRU, "x:0.5@BTF", return_sequences=True, seed=7))
    masks = on_backend(frozen_masks(GRU, "x:0.5@BTF", given.x, UNITS))
    in_training = array(layer(given.x, training=True, masks=masks))
    np.testing.assert_array_equal(array(layer(given.x, training=False, masks=masks)), in_training)
    assert seed_state(layer) == [7, 0]


# The masks themselves: NumPy's, bit by bit.


def _drawn_cases() -> list[tuple[Cell, str]]:
    """All on PyTorch; where each is compiled, all laws, runs and axes once."""
    if EVERY_CASE:
        return CASES
    patterns: dict[Any, tuple[Cell, str]] = {}
    for text in TERMS:
        if legal(LSTM, text):
            for term in plan_for(text, LSTM).terms:
                kinds = tuple((axis.run, axis.name) for axis in term.axes.values())
                patterns.setdefault((term.law, kinds, term.site in "WU"), (LSTM, text))
    return [*dict.fromkeys(patterns.values()), *((cell, EVERYWHERE) for cell in (GRU, SIMPLE_RNN))]


@pytest.mark.parametrize(("cell", "noise"), _drawn_cases(), ids=ids(_drawn_cases()))
def test_drawn_masks_are_numpy_s(cell: Cell, noise: str) -> None:
    seed = 5 | 3 << 32
    noise = noise_of(noise)
    layer = problem(cell).give(lapse_layer(cell, noise))
    made = plan_for(noise, cell)
    found = array(compiled(lambda: layer.draw_masks(BATCH, TIMESTEPS, seed=seed))())
    expected = drawing.draw(made, seed, **SIZES)
    laws = {slot: {draw.term.law for draw in draws} for slot, draws in made.slots}
    for slot, mask, wanted in zip(Masks._fields, found, expected, strict=True):
        if wanted is None:
            assert mask is None, f"{slot} is drawn for no term"
        elif laws[slot] == {"bern"}:
            np.testing.assert_array_equal(mask, wanted, slot)
        else:
            close(mask, wanted, "continuous masks", slot)


@KIND
def test_a_layer_that_goes_backwards_has_a_stream_of_its_own(cell: Cell) -> None:
    seed = 2**63 + 1
    layer = problem(cell).give(lapse_layer(cell, "x:0.5@BTF", go_backwards=True))
    found = array(layer.draw_masks(BATCH, TIMESTEPS, seed=seed).x)
    made = plan_for("x:0.5@BTF", cell)
    np.testing.assert_array_equal(found, drawing.draw(made, seed, **SIZES, direction=1).x)
    assert (found != drawing.draw(made, seed, **SIZES).x).any()


def test_the_masks_of_a_training_call_follow_from_seed_and_call_number() -> None:
    """So one seed trains with the same numbers on every backend."""
    given = problem(LSTM)
    layer = given.give(lapse_layer(LSTM, "x:0.5@BF h:0.5@BFG", return_sequences=True, seed=5))
    for call in range(3):
        masks = drawing.draw(layer.plan, 5 | call << 32, **SIZES)
        close(layer(given.x, training=True), oracle(LSTM, given, masks)[0], what=f"call {call}")
        assert seed_state(layer) == [5, call + 1]


def test_every_form_is_in_the_cases() -> None:
    """The sample for compiled backends is made from the catalog; it must not go empty."""
    covered = {type(noise_of(noise)) for _, noise in FORM_CASES}
    assert covered == set(forms.FORMS) - {forms.EmbeddingDropout}


def test_a_saved_layer_keeps_its_engine() -> None:
    layer = lapse_layer(LSTM, engine="reference")
    assert type(layer).from_config(layer.get_config()).engine == "reference"


def test_a_layer_is_explained_once_it_knows_its_sizes() -> None:
    layer = lapse_layer(LSTM, "x:0.5@BF", activation="relu")
    with pytest.raises(LapseError, match="doesn't know its number of features yet"):
        lapse.explain(layer)
    layer.build((None, TIMESTEPS, 3))
    text = lapse.explain(layer)
    assert "x:0.5@BF acts on the layer input" in text and "(batch, 1, 1, 3)" in text
    assert text.splitlines()[-1].startswith("Runs on the plain loop, because")
    assert "activations are tanh and sigmoid" in text
    right = lapse_layer(LSTM)
    right.build((None, TIMESTEPS, 3))
    assert "Runs on the C++ kernels" in lapse.explain(right)
