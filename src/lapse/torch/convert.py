"""Models of PyTorch's recurrent modules as models of lapse's, and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from lapse import masks
from lapse.errors import LapseError, outside
from lapse.torch.embedding import Embedding
from lapse.torch.modules import GRU, LSTM, RNN

_OURS: dict[type, type] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
_THEIRS: dict[type, type] = {ours: theirs for theirs, ours in _OURS.items()}
_THEIRS[Embedding] = nn.Embedding
_ADDED = ("recurrent_dropout", "generator", "kernel", "noise", "_between", "_ones", "terms")


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
    derived, functions = _checked(classes)
    made = _replaced(copy.deepcopy(model), functions)
    exchanged = {**_OURS, **derived}
    found = [module for module in made.modules() if type(module) in exchanged]
    if unmet := derived.keys() - {type(module) for module in found}:
        raise _no_such(unmet, model)
    stayed = _stayed(made, exchanged)
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


def _checked(classes: Any) -> tuple[dict[type, type], dict[type, Callable]]:
    """The classes that modules become, and the functions that make other modules of them."""
    if classes is None:
        return {}, {}
    if not isinstance(classes, Mapping):
        raise LapseError(
            f"classes={classes!r} is not a mapping; write {{TheirLSTM: OurLSTM}}, from a class in "
            "the model to one derived from lapse's, or to a function."
        )
    derived: dict[type, type] = {}
    functions: dict[type, Callable] = {}
    for theirs, ours in classes.items():
        if not (isinstance(theirs, type) and issubclass(theirs, nn.Module)):
            raise LapseError(
                f"classes= has the key {theirs!r}, which is not a class of modules; write the "
                "class itself, as in {TheirLSTM: OurLSTM}."
            )
        if isinstance(ours, type) and issubclass(ours, (LSTM, GRU, RNN)):
            _check_derived(theirs, ours)
            derived[theirs] = ours
        elif callable(ours):
            functions[theirs] = ours
        else:
            raise LapseError(
                f"classes= has {ours!r} for {theirs.__name__}; give a class derived from "
                "lapse.torch.LSTM, GRU or RNN, or a function from the module to another."
            )
    return derived, functions


def _check_derived(theirs: type, ours: type) -> None:
    base = next((stock for stock in _OURS if issubclass(theirs, stock)), None)
    if base is None:
        raise LapseError(
            f"classes= has {ours.__name__} for {theirs.__name__}, which is not derived from "
            "nn.LSTM, nn.GRU or nn.RNN, so its attributes and weights have other names; give a "
            f"function that makes a module of it, such as lambda old: {ours.__name__}(...)."
        )
    if not issubclass(ours, _OURS[base]):
        raise LapseError(
            f"classes= has {ours.__name__} for {theirs.__name__}, which is derived from "
            f"nn.{base.__name__}; give a class derived from lapse.torch.{_OURS[base].__name__}."
        )


def _replaced(model: nn.Module, functions: dict[type, Callable]) -> nn.Module:
    """The model with what functions make of its modules, one for each, however often it occurs."""
    found = [module for module in model.modules() if type(module) in functions]
    if unmet := functions.keys() - {type(module) for module in found}:
        raise _no_such(unmet, model)
    made = {}
    for module in found:
        new = functions[type(module)](module)
        if not isinstance(new, nn.Module):
            raise LapseError(
                f"the function of classes= for {type(module).__name__} returned a "
                f"{type(new).__name__}; it needs to return the module to stand in its place."
            )
        made[module] = new.train(module.training)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in made:
                setattr(parent, name, made[child])
    return made.get(model, model)


def _no_such(unmet: Any, model: nn.Module) -> LapseError:
    names = ", ".join(sorted(kind.__name__ for kind in unmet))
    return LapseError(
        f"classes= has {names}, of which {type(model).__name__} has no module; leave it out, and "
        "note that a class derived from it needs a key of its own."
    )


def _stayed(model: nn.Module, exchanged: Mapping[type, type]) -> list[str]:
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
