"""Compares the placements of a study: trains, measures, and puts the result together."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lapse
from lapse.compare.answer import answer, rows
from lapse.compare.data import Dataset
from lapse.compare.result import Comparison, Run
from lapse.compare.step_times import measure
from lapse.compare.study import Study
from lapse.compare.workers import run
from lapse.machine import cores, processor


class Watcher:
    """Is told about the progress of a comparison; this one ignores it."""

    def trained(self, done: int, of: int, latest: Run) -> None:
        """A run is finished, now or earlier: the `done`-th of `of`."""

    def measuring(self) -> None:
        """All runs are finished, and the times of training steps are measured next."""


def compare(study: Study, folder: Path, watcher: Watcher | None = None) -> Comparison:
    """Trains what is missing, measures the time of a step, and answers.

    Args:
        study: what to compare; its first placement, without noise, is the baseline.
        folder: for finished runs, which are not repeated.
        watcher: is told about the progress.

    Raises:
        LapseError: if a run fails, or a worker process is killed.
    """
    watcher = watcher or Watcher()
    runs = run(study, folder, watcher.trained)
    watcher.measuring()
    table = rows(study.placements, runs, measure(study))
    return Comparison(
        answer=answer(table, runs, study.data.name),
        data=describe(study.data),
        settings={**asdict(study.settings), "seeds": study.seeds, "quick": study.quick},
        rows=table,
        runs=tuple(runs),
        made_with=made_with(),
    )


def describe(data: Dataset) -> dict[str, Any]:
    """The facts about the data that belong to a result."""
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


def made_with() -> dict[str, str]:
    """Versions and computer."""
    return {
        "lapse": lapse.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": processor(),
        "cores": str(cores()),
    }
