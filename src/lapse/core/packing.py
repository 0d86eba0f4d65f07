"""Masks as plain arrays, one for each slot in turn, as frameworks' graphs carry them; and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from lapse.core import masks
from lapse.core.plan import GATES, Coins, Draw, Fleeting, Masks, Plan

Scales = tuple[tuple[str, float | None], ...]


def scales(plan: Plan) -> Scales:
    """The slots of a plan, and the scale of their `Coins`; None for masks of floats."""

    def scale(draws: tuple[Draw, ...]) -> float | None:
        return math.prod(masks.scale(d.term) for d in draws) if masks.is_packed(draws) else None

    return tuple((slot, scale(draws)) for slot, draws in plan.slots)


def outlines(plan: Plan, **sizes: Any) -> list[tuple[tuple[Any, ...], bool]]:
    """The shape of the array in each slot, and whether it is uint8 rather than float32.

    Args:
        sizes: batch, timesteps, features and units.
    """
    gates = len(GATES[plan.cell])
    return [
        (masks.shape(slot, draws, **sizes, gates=gates), masks.is_packed(draws))
        for slot, draws in plan.slots
    ]


def packed(plan: Plan, drawn: Masks) -> list[Any]:
    """The arrays of what `masks.draw(packed=True)` gave."""
    found = (getattr(drawn, slot) for slot, _ in plan.slots)
    return [mask[0] if isinstance(mask, (Coins, Fleeting)) else mask for mask in found]


def unpacked(scales: Scales, arrays: Iterable[Any]) -> Masks:
    """Masks, with `Coins` where arrays are bytes."""
    filled = {}
    for (slot, scale), array in zip(scales, arrays, strict=True):
        filled[slot] = array if scale is None else Coins(array, scale)
    return Masks(**filled)
