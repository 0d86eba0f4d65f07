"""A rate that changes in training. No layer runs one yet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from lapse.core.errors import LapseError

_NO_LAYER = "no layer runs a rate that changes yet, so write a number, e.g. x:0.5@BTF"


@dataclass(frozen=True)
class Schedule:
    """A rate that moves linearly between points `(progress, rate)`, both in [0, 1].

    Text form: `0,0@.2,.3@.5,0`, where `@` gives the progress of training and the first and last
    point stand at 0 and 1.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        try:
            points = tuple((float(at), float(rate)) for at, rate in self.points)
        except (TypeError, ValueError):
            raise LapseError(
                f"the schedule {self.points!r} is not a sequence of pairs of numbers, such as "
                f"((0.0, 0.0), (0.5, 0.3), (1.0, 0.0)); {_NO_LAYER}."
            ) from None
        object.__setattr__(self, "points", points)
        progress = [at for at, _ in points]
        rising = all(a <= b for a, b in pairwise(progress))
        if len(progress) < 2 or progress[0] != 0 or progress[-1] != 1 or not rising:
            raise LapseError(
                f"the schedule {points!r} must run from progress 0 to 1 in rising order, as "
                f"0,0@.2,.3@.5,0 does; {_NO_LAYER}."
            )

    @staticmethod
    def parse(text: str) -> Schedule:
        """Reads the text form.

        Raises:
            LapseError: for points that do not run from 0 to 1.
        """
        parts = [part.partition("@")[::2] for part in text.split(",")]
        if len(parts) < 2:
            raise LapseError(
                f"the schedule '{text}' has one point and needs two, as 0,.3@.5,0 has; {_NO_LAYER}."
            )
        ends = {0: "0", len(parts) - 1: "1"}
        if any(not at and n not in ends for n, (_, at) in enumerate(parts)):
            raise LapseError(
                f"the schedule '{text}' has an inner point that is not rate@progress, as those of "
                f"0,0@.2,.3@.5,0 are; {_NO_LAYER}."
            )
        return Schedule(
            tuple((float(at or ends[n]), float(rate)) for n, (rate, at) in enumerate(parts))
        )

    def __str__(self) -> str:
        inner = [f"{rate!r}@{at!r}" for at, rate in self.points[1:-1]]
        return ",".join([repr(self.points[0][1]), *inner, repr(self.points[-1][1])])
