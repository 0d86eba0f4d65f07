"""Which kernel runs: the C++ one wherever it can, the plain loop of `cells.py` elsewhere."""

from __future__ import annotations

import os
import warnings
from functools import cache
from typing import Literal

from lapse.errors import LapseError
from lapse.kernels.cpu import extension

KERNELS = ("auto", "cpu", "reference")


def choose(obstacle: str | None) -> Literal["cpu", "reference"]:
    """The kernel for a call.

    Args:
        obstacle: what about the call the C++ kernel can't do, in words; None if nothing.

    The environment variable LAPSE_KERNEL forces "cpu" or "reference"; "auto" is the default.

    Raises:
        LapseError: when it forces what can't run.
    """
    wanted = os.environ.get("LAPSE_KERNEL", "auto")
    if wanted not in KERNELS:
        raise LapseError(f"LAPSE_KERNEL={wanted} is unknown; write {', '.join(KERNELS)}.")
    if wanted == "reference":
        return "reference"
    if extension() is None:
        obstacle = "lapse was installed without a C++ compiler, and has none"
    if obstacle is None:
        return "cpu"
    if wanted == "cpu":
        raise LapseError(
            f"LAPSE_KERNEL=cpu asks for the C++ kernel, which can't run here: {obstacle}; write "
            "LAPSE_KERNEL=auto for the plain loop where it can't."
        )
    if extension() is None:
        _warn_once()
    return "reference"


@cache
def _warn_once() -> None:
    warnings.warn(
        "lapse was installed without a C++ compiler, so its layers run on a plain loop, several "
        "times slower; install a compiler and lapse again.",
        RuntimeWarning,
        stacklevel=2,
    )
