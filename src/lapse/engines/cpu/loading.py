"""Loads the C++ kernels of `csrc/`, if the package was built with a compiler."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

_extension: Any = None
with suppress(ModuleNotFoundError):  # no other error is caught, so a broken module is reported
    _extension = import_module("lapse.engines.cpu._kernels")


def extension() -> Any:
    """The compiled module; None if the package was installed without a compiler."""
    return _extension


def instruction_set() -> str:
    """The widest instruction set that this processor runs."""
    return str(_extension.instruction_sets()[0])
