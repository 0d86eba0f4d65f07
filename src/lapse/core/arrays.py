"""The few array operations that drawing masks needs, in NumPy.

`lapse.keras.arrays` has the same set for the arrays of JAX and TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lapse.core.philox import NumpyWords
from lapse.kernels.cpu import extension


class NumpyArrays(NumpyWords):
    """Words in uint64, masks in float32.

    `pool` says how kernels that draw may spread their work: a number of threads, and the address
    of the C function that runs them (see `csrc/module.cpp`).
    """

    def pool(self) -> tuple[int, int]:
        return 1, 0

    def range(self, count: int) -> Any:
        """The words 0, 1, ... count - 1."""
        return np.arange(count, dtype=np.uint64)

    def words(self, values: Any) -> Any:
        """Words from whole numbers or booleans."""
        return self.word(values)

    def interleave(self, parts: tuple[Any, ...]) -> Any:
        """Four arrays (..., n) to one (..., 4n): element 4k + j comes from part j."""
        stacked = np.stack(parts, axis=-1)
        *shape, last, four = stacked.shape
        return stacked.reshape(*shape, last * four)

    def at_least(self, words: Any, threshold: int) -> Any:
        """Boolean: word >= threshold, for a threshold of up to 2**32."""
        return words >= np.uint64(threshold)

    def floats(self, values: Any) -> Any:
        """float32 of booleans or words."""
        return np.asarray(values, dtype=np.float32)

    def scaled(self, coins: Any, factor: float) -> Any:
        """float32: what coins keep is `factor`, the rest 0."""
        kernels = extension()
        if kernels is None:
            return self.floats(coins) * np.float32(factor)
        scaled = np.empty(coins.shape, np.float32)
        flat = np.ascontiguousarray(coins).reshape(-1).view(np.uint8)
        kernels.scale(flat, factor, scaled.reshape(-1), *self.pool())
        return scaled

    def bytes(self, coins: Any) -> Any:
        """uint8 of booleans, or of what is uint8 already."""
        return coins.view(np.uint8)

    def quotient(self, words: Any, divisor: int) -> Any:
        return words // np.uint64(divisor)

    log, cos, sqrt, tanh = np.log, np.cos, np.sqrt, np.tanh

    def running_max(self, words: Any, axis: int, window: int) -> Any:
        """The largest word at each position along `axis` and the `window` - 1 before it.

        Words further before may count too.
        """
        return np.maximum.accumulate(words, axis=axis)

    def hold(self, values: Any, fresh: Any, axis: int) -> Any:
        """Where `fresh` is false, the value of the last position along `axis` where it was true.

        The first position counts as fresh.
        """
        count = values.shape[axis]
        shape = [count if n == axis else 1 for n in range(values.ndim)]
        position = np.where(fresh, np.arange(count).reshape(shape), 0)
        last = np.maximum.accumulate(position, axis=axis)
        return np.take_along_axis(values, np.broadcast_to(last, values.shape), axis=axis)


NUMPY = NumpyArrays()
