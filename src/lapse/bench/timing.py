"""Times of things that take turns, so that what slows the machine down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 20  # at least
PATIENCE = 4  # how many times as long as it should the measuring may take for these ROUNDS
FEWEST = 5  # with no patience left


def interleave(
    subjects: dict[str, Callable[[], Any]],
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each subject in each round; a round runs every subject once.

    Every other round goes backwards, so that nobody always comes after the same one. A subject
    that says how long it took, by returning a float, is believed. Two rounds go first, unmeasured.

    Args:
        subjects: what to call, by name.
        seconds: how long to go on.
        clock: seconds since some time.
    """
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(2):
        for run in subjects.values():
            run()
    start_of_all, order = clock(), list(subjects)

    def goes_on() -> bool:
        rounds, gone = len(times[order[0]]), clock() - start_of_all
        return gone < seconds or rounds < (ROUNDS if gone < PATIENCE * seconds else FEWEST)

    while goes_on():
        for name in order:
            start = clock()
            said = subjects[name]()
            times[name].append(said if isinstance(said, float) else clock() - start)
        order.reverse()
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Of seconds: the least, the median, and the quartiles between which half of them lie."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"min": min(times), "q1": low, "median": middle, "q3": high, "rounds": len(times)}


def ratio(times: list[float], peer: list[float]) -> dict[str, float]:
    """The same of the ratios in each round, which what slows a whole round down leaves alone."""
    return summary([one / other for one, other in zip(times, peer, strict=True)])
