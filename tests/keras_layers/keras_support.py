"""What the tests of the Keras layers share; all of it is the same on every backend."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import torch
from keras import ops

import catalog
import lapse.keras
from catalog import CASES, CELLS, FORMS, GRU_RESET_BEFORE, NOISE, Cell, distance, legal
from lapse.backends.torch import BACKEND as TORCH
from lapse.core import cells
from lapse.core.masks import Masks
from lapse.core.weights import Weights

BACKEND = keras.backend.backend()

# How far two computations of one number may lie apart, relative to the largest of them (or to 1).
TOLERANCE = {
    "values": 1e-5,  # float32 layers against float64
    "gradients": 1e-5,
    "continuous masks": 1e-6,  # laws that take logarithms and cosines; coins are equal bit by bit
    "float16": 5e-3,  # layers in half precision
    "bfloat16": 4e-2,
}

BATCH, TIMESTEPS, FEATURES, UNITS = 3, 7, 5, 11
SIZES = {"batch": BATCH, "timesteps": TIMESTEPS, "features": FEATURES, "units": UNITS}

NO_MASKS = Masks()

PER_SEQUENCE = "x:0.2@BF h:0.2@BFG U:0.2@IO y:0.2@BF"
PER_STEP = "x:0.2@BTF h:0.2@BTF s:0.2@BTF>prev y:0.2@BT"
# Every slot that all cells have, in each of its shapes but per step on x and h.
EVERYWHERE = "x:0.2@BF h:0.2@BFG y:0.2@BTF W:0.2@IO U:0.2@IO s:0.2@BTF>prev"


def _forms(cell: Cell) -> list[lapse.Form]:
    """One of each form that the cell can run: the one with the most terms."""
    found: dict[type, lapse.Form] = {}
    for form in FORMS:
        richest = found.get(type(form))
        if legal(cell, form) and (richest is None or len(form.terms) > len(richest.terms)):
            found[type(form)] = form
    return list(found.values())


FORM_CASES = [(cell, repr(form)) for cell in CELLS for form in _forms(cell)]
# JAX and TensorFlow compile each case, so there each form runs once, and both GRUs are one.
EVERY_CASE = BACKEND == "torch"
BACKEND_CASES = (
    CASES
    if EVERY_CASE
    else [(cell, noise) for cell, noise in FORM_CASES if cell.reset_after]
    + [(GRU_RESET_BEFORE, EVERYWHERE)]
)
# Those of the plain loop, which is tested on PyTorch itself in every case.
PLAIN_CASES = FORM_CASES if EVERY_CASE else BACKEND_CASES


def noise_of(name: str) -> Any:
    """The noise of a case: one of the catalog by name, else text."""
    return NOISE.get(name, name)


def ids(cases: Iterable[tuple[Cell, Any]]) -> list[str]:
    return [f"{cell.id} {noise}" for cell, noise in cases]


def lapse_layer(cell: Cell, noise: Any = None, units: int = UNITS, **options: Any) -> Any:
    """A layer of lapse, without the warning of rule 2, which has a test of its own."""
    return quietly(lambda: _made(lapse.keras, cell, "", units, noise=noise, **options))


def lapse_cell(cell: Cell, noise: Any = None, units: int = UNITS, **options: Any) -> Any:
    return quietly(lambda: _made(lapse.keras, cell, "Cell", units, noise=noise, **options))


def stock_layer(cell: Cell, units: int = UNITS, **options: Any) -> Any:
    return _made(keras.layers, cell, "", units, **options)


def stock_cell(cell: Cell, units: int = UNITS, **options: Any) -> Any:
    return _made(keras.layers, cell, "Cell", units, **options)


def _made(module: Any, cell: Cell, suffix: str, units: int, **options: Any) -> Any:
    if cell.name == "GRU":
        options["reset_after"] = cell.reset_after
    return getattr(module, cell.name + suffix)(units, **options)


def quietly(make: Callable) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*forgets at evaluation", UserWarning)
        return make()


class Problem(NamedTuple):
    """What layers run on, in float32."""

    x: np.ndarray
    weights: Weights
    state: tuple[np.ndarray, ...]

    def give(self, *layers: Any) -> Any:
        """Builds layers or cells and gives them the weights; returns the first."""
        for layer in layers:
            if not layer.built:
                layer.build(self.x.shape)
            layer.set_weights([weight for weight in self.weights if weight is not None])
        return layers[0]


def problem(cell: Cell, *, bias: bool = True, seed: int = 0, **sizes: int) -> Problem:
    exact = catalog.problem(cell, bias=bias, seed=seed, **{**SIZES, **sizes})
    weights = Weights(*(None if w is None else w.astype(np.float32) for w in exact.weights))
    return Problem(
        exact.x.astype(np.float32), weights, tuple(s.astype(np.float32) for s in exact.state)
    )


def oracle(
    cell: Cell,
    given: Problem,
    masks: Masks = NO_MASKS,
    *,
    initial_state: tuple | None = None,
    running: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple]:
    """`cells.unroll` in float64 on the numbers of a float32 problem."""
    return cells.unroll(
        cell.name,
        given.x.astype(np.float64),
        Weights(*map(_doubled, given.weights)),
        Masks(*map(_doubled, masks)),
        initial_state=None if initial_state is None else tuple(map(_doubled, initial_state)),
        running=running,
        reset_after=cell.reset_after,
    )


def _doubled(value: Any) -> Any:
    return value.astype(np.float64) if isinstance(value, np.ndarray) else value


def oracle_gradients(
    cell: Cell, given: Problem, masks: Masks, target: np.ndarray
) -> list[np.ndarray]:
    """Gradients of sum(target * y) with respect to the weights, by PyTorch in float64."""
    weights = Weights(*(None if w is None else _leaf(w) for w in given.weights))
    y, _ = cells.unroll(
        cell.name,
        _leaf(given.x),
        weights,
        Masks(*(_leaf(m) if isinstance(m, np.ndarray) else m for m in masks)),
        reset_after=cell.reset_after,
        backend=TORCH,
    )
    (y * torch.tensor(target, dtype=torch.float64)).sum().backward()
    return [
        np.zeros(w.shape) if w.grad is None else w.grad.numpy() for w in weights if w is not None
    ]


def _leaf(value: np.ndarray) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


class Side(keras.Model):
    """Layers side by side on one input, each with masks of its own where they are given."""

    def __init__(self, layers: list, masks: list[Masks] | None = None) -> None:
        super().__init__()
        self.side = layers
        self.given = lambda: masks or [None] * len(layers)  # hidden from Keras's tracking

    def call(self, x: Any, training: bool = False) -> Any:
        options = [{} if masks is None else {"masks": masks} for masks in self.given()]
        outputs = [
            layer(x, training=training, **masks)
            for layer, masks in zip(self.side, options, strict=True)
        ]
        return ops.stack(outputs, axis=1)


def gradients(
    layers: list, x: np.ndarray, target: np.ndarray, masks: list[Masks] | None = None
) -> list[list[np.ndarray]]:
    """What one training step of SGD at rate 1 on sum(target * y) takes off each layer's weights."""
    model = Side(layers, masks)
    model.compile(keras.optimizers.SGD(1.0), lambda t, y: ops.sum(t[:, None] * y))
    before = [layer.get_weights() for layer in layers]
    model.train_on_batch(x, target)
    after = [layer.get_weights() for layer in layers]
    return [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)]


def array(value: Any) -> Any:
    """NumPy arrays of a nest of tensors; lists become tuples."""
    if isinstance(value, (list, tuple)):
        return tuple(map(array, value))
    return None if value is None else ops.convert_to_numpy(value)


def on_backend(masks: Masks, dtype: str = "float32") -> Masks:
    return Masks(*(ops.convert_to_tensor(m, dtype) if m is not None else None for m in masks))


def turned(masks: Masks) -> Masks:
    """The masks of a layer that goes backwards, in the order in which it runs."""
    return Masks(
        *(m if m is None or slot in "WU" else m[:, ::-1] for slot, m in masks._asdict().items())
    )


def close(found: Any, expected: Any, tolerance: str = "values", what: object = "") -> None:
    apart = distance(array(found), expected)
    assert apart <= TOLERANCE[tolerance], f"{what} {apart:.2g} apart"


def compiled(function: Callable) -> Callable:
    """As a backend runs a model that is compiled; PyTorch's runs eagerly."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return function


def seed_state(layer: Any) -> list[int]:
    """The seed and how many draws it has given, of a layer, a cell or a Dropout layer."""
    generator = getattr(layer, "cell", layer).seed_generator
    return [int(word) for word in array(generator.state)]
