"""A recurrent layer over whole sequences as one PyTorch operator, on the CPU kernels of `csrc/`.

`layer` and `layer_backward` are opaque to autograd and to torch.compile. Masks on weights and
outputs are plain PyTorch around them; `fused.py` puts it together.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lapse.errors import LapseError
from lapse.kernels.cpu import extension, instruction_set
from lapse.plan import GATES

CELLS = tuple(GATES)
SAVED = {"LSTM": 4, "GRU": 4, "SimpleRNN": 1}  # parts a unit and step; see csrc/recurrent.h
SLOTS = {  # in the order of `enum Slot` there
    "LSTM": ("i", "f", "g", "o", "", "k_c", "k_h"),
    "GRU": ("z", "r", "n", "", "s", "", "k_h"),
    "SimpleRNN": ("", "", "", "", "s", "", "k_h"),
}


@torch.library.custom_op("lapse::layer", mutates_args=())
def layer(
    cell: str,
    x: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor | None,
    lengths: Tensor | None,
    x_masks: Sequence[Tensor],
    h_masks: Sequence[Tensor],
    slots: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Runs a cell over whole sequences.

    Args:
        cell: "LSTM", "GRU" (with reset_after) or "SimpleRNN".
        x: (batch, timesteps, features).
        kernel, recurrent_kernel: (features, gates*units), (units, gates*units).
        bias: (SAVED*units,), for GRU that of what n reads of h last.
        h0, c0: (batch, units).
        lengths: (batch,) int64, the real steps of each sample, at its start.
        x_masks, h_masks: no mask, one, or one a gate; masks are (batch or 1, timesteps or 1,
            width).
        slots: masks in the order of SLOTS.

    Returns:
        The last h and c (batch, units), all h and all c (timesteps, batch, units), and what
        backward needs, (timesteps, batch, SAVED*units). Where there is no c they are empty.
    """
    _check(cell, x, kernel, recurrent_kernel, bias, h0, c0, lengths, x_masks, h_masks, slots)
    last_h, last_c, h, c, saved = _empty(cell, x, h0)
    _run(
        cell,
        x,
        lengths,
        {"x_masks": x_masks, "h_masks": h_masks, "slots": slots},
        {"kernel": kernel, "recurrent": recurrent_kernel, "bias": bias, "h0": h0, "c0": c0},
        {"h": h, "c": c, "saved": saved},
    )
    last_h.copy_(h[-1])
    if c0 is not None:
        last_c.copy_(c[-1])
    return last_h, last_c, h, c, saved


def _check(
    cell: str,
    x: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor | None,
    lengths: Tensor | None,
    x_masks: Sequence[Tensor],
    h_masks: Sequence[Tensor],
    slots: Sequence[Tensor | None],
) -> None:
    """Raises `LapseError` before the kernels, which see addresses only, read past an end."""
    (batch, timesteps, features), units = x.shape, recurrent_kernel.shape[0]
    columns = len(GATES[cell]) * units
    shared = {"batch": (1, batch), "timesteps": (1, timesteps)}
    tensors: list[tuple[str, Tensor | None, tuple]] = [
        ("kernel", kernel, (features, columns)),
        ("recurrent_kernel", recurrent_kernel, (units, columns)),
        ("bias", bias, (SAVED[cell] * units,)),
        ("h0", h0, (batch, units)),
        ("c0", c0, (batch, units)),
        ("x", x, (batch, timesteps, features)),
        *(("a mask of x", mask, (*shared.values(), features)) for mask in x_masks),
        *(("a mask of h", mask, (*shared.values(), units)) for mask in h_masks),
        *(("a mask", mask, (*shared.values(), units)) for mask in slots),
    ]
    for name, tensor, full in tensors:
        if tensor is None:
            continue
        sizes = [size if isinstance(size, tuple) else (size,) for size in full]
        fits = tensor.dim() == len(full) and all(
            n in allowed for n, allowed in zip(tensor.shape, sizes, strict=True)
        )
        if not fits or tensor.dtype != torch.float32:
            raise LapseError(
                f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype}; the {cell} "
                f"kernel needs {tuple(s[-1] for s in sizes)} and torch.float32 here."
            )
    if (
        lengths is not None
        and batch
        and not 0 <= int(lengths.min()) <= int(lengths.max()) <= timesteps
    ):
        raise LapseError(f"lengths must lie between 0 and the {timesteps} timesteps of the input.")


