"""The placements that `lapse compare` trains: where dropout acts, and the code to paste.

Each placement is noise on the same recurrent layer, even where a user would add another layer: a
Dropout layer in front is the term x:p@BTF, one after the recurrent layer is y:p@BTF. Placements
with the same terms are the same training run, and the table says so. The rates were chosen by
validation loss; `docs/compare.md` describes the search.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

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
        key: name in files and options.
        label: name in tables and pictures.
        noise: the terms, as text; empty for no dropout.
        kind: "none", "layer" (a Dropout layer in front or after), "argument" (`dropout=`,
            `recurrent_dropout=`) or "inside" (acts inside the recurrence).
        about: what is dropped, in one sentence.
        keras: the lines that build it with `lapse.keras`; UNITS stands for the number of units.
    """

    key: str
    label: str
    noise: str
    kind: str
    about: str
    keras: str


def in_front(
    key: str, layer: str, form: Dropout | SpatialDropout | TimestepDropout, about: str
) -> Placement:
    """A Dropout layer of `lapse.keras` in front of the recurrent layer."""
    code = f"{layer}({form.rate})\nLSTM(UNITS)"
    return Placement(key, f"{layer} in front", _text(form), "layer", about, code)


def after(key: str, rate: float, about: str) -> Placement:
    """A Dropout layer after the recurrent layer."""
    code = f"LSTM(UNITS)\nDropout({rate})"
    return Placement(key, "Dropout after", f"y:{rate}@BTF", "layer", about, code)


def arguments(key: str, form: KerasDropout, about: str) -> Placement:
    """The arguments `dropout=` and `recurrent_dropout=` of the recurrent layer."""
    rates = {name: rate for name, rate in asdict(form).items() if rate}
    code = "".join(f", {name}={rate}" for name, rate in rates.items())
    label = " and ".join(f"{name}=" for name in rates)
    return Placement(key, label, _text(form), "argument", about, f"LSTM(UNITS{code})")


def inside(key: str, label: str, form: Form, about: str) -> Placement:
    """A form that acts inside the recurrence."""
    code = f"LSTM(UNITS, noise=lapse.{form!r})"
    return Placement(key, label, _text(form), "inside", about, code)


def _text(form: Form) -> str:
    return " ".join(map(str, collect(form)))


PLACEMENTS: tuple[Placement, ...] = (
    Placement("none", "none", "", "none", "Nothing is dropped.", "LSTM(UNITS)"),
    in_front(
        "dropout-front",
        "Dropout",
        Dropout(0.25),
        "Single values of the input, independently for each sample, step and feature.",
    ),
    in_front(
        "spatial-front",
        "SpatialDropout1D",
        SpatialDropout(0.1),
        "Whole input features, the same ones at every step of a sequence.",
    ),
    in_front(
        "timestep-front",
        "TimestepDropout",
        TimestepDropout(0.5),
        "Whole steps of the input, all features at once.",
    ),
    arguments(
        "dropout-argument",
        KerasDropout(0.1),
        "Whole input features, the same ones at every step, exactly as SpatialDropout1D does.",
    ),
    arguments(
        "recurrent-argument",
        KerasDropout(0.0, 0.5),
        "The previous hidden state as each gate reads it, with one mask per sequence and gate.",
    ),
    arguments(
        "both-arguments",
        KerasDropout(0.1, 0.5),
        "Input features and hidden units, each with one mask per sequence and gate.",
    ),
    after("dropout-after", 0.5, "Single units of the layer's output."),
    inside(
        "zoneout",
        "Zoneout",
        Zoneout(0.05, 0.1),
        "Nothing is set to 0: single units keep their old value for a step.",
    ),
    inside(
        "variational",
        "Variational (tied)",
        Variational(0.1, 0.1, 0.1),
        "Input features, hidden units and outputs, with one mask per sequence for all gates.",
    ),
    inside(
        "weight-drop",
        "WeightDrop",
        WeightDrop(0.25),
        "Single weights of the recurrent kernel, the same ones for the whole batch.",
    ),
)
QUICK = ("none", "dropout-front", "dropout-argument", "recurrent-argument", "both-arguments")
