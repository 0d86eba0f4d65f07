"""A recurrent layer over whole sequences, forward and backward, on the kernels of `csrc/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lapse.core.backend import Memory
from lapse.core.errors import LapseError
from lapse.core.plan import GATES
from lapse.engines.arrays import (
    Flags,
    Gradients,
    Inputs,
    Results,
    gradient_shapes,
    result_shapes,
    saved_per_unit,
    writes_outputs,
)
from lapse.engines.cpu.pointers import run


def forward(
    memory: Memory,
    flags: Flags,
    inputs: Inputs,
    scales: Sequence[float],
    into: Results | None = None,
) -> Results:
    """See `Fused.forward`."""
    check(memory, flags, inputs)
    cell, _, reverse = flags
    x, shapes = inputs.x, result_shapes(flags, inputs)
    made = into or Results(*(memory.empty(x, shape) for shape in shapes))
    run(
        memory,
        *flags,
        x,
        (inputs.kernel, inputs.recurrent_kernel),
        (inputs.x_mask, inputs.h_mask, *inputs.slots),
        scales,
        {"bias": inputs.bias, "h0": inputs.h0, "c0": inputs.c0, "running": inputs.running},
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
    dy: Any,
    *,
    of_x: bool,
    columns_first: bool,
    into: Gradients | None = None,
) -> Gradients:
    """See `Fused.backward`."""
    h, c, saved = results.h, results.c, results.saved
    given = {"h": h, "c": c, "saved": saved, "dy": dy, "dlast_h": dlast_h, "dlast_c": dlast_c}
    check(memory, flags, inputs, given)
    x, shapes = inputs.x, gradient_shapes(flags, inputs, of_x, columns_first)
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
        {
            **{"h0": inputs.h0, "c0": inputs.c0, "running": inputs.running},
            **{"h": h, "c": c, "saved": saved},
        },
        {"dbias": found.bias, "dh0": found.h0, "dc0": found.c0},
        dh=None if dy is None else dy.swapaxes(0, 1),
        dh_of_y=writes_outputs(inputs),
        dx=found.x if of_x else None,
        dkernels=tuple(one.T for one in kernels) if columns_first else kernels,
    )
    return found


def check(
    memory: Memory, flags: Flags, inputs: Inputs, results: dict[str, Any] | None = None
) -> None:
    """Raises `LapseError` for arrays that don't fit; the kernels see only addresses.

    Args:
        results: for backward, what forward returned and its gradients, by name.
    """
    cell, reset_after, _ = flags
    x, h0, c0 = inputs.x, inputs.h0, inputs.c0
    (batch, timesteps, features), units = x.shape, inputs.recurrent_kernel.shape[0]
    gates = len(GATES[cell])
    numbers, factors = (memory.float32,), (memory.float32, memory.uint8)
    wanted: list[tuple[str, Any, tuple[int, ...], tuple]] = [
        ("kernel", inputs.kernel, (features, gates * units), numbers),
        ("recurrent_kernel", inputs.recurrent_kernel, (units, gates * units), numbers),
        ("bias", inputs.bias, (saved_per_unit(cell, reset_after) * units,), numbers),
        ("h0", h0, (batch, units), numbers),
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
    if cell == "LSTM" and (h0 is None) != (c0 is None):
        alone, missing = ("h0", "c0") if c0 is None else ("c0", "h0")
        raise LapseError(
            f"{alone} is given without {missing}; an LSTM needs both, or neither for zeros."
        )
    if cell != "LSTM" and c0 is not None:
        raise LapseError(f"c0 is given, which a {cell} does not have; give None.")
    if results is not None:
        states, last = (timesteps, batch, units), (batch, units)
        of_h = {"h": states, "dy": states, "dlast_h": last}
        of_c = {"c": states, "dlast_c": last} if cell == "LSTM" else {"c": (0,), "dlast_c": (0,)}
        saved = {"saved": (timesteps, batch, saved_per_unit(cell, reset_after) * units)}
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