@layer.register_fake
def _(
    cell: str, x: Tensor, kernel: Any, recurrent: Any, bias: Any, h0: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return _empty(cell, x, h0)


def _empty(cell: str, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, timesteps, units = x.shape[0], x.shape[1], h0.shape[1]
    has_c = cell == "LSTM"
    return (
        x.new_empty(batch, units),
        x.new_empty(batch, units) if has_c else x.new_empty(0),
        x.new_empty(timesteps, batch, units),
        x.new_empty(timesteps, batch, units) if has_c else x.new_empty(0),
        x.new_empty(timesteps, batch, SAVED[cell] * units),
    )


@torch.library.custom_op("lapse::layer_backward", mutates_args=())
def layer_backward(
    cell: str,
    x: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    h: Tensor,
    c: Tensor,
    saved: Tensor,
    lengths: Tensor | None,
    x_masks: Sequence[Tensor],
    h_masks: Sequence[Tensor],
    slots: Sequence[Tensor | None],
    dlast_h: Tensor | None,
    dlast_c: Tensor | None,
    dh: Tensor | None,
    of_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x (empty unless `of_x`), kernel, recurrent_kernel, bias, h0 and c0."""
    dx, dkernel, drecurrent, dbias, dh0, dc0 = found = _empty_gradients(
        cell, x, kernel, recurrent_kernel, h0, saved, of_x
    )
    for gradient, last in ((dh0, dlast_h), (dc0, dlast_c)):
        if last is None:
            gradient.zero_()
        else:
            gradient.copy_(last)
    _run(
        cell,
        x,
        lengths,
        {"x_masks": x_masks, "h_masks": h_masks, "slots": slots},
        {"kernel": kernel.t(), "recurrent": recurrent_kernel.t(), "h0": h0, "c0": c0}
        | {"h": h, "c": c, "saved": saved},
        {"dkernel": dkernel, "drecurrent": drecurrent, "dbias": dbias, "dh0": dh0, "dc0": dc0}
        | {"dz": saved.new_empty(saved.shape)},
        dh=None if dh is None else dh.swapaxes(0, 1),
        dx=dx if of_x else None,
    )
    return found


@layer_backward.register_fake
def _(
    cell: str,
    x: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    h0: Tensor,
    c0: Any,
    h: Any,
    c: Any,
    saved: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return _empty_gradients(cell, x, kernel, recurrent, h0, saved, rest[-1])


def _empty_gradients(
    cell: str,
    x: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    h0: Tensor,
    saved: Tensor,
    of_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if of_x else 0),
        x.new_empty(kernel.shape),
        x.new_empty(recurrent_kernel.shape),
        x.new_empty(saved.shape[2]),
        x.new_empty(h0.shape),
        x.new_empty(h0.shape if cell == "LSTM" else 0),
    )


def _run(
    cell: str,
    x: Tensor,
    lengths: Tensor | None,
    masks: dict[str, Sequence[Tensor | None]],
    given: dict[str, Tensor | None],
    made: dict[str, Tensor],
    dh: Tensor | None = None,
    dx: Tensor | None = None,
) -> None:
    """Calls the kernels with the addresses of tensors; backward where `made` holds dz."""
    given["lengths"] = lengths
    if lengths is not None:
        given["order"] = torch.argsort(lengths, descending=True)
    dense = {name: t.contiguous() for name, t in given.items() if t is not None} | made
    names = ("bias", "c0", "dh0", "dc0", "dz", "dkernel", "drecurrent", "dbias", "lengths", "order")
    x, dh = _side_by_side(x), _side_by_side(dh)
    batch, timesteps, features = x.shape
    extension().run(
        isa=instruction_set(),
        backward="dz" in made,
        cell=CELLS.index(cell),
        timesteps=timesteps,
        batch=batch,
        features=features,
        units=dense["h0"].shape[1],
        x=_place(x),
        dh=_place(dh),
        dx=_place(dx),
        threads=torch.get_num_threads(),
        parallel_for=_parallel_for(),
        **{name: [_place(mask) for mask in given] for name, given in masks.items()},
        **dict.fromkeys(names, 0) | {name: tensor.data_ptr() for name, tensor in dense.items()},
    )


def _side_by_side(rows: Any) -> Any:
    """With the numbers of a row next to each other in memory, as the kernels want them."""
    return rows if rows is None or rows.stride(2) == 1 else rows.contiguous()


def _place(rows: Tensor | None) -> tuple[int, int, int]:
    """Address, stride of time and stride of batch of (batch or 1, timesteps or 1, width)."""
    if rows is None:
        return 0, 0, 0
    batch, time = (0 if rows.shape[n] == 1 else rows.stride(n) for n in (0, 1))
    return rows.data_ptr(), time, batch


@cache
def _parallel_for() -> int:
    """The address of PyTorch's own thread pool's function, from its stable C interface."""
    library = ctypes.CDLL(torch._C.__file__)
    return ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value or 0


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    cell, x, kernel, recurrent, bias, h0, c0, lengths, x_masks, h_masks, slots = inputs
    _, _, h, c, saved = output
    ctx.set_materialize_grads(False)
    ctx.cell, ctx.biased = cell, bias is not None
    ctx.counts, ctx.there = (len(x_masks), len(h_masks)), [slot is not None for slot in slots]
    masks = (*x_masks, *h_masks, *(mask for mask in slots if mask is not None))
    ctx.save_for_backward(x, kernel, recurrent, h0, c0, h, c, saved, lengths, *masks)


def _backward(
    ctx: Any, dlast_h: Tensor | None, dlast_c: Tensor | None, dh: Tensor | None, *_: Any
) -> tuple:
    if torch.is_grad_enabled():
        raise LapseError(
            "the C++ kernel has no second derivatives (create_graph=True); set "
            "LAPSE_KERNEL=reference."
        )
    tensors, masks = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
    of_x, of_h = ctx.counts
    x_masks, h_masks = masks[:of_x], masks[of_x : of_x + of_h]
    of_slots = iter(masks[of_x + of_h :])
    slots = [next(of_slots) if there else None for there in ctx.there]
    wanted = ctx.needs_input_grad[1]
    dx, dkernel, drecurrent, dbias, dh0, dc0 = layer_backward(
        ctx.cell, *tensors, x_masks, h_masks, slots, dlast_h, dlast_c, dh, wanted
    )
    return (
        None,
        dx if wanted else None,
        dkernel,
        drecurrent,
        dbias if ctx.biased else None,
        dh0,
        None if tensors[4] is None else dc0,
        None,
        [None] * of_x,
        [None] * of_h,
        None,
    )


layer.register_autograd(_backward, setup_context=_setup)
