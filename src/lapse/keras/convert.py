"""Models of Keras's recurrent layers as models of lapse's, and back."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras

from lapse.core.errors import LapseError, outside
from lapse.core.forms import KerasDropout
from lapse.core.noise import Term, collect, text_of
from lapse.core.plan import Plan, expected_rows
from lapse.keras import cells, dropout, layers
from lapse.keras.keep_noise import KeepsNoise
from lapse.keras.private import layers_inside
from lapse.keras.unconverted import refusal, unconverted

_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(layers.LSTM, layers.GRU, layers.SimpleRNN),
        *(cells.LSTMCell, cells.GRUCell, cells.SimpleRNNCell),
    )
}
_DROPOUT: dict[str, Any] = {
    kind.__name__: kind for kind in (dropout.Dropout, dropout.SpatialDropout1D)
}
_SHARED = {"BTF": None, "BF": (None, 1, None), "BT": (None, None, 1)}  # as Keras's noise_shape
Config = dict[str, Any]


def convert(model: Any, noise: Any = None) -> Any:
    """A copy of a model with lapse's layers and cells in place of Keras's.

    `LSTM`, `GRU`, `SimpleRNN`, their cells, `Dropout` and `SpatialDropout1D` are exchanged, also
    inside `Bidirectional`, `RNN`, `TimeDistributed` and models inside the model. Names, weights and
    predictions are the same. All other layers are copied as `keras.models.clone_model` does, and
    the copy of a compiled model is compiled, with a new optimizer.

    Args:
        model: a Sequential or functional model, or a layer.
        noise: for each recurrent layer and cell that is exchanged, besides its `dropout` and
            `recurrent_dropout`; as for `lapse.keras.LSTM`.

    Warns:
        UserWarning: names the recurrent and Dropout layers that stay Keras's, each with the reason:
            classes derived from Keras's, layers made inside a custom layer, custom cells, ConvLSTM,
            and layers with a rate of 1, which lapse refuses.

    Raises:
        LapseError: for a subclassed model, for anything that is not a layer, for noise that one of
            the layers can't have, and for noise where no layer can take it.
    """
    text = text_of(collect(noise))
    takes_noise = False

    def exchanged(config: Config) -> Config:
        nonlocal takes_noise
        kind = (_KINDS | _DROPOUT).get(config["class_name"])
        if config["module"] != "keras.layers" or kind is None or refusal(config["config"]):
            return config
        inner = config["config"]
        if config["class_name"] in _KINDS:
            takes_noise = True
            inner = {**inner, "noise": text}
        name = keras.saving.get_registered_name(kind)
        found = {"module": kind.__module__, "registered_name": name, "config": inner}
        return {**config, **found}

    made = _copy(model, exchanged)
    left = "; ".join(unconverted(made))
    if text and not takes_noise:
        raise LapseError(
            f"{model.name} has no recurrent layer or cell of Keras's that could take the noise "
            f"(lapse's own keep their noise{left and f', and these are not converted: {left}'}); "
            "give noise= where the layer is made."
        )
    if left:
        warnings.warn(f"These layers stay Keras's: {left}.", UserWarning, stacklevel=outside())
    return made


def to_native(model: Any) -> Any:
    """A copy of a model with Keras's own layers and cells in place of lapse's, to deploy where
    lapse is not installed.

    Names, weights and predictions are the same. `dropout`, `recurrent_dropout` and Dropout layers
    stay, and so does noise that is the same as these two arguments, such as `lapse.KerasDropout` or
    `lapse.SpatialDropout`. Other noise is left out, because evaluation does not need it.

    Args:
        model: a Sequential or functional model, or a layer.

    Raises:
        LapseError: for a subclassed model, for noise that acts in evaluation, as zoneout does, and
            for Dropout layers that Keras does not have.
    """

    def exchanged(config: Config) -> Config:
        if not str(config["registered_name"]).startswith("lapse>"):
            return config
        kind, inner = config["class_name"], dict(config["config"])
        if kind in _KINDS:
            made: Plan = _KINDS[kind].from_config(inner).plan
            if any(factor is not None for factor in made.expected):
                _refuse(inner["name"], made.terms)
            inner.update(_rates(made.terms))
        if kind == "Embedding" and expected_rows(collect(inner["noise"])) != 1:
            _refuse(inner["name"], collect(inner["noise"]))
        if kind in ("Dropout", "TimestepDropout"):
            kind, inner = "Dropout", _shared(inner)
        for added in ("noise", "engine", *(["seed"] if kind == "Embedding" else [])):
            inner.pop(added, None)
        found = {"module": "keras.layers", "class_name": kind, "registered_name": None}
        return {**config, **found, "config": inner}

    return _copy(model, exchanged)


def _refuse(name: str, terms: tuple[Term, ...]) -> None:
    raise LapseError(
        f"{name} has the noise {text_of(terms)}, which acts in evaluation too, and Keras's own "
        "layer has no such noise; train without it to convert the model."
    )


def _rates(terms: tuple[Term, ...]) -> Config:
    """`dropout` and `recurrent_dropout` for noise that is the same as these two; else nothing."""
    rates = {term.site: term.probability for term in terms}
    if not rates.keys() <= {"x", "h"}:
        return {}
    dropout, recurrent = rates.get("x", 0.0), rates.get("h", 0.0)
    same = Counter(KerasDropout(dropout, recurrent).terms) == Counter(terms)
    return {"dropout": dropout, "recurrent_dropout": recurrent} if same else {}


def _shared(config: Config) -> Config:
    """The config of Keras's Dropout, from the config of a Dropout layer of lapse."""
    over, scale = config.pop("over", "BT"), config.pop("scale")
    if over not in _SHARED or scale != "inv":
        raise LapseError(
            f"{config['name']} drops over {over} with the scale {scale}, which Keras's Dropout "
            "does not have; write over='BTF', 'BF' or 'BT' and scale='inv' to convert the model."
        )
    return {**config, "noise_shape": config.get("noise_shape") or _SHARED[over]}


