"""`lapse bench` as the terminal shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lapse.bench import machine, report
from lapse.bench.run import Row, run
from lapse.core.errors import LapseError
from lapse.engines.cpu.extension import extension
from lapse.files import ready, write_whole

FOLDER = Path("benchmarks/results")


def bench(*, quick: bool, count: int | None, out: Path | None) -> bool:
    """Measures, shows and writes the table of speeds; says whether all of it was right.

    Args:
        quick: a first look, in less than a minute.
        count: how many threads; PyTorch's own number if None.
        out: the JSON file to write; by default benchmarks/results/NAME.json, with the processor's.

    Raises:
        LapseError: for a mistake in any of these, or without the kernels that would be measured.
    """
    if extension() is None:
        raise LapseError("lapse was installed without a C++ compiler: there is nothing to measure.")
    if count is not None and count < 1:
        raise LapseError(f"--threads is {count}; it needs a whole number from 1 on.")
    slug = re.sub(r"[^a-z0-9]+", "-", machine.processor().lower()).strip("-")
    path = out or FOLDER / f"{slug}{'-quick' if quick else ''}.json"
    if path.is_dir():
        raise LapseError(f"--out is {path}, a folder; give the name of a file.")
    ready(path.parent)  # finds out now, not after the measurement, whether it can be written
    if count is not None:
        torch.set_num_threads(count)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # in a file or a pipe no line is cut
    described = machine.describe()
    if described["load"] > machine.BUSY:
        console.print(
            f"The load average is {described['load']}: something else runs, and these times will "
            "be worth little. Better let it end, and measure then."
        )
    result = _watched(quick, described, console)
    for what, lines in report.tables(result):
        shown = Table(*report.HEAD, title=what, title_justify="left")
        for cells in lines:
            shown.add_row(*cells)
        console.print(shown)
    write_whole(path, json.dumps(result, indent=1) + "\n")
    console.print(f"Written to {path}.")
    return not any(Row(**row).wrong for row in result["rows"])


def _watched(quick: bool, described: dict[str, Any], console: Console) -> dict[str, Any]:
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("beginning", total=1.0)

        def progress(what: str, done: float) -> None:
            bar.update(task, description=what, completed=done)

        return run(quick, described, progress)
