"""Keras's models under torch.compile, which `compile(jit_compile=True)` is on PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras_support import BACKEND, BATCH, FEATURES, TIMESTEPS, UNITS, array

from lapse import keras as ours

pytestmark = [
    pytest.mark.skipif(BACKEND != "torch", reason="other backends have no torch.compile"),
    # Of PyTorch, inside its compiler.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

X = np.random.default_rng(0).normal(size=(BATCH, TIMESTEPS, FEATURES)).astype("float32")
WORDS = np.arange(BATCH * TIMESTEPS).reshape(BATCH, TIMESTEPS).astype("int32")
BOTH: dict[str, Any] = {"dropout": 0.3, "recurrent_dropout": 0.4, "seed": 3}

LAYERS: dict[str, Callable] = {
    "LSTM": lambda: ours.LSTM(UNITS, **BOTH),
    "LSTM with a mask of each kind": lambda: ours.LSTM(
        UNITS, noise="c:.2@BTF>prev y:.2@BTF U:.3@IO x:.2@BTF~gauss x:.2@BTF~gauss", seed=3
    ),
    "GRU": lambda: ours.GRU(UNITS, noise="s:.2@BTF>prev h:.3@BT[3]F", seed=3),
    "SimpleRNN": lambda: ours.SimpleRNN(UNITS, noise="h:.3@BTF", go_backwards=True, seed=3),
    "the plain loop": lambda: ours.LSTM(UNITS, **BOTH, engine="reference"),
    "half precision": lambda: ours.LSTM(UNITS, **BOTH, dtype="mixed_bfloat16"),
    "Dropout": lambda: ours.Dropout(0.3, seed=3),
    "TimestepDropout in float64": lambda: ours.TimestepDropout(0.3, seed=3, dtype="float64"),
    "Embedding for each sample": lambda: ours.Embedding(31, 5, noise="emb:.3@BV", seed=3),
    "Bidirectional": lambda: layers.Bidirectional(ours.GRU(UNITS, **BOTH)),
    "cells": lambda: layers.RNN(ours.LSTMCell(UNITS, **BOTH)),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    import torch

    torch.compiler.reset()
    yield
    torch.compiler.reset()


def model_of(layer: Any) -> Any:
    dtype = "int32" if isinstance(layer, ours.Embedding) else None
    x = keras.Input((TIMESTEPS,) if dtype else (TIMESTEPS, FEATURES), dtype=dtype)
    return keras.Model(x, layer(x))


def rewound(model: Any) -> None:
    states = [one for one in model.variables if one.name == "seed_generator_state"]
    assert states
    for number, state in enumerate(states):
        state.assign([2**31 - 2 - number, 0])


@pytest.mark.parametrize("name", LAYERS)
def test_masks_are_those_of_a_call_that_is_not_compiled(name: str) -> None:
    """Fresh at each call, and none in evaluation."""
    import torch

    model = model_of(LAYERS[name]())
    x = torch.tensor(WORDS if "Embedding" in name else X)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=name != "cells")
    rewound(model)
    expected = [array(model(x, training=True)) for _ in range(2)]
    rewound(model)
    found = [array(compiled(x, training=True)) for _ in range(2)]
    assert (expected[0] != expected[1]).any()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        if "Dropout" in name or name == "Embedding for each sample":
            assert (one == other).all()
    np.testing.assert_allclose(array(compiled(x)), array(model(x)), rtol=1e-5, atol=1e-6)


def test_masks_that_are_drawn_for_a_seed_are_the_same() -> None:
    import torch

    layer = ours.LSTM(UNITS, noise="x:.2@BTF~gauss h:.3@BTF")
    layer.build(X.shape)
    drawn = torch.compile(lambda: layer.draw_masks(BATCH, TIMESTEPS, seed=2**63 + 5))()
    for one, other in zip(drawn, layer.draw_masks(BATCH, TIMESTEPS, seed=2**63 + 5), strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one == other).all()


def whole() -> Any:
    """All kinds of layers, one behind the other."""
    return keras.Sequential(
        [
            keras.Input((TIMESTEPS,), dtype="int32"),
            ours.Embedding(31, FEATURES, noise="emb:.3@BV", seed=1),
            ours.Dropout(0.2, seed=2),
            ours.LSTM(UNITS, dropout=0.3, recurrent_dropout=0.4, return_sequences=True, seed=3),
            ours.SpatialDropout1D(0.2, seed=4),
            ours.GRU(UNITS, noise="s:.2@BTF>prev", return_sequences=True, seed=5),
            ours.TimestepDropout(0.2, seed=6),
            ours.SimpleRNN(UNITS, noise="U:.3@IO", seed=7),
            layers.Dense(1),
        ]
    )


def test_jit_compile_trains_as_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyTorch's last stage, which takes minutes and sees lapse's operators alone."""
    import torch

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    targets = np.linspace(-1, 1, BATCH)[:, None]
    first = whole()
    start = first.get_weights()
    losses = []
    for jit in (False, True):
        model = whole()
        model.set_weights(start)
        rewound(model)
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
        found = model.fit(WORDS, targets, epochs=3, shuffle=False, verbose=0)
        losses.append([*found.history["loss"], model.evaluate(WORDS, targets, verbose=0)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
