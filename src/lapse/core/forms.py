"""Published dropout methods by name: each is a few terms of the algebra, and a paper.

    LSTM(128, noise=lapse.Zoneout(hidden=0.05, cell=0.5))
    LSTM(128, noise=[lapse.WeightDrop(0.5), lapse.Locked(0.4)])

Several forms act together, with at most four terms at one site. Masks act before zoneout,
whichever is given first: what Zoneout keeps is the old value, which no mask of that step drops.

A new method is one class here: its rates as fields, its terms as text (`noise.py` has the
grammar). Every rate is the probability of dropping, in [0, 1); a rate of 0 leaves its term out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Integral, Real
from typing import ClassVar

from lapse.core.errors import LapseError
from lapse.core.noise import Term, collect

_TYPES: dict[str, type] = {"float": Real, "int": Integral, "bool": bool}


@dataclass(frozen=True)
class Form(ABC):
    """A published method; `paper` is where it is described."""

    paper: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            name = field.type if isinstance(field.type, str) else field.type.__name__
            if name not in _TYPES:
                raise LapseError(
                    f"{type(self).__name__} has the field {field.name} of type {name}; the fields "
                    f"of a form are {', '.join(_TYPES)}."
                )
            value, wanted = getattr(self, field.name), _TYPES[name]
            wrong = not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)
            if wrong or value != value:  # NaN
                article = "an" if wanted is Integral else "a"
                raise LapseError(
                    f"{type(self).__name__} was given {field.name}={value!r}; write {article} "
                    f"{name}, such as {field.default!r}."
                )
            if wanted is Real:  # NumPy's numbers and fractions have another text
                object.__setattr__(self, field.name, float(value))
        _ = self.terms  # an illegal rate is reported where it is written

    @abstractmethod
    def text(self) -> str:
        """The method in the text form of the algebra."""

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The method's noise terms, those with rate 0 left out; made once, with the form."""
        return collect(self.text())


@dataclass(frozen=True)
class Dropout(Form):
    """Drops single numbers of the input, independently for each sample, step and feature.

    The same as a Dropout layer in front.
    """

    rate: float = 0.5
    paper = (
        "Zaremba, Sutskever, Vinyals 2014, Recurrent Neural Network Regularization, arXiv:1409.2329"
    )

    def text(self) -> str:
        return f"x:{self.rate}@BTF"


@dataclass(frozen=True)
class SpatialDropout(Form):
    """Drops whole features of the input, for all steps of a sample.

    The same as a SpatialDropout1D layer in front, and as `dropout=` alone in Keras 3.
    """

    rate: float = 0.5
    paper = (
        "Tompson, Goroshin, Jain, LeCun, Bregler 2015, Efficient Object Localization Using "
        "Convolutional Networks, arXiv:1411.4280"
    )

    def text(self) -> str:
        return f"x:{self.rate}@BF"


@dataclass(frozen=True)
class TimestepDropout(Form):
    """Drops whole steps of the input, all features at once, and scales up the steps that stay.

    For real gaps, where nothing is scaled, see `Gaps`.
    """

    rate: float = 0.1
    paper = (
        "Iyyer, Manjunatha, Boyd-Graber, Daume III 2015, Deep Unordered Composition Rivals "
        "Syntactic Methods for Text Classification, ACL (as word dropout)"
    )

    def text(self) -> str:
        return f"x:{self.rate}@BT"


@dataclass(frozen=True)
class KerasDropout(Form):
    """What `dropout=` and `recurrent_dropout=` mean in Keras 3, one mask per sequence.

    With `recurrent_dropout` above 0 each gate has its own masks; without it all gates share one.
    """

    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    paper = (
        "Gal, Ghahramani 2016, A Theoretically Grounded Application of Dropout in Recurrent Neural "
        "Networks, arXiv:1512.05287 (untied when recurrent_dropout > 0)"
    )

    def text(self) -> str:
        gates = "G" if self.recurrent_dropout else ""
        return f"x:{self.dropout}@BF{gates} h:{self.recurrent_dropout}@BFG"


@dataclass(frozen=True)
class Variational(Form):
    """One mask per sequence on the input, the recurrent read and the output.

    Tied: all gates share a mask. Untied: each gate has its own on input and recurrent read.
    """

    inputs: float = 0.25
    recurrent: float = 0.25
    outputs: float = 0.25
    tied: bool = True
    paper = (
        "Gal, Ghahramani 2016, A Theoretically Grounded Application of Dropout in Recurrent Neural "
        "Networks, arXiv:1512.05287"
    )

    def text(self) -> str:
        gates = "" if self.tied else "G"
        return f"x:{self.inputs}@BF{gates} h:{self.recurrent}@BF{gates} y:{self.outputs}@BF"


