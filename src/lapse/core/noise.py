"""One noise term: where values are dropped, how often, what is shared, what takes their place.

Every published dropout for recurrent networks is a set of such terms. A term turns a value v into

    v <- m * (s * v) + (1 - m) * fill        m ~ law(rate)

with m drawn independently along the axes in `over` and shared along all others. Its text form,
`site:rate@over>fill~law!scale`, is also what a saved model stores:

    x:0.5@BTF           ordinary dropout on the layer's input
    x:0.5@BF h:0.2@BF   one mask per sequence, on the input and on the recurrent read
    c:0.5@BTF>prev      zoneout on the LSTM cell

A site is where noise acts: x layer input, h recurrent read (only where it enters the recurrent
kernel), y layer output, W and U kernel and recurrent kernel, i f g o and z r n the gates and
candidate of LSTM and GRU (g also names GRU's n), c LSTM cell, s hidden state as carried and
emitted, state all carried states with one coin, emb rows of an embedding table.

Axes: B sample, T timestep, F feature or unit, G gate, V vocabulary id, I and O rows and columns of
a weight. T may come in blocks of k steps (T/k), as a Markov chain that redraws with probability
rho (T~rho), or in spans of 1 to L steps (T[L], also F[L]; L is at most 65536).

The fill is 0, or prev: the old value of c, s or state.

At most four terms act at one site. Their masks are independent and multiply. Where one of them has
the fill prev, the masks act first, on the new value, and then prev puts the old value in its place,
whichever is written first: after "s:0.2@BF!exp s:0.1@BTF>prev" a unit holds its old value with
probability 0.1, and else its new one, which is 0 with probability 0.2.

All laws have mean 1 and variance rate / (1 - rate) where the scale is inv, except concrete: at its
temperature of 0.1 some numbers lie between the ends 0 and 1 / (1 - rate), so its variance is 8.5 to
9.9 % below (most at rate 0.5), and its mean up to 0.2 % below 1 and, at rates near 1, up to 1.7 %
above.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Real
from typing import Any, Literal

from lapse.core.advice import LONGEST_SPAN
from lapse.core.errors import LapseError
from lapse.core.rules import AXES, GATE_SITES, check_term
from lapse.core.schedule import Schedule

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TERM = re.compile(
    rf"(?P<site>\w+):(?P<rate>learned|-?{_NUMBER}(?:@{_NUMBER})?(?:,{_NUMBER}(?:@{_NUMBER})?)*)"
    rf"@(?P<over>(?:[A-Z](?:/\d+|~{_NUMBER}|\[\d+\])?)+)"
    rf"(?:>(?P<fill>\w+|-?{_NUMBER}))?(?:~(?P<law>[a-z]+))?(?:!(?P<scale>[a-z]+))?"
)
_AXIS = re.compile(rf"([A-Z])(?:(/)(\d+)|(~)({_NUMBER})|(\[)(\d+)\])?")


@dataclass(frozen=True)
class Axis:
    """One axis that a mask is independent along: `T`, or `T/4`, `T~0.1`, `T[5]`."""

    name: str
    run: str = ""  # "/", "~" or "["; the number that goes with it is `size`
    size: float = 0

    def __str__(self) -> str:
        number = repr(self.size) if self.run == "~" else str(int(self.size))
        return self.name + {"": "", "[": f"[{number}]"}.get(self.run, self.run + number)


@dataclass(frozen=True)
class Term:
    """One noise: `v <- m * (s * v) + (1 - m) * fill` at one site.

    Args:
        site: where it acts, one of `rules.SITES`.
        rate: probability of dropping, in [0, 1); or a `Schedule`; or "learned" (which no layer
            runs yet). For "gauss" and "uniform" it sets the variance of the multiplier,
            rate / (1 - rate), as that of inverted Bernoulli dropout. That of "concrete" is 8.5 to
            9.9 % below, because its temperature is 0.1.
        over: the axes the mask is independent along, e.g. "BTF"; shared along all others.
        fill: what takes the place of a dropped value: 0, or at c, s and state "prev" (zoneout: the
            old value). At one site "prev" acts after all masks.
        law: "bern" (keep or drop), "gauss", "uniform", or "concrete" (relaxed Bernoulli).
        scale: "inv" (train m/(1-rate), evaluate as is), "exp" (train m, evaluate times 1-rate),
            "none" (train m, evaluate as is). Default: "exp" on gates, "inv" elsewhere, and no
            scale where fill is "prev".

    Raises:
        LapseError: when a part is unknown or the parts can't go together.
    """

    site: str
    rate: float | Schedule | Literal["learned"]
    over: str
    fill: float | Literal["prev"] = 0.0
    law: str = "bern"
    scale: str | None = None

    def __post_init__(self) -> None:
        axes = sorted(_axes(self.over), key=lambda axis: AXES.find(axis.name))
        object.__setattr__(self, "over", "".join(map(str, axes)))
        object.__setattr__(self, "rate", _number(self.rate))
        object.__setattr__(self, "fill", _number(self.fill))
        learned = isinstance(self.rate, str) and self.rate == "learned"
        if not (learned or isinstance(self.rate, (float, Schedule))):
            raise LapseError(
                f"the rate {self.rate!r} at {self.site} is not a number; write a number in [0, 1)."
            )
        if not isinstance(self.fill, (float, str)):
            raise LapseError(
                f"the fill {self.fill!r} at {self.site} is neither 0 nor prev; leave it out, or at "
                "c, s and state write 'prev'."
            )
        if self.scale is None and self.fill != "prev":
            object.__setattr__(self, "scale", _usual_scale(self.site))
        check_term(self)

    @cached_property
    def axes(self) -> dict[str, Axis]:
        """The axes of `over`, by letter."""
        return {axis.name: axis for axis in _axes(self.over)}

    @property
    def probability(self) -> float:
        """The rate of a term that `plan.sources` accepts."""
        assert isinstance(self.rate, float)
        return self.rate

    @property
    def factor(self) -> float:
        """What is kept is multiplied by it in training."""
        return 1 / (1 - self.probability) if self.scale == "inv" else 1.0

    def __str__(self) -> str:
        fill = "" if self.fill == 0 else f">{self.fill}"
        law = "" if self.law == "bern" else f"~{self.law}"
        usual = None if self.fill == "prev" else _usual_scale(self.site)
        scale = "" if self.scale in (None, usual) else f"!{self.scale}"
        return f"{self.site}:{self.rate}@{self.over}{fill}{law}{scale}"


def parse(text: str) -> tuple[Term, ...]:
    """Reads terms separated by blanks; the inverse of `text_of`.

    Raises:
        LapseError: names the term that can't be read, or the rule that it breaks.
    """
    if not isinstance(text, str):
        raise LapseError(f"{text!r} is not text; write terms such as 'x:0.5@BTF'.")
    terms = []
    for part in text.split():
        match = _TERM.fullmatch(part)
        if not match:
            raise LapseError(
                f"'{part}' is not a noise term; write site:rate@over>fill~law!scale, with a number "
                "as the rate, axes in capitals and the last three optional, e.g. x:0.5@BTF or "
                "s:0.1@BTF>prev. Blanks separate terms."
            )
        site, rate, over, fill, law, scale = match.groups()
        terms.append(Term(site, _rate(rate), over, _fill(fill), law or "bern", scale))
    return tuple(terms)


def text_of(terms: Iterable[Term]) -> str:
    """Terms in the text form, separated by blanks."""
    return " ".join(map(str, terms))


def collect(noise: object) -> tuple[Term, ...]:
    """The terms of what a user gives as `noise=`; those with rate 0 are left out.

    Args:
        noise: None, text, a `Term`, a form (anything with `terms`), or a list or tuple of these.

    Raises:
        LapseError: for anything else, and for text or rates that make no legal term.
    """
    if noise is None:
        terms: tuple[Term, ...] = ()
    elif isinstance(noise, str):
        terms = parse(noise)
    elif isinstance(noise, Term):
        terms = (noise,)
    elif isinstance(noise, (list, tuple)):
        terms = tuple(term for part in noise for term in collect(part))
    elif isinstance(getattr(noise, "terms", None), tuple):
        terms = noise.terms  # type: ignore[attr-defined]
    else:
        raise LapseError(
            f"noise={noise!r} is not noise; give a form such as lapse.Zoneout(), terms as text "
            "such as 'x:0.5@BF', or a list of these."
        )
    return tuple(term for term in terms if term.rate != 0)


def _usual_scale(site: str) -> str:
    return "exp" if site in GATE_SITES else "inv"


def _number(value: Any) -> Any:
    """A float from any number; anything else as it is."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else value


