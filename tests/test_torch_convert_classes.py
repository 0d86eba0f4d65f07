"""`lapse.torch.convert` with classes of one's own, and what it says of modules that it leaves."""

from __future__ import annotations

import abc
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

import lapse
import lapse.torch
from lapse import LapseError
from lapse.torch import GRU, LSTM, RNN
from torch_support import flat
from torch_support import one_thread as one_thread  # for every test here


class WithEmpty(abc.ABC, nn.RNNBase):
    """A base with a forward of its own around PyTorch's: sequences may have no steps at all."""

    @abc.abstractmethod
    def start(self, batch: int) -> Any: ...

    def forward(self, x: Tensor, hx: Any = None, lengths: Tensor | None = None) -> Any:
        if lengths is None:
            return super().forward(x, hx=hx)
        packed = rnn.pack_padded_sequence(
            x, lengths.clamp(min=1), self.batch_first, enforce_sorted=False
        )
        y, (h, c) = super().forward(packed, hx=hx)
        empty, (h0, c0) = (lengths == 0)[None, :, None], self.start(len(lengths))
        last = torch.where(empty, h0, h), torch.where(empty, c0, c)
        return rnn.pad_packed_sequence(y, self.batch_first)[0], last


class Starts:
    """What the stock class and the one with noise share."""

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(self.num_layers, batch, self.hidden_size)  # type: ignore[attr-defined]
        return zeros, zeros


class EmptyLSTM(Starts, WithEmpty, nn.LSTM):
    pass


class NoisyEmptyLSTM(Starts, WithEmpty, LSTM):
    pass


class WeightMasked(nn.Module):
    """One layer written down by itself, with weights of other names and other arguments."""

    def __init__(self, *, inputSize: int, hiddenSize: int, dr: float = 0.5) -> None:
        super().__init__()
        self.inputSize, self.hiddenSize, self.dr = inputSize, hiddenSize, dr
        self.w_ih = nn.Parameter(torch.randn(4 * hiddenSize, inputSize) / 3)
        self.w_hh = nn.Parameter(torch.randn(4 * hiddenSize, hiddenSize) / 3)
        self.b_ih = nn.Parameter(torch.randn(4 * hiddenSize))
        self.b_hh = nn.Parameter(torch.randn(4 * hiddenSize))

    def forward(self, x: Tensor, hx: Any = None, cx: Any = None, doDropMC: bool = False) -> Any:
        cell = nn.LSTMCell(self.inputSize, self.hiddenSize)
        weights = dict(zip(dict(cell.named_parameters()), self.parameters(), strict=True))
        outputs, state = [], None
        for step in x:
            state = torch.func.functional_call(cell, weights, (step, state))
            outputs.append(state[0])
        return torch.stack(outputs), state


class WeightDropped(nn.Module):
    """The same on lapse's LSTM."""

    def __init__(self, old: WeightMasked) -> None:
        super().__init__()
        noise = f"W:{old.dr}@IO U:{old.dr}@IO"
        self.lstm = LSTM(old.inputSize, old.hiddenSize, noise=noise)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        self.lstm.load_state_dict(dict(zip(names, old.parameters(), strict=True)))

    def forward(self, x: Tensor, hx: Any = None, cx: Any = None, doDropMC: bool = False) -> Any:
        self.lstm.train(self.training or doDropMC)
        return self.lstm(x, None if hx is None else (hx, cx))


