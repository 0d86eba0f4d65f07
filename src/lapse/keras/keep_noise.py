"""Noise that stays on in evaluation, where a call or a layer asks for it."""

from __future__ import annotations

from typing import Any

import keras

from lapse.keras.backend import BACKEND


class KeepsNoise:
    """Mixin in front of a Keras layer that draws noise.

    A functional model of Keras replaces the `training` that a layer was called with by its own, so
    that `layer(x, training=True)` is lost in `predict`. Here such a call becomes
    `layer(x, keep_noise=True)`, which stays with the model, also in its file.

    Attributes:
        keep_noise: whether all calls draw; `mc_dropout` sets it on the layer for a while.
    """

    keep_noise = False

    @property
    def noisy(self) -> bool:
        """Whether the layer has any noise to draw."""
        raise NotImplementedError

    def draws(self, inputs: Any, training: Any, keep_noise: bool = False) -> bool:
        """Whether a call with these arguments draws noise."""
        if BACKEND.device(inputs) == "meta":
            return False  # Keras computes shapes, on tensors without values
        return bool(training or keep_noise or self.keep_noise)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("training") and _is_symbolic([*args, *kwargs.values()]):
            del kwargs["training"]
            kwargs["keep_noise"] = True
        return super().__call__(*args, **kwargs)  # type: ignore[misc]


def _is_symbolic(given: Any) -> bool:
    """Whether tensors of a functional model are among arguments.

    This is not `keras.tree.flatten`, because torch.compile cannot trace that.
    """
    if isinstance(given, (list, tuple)):
        return any(_is_symbolic(part) for part in given)
    return bool(keras.utils.is_keras_tensor(given))
