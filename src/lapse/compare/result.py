"""The result of a comparison as plain data, from which the table and all pictures are made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """One training run. Losses are mean log-losses per sequence, in nats.

    Attributes:
        placement: key of the placement.
        seed: determines the validation split, initial weights, batch order and masks.
        test_log_loss, test_accuracy: at the epoch with the lowest validation loss.
        validation_log_loss: at that epoch.
        best_epoch: that epoch, counted from 1.
        train_curve, validation_curve: log-loss after each epoch, evaluated without noise.
    """

    placement: str
    seed: int
    test_log_loss: float
    test_accuracy: float
    validation_log_loss: float
    best_epoch: int
    train_curve: tuple[float, ...]
    validation_curve: tuple[float, ...]

    @staticmethod
    def from_fields(fields: dict[str, Any]) -> Run:
        """A run from the fields that JSON holds."""
        curves = {name: tuple(fields[name]) for name in ("train_curve", "validation_curve")}
        return Run(**{**fields, **curves})


@dataclass(frozen=True)
class Row:
    """One placement's row of the table.

    Attributes:
        placement: its key.
        label: its name in the table.
        noise: its terms, as text.
        kind: "none", "layer", "argument" or "inside".
        about: what is dropped, in one sentence.
        keras: the code to paste.
        same_as: key of an earlier placement with the same noise and therefore the same runs, or "".
        log_loss: mean test log-loss over the seeds.
        accuracy: mean test accuracy over the seeds, in [0, 1].
        validation_log_loss: mean validation log-loss over the seeds.
        difference: mean paired difference of the test log-loss to `none`; below 0 is better. None
            for `none` itself, like the next five.
        low, high: its 95 % Student-t interval.
        p: two-sided p-value of the paired t-test, Holm-corrected over the distinct placements.
        won: number of seeds with a lower test log-loss than `none`.
        verdict: "better", "worse", "no significant difference" or "too few seeds".
        step_ms: median time of a training step, in milliseconds.
    """

    placement: str
    label: str
    noise: str
    kind: str
    about: str
    keras: str
    same_as: str
    log_loss: float
    accuracy: float
    validation_log_loss: float
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    won: int | None
    verdict: str | None
    step_ms: float


@dataclass(frozen=True)
class Comparison:
    """Everything that a study found.

    Attributes:
        answer: the answer in one sentence.
        data: name, source, sha256, train, test (numbers of sequences), held_out (what the test set
            is), features (names), classes (names), shortest, longest (timesteps).
        settings: units, epochs, patience, batch, learning_rate, validation (share of the training
            set), seeds, quick (bool).
        rows: one per placement, in the order of the table; the first is `none`.
        runs: all training runs of distinct placements.
        made_with: versions of lapse, python, torch and numpy; processor and number of cores.
    """

    answer: str
    data: dict[str, Any]
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    runs: tuple[Run, ...]
    made_with: dict[str, str]

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Comparison:
        fields = json.loads(text)
        if fields.pop("schema") != SCHEMA:
            raise ValueError(f"these results are not of schema {SCHEMA}.")
        fields["rows"] = tuple(Row(**row) for row in fields["rows"])
        fields["runs"] = tuple(map(Run.from_fields, fields["runs"]))
        return Comparison(**fields)
