"""The numbers of one term's mask from its random words: laws, blocks, chains and spans."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lapse.core.backend import Backend, Counters
from lapse.core.noise import Term

TIME, UNITS = 1, 3  # axes of a mask
_SECOND, _REDRAW = 1, 2  # uses of a stream; 0 is the mask itself
_RELAXED_TEMPERATURE = 0.1  # of the concrete law, as in Gal, Hron, Kendall 2017, arXiv:1705.07832


class Elements(NamedTuple):
    """The elements of one term's mask, and where their random words are drawn."""

    backend: Backend
    key: tuple[Any, Any]
    stream: int  # with the direction and the layer
    samples: Any
    steps: Any
    gates: int
    width: int

    def words(self, use: int = 0) -> Any:
        """(samples, steps, gates, width) random words."""
        return self.backend.random_words(self._counters(use))

    def coins(self, rate: float, use: int = 0) -> Any:
        """What coins with this probability of dropping keep, of the same shape."""
        # A word below the threshold drops: whole numbers compare alike in every library.
        return self.backend.coins(self._counters(use), round(rate * 2**32))

    def _counters(self, use: int) -> Counters:
        gates = self.backend.word([self.stream | use << 4 | n << 8 for n in range(self.gates)])
        return Counters(self.key, self.samples, self.steps, gates, self.width)


def factors(term: Term, at: Elements) -> Any:
    """What a term multiplies by, (samples, steps, gates, width); for coins, where they keep.

    For spans of 1 to L, `at` has L - 1 more elements along their axis than the result.
    """
    for axis in term.axes.values():
        if axis.run == "[":
            return _spans(term, at, int(axis.size), TIME if axis.name == "T" else UNITS)
    found = _law(term, at)
    for axis in term.axes.values():
        if axis.run == "~":
            fresh = at.coins(1 - axis.size, _REDRAW)
            found = at.backend.hold(found, fresh, TIME)
    return found


def _law(term: Term, at: Elements) -> Any:
    backend, rate = at.backend, term.probability
    if term.law == "bern":
        return at.coins(rate)
    uniform = _uniform(at)
    spread = math.sqrt(rate / (1 - rate))
    if term.law == "uniform":
        return 1 + spread * math.sqrt(3) * (2 * uniform - 1)
    if term.law == "gauss":
        angle = 2 * math.pi * _uniform(at, _SECOND)
        return 1 + spread * backend.sqrt(-2 * backend.log(uniform)) * backend.cos(angle)
    logit = math.log(rate / (1 - rate)) + backend.log(uniform) - backend.log(1 - uniform)
    dropped = 0.5 + 0.5 * backend.tanh(logit / (2 * _RELAXED_TEMPERATURE))
    return (1 - dropped) * term.factor


def _uniform(at: Elements, use: int = 0) -> Any:
    """Strictly between 0 and 1, from the upper 23 bits: exact in float32."""
    backend = at.backend
    return (backend.floats(backend.quotient(at.words(use), 512)) + 0.5) * 2.0**-23


def _spans(term: Term, at: Elements, longest: int, axis: int) -> Any:
    """True outside all spans along an axis.

    A span starts at each position with the same probability and is 1 to L long. Each length is
    equally likely except the last, which may be rarer. A position is covered where a span that
    starts there or before ends after it. The first L - 1 positions are left out of the result:
    spans that start there make the first position of the result as likely to be covered as the
    others.
    """
    backend = at.backend
    starts = at.coins(1 - span_start(term.probability, longest))
    # The length minus 1: a word cut into L ranges, equal except for what is left to the last.
    lengths = backend.quotient(at.words(_SECOND), -(-(2**32) // longest))
    positions = (
        at.steps[None, :, None, None]
        if axis == TIME
        else backend.range(at.width)[None, None, None, :]
    )
    ends = backend.word(starts) * (lengths + (positions + 1))
    rest = (slice(None),) * axis + (slice(longest - 1, None),)
    return backend.running_max(ends, axis, longest)[rest] <= positions[rest]


@lru_cache
def span_start(rate: float, longest: int) -> float:
    """The probability q that a span starts at a position, so that a share 1 - rate is uncovered.

    A position is uncovered with probability prod(1 - q * j / L for j = 1..L), which falls from 1
    to 0 as q rises from 0 to 1. The product is taken in this order, because another order rounds
    differently, which changes bits of some masks.
    """
    lengths = np.arange(1, longest + 1, dtype=np.float64)
    low, high = 0.0, 1.0
    for _ in range(60):
        q = (low + high) / 2
        uncovered = np.multiply.accumulate(1 - q * lengths / longest)[-1]
        low, high = (q, high) if uncovered > 1 - rate else (low, q)
    return high
