"""The catalogue has all there is: what is missing from it is tested by nothing.

What is left of lapse.keras is in keras_layers/test_catalog.py.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import catalog
import lapse
import lapse.torch
from catalog import FUNCTIONS, LAYERS
from lapse.core.forms import FORMS
from lapse.core.masks import Masks
from lapse.core.noise import collect
from lapse.core.plan import GATES
from lapse.core.rules import AXES, LAWS, SCALES, SITES
from strategies import written_legally
from torch_support import flat

MODULES = [name for name in LAYERS if name.startswith("lapse.torch.")]


# The algebra.


def test_the_catalogue_is_complete() -> None:
    """What is missing from the catalogue is tested by nothing."""
    runnable = [term for _, name in catalog.CASES for term in collect(catalog.NOISE[name])]
    everything = [term for noise in catalog.NOISE.values() for term in collect(noise)]
    assert {cell.name for cell in catalog.CELLS} == set(GATES)
    assert {term.site for term in runnable} == set(SITES) - {"emb"}
    assert {term.site for term in everything} == set(SITES)
    assert {term.law for term in runnable} == set(LAWS)
    assert {term.scale for term in runnable} == {*SCALES, None}
    assert {name for term in everything for name in term.axes} == set(AXES)
    runs = {(axis.name, axis.run) for term in runnable for axis in term.axes.values() if axis.run}
    assert runs == {("T", "/"), ("T", "~"), ("T", "["), ("F", "[")}
    assert {term.fill for term in runnable} == {0.0, "prev"}
    for law, scale in itertools.product(LAWS, SCALES):
        if written_legally(("x", "BF", 0.0, law, scale)) and law == "bern":
            assert any((term.law, term.scale) == (law, scale) for term in runnable)


def test_the_catalogue_reaches_every_form_and_option() -> None:
    """Each option of each form takes at least two values, so that one left unread shows."""
    assert {type(form) for form in catalog.FORMS} == set(FORMS)
    for form in FORMS:
        for field in dataclasses.fields(form):
            values = {getattr(one, field.name) for one in catalog.FORMS if type(one) is form}
            assert len(values) > 1, f"{form.__name__}.{field.name} is only ever {values}"


def test_the_catalogue_reaches_every_slot() -> None:
    """A slot that no case fills is a line of the cells that nothing runs."""
    used = {
        slot
        for cell, name in catalog.CASES
        for slot, _ in catalog.plan_for(catalog.NOISE[name], cell).slots
    }
    assert used == set(Masks._fields)


# Layers and functions.


@pytest.mark.parametrize("module", [lapse, lapse.torch], ids=lambda module: module.__name__)
def test_the_catalogue_has_everything_public(module: ModuleType) -> None:
    """A layer that isn't there runs through no contract; what is no more there isn't tested."""
    found = {name for name, value in catalog.public(module).items() if value not in FORMS}
    listed = {name for name in (*LAYERS, *FUNCTIONS) if name.rpartition(".")[0] == module.__name__}
    assert found == listed


@pytest.mark.parametrize("name", MODULES)
def test_the_catalogue_has_every_option(name: str) -> None:
    """PyTorch refuses proj_size of its GRU and RNN, though all three have a base that takes it."""
    found = catalog.options_of(catalog.public(lapse.torch)[name])
    assert found - set(LAYERS[name]) <= (set() if "LSTM" in name else {"proj_size"})
    assert set(LAYERS[name]) <= found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_named_in_its_tests(name: str) -> None:
    text = (Path(__file__).parent / FUNCTIONS[name]).read_text(encoding="utf-8")
    assert re.search(rf"\b{name.rpartition('.')[2]}\b", text)


def theirs(name: str) -> Any:
    """PyTorch's module by the same name."""
    return getattr(nn, name.rpartition(".")[2])


def given(name: str, option: str, value: Any) -> dict[str, Any]:
    """The arguments of a constructor, one option with this value."""
    if option == "dtype":
        value = getattr(torch, value)
    if value == "its own":
        value = torch.Generator()
    if value == "a table":
        value = torch.randn(31, 5)
    sizes = {"num_embeddings": 31, "embedding_dim": 5}
    if "Embedding" not in name:
        sizes = {"input_size": 7, "hidden_size": 5, "num_layers": 2}  # dropout= acts between layers
    return {**sizes, option: value}


OPTIONS = [
    (name, option, value)
    for name in MODULES
    for option, values in LAYERS[name].items()
    if option in catalog.options_of(theirs(name))
    for value in values
]


@pytest.mark.parametrize(("name", "option", "value"), OPTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_each_option_of_pytorch_s_means_the_same(name: str, option: str, value: Any) -> None:
    """In evaluation, and from the same random numbers the same weights."""
    where, _, kind = name.rpartition(".")
    both = []
    for source in (getattr(importlib.import_module(where), kind), theirs(name)):
        torch.manual_seed(0)
        both.append(source(**given(name, option, value)).eval())
    ours, other = both
    for one, wanted in zip(ours.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, wanted) and one.requires_grad == wanted.requires_grad
    if kind == "Embedding":
        rows = torch.randint(ours.num_embeddings, (3, 9))
        torch.testing.assert_close(ours(rows), other(rows), rtol=0, atol=0)
        return
    x = torch.randn(9, 3, ours.input_size, dtype=ours.weight_hh_l0.dtype)
    for one, wanted in zip(flat(ours(x)), flat(other(x)), strict=True):
        torch.testing.assert_close(one, wanted)
