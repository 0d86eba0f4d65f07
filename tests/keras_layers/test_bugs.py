"""What is wrong in Keras 3.15.1's own recurrent layers and must be right in lapse's.

B1 to B12 number these bugs. Two are in classes that lapse has none of: B8, that `Bidirectional`
with `stateful` and `return_state` fails on a mask, and B11, that GaussianDropout and AlphaDropout
take a rate of 1 and fail when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_support import BATCH, FEATURES, TIMESTEPS, UNITS, array, close, seed_state

import lapse.keras
from lapse.keras import GRU, LSTM, GRUCell, LSTMCell, SimpleRNN, SimpleRNNCell

LAYERS = (LSTM, GRU, SimpleRNN)
in_every_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
BOTH: dict[str, Any] = {"dropout": 0.3, "recurrent_dropout": 0.4}


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(BATCH, TIMESTEPS, FEATURES)).astype("float32")


# Some at the end, in the middle and at the front; one sequence has no real step at all.
PADDING = np.ones((BATCH, TIMESTEPS), bool)
PADDING[0, 5:] = PADDING[1, :2] = PADDING[1, 4] = PADDING[2] = False


@pytest.mark.parametrize("kind", [LSTM, GRU], ids=lambda kind: kind.__name__)
def test_implementation_1_takes_dropout(kind: type, x: np.ndarray) -> None:
    """B1: Keras fails: it has a list of masks where it asks for one."""
    one, two = (kind(UNITS, dropout=0.5, implementation=n, seed=1) for n in (1, 2))
    for layer in (one, two):
        layer.build(x.shape)
    one.set_weights(two.get_weights())
    dropped = array(one(x, training=True))
    close(dropped, array(two(x, training=True)))
    assert (dropped != array(one(x))).any()


@in_every_layer
def test_the_backward_half_of_bidirectional_is_in_the_order_of_time(
    kind: type, x: np.ndarray
) -> None:
    """B3: Keras turns it twice on JAX's GPUs, so that with dropout it comes out reversed."""
    both = keras.layers.Bidirectional(kind(UNITS, return_sequences=True, dropout=0.25))
    y = array(both(x))[:, :, UNITS:]
    changed = x.copy()
    changed[:, 0] += 1  # what is last read backwards: nothing before it can change
    moved = array(both(changed))[:, :, UNITS:]
    assert (y[:, 1:] == moved[:, 1:]).all()
    assert (y[:, 0] != moved[:, 0]).any()


@in_every_layer
@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
@pytest.mark.parametrize("rate", [1.0, 1.5, -1.0])
def test_rates_that_are_none_are_refused(kind: type, name: str, rate: float) -> None:
    """B4: Keras clips them without a word; at 1 some of its paths drop all and others nothing."""
    with pytest.raises(ValueError, match=rf"the rate {rate} is not a probability"):
        kind(UNITS, **{name: rate})


@in_every_layer
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_unroll_with_padding_is_the_loop(kind: type, backwards: bool, x: np.ndarray) -> None:
    """B5, B6: Keras fails on PyTorch where it goes backwards; JAX forgets zero_output_for_mask."""
    options = {"return_sequences": True, "go_backwards": backwards, "zero_output_for_mask": True}
    unrolled, loop = kind(UNITS, unroll=True, **options), kind(UNITS, **options)
    for layer in (unrolled, loop):
        layer.build(x.shape)
    unrolled.set_weights(loop.get_weights())
    y = array(unrolled(x, mask=PADDING))
    close(y, array(loop(x, mask=PADDING)))
    padding = PADDING[:, ::-1] if backwards else PADDING
    assert (y[~padding] == 0).all()
    assert (y[padding] != 0).all()


