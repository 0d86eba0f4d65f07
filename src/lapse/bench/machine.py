"""What was measured on: processor, versions, and how busy it was."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import lapse
from lapse.backends.torch.arrays import TorchArrays
from lapse.engines.cpu.extension import extension, instruction_set

PACKAGES = ("torch", "keras", "jax", "tensorflow", "tensorflow-cpu", "numpy")
BUSY = 0.5


def describe() -> dict[str, Any]:
    """Names and versions; `load` is the load average of the minute before."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": instruction_set(),
        "system": platform.system(),
        "python": platform.python_version(),
        "lapse": lapse.__version__,
        "commit": _commit(),
        "versions": {name: _version(name) for name in PACKAGES},
        "load": round(os.getloadavg()[0], 2),
        "peak_gflops": round(peak() / 1e9, 1),
    }


def processor() -> str:
    """The model, in words."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def multiply_adds(operations: float) -> None:
    """Does as many floating-point operations, half of them additions, with all threads.

    They touch registers only: nothing that loads a number can be faster.
    """
    one = extension().multiply_adds(instruction_set(), 1, 1, 0)
    threads, parallel_for = TorchArrays().threads()
    rounds = round(operations / one / threads)
    extension().multiply_adds(instruction_set(), rounds, threads, parallel_for)


def peak() -> float:
    """How many of them a second it can do."""
    some, best = 1e9, math.inf
    for _ in range(50):
        start = time.perf_counter()
        multiply_adds(some)
        best = min(best, time.perf_counter() - start)
    return some / best


def _commit() -> str | None:
    """That of the checkout which lapse runs from, if it does."""
    root = Path(lapse.__file__).parents[2]
    if not (root / "csrc").is_dir():
        return None
    asked = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    with suppress(FileNotFoundError, subprocess.CalledProcessError):  # no git, or no repository
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
