"""Noise that differs from layer to layer of a stack."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lapse
from lapse import LapseError
from lapse.torch import GRU, LSTM

BY_LAYER = {0: lapse.SpatialDropout(0.4), 2: ["y:.25@BF", lapse.WeightDrop(0.5)]}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_layer_has_its_own(bidirectional: bool) -> None:
    """As a chain of single layers with the noise and the masks of each."""
    stack = LSTM(7, 5, 3, noise=BY_LAYER, bidirectional=bidirectional, batch_first=True)
    x = torch.randn(2, 9, 7)
    masks = stack.draw_masks(2, 9, seed=5)
    y, _ = stack(x, masks=masks)
    directions = 1 + bidirectional
    for layer in range(3):
        noise = BY_LAYER.get(layer)
        own = LSTM(x.shape[2], 5, noise=noise, bidirectional=bidirectional, batch_first=True)
        names = (name for name in stack.state_dict() if f"_l{layer}" in name)
        state = {name.replace(f"_l{layer}", "_l0"): stack.state_dict()[name] for name in names}
        own.load_state_dict(state)
        of_layer = masks[layer * directions : (layer + 1) * directions]
        used = {"x", "y", "U"} if layer else {"x"}
        for one in of_layer:
            assert {slot for slot, mask in one._asdict().items() if mask is not None} == (
                set() if noise is None else used - ({"x"} if layer else set())
            )
        x, _ = own(x, masks=of_layer if bidirectional else of_layer[0])
    assert torch.equal(y, x)


def test_other_arguments_hold_beside_it() -> None:
    stack = GRU(7, 5, 2, dropout=0.3, recurrent_dropout=0.2, noise={0: "x:.4@BF"})
    assert stack.noise == {0: "h:0.2@BFG x:0.4@BF", 1: "h:0.2@BFG"}
    later = stack.plans()[1][0]
    assert [str(term) for term in later.terms] == ["h:0.2@BFG", "x:0.3@BTF"]
    assert "noise={0: 'h:0.2@BFG x:0.4@BF', 1: 'h:0.2@BFG'}" in repr(stack)


def test_it_is_explained_layer_by_layer() -> None:
    said = lapse.explain(LSTM(7, 5, 2, noise={1: lapse.Locked(0.4)})).splitlines()
    assert said[:4] == [
        "LSTM whose layers have noise of their own.",
        "2 layers, with masks of their own.",
        "Layer 0 with no noise.",
        "Layer 1 with the noise x:0.4@BF.",
    ]
    assert said[6].endswith("a mask of (batch, 1, 1, 5);")


@pytest.mark.parametrize("layer", [2, -1, "0"])
def test_layers_that_are_not_there(layer: Any) -> None:
    with pytest.raises(LapseError, match="the module has num_layers=2; write numbers from 0 to 1"):
        LSTM(7, 5, 2, noise={layer: "x:.4@BF"})


def test_a_copy_by_convert_takes_it_too() -> None:
    made = lapse.torch.convert(torch.nn.LSTM(7, 5, 2), noise={1: "x:.4@BF"})
    assert made.noise == {0: "", 1: "x:0.4@BF"}
    assert type(lapse.torch.to_native(made)) is torch.nn.LSTM
