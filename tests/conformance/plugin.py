"""Runs Keras's own tests of recurrent and dropout layers with lapse's classes in their place."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest

import lapse.keras

OURS = (
    "LSTM", "GRU", "SimpleRNN", "LSTMCell", "GRUCell", "SimpleRNNCell", "Dropout",
    "SpatialDropout1D",
)  # fmt: skip

FILES = (
    "rnn/lstm", "rnn/gru", "rnn/simple_rnn", "rnn/rnn", "rnn/stacked_rnn_cells",
    "rnn/dropout_rnn_cell", "rnn/bidirectional", "rnn/time_distributed", "core/masking",
    "regularization/dropout", "regularization/spatial_dropout", "regularization/alpha_dropout",
    "regularization/gaussian_dropout", "regularization/gaussian_noise",
    "regularization/activity_regularization",
)  # fmt: skip

SKIPS = {
    "test_fused_lstm_eligibility": "asks for Keras's vendor kernel, which knows no noise",
    "test_fused_gru_eligibility": "asks for Keras's vendor kernel, which knows no noise",
    "test_keeps_use_cudnn": "use_cudnn=True is an error here: lapse runs no cuDNN kernel",
}

calls: Counter[str] = Counter()


def _counted(name: str) -> type:
    """The class that Keras's tests find under a name, its calls counted."""
    ours: Any = getattr(lapse.keras, name)
    call = ours.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return call(self, *args, **kwargs)

    ours.__call__ = counted
    return ours  # type: ignore[no-any-return]


def pytest_load_initial_conftests(args: list[str]) -> None:
    layers = Path(keras.__file__).parent / "src" / "layers"
    args += [str(layers / f"{name}_test.py") for name in FILES]


def pytest_configure(config: pytest.Config) -> None:
    for marker in ("requires_trainable_backend", "multi_device"):
        config.addinivalue_line("markers", f"{marker}: of Keras's own tests")
    for name in OURS:
        ours = _counted(name)
        for module in (keras.layers, keras.src.layers):
            setattr(module, name, ours)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = {item.name for item in items}
    if gone := SKIPS.keys() - names:
        raise pytest.UsageError(f"Keras has no such tests any more: {', '.join(sorted(gone))}.")
    for item in items:
        if item.name in SKIPS:
            item.add_marker(pytest.mark.skip(reason=SKIPS[item.name]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    print(f"\ncalls: {', '.join(f'{name} {calls[name]}' for name in OURS)}")
    if not all(calls[name] for name in OURS):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
