"""Which kernel runs: the C++ one wherever it can, the plain loop of `cells.py` elsewhere."""

from __future__ import annotations

import os
import warnings
from typing import Literal, NamedTuple

from lapse.core.errors import LapseError, PlainLoopWarning, outside
from lapse.kernels.cpu import extension

KERNELS = ("auto", "cpu", "reference")
_said: set[str] = set()


def check_kernel(kernel: str) -> None:
    """Raises `LapseError` for the name of a kernel that doesn't exist."""
    if kernel not in KERNELS:
        raise LapseError(f"kernel={kernel!r} is unknown; write one of {', '.join(KERNELS)}.")


class Choice(NamedTuple):
    """A kernel, why it is the one that runs, and what kept the C++ one from running unasked."""

    kernel: Literal["cpu", "reference"]
    why: str
    obstacle: str | None = None


def decide(obstacle: str | None, kernel: str = "auto") -> Choice:
    """The kernel for a call.

    Args:
        obstacle: what about the call the C++ kernel can't do, in words; None if nothing.
        kernel: what the layer asks for; for "auto" the environment variable LAPSE_KERNEL does.

    Raises:
        LapseError: when what can't run is asked for.
    """
    asked = f"kernel={kernel}"
    if kernel == "auto":
        kernel = os.environ.get("LAPSE_KERNEL", "auto")
        asked = f"LAPSE_KERNEL={kernel}"
        if kernel not in KERNELS:
            raise LapseError(f"{asked} is unknown; write one of {', '.join(KERNELS)}.")
    if kernel == "reference":
        return Choice("reference", f"{asked} asks for it")
    if extension() is None:
        obstacle = "lapse was installed without a C++ compiler, and has none"
    if obstacle is None:
        return Choice("cpu", "nothing keeps it from running")
    if kernel == "cpu":
        raise LapseError(
            f"{asked} asks for the C++ kernel, which can't run here: {obstacle}; write auto for "
            "the plain loop where it can't."
        )
    return Choice("reference", f"the C++ kernel can't run here: {obstacle}", obstacle)


def choose(
    obstacle: str | None, kernel: str = "auto", *, expected: bool = False
) -> Literal["cpu", "reference"]:
    """The kernel for a call, from `decide`.

    Args:
        expected: whether the obstacle stands in the documentation, and needs no warning.

    Warns:
        PlainLoopWarning: where nobody asked for the plain loop and it runs, once for each reason.
    """
    chosen = decide(obstacle, kernel)
    if chosen.obstacle is not None and not expected and chosen.obstacle not in _said:
        _said.add(chosen.obstacle)
        warnings.warn(
            f"{chosen.why}. The plain loop does, several times slower; kernel='reference' says "
            "that this is meant.",
            PlainLoopWarning,
            stacklevel=outside(),
        )
    return chosen.kernel