@in_every_layer
def test_a_stateful_layer_learns(kind: type, x: np.ndarray) -> None:
    """B7: Keras's backward pass fails on PyTorch's cuDNN path: the state was changed in place."""
    layer = kind(UNITS, stateful=True, **BOTH)
    model = keras.Sequential([keras.Input(batch_shape=x.shape), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    before = [array(weight) for weight in layer.trainable_weights]
    for _ in range(3):
        model.train_on_batch(x, np.ones((BATCH, 1)))
    for old, new in zip(before, layer.trainable_weights, strict=True):
        assert np.isfinite(array(new)).all()
        assert (array(new) != old).any()


@in_every_layer
def test_neighbouring_seeds_share_no_mask(kind: type) -> None:
    """B9: Keras on PyTorch: seed s at its draw n is seed s + 1 at its draw n - 1."""
    drawn = []
    for seed in (5, 6):
        layer = kind(UNITS, recurrent_dropout=0.5, seed=seed)
        layer.build((BATCH, TIMESTEPS, FEATURES))
        drawn += [array(layer.draw_masks(BATCH, TIMESTEPS).h) for _ in range(4)]
    for n, one in enumerate(drawn):
        assert not any((one == other).all() for other in drawn[:n])


@in_every_layer
def test_the_two_directions_share_no_mask(kind: type) -> None:
    """B9: Keras gives both the layer's seed, and so the same masks."""
    both = keras.layers.Bidirectional(kind(UNITS, recurrent_dropout=0.5, seed=5))
    both.build((BATCH, TIMESTEPS, FEATURES))
    one, other = (
        array(layer.draw_masks(BATCH, TIMESTEPS).h)
        for layer in (both.forward_layer, both.backward_layer)
    )
    assert (one != other).any()


@in_every_layer
def test_evaluation_does_not_move_what_training_draws_next(kind: type, x: np.ndarray) -> None:
    """B9: Keras draws at evaluation, too: each one changes the next training mask."""
    layer = kind(UNITS, **BOTH, seed=5)
    layer.build(x.shape)
    before = seed_state(layer)
    layer(x)
    layer(x, training=False)
    assert seed_state(layer) == before
    layer(x, training=True)
    assert seed_state(layer) != before


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell, SimpleRNNCell], ids=lambda kind: kind.__name__)
def test_a_bare_cell_draws_at_each_call_and_for_any_batch(kind: type, x: np.ndarray) -> None:
    """B9: Keras's keeps its first mask for ever, and fails when the batch changes."""
    cell = kind(UNITS, dropout=0.5)
    state = cell.get_initial_state(BATCH)
    ys = [array(cell(x[:, 0], state, training=True)[0]) for _ in range(2)]
    assert (ys[0] != ys[1]).any()
    smaller = cell(x[:1, 0], cell.get_initial_state(1), training=True)[0]
    assert array(smaller).shape == (1, UNITS)


@in_every_layer
def test_a_failed_call_leaves_nothing_behind(kind: type, x: np.ndarray) -> None:
    """B9: Keras keeps the mask of a call that failed; the next one, of another batch, fails."""
    layer = kind(UNITS, **BOTH)
    layer(x, training=True)
    with pytest.raises(Exception):  # noqa: B017  each backend has an error of its own
        layer(x, initial_state=[ops.zeros((BATCH, UNITS + 1))] * 2, training=True)
    assert array(layer(x[:1], training=True)).shape == (1, UNITS)


@in_every_layer
def test_a_saved_layer_keeps_its_seed(kind: type) -> None:
    """B10: Keras loses SimpleRNN's."""
    layer = kind(UNITS, recurrent_dropout=0.5, seed=7)
    again = kind.from_config(layer.get_config())  # type: ignore[attr-defined]
    for one in (layer, again):
        one.build((BATCH, TIMESTEPS, FEATURES))
    masks = [array(one.draw_masks(BATCH, TIMESTEPS).h) for one in (layer, again)]
    assert (masks[0] == masks[1]).all()


@in_every_layer
def test_padding_may_stand_anywhere_and_be_all_there_is(kind: type, x: np.ndarray) -> None:
    """B12: Keras's cuDNN path on TensorFlow stops at padding in front, and at nothing but it."""
    layer = kind(UNITS, return_sequences=True)
    y = array(layer(x, mask=PADDING))
    for sample in range(BATCH):
        steps = np.flatnonzero(PADDING[sample])
        if steps.size:
            close(y[sample, steps], array(layer(x[sample : sample + 1, steps]))[0])
        else:
            assert (y[sample] == 0).all()
    model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Masking(), layer])
    padded = np.where(PADDING[..., None], x, 0)
    close(model.predict(padded, verbose=0), y)


# B2: Keras's functional models put their own `training` in the place of the one that a layer was
# called with, so that the usual recipe for dropout in evaluation is lost in `predict`.
IN_EVALUATION: dict[str, Any] = {
    **{kind.__name__: lambda kind=kind: kind(UNITS, recurrent_dropout=0.4) for kind in LAYERS},
    "Dropout": lambda: lapse.keras.Dropout(0.5),
    "Dropout with a noise_shape": lambda: lapse.keras.Dropout(0.5, noise_shape=(None, 1, None)),
    "SpatialDropout1D": lambda: lapse.keras.SpatialDropout1D(0.5),
    "TimestepDropout": lambda: lapse.keras.TimestepDropout(0.5),
    "Embedding": lambda: lapse.keras.Embedding(31, 3, noise="emb:.5@BV"),
}