def _rate(text: str) -> float | Schedule | Literal["learned"]:
    if text == "learned":
        return "learned"
    return Schedule.parse(text) if "," in text or "@" in text else float(text)


def _fill(text: str | None) -> Any:
    """A number where it is one; `Term` refuses what is neither 0 nor prev."""
    try:
        return float(text or 0)
    except ValueError:
        return text


@lru_cache
def _axes(over: str) -> tuple[Axis, ...]:
    found = list(_AXIS.finditer(over)) if isinstance(over, str) else []
    letters = {match[1] for match in found}
    if not found or "".join(match.group() for match in found) != over or letters - set(AXES):
        raise LapseError(
            f"'{over}' is not a list of axes; write letters of {AXES}, T also as T/4, T~0.1, T[5]."
        )
    axes = []
    for match in found:
        name, *rest = match.groups()
        run, size = next(((rest[n], rest[n + 1]) for n in (0, 2, 4) if rest[n]), ("", "0"))
        if float(size) > 2**31:
            raise LapseError(
                f"'{over}' has the number {size}, larger than any run along {name}; write e.g. "
                f"x:0.5@BT/4, x:0.5@BT~0.1 or x:0.5@BT[{LONGEST_SPAN}]."
            )
        axes.append(Axis(name, run, float(size)))
    return tuple(axes)
