"""`lapse compare` as the terminal shows it: progress, answer, table, and the files."""

from __future__ import annotations

import time as clock
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lapse.compare import report
from lapse.compare.answer import answer, rows
from lapse.compare.data import Dataset, japanese_vowels, load
from lapse.compare.placements import PLACEMENTS, QUICK
from lapse.compare.result import Comparison, Run
from lapse.compare.statistics import ENOUGH
from lapse.compare.study import Study, made_with, measure, run
from lapse.compare.training import Settings
from lapse.core.errors import LapseError
from lapse.files import ready, write_whole

QUICK_SEEDS = 3
QUICK_EPOCHS = 15


def compare(
    file: Path | None,
    *,
    id: str | None,
    time: str | None,
    target: str | None,
    out: Path,
    quick: bool,
    seeds: int | None,
) -> Comparison:
    """Runs a comparison, shows it, and writes `results.json` and `report.html` into `out`.

    Args:
        file: a .ts or long .csv file; the embedded data if None.
        id, time, target: columns of the CSV file.
        out: the folder for the results; finished runs are kept in `out/runs`.
        quick: fewer seeds, epochs and placements.
        seeds: how many paired seeds.

    Raises:
        LapseError: for a mistake in any of these.
    """
    study = plan_study(_data(file, id=id, time=time, target=target), quick=quick, seeds=seeds)
    if not out.exists():
        write_whole(out / ".gitignore", "*\n")
    runs_in = ready(out / "runs")  # finds out now, not after the runs, whether it can be written
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # in a file or a pipe no line is cut
    data = study.data
    console.print(
        f"{data.name}: {int((~data.test).sum())} training and {int(data.test.sum())} test "
        f"sequences, {len(data.features)} features, {len(data.classes)} classes, "
        f"{data.lengths.min()} to {data.lengths.max()} steps\n"
        f"held out for the test: {data.held_out}"
    )
    runs = _run(study, runs_in, console)
    console.print("measuring the time of a step ...")
    step_ms = measure(study)
    table = rows(study.placements, runs, step_ms)
    comparison = Comparison(
        answer=answer(table, runs, data.name),
        data=describe(data),
        settings={**asdict(study.settings), "seeds": study.seeds, "quick": quick},
        rows=table,
        runs=tuple(runs),
        made_with=made_with(),
    )
    write_whole(out / "results.json", comparison.to_json())
    write_whole(out / "report.html", report.html(comparison))
    _show(comparison, console)
    console.print(f"\n{comparison.answer}\n\n{out / 'report.html'}  {out / 'results.json'}")
    return comparison


def plan_study(data: Dataset, *, quick: bool, seeds: int | None) -> Study:
    """The study that the options ask for."""
    if quick:
        if seeds is not None:
            raise LapseError(
                f"--quick looks at {QUICK_SEEDS} seeds, and --seeds {seeds} was given too; write "
                "one of the two."
            )
        few = tuple(placement for placement in PLACEMENTS if placement.key in QUICK)
        return Study(data, few, QUICK_SEEDS, replace(Settings(), epochs=QUICK_EPOCHS))
    if seeds is not None and seeds < ENOUGH:
        raise LapseError(
            f"--seeds {seeds} is too few for a verdict; give at least {ENOUGH}, or --quick for a "
            "first look."
        )
    return Study(data, PLACEMENTS, seeds or ENOUGH, Settings())


def describe(data: Dataset) -> dict[str, Any]:
    """What the results say of the data."""
    return {
        "name": data.name,
        "source": data.source,
        "sha256": data.sha256,
        "train": int((~data.test).sum()),
        "test": int(data.test.sum()),
        "held_out": data.held_out,
        "features": list(data.features),
        "classes": list(data.classes),
        "shortest": int(np.min(data.lengths)),
        "longest": int(np.max(data.lengths)),
    }


def _data(file: Path | None, **columns: str | None) -> Dataset:
    if file is not None:
        return load(file, **columns)
    for name, column in columns.items():
        if column is not None:
            raise LapseError(
                f"--{name} {column} was given without a FILE; write the CSV file's name."
            )
    return japanese_vowels()


def _run(study: Study, folder: Path, console: Console) -> list[Run]:
    if not console.is_terminal:
        return run(study, folder, _PlainProgress(console))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=600) as bar:
        task = bar.add_task("training", total=len(study.tasks()))

        def progress(done: int, of: int, latest: Run) -> None:
            bar.update(task, completed=done, description=f"{latest.placement}, seed {latest.seed}")

        return run(study, folder, progress)


class _PlainProgress:
    """A line for every tenth of the runs, where nothing can be redrawn."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.start, self.before = clock.monotonic(), 0

    def __call__(self, done: int, of: int, latest: Run) -> None:
        now = clock.monotonic() - self.start
        if now < 0.5:
            self.before = done  # found on disk, so they say nothing about the pace
        elif done * 10 // of > (done - 1) * 10 // of:
            left = now / (done - self.before) * (of - done)
            self.console.print(f"{done} of {of} runs, {now:.0f} s, about {left:.0f} s left")


def _show(comparison: Comparison, console: Console) -> None:
    """The table, on a narrow terminal without the columns that people can best do without."""
    lines = report.table(comparison)
    widths = {title: max(len(title), *(len(line[title]) for line in lines)) for title in lines[0]}
    words = {"placement": 18, "verdict": 16}  # at least, since their lines may break
    widths |= words
    left_out = []
    for spare in ("accuracy", "p (Holm)", "ms/step", "seeds won"):
        if sum(widths.values()) + 2 * (len(widths) - 1) > console.width:
            left_out.append(spare)
            del widths[spare]
    table = Table(box=None, pad_edge=False)
    for title, width in widths.items():
        fixed = width if left_out or title not in words else None
        table.add_column(title, justify="left" if title in words else "right", width=fixed)
    for line in lines:
        table.add_row(*(line[title] for title in widths))
    console.print(table, soft_wrap=False)
    if left_out:
        console.print(f"(the report also has {', '.join(left_out)})")
