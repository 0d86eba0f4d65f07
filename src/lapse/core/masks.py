"""The masks of a layer as values: one for each slot of its plan, and the same as plain arrays.

A slot is one place where a step multiplies by a mask; `cells.py` shows where each stands.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lapse.core.errors import LapseError

if TYPE_CHECKING:
    from lapse.core.plan import Plan, Source

Scales = tuple[tuple[str, float | None], ...]  # the slots of a plan; see `from_arrays`


class Masks(NamedTuple):
    """One mask for each slot: None (no noise), a number (evaluation), or an array.

    Where a layer draws for itself, `Coins` or `Redrawn` may stand for an array.

    Arrays have the axes (batch, timesteps, gates, width), each of size 1 where the mask is shared.
    Width is features for x and units elsewhere; W and U are (rows, columns) of their weight.
    k_c and k_h say how far a state moves towards its new value: 1 updates it, 0 keeps it.
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
    """A compact mask: it takes two values, and has one byte for each element."""

    kept: Any  # 1 keeps, 0 drops
    scale: float  # what is kept is multiplied by it


class Redrawn(NamedTuple):
    """Any other mask that changes with time: the backward pass draws it again to save memory."""

    numbers: Any
    again: Callable[[], Any]


def width(slot: str, *, features: Any, units: int, projected: int = 0) -> Any:
    """How many numbers the mask of a slot has for each sample; for W and U, for each column.

    Args:
        projected: the size of the hidden state where it is a projection of the units; else 0.
    """
    if slot in ("x", "W"):
        return features
    return projected or units if slot in ("h", "U", "s", "k_h", "y") else units


def shape(
    slot: str,
    sources: Sequence[Source],
    *,
    batch: Any,
    timesteps: Any,
    features: int,
    units: int,
    gates: int,
    projected: int = 0,
) -> tuple[Any, ...]:
    """The shape of the mask that `drawing.draw` makes for a slot with these sources."""
    axes = {axis for source in sources for axis in source.term.axes}
    numbers = width(slot, features=features, units=units, projected=projected)
    if slot in "WU":
        return (numbers if "I" in axes else 1, gates * units if "O" in axes else 1)
    sizes = {"B": batch, "T": timesteps, "G": gates, "F": numbers}
    return tuple(size if axis in axes else 1 for axis, size in sizes.items())


def changes(sources: Sequence[Source]) -> bool:
    """Whether the mask of a slot with these sources changes with time."""
    return any("T" in source.term.axes for source in sources)


def is_compact(sources: Sequence[Source]) -> bool:
    """Whether `drawing.draw(compact=True)` gives `Coins` for a slot with these sources."""
    return changes(sources) and all(source.term.law == "bern" for source in sources)


def scale(sources: Sequence[Source]) -> float:
    """What the coins of these sources keep is multiplied by it.

    It is a float32 number, because masks hold float32 numbers in layers of any type.
    """
    exact = math.prod(source.term.factor for source in sources)
    rounded: float = struct.unpack("f", struct.pack("f", exact))[0]
    return rounded


def outlines(plan: Plan, **sizes: Any) -> list[tuple[tuple[Any, ...], bool]]:
    """The shape of the array of each slot, and whether it holds bytes rather than float32.

    Args:
        sizes: batch, timesteps, features, units and projected.
    """
    return [
        (shape(slot, sources, **sizes, gates=plan.gates), is_compact(sources))
        for slot, sources in plan.slots
    ]


def to_arrays(plan: Plan, masks: Masks) -> list[Any]:
    """The array of each slot in turn, as the graphs of frameworks carry masks."""
    found = (getattr(masks, slot) for slot, _ in plan.slots)
    return [mask[0] if isinstance(mask, (Coins, Redrawn)) else mask for mask in found]


def from_arrays(scales: Scales, arrays: Iterable[Any]) -> Masks:
    """The inverse of `to_arrays`.

    Args:
        scales: `Plan.scales`: for each slot the scale of its `Coins`, None for masks of floats.
        arrays: one for each slot in turn.
    """
    filled = {}
    for (slot, scale), array in zip(scales, arrays, strict=True):
        filled[slot] = array if scale is None else Coins(array, scale)
    return Masks(**filled)


def check_masks(
    masks: Masks, plan: Plan, *, batch: Any, timesteps: Any, units: int, **sizes: Any
) -> None:
    """Checks masks that a user gives to a layer; a slot may be left empty.

    Args:
        masks: as `drawing.draw` makes them.
        plan: of the layer.
        batch, timesteps, units, features, projected: the sizes of the call; None where one is not
            known yet.

    Raises:
        LapseError: for a slot that the layer does not use, or a shape that does not fit.
    """
    used = {slot for slot, _ in plan.slots}
    for slot, mask in masks._asdict().items():
        if mask is None:
            continue
        if slot not in used:
            raise LapseError(
                f"the masks hold one for {slot}, where this layer has no noise (its noise is "
                f"'{plan.text}'); give masks from its own draw_masks."
            )
        if isinstance(mask, float):
            continue
        if not hasattr(mask, "shape"):
            raise LapseError(
                f"the mask for {slot} is {mask!r}; pass what draw_masks returns, or a float."
            )
        numbers = width(slot, units=units, **sizes)
        columns = plan.gates * units
        gates = plan.gates if slot in ("x", "h") else 1  # several gates read these two
        full = (numbers, columns) if slot in "WU" else (batch, timesteps, gates, numbers)
        given = tuple(mask.shape)
        fits = len(given) == len(full) and all(
            size in (1, whole, None) or whole is None
            for size, whole in zip(given, full, strict=True)
        )
        if not fits:
            raise LapseError(
                f"the mask for {slot} has shape {given}; this call needs {full}, or 1 for an axis "
                "that shares it."
            )
