"""Masks in PyTorch: operators that draw them, which torch.compile does not trace."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from lapse.backends.torch import private
from lapse.backends.torch.vmap import in_turn
from lapse.core import drawing
from lapse.core.masks import Coins, Masks, Redrawn, changes, from_arrays, outlines, to_arrays
from lapse.core.noise import Term, parse, text_of
from lapse.core.philox import WORD
from lapse.core.plan import Plan, plan
from lapse.engines.cpu.drawing import FastNumpy

_NOT_GIVEN = {"projected": 0, "layer": 0, "direction": 0, "samples": None}


class _OnThreads(FastNumpy):
    """Draws with PyTorch's threads."""

    def drawing_threads(self) -> tuple[int, int]:
        return torch.get_num_threads(), private.parallel_for()


ON_THREADS = _OnThreads()


def new_seed(generator: torch.Generator | None) -> Tensor:
    """The two words of a 64-bit seed, from a generator or from PyTorch's global one."""
    device = "cpu" if generator is None else generator.device
    return torch.randint(2**32, (2,), generator=generator, dtype=torch.int64, device=device)


def words(seed: Any) -> Tensor:
    """The two words of a seed; Keras holds them in signed numbers."""
    found = (
        seed if isinstance(seed, Tensor) else torch.tensor(drawing.seed_words(seed), device="cpu")
    )
    return found.to("cpu", torch.int64) & WORD


def draw(plan: Plan, seed: Any, **sizes: Any) -> Masks:
    """Compact masks as tensors, also in a graph. A graph keeps all masks for backward.

    Args:
        seed: a whole number, or a tensor of its two words.
        sizes: as for `drawing.draw`.
    """
    sizes, seed = {**_NOT_GIVEN, **sizes}, words(seed)
    if private.direct(seed):
        return _tensors(plan, seed.tolist(), **sizes)
    return from_arrays(plan.scales, draw_slots(plan.text, plan.cell, seed, **sizes))


def _tensors(plan: Plan, seed: Any, **sizes: Any) -> Masks:
    """Draws masks; those that change with time are `Coins` or `Redrawn`."""
    drawn = drawing.draw(plan, seed, **sizes, backend=ON_THREADS, compact=True)
    filled: dict[str, Any] = {}
    for slot, sources in plan.slots:
        mask = getattr(drawn, slot)
        if isinstance(mask, Coins):
            filled[slot] = Coins(torch.from_numpy(mask.kept), mask.scale)
        elif changes(sources):
            again = partial(_again, plan.alone(slot), slot, seed, sizes)
            filled[slot] = Redrawn(torch.from_numpy(mask), again)
        else:
            filled[slot] = torch.from_numpy(mask)
    return Masks(**filled)


def _again(alone: Plan, slot: str, seed: Any, sizes: dict[str, Any]) -> Tensor:
    drawn = drawing.draw(alone, seed, **sizes, backend=ON_THREADS)
    return torch.from_numpy(getattr(drawn, slot))


@lru_cache
def _plan(text: str, cell: str, projected: bool) -> Plan:
    """The plan of terms that are given as text, which an operator can take."""
    return plan(text, cell, projected=projected)


@torch.library.custom_op("lapse::draw", mutates_args=())
def draw_slots(
    noise: str, cell: str, seed: Tensor, batch: int, timesteps: int, features: int, units: int,
    projected: int, layer: int, direction: int, samples: Sequence[int] | None,
) -> list[Tensor]:  # fmt: skip
    """The masks of the slots of a plan, in order: uint8 where they are coins, else float32."""
    made = _plan(noise, cell, bool(projected))
    sizes = {"batch": batch, "timesteps": timesteps, "features": features, "units": units}
    stream = {"projected": projected, "layer": layer, "direction": direction, "samples": samples}
    return to_arrays(made, _tensors(made, seed.tolist(), **sizes, **stream))


@draw_slots.register_fake
def _(
    noise: str, cell: str, seed: Tensor, batch: int, timesteps: int, features: int, units: int,
    projected: int, layer: int, direction: int, samples: Any,
) -> list[Tensor]:  # fmt: skip
    sizes = {"batch": batch, "timesteps": timesteps, "features": features, "units": units}
    return [
        torch.empty(shape, dtype=torch.uint8 if of_bytes else torch.float32)
        for shape, of_bytes in outlines(
            _plan(noise, cell, bool(projected)), **sizes, projected=projected
        )
    ]


draw_slots.register_vmap(in_turn(draw_slots))


def draw_rows(terms: Sequence[Term], seed: Any, *, batch: int, vocabulary: int) -> Tensor:
    """`drawing.draw_rows`, also in a graph."""
    seed = words(seed)
    if private.direct(seed):
        sizes = {"batch": batch, "vocabulary": vocabulary}
        drawn = drawing.draw_rows(terms, seed.tolist(), **sizes, backend=ON_THREADS)
        return torch.from_numpy(drawn)
    return _draw_rows(text_of(terms), seed, batch, vocabulary)  # type: ignore[no-any-return]


@torch.library.custom_op("lapse::draw_rows", mutates_args=())
def _draw_rows(noise: str, seed: Tensor, batch: int, vocabulary: int) -> Tensor:
    return draw_rows(parse(noise), seed, batch=batch, vocabulary=vocabulary)


@_draw_rows.register_fake
def _(noise: str, seed: Tensor, batch: int, vocabulary: int) -> Tensor:
    samples = batch if any("B" in term.axes for term in parse(noise)) else 1
    return torch.empty((samples, vocabulary), dtype=torch.float32)
