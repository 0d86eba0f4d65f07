"""Checks everything that is timed against the reference loop in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lapse.bench.steps import LoopWithMask, Packed, Padded, like, step
from lapse.core.masks import Masks

TOLERANCE = 1e-5


def error(module: nn.Module, x: Tensor, dy: Tensor) -> float:
    """The largest difference of a step's output and gradients from those of the reference loop.

    Relative to the largest entry, or to 1. The step draws its own noise; the reference loop draws
    the same noise from the same seed.
    """
    torch.manual_seed(2)
    found = step(module, x, dy)()
    torch.manual_seed(2)
    return worst(found, step(exact(module, x), x.double(), dy.double())())


def exact(module: Any, x: Tensor) -> nn.Module:
    """The reference loop in float64, with a module's weights, padding and next noise."""
    call: dict[str, Any] = {}
    if isinstance(module, (Padded, Packed)):
        call["lengths"], module = module.lengths, module.layer
    noise, masks = getattr(module, "noise", ""), Masks()
    if isinstance(module, LoopWithMask):
        noise, masks, module = "h:0.5@BF", Masks(h=module.draw(x)[:, None, None]), module.cell
    elif noise:
        masks = module.draw_masks(*x.shape[:2])
    call["masks"] = Masks(*(m.double() if isinstance(m, Tensor) else m for m in masks))
    return _Call(like(module, noise, "reference").double(), call)


def worst(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest error over several tensors; infinite if one has a NaN."""
    errors = [distance(one, other) for one, other in zip(found, expected, strict=True)]
    return math.inf if any(map(math.isnan, errors)) else max(errors)


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected entry (or to 1 if smaller)."""
    difference = (found.detach().double() - expected.detach()).abs().max()
    return float(difference / expected.detach().abs().max().clamp(min=1))


class _Call(nn.Module):
    """A module with fixed keyword arguments."""

    def __init__(self, layer: nn.Module, call: dict[str, Any]) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, **self.call)
