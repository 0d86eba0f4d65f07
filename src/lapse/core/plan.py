"""From terms to mask slots: all that a step of a cell, or a kernel, needs to know.

A slot is one place where a step multiplies by a mask; `cells.py` shows where each stands. Papers
end here: a term at site c with fill 0, say, becomes the same mask on the slots i and f.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from lapse.core.advice import nearest
from lapse.core.errors import LapseError
from lapse.core.noise import Term, collect
from lapse.core.rules import SITES, check

GATES = {"LSTM": "ifgo", "GRU": "zrn", "SimpleRNN": "s"}  # in the order of the kernel's columns
STATES = {"LSTM": 2, "GRU": 1, "SimpleRNN": 1}


class Masks(NamedTuple):
    """One mask a slot: None (no noise), a number (evaluation), or an array.

    Where layers draw for themselves, `Coins` or `Fleeting` may stand for an array.

    Arrays have the axes (batch, timesteps, gates, width), each of size 1 where the mask is shared.
    Width is features for x and units elsewhere; W and U are (rows, columns) of their weight.
    k_c and k_h say how far a state moves towards its new value: 1 update, 0 keep.
    """

    x: Any = None
    h: Any = None
    W: Any = None
    U: Any = None
    i: Any = None
    f: Any = None
    g: Any = None
    o: Any = None
    z: Any = None
    r: Any = None
    n: Any = None
    s: Any = None
    k_c: Any = None
    k_h: Any = None
    y: Any = None


class Coins(NamedTuple):
    """A mask that takes two values, at a byte an element; kernels read it as it is."""

    kept: Any  # 1 keeps, 0 drops
    scale: float  # what is kept is multiplied by it


class Fleeting(NamedTuple):
    """Any other mask that changes with time: backward draws it again rather than keep it."""

    numbers: Any
    again: Callable[[], Any]


class Draw(NamedTuple):
    """A term and the number of its random stream, the same wherever the term acts."""

    term: Term
    kind: int


@dataclass(frozen=True)
class Plan:
    """What `cell` does with its noise: for each slot in use, the draws that multiply there."""

    cell: str
    slots: tuple[tuple[str, tuple[Draw, ...]], ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        return tuple(dict.fromkeys(draw.term for _, draws in self.slots for draw in draws))


def plan(noise: object, cell: str, *, projected: bool = False) -> Plan:
    """The slots of `cell` ("LSTM", "GRU", "SimpleRNN") that `noise` fills.

    Args:
        noise: None, text, a term, a form, or a list of these.
        projected: whether an LSTM's hidden state is a projection of its units.

    Raises:
        LapseError: for a term that can't act in this cell, or that no layer can run yet.
    """
    terms = collect(noise)
    if cell not in GATES:
        raise LapseError(
            f"there is no layer for the cell '{cell}'; write one of {', '.join(GATES)}."
        )
    check(terms, cell)
    return _plan(terms, cell, projected)


def width(slot: str, *, features: Any, units: int, projected: int = 0) -> Any:
    """How many numbers the mask of a slot has for a sample; for W and U, for a column.

    Args:
        projected: of how many the hidden state is, where it is a projection of the units; else 0.
    """
    if slot in ("x", "W"):
        return features
    return projected or units if slot in ("h", "U", "s", "k_h", "y") else units


def check_masks(
    masks: Masks, plan: Plan, *, batch: Any, timesteps: Any, units: int, **sizes: Any
) -> None:
    """Checks masks that a user gives to a layer; a slot may be left empty.

    Args:
        masks: as `masks.draw` makes them.
        plan: of the layer.
        batch, timesteps, units, features, projected: the sizes of the call; None where one is not
            known yet.

    Raises:
        LapseError: for a slot that the layer doesn't use, or a shape that doesn't fit.
    """
    gates = len(GATES[plan.cell])
    used = {slot for slot, _ in plan.slots}
    for slot, mask in masks._asdict().items():
        if mask is None:
            continue
        if slot not in used:
            raise LapseError(
                f"the masks hold one for {slot}, where this layer has no noise (its noise is "
                f"'{' '.join(map(str, plan.terms))}'); give masks from its own draw_masks."
            )
        if isinstance(mask, float):
            continue
        if not hasattr(mask, "shape"):
            raise LapseError(
                f"the mask for {slot} is {mask!r}; give what draw_masks gives, or a float."
            )
        numbers = width(slot, units=units, **sizes)
        full = (numbers, gates * units) if slot in "WU" else (batch, timesteps, gates, numbers)
        shape = tuple(mask.shape)
        fits = len(shape) == len(full) and all(
            size in (1, whole, None) or whole is None
            for size, whole in zip(shape, full, strict=True)
        )
        if not fits:
            raise LapseError(
                f"the mask for {slot} has shape {shape}; this call needs {full}, or 1 for an axis "
                "that shares it."
            )


@lru_cache
def _plan(terms: tuple[Term, ...], cell: str, projected: bool) -> Plan:
    slots: dict[str, list[Draw]] = {}
    for draw in streams(terms):
        for slot in _slots(draw.term, cell, projected):
            slots.setdefault(slot, []).append(draw)
    return Plan(cell, tuple((slot, tuple(draws)) for slot, draws in slots.items()))


def streams(terms: tuple[Term, ...]) -> list[Draw]:
    """Gives each term its own random stream: by site, and by order among terms of one site."""
    seen: dict[str, int] = {}
    draws = []
    for term in terms:
        _runnable(term)
        order = seen[term.site] = seen.get(term.site, -1) + 1
        if order == 4:
            raise LapseError(
                f"{term} is the fifth term at {term.site}; write at most 4, which is how many "
                "streams of random numbers a site has."
            )
        draws.append(Draw(term, SITES.index(term.site) | order << 6))
    return draws


def _runnable(term: Term) -> None:
    """The algebra is wider than what layers run; say so instead of running something else."""
    if not isinstance(term.rate, float):
        raise LapseError(
            f"{term} has a rate that changes in training, which no layer runs yet; write a number, "
            f"e.g. {nearest(term)}."
        )
    if (term.fill != "prev" and term.fill != 0) or (
        term.fill == "prev" and term.site in ("x", "y")
    ):
        raise LapseError(
            f"{term} fills {term.site} with {term.fill}, which no layer runs yet; write "
            f"{nearest(term)}."
        )


def _slots(term: Term, cell: str, projected: bool) -> tuple[str, ...]:
    keeps = term.fill == "prev"
    # An LSTM puts out o * tanh(c), so a mask on o is one on h, unless a projection comes between.
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
