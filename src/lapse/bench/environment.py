"""What a benchmark ran on: processor, versions of packages, and load."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import lapse
from lapse.bench.peak import peak
from lapse.engines.cpu.loading import instruction_set
from lapse.machine import cores, processor

PACKAGES = ("torch", "keras", "jax", "tensorflow", "tensorflow-cpu", "numpy")
BUSY = 0.5  # a load average above this makes the times unreliable


def describe() -> dict[str, Any]:
    """The environment as plain data; `load` is the load average over the last minute."""
    return {
        "processor": processor(),
        "cores": cores(),
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


def _commit() -> str | None:
    """The git commit of the checkout that lapse is imported from; None without one."""
    root = Path(lapse.__file__).parents[2]
    if not (root / "csrc").is_dir():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    with suppress(FileNotFoundError, subprocess.CalledProcessError):  # no git, or no repository
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
