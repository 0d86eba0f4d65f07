"""The Dropout layers: which numbers share a coin, how the rest is scaled, and NumPy's bits."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_support import BATCH, FEATURES, TIMESTEPS, array, close, compiled, seed_state

import lapse
from lapse.core import drawing
from lapse.core.noise import Schedule
from lapse.core.plan import plan
from lapse.keras import Dropout, SpatialDropout1D, TimestepDropout

SHAPE = (BATCH, TIMESTEPS, FEATURES)
LARGE = (7, 31, 63)

# Layers, and the term x of a recurrent layer whose masks they draw.
AS_TERM: dict[str, tuple[type, dict[str, Any], str]] = {
    **{
        f"Dropout {over}": (Dropout, {"rate": 0.5, "over": over}, f"x:0.5@{over}")
        for over in ("BTF", "BF", "BT", "TF", "B", "F", "BT/2F", "BT[3]", "BT~0.3F", "BF[2]")
    },
    "Dropout exp": (Dropout, {"rate": 0.3, "scale": "exp"}, "x:0.3@BTF!exp"),
    "Dropout none": (Dropout, {"rate": 0.3, "over": "BT", "scale": "none"}, "x:0.3@BT!none"),
    "SpatialDropout1D": (SpatialDropout1D, {"rate": 0.3}, "x:0.3@BF"),
    "TimestepDropout": (TimestepDropout, {"rate": 0.3}, "x:0.3@BT"),
    "TimestepDropout none": (TimestepDropout, {"rate": 0.3, "scale": "none"}, "x:0.3@BT!none"),
}


def made(name: str, **options: Any) -> Any:
    kind, given, _ = AS_TERM[name]
    return kind(**given, **options)


def term_mask(term: str, seed: int, shape: tuple) -> np.ndarray:
    batch, timesteps, features = shape
    noise = plan(term, "LSTM")
    sizes = {"batch": batch, "timesteps": timesteps, "features": features, "units": 1}
    return np.broadcast_to(drawing.draw(noise, seed, **sizes).x[:, :, 0], shape)


def factors(layer: Any, shape: tuple = LARGE) -> np.ndarray:
    """What a training call multiplies each number by."""
    return array(layer(np.ones(shape, np.float32), training=True))


@pytest.mark.parametrize("name", AS_TERM)
def test_masks_are_those_of_the_term_at_x(name: str) -> None:
    """Bit by bit, and anew at each call: a layer in front of an RNN is its input noise."""
    layer, x = made(name, seed=5), np.random.default_rng(0).normal(size=SHAPE).astype("f")
    for call in range(2):
        mask = term_mask(AS_TERM[name][2], 5 | call << 32, SHAPE)
        np.testing.assert_array_equal(array(layer(x, training=True)), x * mask, f"call {call}")
    assert seed_state(layer) == [5, 2]


@pytest.mark.parametrize(
    ("layer", "shared"),
    [
        (Dropout(0.5, seed=1), ()),
        (Dropout(0.5, seed=1, over="BF"), (1,)),
        (SpatialDropout1D(0.5, seed=1), (1,)),
        (Dropout(0.5, seed=1, over="BT"), (2,)),
        (TimestepDropout(0.5, seed=1), (2,)),
        (Dropout(0.5, seed=1, over="F"), (0, 1)),
        (Dropout(0.5, seed=1, noise_shape=(None, 1, None)), (1,)),
        (Dropout(0.5, seed=1, noise_shape=(None, None, 1)), (2,)),
    ],
    ids=lambda value: None if isinstance(value, tuple) else type(value).__name__,
)
def test_a_coin_is_shared_along_the_axes_left_out_and_along_no_other(
    layer: Any, shared: tuple
) -> None:
    mask = factors(layer)
    assert set(np.unique(mask)) == {0.0, 2.0}
    for axis in range(3):
        constant = (mask == mask.take([0], axis)).all()
        assert constant == (axis in shared), f"axis {axis}"


def test_what_stays_is_scaled_so_that_the_mean_stays() -> None:
    x = np.random.default_rng(0).normal(size=LARGE).astype("f")
    for layer, factor in (
        (Dropout(0.2, seed=1), 1.25),
        (Dropout(0.2, seed=1, scale="exp"), 1.0),
        (Dropout(0.2, seed=1, scale="none"), 1.0),
        (SpatialDropout1D(0.2, seed=1), 1.25),
        (TimestepDropout(0.2, seed=1), 1.25),
        (TimestepDropout(0.2, seed=1, scale="none"), 1.0),
    ):
        found = array(layer(x, training=True))
        np.testing.assert_array_equal(found, np.where(found == 0, 0, x * np.float32(factor)))


@pytest.mark.parametrize("name", AS_TERM)
def test_evaluation_is_the_input_or_its_expectation_and_draws_nothing(name: str) -> None:
    layer, x = made(name, seed=5), np.random.default_rng(0).normal(size=SHAPE).astype("f")
    scaled = np.float32(0.7) if AS_TERM[name][1].get("scale") == "exp" else np.float32(1)
    close(layer(x), x * scaled)
    close(layer(x, training=False), x * scaled)
    assert seed_state(layer) == [5, 0]


@pytest.mark.parametrize("kind", [Dropout, SpatialDropout1D, TimestepDropout])
def test_a_rate_of_0_leaves_the_input_as_it_is(kind: type) -> None:
    x = np.random.default_rng(0).normal(size=SHAPE).astype("f")
    np.testing.assert_array_equal(array(kind(0.0)(x, training=True)), x)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 7, 5), (3, 2, 7, 5), (3, 1, 2, 7, 5)], ids=str)
def test_single_numbers_are_dropped_in_inputs_of_any_rank(shape: tuple) -> None:
    """All axes between batch and features count as steps."""
    x = np.random.default_rng(0).normal(size=shape).astype("f")
    features = shape[-1] if len(shape) > 1 else 1
    flat = (shape[0], int(np.prod(shape[1:-1], dtype=int)), features)
    expected = x * term_mask("x:0.5@BTF", 5, flat).reshape(shape)
    found = Dropout(0.5, seed=5)(x, training=True)
    np.testing.assert_array_equal(array(found), expected)


def test_noise_shape_is_keras_s() -> None:
    """There Keras draws; the same seed gives Keras's own mask."""
    x = np.random.default_rng(0).normal(size=SHAPE).astype("f")
    for noise_shape in ((None, 1, None), (BATCH, 1, FEATURES), (1, TIMESTEPS, 1), (FEATURES,)):
        ours, stock = (
            kind(0.5, noise_shape=noise_shape, seed=5) for kind in (Dropout, keras.layers.Dropout)
        )
        expected = array(stock(x, training=True))
        np.testing.assert_array_equal(array(ours(x, training=True)), expected, str(noise_shape))
        np.testing.assert_array_equal(array(ours(x)), x, str(noise_shape))


