"""The layers of a module in each direction, each with its own noise."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from lapse.core.errors import LapseError
from lapse.core.forms import Dropout, KerasDropout
from lapse.core.masks import Masks, check_masks
from lapse.core.noise import Term, collect, text_of
from lapse.core.plan import Plan, plan

Terms = tuple[Term, ...]


class Sublayer(NamedTuple):
    """One layer in one direction; `sizes` are arguments of `drawing.draw`."""

    layer: int
    direction: int
    plan: Plan
    sizes: dict[str, int]
    weights: tuple[str | None, ...]  # their names in the module, as in `TorchWeights`

    @property
    def stream(self) -> dict[str, int]:
        """What distinguishes its random numbers from those of other layers and directions."""
        return {"layer": self.layer, "direction": self.direction}

    def check(self, given: Masks, batch: int, timesteps: int) -> None:
        """Raises `LapseError` for masks that don't fit."""
        check_masks(given, self.plan, batch=batch, timesteps=timesteps, **self.sizes)


def sublayers(module: Any, terms: tuple[Terms, ...]) -> tuple[Sublayer, ...]:
    """The layers and directions of a module, in the order of `hx`.

    Args:
        module: the module; its current `dropout` is used.
        terms: the noise of each layer.
    """
    directions = 1 + module.bidirectional
    outputs = (module.proj_size or module.hidden_size) * directions
    between = Dropout(module.dropout).terms  # on the output of the layer before, as in PyTorch

    def one(layer: int, direction: int) -> Sublayer:
        of_layer = (*terms[layer], *(between if layer else ()))
        sizes = {
            "features": outputs if layer else module.input_size,
            "units": module.hidden_size,
            "projected": module.proj_size,
        }
        made = plan(of_layer, module.cell, projected=bool(module.proj_size))
        return Sublayer(layer, direction, made, sizes, _names(module, layer, direction))

    return tuple(
        one(layer, direction)
        for layer in range(module.num_layers)
        for direction in range(directions)
    )


def _names(module: nn.RNNBase, layer: int, direction: int) -> tuple[str | None, ...]:
    there = {
        "weight_ih": True,
        "weight_hh": True,
        "bias_ih": module.bias,
        "bias_hh": module.bias,
        "weight_hr": bool(module.proj_size),
    }
    end = f"l{layer}{'_reverse' if direction else ''}"
    return tuple(f"{name}_{end}" if is_there else None for name, is_there in there.items())


def terms_of_layers(noise: Any, layers: int, recurrent_dropout: float = 0.0) -> tuple[Terms, ...]:
    """The terms of each layer.

    Args:
        noise: as for `lapse.torch.LSTM`.
    """
    recurrent = KerasDropout(recurrent_dropout=recurrent_dropout)
    if not isinstance(noise, dict):
        return (collect([recurrent, noise]),) * layers
    if unknown := [layer for layer in noise if layer not in range(layers)]:
        raise LapseError(
            f"noise= names layer {unknown[0]!r}, but the module has num_layers={layers}; write "
            f"{'0' if layers == 1 else f'numbers from 0 to {layers - 1}'}."
        )
    return tuple(collect([recurrent, noise.get(layer)]) for layer in range(layers))


def as_text(noise: Any, terms: tuple[Terms, ...]) -> str | dict[int, str]:
    """The noise as text, as in files: one for all layers, or a dictionary if one was given."""
    texts = list(map(text_of, terms))
    return dict(enumerate(texts)) if isinstance(noise, dict) else texts[0]
