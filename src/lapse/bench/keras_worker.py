"""Training steps of Keras models on one backend: a process that waits for its turn.

Run as `python -m lapse.bench.keras_worker`, with KERAS_BACKEND set. It reads lines of JSON: first
the number of threads and the models, answered by how far lapse's lie from the plain loop, by name;
then the names of those whose turn it is, each answered by the seconds of a step.
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

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    asked = json.loads(sys.stdin.readline())
    confine(asked["threads"])
    models, errors = {}, {}
    for name, ours, cell, shape in asked["models"]:
        models[name] = model, x, y = build(ours, cell, shape)
        if ours:
            errors[name] = error(model.layers[-1], x)
        model.train_on_batch(x, y)  # compiles
    answer(errors)
    for line in sys.stdin:
        model, x, y = models[json.loads(line)]
        start = time.perf_counter()
        model.train_on_batch(x, y)
        answer(time.perf_counter() - start)


def confine(threads: int) -> None:
    """Leaves the process as many cores as it shall have threads, where the system can.

    JAX and TensorFlow have no setting in common, but all make their pools as large as that.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def build(ours: bool, cell: str, shape: tuple[int, int, int, int]) -> tuple[Any, Any, Any]:
    """A model of one layer that returns sequences; its input, and a target for squared error."""
    import keras
    import numpy as np

    if ours:
        from lapse import keras as layers
    else:
        layers = keras.layers
    batch, timesteps, features, units = shape
    random = np.random.default_rng(0)
    x = random.normal(size=(batch, timesteps, features)).astype(np.float32)
    y = random.normal(size=(batch, timesteps, units)).astype(np.float32)
    keras.utils.set_random_seed(0)
    layer = getattr(layers, cell)(
        units,
        return_sequences=True,
        dropout=0.5,
        recurrent_dropout=0.5,
        **({"kernel": "cpu"} if ours else {}),
    )
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model, x, y


def error(layer: Any, x: Any) -> float:
    """How far output and gradients of lapse's layer lie from the plain loop's in float64, at most.

    Relative to the largest entry, or to 1; with the same masks.
    """
    import torch

    from lapse.bench.check import worst
    from lapse.plan import Masks

    masks = layer.draw_masks(*x.shape[:2], seed=3)
    exact = {"dtype": "float64", "kernel": "reference"}
    twin = type(layer).from_config({**layer.get_config(), **exact})
    twin.build(x.shape)
    twin.set_weights(layer.get_weights())
    torch.manual_seed(2)
    dy = torch.randn(*x.shape[:2], layer.units)

    def results(layer: Any, dtype: Any) -> list[Any]:
        leaf = torch.tensor(x, dtype=dtype, requires_grad=True)
        own = Masks(*(m.to(dtype) if isinstance(m, torch.Tensor) else m for m in masks))
        output = layer(leaf, masks=own, training=True)
        leaves = [leaf, *(weight.value for weight in layer.trainable_weights)]
        return [output, *torch.autograd.grad(output, leaves, dy.to(dtype))]

    return worst(results(layer, torch.float32), results(twin, torch.float64))


if __name__ == "__main__":
    main()
