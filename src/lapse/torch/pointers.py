"""From tensors to the addresses that the kernels of `csrc/` take."""

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

CELLS = (("LSTM", True), ("GRU", True), ("GRU", False), ("SimpleRNN", True))  # `enum Cell`
SLOTS = {  # `enum Slot`
    "LSTM": ("i", "f", "g", "o", "", "k_c", "k_h", "y"),
    "GRU": ("z", "r", "n", "", "s", "", "k_h", "y"),
    "SimpleRNN": ("", "", "", "", "s", "", "k_h", "y"),
}


def parts(cell: str, reset_after: bool) -> int:
    """How many numbers are kept for each unit and step: S in `csrc/recurrent.h`."""
    return len(GATES[cell]) + (cell == "GRU" and reset_after)


def check(
    cell: str,
    reset_after: bool,
    x: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor | None,
    running: Tensor | None,
    x_mask: Tensor | None,
    h_mask: Tensor | None,
    slots: Sequence[Tensor | None],
    results: dict[str, Tensor | None] | None = None,
) -> None:
    """Raises `LapseError` before the kernels, which see addresses only, read past an end.

    Args:
        results: for backward, what forward returned and the gradients of it, by name.
    """
    (batch, timesteps, features), units = x.shape, recurrent_kernel.shape[0]
    gates = len(GATES[cell])
    numbers, factors = (torch.float32,), (torch.float32, torch.uint8)
    wanted: list[tuple[str, Tensor | None, tuple[int, ...], tuple]] = [
        ("kernel", kernel, (features, gates * units), numbers),
        ("recurrent_kernel", recurrent_kernel, (units, gates * units), numbers),
        ("bias", bias, (parts(cell, reset_after) * units,), numbers),
        ("h0", h0, (batch, units), numbers),
        ("c0", c0, (batch, units), numbers),
        ("x", x, (batch, timesteps, features), numbers),
        ("running", running, (batch, timesteps), (torch.bool,)),
        ("the mask of x", x_mask, (batch, timesteps, gates, features), factors),
        ("the mask of h", h_mask, (batch, timesteps, gates, units), factors),
        *(
            ("a mask", mask, (batch, timesteps, units), factors)
            for mask in slots
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
        wanted += [(name, tensor, sizes[name], numbers) for name, tensor in results.items()]
    for name, tensor, full, types in wanted:
        if tensor is None:
            continue
        shape = tuple(tensor.shape)
        if types is factors and len(shape) == len(full):  # an axis of size 1 shares a mask
            shared = (all if n == 1 else n for n, all in zip(shape, full[:-1], strict=False))
            shape = (*shared, shape[-1])
        if shape != full or tensor.dtype not in types or tensor.device.type != "cpu":
            raise LapseError(
                f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype} on "
                f"{tensor.device}; the {cell} kernel needs {full} and "
                f"{' or '.join(map(str, types))} on the cpu here."
            )


def direct(*tensors: Tensor | None) -> bool:
    """Whether kernels may be called past PyTorch's dispatcher.

    They may not where a graph is made of the operators, something else looks at them, or some of
    the tensors have no memory of their own.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or any(map(_has_no_memory, tensors))
    )


def _has_no_memory(tensor: Tensor | None) -> bool:
    """Of its own: a subclass, or what `vmap` and `is_grads_batched=True` make of many tensors."""
    if tensor is None:
        return False
    own = type(tensor) is Tensor or type(tensor) is torch.nn.Parameter
    functorch = torch._C._functorch
    return (
        not own or functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)
    )


def run(
    cell: str,
    reset_after: bool,
    reverse: bool,
    x: Tensor,
    kernels: tuple[Tensor, Tensor],
    masks: Sequence[Tensor | None],
    scales: Sequence[float],
    given: dict[str, Tensor | None],
    made: dict[str, Tensor],
    *,
    dh: Tensor | None = None,
    dx: Tensor | None = None,
    dkernels: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
) -> None:
    """Calls the kernels; backward where there are `dkernels`.

    Args:
        kernels: kernel and recurrent_kernel, with any strides; so are their gradients.
        masks: of x, of h, and the slots, as `ops.layer` takes them.
        scales: what the bytes of each of them are multiplied by.
        given, made: what else is read and written, by the names in `csrc/recurrent.h`.
    """
    dense = {name: t.contiguous() for name, t in given.items() if t is not None} | made
    names = ("bias", "c0", "c", "y", "dh0", "dc0", "dbias", "running")
    x, dh = _side_by_side(x), _side_by_side(dh)
    batch, timesteps, features = x.shape
    threads, parallel_for = pool()
    masks = [_side_by_side(mask) for mask in masks]  # new ones live until the kernels are done
    of_x, of_h, *slots = map(_mask, masks, scales)
    addresses = {name: t.data_ptr() if t.numel() else 0 for name, t in dense.items()}
    extension().run(
        isa=instruction_set(),
        backward=dkernels[0] is not None,
        cell=CELLS.index((cell, reset_after)),
        timesteps=timesteps,
        batch=batch,
        features=features,
        units=dense["h0"].shape[1],
        reverse=reverse,
        x=_place(x),
        dh=_place(dh),
        dx=_place(dx),
        threads=threads,
        of_units=shares_units(batch, sum(kernel.numel() for kernel in kernels), threads),
        parallel_for=parallel_for,
        x_masks=_by_gate(masks[0], of_x),
        h_masks=_by_gate(masks[1], of_h),
        slots=slots,
        kernel=_matrix(kernels[0]),
        recurrent=_matrix(kernels[1]),
        dkernel=_matrix(dkernels[0]),
        drecurrent=_matrix(dkernels[1]),
        **dict.fromkeys(names, 0) | addresses,
    )


def shares_units(batch: int, weights: int, threads: int) -> bool:
    """Whether threads share the units of a layer rather than its samples.

    A thread that has samples reads all `weights` (how many numbers) at each step. Up to a MiB they
    stay in its core's own cache; more take longer on their way than few samples take to compute,
    fewer than 16 as measured, while some of them, for some units, might have stayed.
    """
    mebibytes = weights * 4 / 2**20
    return threads > 1 and batch / threads < min(16, 8 * (mebibytes - 1))


def _side_by_side(rows: Any) -> Any:
    """With the numbers of a row next to each other in memory, as the kernels want them."""
    return rows if rows is None or rows.stride(-1) == 1 else rows.contiguous()


def _place(rows: Tensor | None) -> tuple[int, int, int]:
    """Address, stride of time and stride of batch of (batch or 1, timesteps or 1, ...)."""
    if rows is None:
        return 0, 0, 0
    batch, time = (0 if rows.shape[n] == 1 else rows.stride(n) for n in (0, 1))
    return rows.data_ptr(), time, batch


def _matrix(matrix: Tensor | None) -> tuple[int, int, int]:
    """Address, stride of rows and stride of columns."""
    if matrix is None:
        return 0, 0, 0
    return matrix.data_ptr(), matrix.stride(0), matrix.stride(1)


def _mask(mask: Tensor | None, scale: float) -> tuple[int, int, int, bool, float]:
    """The place of a mask, whether it has bytes, and their scale."""
    return *_place(mask), mask is not None and mask.dtype == torch.uint8, scale


def _by_gate(mask: Tensor | None, place: Any) -> list[tuple[int, int, int, bool, float]]:
    """The places of each gate's mask, from the first one's; one for all, or none."""
    if mask is None:
        return []
    apart = mask.stride(2) * mask.element_size()
    return [(place[0] + gate * apart, *place[1:]) for gate in range(mask.shape[2])]


def pool() -> tuple[int, int]:
    """PyTorch's threads: how many, and the address of the function that runs them."""
    return torch.get_num_threads(), _parallel_for()


@cache
def _parallel_for() -> int:
    """From PyTorch's stable C interface."""
    library = ctypes.CDLL(torch._C.__file__)
    return ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value or 0
