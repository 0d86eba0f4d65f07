"""Examples that everybody copies, as their authors' readers write them, made smaller.

Each takes the namespace that the layers are imported from and what its dropout rates are multiplied
by, and gives a compiled model and data of the shape of the original's, with something to learn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np


class Run(NamedTuple):
    """What an example trains, on what, and with which arguments of `fit`."""

    model: Any
    x: Any
    y: Any
    options: dict[str, Any] = {}


Example = Callable[[Any, float], Run]
CLASSES = 10
LETTERS = "0123456789+ "


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def token_ids(samples: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Reviews of 20 different words, and whether the last word is one of the first ten."""
    x = generator().integers(1, 21, size=(samples, steps))
    return x, (x[:, -1:] <= 10).astype("float32")


def vectors(samples: int, steps: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and the largest of the last step's first ten numbers, one-hot."""
    x = generator().normal(size=(samples, steps, features)).astype("float32")
    return x, np.eye(CLASSES, dtype="float32")[x[:, -1, :CLASSES].argmax(1)]


# Keras's guide to Sequential models.


def sequence_classification(layers: Any, on: float) -> Run:
    model = keras.Sequential()
    model.add(layers.Embedding(1024, output_dim=256))
    model.add(layers.LSTM(128))
    model.add(layers.Dropout(0.5 * on))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer="rmsprop", metrics=["accuracy"])
    x, y = token_ids(63, 7)
    model.build(x.shape)
    return Run(model, x, y, {"batch_size": 16})


def stacked(layers: Any, on: float) -> Run:
    model = keras.Sequential()
    model.add(keras.Input((8, 16)))
    model.add(layers.LSTM(32, return_sequences=True))
    model.add(layers.LSTM(32, return_sequences=True, dropout=0.1 * on))
    model.add(layers.LSTM(32))
    model.add(layers.Dense(CLASSES, activation="softmax"))
    model.compile(loss="categorical_crossentropy", optimizer="rmsprop", metrics=["accuracy"])
    return Run(model, *vectors(100, 8, 16), {"batch_size": 64})


def stacked_stateful(layers: Any, on: float) -> Run:
    model = keras.Sequential()
    model.add(keras.Input(batch_shape=(32, 8, 16)))
    model.add(layers.LSTM(32, return_sequences=True, stateful=True))
    model.add(layers.LSTM(32, return_sequences=True, stateful=True, dropout=0.1 * on))
    model.add(layers.LSTM(32, stateful=True))
    model.add(layers.Dense(CLASSES, activation="softmax"))
    model.compile(loss="categorical_crossentropy", optimizer="rmsprop", metrics=["accuracy"])
    return Run(model, *vectors(64, 8, 16), {"batch_size": 32})


# The reviews of imdb_lstm.py, the question about GRU, and the temperatures of Chollet's book.


def imdb_lstm(layers: Any, on: float) -> Run:
    model = keras.Sequential()
    model.add(layers.Embedding(2000, 128))
    model.add(layers.LSTM(31, dropout=0.2 * on, recurrent_dropout=0.2 * on))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    x, y = token_ids(63, 31)
    model.build(x.shape)
    return Run(model, x, y, {"batch_size": 32})


def the_question(layers: Any, on: float) -> Run:
    features_size = 7
    model = keras.Sequential()
    model.add(layers.Dropout(0.5 * on))
    model.add(
        layers.GRU(
            units=512, return_sequences=True, dropout=0.5 * on, input_shape=(None, features_size)
        )
    )
    model.add(layers.Dense(1))
    model.compile("adam", "mse")
    x = generator().normal(size=(31, 5, features_size)).astype("float32")
    model.build((None, None, features_size))
    return Run(model, x, x[..., :1])


def _temperatures(*recurrent: Any) -> Run:
    inputs = keras.Input(shape=(24, 14))
    x = inputs
    for layer in recurrent:
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile(optimizer="rmsprop", loss="mse", metrics=["mae"])
    x = generator().normal(size=(63, 24, 14)).astype("float32")
    return Run(model, x, x[:, -1, :1] + 1, {"batch_size": 21})


def timeseries_lstm(layers: Any, on: float) -> Run:
    return _temperatures(layers.LSTM(32, recurrent_dropout=0.25 * on), layers.Dropout(0.5 * on))


def timeseries_stacked_gru(layers: Any, on: float) -> Run:
    return _temperatures(
        layers.GRU(32, recurrent_dropout=0.5 * on, return_sequences=True),
        layers.GRU(32, recurrent_dropout=0.5 * on),
        layers.Dropout(0.5 * on),
    )


def timeseries_unrolled(layers: Any, on: float) -> Run:
    return _temperatures(layers.LSTM(32, recurrent_dropout=0.2 * on, unroll=True))


def timeseries_first_edition(layers: Any, on: float) -> Run:
    return _temperatures(layers.GRU(32, dropout=0.2 * on, recurrent_dropout=0.2 * on))