class Model(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.twice = nn.ModuleList([layer])
        self.stock = nn.LSTM(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.stock(self.twice[0](x)[0])[0]


X = torch.randn(9, 3, 7, generator=torch.Generator().manual_seed(0))


def test_a_derived_class_keeps_weights_attributes_and_its_own_methods() -> None:
    stock = EmptyLSTM(7, 5, num_layers=2, batch_first=True).eval()
    stock.note = "kept"
    stock.weight_hh_l1.requires_grad_(False)
    made = lapse.torch.convert(
        stock, noise="h:.4@BFG", recurrent_dropout=0.2, classes={EmptyLSTM: NoisyEmptyLSTM}
    )
    assert type(made) is NoisyEmptyLSTM and type(stock) is EmptyLSTM
    assert made.note == "kept" and not made.weight_hh_l1.requires_grad
    assert made.noise == "h:0.2@BFG h:0.4@BFG"
    x, lengths = X.swapaxes(0, 1), torch.tensor([9, 0, 4])
    for call in ({}, {"lengths": lengths}):
        for one, other in zip(flat(made(x, **call)), flat(stock(x, **call)), strict=True):
            torch.testing.assert_close(one, other)
    made.train()
    assert not torch.equal(made(x, lengths=lengths)[0], made(x, lengths=lengths)[0])
    assert not made(x, lengths=lengths)[1][0][:, 1].any()  # of the sequence without a step


def test_one_class_for_each_of_pytorch_s() -> None:
    pairs = {
        type(f"My{stock.__name__}", (stock,), {}): type(f"Our{ours.__name__}", (ours,), {})
        for stock, ours in ((nn.LSTM, LSTM), (nn.GRU, GRU), (nn.RNN, RNN))
    }
    model = nn.ModuleList([theirs(7, 5) for theirs in pairs])
    made = lapse.torch.convert(model, noise="s:.1@BTF>prev", classes=pairs)
    assert [type(one) for one in made] == list(pairs.values())
    with pytest.raises(LapseError, match="a class derived from lapse's"):
        lapse.torch.to_native(made)


def test_pytorch_s_own_class_can_become_one_of_ones_own() -> None:
    made = lapse.torch.convert(nn.LSTM(7, 5), classes={nn.LSTM: NoisyEmptyLSTM})
    assert type(made) is NoisyEmptyLSTM


def test_a_function_makes_the_module_that_stands_in_its_place() -> None:
    torch.manual_seed(1)
    model = Model(WeightMasked(inputSize=7, hiddenSize=5, dr=0.4)).eval()
    made = lapse.torch.convert(model, noise="x:.3@BF", classes={WeightMasked: WeightDropped})
    assert type(model.layer) is WeightMasked
    assert made.layer is made.twice[0] and not made.layer.training
    assert made.layer.lstm.noise == "W:0.4@IO U:0.4@IO"
    assert type(made.stock) is LSTM and made.stock.noise == "x:0.3@BF"
    torch.testing.assert_close(made(X), model(X))
    assert torch.equal(made(X), made(X))
    dropped = made.layer(X, doDropMC=True)[0]
    assert not torch.equal(dropped, made.layer(X, doDropMC=True)[0])
    found = lapse.torch.convert(model.layer, classes={WeightMasked: WeightDropped})
    assert type(found) is WeightDropped  # the model itself


def test_what_a_function_returns_is_converted_in_turn() -> None:
    """A cell in a loop becomes a layer, which takes the noise like any other."""

    def layer(cell: Any) -> nn.LSTM:
        made = nn.LSTM(cell.input_size, cell.hidden_size)
        made.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
        return made

    model = nn.ModuleDict({"cell": nn.LSTMCell(7, 5)}).train()
    made = lapse.torch.convert(model, noise="h:.4@BF", classes={nn.LSTMCell: layer})
    assert type(made["cell"]) is LSTM and made["cell"].noise == "h:0.4@BF"
    h, c = model["cell"](X[0])
    torch.testing.assert_close(made["cell"].eval()(X[:1])[1], (h[None], c[None]))


def test_it_names_what_stays_and_why() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.GRU(7, 5), "weight_hh_l0")
    inner = nn.ModuleDict({"mine": EmptyLSTM(7, 5), "normed": normed, "stock": nn.LSTM(7, 5)})
    model = nn.ModuleDict({"encoder": inner, "decoder": nn.GRUCell(7, 5), "done": GRU(7, 5)})
    with pytest.warns(UserWarning) as caught:
        made = lapse.torch.convert(model, noise="h:.4@BF")
    (one,) = caught
    first, *lines = str(one.message).splitlines()
    assert first == "these recurrent modules are not converted:"
    assert [line.split(":")[0].strip() for line in lines] == [
        "encoder.mine (EmptyLSTM)",
        "encoder.normed (ParametrizedGRU)",
        "decoder (GRUCell)",
    ]
    reasons = ["give classes={EmptyLSTM: ...}", "convert the model first", "has no cells"]
    for line, reason in zip(lines, reasons, strict=True):
        assert reason in line
    assert one.filename == __file__
    assert type(made["encoder"]["stock"]) is LSTM and made["done"].noise == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lapse.torch.convert(nn.ModuleList([nn.LSTM(7, 5), GRU(7, 5), nn.Linear(7, 5)]))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([EmptyLSTM], r"is not a mapping; write \{TheirLSTM: OurLSTM\}"),
        ({"EmptyLSTM": NoisyEmptyLSTM}, "key 'EmptyLSTM', which is not a class of modules"),
        ({dict: NoisyEmptyLSTM}, "which is not a class of modules"),
        ({EmptyLSTM: "LSTM"}, "'LSTM' for EmptyLSTM; give a class derived from lapse.torch.LSTM"),
        ({EmptyLSTM: GRU}, r"derived from nn\.LSTM; give a class derived from lapse\.torch\.LSTM"),
        ({WeightMasked: LSTM}, "give a function that returns a module"),
        ({EmptyLSTM: lambda old: None}, "for EmptyLSTM returned a NoneType; it must return"),
        ({nn.GRU: GRU}, "has GRU, but EmptyLSTM has no module of that class; leave it out"),
        ({nn.LSTMCell: WeightDropped}, "classes= has LSTMCell, but EmptyLSTM has no module"),
        ({nn.LSTM: LSTM}, "a class derived from it needs its own key"),
    ],
)
def test_classes_that_cant_be_followed(classes: Any, said: str) -> None:
    model = EmptyLSTM(7, 5)
    with pytest.raises(LapseError, match=said):
        lapse.torch.convert(model, classes=classes)
    assert type(model) is EmptyLSTM


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 3)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()


