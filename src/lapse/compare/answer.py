"""From runs to the table's rows, and to the one sentence that answers the question."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from lapse.compare.placements import Placement
from lapse.compare.result import Row, Run
from lapse.compare.statistics import ENOUGH, LEVEL, Paired, holm, paired, verdict


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
    """One sentence: does a placement beat dropping nothing, and do layers or arguments win?

    What is named as best is chosen by validation loss, so that its test result is no winner's luck.
    """
    seeds = len({run.seed for run in runs})
    chosen = best(table, seeds)
    if seeds < ENOUGH:
        assert chosen is not None
        return (
            f"A first look at {name} with {seeds} seeds, too few for a verdict: the lowest "
            f"validation loss belongs to {_named(chosen, table)}{_gain(chosen)}."
        )
    if chosen is None:
        worse = [row for row in table if row.verdict == "worse" and not row.same_as]
        first = f"On {name} no placement of dropout is detectably better than none"
        if worse:
            first += f", and {_listed([row.label for row in worse])} worse"
        return f"{first}; {_layer_or_argument(table, runs)}."
    return (
        f"On {name} use {_named(chosen, table)}{_gain(chosen)}, lower in {chosen.won} of {seeds} "
        f"seeds; {_layer_or_argument(table, runs)}."
    )


def best(table: Sequence[Row], seeds: int) -> Row | None:
    """The placement to name: the lowest validation loss of those better than none.

    Of all placements with too few seeds for a verdict; None if no placement is better.
    """
    fit = [row for row in table if not row.same_as]
    if seeds >= ENOUGH:
        fit = [row for row in fit if row.verdict == "better"]
    return min(fit, key=lambda row: row.validation_log_loss, default=None)


def _layer_or_argument(table: Sequence[Row], runs: Sequence[Run]) -> str:
    """Compares the best Dropout layer with the best arguments, both chosen by validation loss."""
    by_kind = {
        kind: min(
            (row for row in table if row.kind == kind), key=lambda row: row.validation_log_loss
        )
        for kind in ("layer", "argument")
    }
    layer, argument = by_kind["layer"], by_kind["argument"]
    if layer.noise == argument.noise:
        return (
            "as for a layer or the arguments, the best of each are one and the same: "
            f"{layer.label} is {argument.label}"
        )
    by_placement = _by_placement(runs)
    losses = [
        [run.test_log_loss for run in by_placement[row.same_as or row.placement]]
        for row in (layer, argument)
    ]
    difference = paired(*losses)
    names = f"the best Dropout layer ({layer.label}) and the best arguments ({argument.label})"
    if not difference.p < LEVEL:
        return f"between {names} there is no detectable difference ({_interval(difference)})"
    winner = "layer" if difference.mean < 0 else "arguments"
    return f"between {names} the {winner} won ({_interval(difference)})"


def _gain(row: Row) -> str:
    if row.difference is None or row.low is None or row.high is None:
        return ""
    return (
        f", whose test log-loss is {abs(row.difference):.3f} "
        f"{'lower' if row.difference < 0 else 'higher'} than without dropout (95 % interval "
        f"{_signed(row.low)} to {_signed(row.high)})"
    )


def _interval(difference: Paired) -> str:
    return (
        f"layer minus arguments {_signed(difference.mean)}, 95 % interval "
        f"{_signed(difference.low)} to {_signed(difference.high)}"
    )


def _signed(number: float) -> str:
    return f"{number:+.3f}".replace("-", "\N{MINUS SIGN}")


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
