"""The C++ kernels of `csrc/`, where the package was built with a compiler."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def extension() -> Any:
    """The compiled module; None where the package was installed without a compiler."""
    try:
        return import_module("lapse.kernels._cpu")
    except ImportError:
        return None


@cache
def instruction_set() -> str:
    """The widest one that this processor runs."""
    return str(extension().instruction_sets()[0])
