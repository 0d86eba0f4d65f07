"""What a model predicts under its own noise, and how sure it is: Monte Carlo dropout."""

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
    """Arrays of float64; what they mean is said at `predict`."""

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
    """Passes `x` through a model `samples` times with the noise that it was trained with, and
    says what comes out on average and how much it varies (Monte Carlo dropout; Gal, Ghahramani
    2016, arXiv:1506.02142, and for recurrent layers arXiv:1512.05287).

    Each pass draws masks of its own, one for each sequence. Everything but the noise is as in
    evaluation, nothing is learned, and the model is left as it was, the states of stateful layers
    with it. Draws are summed up and not kept, so that memory doesn't grow with `samples`; for
    quantiles, keep those that you draw under `mc_dropout`.

    Args:
        model: a `keras.Model` or `torch.nn.Module` with one output, of lapse's layers or of the
            framework's own; `mc_dropout` of `lapse.keras` and `lapse.torch` says which noise
            counts.
        x: for Keras what `model.predict` takes; for PyTorch a tensor or a NumPy array, or a tuple
            of these, one for each argument of the model. Arrays of floats take the type of the
            model's weights.
        samples: how many passes, at least 2.
        batch_size: how many samples go through the model at once. Keras takes 32 by default, and
            PyTorch's models, whose first axis may be time, get all of `x` at once.
        classes: "probabilities" or "logits", if that is what the model gives for the classes along
            the last axis of its output; an axis of 1 is one class against another, as from a
            sigmoid. Logits become probabilities in each pass.
        seed: a whole number from 0 for the same draws each time; afterwards all generators are as
            they were. By default the model's own generators say what is drawn.

    Returns:
        mean: shaped like the output; for classes the average of the probabilities.
        spread: shaped like the output, the standard deviation over passes, with samples - 1 in the
            denominator.
        entropy: for classes, that of the mean in nats: how unsure the prediction is. Shaped like
            the output without its last axis.
        mutual_information: for classes, the entropy of the mean less the mean of the entropies
            (Houlsby, Huszar, Ghahramani, Lengyel 2011, arXiv:1112.5745): the part of it about
            which the passes disagree, which more data could remove. Never below 0, but for
            rounding.

    Raises:
        LapseError: for a model without noise or with several outputs, for what is no model, and
            for outputs that are no probabilities although `classes` says so.
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
    one = slice(width)  # of two classes only the first has an output
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
            "where the model doesn't classify."
        )


def _front_end(model: Any) -> Callable:
    """Of whatever framework made the model, which therefore is imported already."""
    keras, torch = (sys.modules.get(name) for name in ("keras", "torch"))
    # Keras first: on its torch backend a layer is a module of PyTorch's too.
    if keras is not None and isinstance(model, keras.Layer):
        from lapse.keras.monte_carlo import drawing as of_keras

        return of_keras
    if torch is not None and isinstance(model, torch.nn.Module):
        from lapse.torch.monte_carlo import drawing as of_torch

        return of_torch
    raise LapseError(f"{model!r} was given, which is no model of Keras's and none of PyTorch's.")
