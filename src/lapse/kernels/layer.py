"""A recurrent layer over whole sequences, forward and backward, on the kernels of `csrc/`.

Arrays may be NumPy's or PyTorch's; `memory` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lapse.core.errors import LapseError
from lapse.core.plan import GATES
from lapse.kernels.addresses import run
from lapse.kernels.memory import Memory

SLOTS = {  # `enum Slot` of `csrc/recurrent.h`
    "LSTM": ("i", "f", "g", "o", "", "k_c", "k_h", "y"),
    "GRU": ("z", "r", "n", "", "s", "", "k_h", "y"),
    "SimpleRNN": ("", "", "", "", "s", "", "k_h", "y"),
}
Shapes = Any  # of arrays, or of tuples that are their shapes


class Flags(NamedTuple):
    """Which layer: "LSTM", "GRU" (reset_after says which) or "SimpleRNN", and from which end."""

    cell: str
    reset_after: bool
    reverse: bool


class Inputs(NamedTuple):
    """What a layer reads.

    x: (batch, timesteps, features).
    kernel, recurrent_kernel: (features, gates*units), (units, gates*units).
    bias: (gates*units,), for GRU with reset_after that of what n reads of h behind it.
    h0, c0: (batch, units); c0 is LSTM's.
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
        """The same with what a function makes of each array."""
        *arrays, slots = self
        return Inputs._make([*map(function, arrays), list(map(function, slots))])


class Results(NamedTuple):
    """What `forward` gives.

    The last h and c (batch, units), all h and all c (timesteps, batch, units), what backward needs,
    (timesteps, batch, parts*units), and all outputs (timesteps, batch, units), with nothing in
    padding. Where there is no c, both are empty; so are outputs that no mask makes differ from h.
    """

    last_h: Any
    last_c: Any
    h: Any
    c: Any
    saved: Any
    y: Any


class Gradients(NamedTuple):
    """What `backward` gives: of x (empty where nobody asks for it) and of what is named so."""

    x: Any
    kernel: Any
    recurrent_kernel: Any
    bias: Any
    h0: Any
    c0: Any


def parts(cell: str, reset_after: bool) -> int:
    """How many numbers are kept for each unit and step: S in `csrc/recurrent.h`."""
    return len(GATES[cell]) + (cell == "GRU" and reset_after)


def result_shapes(
    cell: str, reset_after: bool, batch: Any, timesteps: Any, units: int, masks_y: bool
) -> Results:
    """The shapes of what `forward` gives."""
    states, last, none = (timesteps, batch, units), (batch, units), (0,)
    has_c = cell == "LSTM"
    return Results(
        last_h=last,
        last_c=last if has_c else none,
        h=states,
        c=states if has_c else none,
        saved=(timesteps, batch, parts(cell, reset_after) * units),
        y=states if masks_y else none,
    )


def gradient_shapes(
    cell: str, reset_after: bool, x: tuple, units: int, of_x: bool, columns_first: bool = False
) -> Gradients:
    """The shapes of what `backward` gives for an input of the shape `x`."""
    batch, _, features = x
    columns = len(GATES[cell]) * units
    kernel, recurrent = (features, columns), (units, columns)
    return Gradients(
        x=x if of_x else (0,),
        kernel=kernel[::-1] if columns_first else kernel,
        recurrent_kernel=recurrent[::-1] if columns_first else recurrent,
        bias=(parts(cell, reset_after) * units,),
        h0=(batch, units),
        c0=(batch, units) if cell == "LSTM" else (0,),
    )


def forward(
    memory: Memory,
    flags: Flags,
    inputs: Inputs,
    scales: Sequence[float],
    into: Results | None = None,
) -> Results:
    """Runs a cell over whole sequences.

    Args:
        scales: what the masks of x, of h and the slots are multiplied by, where they are uint8.
        into: the arrays to write to, row after row in memory; new ones by default.
    """
    check(memory, flags, inputs)
    cell, reset_after, reverse = flags
    x, h0 = inputs.x, inputs.h0
    (batch, timesteps, _), units = x.shape, h0.shape[1]
    masks_y = inputs.slots[-1] is not None
    shapes = result_shapes(cell, reset_after, batch, timesteps, units, masks_y)
    made = into or Results(*(memory.empty(x, shape) for shape in shapes))
    run(
        memory,
        *flags,
        x,
        (inputs.kernel, inputs.recurrent_kernel),
        (inputs.x_mask, inputs.h_mask, *inputs.slots),
        scales,
        {"bias": inputs.bias, "h0": h0, "c0": inputs.c0, "running": inputs.running},
        {"h": made.h, "c": made.c, "saved": made.saved, "y": made.y},
    )
    last = 0 if reverse else -1
    made.last_h[...] = made.h[last]
    if cell == "LSTM":
        made.last_c[...] = made.c[last]
    return made


