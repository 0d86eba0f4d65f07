"""A Dropout layer in front of a GRU that also drops input features; sequences of any length."""

import keras
import numpy as np
from keras import Sequential

from lapse.keras import GRU, Dropout

keras.utils.set_random_seed(1)
features_size = 6

model = Sequential()
model.add(Dropout(0.5))
model.add(GRU(units=512, return_sequences=True, dropout=0.5, input_shape=(None, features_size)))
model.add(keras.layers.Dense(1))
model.compile(optimizer="adam", loss="mse")

# The target is the running sum of the first feature.
x = np.random.default_rng(0).normal(size=(64, 10, features_size)).astype("float32")
y = np.cumsum(x[..., :1], axis=1)

before = model.evaluate(x, y, verbose=0)
model.fit(x, y, batch_size=16, epochs=3, verbose=0)
print(f"loss before {before:.4f}, after {model.evaluate(x, y, verbose=0):.4f}")
