"""Models of PyTorch's recurrent modules as models of lapse's, and back."""

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
from lapse.torch.modules import DERIVED, GRU, LSTM, RNN

_ADDED = ("recurrent_dropout", "generator", "engine", "noise", "terms", *DERIVED)


def convert(
    model: nn.Module,
    noise: Any = None,
    recurrent_dropout: float = 0.0,
    *,
    classes: Mapping[type, Callable[..., Any]] | None = None,
) -> nn.Module:
    """A copy of a model with lapse's modules in the place of `nn.LSTM`, `nn.GRU` and `nn.RNN`.

    Weights, hooks and all else are copied as they are, so that evaluation gives the same unless the
    noise acts in it.

    Args:
        model: any module; it stays unchanged.
        noise, recurrent_dropout: of each module that is exchanged, as for `lapse.torch.LSTM`.
            Modules of lapse's that the model has already keep their own.
        classes: what to do with classes of your own, by the class of the module itself (a class
            derived from it is another). For one derived from `nn.LSTM`, `nn.GRU` or `nn.RNN`, a
            class derived from lapse's module of that name: the module becomes one, and keeps its
            attributes and weights. For any class, a function that is given the module and returns
            the one to stand in its place, which is then converted like the rest of the model.

    Raises:
        LapseError: for noise that one of the modules can't have, where there is no module to have
            it, and for `classes` that can't be followed or that the model doesn't have.

    Warns:
        UserWarning: names each recurrent module that stays what it is, and why: cells, and classes
            derived from PyTorch's that `classes` doesn't have.
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
                f"classes= has {type(module).__name__}, a class that parametrizations made; "
                "convert the model first, and parametrize then."
            )
    stayed = _stayed(made, {*exchanged, *functions})
    if not found and (noise is not None or recurrent_dropout):
        raise LapseError(
            f"{type(model).__name__} has no nn.LSTM, nn.GRU or nn.RNN that could take the noise "
            "(modules of lapse's keep their own); give noise= where the layer is made."
            + "".join(stayed)
        )
    for module in found:
        module.__class__ = exchanged[type(module)]
        module._set_noise(recurrent_dropout, noise)  # type: ignore[operator]
    if stayed:
        warnings.warn(
            "convert left some recurrent modules what they are:" + "".join(stayed),
            UserWarning,
            stacklevel=outside(),
        )
    return made


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        if "deepcopy protocol" not in str(error):
            raise
        raise LapseError(
            f"{type(model).__name__} holds the result of a computation, as weight_norm, pruning "
            "and weight drop leave it behind after a call in training, and PyTorch copies no such "
            "tensor; call the model once under torch.no_grad(), or remove what computes its "
            "weights."
        ) from None


def _stayed(model: nn.Module, exchanged: set[type]) -> list[str]:
    """A line for each recurrent module of PyTorch's that is not exchanged: its name, and why."""
    lines = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.RNNCellBase):
            why = "lapse.torch has no cells; make it a layer, or give classes= a function"
        elif not isinstance(module, nn.RNNBase) or isinstance(module, (LSTM, GRU, RNN)):
            continue
        elif parametrize.is_parametrized(module):
            why = "parametrizations made its class; convert the model first, and parametrize then"
        elif type(module) not in exchanged:
            why = f"its class is derived from PyTorch's; give classes={{{kind}: ...}}"
        else:
            continue
        lines.append(f"\n    {name or 'the model'} ({kind}): {why}.")
    return lines


def to_native(
    model: nn.Module, *, classes: Mapping[type, type[nn.Module]] | None = None
) -> nn.Module:
    """A copy of a model with PyTorch's own modules in the place of lapse's, to deploy where lapse
    is not installed. Noise is left out, as evaluation doesn't need it.

    Args:
        model: any module; it stays unchanged.
        classes: for classes of your own that are derived from lapse's, the class derived from
            PyTorch's that the module becomes: `{OurLSTM: TheirLSTM}`.

    Raises:
        LapseError: for noise that acts in evaluation, as zoneout does, for what is derived from
            lapse's modules and not in `classes`, as parametrizations make it, and for `classes`
            that don't fit.
    """
    made = _copied(model)
    kinds: Any = tuple(THEIRS)
    becomes = THEIRS | checked_back(classes)
    for name, module in made.named_modules():
        if not isinstance(module, kinds):
            continue
        if type(module) not in becomes:
            raise LapseError(
                f"{name or 'the model'} is a {type(module).__name__}, derived from a module of "
                "lapse's; remove parametrizations first, and give classes of your own as "
                "classes={OurLSTM: TheirLSTM}."
            )
        if _acts_in_evaluation(module):
            raise LapseError(
                f"{name or type(module).__name__} has the noise {module.noise}, which acts in "
                "evaluation too; PyTorch's own module has no such thing. Train without it to "
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
