"""How long it takes to begin, each time in a fresh Python; and what is kept for backward."""

from __future__ import annotations

import statistics
import subprocess
import sys

import torch

from lapse.torch import LSTM

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
layer = LSTM(64, 128, batch_first=True, recurrent_dropout=0.5, kernel="cpu")
layer(torch.randn(32, 100, 64))[0].sum().backward()
print(time.perf_counter() - start)
"""


def seconds(program: str, times: int = 5) -> float:
    """The median of what a program says that it took."""

    def once() -> float:
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        return float(run.stdout)

    return statistics.median(once() for _ in range(times))


def bytes_a_step(noise: str) -> float:
    """What an LSTM of 32 samples and 128 units keeps for backward, for each timestep."""
    layer = LSTM(64, 128, batch_first=True, noise=noise, kernel="cpu")
    sizes = []
    for timesteps in (50, 100):
        stored: dict[int, int] = {}

        def note(tensor: torch.Tensor, stored: dict[int, int] = stored) -> torch.Tensor:
            stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            layer(torch.randn(32, timesteps, 64))
        sizes.append(sum(stored.values()))
    return (sizes[1] - sizes[0]) / 50
