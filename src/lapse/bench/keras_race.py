"""Keras's own layers on every backend, and lapse's: each backend in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from lapse.bench.cases import S1, S2, Shape
from lapse.bench.timing import interleave

BACKENDS = ("torch", "jax", "tensorflow")
SIZES = {"S1": S1, "S2": S2}
OURS = "lapse"


class Worker:
    """A process of `keras_worker`."""

    def __init__(self, backend: str, errors: Any) -> None:
        self.backend, self.errors = backend, errors
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lapse.bench.keras_worker"],
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def ask(self, question: Any) -> Any:
        """Sends a line, and waits for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):  # the process has ended; what it said last tells why
            print(json.dumps(question), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()[-1:]
            raise RuntimeError(f"Keras on {self.backend} stopped: {' '.join(last)}")
        return json.loads(line)


@contextmanager
def worker(backend: str, models: list) -> Iterator[Worker]:
    """A worker that has built its models; it ends with the block."""
    with tempfile.TemporaryFile("w+") as errors:
        started = Worker(backend, errors)
        try:
            started.ask(models)
            yield started
        finally:
            started.process.kill()
            started.process.communicate()


def missing(backend: str) -> str | None:
    """Why a backend can't be measured; None if it can."""
    for package in ("keras", backend):
        if find_spec(package) is None:
            return f"{package} is not installed"
    return None


def race(cell: str, shape: Shape, seconds: float) -> tuple[dict[str, list[float]], float]:
    """Seconds of each training step, by name; and how far lapse lies from Keras.

    The processes take turns: while one runs a step, the others wait for their line.
    """
    with ExitStack() as stack:
        steps: dict[str, Callable[[], Any]] = {}
        apart = 0.0
        for backend in BACKENDS:
            if missing(backend):
                continue
            names = {f"Keras on {backend}": False, **({OURS: True} if backend == "torch" else {})}
            models = [(name, ours, cell, shape) for name, ours in names.items()]
            asked = stack.enter_context(worker(backend, models))
            if backend == "torch":
                apart = asked.ask("check")
            for name in names:
                steps[name] = partial(asked.ask, name)
        return interleave(steps, seconds), apart
