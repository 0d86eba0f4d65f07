"""Noise in blocks, chains and spans inside the graphs that Keras compiles to train a model: on the
plain loop, in cells, in Dropout layers, with sizes that are unknown, and under XLA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras_support import array

import lapse.keras as ours

RUNS = "x:.3@BT[5] y:.3@BF[2] h:.3@BT/2F g:.2@BT~.3F s:.2@BT[4]>prev"
OF_SEQUENCE = "x:.3@BF[2] h:.3@BF[3]"
X = np.random.default_rng(0).normal(size=(4, 9, 3)).astype("float32")

MODELS: dict[str, Callable[[], list]] = {
    "the plain loop": lambda: [ours.LSTM(5, noise=RUNS, seed=1, engine="reference")],
    "another activation": lambda: [ours.LSTM(5, noise=RUNS, seed=1, activation="relu")],
    "the kernel": lambda: [ours.LSTM(5, noise=RUNS, seed=1)],
    "unrolled": lambda: [ours.GRU(5, noise="x:.3@BT[5]", seed=1, unroll=True)],
    "cells": lambda: [layers.RNN(ours.GRUCell(5, noise=OF_SEQUENCE, seed=1))],
    "Dropout": lambda: [
        ours.Dropout(0.3, over="BT[3]", scale="none", seed=1),
        ours.Dropout(0.3, over="BTF[2]", seed=2),
        layers.LSTM(5),
    ],
}


def model(parts: list, timesteps: int | None, jit: Any) -> Any:
    made = keras.Sequential([keras.Input((timesteps, 3)), *parts, layers.Dense(1)])
    made.compile("sgd", "mse", jit_compile=jit)
    return made


@pytest.mark.parametrize("timesteps", [9, None], ids=["known", "unknown"])
@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_step_draws_what_an_eager_call_draws(name: str, timesteps: int | None) -> None:
    if name == "unrolled" and timesteps is None:
        pytest.skip("Keras unrolls a known number of timesteps")
    keras.utils.set_random_seed(1)
    compiled = model(MODELS[name](), timesteps, "auto")
    eager = model(MODELS[name](), timesteps, False)
    eager.set_weights(compiled.get_weights())
    expected = np.mean(array(eager(X, training=True)) ** 2)
    loss = compiled.train_on_batch(X, np.zeros((4, 1)))
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["the plain loop", "cells", "Dropout"])
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="of XLA, which PyTorch has not")
def test_xla_takes_them(name: str) -> None:
    keras.utils.set_random_seed(1)
    compiled = model(MODELS[name](), 9, True)
    eager = model(MODELS[name](), 9, False)
    eager.set_weights(compiled.get_weights())
    expected = np.mean(array(eager(X, training=True)) ** 2)
    np.testing.assert_allclose(compiled.train_on_batch(X, np.zeros((4, 1))), expected, rtol=1e-4)
