"""A recurrent layer over whole sequences as one PyTorch operator, on the CPU kernels of `csrc/`.

`layer` and `layer_backward` are opaque to autograd and to torch.compile. What is not recurrent
(masks on inputs, weights and outputs) is plain PyTorch around them; `fused.py` puts it together.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lapse.errors import LapseError
from lapse.kernels.cpu import extension, instruction_set
from lapse.plan import GATES

CELLS = tuple(GATES)
SAVED = {"LSTM": 4, "GRU": 4, "SimpleRNN": 1}  # values saved a unit and step; see csrc/recurrent.h
SLOTS = {  # in the order of `enum Slot` there
    "LSTM": ("i", "f", "g", "o", "", "k_c", "k_h"),
    "GRU": ("z", "r", "n", "", "s", "", "k_h"),
    "SimpleRNN": ("", "", "", "", "s", "", "k_h"),
}


@torch.library.custom_op("lapse::layer", mutates_args=())
def layer(
    cell: str,
    inputs: Sequence[Tensor],
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor | None,
    lengths: Tensor | None,
    read: Sequence[Tensor],
    slots: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Runs a cell over whole sequences.

    Args:
        cell: "LSTM", "GRU" (with reset_after) or "SimpleRNN".
        inputs: (timesteps, batch, features), one for all gates or one a gate.
        kernel, recurrent_kernel: (features, gates*units), (units, gates*units).
        bias: (gates*units,), added to what the recurrent kernel makes of h; for GRU two rows, the
            first for the inputs.
        h0, c0: (batch, units).
        lengths: (batch,) int64, the real steps of each sample, at its start.
        read: no mask on h, one, or one a gate; masks are (batch or 1, timesteps or 1, units).
        slots: masks in the order of SLOTS.

    Returns:
        The last h and c (batch, units), all h and all c (timesteps, batch, units), and what
        backward needs, (timesteps, batch, SAVED*units). Where there is no c they are empty.
    """
    last_h, last_c, h, c, saved = _empty(cell, inputs[0], h0)
    for k, (of_gate, x) in enumerate(zip(_gates(kernel, inputs), inputs, strict=True)):
        width = of_gate.shape[1]
        into = saved.flatten(0, 1)[:, k * width : (k + 1) * width]
        torch.mm(x.flatten(0, 1), of_gate, out=into)
    if bias is not None and bias.dim() == 2:
        saved[..., : bias.shape[1]] += bias[0]
        bias = bias[1]
    tensors = {"bias": bias, "h0": h0, "c0": c0, "h": h, "c": c, "saved": saved}
    _run(False, cell, recurrent_kernel, lengths, read, slots, None, tensors)
    last_h.copy_(h[-1])
    if c0 is not None:
        last_c.copy_(c[-1])
    return last_h, last_c, h, c, saved


