"""Masks from a plan, a seed and sizes: the same numbers wherever, and in whatever order, drawn.

Each random word is Philox of

    key      the low and the high half of the 64-bit seed
    counter  unit // 4 (unit % 4 picks one of the four words), sample, timestep,
             kind | gate << 8 | direction << 12 | layer << 16
    kind     site | stream << 4 | order << 6: order counts the terms at one site; stream is 0 for
             the mask, 1 for a second number it needs, 2 for the redraws of a chain

with 2**32 - 1 for a sample or timestep that the mask is shared along. For weights, unit is the
column and sample the row; for embeddings, unit is the vocabulary id. A mask therefore depends on
no neighbour: not on the batch it is drawn in, not on padding, not on other masks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from numbers import Integral, Number
from typing import Any

import numpy as np

from lapse.core.arrays import NUMPY, NumpyArrays
from lapse.core.errors import LapseError
from lapse.core.noise import Axis, Term
from lapse.core.philox import WORD, philox
from lapse.core.plan import GATES, Coins, Draw, Masks, Plan, streams, width
from lapse.kernels.cpu import extension

SHARED = WORD
_TIME, _UNITS = 1, 3  # axes of a mask
_RELAXED_TEMPERATURE = 0.1  # of the concrete law, as in Gal, Hron, Kendall 2017, arXiv:1705.07832


def draw(
    plan: Plan,
    seed: Any,
    *,
    batch: Any,
    timesteps: Any,
    features: int,
    units: int,
    projected: int = 0,
    samples: Any = None,
    layer: int = 0,
    direction: int = 0,
    arrays: Any = NUMPY,
    packed: bool = False,
) -> Masks:
    """Draws the masks of one training call.

    Args:
        plan: the slots to fill.
        seed: a whole number in [0, 2**64), or its low and high 32-bit words as a pair.
        batch, timesteps, features, units: the sizes of the call.
        projected: the size of h where it is a projection of the units; else 0.
        samples: (batch,) whole numbers that identify the samples; 0, 1, ... by default. A part of
            a batch drawn with its own numbers gets the masks it has in the whole.
        layer, direction: their streams are independent; layer < 65536, direction < 16.
        arrays: the array operations to draw with (NumPy's by default).
        packed: whether masks that change with time come as `Coins` where they take two values;
            with NumPy's arrays only.

    Returns:
        float32 arrays, (batch or 1, timesteps or 1, gates or 1, width or 1) each; (rows or 1,
        columns or 1) for W and U.

    Raises:
        LapseError: for sizes, samples or a seed that are not whole numbers, or out of range.
    """
    gates = len(GATES[plan.cell])
    stream = _Stream(seed, layer, direction, arrays)
    _check_size("batch", batch)
    _check_size("timesteps", timesteps)
    rows = arrays.range(batch) if samples is None else arrays.words(_checked(samples, batch))

    def mask(slot: str, one: Draw) -> Any:
        numbers = width(slot, features=features, units=units, projected=projected)
        if slot in "WU":
            return stream.weight(one, numbers, gates * units)
        return stream.mask(one, rows, timesteps, gates, numbers)

    filled = {}
    for slot, draws in plan.slots:
        kept, factor, others = _parts(draws, lambda one, slot=slot: mask(slot, one))
        if packed and is_packed(draws):
            filled[slot] = Coins(arrays.bytes(kept), factor)
        else:
            filled[slot] = _product(kept, factor, others, arrays)
    return Masks(**filled)


def _check_size(name: str, size: Any) -> None:
    """Raises `LapseError` for what is not a size; a graph may not know one yet."""
    whole = isinstance(size, Integral) and not isinstance(size, bool)
    wrong = size is None or isinstance(size, (Number, np.generic, Sequence))
    if size < 0 if whole else wrong:
        raise LapseError(f"{name}={size!r} was given; write a whole number from 0.")


def _checked(samples: Any, batch: Any) -> Any:
    """The numbers of the samples, as an array."""
    try:
        found = np.asarray(samples)
    except ValueError:  # of lists of different lengths
        found = np.empty(())
    whole = found.dtype.kind in "iu" or found.size == 0
    if found.shape != (batch,) or not whole or not np.all((found >= 0) & (found < SHARED)):
        raise LapseError(
            f"samples={samples!r} must be whole numbers in [0, 2**32 - 1), one for each of the "
            f"{batch} sequences."
        )
    return found


def is_packed(draws: tuple[Draw, ...]) -> bool:
    """Whether `draw(packed=True)` gives `Coins` for a slot with these draws."""
    return changes(draws) and all(one.term.law == "bern" for one in draws)


def changes(draws: tuple[Draw, ...]) -> bool:
    """Whether the mask of a slot with these draws changes with time."""
    return any("T" in one.term.axes for one in draws)


def shape(
    slot: str,
    draws: tuple[Draw, ...],
    *,
    batch: Any,
    timesteps: Any,
    features: int,
    units: int,
    gates: int,
    projected: int = 0,
) -> tuple[Any, ...]:
    """The shape of a slot's mask, as `draw` makes it."""
    axes = {axis for one in draws for axis in one.term.axes}
    numbers = width(slot, features=features, units=units, projected=projected)
    if slot in "WU":
        return (numbers if "I" in axes else 1, gates * units if "O" in axes else 1)
    sizes = {"B": batch, "T": timesteps, "G": gates, "F": numbers}
    return tuple(size if axis in axes else 1 for axis, size in sizes.items())


def _parts(draws: tuple[Draw, ...], mask: Callable) -> tuple[Any, float, list]:
    """What coins keep together (None without any), times what, and the factors of other laws."""
    coins = [mask(one) for one in draws if one.term.law == "bern"]
    factor = math.prod(scale(one.term) for one in draws if one.term.law == "bern")
    others = [mask(one) for one in draws if one.term.law != "bern"]
    return reduce(operator.and_, coins) if coins else None, factor, others


def _product(kept: Any, factor: float, others: list, arrays: Any) -> Any:
    return math.prod(others, start=1.0 if kept is None else arrays.scaled(kept, factor))


def expected(plan: Plan) -> Masks:
    """The constants that stand for the masks at evaluation; draws nothing."""
    filled = {}
    for slot, draws in plan.slots:
        factors = [
            1 - rate_of(one.term)
            for one in draws
            if one.term.fill == "prev" or one.term.scale == "exp"
        ]
        if factors:
            filled[slot] = math.prod(factors)
    return Masks(**filled)


def check_rows(terms: tuple[Term, ...]) -> None:
    """Raises `LapseError` for terms that act on something else than an embedding table."""
    for one in streams(terms):
        if one.term.site != "emb":
            raise LapseError(
                f"{one.term} acts on a recurrent layer; an embedding table takes the site emb, "
                "e.g. emb:0.1@V."
            )


def expected_rows(terms: tuple[Term, ...]) -> float:
    """The constant that stands for the mask of an embedding table at evaluation."""
    return math.prod(1 - rate_of(term) for term in terms if term.scale == "exp")


def draw_rows(
    terms: tuple[Term, ...], seed: Any, *, batch: Any, vocabulary: int, arrays: Any = NUMPY
) -> Any:
    """Draws the mask of an embedding table from terms at the site emb.

    Returns:
        (batch or 1, vocabulary) float32: the factor of each row of the table.

    Raises:
        LapseError: for a batch or a seed that is not a whole number, or out of range.
    """
    _check_size("batch", batch)
    stream, draws = _Stream(seed, 0, 0, arrays), tuple(streams(terms))
    if not draws:
        return None

    def mask(one: Draw) -> Any:
        return stream.mask(one, arrays.range(batch), 1, 1, vocabulary)[:, 0, 0, :]

    return _product(*_parts(draws, mask), arrays)


def seed_words(seed: Any) -> Any:
    """The low and the high word of a seed, which may be that pair already."""
    if seed is None or isinstance(seed, (float, str)):
        raise LapseError(f"the seed {seed!r} is not a whole number; give one in [0, 2**64).")
    if not isinstance(seed, Integral):
        return seed
    seed = int(seed)
    if not 0 <= seed < 2**64:
        raise LapseError(f"the seed {seed} is not a 64-bit number; give one in [0, 2**64).")
    return seed & WORD, seed >> 32


class _Stream:
    """Draws terms under one seed, layer and direction."""

    def __init__(self, seed: Any, layer: int, direction: int, arrays: Any) -> None:
        seed = seed_words(seed)
        if not (0 <= layer < 1 << 16 and 0 <= direction < 1 << 4):
            raise LapseError(f"layer {layer} or direction {direction} is out of range.")
        self.arrays = arrays
        self.key = (arrays.word(seed[0]), arrays.word(seed[1]))
        self.place = direction << 12 | layer << 16
        self.kernels = extension() if isinstance(arrays, NumpyArrays) else None

    def _counters(self, *parts: Any) -> list[Any]:
        """The key, and samples, steps and gates, as the kernels take them."""
        return [*map(int, self.key), *(np.asarray(part, np.uint32) for part in parts)]

    def mask(self, one: Draw, rows: Any, timesteps: Any, gates: int, width: int) -> Any:
        """(batch or 1, timesteps or 1, gates or 1, width or 1) of a term.

        Factors; for coins only where they keep.
        """
        axes = one.term.axes
        unit = "F" if "F" in axes else "V"
        shared = self.arrays.word([SHARED])
        time = axes.get("T", Axis("T"))
        run = int(time.size) if time.kind == "[" else 1
        steps = self.arrays.range(timesteps + run - 1) if "T" in axes else shared
        if time.kind == "/":
            steps = self.arrays.quotient(steps, int(time.size))
        return self._factors(
            one,
            rows if "B" in axes else shared,
            steps,
            gates if "G" in axes else 1,
            width if unit in axes else 1,
        )

    def weight(self, one: Draw, rows: int, columns: int) -> Any:
        """The same of a term on a weight, (rows or 1, columns or 1)."""
        axes = one.term.axes
        shared = self.arrays.word([SHARED])
        return self._factors(
            one,
            self.arrays.range(rows) if "I" in axes else shared,
            shared,
            1,
            columns if "O" in axes else 1,
        )[:, 0, 0, :]

    def _words(self, kind: int, samples: Any, steps: Any, gates: int, width: int) -> Any:
        """(samples, steps, gates, width) random words."""
        arrays = self.arrays
        gate = arrays.words([kind | n << 8 | self.place for n in range(gates)])
        if self.kernels is not None:
            words = np.empty((len(samples), len(steps), gates, width), np.uint32)
            self.kernels.words(*self._counters(samples, steps, gate), words, *arrays.pool())
            return words
        quads = arrays.range(-(-width // 4))
        counter = (
            quads,
            samples[:, None, None, None],
            steps[:, None, None],
            gate[:, None],
        )
        return arrays.interleave(philox(counter, self.key, arrays))[..., :width]

    def _factors(self, one: Draw, samples: Any, steps: Any, gates: int, width: int) -> Any:
        term, arrays = one.term, self.arrays
        shape = (samples, steps, gates, width)
        for axis in term.axes.values():
            if axis.kind == "[":
                longest = int(axis.size)
                if axis.name == "T":
                    return self._spans(one, shape, longest, _TIME)
                return self._spans(
                    one, (samples, steps, gates, width + longest - 1), longest, _UNITS
                )
        factors = self._law(one, shape)
        for axis in term.axes.values():
            if axis.kind == "~":
                redraw = self._words(one.kind | 2 << 4, *shape)
                fresh = arrays.at_least(redraw, _threshold(1 - axis.size))
                factors = arrays.hold(factors, fresh, _TIME)
        return factors

    def _law(self, one: Draw, shape: tuple[Any, Any, int, int]) -> Any:
        arrays, term, rate = self.arrays, one.term, rate_of(one.term)
        if term.law == "bern" and self.kernels is not None and (start := _threshold(rate)) <= WORD:
            samples, steps, gates, width = shape
            gate = arrays.words([one.kind | n << 8 | self.place for n in range(gates)])
            coins = np.empty((len(samples), len(steps), gates, width), np.uint8)
            where = self._counters(samples, steps, gate)
            self.kernels.coins(*where, start, coins, *arrays.pool())
            return coins
        words = self._words(one.kind, *shape)
        if term.law == "bern":
            return arrays.at_least(words, _threshold(rate))
        uniform = self._uniform(words)
        spread = math.sqrt(rate / (1 - rate))
        if term.law == "uniform":
            return 1 + spread * math.sqrt(3) * (2 * uniform - 1)
        if term.law == "gauss":
            angle = 2 * math.pi * self._uniform(self._words(one.kind | 1 << 4, *shape))
            return 1 + spread * arrays.sqrt(-2 * arrays.log(uniform)) * arrays.cos(angle)
        logit = math.log(rate / (1 - rate)) + arrays.log(uniform) - arrays.log(1 - uniform)
        dropped = 0.5 + 0.5 * arrays.tanh(logit / (2 * _RELAXED_TEMPERATURE))
        return (1 - dropped) * scale(term)

    def _uniform(self, words: Any) -> Any:
        """Strictly between 0 and 1, from the upper 23 bits: exact in float32."""
        return (self.arrays.floats(self.arrays.quotient(words, 512)) + 0.5) * 2.0**-23

    def _spans(self, one: Draw, shape: tuple[Any, Any, int, int], longest: int, axis: int) -> Any:
        """True outside all spans along an axis, whose first L - 1 positions are left out.

        A span starts at each position with the same probability and is 1 to L long, each length
        equally likely but the last, which may be rarer. The positions left out stand before the
        first one, so that the first is as likely to be covered as any other. A position is covered
        where a span that started there or before ends behind it.
        """
        arrays, steps, width = self.arrays, *shape[1::2]
        starts = arrays.at_least(
            self._words(one.kind, *shape), _threshold(1 - _start(rate_of(one.term), longest))
        )
        # The length minus 1: a word cut into L ranges, equal but for what is left to the last.
        lengths = arrays.quotient(self._words(one.kind | 1 << 4, *shape), -(-(2**32) // longest))
        positions = (
            steps[None, :, None, None]
            if axis == _TIME
            else arrays.range(width)[None, None, None, :]
        )
        ends = arrays.words(starts) * (lengths + (positions + 1))
        rest = (slice(None),) * axis + (slice(longest - 1, None),)
        return arrays.running_max(ends, axis, longest)[rest] <= positions[rest]


def rate_of(term: Term) -> float:
    """The rate, a number."""
    assert isinstance(term.rate, float)  # the plan refuses other rates
    return term.rate


def _threshold(rate: float) -> int:
    """A word below it drops; comparing whole numbers leaves no rounding between libraries."""
    return round(rate * 2**32)


def scale(term: Term) -> float:
    """What is kept is multiplied by it in training."""
    return 1 / (1 - rate_of(term)) if term.scale == "inv" else 1.0


@lru_cache
def _start(rate: float, longest: int) -> float:
    """The chance q to start a span that leaves a share 1 - rate uncovered.

    A position is uncovered with probability prod(1 - q * j / L for j = 1..L), which falls from 1
    to 0 as q rises from 0 to 1. The product is taken in this order, because another one rounds
    differently, and a bit of some mask with it.
    """
    lengths = np.arange(1, longest + 1, dtype=np.float64)
    low, high = 0.0, 1.0
    for _ in range(60):
        q = (low + high) / 2
        uncovered = np.multiply.accumulate(1 - q * lengths / longest)[-1]
        low, high = (q, high) if uncovered > 1 - rate else (low, q)
    return high