@dataclass(frozen=True)
class RnnDrop(Form):
    """Multiplies the LSTM's cell state by one mask per sequence.

    Evaluation multiplies it by 1 - rate at every step, so it forgets geometrically; a warning says
    how fast.
    """

    rate: float = 0.25
    paper = (
        "Moon, Choi, Lee, Song 2015, RnnDrop: A Novel Dropout for RNNs in ASR, IEEE ASRU "
        "(h reads the masked cell)"
    )

    def text(self) -> str:
        return f"c:{self.rate}@BF!exp"


@dataclass(frozen=True)
class NoMemoryLoss(Form):
    """Drops the candidate before it is added to the state, so an LSTM's cell keeps what it holds.

    In a GRU a dropped candidate leaves z * h, which is smaller than h; there, use `Zoneout`.
    """

    rate: float = 0.25
    per_step: bool = True
    paper = (
        "Semeniuta, Severyn, Barth 2016, Recurrent Dropout without Memory Loss, arXiv:1603.05118"
    )

    def text(self) -> str:
        return f"g:{self.rate}@B{'T' if self.per_step else ''}F"


@dataclass(frozen=True)
class Zoneout(Form):
    """At each step, keeps each unit's old value with a probability instead of updating it.

    Evaluation uses the expectation, rate * old + (1 - rate) * new. An LSTM computes its hidden
    state from the cell before the cell's zoneout. `cell` is for LSTM only.
    """

    hidden: float = 0.05
    cell: float = 0.0
    paper = (
        "Krueger, Maharaj, Kramar, Pezeshki, Ballas, Ke, Goyal, Bengio, Courville, Pal 2017, "
        "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations, arXiv:1606.01305"
    )

    def text(self) -> str:
        return f"c:{self.cell}@BTF>prev s:{self.hidden}@BTF>prev"


@dataclass(frozen=True)
class WeightDrop(Form):
    """DropConnect on the recurrent kernel: single weights, shared by all samples and steps."""

    rate: float = 0.5
    paper = (
        "Merity, Keskar, Socher 2018, Regularizing and Optimizing LSTM Language Models, "
        "arXiv:1708.02182"
    )

    def text(self) -> str:
        return f"U:{self.rate}@IO"


@dataclass(frozen=True)
class Locked(Form):
    """Drops whole features of the input, and of the output, for all steps of a sample."""

    inputs: float = 0.4
    outputs: float = 0.0
    paper = WeightDrop.paper

    def text(self) -> str:
        return f"x:{self.inputs}@BF y:{self.outputs}@BF"


@dataclass(frozen=True)
class AwdLstm(Form):
    """The recurrent layer of the AWD-LSTM: weight drop, with locked dropout before and after."""

    weights: float = 0.5
    inputs: float = 0.4
    outputs: float = 0.25
    paper = WeightDrop.paper

    def text(self) -> str:
        return f"U:{self.weights}@IO x:{self.inputs}@BF y:{self.outputs}@BF"


@dataclass(frozen=True)
class Gaps(Form):
    """Sets whole steps of the input to zero, as real gaps do; the other steps are not scaled.

    With `longest` above 1 the gaps are spans of 1 to `longest` steps, which may touch; `rate` is
    still the share of steps that are zero.
    """

    rate: float = 0.1
    longest: int = 1
    paper = (
        "Park, Chan, Zhang, Chiu, Zoph, Cubuk, Le 2019, SpecAugment: A Simple Data Augmentation "
        "Method for Automatic Speech Recognition, arXiv:1904.08779 (spans in time, filled with 0)"
    )

    def text(self) -> str:
        span = f"[{self.longest}]" if self.longest != 1 else ""
        return f"x:{self.rate}@BT{span}!none"


@dataclass(frozen=True)
class SkipSteps(Form):
    """Skips whole steps: with probability `rate`, a sample keeps its entire state at a step."""

    rate: float = 0.1
    paper = (
        "Krueger et al. 2017, Zoneout, arXiv:1606.01305 (compared there as stochastic depth in "
        "time, after Huang et al. 2016, arXiv:1603.09382)"
    )

    def text(self) -> str:
        return f"state:{self.rate}@BT>prev"


@dataclass(frozen=True)
class EmbeddingDropout(Form):
    """Drops words: whole rows of an embedding table, at every place where the word occurs."""

    rate: float = 0.1
    per_sample: bool = False
    paper = (
        "Gal, Ghahramani 2016, arXiv:1512.05287 (per sample); Merity, Keskar, Socher 2018, "
        "arXiv:1708.02182 (shared by the batch)"
    )

    def text(self) -> str:
        return f"emb:{self.rate}@{'B' if self.per_sample else ''}V"


# In the order in which they stand here.
FORMS: tuple[type[Form], ...] = tuple(Form.__subclasses__())


def examples() -> tuple[Form, ...]:
    """Each form at its default rates; KerasDropout, whose defaults drop nothing, at 0.5."""
    return tuple(KerasDropout(0.5, 0.5) if form is KerasDropout else form() for form in FORMS)
