"""What `draw_masks` of the PyTorch modules is given, where it is not what it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lapse.core.errors import LapseError
from lapse.torch import GRU, LSTM, RNN
from test_masks import NO_SIZES


@pytest.mark.parametrize("size", NO_SIZES, ids=repr)
@pytest.mark.parametrize("layer", [LSTM, GRU, RNN])
def test_sizes_are_whole_numbers(layer: type, size: Any) -> None:
    """-1 gave masks of nothing, which fit no input."""
    made = layer(3, 5, noise="x:.5@BTF", num_layers=2)
    with pytest.raises(LapseError, match=r"batch=.* was given; write a whole number from 0"):
        made.draw_masks(size, 7)
    with pytest.raises(LapseError, match=r"timesteps=.* was given; write a whole number from 0"):
        made.draw_masks(2, size)


def test_an_empty_batch_and_no_steps() -> None:
    layer = LSTM(3, 5, noise="x:.5@BTF h:.5@BFG")
    assert layer.draw_masks(2, 0).x.shape == (2, 0, 1, 3)
    empty = layer.draw_masks(0, 7)
    assert empty.x.shape == (0, 7, 1, 3)
    y, _ = layer(torch.zeros(7, 0, 3), masks=empty)
    assert y.shape == (7, 0, 5)
