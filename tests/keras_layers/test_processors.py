"""Training and prediction come to an end on one processor, on several, and beside other work.

Each in a process of its own, because a backend makes its threads once, and because a process that
hangs can be ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="only Linux gives a process its processors"
)

# On one processor this size hung in each of six runs, when JAX's arrays came into the callback.
SCRIPT = """
import os, sys

os.sched_setaffinity(0, set(map(int, sys.argv[1].split(","))))
import keras
import numpy as np
from lapse import keras as ours

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(128, 100, 32)).astype("float32"), rng.normal(size=(128, 1))


def model(layer):
    made = keras.Sequential([keras.Input((100, 32)), layer, keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


for kind in (ours.GRU, ours.LSTM, ours.SimpleRNN):
    trained = model(kind(32, dropout=0.2, recurrent_dropout=0.2, engine="cpu"))
    assert np.isfinite(trained.fit(x, y, epochs=2, verbose=0).history["loss"]).all()
    plain = model(kind.from_config({**trained.layers[0].get_config(), "engine": "reference"}))
    plain.set_weights(trained.get_weights())
    found, wanted = (one.predict(x, verbose=0) for one in (trained, plain))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
"""
PATIENCE = 240  # seconds; it takes some ten, and beside other work more


@contextmanager
def load(processors: list[int], count: int) -> Iterator[None]:
    """Processes that keep these processors busy."""
    spin = f"import os; os.sched_setaffinity(0, {set(processors)})\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(("count", "busy"), [(1, 0), (1, 1), (2, 0)])
def test_models_train_and_predict(count: int, busy: int) -> None:
    processors = sorted(os.sched_getaffinity(0))[:count]
    if len(processors) < count:
        pytest.skip(f"this machine lends {len(processors)} processors, and {count} are meant")
    places = ",".join(map(str, processors))
    with load(processors, busy):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, places],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert run.returncode == 0, run.stderr[-2000:]
