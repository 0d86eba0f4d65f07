"""Engines as NumPy functions, for frameworks whose graphs call back into Python.

Functions that compute the same compare equal, so a graph that is cached by the functions it calls
is used again. `into` holds the arrays to write to, if the framework provides them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lapse.core import drawing
from lapse.core.masks import Masks, to_arrays
from lapse.core.numpy_backend import NUMPY
from lapse.core.philox import WORD
from lapse.core.plan import Plan
from lapse.engines import named
from lapse.engines.arrays import Flags, Gradients, Inputs, Results
from lapse.engines.cpu.drawing import FAST_NUMPY
from lapse.engines.fused import Fused


@dataclass(frozen=True)
class Forward:
    """`Fused.forward` of an engine, on NumPy arrays."""

    engine: str
    flags: Flags
    scales: tuple[float, ...]

    def __call__(self, inputs: Inputs, into: Results | None = None) -> Results:
        return _fused(self.engine).forward(
            NUMPY, self.flags, inputs.each(_array), self.scales, into
        )


@dataclass(frozen=True)
class Backward:
    """`Fused.backward` of an engine, on NumPy arrays; None stands for gradients of 0."""

    engine: str
    flags: Flags
    scales: tuple[float, ...]
    of_x: bool

    def __call__(
        self,
        inputs: Inputs,
        h: Any,
        c: Any,
        saved: Any,
        *gradients: Any,
        into: Gradients | None = None,
    ) -> Gradients:
        """`gradients` are those of the last h, of the last c and of all outputs."""
        return _fused(self.engine).backward(
            NUMPY,
            self.flags,
            inputs._replace(bias=None).each(_array),
            self.scales,
            Results(None, None, _array(h), _array(c), _array(saved), None),
            *map(_array, gradients),
            of_x=self.of_x,
            columns_first=False,
            into=into,
        )


def _fused(name: str) -> Fused:
    engine = named(name)
    assert isinstance(engine, Fused)
    return engine


def _array(value: Any) -> Any:
    """A NumPy view of a framework's array, in the same memory."""
    return None if value is None else np.asarray(value)


def known_words(seed: Any) -> Sequence[int]:
    """The words of a seed as numbers; the seed must be known, not traced."""
    words = drawing.seed_words(seed)
    return words if isinstance(words, tuple) else [int(word) & WORD for word in np.asarray(words)]


def draw(plan: Plan, seed: Any, **sizes: Any) -> Masks:
    """Compact masks in NumPy, drawn without a framework's threads."""
    return drawing.draw(plan, seed, **sizes, backend=FAST_NUMPY, compact=True)


@dataclass(frozen=True)
class Draw:
    """`draw`, as a list of the arrays of the slots."""

    plan: Plan
    sizes: tuple[tuple[str, int], ...]

    def __call__(self, seed: Any, into: list[Any] | None = None) -> list[Any]:
        drawn = to_arrays(self.plan, draw(self.plan, known_words(seed), **dict(self.sizes)))
        for array, mask in zip(into or [], drawn, strict=bool(into)):
            array[...] = mask
        return drawn
