"""The embedding layer: which rows are dropped, for whom, and that evaluation drops none."""

import keras
import numpy as np
import pytest
from keras import ops

import lapse
from lapse.core import drawing
from lapse.core.noise import collect
from lapse.keras import Embedding

IDS = np.random.default_rng(0).integers(0, 31, size=(7, 63))


def factors(layer, ids):
    """What each looked-up row was multiplied with, from a table of ones."""
    layer.build()
    layer.set_weights([np.ones((31, 3), "float32")])
    looked_up = ops.convert_to_numpy(layer(ids, training=True))
    assert (looked_up == looked_up[..., :1]).all(), "a row is dropped as a whole"
    return looked_up[..., 0]


@pytest.mark.parametrize("per_sample", [False, True])
def test_drops_the_rows_that_the_mask_names(per_sample):
    noise = lapse.EmbeddingDropout(0.4, per_sample)
    found = factors(Embedding(31, 3, noise=noise, seed=5), IDS)
    kept = drawing.draw_rows(collect(noise), 5, batch=7, vocabulary=31)
    expected = np.take_along_axis(np.broadcast_to(kept, (7, 31)), IDS, axis=1)
    np.testing.assert_array_equal(found, expected)
    assert 0.2 < (found == 0).mean() < 0.6
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / 0.6)}


def test_ids_of_any_shape():
    noise = "emb:.5@BV"
    flat = factors(Embedding(31, 3, noise=noise, seed=2), IDS.reshape(7, 63))
    deep = factors(Embedding(31, 3, noise=noise, seed=2), IDS.reshape(7, 9, 7))
    np.testing.assert_array_equal(flat.reshape(7, 9, 7), deep)


def test_evaluation_is_stock_and_draws_nothing():
    layer = Embedding(31, 3, noise="emb:.5@V")
    layer.build()
    before = ops.convert_to_numpy(layer.seed_generator.state.value)
    looked_up = ops.convert_to_numpy(layer(IDS))
    np.testing.assert_array_equal(looked_up, layer.get_weights()[0][IDS])
    after = ops.convert_to_numpy(layer.seed_generator.state.value)
    np.testing.assert_array_equal(before, after)


def test_a_table_of_ones_own():
    """Keras builds a layer that is given one before lapse has made all of it."""
    table = np.random.default_rng(1).normal(size=(31, 3)).astype("float32")
    layer = Embedding(31, 3, weights=[table], noise="emb:.5@V", seed=4)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(IDS)), table[IDS])
    kept = drawing.draw_rows(collect("emb:.5@V"), 4, batch=7, vocabulary=31)
    found = ops.convert_to_numpy(layer(IDS, training=True))
    np.testing.assert_allclose(found, (table * kept[0][:, None])[IDS], rtol=1e-6)


def test_expected_rows_scale_at_evaluation():
    layer = Embedding(31, 3, noise="emb:.25@V!exp")
    layer.build()
    looked_up = ops.convert_to_numpy(layer(IDS))
    np.testing.assert_allclose(looked_up, 0.75 * layer.get_weights()[0][IDS], rtol=1e-6)


def test_trains_and_keeps_its_noise(tmp_path):
    model = keras.Sequential(
        [Embedding(31, 3, noise="emb:.2@BV", mask_zero=True), lapse_lstm(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    model.fit(IDS, np.ones(7, "float32"), epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].noise == "emb:0.2@BV"
    expected = model.predict(IDS, verbose=0)
    np.testing.assert_allclose(loaded.predict(IDS, verbose=0), expected, rtol=1e-6)


def lapse_lstm():
    from lapse.keras import LSTM

    return LSTM(5)


def test_noise_elsewhere_is_refused():
    with pytest.raises(lapse.LapseError, match=r"x:0.5@BF acts on a recurrent layer"):
        Embedding(31, 3, noise="x:.5@BF")
