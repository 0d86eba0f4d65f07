"""What `draw_masks` of the Keras layers and cells is given, where it is not what it needs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras_support import BACKEND

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


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow's seeds may have 64 bits")
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_seeds_of_more_than_32_bits_draw_the_same_in_graphs(engine: str) -> None:
    import tensorflow as tf

    x = np.random.default_rng(3).normal(size=(2, 5, 3)).astype(np.float32)

    def made() -> Any:
        keras.utils.set_random_seed(1)
        return lapse.keras.LSTM(4, recurrent_dropout=0.5, seed=2**40 + 5, engine=engine)

    expected = made()(x, training=True)
    layer = made()
    found = tf.function(lambda: layer(x, training=True))()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
