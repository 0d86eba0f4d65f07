"""The examples that everybody copies run unchanged but for the import, and train as with Keras's.

Their data, where it would have to be downloaded, has stand-ins of the same shape.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from canonical import EXAMPLES, generator, seq2seq
from keras_support import BACKEND, array, close, seed_state

import lapse.keras

# `from lapse.keras import ...` for what it has, `from keras.layers import ...` for the rest.
STOCK = keras.layers
OURS = SimpleNamespace(
    **{
        **vars(keras.layers),
        **{name: kind for name, kind in vars(lapse.keras).items() if isinstance(kind, type)},
    }
)

# The question's second layer says its input_shape, of which Keras says that it needn't.
pytestmark = pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`:UserWarning")

# JAX and TensorFlow compile each training step for half a minute in all, so there run those whose
# layers differ: each cell, wrapper, option and dropout once.
SILENT, NOISY = list(EXAMPLES), list(EXAMPLES)
if BACKEND != "torch":
    SILENT = ["imdb_lstm", "the_question", "timeseries_unrolled", "stacked_stateful"]
    SILENT += ["captcha_ocr", "seq2seq", "masked"]
    NOISY = ["imdb_lstm", "captcha_ocr", "stacked_cells"]


def trained(run: Any, epochs: int) -> list[float]:
    history = run.model.fit(
        run.x, run.y, epochs=epochs, shuffle=False, verbose=0, **run.options
    ).history
    return history["loss"]


def recurrent(model: Any) -> list[Any]:
    found = [one for one in model._flatten_layers() if hasattr(one, "plan")]
    inner = {id(one.cell) for one in found if hasattr(one, "cell")}
    return [one for one in found if id(one) not in inner]


@pytest.mark.parametrize("name", SILENT)
def test_an_example_trains_as_with_keras_s_layers(name: str) -> None:
    if (BACKEND, name) == ("torch", "stacked_stateful"):
        pytest.skip("Keras's own layers fail there: they change in place what gradients need")
    stock, ours = (EXAMPLES[name](layers, 0.0) for layers in (STOCK, OURS))
    assert recurrent(ours.model) and not recurrent(stock.model)
    ours.model.set_weights(stock.model.get_weights())
    found, expected = (trained(run, epochs=3) for run in (ours, stock))
    assert expected[2] < expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # training carries rounding on


@pytest.mark.parametrize("name", NOISY)
def test_an_example_learns_with_its_dropout(name: str) -> None:
    run = EXAMPLES[name](OURS, 1.0)
    noisy = [layer for layer in recurrent(run.model) if layer.plan.slots]
    before = run.model.evaluate(run.x, run.y, verbose=0, return_dict=True, **run.options)["loss"]
    trained(run, epochs=20)
    after = run.model.evaluate(run.x, run.y, verbose=0, return_dict=True, **run.options)["loss"]
    assert after < 0.95 * before
    for layer in noisy:
        assert seed_state(layer)[1] > 0, f"{layer.name} drew nothing"


# What the guides and examples do besides training.


def test_a_trained_seq2seq_model_is_loaded_and_taken_apart_to_sample(tmp_path: Path) -> None:
    """Encoder and decoder are made of the loaded model's layers, as in lstm_seq2seq.py."""
    run = seq2seq(OURS, 1.0)
    trained(run, epochs=2)
    run.model.save(tmp_path / "s2s_model.keras")
    sampled = {}
    for kind in ("lapse", "keras"):
        model = keras.models.load_model(tmp_path / "s2s_model.keras")
        if kind == "keras":
            loaded, model = model, seq2seq(STOCK, 0.0).model
            model.set_weights(loaded.get_weights())
        encoder_inputs = model.input[0]
        encoder_lstm, decoder_lstm = (one for one in model.layers if "lstm" in one.name)
        dense = model.layers[-1]
        encoder = keras.Model(encoder_inputs, list(encoder_lstm.output[1:]))
        decoder_inputs = model.input[1]
        states = [keras.Input(shape=(31,)), keras.Input(shape=(31,))]
        outputs, *new_states = decoder_lstm(decoder_inputs, initial_state=states)
        decoder = keras.Model([decoder_inputs, *states], [dense(outputs), *new_states])

        state = encoder.predict(run.x[0][:1], verbose=0)
        token, probabilities = np.zeros((1, 1, 5), "float32"), []
        for _ in range(6):
            found, *state = decoder.predict([token, *state], verbose=0)
            probabilities.append(found[0, 0])
            token = np.eye(5, dtype="float32")[found.argmax(-1)]
        sampled[kind] = np.stack(probabilities)
    close(sampled["lapse"], sampled["keras"])


def test_weights_move_between_a_layer_and_rnn_of_its_cell() -> None:
    """LSTM(units) and RNN(LSTMCell(units)) of the guide, of either library."""
    x = generator().normal(size=(3, 7, 5)).astype("float32")
    for name in ("LSTM", "GRU", "SimpleRNN"):
        made = [getattr(layers, name)(11) for layers in (STOCK, OURS)]
        made += [layers.RNN(getattr(layers, name + "Cell")(11)) for layers in (STOCK, OURS)]
        first, *others = made
        expected = array(first(x))
        for other in others:
            other.build(x.shape)
            other.set_weights(first.get_weights())
            close(other(x), expected, what=other.name)


def test_a_stateful_layer_reads_a_long_sequence_in_paragraphs() -> None:
    """And its states, taken off it, begin another layer's sequence, as in the guide."""
    paragraphs = generator().normal(size=(3, 3, 20, 5)).astype("float32")
    results, weights = [], None
    for layers in (STOCK, OURS):
        lstm, other = layers.LSTM(11, stateful=True), layers.LSTM(11)
        lstm.build((3, 20, 5))
        other.build((3, 20, 5))
        weights = weights or lstm.get_weights()
        lstm.set_weights(weights)
        other.set_weights(weights)
        outputs = [array(lstm(paragraph)) for paragraph in paragraphs]
        outputs.append(array(other(paragraphs[0], initial_state=lstm.states)))
        lstm.reset_state()
        outputs.append(array(lstm(paragraphs[0])))
        results.append(outputs)
    for step, (expected, found) in enumerate(zip(*results, strict=True)):
        close(found, expected, what=f"call {step}")
    close(results[1][-1], results[1][0])