class NewOuter(nn.Module):
    def __init__(self, old: Outer) -> None:
        super().__init__()
        self.body = old.inner


class NewInner(nn.Module):
    def __init__(self, old: Inner) -> None:
        super().__init__()
        self.kept = old.lstm


def test_what_a_function_returns_is_replaced_in_turn() -> None:
    made = lapse.torch.convert(nn.Sequential(Outer()), classes={Outer: NewOuter, Inner: NewInner})
    assert type(made[0]) is NewOuter and type(made[0].body) is NewInner
    assert type(made[0].body.kept) is LSTM


def test_a_module_inside_what_is_made_of_it_stays() -> None:
    classes = {EmptyLSTM: lambda old: nn.Sequential(old)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it would advise what was given
        made = lapse.torch.convert(nn.Sequential(EmptyLSTM(3, 3)), classes=classes)
    assert type(made[0]) is nn.Sequential and type(made[0][0]) is EmptyLSTM


def test_a_class_that_parametrizations_made_is_refused() -> None:
    stock = nn.LSTM(3, 3)
    nn.utils.parametrizations.weight_norm(stock, "weight_hh_l0")
    with pytest.raises(LapseError, match="convert the model first, then parametrize it"):
        lapse.torch.convert(nn.Sequential(stock), classes={type(stock): LSTM})


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (LSTM, NoisyEmptyLSTM, "is already a class of lapse"),
        (EmptyLSTM, nn.LSTM, "give a class derived from lapse.torch.LSTM"),
    ],
)
def test_classes_that_lead_nowhere_are_refused(theirs: type, ours: type, said: str) -> None:
    with pytest.raises(LapseError, match=said):
        lapse.torch.convert(nn.Sequential(EmptyLSTM(3, 3)), classes={theirs: ours})


def test_classes_lead_back() -> None:
    stock = nn.Sequential(EmptyLSTM(3, 5))
    noisy = lapse.torch.convert(stock, recurrent_dropout=0.2, classes={EmptyLSTM: NoisyEmptyLSTM})
    back = lapse.torch.to_native(noisy, classes={NoisyEmptyLSTM: EmptyLSTM})
    assert type(back[0]) is EmptyLSTM
    for name, weight in stock.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight)
    with pytest.raises(LapseError, match="give your own classes as"):
        lapse.torch.to_native(noisy)
    for wrong in ({NoisyEmptyLSTM: nn.GRU}, {nn.LSTM: EmptyLSTM}, {"LSTM": EmptyLSTM}, EmptyLSTM):
        with pytest.raises(LapseError, match="derived from PyTorch's of that name"):
            lapse.torch.to_native(noisy, classes=wrong)
