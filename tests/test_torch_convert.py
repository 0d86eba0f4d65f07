"""Whole models from PyTorch's modules to lapse's and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lapse
import lapse.torch
from lapse.core.errors import LapseError
from lapse.torch import LSTM
from torch_support import PAIRS, flat, in_every_pair


class Tagger(nn.Module):
    """Two recurrent modules, one of them under two names."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.first = kind(7, 5, num_layers=2, dropout=0.3, bidirectional=True)
        self.parts = nn.ModuleList([kind(10, 3)])
        self.again = self.parts[0]
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.first(x)[0])[0])


@in_every_pair
def test_there_and_back(ours: type, theirs: type) -> None:
    torch.manual_seed(0)
    model, x = Tagger(theirs).double().eval(), torch.randn(9, 3, 7, dtype=torch.float64)
    model.first.weight_hh_l1.requires_grad_(False)
    model.again.register_forward_hook(lambda module, given, made: (made[0] * 2, made[1]))
    state = torch.random.get_rng_state()
    made = lapse.torch.convert(model, noise="h:.5@BFG", recurrent_dropout=0.2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(made.first) is type(made.again) is ours
    assert made.again is made.parts[0]
    assert type(model.first) is theirs
    back = lapse.torch.to_native(made)
    assert type(back.first) is type(back.again) is theirs
    assert vars(back.first).keys() == vars(model.first).keys()
    for one in (made, back):
        assert not one.training
        torch.testing.assert_close(one(x), model(x), rtol=0, atol=1e-13)
        for (name, p), (other, q) in zip(
            one.named_parameters(), model.named_parameters(), strict=True
        ):
            assert name == other and torch.equal(p, q)
            assert p.requires_grad == q.requires_grad and p.data_ptr() != q.data_ptr()


@in_every_pair
def test_what_is_made_is_what_its_constructor_makes(ours: type, theirs: type) -> None:
    """The same masks, from the same seed, in training."""
    torch.manual_seed(0)
    stock, x = theirs(7, 5, num_layers=2, dropout=0.3), torch.randn(9, 3, 7)
    made = lapse.torch.convert(stock, noise="s:.1@BTF>prev", recurrent_dropout=0.2)
    wanted = ours(7, 5, 2, dropout=0.3, noise="s:.1@BTF>prev", recurrent_dropout=0.2)
    wanted.load_state_dict(stock.state_dict())
    assert repr(made) == repr(wanted)
    torch.manual_seed(3)
    found = flat(made(x))
    torch.manual_seed(3)
    for one, other in zip(found, flat(wanted(x)), strict=True):
        assert torch.equal(one, other)


def test_relu_stays_relu() -> None:
    stock, x = nn.RNN(7, 5, nonlinearity="relu"), torch.randn(9, 3, 7)
    torch.testing.assert_close(lapse.torch.convert(stock)(x)[0], stock(x)[0])


def test_noise_that_acts_in_evaluation_has_no_way_back() -> None:
    model = lapse.torch.convert(Tagger(nn.GRU), noise=lapse.Zoneout())
    with pytest.raises(LapseError, match=r"first has the noise s:0\.05@BTF>prev, which acts"):
        lapse.torch.to_native(model)


def test_what_cant_be_converted_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.LSTM(7, 5, proj_size=3), nn.GRU(3, 5))
    with pytest.raises(LapseError, match="not a noise term"):
        lapse.torch.convert(model, noise="half")
    with pytest.raises(LapseError, match=r"c:0\.5@BTF>prev"):  # a GRU has no cell state
        lapse.torch.convert(model, noise="c:.5@BTF>prev")
    assert [type(one) for one in model] == [nn.LSTM, nn.GRU]


def test_subclasses_stay_what_they_are_and_have_no_way_back() -> None:
    for ours, theirs in PAIRS.values():
        mine = type("Mine", (theirs,), {})(7, 5)
        with pytest.warns(UserWarning, match=r"the model \(Mine\): its class is derived"):
            assert type(lapse.torch.convert(mine)) is type(mine)
        model = nn.Sequential(type("Mine", (ours,), {})(7, 5))
        with pytest.raises(LapseError, match="0 is a Mine, a class derived from lapse's"):
            lapse.torch.to_native(model)
        normed = nn.utils.parametrizations.weight_norm(ours(7, 5), "weight_hh_l0")
        with pytest.raises(LapseError, match="remove parametrizations first"):
            lapse.torch.to_native(normed)


def test_an_embedding_has_a_way_back() -> None:
    noise = lapse.EmbeddingDropout(0.3)
    model = nn.Sequential(lapse.torch.Embedding(31, 7, noise=noise), LSTM(7, 5)).eval()
    made = lapse.torch.to_native(model)
    assert [type(one) for one in made] == [nn.Embedding, nn.LSTM]
    assert vars(made[0]).keys() == vars(nn.Embedding(31, 7)).keys()
    words = torch.randint(31, (9, 3))
    torch.testing.assert_close(made(words)[0], model(words)[0])
    scaled = lapse.torch.Embedding(31, 7, noise="emb:.3@V!exp")
    with pytest.raises(LapseError, match=r"emb:0\.3@V!exp, which acts in evaluation too"):
        lapse.torch.to_native(scaled)


@pytest.mark.parametrize("call", [{"noise": "x:.3@BF"}, {"recurrent_dropout": 0.2}], ids=str)
def test_noise_that_no_module_takes_is_said(call: dict[str, Any]) -> None:
    for model in (nn.Linear(7, 5), LSTM(7, 5)):
        with pytest.raises(LapseError, match="that could take the noise"):
            lapse.torch.convert(model, **call)
        assert type(lapse.torch.convert(model)) is type(model)
    mine = type("Mine", (nn.GRU,), {})(7, 5)
    with pytest.raises(LapseError, match=r"could take the noise(.|\n)*the model \(Mine\)"):
        lapse.torch.convert(mine, **call)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated:DeprecationWarning")
def test_tools_that_go_by_class_take_what_to_native_makes() -> None:
    model, x = lapse.torch.convert(Tagger(nn.LSTM), noise="h:.4@BFG").eval(), torch.randn(9, 3, 7)
    native = lapse.torch.to_native(model)
    quantized = torch.ao.quantization.quantize_dynamic(native, {nn.LSTM})
    assert type(quantized.first) is torch.ao.nn.quantized.dynamic.LSTM
    traced = torch.jit.trace(native, (x,), check_trace=False)
    torch.testing.assert_close(traced(x), model(x))
    passed_over = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM})
    assert type(passed_over.first) is LSTM
    torch.testing.assert_close(torch.jit.trace(model, (x,), check_trace=False)(x), model(x))


def test_a_model_that_pytorch_cannot_copy_is_told_what_to_do() -> None:
    stock = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.LSTM(5, 4), "weight_hh_l0"))
    stock(torch.randn(3, 2, 5))
    with pytest.raises(LapseError, match=r"call the model once under torch\.no_grad"):
        lapse.torch.convert(stock)
    with torch.no_grad():
        stock(torch.randn(3, 2, 5))
    with pytest.warns(UserWarning, match="parametrizations made its class"):
        lapse.torch.convert(stock)
