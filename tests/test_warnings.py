"""Warnings point at the user's line, however many modules stand between it and lapse."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lapse import PlainLoopWarning
from lapse.engines import choice
from lapse.torch import GRU, LSTM
from torch_support import one_thread as one_thread  # for every test here


class First(nn.Module):
    """The output of a recurrent module alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[0]


def where(call: Callable[[], Any], category: type[Warning]) -> tuple[str, int]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (one,) = (one for one in caught if issubclass(one.category, category))
    return one.filename, one.lineno


def line_of(function: Callable) -> int:
    return function.__code__.co_firstlineno


@pytest.mark.parametrize(
    "wrapped",
    [lambda layer: layer, nn.Sequential, lambda layer: nn.Sequential(nn.Sequential(layer))],
)
def test_the_plain_loop_names_the_line_of_the_call(
    wrapped: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_warned", set())
    model, x = wrapped(GRU(7, 5, noise="h:.3@BF").double()), torch.zeros(9, 3, 7).double()
    call = lambda: model(x)  # noqa: E731  one line
    assert where(call, PlainLoopWarning) == (__file__, line_of(call))


def test_in_a_module_of_ones_own_it_is_the_line_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_warned", set())
    model = nn.Sequential(First(LSTM(7, 5, proj_size=3)), nn.Linear(3, 2))
    found = where(lambda: model(torch.zeros(9, 3, 7)), PlainLoopWarning)
    assert found == (__file__, line_of(First.forward) + 1)


def test_noise_that_forgets_names_the_line_where_the_layer_is_made() -> None:
    call = lambda: LSTM(7, 5, noise="c:.3@BF!exp")  # noqa: E731  one line
    assert where(call, UserWarning) == (__file__, line_of(call))
