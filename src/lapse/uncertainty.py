"""Mean and standard deviation of arrays that come one by one, and the entropy of distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

from lapse.core.errors import LapseError

# The sum of probabilities in bfloat16, the coarsest type, is within this of 1.
_ROUNDING = 5e-3


class Moments:
    """Mean and standard deviation of arrays of one shape, without keeping them (Welford 1962, Note
    on a Method for Calculating Corrected Sums of Squares and Products, Technometrics 4).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self._squares: Any = 0.0

    def add(self, drawn: np.ndarray) -> None:
        self.count += 1
        apart = drawn - self.mean
        self.mean = self.mean + apart / self.count
        self._squares = self._squares + apart * (drawn - self.mean)

    @property
    def spread(self) -> np.ndarray:
        """The standard deviation, with count - 1 in the denominator."""
        deviation: np.ndarray = np.sqrt(self._squares / (self.count - 1))
        return deviation


def distribution(outputs: np.ndarray, classes: str) -> np.ndarray:
    """The probabilities of all classes, along the last axis.

    Args:
        outputs: (..., classes), or (..., 1) for one class against another.
        classes: "logits" or "probabilities".

    Returns:
        (..., classes), or for one class (..., 2), that class first.

    Raises:
        LapseError: for outputs that are not probabilities.
    """
    if classes == "logits":
        if outputs.shape[-1] == 1:  # a sigmoid is a softmax against 0
            outputs = np.concatenate([outputs, np.zeros_like(outputs)], -1)
        powers = np.exp(outputs - outputs.max(-1, keepdims=True))
        softmax: np.ndarray = powers / powers.sum(-1, keepdims=True)
        return softmax
    if outputs.shape[-1] == 1:
        outputs = np.concatenate([outputs, 1 - outputs], -1)
    if not (outputs >= 0).all():
        raise LapseError(
            "classes='probabilities' was given, but some outputs are not probabilities: they run "
            f"from {outputs.min():.4g} to {outputs.max():.4g}; write classes='logits' for outputs "
            "before softmax or sigmoid."
        )
    sums = outputs.sum(-1)
    if (abs(sums - 1) > _ROUNDING).any():
        raise LapseError(
            "classes='probabilities' was given, but the probabilities along the last axis of the "
            f"output sum to {sums.min():.4g} to {sums.max():.4g}, not 1; write classes='logits' "
            "for outputs before softmax, and for classes that don't exclude each other add a last "
            "axis of 1."
        )
    return outputs


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """In nats, of distributions along the last axis; a probability of 0 adds nothing."""
    logarithms = np.log(np.where(probabilities > 0, probabilities, 1))
    total: np.ndarray = -(probabilities * logarithms).sum(-1)
    return total
