"""A small data set that can be learned, and hand-made runs, for the tests of `lapse.compare`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from lapse.compare.data import Dataset, load
from lapse.compare.result import Run


def write_csv(path: Path, sequences: int = 24, classes: int = 2, seed: int = 0) -> Path:
    """Noisy ramps: class k rises with slope k; 3 to 7 steps, two features."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["walk", "at", "kind", "up", "noise"])
        for n in range(sequences):
            kind = n % classes
            for t in range(int(rng.integers(3, 8))):
                up = kind * t + rng.normal(scale=0.3)
                writer.writerow([f"w{n}", t, f"class {kind}", f"{up:.4f}", f"{rng.normal():.4f}"])
    return path


def dataset(folder: Path, **options: int) -> Dataset:
    """The same as a `Dataset`."""
    path = write_csv(folder / "walks.csv", **options)
    return load(path, id="walk", time="at", target="kind")


def made_up_run(placement: str, seed: int, test: float, validation: float = 0.5) -> Run:
    """A run with these losses."""
    return Run(
        placement=placement,
        seed=seed,
        test_log_loss=test,
        test_accuracy=0.9,
        validation_log_loss=validation,
        best_epoch=1,
        train_curve=(0.3,),
        validation_curve=(validation,),
    )
