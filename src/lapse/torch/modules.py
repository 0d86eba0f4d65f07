"""`nn.LSTM`, `nn.GRU` and `nn.RNN` with `noise=`: same signature, `state_dict` and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lapse.core.errors import LapseError
from lapse.torch.recurrent import Recurrent


class LSTM(Recurrent):
    """`torch.nn.LSTM` with noise inside.

    Takes every argument of `nn.LSTM`, and by keyword those below. Noise acts in each layer and
    direction, with separate masks; `dropout=` acts between layers as in PyTorch. The C++ kernels
    don't run `proj_size`.

    Args:
        recurrent_dropout: rate in [0, 1) of dropping what each gate reads of h, one mask per
            sequence and gate, as in Keras.
        noise: a form (`lapse.Zoneout()`), terms as text ("x:.4@BF U:.5@IO"), or a list of these,
            for all layers; or a dictionary from the number of a layer, from 0, to its noise.
        generator: the source of the seed of each training call; PyTorch's global generator if None.
            `torch.utils.checkpoint` restores only the global one, so with another one pass `masks=`
            there.
        engine: what runs the layer: "cpu" is the C++ kernels, "native" PyTorch's own kernel,
            "reference" the plain loop. "auto" chooses at each call; then the environment variable
            LAPSE_ENGINE can name an engine.

    Raises:
        LapseError: for noise that this cell can't have; in a call, for an engine that can't run it.
    """

    __module__ = "lapse.torch"
    cell = "LSTM"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(Recurrent):
    """`torch.nn.GRU` with noise inside; the extra arguments are the same as for `LSTM`."""

    __module__ = "lapse.torch"
    cell = "GRU"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("GRU", *args, **kwargs)


class RNN(Recurrent):
    """`torch.nn.RNN` with noise inside; the extra arguments are the same as for `LSTM`.

    As in PyTorch, `nonlinearity` ("tanh" or "relu") is the fourth argument or a keyword.
    """

    __module__ = "lapse.torch"
    cell = "SimpleRNN"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise LapseError(
                f"the nonlinearity {nonlinearity!r} is unknown; write 'tanh' or 'relu'."
            )
        mode = "RNN_TANH" if nonlinearity == "tanh" else "RNN_RELU"
        super().__init__(mode, input_size, hidden_size, num_layers, *args, **kwargs)
        self.nonlinearity = nonlinearity

    @property
    def _activation(self) -> Callable | None:  # type: ignore[override]
        return None if self.nonlinearity == "tanh" else torch.relu
