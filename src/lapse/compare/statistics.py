"""Paired comparisons over seeds: Student-t intervals, Holm's correction, verdicts.

The intervals are Student's and not bootstrapped, because with 5 to 20 seeds only Student's
intervals have their nominal coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05
MIN_SEEDS = 10  # for a verdict; with fewer seeds a comparison is only a first look
NO_DIFFERENCE = "no significant difference"
TOO_FEW = "too few seeds"


class Paired(NamedTuple):
    """A mean paired difference, its 95 % Student-t interval, and the two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compares two arms seed by seed: first minus second, with at least two values each."""
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
    """The verdict on a difference in loss with this corrected p-value."""
    if seeds < MIN_SEEDS:
        return TOO_FEW
    if not p < LEVEL or math.isnan(p):
        return NO_DIFFERENCE
    return "better" if difference < 0 else "worse"
