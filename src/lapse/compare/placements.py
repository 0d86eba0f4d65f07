"""The placements that `lapse compare` trains: where the dropout stands, and the code to paste.

Each is noise on one and the same recurrent layer, also where people would write a layer of its
own: a Dropout layer in front is the term x:p@BTF, one after the last step is y:p@BTF. Two
placements with the same terms are the same training run, and the table says so. The rates were
chosen on validation; `docs/compare.md` has the search.
"""

from __future__ import annotations

from dataclasses import dataclass

from lapse.core.forms import (
    Dropout,
    Form,
    KerasDropout,
    SpatialDropout,
    TimestepDropout,
    Variational,
    WeightDrop,
    Zoneout,
)
from lapse.core.noise import collect


@dataclass(frozen=True)
class Placement:
    """One way to place dropout.

    Attributes:
        key: its name in files and options.
        label: its name in tables and pictures.
        noise: the terms, as text; empty for none.
        kind: "none", "layer" (a Dropout layer in front or after), "argument" (`dropout=`,
            `recurrent_dropout=`) or "inside" (the recurrence itself).
        about: what it drops, in one sentence.
        keras: the lines that build it with `lapse.keras`; UNITS stands for the number of units.
    """

    key: str
    label: str
    noise: str
    kind: str
    about: str
    keras: str


def _text(form: Form) -> str:
    return " ".join(map(str, collect(form)))


PLACEMENTS: tuple[Placement, ...] = (
    Placement("none", "none", "", "none", "Nothing is dropped.", "LSTM(UNITS)"),
    Placement(
        "dropout-front",
        "Dropout in front",
        _text(Dropout(0.25)),
        "layer",
        "Single numbers of the input, by a fresh coin for every sample, step and feature.",
        "Dropout(0.25)\nLSTM(UNITS)",
    ),
    Placement(
        "spatial-front",
        "SpatialDropout1D in front",
        _text(SpatialDropout(0.1)),
        "layer",
        "Whole input features, the same ones at every step of a sequence.",
        "SpatialDropout1D(0.1)\nLSTM(UNITS)",
    ),
    Placement(
        "timestep-front",
        "TimestepDropout in front",
        _text(TimestepDropout(0.5)),
        "layer",
        "Whole steps of the input, all features at once.",
        "TimestepDropout(0.5)\nLSTM(UNITS)",
    ),
    Placement(
        "dropout-argument",
        "dropout=",
        _text(KerasDropout(0.1)),
        "argument",
        "Whole input features, the same ones at every step: exactly SpatialDropout1D.",
        "LSTM(UNITS, dropout=0.1)",
    ),
    Placement(
        "recurrent-argument",
        "recurrent_dropout=",
        _text(KerasDropout(0.0, 0.5)),
        "argument",
        "What each gate reads of the previous hidden state, one mask per sequence and gate.",
        "LSTM(UNITS, recurrent_dropout=0.5)",
    ),
    Placement(
        "both-arguments",
        "dropout= and recurrent_dropout=",
        _text(KerasDropout(0.1, 0.5)),
        "argument",
        "Input features and hidden units, one mask per sequence and gate each.",
        "LSTM(UNITS, dropout=0.1, recurrent_dropout=0.5)",
    ),
    Placement(
        "dropout-after",
        "Dropout after",
        "y:0.5@BTF",
        "layer",
        "Single units of what the layer hands on.",
        "LSTM(UNITS)\nDropout(0.5)",
    ),
    Placement(
        "zoneout",
        "Zoneout",
        _text(Zoneout(0.05, 0.1)),
        "inside",
        "Nothing: single units keep their old value for a step instead of being updated.",
        "LSTM(UNITS, noise=lapse.Zoneout(hidden=0.05, cell=0.1))",
    ),
    Placement(
        "variational",
        "Variational (tied)",
        _text(Variational(0.1, 0.1, 0.1)),
        "inside",
        "Input features, hidden units and outputs, one mask per sequence, shared by the gates.",
        "LSTM(UNITS, noise=lapse.Variational(inputs=0.1, recurrent=0.1, outputs=0.1))",
    ),
    Placement(
        "weight-drop",
        "WeightDrop",
        _text(WeightDrop(0.25)),
        "inside",
        "Single weights of the recurrent kernel, the same ones for the whole batch.",
        "LSTM(UNITS, noise=lapse.WeightDrop(0.25))",
    ),
)
QUICK = ("none", "dropout-front", "dropout-argument", "recurrent-argument", "both-arguments")
