"""Intervals, corrections and verdicts, against SciPy, by hand, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from lapse.compare.statistics import holm, paired, verdict


def test_paired_is_the_t_test_of_related_samples():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=10), rng.normal(0.3, size=10)
    found = paired(first, second)
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(first - second), rel=1e-12)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_interval_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.302653."""
    found = paired([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    half = 4.302652729911275 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=1e-9)


def test_identical_arms_have_no_difference_and_no_nan():
    assert paired([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == (0.0, 0.0, 0.0, 1.0)


def test_intervals_have_their_nominal_coverage():
    """95 % of the intervals contain the true difference; 5 sigma of 4,000 trials is 1.7 points."""
    rng = np.random.default_rng(2)
    trials = 4000
    inside = 0
    for _ in range(trials):
        found = paired(rng.normal(0.4, 1, size=10), np.zeros(10))
        inside += found.low <= 0.4 <= found.high
    assert abs(inside / trials - 0.95) < 5 * math.sqrt(0.95 * 0.05 / trials)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("difference", "p", "seeds", "expected"),
    [
        (-0.1, 0.04, 10, "better"),
        (0.1, 0.04, 10, "worse"),
        (-0.1, 0.05, 10, "no significant difference"),
        (-0.1, 0.0001, 9, "too few seeds"),
    ],
)
def test_verdict(difference, p, seeds, expected):
    assert verdict(difference, p, seeds) == expected
