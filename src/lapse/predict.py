"""Predictions under a model's own noise, and their uncertainty: Monte Carlo dropout."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from lapse.core.errors import LapseError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Prediction:
    """Arrays of float64; `predict` describes them."""

    mean: np.ndarray
    spread: np.ndarray
    entropy: np.ndarray | None = None
    mutual_information: np.ndarray | None = None


def predict(
    model: Any,
    x: Any,
    samples: int = 50,
    *,
    batch_size: int | None = None,
    classes: str | None = None,
    seed: int | None = None,
) -> Prediction:
    """Passes `x` through a model `samples` times with the noise of its training, and returns the
    mean and the spread of the outputs (Monte Carlo dropout; Gal, Ghahramani 2016, arXiv:1506.02142;
    for recurrent layers arXiv:1512.05287).

    Each pass draws new masks, separate for each sequence. Everything except the noise is as in
    evaluation. Nothing is trained, and afterwards the model is as before, including the states of
    stateful layers. The outputs are summed and not kept, so memory does not grow with `samples`.
    For quantiles, collect outputs under `mc_dropout` yourself.

    Args:
        model: a `keras.Model` or `torch.nn.Module` with one output, with layers of lapse or of the
            framework; `mc_dropout` of `lapse.keras` and `lapse.torch` describes which noise stays
            on.
        x: for Keras, what `model.predict` takes; for PyTorch, a tensor or a NumPy array, or a tuple
            of these, one for each argument of the model. NumPy arrays of floats are converted to
            the type of the model's weights.
        samples: the number of passes, at least 2.
        batch_size: how many samples the model gets at once. The default is 32 in Keras, and all of
            `x` in PyTorch, where the first axis may be time.
        classes: "probabilities" or "logits" for a classifier: what the last axis of its output
            holds, a number for each class. An axis of 1 is one class against another, as from a
            sigmoid. Logits are converted to probabilities in each pass.
        seed: a whole number from 0, for the same masks each time; afterwards all generators are as
            before. By default the model's own generators are used.

    Returns:
        mean: shaped like the output; for classes, the mean of the probabilities.
        spread: shaped like the output, the standard deviation over passes, with samples - 1 in the
            denominator.
        entropy: for classes, the entropy of the mean in nats: the total uncertainty of the
            prediction. Shaped like the output without its last axis.
        mutual_information: for classes, the entropy of the mean minus the mean of the entropies
            (Houlsby, Huszar, Ghahramani, Lengyel 2011, arXiv:1112.5745): the uncertainty due to
            disagreement between passes, which more data could remove. At least 0, up to rounding.

    Raises:
        LapseError: for a model without noise or with several outputs, for anything that is not a
            model, and for outputs that are not probabilities although `classes` says so.
    """
    from lapse.uncertainty import Moments, distribution, entropy

    _check(samples, batch_size, classes, seed)
    found, entropies, width = Moments(), Moments(), 0
    with _front_end(model)(model, x, batch_size, seed) as draw:
        for _ in range(samples):
            drawn = draw()
            if classes is not None:
                width = drawn.shape[-1]
                drawn = distribution(drawn, classes)
                entropies.add(entropy(drawn))
            found.add(drawn)
    if classes is None:
        return Prediction(found.mean, found.spread)
    unsure = entropy(found.mean)
    one = slice(width)  # of two classes, the output has only the first
    return Prediction(found.mean[..., one], found.spread[..., one], unsure, unsure - entropies.mean)


def _check(samples: Any, batch_size: Any, classes: Any, seed: Any) -> None:
    counts = {"samples": (samples, 2), "batch_size": (batch_size, 1), "seed": (seed, 0)}
    for name, (value, least) in counts.items():
        if value is None and name != "samples":
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise LapseError(f"{name}={value!r} was given; write a whole number from {least}.")
    if classes not in (None, "probabilities", "logits"):
        raise LapseError(
            f"classes={classes!r} was given; write 'probabilities' or 'logits', or leave it out "
            "if the model is not a classifier."
        )


def _front_end(model: Any) -> Callable:
    """`drawing` of the model's framework, which is imported already because the model exists."""
    keras, torch = (sys.modules.get(name) for name in ("keras", "torch"))
    # Keras first, because on its torch backend a layer is also a module of PyTorch.
    if keras is not None and isinstance(model, keras.Layer):
        from lapse.keras.monte_carlo import noisy_passes as of_keras

        return of_keras
    if torch is not None and isinstance(model, torch.nn.Module):
        from lapse.torch.monte_carlo import noisy_passes as of_torch

        return of_torch
    raise LapseError(f"{model!r} was given, which is not a model of Keras or PyTorch; give one.")
