"""docs/keras.md and docs/pytorch.md: every block of Python in them runs, one after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {
    "pytorch.md": ["torch"],
    "keras.md": ["torch", "jax", "tensorflow"],
}
NOT_OURS = (
    # As in keras_layers/conftest.py.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    # Of PyTorch's exporter to ONNX, about itself.
    "ignore:`isinstance(treespec, LeafSpec)`:FutureWarning",
)


@pytest.mark.parametrize(
    ("page", "backend"), [(page, backend) for page in PAGES for backend in PAGES[page]]
)
def test_python_runs_as_written(page: str, backend: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), flags=re.S)
    assert len(blocks) >= 7
    environment = {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    ignored = [part for warning in NOT_OURS for part in ("-W", warning)]
    command = [sys.executable, "-W", "error", *ignored, "-c", "".join(blocks)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_points_to_is_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text("utf-8")):
        assert (DOCS / target).exists(), target
