"""Models of PyTorch's recurrent modules as models of lapse's, and back."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from lapse import masks
from lapse.errors import LapseError
from lapse.torch.embedding import Embedding
from lapse.torch.modules import GRU, LSTM, RNN

_OURS: dict[type, type] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
_THEIRS: dict[type, type] = {ours: theirs for theirs, ours in _OURS.items()}
_THEIRS[Embedding] = nn.Embedding
_ADDED = ("recurrent_dropout", "generator", "kernel", "noise", "_between", "_ones", "terms")


def convert(model: nn.Module, noise: Any = None, recurrent_dropout: float = 0.0) -> nn.Module:
    """A copy of a model with lapse's modules in the place of `nn.LSTM`, `nn.GRU` and `nn.RNN`.

    Weights, hooks and all else are copied as they are, so that evaluation gives the same unless the
    noise acts in it. Subclasses of the three stay what they are, those that parametrizations make
    among them.

    Args:
        model: any module; it stays unchanged.
        noise, recurrent_dropout: of each module that is exchanged, as for `lapse.torch.LSTM`.

    Raises:
        LapseError: for noise that one of the modules can't have, and where there is no module to
            have it.
    """
    made = copy.deepcopy(model)
    found = [module for module in made.modules() if type(module) in _OURS]
    if not found and (noise is not None or recurrent_dropout):
        raise LapseError(
            f"{type(model).__name__} has no nn.LSTM, nn.GRU or nn.RNN that could take the noise "
            "(subclasses stay what they are, and so do lapse's own); give noise= where the layer "
            "is made."
        )
    for module in found:
        module.__class__ = _OURS[type(module)]
        module._set_noise(recurrent_dropout, noise)  # type: ignore[operator]
    return made


def to_native(model: nn.Module) -> nn.Module:
    """A copy of a model with PyTorch's own modules in the place of lapse's, to deploy where lapse
    is not installed. Noise is left out, as evaluation doesn't need it.

    Args:
        model: any module; it stays unchanged.

    Raises:
        LapseError: for noise that acts in evaluation, as zoneout does, and for what is derived from
            lapse's modules, as parametrizations make it.
    """
    made = copy.deepcopy(model)
    kinds: Any = tuple(_THEIRS)
    for name, module in made.named_modules():
        if not isinstance(module, kinds):
            continue
        if type(module) not in _THEIRS:
            raise LapseError(
                f"{name or 'the model'} is a {type(module).__name__}, derived from a module of "
                "lapse's, and to_native knows these alone; remove parametrizations first, and "
                "exchange classes of your own yourself."
            )
        if _acts_in_evaluation(module):
            raise LapseError(
                f"{name or type(module).__name__} has the noise {module.noise}, which acts in "
                "evaluation too; PyTorch's own module has no such thing. Train without it to "
                "convert the model."
            )
        module.__class__ = _THEIRS[type(module)]
        for added in _ADDED:
            vars(module).pop(added, None)
    return made


def _acts_in_evaluation(module: Any) -> bool:
    if isinstance(module, Embedding):
        return masks.expected_rows(module.terms) != 1
    return any(factor is not None for one in module._ones for factor in one.noise.expected)
