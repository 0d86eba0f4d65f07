"""`lapse.explain`: every kind of noise in words, and the kernel that runs."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch

import lapse
from catalog import CASE_IDS, CASES, NOISE, Cell
from lapse import LapseError
from lapse.core import drawing
from lapse.engines import choice, cpu
from lapse.engines.cpu import CPU
from lapse.torch import GRU, LSTM, RNN


def test_both_arguments_of_keras() -> None:
    assert lapse.explain(LSTM(64, 128, noise=lapse.KerasDropout(0.5, 0.2))).splitlines() == [
        "LSTM with the noise x:0.5@BFG h:0.2@BFG.",
        "x:0.5@BFG acts on the layer input:",
        "    0 with probability 0.5, and what is kept is multiplied by 2;",
        "    drawn once per sequence, independently for each sample, feature and gate, as a mask "
        "of (batch, 1, 4, 64);",
        "    in evaluation unchanged.",
        "h:0.2@BFG acts on the hidden state, as the recurrent kernel reads it:",
        "    0 with probability 0.2, and what is kept is multiplied by 1.25;",
        "    drawn once per sequence, independently for each sample, feature and gate, as a mask "
        "of (batch, 1, 4, 128);",
        "    in evaluation unchanged.",
        f"Runs on {CPU.title}, because nothing prevents it.",
        "A single step in evaluation runs on PyTorch's own kernel, because it has the least "
        "overhead for so short a call.",
    ]


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ("c:0.5@BTF>prev", ["the cell state", "keeps its old value with probability 0.5",
                            "at each step", "(batch, timesteps, 1, 5)",
                            "moved by 0.5 of the way from its old value"]),
        ("c:0.2@BF!exp", ["0 with probability 0.2;", "(batch, 1, 1, 5)", "multiplied by 0.8"]),
        ("state:0.1@BT>prev", ["all carried states, with one coin", "(batch, timesteps, 1, 1)"]),
        ("x:0.4@BT[5]!none", ["0 with probability 0.4;", "in spans of 1 to 5 steps"]),
        ("x:0.4@BT/3", ["every 3 steps"]),
        ("x:0.4@BF[2]", ["once per sequence, in spans of 1 to 2 features, independently for each "
                         "sample,"]),
        ("g:0.2@BTF~concrete", ["between 0 and 1 (concrete)",
                                "near the lower one with probability 0.2",
                                "multiplied by 0.8"]),
        ("x:.5@BF x:.5@BF", ["the noise x:0.5@BF x:0.5@BF."]),
        ("h:0.4@BT~0.25F", ["anew with probability 0.25 at each step"]),
        ("U:0.3@IO", ["the recurrent kernel:", "multiplied by 1.43", "once per call",
                      "independently for each row and column", "(5, 20)"]),
        ("W:0.3@O", ["the kernel:", "(1, 20)"]),
        ("y:0.2@BF~gauss", ["the layer output", "numbers (gauss) of mean 1 and variance 0.25"]),
        ("g:0.1@F", ["the candidate", "once per call, independently for each feature",
                      "(1, 1, 1, 5)",
                     "multiplied by 0.9"]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*forgets at evaluation")
def test_each_part_of_a_term_in_words(term: str, said: list[str]) -> None:
    text = lapse.explain(LSTM(3, 5, noise=term))
    for words in said:
        assert words in text


@pytest.mark.parametrize(("cell", "name"), CASES, ids=CASE_IDS)
@pytest.mark.filterwarnings("ignore:.*forgets at evaluation")
def test_shapes_are_those_of_the_masks(cell: Cell, name: str) -> None:
    kinds = {"LSTM": LSTM, "GRU": GRU, "SimpleRNN": RNN}
    layer = kinds[cell.name](3, 5, noise=NOISE[name])
    text = lapse.explain(layer)
    drawn = drawing.draw(layer.plans()[0][0], 1, batch=2, timesteps=7, features=3, units=5)
    found = dict(re.findall(r"^(\S+) acts on .*\n.*\n.*a mask of \((.*)\);$", text, flags=re.M))
    assert set(found) == {str(one.term) for _, draws in layer.plans()[0][0].slots for one in draws}
    for slot, draws in layer.plans()[0][0].slots:
        names = {2: "batch", 7: "timesteps"} if slot not in "WU" else {}
        apart = [found[str(one.term)].split(", ") for one in draws]
        together = [next((n for n in sizes if n != "1"), "1") for sizes in zip(*apart, strict=True)]
        assert together == [str(names.get(n, n)) for n in getattr(drawn, slot).shape]


def test_a_stack_says_what_each_layer_has() -> None:
    stack = LSTM(3, 5, num_layers=2, dropout=0.2, bidirectional=True, noise="h:0.5@BF")
    lines = lapse.explain(stack).splitlines()
    assert (
        lines[1]
        == "2 layers and 2 directions, with masks of their own; the shapes are those of the first."
    )
    assert lines[2] == "Layers after the first have x:0.2@BTF besides, from dropout=."
    assert lapse.explain(GRU(3, 5, bidirectional=True)).splitlines()[1].startswith("2 directions,")


def test_the_engine_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(layer: Any) -> list[str]:
        return [line for line in lapse.explain(layer).splitlines() if "runs on" in line.lower()]

    assert said(LSTM(3, 4)) == [
        f"Runs on {CPU.title}, because nothing prevents it.",
        "A single step runs on PyTorch's own kernel, because it has the least "
        "overhead for so short a call.",
    ]
    noise = {"noise": "h:.5@BF"}
    plain = (
        "Runs on the plain loop, because PyTorch's own kernel can't run here: the mask of h acts "
    )
    (usual, _) = said(RNN(3, 4, nonlinearity="relu", **noise))
    assert usual.startswith(plain) and usual.endswith("their activations are tanh and sigmoid.")
    (usual, _) = said(LSTM(3, 4, **noise).double())
    assert usual.endswith("they compute in float32, and were given float64.")
    (usual,) = said(LSTM(3, 4).double())
    assert usual.startswith("Runs on PyTorch's own kernel, because the C++ kernels")
    assert "the device meta" in said(LSTM(3, 4, device="meta"))[0]
    (asked,) = said(LSTM(3, 4, engine="reference"))
    assert asked == "Runs on the plain loop, because engine='reference' asks for it."
    forced = lapse.explain(LSTM(3, 4, engine="cpu").to(torch.float64)).splitlines()[-1]
    assert (
        forced.startswith("Can't run: engine='cpu' asks for the C++ kernels") and "auto" in forced
    )
    monkeypatch.setattr(cpu, "extension", lambda: None)
    assert "installed without a C++ compiler" in said(GRU(3, 4, **noise))[0]


def test_what_is_no_layer_of_lapse() -> None:
    with pytest.raises(LapseError, match="LSTM is not a recurrent layer of lapse; explain takes"):
        lapse.explain(torch.nn.LSTM(3, 4))


@pytest.mark.parametrize(
    ("noise", "term"),
    [
        ("s:.1@BTF>prev state:.1@BTF>prev", "state:0.1@BTF>prev"),
        ("state:.1@BTF>prev s:.1@BTF>prev", "state:0.1@BTF>prev"),
        ("s:.1@BTF!none state:.2@BTF!none", "state:0.2@BTF!none"),
    ],
)
def test_sizes_of_c_and_h_are_not_confused(noise: str, term: str) -> None:
    """Whichever term is first; h is a projection of 3 numbers."""
    said = lapse.explain(LSTM(5, 7, proj_size=3, noise=noise, engine="reference"))
    (mask,) = re.findall(rf"{re.escape(term)} acts on .*?a mask of (.*?);", said, re.DOTALL)
    assert mask == "(batch, timesteps, 1, 7) for c and (batch, timesteps, 1, 3) for h"


def test_each_layer_has_its_engine() -> None:
    layer = LSTM(3, 4, num_layers=2, noise={1: "h:.5@BF"}).double()
    usual = [line for line in lapse.explain(layer).splitlines() if line.startswith("Layer")][-2:]
    assert usual[0].startswith("Layer 0 runs on PyTorch's own kernel, because the C++ kernels")
    assert usual[1].startswith("Layer 1 runs on the plain loop, because PyTorch's own kernel can't")


def test_explaining_does_not_warn_instead_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_warned", set())
    layer = LSTM(3, 4, noise="h:.5@BF").double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lapse.explain(layer)
    with pytest.warns(lapse.PlainLoopWarning):
        layer(torch.zeros(5, 2, 3).double())
