"""The command `lapse compare` on the terminal: progress, table, answer, and result files."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lapse.compare import report
from lapse.compare.compare import Watcher, compare
from lapse.compare.data import Dataset, japanese_vowels, load
from lapse.compare.result import Comparison, Run
from lapse.compare.statistics import MIN_SEEDS
from lapse.compare.study import MOST_SEEDS, QUICK_SEEDS, Study, full_study, quick_study
from lapse.core.errors import LapseError
from lapse.files import check_writable, write_atomically


def command(
    file: Path | None,
    *,
    id: str | None,
    time: str | None,
    target: str | None,
    out: Path,
    quick: bool,
    seeds: int | None,
) -> None:
    """Runs a comparison, prints it, and writes `results.json` and `report.html` to `out`.

    Args:
        file: a .ts or long .csv file; the embedded data if None.
        id, time, target: columns of the CSV file.
        out: folder for the results; finished runs are stored in `out/runs`.
        quick: whether to take a first look only.
        seeds: number of paired seeds.

    Raises:
        LapseError: for a mistake in any of these.
    """
    study = _study(_data(file, id=id, time=time, target=target), quick=quick, seeds=seeds)
    if not out.exists():
        write_atomically(out / ".gitignore", "*\n")
    check_writable(out / "runs")  # before the training, which takes minutes
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # so that no line is cut in a file or a pipe
    data = study.data
    console.print(
        f"{data.name}: {int((~data.test).sum())} training and {int(data.test.sum())} test "
        f"sequences, {len(data.features)} features, {len(data.classes)} classes, "
        f"{data.lengths.min()} to {data.lengths.max()} steps\n"
        f"held out for the test: {data.held_out}"
    )
    with _watcher(console, len(study.tasks())) as watcher:
        comparison = compare(study, out / "runs", watcher)
    write_atomically(out / "results.json", comparison.to_json())
    write_atomically(out / "report.html", report.html(comparison))
    print_table(comparison, console)
    console.print(f"\n{comparison.answer}\n\n{out / 'report.html'}  {out / 'results.json'}")


def _data(file: Path | None, **columns: str | None) -> Dataset:
    if file is not None:
        return load(file, **columns)
    for name, column in columns.items():
        if column is not None:
            raise LapseError(
                f"--{name} {column} was given without a FILE; add the name of the CSV file."
            )
    return japanese_vowels()


def _study(data: Dataset, *, quick: bool, seeds: int | None) -> Study:
    if not quick:
        if seeds is not None and seeds < MIN_SEEDS:
            raise LapseError(
                f"--seeds {seeds} is too few for a verdict; give at least {MIN_SEEDS}, or --quick "
                "for a first look."
            )
        if seeds is not None and seeds > MOST_SEEDS:
            raise LapseError(f"--seeds {seeds} is too many; give at most {MOST_SEEDS}.")
        return full_study(data, seeds or MIN_SEEDS)
    if seeds is not None:
        raise LapseError(
            f"--seeds {seeds} was given with --quick, which always uses {QUICK_SEEDS} seeds; give "
            "one of the two."
        )
    return quick_study(data)


@contextmanager
def _watcher(console: Console, runs: int) -> Iterator[Watcher]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=600) as bar:
        yield _Bar(bar, bar.add_task("training", total=runs))


class _Bar(Watcher):
    """A progress bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self.bar, self.task = bar, task

    def trained(self, done: int, of: int, latest: Run) -> None:
        what = f"{latest.placement}, seed {latest.seed}"
        self.bar.update(self.task, completed=done, description=what)

    def measuring(self) -> None:
        self.bar.stop()  # its thread would disturb the measurement
        self.bar.console.print("measuring the time of a training step ...")


class _Lines(Watcher):
    """A line for every tenth of the runs, for output that can't be redrawn."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.start, self.before = clock.monotonic(), 0

    def trained(self, done: int, of: int, latest: Run) -> None:
        elapsed = clock.monotonic() - self.start
        if elapsed < 0.5:
            self.before = done  # read from disk, so they say nothing about the speed
        elif done * 10 // of > (done - 1) * 10 // of:
            left = elapsed / (done - self.before) * (of - done)
            self.console.print(
                f"{done} of {of} runs, {elapsed:.0f} s elapsed, about {left:.0f} s left"
            )

    def measuring(self) -> None:
        self.console.print("measuring the time of a training step ...")


def print_table(comparison: Comparison, console: Console) -> None:
    """Prints the table; on a narrow terminal without its least important columns."""
    lines = report.table(comparison)
    widths = {title: max(len(title), *(len(line[title]) for line in lines)) for title in lines[0]}
    words = {"placement": 18, "verdict": 16}  # minimum widths; these columns may wrap
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
        console.print(f"(not shown, but in the report: {', '.join(left_out)})")
