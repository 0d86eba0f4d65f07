"""The modules under torch.compile: whole graphs, forward and backward, any batch and time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from lapse.torch import GRU, LSTM, RNN
from torch_support import flat, in_every_module

NOISES = {
    LSTM: [
        *("", "x:.5@BFG h:.5@BFG", "c:.5@BTF>prev s:.05@BTF>prev"),
        "U:.5@IO y:.3@BTF x:.2@BTF~gauss",
    ],
    GRU: ["", "x:.5@BTF h:.5@BFG r:.2@BTF", "x:.4@BT[3] s:.2@BTF>prev"],
    RNN: ["h:.5@BTF", "W:.5@IO"],
}  # fmt: skip
CASES = [(ours, noise) for ours, noises in NOISES.items() for noise in noises]
CASE = pytest.mark.parametrize(("ours", "noise"), CASES)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def step(module: torch.nn.Module, layer: torch.nn.Module, x: torch.Tensor, **call: object) -> list:
    """Output, last state and all gradients."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y, state = module(x, **call)
    y.square().sum().backward()
    states = state if isinstance(state, tuple) else (state,)
    return [y, *states, x.grad, *(parameter.grad.clone() for parameter in layer.parameters())]


@CASE
def test_a_compiled_step_is_the_eager_one(ours: type, noise: str) -> None:
    torch.manual_seed(0)
    layer = ours(5, 7, batch_first=True, noise=noise)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch, timesteps in ((3, 6), (4, 9), (2, 5)):
        x, lengths = torch.randn(batch, timesteps, 5), torch.arange(batch) + 1
        masks = layer.draw_masks(batch, timesteps)
        for call in ({"masks": masks}, {"masks": masks, "lengths": lengths}):
            for one, other in zip(
                step(compiled, layer, x, **call), step(layer, layer, x, **call), strict=True
            ):
                torch.testing.assert_close(one, other)


@CASE
def test_a_compiled_module_draws_in_training_and_not_in_evaluation(ours: type, noise: str) -> None:
    torch.manual_seed(0)
    layer = ours(5, 7, batch_first=True, noise=noise)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 6, 5)
    first, second = compiled(x)[0], compiled(x)[0]
    assert torch.equal(first, second) == (noise == "")
    layer.eval()
    assert torch.equal(compiled(x)[0], compiled(x)[0])
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, inside its compiler
def test_the_default_compiler_takes_it_too() -> None:
    layer = LSTM(5, 7, batch_first=True, recurrent_dropout=0.5, noise="y:.5@BTF")
    compiled = torch.compile(layer, fullgraph=True)
    x, masks = torch.randn(3, 6, 5), layer.draw_masks(3, 6)
    for one, other in zip(
        step(compiled, layer, x, masks=masks), step(layer, layer, x, masks=masks), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@in_every_module
def test_one_graph_serves_every_batch_and_time(ours: type, training: bool) -> None:
    """Of a stack with dropout between its layers; unmarked sizes need one more, the first."""
    stack = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "noise": "h:.4@BFG y:.2@BTF"}
    for marked, graphs in ((True, 1), (False, 2)):
        torch.compiler.reset()
        torch.manual_seed(0)
        layer, counter = ours(5, 7, batch_first=True, **stack).train(training), CompileCounter()
        compiled = torch.compile(layer, fullgraph=True, backend=counter)
        for batch, timesteps in ((3, 6), (4, 9), (2, 31), (7, 5)):
            x = torch.randn(batch, timesteps, 5)
            if marked:
                torch._dynamo.mark_dynamic(x, (0, 1))
            torch.manual_seed(3)
            found = flat(compiled(x))
            torch.manual_seed(3)
            for one, other in zip(found, flat(layer(x)), strict=True):
                torch.testing.assert_close(one, other)
        assert counter.frame_count == graphs


def test_what_the_kernel_cannot_do_compiles_too() -> None:
    """The warning of it comes at compilation, and breaks no graph."""
    layer, x = RNN(5, 7, nonlinearity="relu", noise="h:.5@BF").eval(), torch.randn(6, 3, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])
