"""Measures the time of a training step for each placement."""

from __future__ import annotations

import time

import numpy as np
import torch

from lapse.compare.study import Study
from lapse.compare.training import Classifier, parts, step


def measure(study: Study, rounds: int = 15) -> dict[str, float]:
    """Median milliseconds of a training step by noise, on one thread.

    All placements take turns on the same batch in this process, so that a slow phase of the machine
    affects all of them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fit, _, _ = parts(study.data, 0, study.settings)
    x, lengths, labels = fit.take(np.arange(min(study.settings.batch, len(fit.labels))))
    models = {}
    for noise in study.distinct():
        model = Classifier(x.shape[2], len(study.data.classes), study.settings.units, noise).eval()
        models[noise] = model, torch.optim.Adam(model.parameters())
    times: dict[str, list[float]] = {noise: [] for noise in models}
    for turn in range(rounds + 2):
        for noise, (model, optimizer) in models.items():
            start = time.perf_counter()
            step(model, optimizer, x, lengths, labels, turn)
            times[noise].append(1000 * (time.perf_counter() - start))
    torch.set_num_threads(threads)
    return {noise: float(np.median(taken[2:])) for noise, taken in times.items()}
