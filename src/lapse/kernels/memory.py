"""How the arrays of a library lie in memory: all that the kernels need to know of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Memory(NamedTuple):
    """What differs between libraries. NumPy and PyTorch have by one name, besides: shape, dtype,
    device, itemsize, swapaxes, T, and reading and writing by index."""

    float32: Any
    uint8: Any
    bool: Any
    empty: Callable[[Any, Shape], Any]  # (like, shape): of float32
    address: Callable[[Any], int]
    strides: Callable[[Any], Shape]  # in elements
    dense: Callable[[Any], Any]  # row after row; a copy where it is not so yet
    pool: Callable[[], tuple[int, int]]  # threads; the address of what runs them, 0 for lapse's own


def _own_pool() -> tuple[int, int]:
    """As many threads as there are processors for this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)), 0
    return os.cpu_count() or 1, 0


NUMPY = Memory(
    float32=np.dtype(np.float32),
    uint8=np.dtype(np.uint8),
    bool=np.dtype(np.bool_),
    empty=lambda like, shape: np.empty(shape, np.float32),
    address=lambda array: int(array.ctypes.data),
    strides=lambda array: tuple(stride // array.itemsize for stride in array.strides),
    dense=np.ascontiguousarray,
    pool=_own_pool,
)
