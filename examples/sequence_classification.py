"""Sequence classification with an LSTM, and dropout after it."""

import keras
import numpy as np
from keras import Sequential
from keras.layers import Dense, Embedding

from lapse.keras import LSTM, Dropout

keras.utils.set_random_seed(1)
max_features = 1024

# Two classes of texts, with words from overlapping parts of the vocabulary.
rng = np.random.default_rng(0)
y = rng.integers(0, 2, size=800)
x = rng.integers(0, 640, size=(800, 15)) + 384 * y[:, None]
x_train, y_train, x_test, y_test = x[:600], y[:600], x[600:], y[600:]

model = Sequential()
model.add(Embedding(max_features, output_dim=256))
model.add(LSTM(128))
model.add(Dropout(0.5))
model.add(Dense(1, activation="sigmoid"))

model.compile(loss="binary_crossentropy", optimizer="rmsprop", metrics=["accuracy"])

model.fit(x_train, y_train, batch_size=16, epochs=3, verbose=0)
loss, accuracy = model.evaluate(x_test, y_test, batch_size=16, verbose=0)
print(f"test accuracy {accuracy:.3f}")
