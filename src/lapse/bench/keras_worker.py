"""Training steps of Keras models on one backend: a process that waits for its turn.

Run as `python -m lapse.bench.keras_worker`, with KERAS_BACKEND set. It reads lines of JSON: first
the list of models, then the names of those whose turn it is. It answers each with one line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer
    import numpy as np

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    models, random = {}, np.random.default_rng(0)
    for name, ours, cell, (batch, timesteps, features, units) in json.loads(sys.stdin.readline()):
        x = random.normal(size=(batch, timesteps, features)).astype(np.float32)
        y = random.normal(size=(batch, timesteps, units)).astype(np.float32)
        model = build(ours, cell, x, units, dropout=0.5, recurrent_dropout=0.5)
        model.train_on_batch(x, y)  # compiles
        models[name] = model, x, y
    answer("ready")
    for line in sys.stdin:
        name = json.loads(line)
        if name == "check":
            answer(error())
            continue
        model, x, y = models[name]
        start = time.perf_counter()
        model.train_on_batch(x, y)
        answer(time.perf_counter() - start)


def build(ours: bool, cell: str, x: Any, units: int, **rates: float) -> Any:
    """A model of one layer that returns sequences, for mean squared error and plain SGD."""
    import keras

    if ours:
        from lapse import keras as layers
    else:
        layers = keras.layers
    keras.utils.set_random_seed(0)
    kernel = {"kernel": "cpu"} if ours else {}
    layer = getattr(layers, cell)(units, return_sequences=True, **rates, **kernel)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model


def error() -> float:
    """How far lapse's weights lie from Keras's after one step without dropout, at most."""
    import numpy as np

    random = np.random.default_rng(1)
    x, y = (random.normal(size=(7, 9, n)).astype(np.float32) for n in (5, 31))
    apart = 0.0
    for cell in ("LSTM", "GRU"):
        stock, ours = (build(which, cell, x, 31) for which in (False, True))
        ours.set_weights(stock.get_weights())
        for model in (stock, ours):
            model.train_on_batch(x, y)
        for one, other in zip(ours.get_weights(), stock.get_weights(), strict=True):
            apart = max(apart, float(np.abs(one - other).max() / max(1.0, np.abs(other).max())))
    return apart


if __name__ == "__main__":
    main()
