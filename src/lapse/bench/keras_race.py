"""Times Keras's layers and lapse's on every backend, each backend in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from lapse.bench.cases import Shape
from lapse.bench.timing import interleave

BACKENDS = ("torch", "jax", "tensorflow")


@dataclass
class Race:
    """Results by name, such as "Keras on torch" or "lapse on torch".

    Attributes:
        times: seconds of each training step.
        errors: of lapse's layers, against the reference loop.
        missing: why something was not measured.
    """

    times: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class Stopped(Exception):
    """A worker process has ended early; the message has its last line of output."""


class Worker:
    """A process that runs `keras_worker`."""

    def __init__(self, backend: str, log: Any) -> None:
        self.backend, self.log = backend, log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lapse.bench.keras_worker"],
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def ask(self, question: Any) -> Any:
        """Sends a question as one line of JSON and returns the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):  # the process has ended; its log says why
            print(json.dumps(question), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            last = self.log.read().strip().splitlines()[-1:]
            raise Stopped(f"Keras on {self.backend} stopped: {' '.join(last)}")
        return json.loads(line)


@contextmanager
def worker(backend: str) -> Iterator[Worker]:
    """A worker that ends with the block."""
    with tempfile.TemporaryFile("w+") as log:
        started = Worker(backend, log)
        try:
            yield started
        finally:
            started.process.kill()
            started.process.communicate()


def not_installed(backend: str) -> str | None:
    """Why a backend can't run; None if it can."""
    for package in ("keras", backend):
        if find_spec(package) is None:
            return f"{package} is not installed"
    return None


def race(cell: str, shape: Shape, seconds: float, threads: int) -> Race:
    """Times all backends in turns: while one runs a step, the others wait for input."""
    found = Race()
    steps: dict[str, Callable[[], Any]] = {}
    with ExitStack() as stack:
        for backend in BACKENDS:
            names = {f"Keras on {backend}": False, f"lapse on {backend}": True}
            models = [(name, ours, cell, shape) for name, ours in names.items()]
            why = not_installed(backend)
            if why is None:
                asked = stack.enter_context(worker(backend))
                try:
                    found.errors |= asked.ask({"threads": threads, "models": models})
                except Stopped as stopped:
                    why = str(stopped)
            if why is None:
                steps |= {name: partial(asked.ask, name) for name in names}
            else:
                found.missing |= dict.fromkeys(names, why)
        if steps:
            found.times = interleave(steps, seconds)
    return found
