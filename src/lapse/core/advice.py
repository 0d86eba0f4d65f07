"""What an error about noise advises: the nearest term that layers run.

A term may break several rules at once. Advice that corrects only one of them would be refused
next, so `nearest` corrects everything about a term together.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lapse.core.noise import Axis, Term

LONGEST_SPAN = 2**16  # a span costs as much as this many timesteps
STATE_SITES = ("c", "s", "state")  # what cells carry from step to step
_AXES = {"x": "BTFG", "h": "BTFG", "W": "IO", "U": "IO", "emb": "BV"}  # others have BTF
_USUAL_AXES = {"W": "IO", "U": "IO", "emb": "V"}
_CARRYING_GATES = ("f", "z")


def nearest(term: Term, **changes: object) -> str:
    """The text of the term nearest to `term` that runs in every layer whose cell has its site.

    Args:
        changes: the parts that must differ. A rate that no layer runs becomes 0.5.
    """
    near = _with(term, **changes)
    rate = near.rate if isinstance(near.rate, float) and 0 <= near.rate < 1 else 0.5
    over = _axes(near)
    fill = "prev" if near.fill == "prev" and near.site in STATE_SITES else 0.0
    grows = near.law in ("gauss", "uniform") and near.site in (*STATE_SITES, *_CARRYING_GATES)
    law = "bern" if grows or fill == "prev" or "[" in over else near.law
    scale = near.scale
    if fill == "prev":
        scale = None
    elif law in ("gauss", "uniform"):
        scale = "inv"
    elif near.site in STATE_SITES:
        scale = "none" if near.scale == "none" else "exp"
    elif near.site in _CARRYING_GATES and near.scale == "inv":
        scale = None
    return str(_with(near, rate=rate, over=over, fill=fill, law=law, scale=scale))


def over_with(term: Term, name: str, instead: str) -> str:
    """The axes of a term with one of them written in another way, or left out."""
    return "".join(instead if axis.name == name else str(axis) for axis in term.axes.values())


def _axes(term: Term) -> str:
    """The axes of a term that its site has, with one run at most."""
    found = [axis for axis in term.axes.values() if axis.name in _AXES.get(term.site, "BTF")]
    run = next(filter(_can_run, found), None)
    over = "".join(str(axis) if axis is run else axis.name for axis in found)
    usual = _USUAL_AXES.get(term.site, "BF")
    return over if over and (term.site != "emb" or "V" in over) else over + usual


def _can_run(axis: Axis) -> bool:
    if axis.run == "~":
        return axis.name == "T" and 0 <= axis.size <= 1
    if axis.run == "/":
        return axis.name == "T" and axis.size >= 1
    return axis.run == "[" and axis.name in "TF" and 1 <= axis.size <= LONGEST_SPAN


def _with(term: Term, **parts: object) -> Term:
    """A term with other parts, unchecked because they need not go together."""
    changed = object.__new__(type(term))
    for field in fields(term):
        value = parts.get(field.name, getattr(term, field.name))
        object.__setattr__(changed, field.name, value)
    return changed
