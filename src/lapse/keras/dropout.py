"""Dropout layers to put before, between and after recurrent layers.

They draw the masks of the term x of a recurrent layer: `Dropout(0.5)` is x:0.5@BTF,
`SpatialDropout1D(0.5)` is x:0.5@BF, `TimestepDropout(0.1)` is x:0.1@BT.
"""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import Any

import keras
from keras import ops

from lapse.core.errors import LapseError
from lapse.core.noise import Term
from lapse.core.plan import Plan, plan
from lapse.keras.backend import draw, next_seed
from lapse.keras.keep_noise import KeepsNoise
from lapse.keras.noise_arguments import check_rate


class _Drop(KeepsNoise):
    """In front of a Keras dropout layer: draws the masks of `term`, a term at the site x."""

    term: Term
    plan: Plan
    seed_generator: Any
    compute_dtype: str

    def __init__(self, rate: Any, over: str, scale: str, *args: Any, **kwargs: Any) -> None:
        check_rate(rate, type(self).__name__)
        super().__init__(rate, *args, **kwargs)  # type: ignore[call-arg]
        self.term = Term("x", rate, over, scale=scale)
        self.plan = plan(self.term, "LSTM")

    @property
    def noisy(self) -> bool:
        return self.term.rate != 0

    def call(self, inputs: Any, training: bool = False, keep_noise: bool = False) -> Any:
        """Drops in training.

        Args:
            inputs: (batch, timesteps, features); or (batch, ..., features) to
                drop over "BTF".
            training: whether to drop.
            keep_noise: whether to drop in evaluation too; see `lapse.keras.LSTM`.
        """
        if self.term.over != "BTF" and len(inputs.shape) != 3:
            raise LapseError(
                f"{type(self).__name__} was given inputs of shape {tuple(inputs.shape)}; dropping "
                f"over {self.term.over} needs (batch, timesteps, features)."
            )
        if not self.noisy:
            return inputs
        if not self.draws(inputs, training, keep_noise):
            factor = self.plan.expected.x
            return inputs if factor is None else inputs * factor
        shape = ops.shape(inputs)
        batch, *between, features = shape if len(shape) > 1 else (*shape, 1)
        # Not -1, which is ambiguous for an empty batch.
        inputs = ops.reshape(inputs, (batch, reduce(mul, between, 1), features))
        drawn = draw(
            self.plan,
            next_seed(self.seed_generator),
            self.compute_dtype,
            batch=batch,
            timesteps=ops.shape(inputs)[1],
            features=features,
            units=1,
        )
        return ops.reshape(inputs * drawn.x[:, :, 0], shape)


@keras.saving.register_keras_serializable(package="lapse")
class Dropout(_Drop, keras.layers.Dropout):
    """`keras.layers.Dropout`, and by keyword which elements share a coin.

    Args:
        rate: probability of dropping, in [0, 1).
        noise_shape, seed: as in Keras, which draws the masks itself where `noise_shape` is given.
        over: the axes a coin is independent along; "BTF" every number, "BF" features for a whole
            sequence, "BT" steps, "BT[5]" spans of up to 5 steps, "BT~.1F" a Markov chain.
        scale: "inv" (1/(1-rate) in training), "exp" (1-rate in evaluation) or "none", for gaps.
    """

    def __init__(
        self,
        rate: float,
        noise_shape: Any = None,
        seed: Any = None,
        *,
        over: str = "BTF",
        scale: str = "inv",
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, over, scale, noise_shape, seed, **kwargs)
        if "G" in self.term.axes:
            raise LapseError(
                f"over={over!r} asks for masks per gate, and a Dropout layer has no gates; write "
                "over= without G."
            )
        if noise_shape is not None and (self.term.over, scale) != ("BTF", "inv"):
            raise LapseError(
                f"noise_shape={noise_shape} was given with over={over!r} and scale={scale!r}; "
                "both say which elements share a coin, so write one or the other."
            )

    def call(self, inputs: Any, training: bool = False, keep_noise: bool = False) -> Any:
        training = self.draws(inputs, training, keep_noise)
        if self.noise_shape is not None:
            return super(_Drop, self).call(inputs, training=training)
        return super().call(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "over": self.term.over, "scale": self.term.scale}


@keras.saving.register_keras_serializable(package="lapse")
class SpatialDropout1D(_Drop, keras.layers.SpatialDropout1D):
    """`keras.layers.SpatialDropout1D`: drops whole features for all steps of a sample.

    Args:
        rate: probability of dropping, in [0, 1).
        seed, name, dtype: as in Keras.
    """

    def __init__(
        self, rate: float, seed: Any = None, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(rate, "BF", "inv", seed=seed, name=name, dtype=dtype)


@keras.saving.register_keras_serializable(package="lapse")
class TimestepDropout(_Drop, keras.layers.Dropout):
    """Drops whole timesteps of a sample, all features at once.

    Args:
        rate: probability of dropping, in [0, 1).
        seed: as in `keras.layers.Dropout`.
        scale: "inv" multiplies the steps that stay by 1/(1-rate); "none" does not, as real gaps do
            not.
        name, dtype: as in Keras.
    """

    def __init__(
        self,
        rate: float,
        seed: Any = None,
        scale: str = "inv",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(rate, "BT", scale, seed=seed, name=name, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        kept = {name: config[name] for name in ("rate", "seed", "name", "dtype")}
        return {**kept, "scale": self.term.scale}
