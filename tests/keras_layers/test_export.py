"""`model.export`: what is written down runs without lapse and gives the same numbers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras_support import BACKEND, FEATURES, TIMESTEPS, UNITS, array, close, lapse_layer, problem

import lapse.keras
from catalog import CELLS, GRU, LSTM, SIMPLE_RNN, Cell, distance
from lapse.keras.backend import exporting

# What the exporters say of themselves and of each other.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{warning}")
    for warning in (
        "`torch.jit.trace.*` is deprecated:DeprecationWarning",
        "The .grad attribute:UserWarning",
        "`torch.jit.script.*` is deprecated:DeprecationWarning",
        ":torch.jit.TracerWarning",  # of Keras's own lines; it means to leave them out
        "The feature will be removed:DeprecationWarning",
        "You are using the legacy TorchScript-based ONNX export:DeprecationWarning",
        "No complete tensor found in the group:UserWarning",
        "In the future `np.object` will be defined:FutureWarning",
        "The `native_serialization` parameter is deprecated:DeprecationWarning",
    )
]

KIND = pytest.mark.parametrize("cell", [LSTM, GRU, SIMPLE_RNN], ids=lambda cell: cell.id)

JAX2ONNX = pytest.mark.skipif(
    BACKEND == "jax" and importlib.util.find_spec("jax2onnx") is None,
    reason="Keras exports to ONNX from JAX by jax2onnx, which brings a dozen large packages",
)
FORMATS = {
    "torch": ["onnx", "torch"],
    "jax": ["tf_saved_model", pytest.param("onnx", marks=JAX2ONNX)],
    "tensorflow": ["tf_saved_model", "onnx"],
}[BACKEND]
FORMAT = pytest.mark.parametrize("form", FORMATS)

ZONEOUT = "s:0.3@BTF>prev"  # evaluation has it, too
NOISES = {"none": "", "dropout, padding": "x:0.3@BF h:0.2@BFG U:0.2@IO", "zoneout": ZONEOUT}


def padded(timesteps: int = TIMESTEPS) -> np.ndarray:
    """Sequences whose lengths differ, zeros after their ends, but for the first in its middle."""
    x = problem(LSTM, timesteps=timesteps, seed=3).x
    x[0, 2] = x[1, 4:] = x[2, 1:] = 0
    return x


def model_of(*layers: Any, timesteps: int | None = TIMESTEPS) -> Any:
    return keras.Sequential([keras.Input((timesteps, FEATURES)), *layers])


def exported(model: Any, form: str, folder: Path, **options: Any) -> Callable:
    """What runs the exported model."""
    if form == "onnx":
        path = str(folder / "model.onnx")
        model.export(path, format=form, verbose=False, **options)
        session = onnxruntime.InferenceSession(path)
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})[0]
    if form == "torch":
        import torch

        path = str(folder / "model.pt2")
        model.export(path, format=form, verbose=False, **options)
        program = torch.export.load(path)
        assert "lapse" not in str(program.graph), "the program runs only where lapse is"
        # It is for the batch of Keras's sample.
        run = program.module()
        return lambda x: np.concatenate([array(run(torch.tensor(x[n : n + 1]))) for n in range(3)])

    import tensorflow as tf

    model.export(str(folder / "model"), format=form, verbose=False, **options)
    loaded = tf.saved_model.load(str(folder / "model"))
    return lambda x: loaded.serve(x).numpy()


@FORMAT
@KIND
@pytest.mark.parametrize("noise", NOISES)
def test_an_exported_model_gives_the_numbers_of_the_model(
    form: str, cell: Cell, noise: str, tmp_path: Path
) -> None:
    masking = [keras.layers.Masking()] if "padding" in noise else []
    layer = lapse_layer(cell, NOISES[noise], return_sequences=True)
    # Dense: a model that jax2onnx makes must not end with the sequences of a layer.
    model = model_of(*masking, layer, keras.layers.Dense(5))
    x = padded()
    expected = array(model(x))
    close(exported(model, form, tmp_path)(x), expected)
    without = keras.models.clone_model(model, clone_function=_without_noise)
    without.set_weights(model.get_weights())
    assert (distance(array(without(x)), expected) > 1e-3) == (noise == "zoneout")


def _without_noise(layer: Any) -> Any:
    return type(layer).from_config(
        {name: value for name, value in layer.get_config().items() if name != "noise"}
    )


@FORMAT
@KIND
def test_bidirectional_is_exported(form: str, cell: Cell, tmp_path: Path) -> None:
    both = keras.layers.Bidirectional(
        lapse_layer(cell, "x:0.2@BTF s:0.2@BTF>prev", return_sequences=True)
    )
    model = model_of(keras.layers.Masking(), both)
    x = padded()
    expected = array(model(x))
    close(exported(model, form, tmp_path)(x), expected)


@FORMAT
def test_a_cell_in_rnn_is_exported(form: str, tmp_path: Path) -> None:
    cells = [lapse.keras.LSTMCell(UNITS, noise="h:0.2@BF"), lapse.keras.GRUCell(7, dropout=0.3)]
    model = model_of(keras.layers.RNN(cells))
    x = padded()
    expected = array(model(x))
    close(exported(model, form, tmp_path)(x), expected)


@FORMAT
@pytest.mark.skipif(
    BACKEND == "torch",
    reason="from PyTorch, Keras exports the loop for the timesteps of a sample that it makes up",
)
def test_a_model_of_any_length_is_exported_for_any_length(form: str, tmp_path: Path) -> None:
    model = model_of(keras.layers.Masking(), lapse_layer(GRU, ZONEOUT), timesteps=None)
    model(padded())
    run = exported(model, form, tmp_path)
    for timesteps in (7, 31, 5):
        x = padded(timesteps)
        close(run(x), array(model(x)), what=f"{timesteps} steps")


@pytest.mark.skipif(BACKEND != "torch", reason="only Keras on PyTorch has two exporters to ONNX")
@pytest.mark.filterwarnings("ignore")  # Keras takes a warning that is an error for a failure
def test_pytorch_s_other_exporter_takes_sizes_that_are_known(tmp_path: Path) -> None:
    """Keras asks for it where the signature has no unknown size, and hides where it fails."""
    import torch

    asked, real = [], torch.onnx.export

    def export(*args: Any, **options: Any) -> Any:
        asked.append(options["dynamo"])
        return real(*args, **options)

    model = model_of(keras.layers.Masking(), lapse_layer(LSTM, ZONEOUT))
    x = padded()
    expected = array(model(x))
    sizes = [keras.InputSpec(shape=x.shape, dtype="float32")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", export)
        run = exported(model, "onnx", tmp_path, input_signature=sizes)
    assert asked == [True], "the first exporter failed, and Keras took the other one"
    close(run(x), expected)


@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch exports by ONNX's own operators")
@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize(
    ("cell", "backwards"),
    [*((cell, False) for cell in CELLS), (CELLS[0], True)],
    ids=lambda value: getattr(value, "id", str(value)),
)
def test_evaluation_without_factors_is_one_operator(
    cell: Cell, backwards: bool, tmp_path: Path
) -> None:
    """Padding anywhere, which Keras allows, is not for this operator."""
    layer = lapse_layer(cell, "x:0.3@BF", return_sequences=True, go_backwards=backwards)
    x = padded()
    sizes = [keras.InputSpec(shape=x.shape, dtype="float32")]
    for masking in ([], [keras.layers.Masking()]):
        model = model_of(*masking, layer)
        expected = array(model(x))
        close(exported(model, "onnx", tmp_path, input_signature=sizes)(x), expected)
        operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
        assert bool(operators & {"LSTM", "GRU", "RNN"}) == (not masking)


@FORMAT
def test_an_engine_that_is_asked_for_can_t_be_exported(form: str, tmp_path: Path) -> None:
    model = model_of(lapse_layer(LSTM, engine="cpu"))
    model(padded())
    # PyTorch's exporter wraps the error in one of its own.
    with pytest.raises(Exception, match=r"engine='cpu' asks for .* the model is exported"):
        exported(model, form, tmp_path)


# How a layer knows.


class Asks(keras.layers.Layer):
    """Asks at each call, and keeps the answers."""

    def __init__(self, answers: list[bool]) -> None:
        super().__init__()
        self.give = answers.append

    def call(self, x: Any) -> Any:
        self.give(exporting())
        return x


@pytest.fixture
def answers() -> list[bool]:
    return []


@pytest.fixture
def asking(answers: list[bool]) -> Any:
    """A model with a layer that asks, a layer inside a layer that asks, and one to train."""
    dense = keras.layers.TimeDistributed(keras.layers.Dense(1))
    model = model_of(Asks(answers), keras.Sequential([Asks(answers)]), dense)
    model.compile("sgd", "mse")
    answers.clear()
    return model


def all_say(answers: list[bool], expected: bool) -> None:
    assert answers and set(answers) == {expected}
    answers.clear()


def test_a_model_that_runs_is_not_exported(asking: Any, answers: list[bool]) -> None:
    x = padded()
    y = np.zeros((*x.shape[:2], 1))
    for run in (
        lambda: asking(x),
        lambda: asking.fit(x, y, verbose=0),
        lambda: asking.evaluate(x, y, verbose=0),
        lambda: asking.predict(x, verbose=0),
        lambda: asking.train_on_batch(x, y),
    ):
        run()
        all_say(answers, False)


@FORMAT
def test_a_layer_knows_that_its_model_is_exported(
    form: str, asking: Any, answers: list[bool], tmp_path: Path
) -> None:
    x = padded()
    asking.predict(x, verbose=0)  # what was compiled to run must not be exported
    answers.clear()
    exported(asking, form, tmp_path)
    all_say(answers, True)
    asking(x)
    all_say(answers, False)


def test_a_layer_knows_that_the_backend_exports_its_model(
    asking: Any, answers: list[bool], tmp_path: Path
) -> None:
    """Without Keras's own functions for it."""
    x = padded()
    if BACKEND == "torch":
        import torch

        torch.jit.trace(asking, torch.tensor(x), check_trace=False)  # which would run it
        all_say(answers, True)
        torch.export.export(asking, (torch.tensor(x),), strict=False)
    elif BACKEND == "jax":
        import jax
        from jax.experimental import jax2tf

        jax.export.export(jax.jit(lambda x: asking(x)))(x)
        all_say(answers, True)
        jax2tf.convert(lambda x: asking(x))(x)
    else:
        import tensorflow as tf

        tf.saved_model.save(asking, str(tmp_path / "model"))
    all_say(answers, True)
