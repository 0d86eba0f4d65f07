"""From runs to the table's rows, and to the one sentence that answers the question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from lapse.compare.placements import Placement
from lapse.compare.result import Row, Run
from lapse.compare.statistics import ENOUGH, LEVEL, holm, paired, verdict


def rows(
    placements: Sequence[Placement], runs: Sequence[Run], step_ms: dict[str, float]
) -> tuple[Row, ...]:
    """One row a placement; the first is the baseline that the others are paired with.

    Args:
        placements: the first without noise.
        runs: of every distinct placement under the same seeds.
        step_ms: milliseconds of a training step, by noise.
    """
    by_placement = _by_placement(runs)
    owner: dict[str, str] = {}  # by noise, the placement whose runs these are
    for placement in placements:
        owner.setdefault(placement.noise, placement.key)
    base = [run.test_log_loss for run in by_placement[placements[0].key]]
    keys = [key for key in owner.values() if key != placements[0].key]
    found = {key: paired([run.test_log_loss for run in by_placement[key]], base) for key in keys}
    corrected = dict(zip(keys, holm([found[key].p for key in keys]), strict=True))

    def row(placement: Placement) -> Row:
        key = owner[placement.noise]
        own = by_placement[key]
        difference = found.get(key)
        wins = sum(run.test_log_loss < loss for run, loss in zip(own, base, strict=True))
        return Row(
            placement=placement.key,
            label=placement.label,
            noise=placement.noise,
            kind=placement.kind,
            about=placement.about,
            keras=placement.keras,
            same_as="" if key == placement.key else key,
            log_loss=fmean(run.test_log_loss for run in own),
            accuracy=fmean(run.test_accuracy for run in own),
            validation_log_loss=fmean(run.validation_log_loss for run in own),
            difference=difference and difference.mean,
            low=difference and difference.low,
            high=difference and difference.high,
            p=corrected.get(key),
            won=None if difference is None else wins,
            verdict=difference and verdict(difference.mean, corrected[key], len(base)),
            step_ms=step_ms[placement.noise],
        )

    return tuple(row(placement) for placement in placements)


def answer(table: Sequence[Row], runs: Sequence[Run], name: str) -> str:
    """One sentence: does a placement beat dropping nothing, and do layers or arguments win?"""
    seeds = len({run.seed for run in runs})
    digits, chosen = places(table), best(table)
    if seeds < ENOUGH:
        return (
            f"A first look at {name} with {seeds} seeds, too few for a verdict: the lowest "
            f"validation loss belongs to {_named(chosen, table)}{_gain(chosen, digits)}."
        )
    second, loser = _layer_or_argument(table, runs, digits)
    better = [row.label for row in table if row.verdict == "better" and not row.same_as]
    worse = [row.label for row in table if row.verdict == "worse" and not row.same_as]
    if chosen.verdict == "better":
        use = "use" if chosen.kind != loser else "the lowest validation loss belongs to"
        first = (
            f"{use} {_named(chosen, table)}{_gain(chosen, digits)}, lower in {chosen.won} of "
            f"{seeds} seeds"
        )
    elif better:
        first = (
            f"the lowest validation loss belongs to {_named(chosen, table)}"
            f"{_gain(chosen, digits)}, though {_listed(better)} detectably better than none"
        )
    else:
        first = "no placement of dropout is detectably better than none"
        first += f", and {_listed(worse)} worse" if worse else ""
    return f"On {name} {first}; {second}."


def best(table: Sequence[Row]) -> Row:
    """The row to name: the lowest validation loss, none among them.

    The test losses have no say, so that those of the row are no winner's luck.
    """
    return min((row for row in table if not row.same_as), key=lambda row: row.validation_log_loss)


def places(table: Sequence[Row]) -> int:
    """How many decimals the losses of this table are given with: three digits of the lowest."""
    lowest = min(row.log_loss for row in table)
    return min(8, 2 - math.floor(math.log10(lowest))) if 0 < lowest < 1 else 3


def _layer_or_argument(
    table: Sequence[Row], runs: Sequence[Run], digits: int
) -> tuple[str, str | None]:
    """Compares the best Dropout layer with the best arguments, both chosen by validation loss.

    One test of its own, at the same level. The second result is the kind that lost, if one did.
    """
    layer, argument = (
        min((row for row in table if row.kind == kind), key=lambda row: row.validation_log_loss)
        for kind in ("layer", "argument")
    )
    if layer.noise == argument.noise:
        same = f"{layer.label} is {argument.label}"
        return (
            f"as for a layer or the arguments, the best of each are one and the same: {same}",
            None,
        )
    by_placement = _by_placement(runs)
    losses = [
        [run.test_log_loss for run in by_placement[row.same_as or row.placement]]
        for row in (layer, argument)
    ]
    found = paired(*losses)
    interval = (
        f"layer minus arguments {signed(found.mean, digits)}, 95 % interval "
        f"{signed(found.low, digits)} to {signed(found.high, digits)}"
    )
    names = f"the best Dropout layer ({layer.label}) and the best arguments ({argument.label})"
    if not found.p < LEVEL:
        return f"between {names} there is no detectable difference ({interval})", None
    winner, loser = ("layer", "argument") if found.mean < 0 else ("arguments", "layer")
    return f"between {names} the {winner} won ({interval})", loser


def _gain(row: Row, digits: int) -> str:
    if row.difference is None or row.low is None or row.high is None:
        return ""
    return (
        f", whose test log-loss is {abs(row.difference):.{digits}f} "
        f"{'lower' if row.difference < 0 else 'higher'} than without dropout (95 % interval "
        f"{signed(row.low, digits)} to {signed(row.high, digits)})"
    )


def signed(number: float, digits: int) -> str:
    """With its sign, and a minus as print has it."""
    return f"{number:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _named(row: Row, table: Sequence[Row]) -> str:
    twins = [other.label for other in table if other.same_as == row.placement]
    label = "no dropout at all" if row.kind == "none" else row.label
    return f"{label} (the same as {_listed(twins, '')})" if twins else label


def _listed(names: Sequence[str], verb: str = "is") -> str:
    verb = {"is": " are" if len(names) > 1 else " is", "": ""}[verb]
    return (names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}") + verb


def _by_placement(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        found.setdefault(run.placement, []).append(run)
    return found
