"""Masks and kernels on PyTorch's tensors, from `lapse.torch`; also inside torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lapse.core import masks
from lapse.core.noise import parse
from lapse.core.philox import WORD
from lapse.core.plan import Coins, Fleeting, Masks
from lapse.core.planned import Planned
from lapse.kernels import choose
from lapse.torch import drawing
from lapse.torch.drawing import ARRAYS as ARRAYS
from lapse.torch.fused import obstacle as obstacle
from lapse.torch.fused import unroll as unroll
from lapse.torch.memory import constant, direct

# What torch.compile cannot look into, because it may warn.
chosen = constant(choose)


def in_a_graph(seed: Any) -> bool:
    """Whether a graph is made of a call that draws with this seed."""
    return not direct(seed if isinstance(seed, Tensor) else None)


def next_seed(generator: Any) -> Tensor:
    """What a `keras.random.SeedGenerator` gives next, in a way that torch.compile can trace."""
    if not in_a_graph(None):
        return generator.next()  # type: ignore[no-any-return]
    words: Tensor = generator.state.value * 1
    generator.state.assign(words + torch.tensor([0, 1], dtype=words.dtype, device=words.device))
    return words


def draw(noise: Planned, seed: Any, **sizes: Any) -> Masks:
    """Masks as the kernels take them.

    Args:
        seed: a whole number, or the pair that a `keras.random.SeedGenerator` gives.
        sizes: batch, timesteps, features, units and direction, as for `masks.draw`.
    """
    rest = {"projected": 0, "layer": 0, "direction": 0, "samples": None}
    call = {**rest, **sizes}
    return drawing.draw(noise.text, noise.plan.cell, _words(seed), noise.scales, **call)


def floats(drawn: Masks) -> Masks:
    """Masks in float32."""

    def one(mask: Any) -> Any:
        if isinstance(mask, Coins):
            return mask.kept.float() * mask.scale
        return mask.numbers if isinstance(mask, Fleeting) else mask

    return Masks(*map(one, drawn))


def draw_rows(noise: str, seed: Any, **sizes: Any) -> Tensor:
    """`masks.draw_rows` inside a graph.

    Args:
        noise: terms.
        sizes: batch and vocabulary.
    """
    rows: Tensor = _rows(noise, _words(seed), **sizes)
    return rows


def _words(seed: Any) -> Tensor:
    """The two words of a seed; Keras holds them in signed numbers."""
    words = seed if isinstance(seed, Tensor) else torch.tensor(masks.seed_words(seed))
    return words.to("cpu", torch.int64) & WORD


@torch.library.custom_op("lapse::keras_rows", mutates_args=())
def _rows(noise: str, seed: Tensor, batch: int, vocabulary: int) -> Tensor:
    drawn = masks.draw_rows(parse(noise), seed.tolist(), batch=batch, vocabulary=vocabulary)
    return torch.from_numpy(drawn)


@_rows.register_fake
def _(noise: str, seed: Tensor, batch: int, vocabulary: int) -> Tensor:
    samples = batch if any("B" in term.axes for term in parse(noise)) else 1
    return torch.empty((samples, vocabulary), dtype=torch.float32)
