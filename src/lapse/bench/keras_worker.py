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

    exact: dict[str, Any] = {"dtype": torch.float64, "kernel": "reference", "batch_first": True}
    terms = list(layer.plan.terms)
    twin = getattr(lapse.torch, layer.kind)(x.shape[2], layer.units, noise=terms, **exact)
    leaves = [double(x), *map(double, layer.get_weights())]
    weights = to_torch(layer.cell_name, Weights(*leaves[1:]), BACKEND)
    names = [name for name, _ in twin.named_parameters()]
    given = {"masks": Masks(*(mask if mask is None else double(mask) for mask in masks))}
    by_name = dict(zip(names, weights, strict=True))
    output, _ = torch.func.functional_call(twin, by_name, (leaves[0],), given)
    of_leaves = torch.autograd.grad(output, leaves, torch.tensor(dy, dtype=torch.float64))
    found = [ops.convert_to_numpy(result) for result in results(layer, x, masks, dy)]
    return worst(map(torch.tensor, found), [output, *of_leaves])


def results(layer: Any, x: Any, masks: Any, dy: Any) -> list[Any]:
    """The output of a layer, and the gradients of its input and weights."""
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
