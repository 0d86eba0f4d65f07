"""Chooses the defaults of `lapse compare` on the embedded data, by validation loss only.

    python scripts/choose_defaults.py size      units and learning rate, without dropout
    python scripts/choose_defaults.py rates     a rate for each placement, at the default size

The test sequences play no part in the choice, and `lapse compare` uses other seeds. Prints
Markdown tables. Finished runs are stored in build/defaults and not repeated.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean

from lapse.compare.data import Dataset, japanese_vowels
from lapse.compare.placements import Placement
from lapse.compare.result import Run
from lapse.compare.study import Study
from lapse.compare.training import Settings
from lapse.compare.workers import run
from lapse.core.forms import (
    Dropout,
    KerasDropout,
    SpatialDropout,
    TimestepDropout,
    Variational,
    WeightDrop,
    Zoneout,
)
from lapse.core.noise import collect

FOLDER = Path("build/defaults")
SEEDS = 5
FIRST_SEED = 1000
RATES = (0.1, 0.25, 0.5)
CANDIDATES = {
    "Dropout in front": [Dropout(p) for p in RATES],
    "SpatialDropout1D, dropout=": [SpatialDropout(p) for p in RATES],
    "TimestepDropout": [TimestepDropout(p) for p in RATES],
    "recurrent_dropout=": [KerasDropout(0.0, p) for p in RATES],
    "both arguments": [KerasDropout(p, q) for p, q in product(RATES, (0.25, 0.5))],
    "Dropout after": [f"y:{p}@BTF" for p in RATES],
    "Zoneout": [Zoneout(h, c) for h, c in ((0.05, 0.1), (0.05, 0.25), (0.05, 0.5), (0.2, 0.2))],
    "Variational": [Variational(p, p, p) for p in RATES],
    "WeightDrop": [WeightDrop(p) for p in RATES],
}


def main() -> None:
    """Runs one of the two searches and prints its table."""
    choice = sys.argv[1:]
    if choice not in (["size"], ["rates"]):
        sys.exit("usage: python scripts/choose_defaults.py size | rates")
    data = japanese_vowels()
    sizes(data) if choice == ["size"] else rates(data)


def sizes(data: Dataset) -> None:
    """Without dropout: at which size and learning rate does the model overfit?"""
    print("| units | learning rate | best validation | at the end | training at the end | epochs |")
    print("|---|---|---|---|---|---|")
    for units, learning_rate in product((32, 64, 100), (0.003, 0.01)):
        settings = replace(Settings(), units=units, learning_rate=learning_rate, patience=30)
        runs = search(data, [Placement("none", "none", "", "none", "", "")], settings)
        print(
            f"| {units} | {learning_rate} | {mean(r.validation_log_loss for r in runs):.4f} "
            f"| {mean(r.validation_curve[-1] for r in runs):.4f} "
            f"| {mean(r.train_curve[-1] for r in runs):.4f} "
            f"| {mean(r.best_epoch for r in runs):.0f} |",
            flush=True,
        )


def rates(data: Dataset) -> None:
    """For each placement, the mean validation loss at each rate; the lowest is the default."""
    texts = {
        name: [" ".join(map(str, collect(form))) for form in forms]
        for name, forms in {"none": [None], **CANDIDATES}.items()
    }
    distinct = dict.fromkeys(text for several in texts.values() for text in several)
    runs = search(data, [Placement(t, t, t, "", "", "") for t in distinct], Settings())
    found = {text: [run for run in runs if run.placement == text] for text in distinct}
    loss = {text: mean(run.validation_log_loss for run in found[text]) for text in distinct}
    print("| placement | noise | validation log-loss | best epoch |\n|---|---|---|---|")
    for name, several in texts.items():
        for text in several:
            mark = "**" if loss[text] == min(loss[t] for t in several) else ""
            epochs = mean(run.best_epoch for run in found[text])
            print(f"| {name} | `{text}` | {mark}{loss[text]:.4f}{mark} | {epochs:.0f} |")


def search(data: Dataset, placements: list[Placement], settings: Settings) -> list[Run]:
    """All placements, with seeds that `lapse compare` does not use."""
    study = Study(data, tuple(placements), SEEDS, settings, first_seed=FIRST_SEED)
    return run(study, FOLDER, show)


def show(done: int, of: int, latest: Run) -> None:
    """Prints the progress to standard error, because standard output has the table."""
    print(f"\r{done} of {of}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
