"""Which layers of Keras `convert` leaves, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

from lapse.keras.keep_noise import KeepsNoise
from lapse.keras.private import layers_inside

_RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN)
_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
_DROPOUT = (layers.SpatialDropout1D, layers.Dropout)
_CONVOLUTIONAL = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)


def refusal(config: dict[str, Any]) -> str | None:
    """What lapse's layer refuses in the config of Keras's layer, in words; None if nothing."""
    for name in ("rate", "dropout", "recurrent_dropout"):
        if not 0 <= config.get(name, 0) < 1:
            return f"it has {name}={config[name]}, and lapse takes rates in [0, 1)"
    return None


def unconverted(model: Any) -> list[str]:
    """Keras's layers that are still in a converted model, each with the reason."""
    found, hidden = [], _inside_keras(model)
    for layer in layers_inside(model):
        if id(layer) in hidden:
            continue
        for part in _parts(layer, alone=layer is model):
            why = _why(part)
            if why is not None:
                found.append(f"{part.name} ({type(part).__name__}): {why}")
    return found


def _inside_keras(model: Any) -> set[int]:
    """Layers that Keras's own layers make, as attention makes a Dropout layer."""
    return {
        id(inner)
        for layer in layers_inside(model)
        if type(layer).__module__.startswith("keras.") and not _holds_others(layer)
        for inner in layers_inside(layer, include_self=False)
    }


def _holds_others(layer: Any) -> bool:
    """Whether the parts of a layer are given by the user."""
    return isinstance(layer, (keras.Model, layers.Wrapper, layers.Bidirectional, layers.RNN))


def _parts(layer: Any, alone: bool) -> Iterator[Any]:
    """The layer; of a `keras.layers.RNN` its cells, because other layers' cells are Keras's own."""
    is_cell = hasattr(layer, "state_size") and not isinstance(layer, layers.RNN)
    if type(layer) is layers.RNN:
        yield from _cells(layer.cell)
    elif is_cell and alone:
        yield from _cells(layer)
    elif not is_cell:
        yield layer


def _cells(cell: Any) -> Iterator[Any]:
    if isinstance(cell, layers.StackedRNNCells):
        for one in cell.cells:
            yield from _cells(one)
    else:
        yield cell


def _why(part: Any) -> str | None:
    kind = type(part)
    if isinstance(part, KeepsNoise):
        return None
    if isinstance(part, _CONVOLUTIONAL):
        return "lapse has no convolutional recurrent layers"
    for base in (*_RECURRENT, *_CELLS, *_DROPOUT):
        if kind is base:
            inside = "it is made inside a custom layer, which can make lapse's instead"
            return refusal(part.get_config()) or inside
        if isinstance(part, base):
            of_keras = kind.__module__.startswith("keras.")  # such as SpatialDropout2D
            own = f"a custom class, which can be derived from lapse.keras.{base.__name__} instead"
            return None if of_keras else own
    if isinstance(part, layers.RNN):
        return "a custom class, derived from keras.layers.RNN"
    if hasattr(part, "state_size"):
        return "a custom cell, and lapse has only LSTMCell, GRUCell and SimpleRNNCell"
    return None
