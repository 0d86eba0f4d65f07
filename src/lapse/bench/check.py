"""Correctness, before any timing: the layer that is timed, against the plain loop in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lapse.bench.steps import Padded, step
from lapse.plan import Masks

TOLERANCE = 1e-5


def error(module: nn.Module, x: Tensor, dy: Tensor) -> float:
    """How far the output and all gradients of a step lie from the plain loop's, at most.

    Relative to the largest entry, or to 1. The noise is what the step draws by itself; the loop
    gets it by the same seed.
    """
    torch.manual_seed(2)
    found = step(module, x, dy)()
    torch.manual_seed(2)
    layer: Any = module.layer if isinstance(module, Padded) else module
    masks = layer.draw_masks(*x.shape[:2])
    exact = copy.deepcopy(layer).double()
    exact.kernel = "reference"
    call: dict[str, Any] = {
        "masks": Masks(*(m.double() if isinstance(m, Tensor) else m for m in masks))
    }
    if isinstance(module, Padded):
        call["lengths"] = module.lengths
    expected = step(_Call(exact, call), x.double(), dy.double())()
    return worst(found, expected)


def worst(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest distance of tensors from those that they should be; infinite where one is NaN."""
    apart = [distance(one, other) for one, other in zip(found, expected, strict=True)]
    return math.inf if any(map(math.isnan, apart)) else max(apart)


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest entry (or to 1 if smaller)."""
    apart = (found.detach().double() - expected.detach()).abs().max()
    return float(apart / expected.detach().abs().max().clamp(min=1))


class _Call(nn.Module):
    """A module with arguments of a call that are always the same."""

    def __init__(self, layer: nn.Module, call: dict[str, Any]) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, **self.call)
