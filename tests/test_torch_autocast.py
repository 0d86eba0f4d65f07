"""Half precision, by autocast and by type: results as PyTorch types them, computed in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lapse.torch import LSTM
from torch_support import HAS_BFLOAT16, flat, in_every_module, in_every_pair, pair

HALF = {torch.bfloat16: 2e-2, torch.float16: 3e-3}
in_half = pytest.mark.parametrize("dtype", HALF, ids=str)
NOISE = "x:.3@BF h:.4@BFG s:.2@BTF>prev y:.2@BTF"


def close(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    """Apart by what a few roundings to half precision make of numbers up to 1."""
    torch.testing.assert_close(found.float(), exact.float(), rtol=0, atol=HALF[dtype])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@in_half
@in_every_pair
def test_autocast_types_results_by_the_rule_of_nn_lstm(
    ours: type, theirs: type, dtype: torch.dtype, options: dict
) -> None:
    """PyTorch's GRU on a CPU leaves them as they were; its LSTM is the rule for all three here."""
    one, other = pair(ours, theirs, 7, 5, dtype=torch.float32, **options)
    x = torch.randn(9, 3, 7, requires_grad=True)
    exact = flat(one(x))
    with torch.autocast("cpu", dtype):
        found = flat(one(x))
        if ours is LSTM and dtype == torch.bfloat16 and HAS_BFLOAT16:
            assert all(result.dtype == dtype for result in flat(other(x)))
    for result, wanted in zip(found, exact, strict=True):
        assert result.dtype == dtype
        close(result, wanted, dtype)
    found[0].float().square().sum().backward()
    gradients = [x.grad, *(p.grad for p in one.parameters())]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    x.grad = None
    one.zero_grad()
    exact[0].square().sum().backward()
    for found_one, p in zip(gradients, [x, *one.parameters()], strict=True):
        wanted = p.grad
        scale = wanted.abs().max().clamp(min=1)
        close(found_one / scale, wanted / scale, dtype)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@in_every_module
def test_autocast_takes_half_a_model_in_half_precision(ours: type, engine: str) -> None:
    """Inputs, states and weights of other types than one another, as what stands around gives."""
    layer = ours(7, 5, noise=NOISE.replace("BFG", "BF"), engine=engine)
    masks, x = layer.draw_masks(3, 9), torch.randn(9, 3, 7)
    exact = flat(layer(x, masks=masks))
    with torch.autocast("cpu", torch.bfloat16):
        found = flat(layer(x.bfloat16(), masks=masks))
        mixed = flat(layer.bfloat16()(x, masks=masks))
    for results in (found, mixed):
        for result, wanted in zip(results, exact, strict=True):
            assert result.dtype == torch.bfloat16
            close(result, wanted, torch.bfloat16)


@pytest.mark.parametrize("options", [{"engine": "cpu"}, {"engine": "reference"}], ids=str)
@in_every_module
def test_a_layer_takes_the_state_that_it_gave(ours: type, options: dict) -> None:
    """As a decoder does its encoder's."""
    layer, x = ours(7, 5, **options), torch.randn(9, 3, 7)
    whole, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        _, state = layer(x[:4])
        rest, last = layer(x[4:], state)
    assert all(part.dtype == torch.bfloat16 for part in flat((rest, last)))
    close(rest, whole[4:], torch.bfloat16)


def test_a_projection_takes_its_state_too() -> None:
    layer, x = LSTM(7, 5, proj_size=3), torch.randn(9, 3, 7)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x, layer(x)[1])


def test_masks_of_half_a_module_are_as_fine_as_those_it_draws() -> None:
    layer = LSTM(7, 5, recurrent_dropout=0.3, dtype=torch.bfloat16)
    x = torch.randn(9, 3, 7, dtype=torch.bfloat16)
    torch.manual_seed(1)
    drawn = flat(layer(x))
    torch.manual_seed(1)
    given = flat(layer(x, masks=layer.draw_masks(3, 9)))
    assert all(map(torch.equal, drawn, given))


def test_autocast_leaves_float64_as_it_is() -> None:
    layer = LSTM(7, 5, dtype=torch.float64)
    x = torch.randn(9, 3, 7, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x)
    assert torch.equal(y, layer(x)[0])


@in_half
@in_every_module
def test_modules_in_half_precision_run_on_the_kernel(ours: type, dtype: torch.dtype) -> None:
    layer = ours(7, 5, noise=NOISE.replace("BFG", "BF"), engine="cpu", dtype=dtype)
    x = torch.randn(9, 3, 7, dtype=dtype, requires_grad=True)
    masks = layer.draw_masks(3, 9)
    found = flat(layer(x, masks=masks))
    found[0].sum().backward()
    in_float = ours(7, 5, noise=NOISE.replace("BFG", "BF"))
    in_float.load_state_dict({k: v.float() for k, v in layer.state_dict().items()})
    exact = flat(in_float(x.detach().float(), masks=masks))
    for result, wanted in zip(found, exact, strict=True):
        assert result.dtype == dtype
        close(result, wanted, dtype)
    assert x.grad is not None and x.grad.dtype == dtype
    assert all(p.grad.dtype == dtype for p in layer.parameters())


def test_autocast_in_a_compiled_graph() -> None:
    layer = LSTM(7, 5, batch_first=True)
    model = nn.Sequential(layer)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 7)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = compiled(x)[0], model(x)[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted)
    torch.compiler.reset()