@layer.register_fake
def _(
    cell: str, inputs: Any, kernel: Any, recurrent_kernel: Any, bias: Any, h0: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return _empty(cell, inputs[0], h0)


def _empty(cell: str, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    timesteps, batch, units = x.shape[0], x.shape[1], h0.shape[1]
    has_c = cell == "LSTM"
    return (
        x.new_empty(batch, units),
        x.new_empty(batch, units) if has_c else x.new_empty(0),
        x.new_empty(timesteps, batch, units),
        x.new_empty(timesteps, batch, units) if has_c else x.new_empty(0),
        x.new_empty(timesteps, batch, SAVED[cell] * units),
    )


def _gates(kernel: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """The part of the kernel that each of the inputs goes through."""
    return kernel.chunk(len(inputs), 1)


@torch.library.custom_op("lapse::layer_backward", mutates_args=())
def layer_backward(
    cell: str,
    recurrent_kernel: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    h: Tensor,
    c: Tensor,
    saved: Tensor,
    lengths: Tensor | None,
    read: Sequence[Tensor],
    slots: Sequence[Tensor | None],
    dlast_h: Tensor | None,
    dlast_c: Tensor | None,
    dh: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the projected inputs, with GRU's recurrent part behind, and of h0 and c0."""
    dz, dh0, dc0 = _empty_gradients(cell, h0, saved)
    for gradient, last in ((dh0, dlast_h), (dc0, dlast_c)):
        if last is None:
            gradient.zero_()
        else:
            gradient.copy_(last)
    tensors = {"h0": h0, "c0": c0, "h": h, "c": c, "saved": saved, "dz": dz, "dh0": dh0, "dc0": dc0}
    _run(True, cell, recurrent_kernel.t(), lengths, read, slots, dh, tensors)
    return dz, dh0, dc0


@layer_backward.register_fake
def _(
    cell: str, kernel: Any, h0: Tensor, c0: Any, h: Any, c: Any, saved: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return _empty_gradients(cell, h0, saved)


def _empty_gradients(cell: str, h0: Tensor, saved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dc0 = h0.new_empty(h0.shape if cell == "LSTM" else 0)
    return torch.empty_like(saved), h0.new_empty(h0.shape), dc0


def _run(
    backward: bool,
    cell: str,
    weights: Tensor,
    lengths: Tensor | None,
    read: Sequence[Tensor],
    slots: Sequence[Tensor | None],
    dh: Tensor | None,
    tensors: dict[str, Tensor | None],
) -> None:
    saved = tensors["saved"]
    assert saved is not None
    timesteps, batch, width = saved.shape
    order = None if lengths is None else torch.argsort(lengths, descending=True)
    tensors = {"lengths": lengths, "order": order, "weights": weights, **tensors}
    dense = {name: None if t is None else t.contiguous() for name, t in tensors.items()}
    if dh is not None:
        dh = dh.swapaxes(0, 1)
        dh = dh if dh.stride(2) == 1 else dh.contiguous()
    names = ("bias", "h0", "c0", "dz", "dh0", "dc0", "lengths", "order")
    extension().run(
        isa=instruction_set(),
        backward=backward,
        cell=CELLS.index(cell),
        timesteps=timesteps,
        batch=batch,
        units=width // SAVED[cell],
        read=[_place(mask) for mask in read] or [(0, 0, 0)],
        slots=[_place(mask) for mask in slots],
        dh=_place(dh),
        threads=torch.get_num_threads(),
        parallel_for=_parallel_for(),
        **{name: _address(dense.get(name)) for name in {*dense, *names}},
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _place(mask: Tensor | None) -> tuple[int, int, int]:
    """Address, stride of time and stride of batch of a mask (batch or 1, timesteps or 1, units)."""
    if mask is None:
        return 0, 0, 0
    batch, time = (0 if mask.shape[n] == 1 else mask.stride(n) for n in (0, 1))
    return mask.data_ptr(), time, batch


@cache
def _parallel_for() -> int:
    """The address of PyTorch's own thread pool's function, from its stable C interface."""
    library = ctypes.CDLL(torch._C.__file__)
    return ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value or 0


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    cell, xs, kernel, recurrent_kernel, bias, h0, c0, lengths, read, slots = inputs
    _, _, h, c, saved = output
    ctx.set_materialize_grads(False)
    ctx.cell, ctx.rows = cell, 0 if bias is None else bias.dim()
    ctx.inputs, ctx.read, ctx.there = len(xs), len(read), [slot is not None for slot in slots]
    masks = (*read, *(mask for mask in slots if mask is not None))
    ctx.save_for_backward(kernel, recurrent_kernel, h0, c0, h, c, saved, lengths, *xs, *masks)


def _backward(
    ctx: Any, dlast_h: Tensor | None, dlast_c: Tensor | None, dh: Tensor | None, *_: Any
) -> tuple:
    if torch.is_grad_enabled():
        raise LapseError(
            "the C++ kernel has no second derivatives (create_graph=True); set "
            "LAPSE_KERNEL=reference."
        )
    kernel, recurrent_kernel, h0, c0, h, c, saved, lengths, *rest = ctx.saved_tensors
    inputs, rest = rest[: ctx.inputs], rest[ctx.inputs :]
    read, of_slots = rest[: ctx.read], iter(rest[ctx.read :])
    slots = [next(of_slots) if there else None for there in ctx.there]
    dz, dh0, dc0 = layer_backward(
        ctx.cell, recurrent_kernel, h0, c0, h, c, saved, lengths, read, slots, dlast_h, dlast_c, dh
    )
    units, flat = h0.shape[1], dz.flatten(0, 1)
    gates = len(GATES[ctx.cell])
    projected = flat[:, : gates * units]
    of_inputs = projected.chunk(len(inputs), 1)
    dinputs, dkernels = [], []
    for x, of_gate, dz_k in zip(inputs, _gates(kernel, inputs), of_inputs, strict=True):
        wanted = ctx.needs_input_grad[1]
        wanted = any(wanted) if isinstance(wanted, (list, tuple)) else wanted
        dinputs.append((dz_k @ of_gate.t()).view_as(x) if wanted else None)
        dkernels.append(x.flatten(0, 1).t() @ dz_k)
    drecurrent, through = _recurrent_gradient(flat, h0, h, read, gates)
    dbias = None
    if ctx.rows == 1:
        dbias = projected.sum(0)
    elif ctx.rows == 2:
        dbias = torch.stack([projected.sum(0), torch.cat([part.sum(0) for part in through])])
    dc0 = None if c0 is None else dc0
    nothing = None, [None] * ctx.read, None
    return None, dinputs, torch.cat(dkernels, 1), drecurrent, dbias, dh0, dc0, *nothing


def _recurrent_gradient(
    flat: Tensor, h0: Tensor, h: Tensor, read: Sequence[Tensor], gates: int
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the recurrent kernel, and the gradients of what its parts made of h."""
    units, batch = h0.shape[1], h0.shape[0]
    edges = [k * units for k in range(gates + 1)] if len(read) > 1 else [0, gates * units]
    through = [flat[:, a:b] for a, b in pairwise(edges)]
    if flat.shape[1] > gates * units:  # GRU's last gate reads h through r: that is saved behind
        last = flat[:, -units:]
        through = [*through[:-1], last] if len(read) > 1 else [flat[:, : -2 * units], last]
    seen: list[tuple[Tensor, Tensor]] = []
    masks: list[Tensor | None] = [*read] or [None]
    for mask in masks:
        first, later = h0, h[:-1]
        if mask is not None:
            over_time = mask.swapaxes(0, 1)
            first = first * over_time[0]
            later = later * (over_time if over_time.shape[0] == 1 else over_time[1:])
        seen.append((first.t(), later.flatten(0, 1).t()))
    seen = seen * len(through) if len(seen) == 1 else seen
    parts = [
        torch.addmm(first @ dz_k[:batch], later, dz_k[batch:])
        for (first, later), dz_k in zip(seen, through, strict=True)
    ]
    return torch.cat(parts, 1), through


layer.register_autograd(_backward, setup_context=_setup)
