"""What the layers and the cells share: reading `dropout=`, `recurrent_dropout=` and `noise=`."""

from __future__ import annotations

import inspect
from typing import Any

from lapse.forms import KerasDropout
from lapse.keras.kept import KeepsNoise
from lapse.noise import collect
from lapse.plan import Plan, plan


class Noisy(KeepsNoise):
    """Mixin in front of a Keras recurrent layer or cell; adds `noise=` to its arguments.

    Attributes:
        noise: what was given as `noise=`, as text; saved with the layer.
        plan: the slots of all noise, that of `dropout=` and `recurrent_dropout=` with it.
    """

    kind: str  # "LSTM", "GRU" or "SimpleRNN"

    def __init__(self, *args: Any, noise: Any = None, **kwargs: Any) -> None:
        # Keras clips rates out of range without a word, so they are read before it sees them.
        given = inspect.signature(super().__init__).bind(*args, **kwargs).arguments
        rates = [given.get(name, 0.0) for name in ("dropout", "recurrent_dropout")]
        added = collect(noise)
        made = plan([KerasDropout(*rates), *added], self.kind)
        super().__init__(*args, **kwargs)
        self.noise = " ".join(map(str, added))
        self.plan: Plan = made

    @property
    def noisy(self) -> bool:
        return bool(self.plan.slots)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "noise": self.noise}  # type: ignore[misc]
