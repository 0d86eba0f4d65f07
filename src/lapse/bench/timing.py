"""Interleaved timing: subjects take turns, so that a slow phase of the machine affects all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 20  # at least, as long as they take no more than PATIENCE times the given seconds
PATIENCE = 4
MIN_ROUNDS = 5  # however long they take


def interleave(
    subjects: dict[str, Callable[[], Any]],
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each subject in each round; a round runs every subject once.

    Every other round runs in reverse order, so that no subject always follows the same one. If a
    subject returns a float, that is its time. Two warm-up rounds are not measured.

    Args:
        subjects: what to call, by name.
        seconds: how long to measure.
        clock: returns the current time in seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(2):
        for run in subjects.values():
            run()
    start_of_all, order = clock(), list(subjects)

    def unfinished() -> bool:
        rounds, elapsed = len(times[order[0]]), clock() - start_of_all
        patient = elapsed < PATIENCE * seconds
        return elapsed < seconds or rounds < (ROUNDS if patient else MIN_ROUNDS)

    while unfinished():
        for name in order:
            start = clock()
            returned = subjects[name]()
            times[name].append(returned if isinstance(returned, float) else clock() - start)
        order.reverse()
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Minimum, quartiles and median of seconds, and the number of rounds."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"min": min(times), "q1": low, "median": middle, "q3": high, "rounds": len(times)}


def ratio(times: list[float], peer: list[float]) -> dict[str, float]:
    """The same for the ratio in each round: a slow phase affects both times of its round."""
    return summary([one / other for one, other in zip(times, peer, strict=True)])
