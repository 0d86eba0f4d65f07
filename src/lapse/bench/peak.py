"""The processor's peak: multiply-adds on registers, which no matrix product can exceed."""

from __future__ import annotations

import math
import time

from lapse.backends.torch.arrays import TorchArrays
from lapse.engines.cpu.loading import extension, instruction_set


def multiply_adds(operations: float) -> None:
    """Does this number of floating-point operations, half of them additions, on all threads.

    The operands stay in registers, so no time is spent on loading numbers.
    """
    per_round = extension().multiply_adds(instruction_set(), 1, 1, 0)
    threads, parallel_for = TorchArrays().threads()
    rounds = round(operations / per_round / threads)
    extension().multiply_adds(instruction_set(), rounds, threads, parallel_for)


def peak() -> float:
    """The most floating-point operations per second that this processor reaches."""
    operations, best = 1e9, math.inf
    for _ in range(50):
        start = time.perf_counter()
        multiply_adds(operations)
        best = min(best, time.perf_counter() - start)
    return operations / best
