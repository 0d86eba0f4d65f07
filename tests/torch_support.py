"""What the tests of the PyTorch modules share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import catalog
from lapse.torch import GRU, LSTM, RNN

PAIRS = {"LSTM": (LSTM, nn.LSTM), "GRU": (GRU, nn.GRU), "SimpleRNN": (RNN, nn.RNN)}
MODULES = (LSTM, GRU, RNN)
in_every_pair = pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)
in_every_module = pytest.mark.parametrize("ours", MODULES, ids=lambda module: module.__name__)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On tensors this small, threads spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pair(ours: type, theirs: type, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """Our module and PyTorch's with the same weights."""
    dtype = options.pop("dtype", torch.float64)
    torch.manual_seed(0)
    one, other = theirs(*sizes, **options).to(dtype), ours(*sizes, **options).to(dtype)
    other.load_state_dict(one.state_dict(), strict=True)
    return other, one


def state_of(module: Any, *shape: int) -> Any:
    """A random initial state with gradients."""
    parts = tuple(
        torch.randn(*shape, dtype=module.weight_hh_l0.dtype, requires_grad=True)
        for _ in range(2 if module.mode == "LSTM" else 1)
    )
    return parts if module.mode == "LSTM" else parts[0]


def flat(result: Any) -> list[Tensor]:
    """The tensors of an output and a last state."""
    y, last = result
    return [y, *(last if isinstance(last, tuple) else (last,))]


def assert_close(found: list, expected: list, tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert catalog.distance(one.detach(), other.detach()) < tolerance


def gradients(module: Any, results: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of a random functional of all results, for the inputs and every parameter."""
    random = torch.Generator().manual_seed(1)
    loss = sum((r * torch.randn(r.shape, generator=random, dtype=r.dtype)).sum() for r in results)
    return list(torch.autograd.grad(loss, [*inputs, *module.parameters()]))
