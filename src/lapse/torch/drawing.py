"""Masks in PyTorch: one operator that draws them, which torch.compile doesn't look into."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from lapse.core import masks
from lapse.core.arrays import NumpyArrays
from lapse.core.packing import Scales, outlines, packed, unpacked
from lapse.core.plan import Coins, Fleeting, Masks, Plan, plan
from lapse.torch.mapping import in_turn
from lapse.torch.memory import direct, pool


class _Pooled(NumpyArrays):
    """NumPy's arrays, with PyTorch's threads to draw them."""

    def pool(self) -> tuple[int, int]:
        return pool()


ARRAYS = _Pooled()


def draw_seed(generator: torch.Generator | None) -> Tensor:
    """The two words of a 64-bit seed, from a generator or from PyTorch's global one."""
    return torch.randint(2**32, (2,), generator=generator, dtype=torch.int64)


def draw(noise: str, cell: str, seed: Tensor, scales: Scales, **sizes: Any) -> Masks:
    """`tensors` of noise as text, also in a graph, which keeps all masks that it needs.

    Args:
        noise: terms.
        seed: from `draw_seed`.
        scales: of the same noise; made before, as torch.compile can't trace how.
        sizes: batch, timesteps, features, units, projected; layer, direction and samples.
    """
    if direct(seed):
        return tensors(
            quiet_plan(noise, cell, projected=bool(sizes["projected"])), seed.tolist(), **sizes
        )
    return unpacked(scales, draw_slots(noise, cell, seed, **sizes))


def tensors(plan: Plan, seed: Any, **sizes: Any) -> Masks:
    """`masks.draw` as tensors on the CPU; what changes with time as `Coins` or `Fleeting`.

    Args:
        sizes: as for `masks.draw`.
    """
    drawn = masks.draw(plan, seed, **sizes, arrays=ARRAYS, packed=True)
    filled: dict[str, Any] = {}
    for slot, draws in plan.slots:
        mask = getattr(drawn, slot)
        if isinstance(mask, Coins):
            filled[slot] = Coins(torch.from_numpy(mask.kept), mask.scale)
        elif masks.changes(draws):
            again = partial(_again, Plan(plan.cell, ((slot, draws),)), slot, seed, sizes)
            filled[slot] = Fleeting(torch.from_numpy(mask), again)
        else:
            filled[slot] = torch.from_numpy(mask)
    return Masks(**filled)


def _again(alone: Plan, slot: str, seed: Any, sizes: dict[str, Any]) -> Tensor:
    drawn = masks.draw(alone, seed, **sizes, arrays=ARRAYS)
    return torch.from_numpy(getattr(drawn, slot))


@torch.library.custom_op("lapse::draw", mutates_args=())
def draw_slots(
    noise: str, cell: str, seed: Tensor, batch: int, timesteps: int, features: int, units: int,
    projected: int, layer: int, direction: int, samples: Sequence[int] | None,
) -> list[Tensor]:  # fmt: skip
    """The masks of each slot of a plan in turn: uint8 where they are coins, else float32."""
    sizes = {"batch": batch, "timesteps": timesteps, "features": features, "units": units}
    sizes["projected"] = projected
    stream = {"layer": layer, "direction": direction, "samples": samples}
    made = quiet_plan(noise, cell, projected=bool(projected))
    return packed(made, tensors(made, seed.tolist(), **sizes, **stream))


@draw_slots.register_fake
def _(
    noise: str, cell: str, seed: Tensor, batch: int, timesteps: int, features: int, units: int,
    projected: int, layer: int, direction: int, samples: Any,
) -> list[Tensor]:  # fmt: skip
    sizes = {"batch": batch, "timesteps": timesteps, "features": features, "units": units}
    sizes["projected"] = projected
    return [
        torch.empty(shape, dtype=torch.uint8 if of_bytes else torch.float32)
        for shape, of_bytes in outlines(quiet_plan(noise, cell, projected=bool(projected)), **sizes)
    ]


draw_slots.register_vmap(in_turn(draw_slots))


@lru_cache
def quiet_plan(noise: str, cell: str, *, projected: bool) -> Plan:
    """The plan of noise as text, without the warning that its layer gave when it was made."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*forgets at evaluation", UserWarning)
        return plan(noise, cell, projected=projected)
