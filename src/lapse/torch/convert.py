"""Models of PyTorch's recurrent modules as models of lapse's, and back."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from lapse.errors import LapseError
from lapse.torch.modules import GRU, LSTM, RNN

_OURS: dict[type, type] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_ADDED = ("recurrent_dropout", "generator", "kernel", "noise", "_between", "_ones")


def convert(model: nn.Module, noise: Any = None, recurrent_dropout: float = 0.0) -> nn.Module:
    """A copy of a model with lapse's modules in the place of `nn.LSTM`, `nn.GRU` and `nn.RNN`.

    Weights, hooks and all else are copied as they are, so that evaluation gives the same unless the
    noise acts in it. Subclasses of the three stay what they are, those that parametrizations make
    among them.

    Args:
        model: any module; it stays unchanged.
        noise, recurrent_dropout: of each module that is exchanged, as for `lapse.torch.LSTM`.

    Raises:
        LapseError: for noise that one of the modules can't have.
    """
    made = copy.deepcopy(model)
    for module in made.modules():
        if type(module) in _OURS:
            module.__class__ = _OURS[type(module)]
            module._set_noise(recurrent_dropout, noise)  # type: ignore[operator]
    return made


def to_native(model: nn.Module) -> nn.Module:
    """A copy of a model with PyTorch's own modules in the place of lapse's, to deploy where lapse
    is not installed. Noise is left out, as evaluation doesn't need it.

    Args:
        model: any module; it stays unchanged.

    Raises:
        LapseError: for noise that acts in evaluation, as zoneout does.
    """
    made = copy.deepcopy(model)
    for name, module in made.named_modules():
        if type(module) not in _THEIRS:
            continue
        ones: Any = module._ones
        if any(factor is not None for one in ones for factor in one.noise.expected):
            raise LapseError(
                f"{name or type(module).__name__} has the noise {module.noise}, which acts in "
                "evaluation too; PyTorch's own module has no such thing. Train without it to "
                "convert the model."
            )
        module.__class__ = _THEIRS[type(module)]
        for added in _ADDED:
            delattr(module, added)
    return made
