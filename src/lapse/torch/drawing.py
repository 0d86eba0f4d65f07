"""Masks in PyTorch: one operator that draws them, which torch.compile doesn't look into."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lapse import masks
from lapse.arrays import NumpyArrays
from lapse.plan import GATES, Coins, Masks, Plan, plan
from lapse.torch.pointers import pool


class _Pooled(NumpyArrays):
    """NumPy's arrays, with PyTorch's threads to draw them."""

    def pool(self) -> tuple[int, int]:
        return pool()


ARRAYS = _Pooled()


def draw_seed(generator: torch.Generator | None) -> Tensor:
    """The two words of a 64-bit seed, from a generator or from PyTorch's global one."""
    return torch.randint(2**32, (2,), generator=generator, dtype=torch.int64)


def draw(noise: str, made: Plan, seed: Tensor, **sizes: Any) -> Masks:
    """`masks.draw(packed=True)` as tensors on the CPU.

    Args:
        noise: the text of the plan's terms.
        made: their plan.
        seed: from `draw_seed`.
        sizes: batch, timesteps, features, units.
    """
    tensors = draw_slots(noise, made.cell, seed, **sizes)
    filled: dict[str, Any] = {}
    for (slot, draws), tensor in zip(made.slots, tensors, strict=True):
        filled[slot] = tensor
        if masks.is_packed(draws):
            filled[slot] = Coins(tensor, math.prod(masks.scale(one.term) for one in draws))
    return Masks(**filled)


@torch.library.custom_op("lapse::draw", mutates_args=())
def draw_slots(
    noise: str, cell: str, seed: Tensor, batch: int, timesteps: int, features: int, units: int
) -> list[Tensor]:
    """The masks of each slot of a plan in turn: uint8 where they are coins, else float32."""
    made = _plan(noise, cell)
    drawn = masks.draw(
        made,
        seed.tolist(),
        batch=batch,
        timesteps=timesteps,
        features=features,
        units=units,
        arrays=ARRAYS,
        packed=True,
    )._asdict()
    found = (drawn[slot] for slot, _ in made.slots)
    arrays = [mask.kept if isinstance(mask, Coins) else mask for mask in found]
    return [torch.from_numpy(np.ascontiguousarray(a).view(_byte_or_float(a))) for a in arrays]


def _byte_or_float(array: np.ndarray) -> Any:
    return np.float32 if array.dtype == np.float32 else np.uint8


@draw_slots.register_fake
def _(
    noise: str, cell: str, seed: Tensor, batch: int, timesteps: int, features: int, units: int
) -> list[Tensor]:
    sizes = {"batch": batch, "timesteps": timesteps, "features": features, "units": units}
    return [
        torch.empty(
            masks.shape(slot, draws, **sizes, gates=len(GATES[cell])),
            dtype=torch.uint8 if masks.is_packed(draws) else torch.float32,
        )
        for slot, draws in _plan(noise, cell).slots
    ]


@lru_cache
def _plan(noise: str, cell: str) -> Plan:
    with warnings.catch_warnings():  # the layer gave them, when it was made
        warnings.simplefilter("ignore", UserWarning)
        return plan(noise, cell)
