"""What the modules are called with beside the input: `masks=`, and `samples=` of `draw_masks`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import lapse.torch
from lapse import LapseError
from lapse.core.masks import Masks
from lapse.torch import GRU, LSTM
from torch_support import in_every_module, in_every_pair
from torch_support import one_thread as one_thread  # for every test here


@in_every_module
def test_masks_of_numpy_are_refused_with_what_makes_tensors_of_them(ours: type) -> None:
    layer, x = ours(7, 5, noise="x:.3@BTF h:.4@BFG"), torch.randn(9, 3, 7)
    drawn = layer.draw_masks(3, 9, seed=1)
    arrays = Masks(*(None if mask is None else mask.numpy() for mask in drawn))
    with pytest.raises(LapseError, match=r"the mask for x is of type ndarray; .*torch\.as_tensor"):
        layer(x, masks=arrays)
    tensors = Masks(*(None if mask is None else torch.as_tensor(mask) for mask in arrays))
    assert torch.equal(layer(x, masks=tensors)[0], layer(x, masks=drawn)[0])


def test_a_mask_of_numpy_among_those_of_several_layers() -> None:
    layer, x = LSTM(7, 5, 2, bidirectional=True, noise="s:.4@BF"), torch.randn(9, 3, 7)
    drawn: Any = layer.draw_masks(3, 9)
    drawn[3] = drawn[3]._replace(o=np.ones((3, 1, 1, 5), np.float32))
    with pytest.raises(LapseError, match="the mask for o is of type ndarray"):
        layer(x, masks=drawn)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ("abc", "samples='abc' was given; it needs one whole number for each of the 3 sequences"),
        ([0, "b", 2], "it needs one whole number for each of the 3 sequences"),
        ({}, "one whole number for each of the 3 sequences"),
        ([0, 1, 2**70], "one whole number for each of the 3 sequences"),
        ([0, 1], r"samples has shape \(2,\)"),
        ([[0], [1], [2]], r"samples has shape \(3, 1\)"),
        (torch.zeros(3), "type torch.float32; it needs one whole number"),
        ([True, False, True], "type torch.bool; it needs one whole number"),
        ([0, -1, 2], r"samples=\[0, -1, 2\] must be whole numbers in \[0, 2\*\*32 - 1\)"),
        ([0, 1, 2**32 - 1], r"must be whole numbers in \[0, 2\*\*32 - 1\)"),
    ],
    ids=str,
)
def test_samples_that_number_no_sequences(samples: Any, said: str) -> None:
    with pytest.raises(LapseError, match=said):
        GRU(7, 5, noise="x:.3@BTF").draw_masks(3, 9, samples=samples)


def test_lengths_that_are_no_numbers() -> None:
    with pytest.raises(LapseError, match="lengths='abc' was given; it needs one whole number"):
        GRU(7, 5)(torch.zeros(9, 3, 7), lengths="abc")


@in_every_pair
def test_a_call_that_does_not_fit_is_pytorch_s_kind_of_error(ours: type, theirs: type) -> None:
    """Programs catch it as such."""
    for size, states in (((3, 2, 7), 2), ((3, 2, 5), 3)):
        for kind in (ours, theirs):
            state = torch.zeros(1, states, 4)
            hx = (state, state) if kind.__name__ == "LSTM" else state
            with pytest.raises(RuntimeError):
                kind(5, 4)(torch.zeros(size), hx)


def test_what_is_not_of_torch_is_refused_in_words() -> None:
    module = GRU(5, 6, noise="x:.5@BF")
    for wrong in ([[1.0]], None, np.zeros((2, 3, 5))):
        with pytest.raises(LapseError, match=r"the input has the type .*; pass a tensor or"):
            module(wrong)
    with pytest.raises(LapseError, match="generator=5 was given; pass a torch"):
        GRU(5, 6, generator=5)
    for function in (lapse.torch.convert, lapse.torch.to_native):
        with pytest.raises(LapseError, match="the model has the type int; give a torch"):
            function(5)
    with pytest.raises(LapseError, match="5 is not text; write terms such as"):
        lapse.parse(5)
