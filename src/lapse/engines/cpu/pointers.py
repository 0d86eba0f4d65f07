"""Converts arrays to the addresses that the kernels of `csrc/` take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lapse.core.backend import Memory
from lapse.engines.cpu.loading import extension, instruction_set

CELLS = (("LSTM", True), ("GRU", True), ("GRU", False), ("SimpleRNN", True))  # `enum Cell`
Place = tuple[int, int, int]
MaskPlace = tuple[int, int, int, bool, float]


def run(
    memory: Memory,
    cell: str,
    reset_after: bool,
    reverse: bool,
    x: Any,
    kernels: tuple[Any, Any],
    masks: Sequence[Any],
    scales: Sequence[float],
    given: dict[str, Any],
    made: dict[str, Any],
    *,
    dh: Any = None,
    dh_of_y: bool = False,
    dx: Any = None,
    dkernels: Any = (None, None),
) -> None:
    """Calls the C++ kernels; backward where `dkernels` are given.

    Args:
        kernels: kernel and recurrent_kernel; they and their gradients may have any strides.
        masks: the masks of x, of h and of the slots, as in `arrays.Inputs`.
        scales: the factor of the bytes of each mask.
        given, made: other arrays that are read and written, by their names in
            `csrc/recurrent.h`.
        dh_of_y: whether dh is the gradient of y, not of h.
    """
    dense = {name: memory.dense(array) for name, array in given.items() if array is not None}
    dense |= made
    names = ("bias", "h0", "c0", "c", "y", "dh0", "dc0", "dbias", "running")
    x, dh = _side_by_side(memory, x), _side_by_side(memory, dh)
    batch, timesteps, features = x.shape
    threads, parallel_for = memory.threads()
    masks = [
        _side_by_side(memory, mask) for mask in masks
    ]  # copies must live until the call is done
    places = [_mask(memory, mask, scale) for mask, scale in zip(masks, scales, strict=True)]
    addresses = {
        name: 0 if 0 in array.shape else memory.address(array) for name, array in dense.items()
    }
    extension().run(
        isa=instruction_set(),
        backward=dkernels[0] is not None,
        cell=CELLS.index((cell, reset_after)),
        timesteps=timesteps,
        batch=batch,
        features=features,
        units=kernels[1].shape[0],
        reverse=reverse,
        x=_place(memory, x),
        dh=_place(memory, dh),
        dh_of_y=dh_of_y,
        dx=_place(memory, dx),
        threads=threads,
        of_units=shares_units(batch, sum(math.prod(one.shape) for one in kernels), threads),
        parallel_for=parallel_for,
        x_masks=_by_gate(memory, masks[0], places[0]),
        h_masks=_by_gate(memory, masks[1], places[1]),
        slots=places[2:],
        kernel=_matrix(memory, kernels[0]),
        recurrent=_matrix(memory, kernels[1]),
        dkernel=_matrix(memory, dkernels[0]),
        drecurrent=_matrix(memory, dkernels[1]),
        **dict.fromkeys(names, 0) | addresses,
    )


def shares_units(batch: int, weights: int, threads: int) -> bool:
    """Whether threads share the units of a layer rather than its samples.

    A thread that has samples reads all weights (`weights` is their number) at each step. Up to one
    MiB they stay in the core's own cache. Larger weights must be loaded at each step, and for few
    samples (fewer than 16, measured) this takes longer than the computation. A thread that has
    units reads only their part of the weights, which can stay in the cache.
    """
    mebibytes = weights * 4 / 2**20
    return threads > 1 and batch / threads < min(16, 8 * (mebibytes - 1))


def _side_by_side(memory: Memory, rows: Any) -> Any:
    """The same rows, with adjacent numbers in memory, as the kernels need."""
    return rows if rows is None or memory.strides(rows)[-1] == 1 else memory.dense(rows)


def _place(memory: Memory, rows: Any) -> Place:
    """Address, stride of time and stride of batch, of (batch or 1, timesteps or 1, ...)."""
    if rows is None:
        return 0, 0, 0
    batch, time = (0 if rows.shape[n] == 1 else memory.strides(rows)[n] for n in (0, 1))
    return memory.address(rows), time, batch


def _matrix(memory: Memory, matrix: Any) -> Place:
    """Address, stride of rows and stride of columns."""
    if matrix is None:
        return 0, 0, 0
    row, column = memory.strides(matrix)
    return memory.address(matrix), row, column


def _mask(memory: Memory, mask: Any, scale: float) -> MaskPlace:
    """The place of a mask, whether it consists of bytes, and their scale."""
    return *_place(memory, mask), mask is not None and mask.dtype == memory.uint8, scale


def _by_gate(memory: Memory, mask: Any, place: MaskPlace) -> list[MaskPlace]:
    """The place of each gate's mask: one for each gate, one for all, or an empty list."""
    if mask is None:
        return []
    apart = memory.strides(mask)[2] * mask.itemsize
    return [(place[0] + gate * apart, *place[1:]) for gate in range(mask.shape[2])]