def _copy(model: Any, exchanged: Callable[[Config], Config]) -> Any:
    def copied(layer: Any) -> Any:
        config = keras.saving.serialize_keras_object(layer)
        found = _everywhere(config, exchanged)
        if found == _everywhere(config, lambda same: same):
            return type(layer).from_config(layer.get_config())
        return keras.saving.deserialize_keras_object(found)

    if not isinstance(model, keras.Layer):
        raise LapseError(f"{model!r} was given, which is not a model or layer of Keras; give one.")
    if not isinstance(model, keras.Model):
        made = copied(model)
        if model.built:
            made.build_from_config(model.get_build_config())
    elif isinstance(model, keras.Sequential) or hasattr(model, "operations"):
        calls = {} if isinstance(model, keras.Sequential) else {"call_function": _called}
        made = keras.models.clone_model(model, clone_function=copied, recursive=True, **calls)
    else:
        raise LapseError(
            f"{type(model).__name__} is a subclassed model, which makes its layers in its own "
            "code; change the import there, and load the weights."
        )
    if len(made.weights) != len(model.weights):
        raise LapseError(
            f"{model.name} has a layer or cell inside several other layers, and the copy of each "
            "would have a layer or cell of its own; share the outer layer instead."
        )
    if model.built:
        made.set_weights(model.get_weights())
        for mine, theirs in zip(_states(made), _states(model), strict=True):
            mine.assign(theirs)
    return made


def _states(model: Any) -> list[Any]:
    """The states of the stateful layers, which are not among the weights."""
    inside = (one for one in layers_inside(model) if isinstance(one, keras.layers.RNN))
    return [state for one in inside if one.stateful for state in keras.tree.flatten(one.states)]


def _called(layer: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(layer, KeepsNoise) and kwargs.pop("keep_noise", False):
        kwargs["training"] = True
    return layer(*args, **kwargs)


def _everywhere(config: Any, exchanged: Callable[[Config], Config]) -> Any:
    """A nested config with each serialized object exchanged, the inner ones first."""
    if isinstance(config, (list, tuple)):
        return type(config)(_everywhere(part, exchanged) for part in config)
    if not isinstance(config, dict):
        return config
    # Without build_config, because the model builds a layer where it calls it, under its name.
    config = {
        name: _everywhere(part, exchanged)
        for name, part in config.items()
        if name != "build_config"
    }
    return exchanged(config) if {"module", "class_name", "config"} <= config.keys() else config