def trained(*layers: Any, shape: tuple) -> Any:
    """A model of the layers that Keras will train: it wants a weight, which changes nothing."""
    identity = keras.layers.Dense(FEATURES, use_bias=False, kernel_initializer="identity")
    model = keras.Sequential([keras.Input(shape), *layers, identity])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def test_sizes_may_be_unknown_when_a_model_is_compiled() -> None:
    """One graph for all batches and lengths must draw masks of each call's own sizes."""
    layers = [Dropout(0.5, over=over, seed=5) for over in ("BTF", "BF", "BT[3]")]
    model = trained(*layers, shape=(None, FEATURES))
    for call, (batch, timesteps) in enumerate([(3, 7), (7, 9)]):
        shape = (batch, timesteps, FEATURES)
        x = np.random.default_rng(call).normal(size=shape).astype("f")
        expected = x
        for layer in layers:
            expected = expected * term_mask(str(layer.term), 5 | call << 32, shape)
        loss = model.train_on_batch(x, np.zeros(shape))
        close(loss, np.mean(expected.astype(np.float64) ** 2), what=f"call {call}")


def test_images_of_unknown_size_are_dropped_in_a_compiled_graph() -> None:
    model = trained(Dropout(0.5, seed=5), shape=(None, None, FEATURES))
    assert model.layers[0].output.shape == (None, None, None, FEATURES)
    x = np.random.default_rng(0).normal(size=(3, 2, 7, FEATURES)).astype("f")
    expected = x * term_mask("x:0.5@BTF", 5, (3, 14, FEATURES)).reshape(x.shape)
    close(model.train_on_batch(x, np.zeros(x.shape)), np.mean(expected.astype(np.float64) ** 2))


def test_a_mask_goes_through_the_layer() -> None:
    x = np.ones(SHAPE, np.float32)
    x[:, 4:] = 0
    for layer in (Dropout(0.5), SpatialDropout1D(0.5), TimestepDropout(0.5)):
        found = layer(keras.layers.Masking()(x))
        np.testing.assert_array_equal(array(found._keras_mask), x[:, :, 0] != 0)


def test_half_precision_stays_half_precision() -> None:
    x = np.random.default_rng(0).normal(size=SHAPE).astype("float16")
    found = Dropout(0.5, seed=5, dtype="mixed_float16")(x, training=True)
    assert keras.backend.standardize_dtype(found.dtype) == "float16"
    np.testing.assert_array_equal(array(found), x * term_mask("x:0.5@BTF", 5, SHAPE).astype("f2"))