# Reading text off pictures, and adding.


def captcha_ocr(layers: Any, on: float) -> Run:
    image = keras.Input(shape=(40, 8, 1))
    x = layers.Conv2D(4, (3, 3), activation="relu", padding="same")(image)
    x = layers.MaxPooling2D((2, 2))(x)
    x = layers.Reshape(target_shape=(20, 16))(x)
    x = layers.Dense(16, activation="relu")(x)
    x = layers.Dropout(0.2 * on)(x)
    x = layers.Bidirectional(layers.LSTM(31, return_sequences=True, dropout=0.25 * on))(x)
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True, dropout=0.25 * on))(x)
    model = keras.Model(image, layers.Dense(6)(x))
    model.compile(keras.optimizers.Adam(0.01), keras.losses.CTC())
    random = generator()
    return Run(
        model, random.random((31, 40, 8, 1)).astype("float32"), random.integers(1, 6, (31, 3))
    )


def addition_rnn(layers: Any, on: float) -> Run:
    digits, questions, answers = 2, [], []
    random = generator()
    for a, b in random.integers(0, 100, (63, 2)):
        questions.append(f"{a}+{b}".ljust(2 * digits + 1)[::-1])
        answers.append(str(a + b).ljust(digits + 1))
    x, y = (
        np.eye(len(LETTERS), dtype="float32")[[[LETTERS.index(c) for c in text] for text in texts]]
        for texts in (questions, answers)
    )
    model = keras.Sequential()
    model.add(keras.Input(x.shape[1:]))
    model.add(layers.LSTM(63, dropout=0.1 * on))
    model.add(layers.RepeatVector(digits + 1))
    model.add(layers.LSTM(63, return_sequences=True, recurrent_dropout=0.1 * on))
    model.add(layers.Dense(len(LETTERS), activation="softmax"))
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return Run(model, x, y, {"batch_size": 32})


# From one sequence to another, and the guides to recurrent layers and to masking.


def seq2seq(layers: Any, on: float) -> Run:
    """The decoder begins where the encoder ended. Its inputs are its targets, a step later."""
    encoder_inputs = keras.Input(shape=(None, 7))
    encoder = layers.LSTM(31, return_state=True, dropout=0.1 * on)
    _, state_h, state_c = encoder(encoder_inputs)
    decoder_inputs = keras.Input(shape=(None, 5))
    decoder_lstm = layers.LSTM(31, return_sequences=True, return_state=True, dropout=0.1 * on)
    decoder_outputs, _, _ = decoder_lstm(decoder_inputs, initial_state=[state_h, state_c])
    outputs = layers.Dense(5, activation="softmax")(decoder_outputs)
    model = keras.Model([encoder_inputs, decoder_inputs], outputs)
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    x = generator().normal(size=(31, 9, 7)).astype("float32")
    y = np.eye(5, dtype="float32")[x[:, :6, :5].argmax(2)]
    shifted = np.concatenate([np.zeros((31, 1, 5), "float32"), y[:, :-1]], axis=1)
    return Run(model, [x, shifted], y, {"batch_size": 8})


def stacked_cells(layers: Any, on: float) -> Run:
    cells = [layers.LSTMCell(31, dropout=0.1 * on), layers.GRUCell(17, recurrent_dropout=0.1 * on)]
    model = keras.Sequential(
        [
            keras.Input((8, 16)),
            layers.RNN(cells, return_sequences=True),
            layers.RNN(layers.SimpleRNNCell(31)),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile("rmsprop", "categorical_crossentropy")
    return Run(model, *vectors(63, 8, 16))


def masked(layers: Any, on: float) -> Run:
    """Padding of both ends: the Embedding's passes through a layer, then is made of zeros again."""
    inputs = keras.Input(shape=(None,), dtype="int32")
    x = layers.Embedding(input_dim=500, output_dim=16, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.GRU(17, return_sequences=True, dropout=0.1 * on))(x)
    x = layers.LSTM(31)(x)
    x = layers.RepeatVector(3)(x)
    x = layers.Masking()(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(layers.SimpleRNN(7)(x)))
    model.compile("adam", "binary_crossentropy")
    x, y = token_ids(63, 9)
    for sample, padding in enumerate(generator().integers(0, 7, 63)):
        x[sample, :padding] = 0
        x[sample, 8 if sample % 3 else 9 :] = 0
    return Run(model, x, y)


EXAMPLES: dict[str, Example] = {
    example.__name__: example
    for example in (
        *(sequence_classification, stacked, stacked_stateful, imdb_lstm, the_question),
        *(timeseries_lstm, timeseries_stacked_gru, timeseries_unrolled, timeseries_first_edition),
        *(captcha_ocr, addition_rnn, seq2seq, stacked_cells, masked),
    )
}
