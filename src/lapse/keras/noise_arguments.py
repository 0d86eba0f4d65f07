"""What layers and cells share: they read `dropout=`, `recurrent_dropout=` and `noise=`."""

from __future__ import annotations

import inspect
from numbers import Real
from typing import Any

from lapse.core.errors import LapseError
from lapse.core.forms import KerasDropout
from lapse.core.noise import collect, text_of
from lapse.core.plan import Plan, plan
from lapse.core.rules import warn_of_forgetting
from lapse.keras.keep_noise import KeepsNoise


class Noisy(KeepsNoise):
    """Mixin in front of a Keras recurrent layer or cell; adds `noise=` to its arguments.

    Attributes:
        noise: what was given as `noise=`, as text; saved with the layer.
        plan: of all noise, including `dropout=` and `recurrent_dropout=`.
    """

    cell_name: str  # "LSTM", "GRU" or "SimpleRNN"

    def __init__(self, *args: Any, noise: Any = None, **kwargs: Any) -> None:
        # Keras clips rates silently, so they are read before it gets them.
        given = inspect.signature(super().__init__).bind(*args, **kwargs).arguments
        rates = {name: given.get(name, 0.0) for name in ("dropout", "recurrent_dropout")}
        for name, rate in rates.items():
            check_rate(rate, type(self).__name__, name)
        added = collect(noise)
        terms = collect([KerasDropout(**rates), *added])
        made = plan(terms, self.cell_name)
        super().__init__(*args, **kwargs)
        self.noise = text_of(added)
        self.plan: Plan = made
        warn_of_forgetting(terms, self.cell_name)

    @property
    def noisy(self) -> bool:
        return bool(self.plan.slots)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "noise": self.noise}  # type: ignore[misc]


def check_rate(rate: object, layer: str, name: str = "rate") -> None:
    """Raises `LapseError` for anything but a number; its range is checked with its term."""
    if not isinstance(rate, Real) or isinstance(rate, bool):
        raise LapseError(f"{layer} was given {name}={rate!r}; write a number in [0, 1).")
