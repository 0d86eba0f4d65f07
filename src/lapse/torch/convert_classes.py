"""The `classes=` of `convert` and `to_native`: checked, and applied where they are functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lapse.core.errors import LapseError
from lapse.torch.embedding import Embedding
from lapse.torch.modules import GRU, LSTM, RNN

OURS: dict[type, type] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
THEIRS: dict[type, type] = {ours: theirs for theirs, ours in OURS.items()}
THEIRS[Embedding] = nn.Embedding


def checked(classes: Any) -> tuple[dict[type, type], dict[type, Callable]]:
    """The classes that modules get, and the functions that replace modules."""
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
        if issubclass(theirs, (LSTM, GRU, RNN)):
            raise LapseError(
                f"classes= has the key {theirs.__name__}, which is already a class of lapse or "
                "derived from one; leave it out."
            )
        if isinstance(ours, type) and issubclass(ours, (LSTM, GRU, RNN)):
            _check_derived(theirs, ours)
            derived[theirs] = ours
        elif callable(ours) and not (isinstance(ours, type) and issubclass(ours, nn.RNNBase)):
            functions[theirs] = ours
        else:
            raise LapseError(
                f"classes= has {ours!r} for {theirs.__name__}; give a class derived from "
                "lapse.torch.LSTM, GRU or RNN, or a function that returns another module."
            )
    return derived, functions


def _check_derived(theirs: type, ours: type) -> None:
    base = next((stock for stock in OURS if issubclass(theirs, stock)), None)
    if base is None:
        raise LapseError(
            f"classes= has {ours.__name__} for {theirs.__name__}, which is not derived from "
            "nn.LSTM, nn.GRU or nn.RNN, so its attributes and weights have other names; give a "
            f"function that returns a module, such as lambda old: {ours.__name__}(...)."
        )
    if not issubclass(ours, OURS[base]):
        raise LapseError(
            f"classes= has {ours.__name__} for {theirs.__name__}, which is derived from "
            f"nn.{base.__name__}; give a class derived from lapse.torch.{OURS[base].__name__}."
        )


class _Replacing:
    """Replaces modules by what functions return for them, each module only once."""

    def __init__(self, functions: dict[type, Callable]) -> None:
        self.functions = functions
        self.made: dict[nn.Module, nn.Module] = {}
        self.seen: set[nn.Module] = set()
        self.entered: set[nn.Module] = set()

    def replaced(self, module: nn.Module) -> nn.Module:
        """What replaces a module; the modules inside it are replaced as well."""
        if module in self.made:
            return self.made[module]
        if type(module) not in self.functions or module in self.seen:
            self._inside(module)
            return module
        self.seen.add(module)  # if the new module holds this one, it stays there
        new = self.functions[type(module)](module)
        if not isinstance(new, nn.Module):
            raise LapseError(
                f"the function of classes= for {type(module).__name__} returned a "
                f"{type(new).__name__}; it must return the module that replaces it."
            )
        new.train(module.training)
        self._inside(new)
        self.made[module] = new
        return new

    def _inside(self, module: nn.Module) -> None:
        if module in self.entered:
            return
        self.entered.add(module)
        for name, child in list(module._modules.items()):
            if child is not None and (new := self.replaced(child)) is not child:
                setattr(module, name, new)


def replaced(model: nn.Module, functions: dict[type, Callable]) -> nn.Module:
    """The model with modules replaced by what functions return for them."""
    replacing = _Replacing(functions)
    made = replacing.replaced(model)
    if unmet := functions.keys() - {type(module) for module in replacing.made}:
        raise no_such(unmet, model)
    return made


def no_such(unmet: Any, model: nn.Module) -> LapseError:
    """The error for classes that a model doesn't have."""
    names = ", ".join(sorted(kind.__name__ for kind in unmet))
    return LapseError(
        f"classes= has {names}, but {type(model).__name__} has no module of that class; leave it "
        "out, and note that a class derived from it needs its own key."
    )


def checked_back(classes: Any) -> dict[type, type]:
    """The classes of PyTorch for classes derived from lapse's, checked."""
    found = {} if classes is None else classes
    if not (isinstance(found, Mapping) and all(map(_leads_back, found, found.values()))):
        raise LapseError(
            f"classes={classes!r} was given; write {{OurLSTM: TheirLSTM}}, from classes derived "
            "from lapse's modules to classes derived from PyTorch's of that name."
        )
    return dict(found)


def _leads_back(ours: Any, theirs: Any) -> bool:
    classes = isinstance(ours, type) and isinstance(theirs, type)
    return classes and any(
        issubclass(ours, own) and issubclass(theirs, stock) for own, stock in THEIRS.items()
    )