def test_a_graph_draws_what_an_eager_call_draws() -> None:
    x = np.random.default_rng(0).normal(size=SHAPE).astype("f")
    layer = Dropout(0.5, seed=5)
    layer.build(SHAPE)

    def call(state: Any, x: Any) -> Any:
        return layer.stateless_call([], state, x, training=True)[0]

    state = [variable.value for variable in layer.non_trainable_variables]
    found = compiled(call)([ops.convert_to_tensor(value) for value in state], x)
    np.testing.assert_array_equal(array(found), x * term_mask("x:0.5@BTF", 5, SHAPE))


# Mistakes.


@pytest.mark.parametrize("kind", [Dropout, SpatialDropout1D, TimestepDropout])
def test_rates_out_of_range_raise(kind: type) -> None:
    for rate in (1.5, -0.5):
        with pytest.raises(
            ValueError, match=rf"Expected a float .* 0 and 1. Received: rate={rate}"
        ):
            kind(rate)
    with pytest.raises(lapse.LapseError, match=r"the rate 1\.0 is not a probability of dropping"):
        kind(1.0)  # which Keras takes: it drops everything


@pytest.mark.parametrize(
    "layer",
    [Dropout(0.5, over="BF"), SpatialDropout1D(0.5), TimestepDropout(0.5)],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 7, 5)], ids=str)
def test_sharing_along_time_needs_a_time_axis(layer: Any, shape: tuple) -> None:
    with pytest.raises(ValueError, match=r"batch, timesteps, features|expected ndim=3"):
        layer(np.ones(shape, np.float32), training=True)


def test_noise_shape_and_over_are_two_ways_to_say_one_thing() -> None:
    for options in ({"over": "BF"}, {"scale": "none"}):
        with pytest.raises(lapse.LapseError, match="write one or the other"):
            Dropout(0.5, noise_shape=(None, 1, None), **options)


def test_unknown_axes_and_scales_raise() -> None:
    with pytest.raises(lapse.LapseError, match="is not a list of axes"):
        Dropout(0.5, over="rows")
    with pytest.raises(lapse.LapseError, match="the scale 'twice'"):
        Dropout(0.5, scale="twice")
    with pytest.raises(ValueError, match="noise_shape"):  # Keras's own check
        Dropout(0.5, noise_shape=(None, 0, None))


# Saving.


@pytest.mark.parametrize("name", AS_TERM)
def test_a_layer_made_from_its_config_drops_the_same(name: str) -> None:
    layer = made(name, seed=5)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(factors(again, SHAPE), factors(layer, SHAPE))


def test_noise_shape_is_saved() -> None:
    config = Dropout(0.5, noise_shape=(None, 1, None), seed=5).get_config()
    assert tuple(Dropout.from_config(config).noise_shape) == (None, 1, None)


def test_a_layer_without_gates_refuses_masks_per_gate() -> None:
    with pytest.raises(lapse.LapseError, match="a Dropout layer has no gates"):
        Dropout(0.5, over="BFG")


def test_timestep_dropout_takes_no_noise_shape() -> None:
    with pytest.raises(TypeError, match="noise_shape"):
        TimestepDropout(0.5, noise_shape=(1, 1, 3))


@pytest.mark.parametrize("kind", ["Dropout", "SpatialDropout1D", "TimestepDropout"])
def test_an_empty_batch_stays_empty(kind: str) -> None:
    layer = getattr(lapse.keras, kind)(0.5)
    assert array(layer(np.zeros((0, 7, 5), "f"), training=True)).shape == (0, 7, 5)


RATES_THAT_ARE_NONE = ["learned", Schedule(((0.0, 0.2), (1.0, 0.5))), None, "0.5", True]


@pytest.mark.parametrize("rate", RATES_THAT_ARE_NONE, ids=str)
def test_a_rate_that_is_not_a_number_is_refused(rate: Any) -> None:
    """Not in the words of Keras or Python: what was given, and what would be right."""
    for kind in (Dropout, SpatialDropout1D, TimestepDropout):
        with pytest.raises(lapse.LapseError, match=rf"{kind.__name__} was given rate=.* \[0, 1\)"):
            kind(rate)
    for name in ("dropout", "recurrent_dropout"):
        for kind in (lapse.keras.GRU, lapse.keras.LSTMCell):
            said = rf"{kind.__name__} was given {name}=.*; write a number in \[0, 1\)"
            with pytest.raises(lapse.LapseError, match=said):
                kind(3, **{name: rate})
    for noise in (lapse.EmbeddingDropout, lambda rate: rate):
        if rate is not None:  # as noise, it is none
            with pytest.raises(lapse.LapseError):
                lapse.keras.Embedding(31, 5, noise=noise(rate))


def test_a_rate_of_numpy_s_is_a_number() -> None:
    assert Dropout(np.float32(0.5)).term.rate == 0.5
    assert lapse.keras.LSTM(3, dropout=np.float64(0.25)).plan.terms[0].rate == 0.25