def functional(layer: Any, **call: Any) -> Any:
    """The layer, and behind it batch normalization, which must not train."""
    words = isinstance(layer, lapse.keras.Embedding)
    inputs = keras.Input((TIMESTEPS,) if words else (TIMESTEPS, FEATURES))
    return keras.Model(inputs, keras.layers.BatchNormalization()(layer(inputs, **call)))


def varies(model: Any, x: np.ndarray) -> bool:
    """Whether two evaluations differ, which has to be so in all the ways to evaluate, or in none;
    and nothing but noise is as in training.
    """
    normal = model.layers[-1]
    before = [array(weight) for weight in normal.weights]
    found = {
        (array(one) != array(other)).any()
        for one, other in (
            (model(x), model(x)),
            (model(x, training=False), model(x, training=False)),
            (model.predict(x, verbose=0), model.predict(x, verbose=0)),
        )
    }
    for weight, was in zip(normal.weights, before, strict=True):
        assert (array(weight) == was).all()
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("name", IN_EVALUATION)
def test_training_that_a_functional_model_was_made_with_holds_in_evaluation(
    name: str, x: np.ndarray, tmp_path: Path
) -> None:
    """B2; in copies and files of the model too."""
    given = np.arange(BATCH * TIMESTEPS).reshape(BATCH, TIMESTEPS) if name == "Embedding" else x
    model = functional(IN_EVALUATION[name](), training=True)
    model.save(tmp_path / "model.keras")
    copies = [keras.models.clone_model(model), keras.models.load_model(tmp_path / "model.keras")]
    for one in (model, *copies):
        assert varies(one, given)
    assert not varies(functional(IN_EVALUATION[name]()), given)
    assert not varies(functional(IN_EVALUATION[name](), training=False), given)


def test_evaluate_draws_where_the_model_was_made_to(x: np.ndarray) -> None:
    """B2."""
    model = functional(LSTM(UNITS, dropout=0.5), training=True)
    model.compile(loss="mse")
    losses = [model.evaluate(x, np.zeros((BATCH, UNITS)), verbose=0) for _ in range(2)]
    assert losses[0] != losses[1]


def test_a_layer_may_stand_in_evaluation_with_noise_and_without(x: np.ndarray) -> None:
    """B2: what holds is what each place of a shared layer was called with."""
    layer, inputs = GRU(UNITS, recurrent_dropout=0.4), keras.Input((TIMESTEPS, FEATURES))
    model = keras.Model(inputs, [layer(inputs), layer(inputs, training=True), layer(inputs)])
    quiet, noisy, again = model.predict(x, verbose=0)
    assert (quiet == again).all()
    assert (quiet != noisy).any()
    trained = [array(one) for one in model(x, training=True)]
    assert (trained[0] != trained[1]).any() and (trained[0] != quiet).any()
    close(layer(x), quiet)  # called with numbers, it is asked each time
    assert (array(layer(x, training=True)) != quiet).any()
    assert (array(layer(x, keep_noise=True)) != quiet).any()


def test_a_cell_in_a_functional_model_too(x: np.ndarray) -> None:
    """B2."""
    cell, step, state = GRUCell(UNITS, dropout=0.5), keras.Input((FEATURES,)), keras.Input((UNITS,))
    model = keras.Model([step, state], cell(step, state, training=True)[0])
    given = [x[:, 0], np.zeros((BATCH, UNITS), "f")]
    assert (model.predict(given, verbose=0) != model.predict(given, verbose=0)).any()


def test_what_keras_itself_calls_with_training_needs_mc_dropout(x: np.ndarray) -> None:
    """B2 in a wrapper or model of Keras's own, whose call is not ours to keep."""
    inputs = keras.Input((TIMESTEPS, FEATURES))
    both = keras.layers.Bidirectional(LSTM(UNITS, recurrent_dropout=0.4))
    model = keras.Model(inputs, both(inputs, training=True))
    one, other = model.predict(x, verbose=0), model.predict(x, verbose=0)
    assert (one == other).all()
    with lapse.keras.mc_dropout(model):
        assert (model.predict(x, verbose=0) != one).any()


def test_converted_models_keep_what_they_were_made_with(x: np.ndarray) -> None:
    """B2: there it takes effect, and on the way back it is Keras's `training` again."""
    model = functional(keras.layers.LSTM(UNITS, dropout=0.4), training=True)
    ours = lapse.keras.convert(model)
    assert varies(ours, x)
    back = lapse.keras.to_native(ours)
    assert type(back.layers[1]) is keras.layers.LSTM
    assert (array(back(x)) != array(back(x))).any()
    (node,) = back.layers[1]._inbound_nodes
    assert node.arguments.kwargs == {"training": True}
