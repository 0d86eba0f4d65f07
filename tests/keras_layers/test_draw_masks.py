"""What `draw_masks` of the Keras layers and cells is given, where it is not what it needs."""

from __future__ import annotations

from typing import Any

import pytest

import lapse.keras
from lapse.core.errors import LapseError
from test_masks import NO_SIZES

LAYERS = [lapse.keras.LSTM, lapse.keras.GRU, lapse.keras.SimpleRNN]
CELLS = [lapse.keras.LSTMCell, lapse.keras.GRUCell, lapse.keras.SimpleRNNCell]


@pytest.mark.parametrize("size", NO_SIZES, ids=repr)
@pytest.mark.parametrize("layer", LAYERS)
def test_sizes_are_whole_numbers(layer: type, size: Any) -> None:
    """-1 gave masks of nothing, which fit no input."""
    made = layer(5, noise="x:.5@BTF h:.5@BFG")
    made.build((None, 7, 3))
    with pytest.raises(LapseError, match=r"batch=.* was given; write a whole number from 0"):
        made.draw_masks(size, 7)
    with pytest.raises(LapseError, match=r"timesteps=.* was given; write a whole number from 0"):
        made.draw_masks(2, size)
    assert made.draw_masks(2, 0).x.shape == (2, 0, 1, 3)
    assert made.draw_masks(0, 7).x.shape == (0, 7, 1, 3)


@pytest.mark.parametrize("size", NO_SIZES, ids=repr)
@pytest.mark.parametrize("cell", CELLS)
def test_sizes_of_cells(cell: type, size: Any) -> None:
    made = cell(5, noise="x:.5@BF")
    made.build((None, 3))
    with pytest.raises(LapseError, match=r"batch=.* was given; write a whole number from 0"):
        made.draw_masks(size)
    assert made.draw_masks(0).x.shape == (0, 1, 1, 3)
