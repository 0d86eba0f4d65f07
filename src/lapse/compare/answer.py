"""Turns runs into the rows of the table, and into the one sentence that answers the question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from lapse.compare.placements import Placement
from lapse.compare.result import Row, Run
from lapse.compare.statistics import LEVEL, MIN_SEEDS, holm, paired, verdict


def rows(
    placements: Sequence[Placement], runs: Sequence[Run], step_ms: dict[str, float]
) -> tuple[Row, ...]:
    """One row per placement; the first is the baseline that the others are compared with.

    Args:
        placements: the first must be without noise.
        runs: of every distinct placement with the same seeds.
        step_ms: milliseconds of a training step, by noise.
    """
    by_placement = _by_placement(runs)
    owner: dict[str, str] = {}  # by noise, the key of the placement that was trained
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
    """One sentence: is a placement better than no dropout, and are layers or arguments better?"""
    seeds = len({run.seed for run in runs})
    digits, chosen = places(table), best(table)
    lowest = f"{_named(chosen, table)} has the lowest validation loss"
    if gain := _gain(chosen, digits):
        lowest += f", and its test log-loss is {gain}"
    if seeds < MIN_SEEDS:
        return f"A first look at {name} with {seeds} seeds, too few for a verdict: {lowest}."
    second, loser = _layer_or_argument(table, runs, digits)
    better = [row.label for row in table if row.verdict == "better" and not row.same_as]
    worse = [row.label for row in table if row.verdict == "worse" and not row.same_as]
    if chosen.verdict == "better":
        if chosen.kind != loser:
            lowest = f"use {_named(chosen, table)}, whose test log-loss is {gain}"
        first = f"{lowest}, lower in {chosen.won} of {seeds} seeds"
    elif better:
        first = f"{lowest}, but {_listed(better)} significantly better than no dropout"
    else:
        first = "no placement of dropout is significantly better than no dropout"
        first += f", and {_listed(worse)} significantly worse" if worse else ""
    return f"On {name}, {first}; {second}."


def best(table: Sequence[Row]) -> Row:
    """The row with the lowest validation loss, which may be no dropout; the answer names it.

    Test losses play no part in the choice, because the lowest of them would be biased.
    """
    return min((row for row in table if not row.same_as), key=lambda row: row.validation_log_loss)


def places(table: Sequence[Row]) -> int:
    """The number of decimals of the losses in this table: the lowest has three digits."""
    lowest = min(row.log_loss for row in table)
    return min(8, 2 - math.floor(math.log10(lowest))) if 0 < lowest < 1 else 3


def _layer_or_argument(
    table: Sequence[Row], runs: Sequence[Run], digits: int
) -> tuple[str, str | None]:
    """Compares the best Dropout layer with the best arguments, both chosen by validation loss.

    This is a separate test at the same level. The second result is the kind that is worse, if the
    difference is significant.
    """
    layer, argument = (
        min((row for row in table if row.kind == kind), key=lambda row: row.validation_log_loss)
        for kind in ("layer", "argument")
    )
    if layer.noise == argument.noise:
        same = f"{layer.label} is {argument.label}"
        return (
            f"the best Dropout layer and the best arguments are the same computation: {same}",
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
        return f"between {names}, there is no significant difference ({interval})", None
    better, worse = ("layer is", "argument") if found.mean < 0 else ("arguments are", "layer")
    return f"between {names}, the {better} better ({interval})", worse


def _gain(row: Row, digits: int) -> str:
    """The difference of the test log-loss to no dropout; empty for no dropout itself."""
    if row.difference is None or row.low is None or row.high is None:
        return ""
    return (
        f"{abs(row.difference):.{digits}f} {'lower' if row.difference < 0 else 'higher'} than "
        f"without dropout (95 % interval {signed(row.low, digits)} to {signed(row.high, digits)})"
    )


def signed(number: float, digits: int) -> str:
    """A number with its sign, and with the typographic minus."""
    return f"{number:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _named(row: Row, table: Sequence[Row]) -> str:
    twins = [other.label for other in table if other.same_as == row.placement]
    label = "the model without dropout" if row.kind == "none" else row.label
    return f"{label} (the same as {_listed(twins, '')})" if twins else label


def _listed(names: Sequence[str], verb: str = "is") -> str:
    verb = {"is": " are" if len(names) > 1 else " is", "": ""}[verb]
    return (names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}") + verb


def _by_placement(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        found.setdefault(run.placement, []).append(run)
    return found
