"""Runs a study's training runs in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path

import torch

from lapse.compare.ledger import Ledger
from lapse.compare.result import Run
from lapse.compare.study import Study, Task
from lapse.compare.training import train
from lapse.core.errors import LapseError
from lapse.machine import cores


def run(study: Study, folder: Path, progress: Callable[[int, int, Run], None]) -> list[Run]:
    """Trains every run that is not yet in the ledger in `folder`.

    Args:
        progress: called after each run with the number of finished runs, the number of all runs,
            and the run; first for those that are already on disk.

    Returns:
        The runs in the order of `study.tasks()`.

    Raises:
        LapseError: if a run fails, or a worker process is killed.
    """
    ledger = Ledger(folder)
    tasks = study.tasks()
    done: dict[Task, Run] = {}
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
            with _ignoring_interrupts():
                futures = {pool.submit(_work, task): task for task in missing}
            for future in as_completed(futures):
                task = futures[future]
                done[task] = future.result()
                progress(len(done), len(tasks), done[task])
        except BaseException as error:
            for worker in set(multiprocessing.active_children()) - set(others):
                worker.terminate()  # finished runs are on disk, and nobody waits for the others
            if isinstance(error, BrokenProcessPool):
                raise LapseError(
                    "a training process was killed, probably because memory ran out; free some "
                    "memory, or use fewer or shorter sequences. The same command continues from "
                    "here."
                ) from None
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [done[task] for task in tasks]


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which the terminal sends to all; this process stops."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives it, and only there the handler can be set
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_study: Study
_ledger: Ledger


def _start_worker(study: Study, folder: Path) -> None:
    global _study, _ledger
    _study, _ledger = study, Ledger(folder)
    torch.set_num_threads(1)  # one run per core, and sums in the same order on every machine
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Ends this worker when the study is killed, which a worker would not notice by itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(task: Task) -> Run:
    placement, noise, seed = task
    result = train(_study.data, placement, noise, seed, _study.settings)
    _ledger.write(_study.config(task), result)
    return result
