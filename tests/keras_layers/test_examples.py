"""The examples run as written, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name):
    """What an example prints, under the backend of this test run."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gru_with_dropout():
    before, after = map(
        float, re.search(r"before (\S+), after (\S+)", run("gru_with_dropout.py")).groups()
    )
    assert after < 0.8 * before


def test_sequence_classification():
    accuracy = float(re.search(r"test accuracy (\S+)", run("sequence_classification.py"))[1])
    assert accuracy > 0.7


@pytest.mark.parametrize(
    "line",
    [
        "model = Sequential()",
        "model.add(Dropout(0.5))",
        "model.add(GRU(units=512, return_sequences=True, dropout=0.5, "
        "input_shape=(None, features_size)))",
    ],
)
def test_the_question_stands_as_it_is_asked(line):
    assert line in (EXAMPLES / "gru_with_dropout.py").read_text().splitlines()
