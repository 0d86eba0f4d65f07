"""What README shows is what happens: its Python runs, its error is the real one, its table too."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lapse
from lapse.core.forms import FORMS
from lapse.core.noise import collect
from lapse.torch import LSTM

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_runs_as_written(number, tmp_path):
    environment = {"KERAS_BACKEND": "torch", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    # Keras's torch backend calls np.array on tensors, whose __array__ is not NumPy 2's yet.
    not_ours = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    command = [sys.executable, "-W", "error", "-W", not_ours, "-c", BLOCKS[number]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def test_there_are_blocks_for_keras_and_one_for_pytorch():
    assert ["lapse.keras" in block for block in BLOCKS] == [True, False, True]
    assert ["lapse.torch" in block for block in BLOCKS] == [False, True, False]


def test_the_error_is_the_real_one():
    shown = re.search(r'>>> LSTM\(128, noise="(.*?)"\)\nLapseError: (.*?)```', README, flags=re.S)
    with pytest.raises(lapse.LapseError) as raised:
        lapse.parse(shown[1])
    assert " ".join(shown[2].split()) == str(raised.value)


def test_the_explanation_is_the_real_one():
    shown = re.search(r">>> print\(lapse\.explain\((.*?)\)\)\n(.*?)```", README, flags=re.S)
    said = lapse.explain(eval(shown[1], {"LSTM": LSTM}))
    kernels = re.compile(r"kernels \(\w+\)")
    assert kernels.sub("", said) == kernels.sub("", shown[2].rstrip())


def test_terms_of_the_table_are_those_of_the_forms():
    for row in re.findall(r"^\| .*noise=(lapse\.\w+\([^)]*\)).*`([^`]*)` \|$", README, flags=re.M):
        name, rates = re.fullmatch(r"lapse\.(\w+)\((.*)\)", row[0]).groups()
        form = getattr(lapse, name)(*map(float, rates.split(", ")))
        assert " ".join(map(str, form.terms)) == row[1]
    keras = re.findall(r"^\| `LSTM\((\w+)=0.5\)`.*`([^`]*)` \|$", README, flags=re.M)
    assert len(keras) == 2
    for argument, terms in keras:
        assert " ".join(map(str, collect(lapse.KerasDropout(**{argument: 0.5})))) == terms


def test_every_form_is_named():
    for form in FORMS:
        assert form.__name__ in README
