"""The layers of a module in each direction, each with noise of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from lapse.core.errors import LapseError
from lapse.core.forms import Dropout, KerasDropout
from lapse.core.noise import collect
from lapse.core.plan import Masks, check_masks, plan
from lapse.core.planned import Planned, planned
from lapse.torch.drawing import draw, quiet_plan


class One(NamedTuple):
    """One layer in one direction; its sizes are those of `masks.draw`."""

    layer: int
    direction: int
    noise: Planned
    sizes: dict[str, int]

    @property
    def name(self) -> str:
        """What the names of its weights end with."""
        return f"l{self.layer}{'_reverse' if self.direction else ''}"

    def draw(
        self, batch: int, timesteps: int, seed: Tensor, samples: Sequence[int] | None = None
    ) -> Masks:
        """Fresh masks, as the kernels take them."""
        return draw(
            self.noise.text,
            self.noise.plan.cell,
            seed,
            self.noise.scales,
            batch=batch,
            timesteps=timesteps,
            **self.sizes,
            layer=self.layer,
            direction=self.direction,
            samples=samples,
        )

    def check(self, given: Masks, batch: int, timesteps: int) -> None:
        """Raises `LapseError` for masks that don't fit."""
        check_masks(given, self.noise.plan, batch=batch, timesteps=timesteps, **self.sizes)


def stack(module: Any, *, quiet: bool = True) -> tuple[One, ...]:
    """The layers and directions of a module, from its `noise` and `dropout` as they are now.

    Args:
        quiet: whether the module has warned of its noise already.
    """
    by = quiet_plan if quiet else plan
    directions = 1 + module.bidirectional
    outputs = (module.proj_size or module.hidden_size) * directions
    made: dict[str, Planned] = {}  # planned once, however many layers have it

    def one(layer: int, direction: int) -> One:
        text = _of_layer(module, layer)
        if text not in made:
            options: dict[str, Any] = {"projected": bool(module.proj_size), "by": by}
            made[text] = planned(text, module.cell, **options)
        sizes = {
            "features": outputs if layer else module.input_size,
            "units": module.hidden_size,
            "projected": module.proj_size,
        }
        return One(layer, direction, made[text], sizes)

    return tuple(
        one(layer, direction)
        for layer in range(module.num_layers)
        for direction in range(directions)
    )


def _of_layer(module: nn.RNNBase, layer: int) -> str:
    noise: Any = module.noise
    own = noise if isinstance(noise, str) else noise[layer]
    # On what comes from the layer before, as PyTorch's `dropout` is.
    between = Dropout(module.dropout) if layer else None
    return " ".join(map(str, collect([own, between])))


def as_text(noise: Any, layers: int, recurrent_dropout: float) -> str | dict[int, str]:
    """The noise of all layers, or that of each where it is given so.

    Args:
        noise: as for `lapse.torch.LSTM`.
    """

    def text(noise: Any) -> str:
        recurrent = KerasDropout(recurrent_dropout=recurrent_dropout)
        return " ".join(map(str, collect([recurrent, noise])))

    if not isinstance(noise, dict):
        return text(noise)
    if unknown := [layer for layer in noise if layer not in range(layers)]:
        raise LapseError(
            f"noise= names layer {unknown[0]!r}, and there are {layers}; write numbers from 0 to "
            f"{layers - 1}."
        )
    return {layer: text(noise.get(layer)) for layer in range(layers)}
