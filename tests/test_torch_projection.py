"""An LSTM whose hidden state is a projection, `proj_size` in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import catalog
import lapse
from lapse import LapseError, PlainLoopWarning
from lapse.core import cells
from lapse.core.masks import Masks
from lapse.torch import GRU, LSTM, RNN
from torch_support import assert_close, flat, gradients, pair

TOLERANCE = catalog.TOLERANCE["float64"]
STACKS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "bias": False},
]


@pytest.mark.parametrize("projected", [1, 3, 4])
@pytest.mark.parametrize("options", STACKS, ids=str)
def test_outputs_and_gradients_are_pytorchs(options: dict[str, Any], projected: int) -> None:
    options = {**options, "proj_size": projected, "batch_first": True}
    ones = pair(LSTM, nn.LSTM, 7, 5, dtype=torch.float64, **options)
    count = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    torch.manual_seed(1)
    x = torch.randn(3, 31, 7, dtype=torch.float64, requires_grad=True)
    hx = tuple(
        torch.randn(count, 3, n, dtype=torch.float64, requires_grad=True) for n in (projected, 5)
    )
    for state in (None, hx):
        found, expected = (flat(one(x, state)) for one in ones)
        assert_close(found, expected, TOLERANCE.values)
        inputs = [x, *(state or ())]
        back = [gradients(one, r, inputs) for one, r in zip(ones, (found, expected), strict=True)]
        assert_close(*back, TOLERANCE.gradients)
    assert list(ones[0].state_dict()) == list(ones[1].state_dict())


def test_noise_is_the_oracle_s_by_hand() -> None:
    """h and its zoneout have as many numbers as the projection, cells and gates as the units."""
    noise = "x:.3@BF h:.4@BFG s:.2@BTF>prev c:.3@BTF>prev U:.3@IO g:.2@BTF y:.3@BTF"
    layer = LSTM(7, 5, proj_size=3, noise=noise, dtype=torch.float64, batch_first=True)
    torch.manual_seed(0)
    x = torch.randn(2, 9, 7, dtype=torch.float64)
    masks = layer.draw_masks(2, 9, seed=4)
    shapes = {slot: tuple(m.shape) for slot, m in masks._asdict().items() if m is not None}
    assert shapes == {
        "x": (2, 1, 1, 7),
        "h": (2, 1, 4, 3),
        "k_h": (2, 9, 1, 3),
        "k_c": (2, 9, 1, 5),
        "U": (3, 20),
        "g": (2, 9, 1, 5),
        "y": (2, 9, 1, 3),
    }
    y, (h, c) = layer(x, masks=masks)
    W, U, b_ih, b_hh, P = (p.detach().numpy().T for p in layer.parameters())
    m = Masks(*(None if one is None else one.numpy() for one in masks))
    h_now, c_now, U = np.zeros((2, 3)), np.zeros((2, 5)), U * m.U
    for t in range(9):
        read = [(h_now * m.h[:, 0, gate]) @ U[:, 5 * gate : 5 * gate + 5] for gate in range(4)]
        z = (x[:, t].numpy() * m.x[:, 0, 0]) @ W + b_ih + b_hh + np.concatenate(read, 1)
        i, f, g, o = np.split(z, 4, 1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c_new = f * c_now + i * np.tanh(g) * m.g[:, t, 0]
        h_new = (o * np.tanh(c_new)) @ P
        h_now = h_now + m.k_h[:, t, 0] * (h_new - h_now)
        c_now = c_now + m.k_c[:, t, 0] * (c_new - c_now)
        np.testing.assert_allclose(y[:, t].detach(), h_now * m.y[:, t, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(h[0].detach(), h_now, rtol=0, atol=1e-12)
    np.testing.assert_allclose(c[0].detach(), c_now, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", STACKS, ids=str)
def test_what_is_drawn_is_what_draw_masks_gives(options: dict[str, Any]) -> None:
    noise = "h:.4@BFG state:.2@BTF>prev y:.3@BTF"
    layer = LSTM(7, 5, proj_size=3, noise=noise, **options)
    x = torch.randn(9, 2, 7)
    torch.manual_seed(3)
    masks = layer.draw_masks(2, 9)
    torch.manual_seed(3)
    for one, other in zip(flat(layer(x)), flat(layer(x, masks=masks)), strict=True):
        assert torch.equal(one, other)


def test_a_padded_batch_is_the_packed_one() -> None:
    layer, lengths = LSTM(7, 5, proj_size=3, bidirectional=True), torch.tensor([9, 4, 1])
    x = torch.randn(9, 3, 7)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
    y, last = layer(packed)
    wanted, wanted_last = layer(x, lengths=lengths)
    assert torch.equal(nn.utils.rnn.pad_packed_sequence(y)[0], wanted)
    assert all(map(torch.equal, last, wanted_last))


def test_it_compiles_whole() -> None:
    layer = LSTM(7, 5, proj_size=3, noise="h:.4@BF", batch_first=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, masks = torch.randn(2, 4, 7), layer.draw_masks(2, 4)
    for one, other in zip(flat(compiled(x, masks=masks)), flat(layer(x, masks=masks)), strict=True):
        torch.testing.assert_close(one, other)
    torch.compiler.reset()


def test_the_plain_loop_runs_it_and_says_so() -> None:
    layer = LSTM(7, 5, proj_size=3)
    assert "they have no projection of h" in lapse.explain(layer)
    with pytest.raises(LapseError, match="they have no projection of h"):
        LSTM(7, 5, proj_size=3, engine="cpu")(torch.zeros(9, 3, 7))


def test_the_oracle_takes_a_projection_in_numpy() -> None:
    """cells.unroll itself, against PyTorch."""
    given = nn.LSTM(7, 5, proj_size=3, batch_first=True, dtype=torch.float64)
    W, U, b_ih, b_hh, P = (p.detach().numpy().T for p in given.parameters())
    x = torch.randn(2, 9, 7, dtype=torch.float64)
    y, (h, c) = cells.unroll("LSTM", x.numpy(), cells.Weights(W, U, b_ih + b_hh, P))
    wanted, (last_h, last_c) = given(x)
    np.testing.assert_allclose(y, wanted.detach(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(h, last_h[0].detach(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(c, last_c[0].detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ours", [GRU, RNN])
def test_other_cells_have_none(ours: type) -> None:
    with pytest.raises(LapseError, match="proj_size=3"):
        ours(7, 5, proj_size=3)


def test_states_of_other_sizes() -> None:
    layer = LSTM(7, 5, proj_size=3)
    for h, c in ((5, 5), (3, 3), (5, 3)):
        with pytest.raises(
            LapseError,
            match=r"needs a pair \(h, c\) of tensors of shape \(1, 2, 3\) and \(1, 2, 5\)",
        ):
            layer(torch.zeros(9, 2, 7), (torch.zeros(1, 2, h), torch.zeros(1, 2, c)))


def test_a_fall_back_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from lapse.engines import choice

    monkeypatch.setattr(choice, "_warned", set())
    with pytest.warns(PlainLoopWarning, match="they have no projection of h"):
        LSTM(7, 5, proj_size=3, recurrent_dropout=0.5)(torch.zeros(9, 3, 7))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "noise",
    [
        *(f"s:.4@BTF{end}" for end in ("", "!exp", "!none", "~gauss")),
        *(f"state:.4@BTF{end}" for end in ("!exp", "!none")),
    ],
)
@pytest.mark.filterwarnings("ignore:.*forgets at evaluation")
def test_the_hidden_state_is_dropped_behind_the_projection(
    noise: str, training: bool, directions: int
) -> None:
    """What `s` drops of h is 0 in the output, and h as carried on has it too."""
    options: dict[str, Any] = {"proj_size": 3, "bidirectional": directions == 2}
    layer = LSTM(7, 5, noise=noise, dtype=torch.float64, batch_first=True, **options)
    torch.manual_seed(0)
    x = torch.randn(2, 9, 7, dtype=torch.float64)
    drawn: Any = layer.draw_masks(2, 9, seed=4)
    y, (h, c) = layer(x, masks=drawn) if training else layer.eval()(x)
    weights = [p.detach().numpy().T for p in layer.parameters()]
    for n in range(directions):
        W, U, b_ih, b_hh, P = weights[5 * n : 5 * n + 5]
        m = (drawn if directions == 1 else drawn[n])._asdict() if training else {}
        assert not training or m["s"].shape == (2, 9, 1, 3)
        expected = 0.6 if noise.endswith("!exp") else 1.0
        h_now, c_now = np.zeros((2, 3)), np.zeros((2, 5))
        for t in range(9)[:: 1 - 2 * n]:
            hidden = m["s"][:, t, 0].numpy() if training else expected
            cell = 1.0
            if noise.startswith("state"):
                cell = m["i"][:, t, 0].numpy() if training else expected
            z = x[:, t].numpy() @ W + b_ih + b_hh + h_now @ U
            i, f, g, o = np.split(z, 4, 1)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c_now = cell * (f * c_now + i * np.tanh(g))
            h_now = hidden * ((o * np.tanh(c_now)) @ P)
            found = y[:, t, 3 * n : 3 * n + 3].detach().numpy()
            np.testing.assert_allclose(found, h_now, rtol=0, atol=1e-12)
        np.testing.assert_allclose(h[n].detach(), h_now, rtol=0, atol=1e-12)
        np.testing.assert_allclose(c[n].detach(), c_now, rtol=0, atol=1e-12)
    assert (y == 0).any() == (training and not noise.endswith("gauss"))


def test_without_a_projection_the_hidden_state_is_dropped_at_the_output_gate() -> None:
    """Kernels have no slot s for an LSTM, and need none."""
    for noise, slots in (("s:.4@BF", {"o"}), ("state:.4@BTF!none", {"i", "f", "o"})):
        masks: Any = LSTM(7, 5, noise=noise).draw_masks(2, 9, seed=4)
        assert {slot for slot, mask in masks._asdict().items() if mask is not None} == slots


def test_coins_of_all_carried_states_are_the_same_up_to_the_smaller_width() -> None:
    layer = LSTM(7, 5, proj_size=3, noise="state:.4@BTF!none")
    masks: Any = layer.draw_masks(2, 9, seed=4)
    assert torch.equal(masks.i[..., :3], masks.s) and torch.equal(masks.i, masks.f)


def test_explain_gives_the_shape_of_the_hidden_state() -> None:
    said = lapse.explain(LSTM(7, 5, proj_size=3, noise="s:.4@BF"))
    assert "a mask of (batch, 1, 1, 3);" in said
    both = "a mask of (batch, timesteps, 1, 5) for c and (batch, timesteps, 1, 3) for h;"
    for noise in ("state:.4@BTF!none", "state:.4@BTF>prev"):
        assert both in lapse.explain(LSTM(7, 5, proj_size=3, noise=noise))
        assert "a mask of (batch, timesteps, 1, 5);" in lapse.explain(LSTM(7, 5, noise=noise))
