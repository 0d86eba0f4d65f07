"""The arrays that a `fused.Fused` engine reads and writes, and their shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lapse.core.plan import GATES

SLOTS = {  # `enum Slot` of `csrc/recurrent.h`
    "LSTM": ("i", "f", "g", "o", "", "k_c", "k_h", "y"),
    "GRU": ("z", "r", "n", "", "s", "", "k_h", "y"),
    "SimpleRNN": ("", "", "", "", "s", "", "k_h", "y"),
}


class Flags(NamedTuple):
    """The cell, "LSTM", "GRU" or "SimpleRNN"; the variant of a GRU; and the direction."""

    cell: str
    reset_after: bool
    reverse: bool


class Inputs(NamedTuple):
    """What a layer reads.

    x: (batch, timesteps, features).
    kernel, recurrent_kernel: (features, gates*units), (units, gates*units).
    bias: (gates*units,), for GRU with reset_after followed by the recurrent bias of n.
    h0, c0: (batch, units), None for zeros; only LSTM has c0, and then both or neither are given.
    running: (batch, timesteps) booleans, False where a step is padding.
    x_mask, h_mask: (batch or 1, timesteps or 1, gates or 1, width), float32, or uint8 of 0 and 1.
    slots: the same without the axis of gates, in the order of `SLOTS`.
    """

    x: Any
    kernel: Any
    recurrent_kernel: Any
    bias: Any
    h0: Any
    c0: Any
    running: Any
    x_mask: Any
    h_mask: Any
    slots: Sequence[Any]

    def each(self, function: Callable[[Any], Any]) -> Inputs:
        """Applies a function to each array."""
        *arrays, slots = self
        return Inputs._make([*map(function, arrays), list(map(function, slots))])

    def flat(self) -> tuple[tuple[int, ...], list[Any]]:
        """The arrays that are not None, after their places in `Inputs`."""
        *fields, slots = self
        found = [(n, array) for n, array in enumerate([*fields, *slots]) if array is not None]
        return tuple(n for n, _ in found), [array for _, array in found]

    @classmethod
    def of(cls, places: Sequence[int], arrays: Sequence[Any]) -> Inputs:
        """The inverse of `flat`."""
        whole: list[Any] = [None] * (_FIELDS + _SLOTS)
        for place, array in zip(places, arrays, strict=True):
            whole[place] = array
        return cls._make([*whole[:_FIELDS], whole[_FIELDS:]])


_FIELDS, _SLOTS = len(Inputs._fields) - 1, len(SLOTS["LSTM"])


class Results(NamedTuple):
    """What `forward` returns.

    last_h, last_c: (batch, units), the last states.
    h, c: (timesteps, batch, units), the states after each step.
    saved: (timesteps, batch, parts*units), what backward needs.
    y: (timesteps, batch, units), the outputs, as in `cells.unroll`; empty where they are h.

    Cells without c have an empty last_c and c.
    """

    last_h: Any
    last_c: Any
    h: Any
    c: Any
    saved: Any
    y: Any


class Gradients(NamedTuple):
    """The gradients that `backward` returns, named as in `Inputs`; x is empty if not needed."""

    x: Any
    kernel: Any
    recurrent_kernel: Any
    bias: Any
    h0: Any
    c0: Any


def saved_per_unit(cell: str, reset_after: bool) -> int:
    """How many numbers are saved for each unit and step: S in `csrc/recurrent.h`."""
    return len(GATES[cell]) + (cell == "GRU" and reset_after)


def result_shapes(flags: Flags, inputs: Inputs) -> Results:
    """The shapes of what `forward` returns."""
    (batch, timesteps, _), units = inputs.x.shape, inputs.recurrent_kernel.shape[0]
    states, last, none = (timesteps, batch, units), (batch, units), (0,)
    has_c = flags.cell == "LSTM"
    return Results(
        last_h=last,
        last_c=last if has_c else none,
        h=states,
        c=states if has_c else none,
        saved=(timesteps, batch, saved_per_unit(flags.cell, flags.reset_after) * units),
        y=states if writes_outputs(inputs) else none,
    )


def gradient_shapes(
    flags: Flags, inputs: Inputs, of_x: bool, columns_first: bool = False
) -> Gradients:
    """The shapes of what `backward` returns."""
    (batch, timesteps, features), units = inputs.x.shape, inputs.recurrent_kernel.shape[0]
    columns = len(GATES[flags.cell]) * units
    kernel, recurrent = (features, columns), (units, columns)
    return Gradients(
        x=(batch, timesteps, features) if of_x else (0,),
        kernel=kernel[::-1] if columns_first else kernel,
        recurrent_kernel=recurrent[::-1] if columns_first else recurrent,
        bias=(saved_per_unit(flags.cell, flags.reset_after) * units,),
        h0=(batch, units),
        c0=(batch, units) if flags.cell == "LSTM" else (0,),
    )


def writes_outputs(inputs: Inputs) -> bool:
    """Whether outputs are an array of their own; otherwise they are h.

    They differ from h where they have a mask. In padding before the first real step they differ
    too, because the output is 0 and h is the initial state.
    """
    padded_with_states = inputs.running is not None and inputs.h0 is not None
    return inputs.slots[-1] is not None or padded_with_states
