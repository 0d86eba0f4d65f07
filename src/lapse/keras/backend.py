"""The backend that Keras runs on, looked up once, and what layers and cells take from it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from lapse.backends import named
from lapse.core.masks import Masks
from lapse.core.noise import Term
from lapse.core.plan import Plan
from lapse.core.weights import Weights
from lapse.engines import Framework
from lapse.keras import private

BACKEND: Framework = named(keras.backend.backend())


def next_seed(generator: Any) -> Any:
    """The pair that a `keras.random.SeedGenerator` gives next.

    `generator.next()` does the same, but torch.compile can't trace it.
    """
    words = generator.state.value * 1
    generator.state.assign(words + ops.convert_to_tensor([0, 1], words.dtype))
    return words


@BACKEND.as_written
def draw(plan: Plan, seed: Any, dtype: str, **sizes: Any) -> Masks:
    """Masks as arrays of a type.

    Args:
        seed: a whole number, or the pair that a `keras.random.SeedGenerator` gives.
        sizes: batch, timesteps, features, units and direction, as for `drawing.draw`.
    """
    return BACKEND.numbers(BACKEND.draw_in_graph(plan, seed, **sizes), ops.zeros((), dtype))


@BACKEND.as_written
def draw_rows(terms: tuple[Term, ...], seed: Any, dtype: str, **sizes: Any) -> Any:
    """The mask of an embedding table as an array of a type; see `drawing.draw_rows`."""
    return BACKEND.like(BACKEND.draw_rows(terms, seed, **sizes), ops.zeros((), dtype))


def weights(cell: Any, copied: bool = False) -> Weights:
    """The weights of a Keras cell, as tensors of the backend.

    Args:
        copied: whether the tensors are results of an operation. `torch.export` refuses a loop that
            reads variables of Keras directly.
    """
    variables = (cell.kernel, cell.recurrent_kernel, cell.bias if cell.use_bias else None)
    found = (v if v is None else ops.convert_to_tensor(v) for v in variables)
    return Weights(*(v * 1 if copied and v is not None else v for v in found))


def stored_weights(cell: Any, copied: bool = False) -> Weights:
    """`weights` in the type they are stored in.

    Under a policy of mixed types Keras casts them to the type of the outputs. Then the gradients of
    a whole layer, which are sums over all steps, could overflow in float16.
    """
    with private.uncast():
        return weights(cell, copied)


def activations(cell: Any) -> dict[str, Any]:
    """The activations of a Keras cell that are not the usual ones, as `engines.Call` has them."""
    gates = getattr(cell, "recurrent_activation", None)  # SimpleRNN has no gates
    return {
        "activation": None if cell.activation is keras.activations.tanh else cell.activation,
        "recurrent_activation": None if gates is keras.activations.sigmoid else gates,
    }


def exporting() -> bool:
    """Whether the layer that asks is being exported: called to be traced, not to be run."""
    told = BACKEND.exporting()
    return private.called_to_export() if told is None else told
