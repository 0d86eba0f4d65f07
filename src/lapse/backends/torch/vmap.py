"""`torch.func.vmap` over lapse's operators: one call after another.

Each call uses all threads, as a call without `vmap` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def in_turn(operator: Callable) -> Callable:
    """What `register_vmap` needs for an operator that returns several tensors."""

    def mapped(info: Any, dimensions: tuple, *arguments: Any) -> tuple:
        def of(turn: int) -> list:
            def part(argument: Any, dimension: Any) -> Any:
                if dimension is None:
                    return argument
                if isinstance(argument, (list, tuple)):
                    return list(map(part, argument, dimension))
                return argument.select(dimension, turn)

            return list(map(part, arguments, dimensions))

        results = [operator(*of(turn)) for turn in range(info.batch_size)]
        kind = type(results[0])
        stacked = kind(map(torch.stack, zip(*results, strict=True)))
        return stacked, kind(0 for _ in stacked)

    return mapped
