"""One training run: a recurrent classifier with the noise of one placement, for one seed.

For one seed, everything but the noise is the same for all placements: which training sequences are
held out for validation, the initial weights, the order of the batches, and the seed of the masks of
each step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lapse.compare.data import Dataset
from lapse.compare.result import Run
from lapse.core.errors import LapseError
from lapse.torch import LSTM

_STEPS_AT_ONCE = 50_000  # in evaluation, to limit memory


@dataclass(frozen=True)
class Settings:
    """How every run trains; `docs/compare.md` says how the defaults were chosen.

    Attributes:
        units: width of the LSTM.
        epochs: maximum number of passes over the training part.
        patience: number of epochs without a lower validation loss after which a run stops.
        batch: sequences per batch.
        learning_rate: of Adam.
        validation: share of the training sequences of each class that is held out for early
            stopping.
    """

    units: int = 100
    epochs: int = 60
    patience: int = 12
    batch: int = 64
    learning_rate: float = 0.01
    validation: float = 0.2


class Classifier(nn.Module):
    """An LSTM, and a linear layer from its last output to the classes."""

    def __init__(self, features: int, classes: int, units: int, noise: str) -> None:
        super().__init__()
        self.lstm = LSTM(features, units, batch_first=True, noise=noise)
        self.linear = nn.Linear(units, classes)

    def forward(self, x: Tensor, lengths: Tensor, mask_seed: int | None = None) -> Tensor:
        """Logits (batch, classes) of x (batch, timesteps, features); with noise if given a seed."""
        masks = None
        if mask_seed is not None:
            masks = self.lstm.draw_masks(x.shape[0], x.shape[1], mask_seed)
        y, _ = self.lstm(x, masks=masks)
        # Padding is at the end, so it changes no output before it.
        last = y[torch.arange(len(y)), lengths - 1]
        logits: Tensor = self.linear(last)
        return logits


class _Part:
    """A part of the sequences, as tensors; a batch is cut to its longest sequence."""

    def __init__(self, x: Tensor, lengths: Tensor, labels: Tensor) -> None:
        self.x, self.lengths, self.labels = x, lengths, labels

    @staticmethod
    def of(data: Dataset, rows: np.ndarray, mean: np.ndarray, std: np.ndarray) -> _Part:
        inside = np.arange(data.x.shape[1]) < data.lengths[rows, None]
        with np.errstate(over="ignore"):  # infinities show in the loss and are reported there
            scaled = np.where(inside[..., None], (data.x[rows] - mean) / std, 0).astype(np.float32)
        lengths, labels = torch.from_numpy(data.lengths[rows]), torch.from_numpy(data.labels[rows])
        return _Part(torch.from_numpy(scaled), lengths, labels)

    def joined(self, other: _Part) -> _Part:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Part(*(torch.cat(pair) for pair in pairs))

    def take(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        lengths = self.lengths[rows]
        return self.x[rows, : int(lengths.max())], lengths, self.labels[rows]


def train(data: Dataset, placement: str, noise: str, seed: int, settings: Settings) -> Run:
    """Trains one classifier and tests it at the epoch with the lowest validation loss.

    Args:
        data: its sequences marked `test` are used once, at the end.
        placement: key of the placement, for the result.
        noise: terms, as text.
        seed: determines everything but the noise.

    Raises:
        LapseError: if the loss is no longer finite.
    """
    fit, validation, test = parts(data, seed, settings)
    watched = fit.joined(validation)  # evaluated together, which is faster
    torch.manual_seed(seed)
    model = Classifier(data.x.shape[2], len(data.classes), settings.units, noise)
    model.eval()  # noise is used only where a seed is given
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
    order, mask_seeds = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])

    train_curve: list[float] = []
    validation_curve: list[float] = []
    best_epoch, best_weights = 0, model.state_dict()
    for epoch in range(1, settings.epochs + 1):
        rows = order.permutation(len(fit.labels))
        for start in range(0, len(rows), settings.batch):
            x, lengths, labels = fit.take(rows[start : start + settings.batch])
            step(model, optimizer, x, lengths, labels, int(mask_seeds.integers(2**63)))
        losses, _ = evaluate(model, watched)
        train_curve.append(float(losses[: len(fit.labels)].mean()))
        validation_curve.append(float(losses[len(fit.labels) :].mean()))
        if not np.isfinite(validation_curve[-1]):
            raise LapseError(
                f"the loss of '{placement}' with seed {seed} is {validation_curve[-1]} after epoch "
                f"{epoch}; look for extreme values in {data.name}, and rescale them."
            )
        if best_epoch == 0 or validation_curve[-1] < validation_curve[best_epoch - 1]:
            best_epoch, best_weights = epoch, copy.deepcopy(model.state_dict())
        if epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_weights)
    test_losses, correct = evaluate(model, test)
    if not torch.isfinite(test_losses).all():
        raise LapseError(
            f"the test loss of '{placement}' with seed {seed} is {float(test_losses.mean())}; look "
            f"for extreme values in the test set of {data.name}, and rescale them."
        )
    return Run(
        placement=placement,
        seed=seed,
        test_log_loss=float(test_losses.mean()),
        test_accuracy=float(correct.mean()),
        validation_log_loss=validation_curve[best_epoch - 1],
        best_epoch=best_epoch,
        train_curve=tuple(train_curve),
        validation_curve=tuple(validation_curve),
    )


def parts(data: Dataset, seed: int, settings: Settings) -> tuple[_Part, _Part, _Part]:
    """Training, validation and test part, standardized with the statistics of the training part."""
    rng = np.random.default_rng([seed, 0])
    held_out = np.zeros(len(data.labels), bool)
    for label in range(len(data.classes)):
        rows = rng.permutation(np.flatnonzero((data.labels == label) & ~data.test))
        held_out[rows[: max(1, round(settings.validation * len(rows)))]] = True
    fit = ~data.test & ~held_out
    steps = data.x[fit][np.arange(data.x.shape[1]) < data.lengths[fit, None]].astype(np.float64)
    mean, std = steps.mean(axis=0), steps.std(axis=0)
    std = np.where(std > 0, std, 1.0)  # a constant feature has no information at any scale
    fit_part, validation_part, test_part = (
        _Part.of(data, np.flatnonzero(rows), mean, std) for rows in (fit, held_out, data.test)
    )
    return fit_part, validation_part, test_part


def step(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    lengths: Tensor,
    labels: Tensor,
    mask_seed: int,
) -> None:
    """One training step with noise; gradients are clipped to norm 1."""
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(x, lengths, mask_seed), labels)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def evaluate(model: Classifier, part: _Part) -> tuple[Tensor, Tensor]:
    """Evaluates without noise: log-loss of each sequence, and 1 where its prediction is correct."""
    at_once = max(1, _STEPS_AT_ONCE // part.x.shape[1])
    batches = zip(part.x.split(at_once), part.lengths.split(at_once), strict=True)
    logits = torch.cat([model(x, lengths) for x, lengths in batches]).double()
    losses = functional.cross_entropy(logits, part.labels, reduction="none")
    return losses, (logits.argmax(1) == part.labels).double()
