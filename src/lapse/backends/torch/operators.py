"""The two passes of an engine as two PyTorch operators, opaque to torch.compile.

`autograd.py` connects them. The arguments are the engine and the flags, the places of the arrays in
`Inputs`, and these arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lapse.backends.torch.arrays import TorchArrays
from lapse.backends.torch.vmap import in_turn
from lapse.engines import named
from lapse.engines.arrays import Flags, Gradients, Inputs, Results, gradient_shapes, result_shapes
from lapse.engines.fused import Fused

_MEMORY = TorchArrays()


class Settings(NamedTuple):
    """The arguments that are not tensors."""

    engine: str
    cell: str
    reset_after: bool
    reverse: bool
    scales: Sequence[float]  # the factors of masks that are uint8
    places: Sequence[int]  # of the arrays, in `Inputs`

    @property
    def flags(self) -> Flags:
        return Flags(self.cell, self.reset_after, self.reverse)

    @property
    def fused(self) -> Fused:
        engine = named(self.engine)
        assert isinstance(engine, Fused)
        return engine


def forward(settings: Settings, arrays: Sequence[Tensor]) -> list[Tensor]:
    """`Fused.forward`."""
    inputs = Inputs.of(settings.places, arrays)
    return list(settings.fused.forward(_MEMORY, settings.flags, inputs, settings.scales))


def backward(
    settings: Settings, arrays: Sequence[Any], dlast_h: Tensor | None, dlast_c: Tensor | None,
    dy: Tensor | None, of_x: bool, columns_first: bool,
) -> Gradients:  # fmt: skip
    """`Fused.backward`.

    Args:
        arrays: what forward read, without the bias; then h, c and saved from its results.
    """
    *read, h, c, saved = arrays
    return settings.fused.backward(
        _MEMORY,
        settings.flags,
        Inputs.of(settings.places, read),
        settings.scales,
        Results(None, None, h, c, saved, None),
        dlast_h,
        dlast_c,
        dy,
        of_x=of_x,
        columns_first=columns_first,
    )


@torch.library.custom_op("lapse::layer", mutates_args=())
def layer(
    engine: str, cell: str, reset_after: bool, reverse: bool, scales: Sequence[float],
    places: Sequence[int], arrays: Sequence[Tensor],
) -> list[Tensor]:  # fmt: skip
    """`forward` with the flat arguments of an operator."""
    return forward(Settings(engine, cell, reset_after, reverse, scales, places), arrays)


@layer.register_fake
def _(
    engine: str, cell: str, reset_after: bool, reverse: bool, scales: Any, places: Any, arrays: Any
) -> list[Tensor]:
    shapes = result_shapes(Flags(cell, reset_after, reverse), Inputs.of(places, arrays))
    return list(map(arrays[0].new_empty, shapes))


# Tensors, not lists of them: is_grads_batched=True maps no operator that returns or takes a list.


@torch.library.custom_op("lapse::layer_backward", mutates_args=())
def layer_backward(
    engine: str, cell: str, reset_after: bool, reverse: bool, scales: Sequence[float],
    places: Sequence[int], arrays: Sequence[Tensor | None], dlast_h: Tensor | None,
    dlast_c: Tensor | None, dy: Tensor | None, of_x: bool, columns_first: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`backward` with the flat arguments of an operator; each of `arrays` is given."""
    settings = Settings(engine, cell, reset_after, reverse, scales, places)
    found = backward(settings, arrays, dlast_h, dlast_c, dy, of_x, columns_first)
    return tuple(found)


@layer_backward.register_fake
def _(
    engine: str, cell: str, reset_after: bool, reverse: bool, scales: Any, places: Any, arrays: Any,
    dlast_h: Any, dlast_c: Any, dy: Any, of_x: bool, columns_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    inputs = Inputs.of(places, arrays[:-3])
    shapes = gradient_shapes(Flags(cell, reset_after, reverse), inputs, of_x, columns_first)
    return tuple(map(arrays[0].new_empty, shapes))


layer_backward.register_vmap(in_turn(layer_backward))
