"""Startup times, each measured in fresh Python processes."""

from __future__ import annotations

import statistics
import subprocess
import sys

IMPORT = """
import time
start = time.perf_counter()
import lapse
print(time.perf_counter() - start)
"""
FIRST_STEP = """
import torch, time
start = time.perf_counter()
from lapse.torch import LSTM
layer = LSTM(64, 128, batch_first=True, recurrent_dropout=0.5, engine="cpu")
layer(torch.randn(32, 100, 64))[0].sum().backward()
print(time.perf_counter() - start)
"""


def seconds(program: str, times: int = 5) -> float:
    """The median over several runs of the number of seconds that a program prints."""

    def once() -> float:
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        return float(run.stdout)

    return statistics.median(once() for _ in range(times))
