"""A process that runs training steps of Keras models on one backend, one step per request.

Run as `python -m lapse.bench.keras_worker`, with KERAS_BACKEND set. It reads lines of JSON. The
first has the number of threads and the models; the answer is the error of lapse's models, by name.
Each further line is the name of a model; the answer is the seconds of one training step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Answers requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints must not mix with the answers

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    request = json.loads(sys.stdin.readline())
    limit_cores(request["threads"])
    models, errors = {}, {}
    for name, ours, cell, shape in request["models"]:
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


def limit_cores(threads: int) -> None:
    """Restricts the process to as many cores as it should have threads, if the system allows it.

    JAX and TensorFlow share no setting for the number of threads, but both use one per core.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def build(ours: bool, cell: str, shape: tuple[int, int, int, int]) -> tuple[Any, Any, Any]:
    """A model with one layer that returns sequences, its input, and its target."""
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
        **({"engine": "cpu"} if ours else {}),
    )
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model, x, y


def error(layer: Any, x: Any) -> float:
    """The largest difference of a layer's output and gradients from those of the reference loop.

    Relative to the largest entry, or to 1. Both use the same masks.
    """
    import numpy as np
    import torch
    from keras import ops

    import lapse.torch
    from lapse.backends.torch import BACKEND
    from lapse.bench.check import worst
    from lapse.core.masks import Masks
    from lapse.core.weights import Weights, to_torch

    masks = layer.draw_masks(*x.shape[:2], seed=3)
    dy = np.random.default_rng(2).normal(size=(*x.shape[:2], layer.units)).astype(np.float32)

    def double(value: Any) -> Any:
        return torch.tensor(ops.convert_to_numpy(value), dtype=torch.float64, requires_grad=True)

    exact: dict[str, Any] = {"dtype": torch.float64, "engine": "reference", "batch_first": True}
    terms = list(layer.plan.terms)
    twin = getattr(lapse.torch, layer.cell_name)(x.shape[2], layer.units, noise=terms, **exact)
    leaves = [double(x), *map(double, layer.get_weights())]
    weights = to_torch(layer.cell_name, Weights(*leaves[1:]), BACKEND)
    names = [name for name, _ in twin.named_parameters()]
    given = {"masks": Masks(*(mask if mask is None else double(mask) for mask in masks))}
    there = (weight for weight in weights if weight is not None)
    by_name = dict(zip(names, there, strict=True))
    output, _ = torch.func.functional_call(twin, by_name, (leaves[0],), given)
    of_leaves = torch.autograd.grad(output, leaves, torch.tensor(dy, dtype=torch.float64))
    found = [ops.convert_to_numpy(result) for result in results(layer, x, masks, dy)]
    return worst(map(torch.tensor, found), [output, *of_leaves])


def results(layer: Any, x: Any, masks: Any, dy: Any) -> list[Any]:
    """The output of a layer and the gradients of its input and weights."""
    import keras
    from keras import ops

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        leaf = torch.tensor(x, requires_grad=True)
        output = layer(leaf, masks=masks, training=True)
        leaves = [leaf, *(weight.value for weight in layer.trainable_weights)]
        return [output, *torch.autograd.grad(output, leaves, torch.tensor(dy))]
    if backend == "jax":
        import jax

        others = [variable.value for variable in layer.non_trainable_variables]

        def call(x: Any, weights: Any) -> Any:
            given: dict[str, Any] = {"masks": masks, "training": True}
            return layer.stateless_call(weights, others, x, **given)[0]

        values = [variable.value for variable in layer.trainable_variables]
        output, back = jax.vjp(call, ops.convert_to_tensor(x), values)
        of_x, of_weights = back(ops.convert_to_tensor(dy))
        return [output, of_x, *of_weights]
    import tensorflow as tf

    leaf = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(leaf)
        output = layer(leaf, masks=masks, training=True)
        loss = tf.reduce_sum(output * dy)
    values = [variable.value for variable in layer.trainable_variables]
    return [output, *tape.gradient(loss, [leaf, *values])]


if __name__ == "__main__":
    main()
