"""A study: which placements are trained on which data, with which seeds and settings."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

import lapse
from lapse.compare.data import Dataset
from lapse.compare.placements import PLACEMENTS, QUICK, Placement
from lapse.compare.sources import digest
from lapse.compare.training import Settings

QUICK_SEEDS = 3
MOST_SEEDS = 1000
QUICK_EPOCHS = 15

Task = tuple[str, str, int]  # placement, noise, seed


@dataclass(frozen=True)
class Study:
    """What is trained: all `placements` on `data`, with `seeds` seeds starting at `first_seed`.

    `quick` marks a first look.
    """

    data: Dataset
    placements: tuple[Placement, ...]
    seeds: int
    settings: Settings
    first_seed: int = 0
    quick: bool = False

    def distinct(self) -> dict[str, Placement]:
        """By noise, the first placement that has it: the same noise gives the same run."""
        first: dict[str, Placement] = {}
        for placement in self.placements:
            first.setdefault(placement.noise, placement)
        return first

    def tasks(self) -> list[Task]:
        """All runs, with the placements of one seed next to each other."""
        return [
            (placement.key, noise, seed)
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for noise, placement in self.distinct().items()
        ]

    def config(self, task: Task) -> dict[str, Any]:
        """Everything that determines the numbers of a run."""
        return {
            "data": self.data.sha256,
            "noise": task[1],
            "seed": task[2],
            "settings": asdict(self.settings),
            "versions": [lapse.__version__, torch.__version__, np.__version__],
            "code": digest(),
            "engine": os.environ.get("LAPSE_ENGINE", "auto"),
        }


def full_study(data: Dataset, seeds: int) -> Study:
    """All placements."""
    return Study(data, PLACEMENTS, seeds, Settings())


def quick_study(data: Dataset) -> Study:
    """A first look: few placements, seeds and epochs."""
    few = tuple(placement for placement in PLACEMENTS if placement.key in QUICK)
    return Study(data, few, QUICK_SEEDS, replace(Settings(), epochs=QUICK_EPOCHS), quick=True)
