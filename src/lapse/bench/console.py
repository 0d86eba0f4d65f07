"""The command `lapse bench` on the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lapse.bench import environment, report
from lapse.bench.run import Row, run
from lapse.core.errors import LapseError
from lapse.engines.cpu.loading import extension
from lapse.files import check_writable, write_atomically
from lapse.machine import processor

FOLDER = Path("benchmarks/results")


def bench(*, quick: bool, count: int | None, out: Path | None) -> bool:
    """Runs the benchmark, prints its tables, and writes the result as JSON.

    Args:
        quick: whether to measure a small selection only, in less than a minute.
        count: number of threads; PyTorch's default if None.
        out: the JSON file; by default benchmarks/results/NAME.json, named after the processor.

    Returns:
        Whether everything that was measured computes the right numbers.

    Raises:
        LapseError: for a wrong argument, or if lapse was installed without the C++ kernels.
    """
    if extension() is None:
        raise LapseError(
            "lapse was installed without its C++ kernels, which lapse bench measures; install a "
            "C++ compiler and then lapse again."
        )
    if count is not None and count < 1:
        raise LapseError(f"--threads is {count}; give a whole number of at least 1.")
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    path = out or FOLDER / f"{slug}{'-quick' if quick else ''}.json"
    if path.is_dir():
        raise LapseError(f"--out is {path}, which is a folder; give the name of a file.")
    check_writable(path.parent)  # before the measurement, which takes minutes
    if count is not None:
        torch.set_num_threads(count)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # so that no line is cut in a file or a pipe
    described = environment.describe()
    if described["load"] > environment.BUSY:
        console.print(
            f"The load average is {described['load']}: other programs are running, so the times "
            "will be unreliable. Stop them and measure again."
        )
    result = _with_progress(quick, described, console)
    for what, lines in report.tables(result):
        table = Table(*report.HEAD, title=what, title_justify="left")
        for cells in lines:
            table.add_row(*cells)
        console.print(table)
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    console.print(f"Written to {path}.")
    return not any(Row(**row).wrong for row in result["rows"])


def _with_progress(quick: bool, described: dict[str, Any], console: Console) -> dict[str, Any]:
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)

        def progress(what: str, done: float) -> None:
            bar.update(task, description=what, completed=done)

        return run(quick, described, progress)
