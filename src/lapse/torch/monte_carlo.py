"""Noise that stays on in evaluation: `mc_dropout`, and the passes that `lapse.predict` makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lapse.backends.torch import private
from lapse.core.errors import LapseError
from lapse.torch.embedding import Embedding
from lapse.torch.modules import GRU, LSTM, RNN


@contextmanager
def mc_dropout(model: nn.Module) -> Iterator[None]:
    """Keeps the noise of a model on in evaluation, and changes nothing else (Gal, Ghahramani 2016,
    arXiv:1506.02142; for recurrent layers arXiv:1512.05287).

        model.eval()
        with lapse.torch.mc_dropout(model):
            one, other = model(x), model(x)  # two draws

    Inside the block, modules with noise are in training mode, and all others stay unchanged: batch
    normalization uses its moving averages and keeps them. After the block, also after an error, the
    model is as before.

    Noise means lapse's modules, `nn.Dropout` and its relatives, the `dropout=` of `nn.LSTM`,
    `nn.GRU`, `nn.RNN` and `nn.MultiheadAttention`, anywhere in the model, and classes derived from
    them. A module that calls `torch.nn.functional.dropout` itself is not found: give it an
    `nn.Dropout`.

    Raises:
        LapseError: for a model without noise, and for anything that is not a module.
    """
    if not isinstance(model, nn.Module):
        raise LapseError(f"{model!r} was given, which is not a module of PyTorch; give one.")
    noisy = [module for module in model.modules() if _noisy(module)]
    if not noisy:
        raise LapseError(
            f"{type(model).__name__} has no noise to keep on: no lapse module with noise, and no "
            "nn.Dropout, attention or recurrent module with a rate above 0; add one, and train "
            "with it."
        )
    before = [module.training for module in noisy]
    for module in noisy:
        module.training = True  # train() would also change the modules inside
    try:
        yield
    finally:
        for module, was in zip(noisy, before, strict=True):
            module.training = was


def _noisy(module: nn.Module) -> bool:
    if isinstance(module, private.DropoutModule):
        return bool(module.p)
    if isinstance(module, (LSTM, GRU, RNN)):
        return any(plan.slots for plan, _ in module.plans())
    if isinstance(module, nn.RNNBase):
        return bool(module.num_layers > 1 and module.dropout)
    if isinstance(module, Embedding):
        return bool(module.terms)
    if isinstance(module, nn.MultiheadAttention):
        return bool(module.dropout)
    if isinstance(module, nn.TransformerEncoderLayer):
        # In evaluation its fast path skips its Dropout modules.
        return any(_noisy(inner) for inner in module.children())
    return False


@contextmanager
def noisy_passes(
    model: nn.Module, x: Any, batch_size: int | None, seed: int | None
) -> Iterator[Callable[[], np.ndarray]]:
    """Yields a function that passes `x` through the model once, with noise; see `lapse.predict`."""
    inputs = _inputs(x, model)
    with _evaluating(model), mc_dropout(model), _seeded(model, seed), torch.no_grad():
        yield lambda: np.concatenate(
            [_output(model(*batch)) for batch in _batches(inputs, batch_size)]
        )


def _inputs(x: Any, model: nn.Module) -> tuple[Tensor, ...]:
    floats = (weight for weight in model.parameters() if weight.is_floating_point())
    like = next(floats, torch.empty(0))

    def tensor(part: Any) -> Tensor:
        if isinstance(part, np.ndarray):
            made = torch.tensor(part)
            return made.to(like if made.is_floating_point() else like.device)
        if not isinstance(part, Tensor):
            raise LapseError(
                f"an argument of the model has the type {type(part).__name__}; give a tensor or a "
                "NumPy array, or a tuple of these, one for each argument. If the model takes "
                "states, write a module around it that makes them."
            )
        return part

    return tuple(map(tensor, x if type(x) is tuple else (x,)))


def _batches(inputs: tuple[Tensor, ...], size: int | None) -> list[tuple[Tensor, ...]]:
    if size is None:
        return [inputs]
    if len({len(part) for part in inputs}) > 1:
        raise LapseError(
            f"inputs of shapes {', '.join(str(tuple(part.shape)) for part in inputs)} were given "
            "with batch_size=; their first axes must have the same size, which is the batch."
        )
    return list(zip(*(part.split(size) for part in inputs), strict=True))


def _output(found: Any) -> np.ndarray:
    if not isinstance(found, Tensor):
        raise LapseError(
            f"the model gave a {type(found).__name__}, but predict needs one tensor; wrap it in a "
            "module whose forward returns that tensor, such as lstm(x)[0]."
        )
    values: np.ndarray = found.cpu().double().numpy()
    return values


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        model.train(before[model])  # some modules do more here than set `training`
        for module, was in before.items():
            module.training = was


@contextmanager
def _seeded(model: nn.Module, seed: int | None) -> Iterator[None]:
    """Seeds PyTorch's generators and those of lapse's modules, and restores them afterwards."""
    if seed is None:
        yield
        return
    found = (getattr(module, "generator", None) for module in model.modules())
    own = list(dict.fromkeys(one for one in found if isinstance(one, torch.Generator)))
    states = [generator.get_state() for generator in own]
    first, *others = np.random.SeedSequence(seed).generate_state(1 + len(own)).tolist()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(first)
        for generator, word in zip(own, others, strict=True):
            generator.manual_seed(word)
        try:
            yield
        finally:
            for generator, state in zip(own, states, strict=True):
                generator.set_state(state)
