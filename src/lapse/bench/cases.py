"""What is measured: the rows of the table, and the figure that each must reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import lapse
from lapse.core.forms import FORMS
from lapse.core.plan import GATES


class Shape(NamedTuple):
    """The sizes of a call."""

    batch: int
    timesteps: int
    features: int
    units: int

    def flops(self, cell: str) -> int:
        """Of one training step: products forward, and twice as many back."""
        batch, timesteps, features, units = self
        return 3 * 2 * batch * timesteps * len(GATES[cell]) * units * (features + units)


S1, S2, S4 = Shape(32, 100, 64, 128), Shape(32, 100, 128, 512), Shape(1, 1000, 64, 256)
NAMES = {S1: "S1", S2: "S2", S4: "S4"}


@dataclass(frozen=True)
class Case:
    """Training steps that take turns; a row of the table for each but the peer.

    Attributes:
        what: the question.
        cell: "LSTM" or "GRU".
        subjects: by name, what `steps.build` makes.
        peer: the name of the subject that all others are compared with.
        must, aim: bounds of the ratio, for subjects with noise or padding, or of the share, in %;
            None only informs.
        seconds: how long to measure.
    """

    what: str
    cell: str
    shape: Shape
    subjects: dict[str, str]
    peer: str
    must: float | None = None
    aim: float | None = None
    seconds: float = 6.0

    @property
    def name(self) -> str:
        return f"{self.cell} {NAMES.get(self.shape) or tuple(self.shape)}"


FLOOR = "multiply-adds in registers"
DROPOUT = "Dropout, over PyTorch's layer without"
BOTH = "x:0.5@BFG h:0.5@BFG"  # Keras's dropout=.5, recurrent_dropout=.5
PEER = {"LSTM": "nn.LSTM", "GRU": "nn.GRU"}


def forms() -> dict[str, str]:
    """Each published form that acts in an LSTM, at its defaults and at some others; its terms."""
    made = [form(0.5, 0.5) if form is lapse.KerasDropout else form() for form in FORMS]
    made += [lapse.Variational(tied=False), lapse.Zoneout(0.05, 0.5), lapse.Gaps(longest=5)]
    return {
        repr(form): " ".join(map(str, form.terms))
        for form in made
        if all(term.site != "emb" for term in form.terms)
    }


def dropout(
    cell: str, shape: Shape, seconds: float, must: float | None = None, aim: float | None = None
) -> Case:
    """Dropout on inputs and states in lapse, over PyTorch's layer without any."""
    subjects = {"dropout and recurrent_dropout": f"lapse {BOTH}", PEER[cell]: "nn"}
    if must is not None:
        subjects["no noise"] = "lapse"
    what = "Other sizes, over PyTorch's layer" if must is None else DROPOUT
    return Case(what, cell, shape, subjects, PEER[cell], must, aim, seconds)


def loop(cell: str, shape: Shape, seconds: float) -> Case:
    """What one writes today, over PyTorch's layer without any dropout.

    Apart from the others: all that it allocates makes those slower that take turns with it.
    """
    what = "nn.LSTMCell" if cell == "LSTM" else "the equations"
    subjects = {f"{what} in a loop, with a mask": "loop", PEER[cell]: "nn"}
    return Case(DROPOUT, cell, shape, subjects, PEER[cell], seconds=seconds)


def share(cell: str, shape: Shape, seconds: float) -> Case:
    """How much of the processor's peak a layer's products make use of.

    The peer does as many multiply-adds as they do, in registers, so that it is as fast or slow as
    the processor is just then.
    """
    what, subjects = "Share of the processor's peak", {"no noise": "lapse", FLOOR: "floor"}
    must, aim = (75, 85) if shape == S2 else (None, None)
    return Case(what, cell, shape, subjects, FLOOR, must, aim, seconds)


def table(quick: bool) -> list[Case]:
    """All cases, or those of a first look."""
    shapes, seconds = ([S1], 2.0) if quick else ([S1, S2], 8.0)
    bounds = {"LSTM": (1.0, 0.8), "GRU": (0.6, 0.4)}
    cases = [dropout(cell, s, seconds, *bounds[cell]) for cell in bounds for s in shapes]
    cases += [loop(cell, s, seconds / 2) for cell in bounds for s in shapes]
    cases += [share(cell, s, seconds / 2) for cell in bounds for s in shapes]
    cases += [
        Case(
            "Any form, over no noise",
            "LSTM",
            shape,
            {"no noise": "lapse", **{form: f"lapse {terms}" for form, terms in forms().items()}},
            "no noise",
            1.1,
            1.03,
            8 * seconds if shape is S2 else 4 * seconds,
        )
        for shape in shapes
    ]
    cases += [
        Case(
            "Padded with lengths, over packed through PyTorch's layer",
            cell,
            shape,
            {"lengths=": "padded", f"{PEER[cell]}, packed": "packed"},
            f"{PEER[cell]}, packed",
            0.5,
            0.2,
            seconds,
        )
        for cell in bounds
        for shape in shapes
    ]
    units = [7, 100] if quick else [1, 7, 31, 63, 100, 300]
    others = [Shape(32, 100, 64, n) for n in units]
    if not quick:
        others += [Shape(1, 100, 64, 128), Shape(32, 1, 64, 128), S4]
    return cases + [dropout(cell, shape, 1.5) for shape in others for cell in bounds]
