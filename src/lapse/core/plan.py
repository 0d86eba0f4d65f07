"""From terms to mask slots: all that a step of a cell, or an engine, needs to know about noise.

A slot is one place where a step multiplies by a mask; `cells.py` shows where each stands. Papers
end here: a term at site c with fill 0, for example, becomes the same mask on the slots i and f.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from lapse.core.advice import nearest
from lapse.core.errors import LapseError
from lapse.core.masks import Masks, Scales, is_compact, scale
from lapse.core.noise import Term, collect, text_of
from lapse.core.rules import SITES, check

GATES = {"LSTM": "ifgo", "GRU": "zrn", "SimpleRNN": "s"}  # in the order of the kernel's columns
STATES = {"LSTM": 2, "GRU": 1, "SimpleRNN": 1}  # how many arrays are carried from step to step
_MOST = 4  # terms at one site, because a stream has two bits for their order


class Source(NamedTuple):
    """A term and the number of its random stream, the same in every slot that the term fills."""

    term: Term
    stream: int


@dataclass(frozen=True)
class Plan:
    """What a cell does with its noise, with all that follows from it before anything is drawn.

    Args:
        text: the terms in the text form.
        slots: for each slot in use, the sources whose masks multiply there.
        expected: the constants that stand for the masks at evaluation.
        apart: the slots whose masks differ between samples or steps.
        scales: for each slot the scale of its `masks.Coins`, None where its masks are floats.
    """

    cell: str
    text: str
    slots: tuple[tuple[str, tuple[Source, ...]], ...]
    expected: Masks
    apart: tuple[str, ...]
    scales: Scales

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms, in the order of the slots."""
        found = dict.fromkeys(source for _, sources in self.slots for source in sources)
        return tuple(source.term for source in found)

    def alone(self, slot: str) -> Plan:
        """The same with one slot."""
        return replace(self, slots=tuple(one for one in self.slots if one[0] == slot))

    @property
    def gates(self) -> int:
        """How many gates the cell has."""
        return len(GATES[self.cell])


def plan(noise: object, cell: str, *, projected: bool = False) -> Plan:
    """The slots of `cell` ("LSTM", "GRU", "SimpleRNN") that `noise` fills.

    Args:
        noise: None, text, a term, a form, or a list of these.
        projected: whether an LSTM's hidden state is a projection of its units.

    Raises:
        LapseError: for a term that can't act in this cell, or that no layer runs yet.
    """
    return _plan(collect(noise), cell, projected)


@lru_cache
def _plan(terms: tuple[Term, ...], cell: str, projected: bool) -> Plan:
    check(terms, cell)
    filled: dict[str, list[Source]] = {}
    for source in sources(terms):
        for slot in _slots(source.term, cell, projected):
            filled.setdefault(slot, []).append(source)
    slots = tuple((slot, tuple(found)) for slot, found in filled.items())
    expected = {slot: _expected(found) for slot, found in slots}
    apart = tuple(slot for slot, found in slots if _differs(found))
    scales = tuple((slot, scale(found) if is_compact(found) else None) for slot, found in slots)
    return Plan(cell, text_of(terms), slots, Masks(**expected), apart, scales)


def sources(terms: Sequence[Term]) -> list[Source]:
    """Gives each term its own random stream: by site, and by order among the terms of one site.

    Raises:
        LapseError: for a fifth term at one site, or a rate that no layer runs yet.
    """
    seen: dict[str, int] = {}
    found = []
    for term in terms:
        if not isinstance(term.rate, float):
            raise LapseError(
                f"{term} has a rate that changes in training, which no layer runs yet; write a "
                f"number, e.g. {nearest(term)}."
            )
        order = seen[term.site] = seen.get(term.site, -1) + 1
        if order == _MOST:
            raise LapseError(
                f"{term} is the fifth term at {term.site}; write at most {_MOST}, because a site "
                f"has {_MOST} streams of random numbers."
            )
        found.append(Source(term, SITES.index(term.site) | order << 6))
    return found


def check_rows(terms: Sequence[Term]) -> None:
    """Raises `LapseError` for terms that an embedding table can't run."""
    for source in sources(terms):
        if source.term.site != "emb":
            raise LapseError(
                f"{source.term} acts on a recurrent layer; an embedding table takes the site emb, "
                "e.g. emb:0.1@V."
            )


def expected_rows(terms: Sequence[Term]) -> float:
    """The constant that stands for the mask of an embedding table at evaluation."""
    return math.prod(1 - term.probability for term in terms if term.scale == "exp")


def _expected(found: tuple[Source, ...]) -> float | None:
    """What a slot multiplies by at evaluation; None for 1."""
    factors = [
        1 - term.probability for term, _ in found if term.fill == "prev" or term.scale == "exp"
    ]
    return math.prod(factors) if factors else None


def _differs(found: tuple[Source, ...]) -> bool:
    """Whether masks differ between samples or steps."""
    return any(axis in term.axes for term, _ in found for axis in "BT")


def _slots(term: Term, cell: str, projected: bool) -> tuple[str, ...]:
    keeps = term.fill == "prev"
    # An LSTM's output is o * tanh(c), so a mask on o is one on h, except before a projection.
    hidden = "o" if cell == "LSTM" and not projected else "s"
    if term.site == "state":
        if keeps:
            return ("k_c", "k_h") if cell == "LSTM" else ("k_h",)
        return ("i", "f", hidden) if cell == "LSTM" else (hidden,)
    if term.site == "c":
        return ("k_c",) if keeps else ("i", "f")
    if term.site == "s":
        return ("k_h",) if keeps else (hidden,)
    if term.site == "g" and cell == "GRU":
        return ("n",)
    return (term.site,)
