"""Noise that stays on in evaluation: `mc_dropout`, and the passes that `lapse.predict` makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import keras
import numpy as np
from keras import layers

from lapse.core.errors import LapseError
from lapse.keras.backend import BACKEND
from lapse.keras.keep_noise import KeepsNoise
from lapse.keras.private import call_context, layers_inside, seed_generators

_STOCK = (
    *(layers.Dropout, layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.LSTM, layers.GRU, layers.SimpleRNN),
    *(layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell),
    *(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D),
    layers.Attention,  # MultiHeadAttention has a Dropout layer
)
_RATES = ("rate", "stddev", "dropout", "recurrent_dropout")


@contextmanager
def mc_dropout(model: keras.Layer) -> Iterator[None]:
    """Keeps the noise of a model on in evaluation, and changes nothing else (Gal, Ghahramani 2016,
    arXiv:1506.02142; for recurrent layers arXiv:1512.05287).

        with lapse.keras.mc_dropout(model):
            one, other = model.predict(x), model(x)  # two draws

    It acts on `model(x)`, `model(x, training=False)`, `predict` and `evaluate`, of this model and
    of models inside it; the last two are compiled again inside the block, and once more after it.
    An outer model may have compiled them already: then give the outer model. Batch normalization
    uses its moving averages and keeps them. After the block, also after an error, the model is as
    before.

    Noise means lapse's layers and cells, `keras.layers.Dropout` and its relatives, `GaussianNoise`,
    recurrent layers and cells and attention, anywhere in the model, and classes derived from them.
    A layer that calls `keras.random.dropout` itself is not found: give it a `Dropout` layer. Layers
    that augment images stay as in evaluation.

    Args:
        model: a model or a layer, built.

    Raises:
        LapseError: for a model without noise or not yet built, and for anything that is not a
            layer.
    """
    if not isinstance(model, keras.Layer):
        raise LapseError(f"{model!r} was given, which is not a model or layer of Keras; give one.")
    if not model.built:
        raise LapseError(
            f"{model.name} is not built yet, so some of its layers may be missing; call it once."
        )
    everything = layers_inside(model)
    noisy = [layer for layer in everything if _noisy(layer)]
    if not noisy:
        raise LapseError(
            f"{model.name} has no noise to keep on: no lapse layer with noise, and no Dropout, "
            "recurrent or attention layer with a rate above 0; add one, and train with it."
        )
    models = [layer for layer in everything if isinstance(layer, keras.Model)]
    with ExitStack() as stack:
        stack.callback(_compile_anew, models)
        for layer in noisy:
            stack.enter_context(_kept(layer))
        _compile_anew(models)
        yield


def _noisy(layer: keras.Layer) -> bool:
    if isinstance(layer, KeepsNoise):
        return layer.noisy
    return isinstance(layer, _STOCK) and any(getattr(layer, name, 0) for name in _RATES)


@contextmanager
def _kept(layer: keras.Layer) -> Iterator[None]:
    """Sets an attribute of lapse's layers; of Keras's it hides the `call` of their class."""
    added: dict[str, Any] = {}
    if isinstance(layer, KeepsNoise):
        added["keep_noise"] = True
    elif "training" in layer.call_signature_parameters:  # else it always draws
        added["call"] = _training(layer)
    own = vars(layer)  # not by setattr, by which Keras tracks the parts of a layer
    before = {name: own[name] for name in added if name in own}
    own.update(added)
    try:
        yield
    finally:
        for name in added:
            del own[name]
        own.update(before)


def _training(layer: keras.Layer) -> Callable:
    call: Callable = layer.call

    @wraps(call)
    def trained(*args: Any, **kwargs: Any) -> Any:
        # A recurrent layer passes `training` to its cell, and Keras then stores it in the context
        # of the outermost call, where later layers read it.
        context = call_context(layer)
        before = context.get_value("training")
        try:
            return call(*args, **{**kwargs, "training": True})
        finally:
            context.set_value("training", before)

    return trained


def _compile_anew(models: list[keras.Model]) -> None:
    for model in models:
        model.predict_function = model.test_function = None


@contextmanager
def noisy_passes(
    model: keras.Layer, x: Any, batch_size: int | None, seed: int | None
) -> Iterator[Callable[[], np.ndarray]]:
    """Gives a function that passes `x` through the model once with noise; see `lapse.predict`."""
    if not isinstance(model, keras.Model):
        raise LapseError(
            f"{type(model).__name__} was given, which is a layer, and predict needs a model; write "
            "keras.Sequential([layer])."
        )
    for part in keras.tree.flatten(x):
        if not (hasattr(part, "shape") and hasattr(part, "dtype")):
            raise LapseError(
                f"{type(part).__name__} was given as an input, and its samples must be the same in "
                "each pass; give arrays or tensors, or a list or dictionary of these."
            )
    everything = layers_inside(model)
    recurrent = [one for one in everything if isinstance(one, layers.RNN) and one.stateful]
    states = keras.tree.flatten([one.states for one in recurrent])
    generators = {id(one): one for layer in everything for one in seed_generators(layer)}

    def draw() -> np.ndarray:
        with _restored(states):
            found = model.predict(x, batch_size=batch_size, verbose=0)
        if not isinstance(found, np.ndarray):
            raise LapseError(
                f"{model.name} has several outputs, and predict needs one; write "
                "keras.Model(model.inputs, output) for one of them."
            )
        return found.astype(np.float64)

    with mc_dropout(model), _seeded(list(generators.values()), seed):
        yield draw


@contextmanager
def _seeded(generators: list[keras.random.SeedGenerator], seed: int | None) -> Iterator[None]:
    """Sets the generators of a model's layers, and afterwards restores them."""
    if seed is None:
        yield
        return
    # Halved, because on some backends a seed is a signed number.
    first, *words = np.random.SeedSequence(seed).generate_state(1 + len(generators)) >> 1
    with _restored([one.state for one in generators]), BACKEND.seeded(int(first)):
        for generator, word in zip(generators, words, strict=True):
            generator.state.assign(np.array([word, 0], generator.state.dtype))
        yield


@contextmanager
def _restored(variables: Iterable[Any]) -> Iterator[None]:
    before = [(one, np.array(keras.ops.convert_to_numpy(one))) for one in variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)
