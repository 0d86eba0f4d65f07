"""Random numbers from the C++ kernels, in arrays of NumPy, with the same bits as in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from lapse.core.backend import Counters
from lapse.core.numpy_backend import NumpyBackend
from lapse.core.philox import WORD
from lapse.engines.cpu.loading import extension


class FastNumpy(NumpyBackend):
    """NumPy's backend; it draws with the C++ kernels if they are installed."""

    def drawing_threads(self) -> tuple[int, int]:
        """As `threads`, but only for drawing."""
        return 1, 0

    def random_words(self, at: Counters) -> Any:
        kernels = extension()
        if kernels is None:
            return super().random_words(at)
        words = np.empty(_shape(at), np.uint32)
        kernels.words(*_numbers(at), words, *self.drawing_threads())
        return words

    def coins(self, at: Counters, threshold: int) -> Any:
        kernels = extension()
        if kernels is None or threshold > WORD:
            return super().coins(at, threshold)
        coins = np.empty(_shape(at), np.uint8)
        kernels.coins(*_numbers(at), threshold, coins, *self.drawing_threads())
        return coins

    def scaled(self, coins: Any, factor: float) -> Any:
        kernels = extension()
        if kernels is None:
            return super().scaled(coins, factor)
        scaled = np.empty(coins.shape, np.float32)
        flat = np.ascontiguousarray(coins).reshape(-1).view(np.uint8)
        kernels.scale(flat, factor, scaled.reshape(-1), *self.drawing_threads())
        return scaled


def _shape(at: Counters) -> tuple[int, int, int, int]:
    return len(at.samples), len(at.steps), len(at.gates), at.width


def _numbers(at: Counters) -> list[Any]:
    """The key, samples, steps and gates, as the kernels take them."""
    rows = (at.samples, at.steps, at.gates)
    return [*map(int, at.key), *(np.asarray(part, np.uint32) for part in rows)]


FAST_NUMPY = FastNumpy()
