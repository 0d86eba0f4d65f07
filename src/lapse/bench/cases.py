"""What is measured, and the figure that each result is required to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import lapse
from lapse.core.forms import examples
from lapse.core.plan import GATES


class Shape(NamedTuple):
    """The sizes of a call."""

    batch: int
    timesteps: int
    features: int
    units: int

    def flops(self, cell: str) -> int:
        """Of one training step: the matrix products forward, and twice as many backward."""
        batch, timesteps, features, units = self
        return 3 * 2 * batch * timesteps * len(GATES[cell]) * units * (features + units)


S1, S2, S4 = Shape(32, 100, 64, 128), Shape(32, 100, 128, 512), Shape(1, 1000, 64, 256)
NAMES = {S1: "S1", S2: "S2", S4: "S4"}


@dataclass(frozen=True)
class Case:
    """Training steps that are timed in turns; each but the baseline is a row of the table.

    Attributes:
        what: title of the table.
        cell: "LSTM" or "GRU".
        subjects: by name, what `steps.build` makes.
        baseline: name of the subject that all others are compared with.
        required, goal: upper bounds of the ratio, for subjects with noise or padding, or lower
            bounds of the share in %; None if the figure is only informative.
        seconds: how long to measure.
    """

    what: str
    cell: str
    shape: Shape
    subjects: dict[str, str]
    baseline: str
    required: float | None = None
    goal: float | None = None
    seconds: float = 6.0

    @property
    def name(self) -> str:
        return f"{self.cell} {NAMES.get(self.shape) or tuple(self.shape)}"


PEAK = "multiply-adds on registers"
DROPOUT = "Dropout, relative to PyTorch's layer without dropout"
BOTH = "x:0.5@BFG h:0.5@BFG"  # Keras's dropout=.5, recurrent_dropout=.5
STOCK = {"LSTM": "nn.LSTM", "GRU": "nn.GRU"}


def forms() -> dict[str, str]:
    """The terms of each form that acts in an LSTM: its example, and some other arguments."""
    made = [*examples(), lapse.Variational(tied=False), lapse.Zoneout(0.05, 0.5)]
    made += [lapse.Gaps(longest=5)]
    return {
        repr(form): " ".join(map(str, form.terms))
        for form in made
        if all(term.site != "emb" for term in form.terms)
    }


def dropout(
    cell: str,
    shape: Shape,
    seconds: float,
    required: float | None = None,
    goal: float | None = None,
) -> Case:
    """lapse's layer with dropout on inputs and states, relative to PyTorch's without dropout."""
    subjects = {"dropout and recurrent_dropout": f"lapse {BOTH}", STOCK[cell]: "nn"}
    if required is not None:
        subjects["no noise"] = "lapse"
    other = "Other sizes, relative to PyTorch's layer without dropout"
    what = other if required is None else DROPOUT
    return Case(what, cell, shape, subjects, STOCK[cell], required, goal, seconds)


def loop(cell: str, shape: Shape, seconds: float) -> Case:
    """A loop over cells, relative to PyTorch's layer without dropout.

    A case of its own, because the loop's memory allocations slow down what is timed beside it.
    """
    what = "nn.LSTMCell" if cell == "LSTM" else "GRU equations"
    subjects = {f"{what} in a Python loop, with a mask": "loop", STOCK[cell]: "nn"}
    return Case(DROPOUT, cell, shape, subjects, STOCK[cell], seconds=seconds)


def share(cell: str, shape: Shape, seconds: float) -> Case:
    """The share of the processor's peak that a layer's matrix products reach.

    The baseline does the same number of multiply-adds on registers. It is timed in turns with the
    layer, so a change of the processor's clock affects both.
    """
    what, subjects = "Share of the processor's peak", {"no noise": "lapse", PEAK: "peak"}
    required, goal = (75, 85) if shape == S2 else (None, None)
    return Case(what, cell, shape, subjects, PEAK, required, goal, seconds)


def table(quick: bool) -> list[Case]:
    """All cases; with `quick`, a small selection."""
    shapes, seconds = ([S1], 2.0) if quick else ([S1, S2], 8.0)
    bounds = {"LSTM": (1.0, 0.8), "GRU": (0.6, 0.4)}
    cases = [dropout(cell, s, seconds, *bounds[cell]) for cell in bounds for s in shapes]
    cases += [loop(cell, s, seconds / 2) for cell in bounds for s in shapes]
    cases += [share(cell, s, seconds / 2) for cell in bounds for s in shapes]
    cases += [
        Case(
            "Each form, relative to no noise",
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
            "Padded batches with lengths=, relative to packed sequences in PyTorch's layer",
            cell,
            shape,
            {"lengths=": "padded", f"{STOCK[cell]}, packed": "packed"},
            f"{STOCK[cell]}, packed",
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
