"""The plain loop of `core/cells.py`: any cell, mask, type and device; several times slower."""

from __future__ import annotations

from typing import Any

from lapse.core.cells import unroll
from lapse.core.masks import Masks
from lapse.engines.interface import Call, Engine


class Reference(Engine):
    """Runs any call; the other engines are tested against it."""

    name = "reference"
    title = "the plain loop"

    def obstacle(self, call: Call) -> None:
        return None

    def draw(self, call: Call, seed: Any, **sizes: Any) -> Masks:
        return call.backend.draw_in_graph(call.plan, seed, **sizes)

    def unroll(self, call: Call, masks: Masks) -> tuple[Any, tuple]:
        call = call.with_weights_like_x()
        return unroll(
            call.cell,
            call.x,
            call.keras_weights(),
            call.backend.numbers(masks, call.x),
            initial_state=call.initial_state,
            running=call.running,
            reset_after=call.reset_after,
            reverse=call.reverse,
            activation=call.activation,
            recurrent_activation=call.recurrent_activation,
            backend=call.backend,
        )


REFERENCE = Reference()
