"""Masks from a plan, a seed and sizes: the same numbers on every device and in every order.

Each random word is Philox of

    key      the low and the high half of the 64-bit seed
    counter  unit // 4 (unit % 4 picks one of the four words), sample, timestep,
             stream | gate << 8 | direction << 12 | layer << 16
    stream   site | use << 4 | order << 6: order counts the terms at one site; use is 0 for the
             mask, 1 for a second number it needs, 2 for the redraws of a chain

with 2**32 - 1 for a sample or timestep that the mask is shared along. For weights, unit is the
column and sample the row; for embeddings, unit is the vocabulary id. A mask therefore does not
depend on the batch it is drawn in, on padding, or on other masks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from numbers import Integral, Number
from typing import Any

import numpy as np

from lapse.core.backend import Backend
from lapse.core.errors import LapseError
from lapse.core.laws import Elements, factors
from lapse.core.masks import Coins, Masks, is_compact, scale, width
from lapse.core.noise import Axis, Term
from lapse.core.numpy_backend import NUMPY
from lapse.core.philox import WORD
from lapse.core.plan import Plan, Source, sources

SHARED = WORD


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
    backend: Backend = NUMPY,
    compact: bool = False,
) -> Masks:
    """Draws the masks of one call in training.

    Args:
        plan: the slots to fill.
        seed: a whole number in [0, 2**64), or its low and high 32-bit words as a pair.
        batch, timesteps, features, units: the sizes of the call.
        projected: the size of h where it is a projection of the units; else 0.
        samples: (batch,) whole numbers that identify the samples; 0, 1, ... by default. With them,
            a part of a batch has the same masks as in the whole batch.
        layer, direction: each has random numbers of its own; layer < 65536, direction < 16.
        backend: whose arrays the masks are.
        compact: whether masks that change with time come as `Coins` where they take two values;
            for backends of NumPy's arrays only.

    Returns:
        float32 arrays, (batch or 1, timesteps or 1, gates or 1, width or 1) each; (rows or 1,
        columns or 1) for W and U.

    Raises:
        LapseError: for sizes, samples or a seed that are not whole numbers, or out of range.
    """
    stream = _Streams(seed, layer, direction, backend)
    _check_size("batch", batch)
    _check_size("timesteps", timesteps)
    rows = backend.range(batch) if samples is None else backend.word(_checked(samples, batch))

    def mask(slot: str, source: Source) -> Any:
        numbers = width(slot, features=features, units=units, projected=projected)
        if slot in "WU":
            return stream.weight(source, numbers, plan.gates * units)
        return stream.mask(source, rows, timesteps, plan.gates, numbers)

    filled = {}
    for slot, found in plan.slots:
        kept, factor, others = _parts(found, lambda source, slot=slot: mask(slot, source))
        if compact and is_compact(found):
            filled[slot] = Coins(kept.view(np.uint8), factor)
        else:
            filled[slot] = _product(kept, factor, others, backend)
    return Masks(**filled)


def draw_rows(
    terms: Sequence[Term], seed: Any, *, batch: Any, vocabulary: int, backend: Backend = NUMPY
) -> Any:
    """Draws the mask of an embedding table from terms at the site emb.

    Returns:
        (batch or 1, vocabulary) float32: the factor of each row of the table; None without terms.

    Raises:
        LapseError: for a batch or a seed that is not a whole number, or out of range.
    """
    _check_size("batch", batch)
    stream, found = _Streams(seed, 0, 0, backend), sources(terms)
    if not found:
        return None

    def mask(source: Source) -> Any:
        return stream.mask(source, backend.range(batch), 1, 1, vocabulary)[:, 0, 0, :]

    return _product(*_parts(found, mask), backend)


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


class _Streams:
    """The random streams of one seed, layer and direction."""

    def __init__(self, seed: Any, layer: int, direction: int, backend: Backend) -> None:
        words = seed_words(seed)  # by index, because a graph can't unpack a tensor
        if not (0 <= layer < 1 << 16 and 0 <= direction < 1 << 4):
            raise LapseError(
                f"layer {layer} or direction {direction} is out of range; give a layer below 65536 "
                "and a direction below 16."
            )
        self.backend = backend
        self.key = (backend.word(words[0]), backend.word(words[1]))
        self.place = direction << 12 | layer << 16
        self.shared = backend.word([SHARED])

    def mask(self, source: Source, rows: Any, timesteps: Any, gates: int, width: int) -> Any:
        """(batch or 1, timesteps or 1, gates or 1, width or 1) of a term; see `laws.factors`."""
        axes = source.term.axes
        time, unit = axes.get("T", Axis("T")), axes.get("F", axes.get("V"))
        steps = self.shared
        if "T" in axes:
            steps = self.backend.range(timesteps + _before(time))
        if time.run == "/":
            steps = self.backend.quotient(steps, int(time.size))
        return self._factors(
            source,
            rows if "B" in axes else self.shared,
            steps,
            gates if "G" in axes else 1,
            1 if unit is None else width + _before(unit),
        )

    def weight(self, source: Source, rows: int, columns: int) -> Any:
        """The same of a term on a weight, (rows or 1, columns or 1)."""
        axes = source.term.axes
        samples = self.backend.range(rows) if "I" in axes else self.shared
        width = columns if "O" in axes else 1
        return self._factors(source, samples, self.shared, 1, width)[:, 0, 0, :]

    def _factors(self, source: Source, samples: Any, steps: Any, gates: int, width: int) -> Any:
        stream = source.stream | self.place
        at = Elements(self.backend, self.key, stream, samples, steps, gates, width)
        return factors(source.term, at)


def _before(axis: Axis) -> int:
    """How many positions before the first one spans may start at."""
    return int(axis.size) - 1 if axis.run == "[" else 0


def _parts(found: Sequence[Source], mask: Callable) -> tuple[Any, float, list]:
    """What all coins keep (None without coins), its scale, and the factors of other laws."""
    of_coins = [source for source in found if source.term.law == "bern"]
    coins = [mask(source) for source in of_coins]
    others = [mask(source) for source in found if source.term.law != "bern"]
    return reduce(operator.and_, coins) if coins else None, scale(of_coins), others


def _product(kept: Any, factor: float, others: list, backend: Backend) -> Any:
    return math.prod(others, start=1.0 if kept is None else backend.scaled(kept, factor))


def _check_size(name: str, size: Any) -> None:
    """Raises `LapseError` for what is not a size. In a graph a size may be a tensor."""
    whole = isinstance(size, Integral) and not isinstance(size, bool)
    wrong = size is None or isinstance(size, (Number, np.generic, Sequence))
    if size < 0 if whole else wrong:
        raise LapseError(f"{name}={size!r} was given; write a whole number from 0.")


def _checked(samples: Any, batch: Any) -> Any:
    """The numbers of the samples, as an array."""
    try:
        found = np.asarray(samples)
    except ValueError:  # lists of different lengths
        found = np.empty(())
    whole = found.dtype.kind in "iu" or found.size == 0
    if found.shape != (batch,) or not whole or not np.all((found >= 0) & (found < SHARED)):
        raise LapseError(
            f"samples={samples!r} must be whole numbers in [0, 2**32 - 1), one for each of the "
            f"{batch} sequences."
        )
    return found
