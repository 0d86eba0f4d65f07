"""Paired comparisons over seeds: Student-t intervals, Holm's correction, verdicts.

The interval is Student's, not a bootstrap: with 5 to 20 seeds it is the one that covers what it
promises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05
ENOUGH = 10  # seeds; with fewer, a comparison is a first look and gives no verdict


class Paired(NamedTuple):
    """A mean paired difference, its 95 % Student-t interval, and the two-sided p-value of 0."""

    mean: float
    low: float
    high: float
    p: float


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compares two arms seed by seed: first minus second, at least two values each."""
    differences = np.subtract(first, second)
    mean = float(differences.mean())
    if np.ptp(differences) == 0:  # no spread: identical arms, or a constant shift
        return Paired(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(1 - LEVEL)
    return Paired(mean, float(interval.low), float(interval.high), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values in the given order (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(difference: float, p: float, seeds: int) -> str:
    """In words, for a difference in loss and its corrected p-value."""
    if seeds < ENOUGH:
        return "look"
    if not p < LEVEL or math.isnan(p):
        return "no detectable difference"
    return "better" if difference < 0 else "worse"
