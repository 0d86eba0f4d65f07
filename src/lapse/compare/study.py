"""A study: every placement under every seed, in as many processes as there are cores."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lapse
from lapse.compare.data import Dataset
from lapse.compare.ledger import Ledger
from lapse.compare.placements import Placement
from lapse.compare.result import Run
from lapse.compare.training import Classifier, Settings, parts, step, train
from lapse.core.errors import LapseError
from lapse.engines.cpu.extension import extension

_DECIDES_NOTHING = (  # about the numbers of a run: it times or reports, or trains something else
    "bench/",
    "keras/",
    "cli.py",
    *(f"compare/{name}.py" for name in ("answer", "console", "plots", "report", "statistics")),
)


@dataclass(frozen=True)
class Study:
    """What to run: all `placements` on `data`, under `seeds` seeds from `first_seed` on."""

    data: Dataset
    placements: tuple[Placement, ...]
    seeds: int
    settings: Settings
    first_seed: int = 0

    def distinct(self) -> dict[str, Placement]:
        """By noise, the first placement that has it: the same noise is the same run."""
        first: dict[str, Placement] = {}
        for placement in self.placements:
            first.setdefault(placement.noise, placement)
        return first

    def tasks(self) -> list[tuple[str, str, int]]:
        """(placement, noise, seed) of all runs, one seed's placements together."""
        return [
            (placement.key, noise, seed)
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for noise, placement in self.distinct().items()
        ]

    def config(self, task: tuple[str, str, int]) -> dict[str, Any]:
        """All that decides the numbers of a run."""
        return {
            "data": self.data.sha256,
            "noise": task[1],
            "seed": task[2],
            "settings": asdict(self.settings),
            "versions": [lapse.__version__, torch.__version__, np.__version__],
            "code": _code(),
            "kernel": os.environ.get("LAPSE_KERNEL", "auto"),
        }


def run(study: Study, folder: Path, progress: Callable[[int, int, Run], None]) -> list[Run]:
    """Runs what the ledger in `folder` doesn't hold yet.

    Args:
        progress: called after each run with the number of finished ones, of all, and the run;
            first for those that were on disk already.

    Returns:
        The runs in the order of `study.tasks()`.
    """
    ledger = Ledger(folder)
    tasks = study.tasks()
    done: dict[tuple[str, str, int], Run] = {}
    for task in tasks:
        if (found := ledger.read(study.config(task))) is not None:
            done[task] = replace(found, placement=task[0])
            progress(len(done), len(tasks), done[task])
    missing = [task for task in tasks if task not in done]
    workers = min(len(missing), cores())
    if workers:
        # Spawned, because forked processes inherit threads that PyTorch has already started.
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _start_worker, (study, folder)
        )
        others = multiprocessing.active_children()
        try:
            with _deaf():
                futures = {pool.submit(_work, task): task for task in missing}
            for future in as_completed(futures):
                task = futures[future]
                done[task] = future.result()
                progress(len(done), len(tasks), done[task])
        except BaseException as error:
            for worker in set(multiprocessing.active_children()) - set(others):
                worker.terminate()  # what is finished is on disk; nobody waits for the rest
            if isinstance(error, BrokenProcessPool):
                raise LapseError(
                    "a training process was killed, most likely for want of memory; free some, or "
                    "give fewer or shorter sequences. The same command goes on from here."
                ) from None
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [done[task] for task in tasks]


def measure(study: Study, rounds: int = 15) -> dict[str, float]:
    """Median milliseconds of a training step by noise, on one thread.

    All placements take turns on the same batch, in this process alone, so that a machine that slows
    down slows all of them.
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


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C reaches all processes of the terminal; those started here leave it to the study."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets it, and only there it can be set
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@cache
def _code() -> str:
    """A digest of the code that decides the numbers of a run."""
    digest = hashlib.sha256()
    for path in _sources():
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _sources() -> list[Path]:
    """All files of the package but those known to decide no number of a run, and the kernels."""
    package = Path(lapse.__file__).parent
    found = [
        path
        for path in sorted(package.rglob("*.py"))
        if not path.relative_to(package).as_posix().startswith(_DECIDES_NOTHING)
    ]
    return found if (kernels := extension()) is None else [*found, Path(kernels.__file__)]


def made_with() -> dict[str, str]:
    """Versions and machine, for the record."""
    return {
        "lapse": lapse.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": _processor(),
        "cores": str(cores()),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


_study: Study
_ledger: Ledger


def _start_worker(study: Study, folder: Path) -> None:
    global _study, _ledger
    _study, _ledger = study, Ledger(folder)
    torch.set_num_threads(1)  # one run a core, and the same sums whatever the machine
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Ends this worker when the study is killed, which a worker would not notice by itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(task: tuple[str, str, int]) -> Run:
    placement, noise, seed = task
    result = train(_study.data, placement, noise, seed, _study.settings)
    _ledger.write(_study.config(task), result)
    return result
