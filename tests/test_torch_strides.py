"""Outputs and last states lie in memory as PyTorch's do: `view` works on the same axes, and what
draws random numbers in memory's order behind a layer draws the same.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torch_support import HAS_BFLOAT16, flat, in_every_pair, one_thread, pair  # noqa: F401

BATCH, TIMESTEPS, FEATURES, UNITS = 3, 9, 7, 5
OPTIONS: list[dict[str, Any]] = [
    {"batch_first": batch_first, "bidirectional": bidirectional, "num_layers": layers}
    for batch_first in (False, True)
    for bidirectional in (False, True)
    for layers in (1, 2)
]
in_every_layout = pytest.mark.parametrize("options", OPTIONS, ids=str)


def strides(result: Any) -> list[tuple[int, ...]]:
    y, last = result
    y = y.data if isinstance(y, nn.utils.rnn.PackedSequence) else y
    return [part.stride() for part in flat((y, last))]


def given(form: str, batch_first: bool, dtype: torch.dtype) -> Any:
    x = torch.randn(TIMESTEPS, BATCH, FEATURES, dtype=dtype)
    if form == "single":
        return x[:, 0].contiguous()
    x = x.swapaxes(0, 1).contiguous() if batch_first else x
    if form == "batch":
        return x
    lengths = torch.tensor([9, 4, 6])
    return nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "autocast"])
@pytest.mark.parametrize("form", ["batch", "single", "packed"])
@in_every_layout
@in_every_pair
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_strides_are_pytorchs(
    ours: type, theirs: type, options: dict[str, Any], form: str, kind: str
) -> None:
    if kind == "autocast" and not HAS_BFLOAT16:
        pytest.skip("PyTorch's LSTM has no bfloat16 on this processor")
    dtype = torch.float32 if kind == "autocast" else getattr(torch, kind)
    for projected in (0, 3) if theirs is nn.LSTM else (0,):
        sizes = {**options, "proj_size": projected} if projected else options
        ones = pair(ours, theirs, FEATURES, UNITS, dtype=dtype, **sizes)
        x = given(form, options["batch_first"], dtype)
        count = options["num_layers"] * (1 + options["bidirectional"])
        shape = (count,) if form == "single" else (count, BATCH)
        h, c = (torch.randn(*shape, n, dtype=dtype) for n in (projected or UNITS, UNITS))
        for training in (True, False):
            for state in (None, (h, c) if theirs is nn.LSTM else h):
                with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
                    found, wanted = (strides(one.train(training)(x, state)) for one in ones)
                assert found == wanted


@pytest.mark.parametrize("noise", [None, "y:.3@BTF s:.3@BTF>prev"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@in_every_layout
@in_every_pair
def test_lengths_change_no_stride(
    ours: type, theirs: type, options: dict[str, Any], dtype: torch.dtype, noise: Any
) -> None:
    stock = theirs(FEATURES, UNITS, dtype=dtype, **options)
    layer, x = (
        ours(FEATURES, UNITS, dtype=dtype, noise=noise, **options),
        given("batch", options["batch_first"], dtype),
    )
    count = options["num_layers"] * (1 + options["bidirectional"])
    h, c = torch.randn(2, count, BATCH, UNITS, dtype=dtype)
    for training in (True, False):
        for state in (None, (h, c) if theirs is nn.LSTM else h):
            found = layer.train(training)(x, state, lengths=torch.tensor([9, 4, 6]))
            assert strides(found) == strides(stock(x, state))


@in_every_pair
def test_time_and_batch_can_be_joined(ours: type, theirs: type) -> None:
    """As convolutional recurrent networks for text and speech do, in front of a linear layer."""
    y, _ = ours(FEATURES, UNITS, bidirectional=True)(torch.randn(TIMESTEPS, BATCH, FEATURES))
    joined = y.view(TIMESTEPS * BATCH, 2 * UNITS)
    assert torch.equal(joined[BATCH], y[1, 0])


@in_every_layout
@in_every_pair
def test_dropout_behind_draws_the_same(ours: type, theirs: type, options: dict[str, Any]) -> None:
    ones = pair(ours, theirs, FEATURES, UNITS, dtype=torch.float32, **options)
    x, dropped = given("batch", options["batch_first"], torch.float32), []
    for one in ones:
        y = one(x)[0]
        torch.manual_seed(1)
        dropped.append(nn.Dropout(0.5)(y) == 0)
    assert torch.equal(*dropped)
