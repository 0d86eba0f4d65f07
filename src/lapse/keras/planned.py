"""Noise with all that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from lapse import masks
from lapse.errors import LapseError
from lapse.noise import collect
from lapse.packing import Scales, scales
from lapse.plan import Masks, Plan, plan


@dataclass(frozen=True)
class Planned:
    """Made once for a layer, because torch.compile cannot trace how."""

    text: str
    plan: Plan
    expected: Masks
    scales: Scales


def planned(noise: object, cell: str) -> Planned:
    """Plans noise for a cell; takes and raises what `plan` does."""
    terms = collect(noise)
    made = plan(terms, cell)
    return Planned(" ".join(map(str, terms)), made, masks.expected(made), scales(made))


def check_rate(rate: object, layer: str, name: str = "rate") -> None:
    """Raises `LapseError` for what is not a number; its range is checked with its term."""
    if not isinstance(rate, Real) or isinstance(rate, bool):
        raise LapseError(f"{layer} was given {name}={rate!r}; write a number in [0, 1).")
