"""Published dropout methods by name: each is a few terms of the algebra, and a paper.

    LSTM(128, noise=lapse.Zoneout(hidden=0.05, cell=0.5))
    LSTM(128, noise=[lapse.WeightDrop(0.5), lapse.Locked(0.4)])

Forms add up where several are given, to at most four terms at one site. Masks act before zoneout,
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

_KINDS: dict[str, type] = {"float": Real, "int": Integral, "bool": bool}


@dataclass(frozen=True)
class Form(ABC):
    """A published method. `terms` are its noise terms; `paper` is where it was described."""

    paper: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), _KINDS[str(field.type)]
            wrong = not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
            if wrong or value != value:  # not a number, in both senses
                article = "an" if kind is Integral else "a"
                raise LapseError(
                    f"{type(self).__name__} was given {field.name}={value!r}; write {article} "
                    f"{field.type}, such as {field.default!r}."
                )
            if kind is Real:  # of NumPy's, or a fraction: the text form has decimals
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
    """Drops single numbers of the layer's input: each sample, step and feature by its own coin.

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

    The same as a SpatialDropout1D layer in front, and as Keras 3's `dropout=` by itself.
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

    `recurrent_dropout` above 0 makes both masks per gate; without it the gates share the input's.
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
    """Multiplies the LSTM cell by one mask per sequence; at evaluation by 1 - rate, every step.

    Evaluation therefore forgets geometrically, and a warning gives the number.
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
    """Drops the candidate before it is added to the state; what the LSTM cell holds stays.

    In a GRU a dropped candidate leaves z * h, which shrinks: there zoneout loses nothing.
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
    """Keeps each unit's old value with probability `rate` instead of updating it, step by step.

    At evaluation the expectation rate * old + (1 - rate) * new. The LSTM's hidden state reads the
    cell before its zoneout. `cell` is for LSTM only.
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
    """Drops whole features for all steps of a sample, on the input and, if asked, the output."""

    inputs: float = 0.4
    outputs: float = 0.0
    paper = WeightDrop.paper

    def text(self) -> str:
        return f"x:{self.inputs}@BF y:{self.outputs}@BF"


@dataclass(frozen=True)
class AwdLstm(Form):
    """The recurrent layer of the AWD-LSTM: weight drop with locked dropout around it."""

    weights: float = 0.5
    inputs: float = 0.4
    outputs: float = 0.25
    paper = WeightDrop.paper

    def text(self) -> str:
        return f"U:{self.weights}@IO x:{self.inputs}@BF y:{self.outputs}@BF"


@dataclass(frozen=True)
class Gaps(Form):
    """Blanks whole steps of the input as real gaps would: zeros, and nothing else scaled.

    With `longest` above 1 the gaps are spans of 1 to `longest` steps that may touch; `rate` stays
    the share of blanked steps.
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
    """Skips whole steps: with one coin per sample and step, the layer keeps its entire state."""

    rate: float = 0.1
    paper = (
        "Krueger et al. 2017, Zoneout, arXiv:1606.01305 (compared there as stochastic depth in "
        "time, after Huang et al. 2016, arXiv:1603.09382)"
    )

    def text(self) -> str:
        return f"state:{self.rate}@BT>prev"


@dataclass(frozen=True)
class EmbeddingDropout(Form):
    """Drops word types: whole rows of an embedding table, wherever the word occurs."""

    rate: float = 0.1
    per_sample: bool = False
    paper = (
        "Gal, Ghahramani 2016, arXiv:1512.05287 (per sample); Merity, Keskar, Socher 2018, "
        "arXiv:1708.02182 (shared by the batch)"
    )

    def text(self) -> str:
        return f"emb:{self.rate}@{'B' if self.per_sample else ''}V"


FORMS: tuple[type[Form], ...] = (
    Dropout,
    SpatialDropout,
    TimestepDropout,
    KerasDropout,
    Variational,
    RnnDrop,
    NoMemoryLoss,
    Zoneout,
    WeightDrop,
    Locked,
    AwdLstm,
    Gaps,
    SkipSteps,
    EmbeddingDropout,
)
