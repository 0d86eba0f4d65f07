"""What `torch.save(model)` writes: weights and what the constructor was given. So a later lapse can
read the file, and so can `weights_only=True`.
"""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

import lapse.torch
from torch_support import PAIRS, flat
from torch_support import one_thread as one_thread  # for every test here

NOISE = "x:.3@BTF h:.4@BFG s:.2@BTF>prev"
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "noisy": {"noise": NOISE, "recurrent_dropout": 0.2},
    "of NumPy": {"recurrent_dropout": np.float64(0.3)},
    "by layer": {"noise": {0: NOISE, 1: "U:.5@IO"}, "num_layers": 2, "dropout": 0.3},
}


def made() -> dict[str, tuple[nn.Module, nn.Module]]:
    """Modules of lapse's and of PyTorch's, by name."""
    found: dict[str, tuple[nn.Module, nn.Module]] = {}
    for name, options in OPTIONS.items():
        for ours, theirs in PAIRS.values():
            found[f"{ours.__name__} {name}"] = ours(7, 5, **options), theirs(7, 5)
    noise = "emb:.3@V emb:.2@BV!exp"
    found["Embedding"] = lapse.torch.Embedding(31, 5, noise=noise), nn.Embedding(31, 5)
    return found


in_every_case = pytest.mark.parametrize("case", made())


def saved(module: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(module, file)
    return file.getvalue()


def called(module: nn.Module) -> list[torch.Tensor]:
    """In training, from one seed."""
    torch.manual_seed(3)
    if isinstance(module, nn.Embedding):
        return [module(torch.arange(30).view(6, 5))]
    return flat(module(torch.randn(9, 3, 7)))


@in_every_case
def test_weights_only_needs_the_class_and_what_pytorch_s_own_needs(case: str) -> None:
    ours, theirs = made()[case]
    needed = set(get_unsafe_globals_in_checkpoint(io.BytesIO(saved(theirs))))
    beside = needed - {f"{type(theirs).__module__}.{type(theirs).__qualname__}"}
    assert not beside
    with safe_globals([type(ours)]):
        again = torch.load(io.BytesIO(saved(ours)), weights_only=True)
    assert type(again) is type(ours)
    for one, other in zip(called(again), called(ours), strict=True):
        assert torch.equal(one, other)


@in_every_case
def test_no_other_class_of_lapse_s_is_in_a_file(case: str) -> None:
    """A class that is in files can't be renamed, nor the file that it stands in."""
    module = made()[case][0]
    strings = [text for _, text, _ in pickletools.genops(pickle.dumps(module)) if text]
    modules = [text for text in strings if str(text).startswith("lapse")]
    assert modules == ["lapse.torch"]
    names = {"One", "Noise", "Plan", "Draw", "Term", "Masks", "Schedule"}
    assert not names & set(map(str, strings))


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "file": lambda module: torch.load(io.BytesIO(saved(module)), weights_only=False),
}


@pytest.mark.parametrize("how", COPIES)
@in_every_case
def test_copies_draw_what_the_module_draws(case: str, how: str) -> None:
    module = made()[case][0]
    copied = COPIES[how](module)
    assert repr(copied) == repr(module) and vars(copied).keys() == vars(module).keys()
    for one, other in zip(called(copied), called(module), strict=True):
        assert torch.equal(one, other)


def test_a_copy_keeps_its_own_generator() -> None:
    module = lapse.torch.GRU(7, 5, noise=NOISE, generator=torch.Generator().manual_seed(2))
    state = module.generator.get_state()
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied.generator.get_state(), state)


@pytest.mark.filterwarnings("error")
def test_a_warning_of_noise_is_given_once() -> None:
    with pytest.warns(UserWarning, match="forgets at evaluation"):
        module = lapse.torch.LSTM(7, 5, 2, noise="c:.3@BF!exp")
    copied = copy.deepcopy(module)
    copied.dropout = 0.3  # plans again
    copied(torch.randn(9, 3, 7))


@pytest.mark.parametrize("name", ["_sublayers", "terms"])
def test_files_of_before_have_more_and_are_read(name: str) -> None:
    """Up to here files held what follows from the noise."""
    case = "Embedding" if name == "terms" else "LSTM noisy"
    module = made()[case][0]
    before = type(module).__new__(type(module))
    before.__setstate__(dict(vars(module)))
    assert getattr(before, name) == getattr(module, name)
    for one, other in zip(called(before), called(module), strict=True):
        assert torch.equal(one, other)
