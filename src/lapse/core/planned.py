"""Noise with all that follows from it, made once for a layer: torch.compile cannot trace how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lapse.core import masks
from lapse.core.noise import collect
from lapse.core.packing import Scales, scales
from lapse.core.plan import Masks, Plan, plan


@dataclass(frozen=True)
class Planned:
    """The terms as text, their slots, what evaluation multiplies by, and the scales of coins."""

    text: str
    plan: Plan
    expected: Masks
    scales: Scales


def planned(
    noise: object, cell: str, *, projected: bool = False, by: Callable[..., Plan] = plan
) -> Planned:
    """Plans noise for a cell; takes and raises what `plan` does.

    Args:
        by: plans text as `plan` does, which warns of noise that forgets.
    """
    text = " ".join(map(str, collect(noise)))
    made = by(text, cell, projected=projected)
    return Planned(text, made, masks.expected(made), scales(made))
