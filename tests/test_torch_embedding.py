"""PyTorch's embedding module: which rows are dropped, for whom, and that evaluation drops none."""

import numpy as np
import pytest
import torch

import lapse
from lapse.backends.torch.drawing import new_seed
from lapse.core import drawing
from lapse.core.noise import collect
from lapse.torch import Embedding

IDS = torch.from_numpy(np.random.default_rng(0).integers(0, 31, size=(7, 63)))


@pytest.mark.parametrize("per_sample", [False, True])
def test_drops_the_rows_that_the_mask_names(per_sample):
    noise = lapse.EmbeddingDropout(0.4, per_sample)
    layer = Embedding(31, 3, noise=noise)
    torch.nn.init.ones_(layer.weight)
    torch.manual_seed(1)
    found = layer(IDS)
    torch.manual_seed(1)
    kept = drawing.draw_rows(collect(noise), new_seed(None), batch=7, vocabulary=31)
    expected = np.take_along_axis(np.broadcast_to(kept, (7, 31)), IDS.numpy(), axis=1)
    np.testing.assert_array_equal(found.detach().numpy(), expected[..., None].repeat(3, axis=2))
    assert 0.2 < (expected == 0).mean() < 0.6


def test_gradient_of_a_dropped_row_is_zero_and_of_a_kept_one_scaled():
    layer = Embedding(31, 3, noise="emb:.5@V")
    layer(IDS).sum().backward()
    counts = torch.bincount(IDS.flatten(), minlength=31)
    share = layer.weight.grad[:, 0] / counts
    assert set(share[counts > 0].tolist()) == {0.0, 2.0}


def test_evaluation_is_stock_and_draws_nothing():
    layer = Embedding(31, 3, noise="emb:.5@V", padding_idx=0).eval()
    before = torch.get_rng_state()
    assert torch.equal(layer(IDS), layer.weight[IDS])
    assert torch.equal(torch.get_rng_state(), before)
    stock = torch.nn.Embedding(31, 3, padding_idx=0)
    stock.load_state_dict(layer.state_dict())


def test_noise_elsewhere_is_refused():
    with pytest.raises(lapse.LapseError, match=r"h:0.5@BF acts on a recurrent layer"):
        Embedding(31, 3, noise="h:.5@BF")


def test_a_single_index() -> None:
    layer = Embedding(31, 5, noise="emb:.5@V")
    found = {bool(layer(torch.tensor(3)).any()) for _ in range(40)}
    assert found == {True, False} and layer(torch.tensor(3)).shape == (5,)
