"""The C++ kernels under Keras, on every backend: where they run, and inside compiled models."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_support import (
    BACKEND,
    BATCH,
    EVERYWHERE,
    PER_STEP,
    TIMESTEPS,
    UNITS,
    array,
    close,
    lapse_layer,
    on_backend,
    oracle,
    problem,
    stock_layer,
)

from catalog import CELLS, GRU, LSTM, Cell, frozen_masks
from lapse import LapseError
from lapse.core.masks import Masks

CELL = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
RUNNING = np.arange(TIMESTEPS) < np.array([[TIMESTEPS], [2], [4]])
# Everything that is drawn: coins kept over time and of each step, chains, spans, other laws.
DRAWN = f"{EVERYWHERE} {PER_STEP} x:0.3@BT~0.3F x:0.2@BT[2]!none h:0.3@BTF~gauss"


def trained(cell: Cell, engine: str, x: Any, **options: Any) -> list[np.ndarray]:
    """What a compiled model predicts and weighs after three steps with fresh noise."""
    given = problem(cell)
    layer = lapse_layer(cell, DRAWN, engine=engine, seed=5, return_sequences=True, **options)
    head = keras.layers.Dense(2, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((None, x.shape[2])), keras.layers.Masking(), layer, head])
    given.give(layer)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    for _ in range(3):
        model.train_on_batch(x, np.ones((*x.shape[:2], 2), "f"))
    return [model.predict(x, verbose=0), *model.get_weights()]


@CELL
def test_a_compiled_model_trains_as_with_the_plain_loop(cell: Cell) -> None:
    """Which the oracle judges: masks that kernels get by a call are those that the graph draws."""
    x = np.where(RUNNING[..., None], problem(cell).x, 0)
    for found, expected in zip(trained(cell, "cpu", x), trained(cell, "reference", x), strict=True):
        close(found, expected)


def test_a_model_of_any_batch_and_time() -> None:
    given = problem(GRU)
    layer = lapse_layer(GRU, "y:0.5@BF", engine="cpu", return_sequences=True)
    model = keras.Sequential([keras.Input((None, given.x.shape[2])), layer])
    given.give(layer)
    model.compile("sgd", "mse")
    for batch, timesteps in ((1, 1), (7, 31), (31, 7)):
        sized = problem(GRU, batch=batch, timesteps=timesteps)._replace(weights=given.weights)
        close(model.predict(sized.x, verbose=0), oracle(GRU, sized)[0])
        model.evaluate(sized.x, np.zeros((batch, timesteps, UNITS)), verbose=0)


@CELL
@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
def test_it_runs_in_training_with_padding_and_in_evaluation(cell: Cell, backwards: bool) -> None:
    """engine="cpu" raises where it can't run."""
    layer = lapse_layer(cell, EVERYWHERE, engine="cpu", go_backwards=backwards)
    for training in (True, False):
        for mask in (None, RUNNING):
            layer(problem(cell).x, mask=mask, training=training)


@CELL
def test_where_it_cannot_run(cell: Cell) -> None:
    with pytest.raises(LapseError, match="activations are tanh and sigmoid"):
        lapse_layer(cell, engine="cpu", activation="relu")(problem(cell).x)
    if BACKEND != "jax":  # which has no float64 unless it is told to
        with pytest.raises(LapseError, match="they compute in float32, and were given float64"):
            lapse_layer(cell, engine="cpu", dtype="float64")(problem(cell).x)
    with pytest.raises(LapseError, match="engine='gpu' is unknown"):
        lapse_layer(cell, engine="gpu")


@CELL
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(cell: Cell, dtype: str) -> None:
    given = problem(cell)
    options = {"return_sequences": True, "return_state": True, "engine": "cpu"}
    layer = given.give(lapse_layer(cell, EVERYWHERE, dtype=f"mixed_{dtype}", **options))
    masks = frozen_masks(cell, EVERYWHERE, given.x, UNITS)
    outputs, *states = layer(given.x, training=True, masks=on_backend(masks))
    y, state = oracle(cell, given, masks)
    for found, expected in zip([outputs, *states], [y, *state], strict=True):
        assert keras.backend.standardize_dtype(found.dtype) == dtype
        close(ops.cast(found, "float32"), expected, dtype)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of XLA on TensorFlow")
