"""Warnings point at the user's line, not into lapse, Keras or its backend."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from lapse import PlainLoopWarning
from lapse.engines import choice
from lapse.keras import LSTM

X, Y = np.zeros((2, 3, 7), "float32"), np.zeros((2, 5), "float32")


def fit(model: Any) -> None:
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    "call", [lambda model: model(X), lambda model: model.predict(X, verbose=0), fit]
)
def test_the_plain_loop_names_the_line_of_the_call(
    call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = LSTM(5, activation="relu")
    model = keras.Sequential([keras.Input((3, 7)), layer, keras.layers.Dense(5)])
    monkeypatch.setattr(choice, "_warned", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(model)
    (one,) = (one for one in caught if issubclass(one.category, PlainLoopWarning))
    assert one.filename == __file__
    first = call.__code__.co_firstlineno
    assert one.lineno == (first + 2 if call is fit else first)