def backward(
    memory: Memory,
    flags: Flags,
    inputs: Inputs,
    scales: Sequence[float],
    results: Results,
    dlast_h: Any,
    dlast_c: Any,
    dh: Any,
    *,
    of_x: bool,
    columns_first: bool,
    into: Gradients | None = None,
) -> Gradients:
    """The gradients of what a layer read.

    Args:
        inputs, scales: what `forward` was given, but for the bias.
        results: h, c and saved of what it gave.
        dlast_h, dlast_c: (batch, units), of the last states; None where there is none.
        dh: (timesteps, batch, units), of all h, or of the outputs that a mask makes of them.
        of_x: whether to give that of x.
        columns_first: gives (gates*units, features) and (gates*units, units), as PyTorch's weights
            lie in memory, for the two kernels.
        into: as for `forward`.
    """
    h, c, saved = results.h, results.c, results.saved
    given = {"h": h, "c": c, "saved": saved, "dh": dh, "dlast_h": dlast_h, "dlast_c": dlast_c}
    check(memory, flags, inputs, given)
    cell, reset_after, _ = flags
    x, h0 = inputs.x, inputs.h0
    shapes = gradient_shapes(cell, reset_after, tuple(x.shape), h0.shape[1], of_x, columns_first)
    found = into or Gradients(*(memory.empty(x, shape) for shape in shapes))
    kernels = found.kernel, found.recurrent_kernel
    for gradient, last in ((found.h0, dlast_h), (found.c0, dlast_c)):
        gradient[...] = 0 if last is None else last
    run(
        memory,
        *flags,
        x,
        (inputs.kernel, inputs.recurrent_kernel),
        (inputs.x_mask, inputs.h_mask, *inputs.slots),
        scales,
        {"h0": h0, "c0": inputs.c0, "h": h, "c": c, "saved": saved, "running": inputs.running},
        {"dbias": found.bias, "dh0": found.h0, "dc0": found.c0},
        dh=None if dh is None else dh.swapaxes(0, 1),
        dx=found.x if of_x else None,
        dkernels=tuple(one.T for one in kernels) if columns_first else kernels,
    )
    return found


def check(
    memory: Memory, flags: Flags, inputs: Inputs, results: dict[str, Any] | None = None
) -> None:
    """Raises `LapseError` before the kernels, which see addresses only, read past an end.

    Args:
        results: for backward, what forward returned and the gradients of it, by name.
    """
    cell, reset_after, _ = flags
    x, c0 = inputs.x, inputs.c0
    (batch, timesteps, features), units = x.shape, inputs.recurrent_kernel.shape[0]
    gates = len(GATES[cell])
    numbers, factors = (memory.float32,), (memory.float32, memory.uint8)
    wanted: list[tuple[str, Any, tuple[int, ...], tuple]] = [
        ("kernel", inputs.kernel, (features, gates * units), numbers),
        ("recurrent_kernel", inputs.recurrent_kernel, (units, gates * units), numbers),
        ("bias", inputs.bias, (parts(cell, reset_after) * units,), numbers),
        ("h0", inputs.h0, (batch, units), numbers),
        ("c0", c0, (batch, units), numbers),
        ("x", x, (batch, timesteps, features), numbers),
        ("running", inputs.running, (batch, timesteps), (memory.bool,)),
        ("the mask of x", inputs.x_mask, (batch, timesteps, gates, features), factors),
        ("the mask of h", inputs.h_mask, (batch, timesteps, gates, units), factors),
        *(
            ("a mask", mask, (batch, timesteps, units), factors)
            for mask in inputs.slots
            if mask is not None
        ),
    ]
    if (c0 is None) == (cell == "LSTM"):
        raise LapseError(
            f"c0 is {'missing' if c0 is None else 'given'}: the {cell} kernel needs "
            f"{'it' if c0 is None else 'none'}."
        )
    if results is not None:
        states, last = (timesteps, batch, units), (batch, units)
        of_h = {"h": states, "dh": states, "dlast_h": last}
        of_c = {"c": states, "dlast_c": last} if cell == "LSTM" else {"c": (0,), "dlast_c": (0,)}
        saved = {"saved": (timesteps, batch, parts(cell, reset_after) * units)}
        sizes: dict[str, tuple[int, ...]] = {**of_h, **of_c, **saved}
        wanted += [(name, array, sizes[name], numbers) for name, array in results.items()]
    for name, array, full, types in wanted:
        if array is None:
            continue
        shape = tuple(array.shape)
        if types is factors and len(shape) == len(full):  # an axis of size 1 shares a mask
            shared = (all if n == 1 else n for n, all in zip(shape, full[:-1], strict=False))
            shape = (*shared, shape[-1])
        if shape != full or array.dtype not in types or str(array.device) != "cpu":
            raise LapseError(
                f"{name} has shape {tuple(array.shape)} and type {array.dtype} on "
                f"{array.device}; the {cell} kernel needs {full} and "
                f"{' or '.join(map(str, types))} on the cpu here."
            )
