"""A training step of each layer that is timed: forward, and gradients of input and weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lapse import torch as ours
from lapse.bench.cases import Case

Step = Callable[[], Any]


class LoopWithMask(nn.Module):
    """A cell in a Python loop, with one recurrent mask per sequence: the way without lapse.

    The GRU is written out, because `nn.GRUCell` would also carry the masked state forward.
    """

    def __init__(self, cell: str, features: int, units: int) -> None:
        super().__init__()
        self.cell = (nn.LSTMCell if cell == "LSTM" else nn.GRUCell)(features, units)
        self.units = units

    def draw(self, x: Tensor) -> Tensor:
        """The mask of one call, (batch, units)."""
        return nn.functional.dropout(x.new_ones(x.shape[0], self.units))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = self.draw(x)
        h = c = torch.zeros_like(mask)
        steps = []
        for now in x.unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(now, (h * mask, c))
            else:
                h = self._gru(now, h, h * mask)
            steps.append(h)
        return torch.stack(steps, 1), h

    def _gru(self, x: Tensor, h: Tensor, read: Tensor) -> Tensor:
        linear, cell = nn.functional.linear, self.cell
        x_r, x_z, x_n = linear(x, cell.weight_ih, cell.bias_ih).chunk(3, 1)
        h_r, h_z, h_n = linear(read, cell.weight_hh, cell.bias_hh).chunk(3, 1)
        z, n = (x_z + h_z).sigmoid(), (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
        return n + z * (h - n)


class Packed(nn.Module):
    """PyTorch's layer on a padded batch, which is packed before the layer and padded after it."""

    def __init__(self, layer: nn.Module, lengths: Tensor) -> None:
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        packed = pack_padded_sequence(x, self.lengths, batch_first=True, enforce_sorted=False)
        y, state = self.layer(packed)
        return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], state


class Padded(nn.Module):
    """lapse's layer on a padded batch, with lengths."""

    def __init__(self, layer: nn.Module, lengths: Tensor) -> None:
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        return self.layer(x, lengths=self.lengths)  # type: ignore[no-any-return]


def lengths_of(case: Case) -> Tensor:
    """The length of each sample: most are short, and one has all timesteps.

    The n-th of B samples has (n/B)^2 of the timesteps, a third on average.
    """
    share = (torch.arange(case.shape.batch) + 1) / case.shape.batch
    return (share**2 * case.shape.timesteps).ceil().to(torch.int64)


def build(case: Case, kind: str) -> nn.Module:
    """The module of a subject; all kinds have the same weights.

    Args:
        kind: "nn", "loop", "packed", "padded", or "lapse" followed by the terms of its noise.
    """
    _, _, features, units = case.shape
    torch.manual_seed(0)
    native: nn.Module = getattr(nn, case.cell)(features, units, batch_first=True)
    if kind == "nn":
        return native
    weights = native.state_dict()
    if kind == "loop":
        loop = LoopWithMask(case.cell, features, units)
        loop.cell.load_state_dict({name.removesuffix("_l0"): w for name, w in weights.items()})
        return loop
    if kind == "packed":
        return Packed(native, lengths_of(case))
    noise = kind.removeprefix("lapse").strip() if kind != "padded" else ""
    layer = like(native, noise, "cpu")
    return Padded(layer, lengths_of(case)) if kind == "padded" else layer


def like(module: nn.Module, noise: str, engine: str) -> Any:
    """lapse's layer with the weights of another layer, or of a cell."""
    layer_class: Any = getattr(ours, type(module).__name__.removesuffix("Cell"))
    with warnings.catch_warnings():
        # RnnDrop warns that evaluation forgets; only training steps are timed.
        warnings.simplefilter("ignore", UserWarning)
        layer = layer_class(
            module.input_size, module.hidden_size, batch_first=True, noise=noise, engine=engine
        )
    weights = module.state_dict().items()
    layer.load_state_dict({name.removesuffix("_l0") + "_l0": w for name, w in weights})
    return layer


def inputs(case: Case) -> tuple[Tensor, Tensor]:
    """An input, and a gradient of the output."""
    batch, timesteps, features, units = case.shape
    torch.manual_seed(1)
    return torch.randn(batch, timesteps, features), torch.randn(batch, timesteps, units)


def step(module: nn.Module, x: Tensor, dy: Tensor) -> Step:
    """A callable that runs one training step and returns the output and all gradients."""
    leaf = x.clone().requires_grad_()
    parameters = list(module.parameters())

    def run() -> tuple[Tensor, ...]:
        y = module(leaf)[0]
        return y, *torch.autograd.grad(y, [leaf, *parameters], dy)

    return run