def test_xla_is_left_to_layers_that_do_not_call_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not lapse_layer(LSTM).supports_jit
    assert lapse_layer(LSTM, engine="reference").supports_jit
    assert lapse_layer(LSTM, activation="relu").supports_jit
    monkeypatch.setenv("LAPSE_ENGINE", "reference")
    assert lapse_layer(LSTM).supports_jit


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX's transformations")
class TestTransformations:
    def test_a_mask_has_no_gradient_and_says_so(self) -> None:
        import jax

        layer = lapse_layer(LSTM, "x:0.5@BF", engine="cpu")
        x = problem(LSTM).x
        layer.build(x.shape)

        def loss(mask: Any) -> Any:
            return ops.sum(layer(x, masks=Masks(x=mask)))

        with pytest.raises(LapseError, match="give the layer engine='reference'"):
            jax.grad(loss)(np.ones((BATCH, 1, 1, x.shape[2]), "f"))

    @pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
    @pytest.mark.parametrize("name", ["grad", "hessian"])
    def test_a_gradient_of_gradients_says_what_to_write(self, name: str, compiled: bool) -> None:
        import jax

        def second(layer: Any) -> Any:
            def loss(x: Any) -> Any:
                return ops.sum(layer(x) ** 2)

            twice = {"grad": jax.grad(lambda x: ops.sum(jax.grad(loss)(x) ** 2))}
            function = twice.get(name, jax.hessian(loss))
            return (jax.jit(function) if compiled else function)(given.x)

        given = problem(LSTM)
        with pytest.raises(LapseError, match="give the layer engine='reference'"):
            second(given.give(lapse_layer(LSTM)))
        assert np.isfinite(second(given.give(lapse_layer(LSTM, engine="reference")))).all()

    def test_a_version_without_the_callback_runs_the_plain_loop(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is experimental, so a later JAX may have it no more."""
        monkeypatch.setitem(sys.modules, "jax.experimental.buffer_callback", None)
        given = problem(LSTM)
        layer = given.give(lapse_layer(LSTM, engine="cpu"))
        said = r"no jax\.experimental\.buffer_callback; write engine='auto'"
        with pytest.raises(LapseError, match=said):
            layer(given.x)
        plain = given.give(lapse_layer(LSTM, return_sequences=True))
        close(array(plain(given.x)), oracle(LSTM, given)[0])

    @CELL
    def test_many_at_once_are_one_after_the_other(self, cell: Cell) -> None:
        import jax

        given = problem(cell)
        layer = given.give(lapse_layer(cell, engine="cpu"))

        def loss(x: Any) -> Any:
            return ops.sum(layer(x) ** 2)

        x = np.stack([given.x, 2 * given.x, given.x - 1])
        found = jax.vmap(jax.value_and_grad(loss))(x)
        for n in range(3):
            for one, other in zip(found, jax.value_and_grad(loss)(x[n]), strict=True):
                close(one[n], array(other))

    def test_a_call_is_compiled_once(self) -> None:
        import jax

        given = problem(LSTM)
        layer = given.give(lapse_layer(LSTM, "x:0.5@BTF", engine="cpu"))
        layer(given.x, training=True)
        with jax.no_tracing():
            layer(given.x, training=True)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's tapes")
def test_a_mask_has_no_gradient() -> None:
    import tensorflow as tf

    layer = lapse_layer(LSTM, "x:0.5@BF", engine="cpu")
    x = problem(LSTM).x
    layer.build(x.shape)
    mask = tf.ones((BATCH, 1, 1, x.shape[2]))
    with tf.GradientTape() as tape:
        tape.watch(mask)
        loss = tf.reduce_sum(layer(x, masks=Masks(x=mask)))
    assert tape.gradient(loss, mask) is None


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's tapes")
@pytest.mark.parametrize("in_a_graph", [False, True], ids=["eager", "graph"])
def test_a_gradient_of_gradients_says_what_to_write(in_a_graph: bool) -> None:
    import tensorflow as tf

    def penalty(layer: Any, x: Any) -> Any:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(layer(x) ** 2)
            loss = y + tf.reduce_sum(inner.gradient(y, x) ** 2)
        return outer.gradient(loss, [one.value for one in layer.trainable_variables])

    given = problem(LSTM)
    x = tf.constant(given.x)
    run = tf.function(penalty, autograph=False) if in_a_graph else penalty
    with pytest.raises(LapseError, match="give the layer engine='reference'"):
        run(given.give(lapse_layer(LSTM)), x)
    plain = given.give(lapse_layer(LSTM, engine="reference"))
    assert all(gradient is not None for gradient in run(plain, x))


@CELL
def test_what_does_not_fit_is_said_in_the_user_s_words(cell: Cell) -> None:
    given = problem(cell)
    layer = given.give(lapse_layer(cell, "x:0.5@BF"))
    x, state = given.x, list(given.state)
    with pytest.raises(LapseError, match=rf"the input of {layer.name} has shape \(3, 7, 4\)"):
        layer(x[..., :4])
    with pytest.raises(LapseError, match=r"mask of .* has shape \(3, 6\); it needs \(3, 7\)"):
        layer(x, mask=RUNNING[:, :6])
    with pytest.raises(LapseError, match=r"initial_state of .* has shape \(1, 11\)"):
        layer(x, initial_state=[part[:1] for part in state])
    for wrong in ([], [state[0]] * (len(state) + 1)):
        for engine in ("auto", "reference"):
            other = given.give(lapse_layer(cell, engine=engine))
            expected = rf"initial_state of {other.name} has {len(wrong)} tensors?; .* takes"
            with pytest.raises(LapseError, match=expected):
                other(x[:, :1], initial_state=wrong)
    with pytest.raises(LapseError, match=r"masks= has the type int, which is not lapse\.Masks"):
        layer(x, masks=3)
    with pytest.raises(LapseError, match=r"the seed 1\.5 is not a whole number"):
        layer.draw_masks(3, 7, seed=1.5)


def test_explicit_xla_gives_way_with_a_word() -> None:
    if BACKEND != "tensorflow":
        pytest.skip("only TensorFlow has this choice")
    model = keras.Sequential([keras.Input((TIMESTEPS, 5)), lapse_layer(LSTM, engine="cpu")])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.compile("sgd", "mse", jit_compile=True)
    assert any("jit_compile" in str(warning.message) for warning in said)
    model.train_on_batch(problem(LSTM).x, np.ones((BATCH, UNITS)))


@CELL
def test_gradients_of_weights_do_not_overflow_in_float16(cell: Cell) -> None:
    """They are sums over all steps, and weights and sums are float32 under a mixed policy."""
    if BACKEND != "torch":
        pytest.skip("gradients are read as PyTorch has them; the others share the code")
    found = []
    for make, dtype in ((stock_layer, "float32"), (lapse_layer, "mixed_float16")):
        layer = make(cell, units=8, return_sequences=True, dtype=dtype)
        layer.build((8, 40, 5))
        layer.set_weights([np.full(w.shape, 0.1, "float32") for w in layer.get_weights()])
        y = layer(ops.ones((8, 40, 5)))
        (ops.sum(ops.cast(y, "float32")) * 3000.0).backward()
        found.append([array(one.value.grad) for one in layer.trainable_variables])
    for expected, one in zip(*found, strict=True):
        np.testing.assert_allclose(one, expected, rtol=2e-2, atol=1e-2 * abs(expected).max())
    assert max(abs(one).max() for one in found[1]) > 65504  # more than float16 holds
