"""Converts models from PyTorch's recurrent modules to lapse's, and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from lapse.core.errors import LapseError, outside
from lapse.core.plan import expected_rows
from lapse.torch.convert_classes import OURS, THEIRS, checked, checked_back, no_such, replaced
from lapse.torch.embedding import Embedding
from lapse.torch.modules import GRU, LSTM, RNN
from lapse.torch.recurrent import DERIVED

_ADDED = ("recurrent_dropout", "generator", "engine", "noise", "terms", *DERIVED)


def convert(
    model: nn.Module,
    noise: Any = None,
    recurrent_dropout: float = 0.0,
    *,
    classes: Mapping[type, Callable[..., Any]] | None = None,
) -> nn.Module:
    """A copy of a model with lapse's modules in place of `nn.LSTM`, `nn.GRU` and `nn.RNN`.

    Weights, hooks and everything else are copied unchanged. Evaluation gives the same results,
    unless the noise acts in evaluation.

    Args:
        model: any module; it stays unchanged.
        noise, recurrent_dropout: for each module that is exchanged, as for `lapse.torch.LSTM`.
            Modules of lapse that are already in the model keep their own noise.
        classes: how to convert classes of your own. The keys are classes; a class derived from a
            key needs its own key. A class derived from `nn.LSTM`, `nn.GRU` or `nn.RNN` can be
            given a class derived from lapse's module of that name: the module gets this class, and
            keeps its attributes and weights. Any class can be given a function that takes the
            module and returns another one in its place. That one is converted like the rest of the
            model.

    Raises:
        LapseError: for noise that one of the modules can't have, for noise where no module can
            take it, and for `classes` that are invalid or missing in the model.

    Warns:
        UserWarning: names each recurrent module that is not converted, with the reason: cells, and
            classes derived from PyTorch's that are not in `classes`.
    """
    derived, functions = checked(classes)
    made = replaced(_copied(model), functions)
    exchanged = {**OURS, **derived}
    found = [module for module in made.modules() if type(module) in exchanged]
    if unmet := derived.keys() - {type(module) for module in found}:
        raise no_such(unmet, model)
    for module in found:
        if parametrize.is_parametrized(module):
            raise LapseError(
                f"classes= has {type(module).__name__}, a class made by parametrizations; "
                "convert the model first, then parametrize it."
            )
    stayed = _stayed(made, {*exchanged, *functions})
    if not found and (noise is not None or recurrent_dropout):
        raise LapseError(
            f"{type(model).__name__} has no nn.LSTM, nn.GRU or nn.RNN that could take the noise "
            "(modules of lapse keep their own noise); give noise= where the layer is made."
            + "".join(stayed)
        )
    for module in found:
        module.__class__ = exchanged[type(module)]
        module._set_noise(recurrent_dropout, noise)  # type: ignore[operator]
    if stayed:
        warnings.warn(
            "these recurrent modules are not converted:" + "".join(stayed),
            UserWarning,
            stacklevel=outside(),
        )
    return made


def _copied(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise LapseError(f"the model has the type {type(model).__name__}; give a torch.nn.Module.")
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        if "deepcopy protocol" not in str(error):
            raise
        raise LapseError(
            f"{type(model).__name__} holds a computed tensor, which PyTorch can't copy: a stored "
            "output or state of a call in training, or a weight of weight_norm, pruning or weight "
            "drop. First call the model once under torch.no_grad(), or remove the tensor."
        ) from None


def _stayed(model: nn.Module, exchanged: set[type]) -> list[str]:
    """A line for each recurrent module of PyTorch that is not exchanged: its name, and why."""
    lines = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.RNNCellBase):
            why = "lapse.torch has no cells; make it a layer, or give classes= a function"
        elif not isinstance(module, nn.RNNBase) or isinstance(module, (LSTM, GRU, RNN)):
            continue
        elif parametrize.is_parametrized(module):
            why = "parametrizations made its class; convert the model first, then parametrize it"
        elif type(module) not in exchanged:
            why = f"its class is derived from PyTorch's; give classes={{{kind}: ...}}"
        else:
            continue
        lines.append(f"\n    {name or 'the model'} ({kind}): {why}.")
    return lines


def to_native(
    model: nn.Module, *, classes: Mapping[type, type[nn.Module]] | None = None
) -> nn.Module:
    """A copy of a model with PyTorch's own modules in place of lapse's, to deploy where lapse is
    not installed. Noise is left out, because evaluation does not need it.

    Args:
        model: any module; it stays unchanged.
        classes: for classes of your own that are derived from lapse's, the class derived from
            PyTorch's that the module becomes: `{OurLSTM: TheirLSTM}`.

    Raises:
        LapseError: for noise that acts in evaluation, as zoneout does; for classes derived from
            lapse's modules that are not in `classes`, such as those made by parametrizations; and
            for invalid `classes`.
    """
    made = _copied(model)
    kinds: Any = tuple(THEIRS)
    becomes = THEIRS | checked_back(classes)
    for name, module in made.named_modules():
        if not isinstance(module, kinds):
            continue
        if type(module) not in becomes:
            raise LapseError(
                f"{name or 'the model'} is a {type(module).__name__}, a class derived from "
                "lapse's; remove parametrizations first, and give your own classes as "
                "classes={OurLSTM: TheirLSTM}."
            )
        if _acts_in_evaluation(module):
            raise LapseError(
                f"{name or type(module).__name__} has the noise {module.noise}, which acts in "
                "evaluation too; PyTorch's own module has no such noise. Train without it to "
                "convert the model."
            )
        module.__class__ = becomes[type(module)]
        for added in _ADDED:
            vars(module).pop(added, None)
    return made


def _acts_in_evaluation(module: Any) -> bool:
    if isinstance(module, Embedding):
        return expected_rows(module.terms) != 1
    return any(factor is not None for one in module.sublayers() for factor in one.plan.expected)
