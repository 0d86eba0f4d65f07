"""NumPy's arrays: words in uint64, so that a product fits."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from lapse.core.backend import Backend, Shape
from lapse.core.philox import WORD


class NumpyBackend(Backend):
    """Operations in NumPy, and how its arrays lie in memory."""

    name = "numpy"

    def word(self, value: Any) -> Any:
        return np.asarray(value, dtype=np.uint64)

    def multiply(self, word: Any, constant: int) -> tuple[Any, Any]:
        product = word * np.uint64(constant)
        return product >> np.uint64(32), product & np.uint64(WORD)

    def add(self, word: Any, constant: int) -> Any:
        return (word + np.uint64(constant)) & np.uint64(WORD)

    def quotient(self, words: Any, divisor: int) -> Any:
        return words // np.uint64(divisor)

    def at_least(self, words: Any, threshold: int) -> Any:
        return words >= np.uint64(threshold)

    def range(self, count: Any) -> Any:
        return np.arange(count, dtype=np.uint64)

    def running_max(self, words: Any, axis: int, window: int) -> Any:
        return np.maximum.accumulate(words, axis=axis)

    def floats(self, values: Any) -> Any:
        return np.asarray(values, dtype=np.float32)

    def scaled(self, coins: Any, factor: float) -> Any:
        return self.floats(coins) * np.float32(factor)

    log, cos, sqrt, tanh = (staticmethod(f) for f in (np.log, np.cos, np.sqrt, np.tanh))

    def sigmoid(self, array: Any) -> Any:
        return 0.5 + 0.5 * np.tanh(0.5 * array)  # no overflow for large negative numbers

    concatenate, stack = staticmethod(np.concatenate), staticmethod(np.stack)
    split, swapaxes = staticmethod(np.split), staticmethod(np.swapaxes)
    flip, where = staticmethod(np.flip), staticmethod(np.where)

    def zeros(self, shape: Any, like: Any) -> Any:
        return np.zeros(shape, like.dtype)

    def hold(self, values: Any, fresh: Any, axis: int) -> Any:
        count = values.shape[axis]
        shape = [count if n == axis else 1 for n in range(values.ndim)]
        position = np.where(fresh, np.arange(count).reshape(shape), 0)
        last = np.maximum.accumulate(position, axis=axis)
        return np.take_along_axis(values, np.broadcast_to(last, values.shape), axis=axis)

    float32, uint8, bool = np.dtype(np.float32), np.dtype(np.uint8), np.dtype(np.bool_)

    def empty(self, like: Any, shape: Shape) -> Any:
        return np.empty(shape, np.float32)

    def address(self, array: Any) -> int:
        return int(array.ctypes.data)

    def strides(self, array: Any) -> Shape:
        return tuple(stride // array.itemsize for stride in array.strides)

    def dense(self, array: Any) -> Any:
        return np.ascontiguousarray(array)

    def threads(self) -> tuple[int, int]:
        """As many as there are processors for this process."""
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0)), 0
        return os.cpu_count() or 1, 0


NUMPY = NumpyBackend()
