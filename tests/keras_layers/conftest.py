"""Sets up Keras before anything imports it; KERAS_BACKEND picks torch, jax or tensorflow."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no notes on the instructions of this processor
# Every test compiles programs of its own and runs them once. XLA_FLAGS= brings optimization back.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

HERE = Path(__file__).parent

# What Keras and the backends say of themselves; lapse can't do anything about it.
NOT_OURS = (
    # Keras's torch backend calls np.array on tensors, whose __array__ is not NumPy 2's yet.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            for warning in NOT_OURS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Layers without a seed of their own take one from Python's generator."""
    random.seed(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The arrays here are so small that threads only wait for each other."""
    if os.environ["KERAS_BACKEND"] != "torch":
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
