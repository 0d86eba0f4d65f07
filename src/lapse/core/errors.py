"""The one error that lapse raises for a mistake in what it was given, a warning, and where warnings
point.
"""

from __future__ import annotations

import sys

_FRAMEWORKS = ("lapse", "keras", "torch", "jax", "tensorflow")


class LapseError(ValueError):
    """What was given, what is wrong with it, and what would be right, in one sentence."""


class PlainLoopWarning(RuntimeWarning):
    """A layer runs several times slower than it could; the message says why."""


def outside() -> int:
    """The stacklevel of whoever called lapse, however many of its and the frameworks' functions
    stand between; for `warnings.warn` in the function that asks.
    """
    here, level = sys._getframe(1), 1
    while here.f_back and here.f_globals.get("__name__", "").partition(".")[0] in _FRAMEWORKS:
        here, level = here.f_back, level + 1
    return level
