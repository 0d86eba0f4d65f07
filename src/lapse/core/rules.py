"""The ten rules that say which noise terms can work, why, and what to write instead.

 1  What a cell carries elementwise (LSTM c, GRU s, state) must not be scaled up: no `inv`.
 2  Scaling it, or the gate that carries it (f, z), down at evaluation (`exp`) is legal, but the
    state decays geometrically: a warning says how fast.
 3  The fill is 0 or prev. `>prev` needs a state (c, s, state) and takes no scale.
 4  The carrying gates f and z must stay below 1: no `inv`. All gates scale at evaluation by
    default.
 5  G belongs to x and h, which several gates read; B and T never to a weight.
 6  V belongs to emb; blocks, chains and spans run along T, spans also along F, 65536 at most.
 7  Laws are matched: `rate` means a variance of rate / (1 - rate) around mean 1. That of the
    relaxed coin of `concrete` is 8.5 to 9.9 % smaller.
 8  A learned rate needs a relaxed law.
 9  A site must exist in the cell.
10  Padding takes no part: a mask of a real step never depends on padded ones, and each direction
    has its own stream. `drawing.py` draws so that this holds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

from lapse.core.advice import LONGEST_SPAN, STATE_SITES, nearest, over_with
from lapse.core.errors import LapseError, outside

if TYPE_CHECKING:
    from lapse.core.noise import Term

# The place of a site here is part of its random stream, in four bits: none may move, and all
# sixteen are taken.
SITES = ("x", "h", "y", "W", "U", "i", "f", "g", "o", "z", "r", "n", "c", "s", "state", "emb")
GATE_SITES = ("i", "f", "g", "o", "z", "r", "n")
CELLS = {  # the sites of each cell
    "LSTM": ("x", "h", "y", "W", "U", "i", "f", "g", "o", "c", "s", "state"),
    "GRU": ("x", "h", "y", "W", "U", "z", "r", "n", "g", "s", "state"),
    "SimpleRNN": ("x", "h", "y", "W", "U", "s", "state"),
}
AXES = "BTFGVIO"
LAWS = ("bern", "gauss", "uniform", "concrete")
SCALES = ("inv", "exp", "none")


def check_term(term: Term) -> None:
    """Raises `LapseError` where the parts of `term` can't go together in any cell."""
    for rule in (_known, _rate_range, _fill, _gate, _axes_of_site, _runs, _law, _learned):
        rule(term)
    if term.site in ("c", "state"):
        _no_growth(term, "the state it multiplies is carried from step to step")


def check(terms: Iterable[Term], cell: str) -> None:
    """Raises `LapseError` where a term can't act in `cell` (a key of `CELLS`)."""
    if cell not in CELLS:
        raise LapseError(f"the cell '{cell}' is unknown; write one of {', '.join(CELLS)}.")
    for term in terms:
        _has_site(term, cell)
        if _carried(term, cell):
            _no_growth(term, f"{cell} carries {term.site} elementwise from step to step")


def warn_of_forgetting(terms: Iterable[Term], cell: str) -> None:
    """Warns of rule 2, at the line of the user's code that makes a layer."""
    for term in terms:
        forgets = _carried(term, cell) or term.site in ("f", "z")
        if forgets and term.scale == "exp" and isinstance(term.rate, float) and term.rate > 0:
            gate = "an update gate of 0.98" if cell == "GRU" else "a forget gate of 0.98"
            left = (0.98 * (1 - term.rate)) ** 50
            warnings.warn(
                f"{term} forgets at evaluation, where each step multiplies what it carries by "
                f"1-rate: with {gate} a value keeps {left:.1g} of itself after 50 steps (0.36 "
                "without noise). Zoneout (>prev) does not forget.",
                UserWarning,
                stacklevel=outside(),
            )


def _refuse(term: Term, why: str, instead: str) -> NoReturn:
    moves = "" if isinstance(term.rate, float) else ". No layer runs a rate that changes yet"
    raise LapseError(f"{term} can't work: {why}; {instead}{moves}.")


def _known(term: Term) -> None:
    for part, value, known in (
        ("site", term.site, SITES),
        ("law", term.law, LAWS),
        ("scale", term.scale, (*SCALES, None)),
    ):
        if value not in known:
            names = ", ".join(str(name) for name in known if name)
            raise LapseError(f"the {part} '{value}' in {term} is unknown; write one of {names}.")


def _rate_range(term: Term) -> None:
    if term.rate == "learned":
        return
    rates = [rate for _, rate in term.rate.points] if hasattr(term.rate, "points") else [term.rate]
    for rate in rates:
        if not 0 <= rate < 1:
            _refuse(
                term,
                f"the rate {rate!r} is not a probability of dropping in [0, 1)",
                f"write e.g. {nearest(term, rate=0.5)}",
            )


def _no_growth(term: Term, because: str) -> None:
    """Rule 1."""
    if term.fill != "prev" and term.scale == "inv":
        _refuse(
            term,
            f"{because}, so a unit that is kept grows by 1/(1-rate) each step (at rate 0.5 it "
            "passes 10^59 after 200 steps)",
            f"write {nearest(term, scale='exp', law='bern')}, or {nearest(term, fill='prev')} to "
            "keep the old value (zoneout)",
        )


def _carried(term: Term, cell: str) -> bool:
    """Whether the cell carries a site elementwise; only GRU does so with s."""
    return term.site in ("c", "state") or (term.site == "s" and cell == "GRU")


def _fill(term: Term) -> None:
    """Rule 3; `prev` takes no scale because its expectation needs none."""
    if term.fill not in (0, "prev"):
        hold = f", or {nearest(term, fill='prev')} to keep the old value (zoneout)"
        _refuse(
            term,
            f"its fill {term.fill!r} is neither 0 nor prev",
            f"write {nearest(term)}{hold if term.site in STATE_SITES else ''}",
        )
    if term.fill == "prev" and term.site not in STATE_SITES:
        hold = f", or {nearest(term, site='s')} to keep the old hidden state"
        _refuse(
            term,
            f"{term.site} is not a state, so it has no previous value to keep",
            f"write {nearest(term, fill=0.0)}{'' if term.site in ('W', 'U', 'emb') else hold}",
        )
    if term.fill == "prev" and term.scale is not None:
        _refuse(term, "a value that is kept is not scaled", f"write {nearest(term)}")


def _gate(term: Term) -> None:
    """Rule 4: a gate that carries memory must stay below 1."""
    if term.site in ("f", "z") and term.scale == "inv":
        _refuse(
            term,
            f"scaling up pushes the gate {term.site} above 1, and the state grows without bound",
            f"write {nearest(term, law='bern')}",
        )


def _axes_of_site(term: Term) -> None:
    """Rules 5 and 6: each site has its own axes."""
    names = term.axes
    if len(names) != sum(letter.isupper() for letter in term.over):
        _refuse(term, f"'{term.over}' names an axis twice", f"write {nearest(term)}")
    if term.site in ("W", "U"):
        if set(names) - set("IO"):
            _refuse(
                term,
                "a weight is shared by batch, time and gates, so its noise has only the axes I "
                "(rows) and O (columns)",
                f"write {nearest(term, over='IO')}; noise per sample on a weight's "
                f"rows is {nearest(term, site='x' if term.site == 'W' else 'h', over='BF')}",
            )
        return
    if set(names) & set("IO"):
        _refuse(
            term,
            "I and O are rows and columns of a weight, which only W and U have",
            f"write {nearest(term)}",
        )
    if term.site == "emb":
        if "V" not in names or set(names) - set("BV"):
            _refuse(
                term,
                "an embedding table drops the rows of vocabulary ids",
                f"write {nearest(term, over='V')}, or {nearest(term, over='BV')} for a mask per "
                "sample",
            )
        return
    if "V" in names:
        _refuse(
            term,
            "V is a vocabulary id, which only emb has",
            f"write {nearest(term)}, or {nearest(term, site='emb', over='V', scale='inv')} in an "
            "embedding layer",
        )
    if "G" in names and term.site not in ("x", "h"):
        _refuse(
            term,
            "only x and h, which several gates read, can have a mask per gate",
            f"write {nearest(term)}",
        )


def _runs(term: Term) -> None:
    """Rule 6, second half: blocks and chains run along time; spans along time or features."""
    for axis in term.axes.values():
        if axis.run and not (axis.name == "T" or (axis.name == "F" and axis.run == "[")):
            _refuse(
                term,
                f"{axis} asks for runs along {axis.name}; blocks (T/k) and chains (T~rho) run "
                "along T alone, and spans (T[L], F[L]) along T and F",
                f"write {nearest(term)}",
            )
        if axis.run in ("/", "[") and axis.size < 1:
            _refuse(term, f"{axis} has length 0", f"write {nearest(term)}")
        if axis.run == "[" and axis.size > LONGEST_SPAN:
            longest = over_with(term, axis.name, f"{axis.name}[{LONGEST_SPAN}]")
            rest = over_with(term, axis.name, "")
            whole = "for whole sequences" if axis.name == "T" else "all features at once"
            drop = f", or {nearest(term, over=rest)} to drop {whole}" if rest else ""
            _refuse(
                term,
                f"{axis} asks for spans longer than {LONGEST_SPAN}, which cost as much as that "
                "many timesteps",
                f"write at most {nearest(term, over=longest)}{drop}",
            )
        if axis.run == "~" and not 0 <= axis.size <= 1:
            _refuse(
                term,
                f"{axis} redraws with a probability that is not in [0, 1]",
                f"write {nearest(term)} to redraw at each step, or T~rho with rho in [0, 1]",
            )
    if sum(bool(axis.run) for axis in term.axes.values()) > 1:
        first, second = (nearest(term, over=over_with(term, name, name)) for name in "FT")
        _refuse(
            term,
            "runs along two axes at once have no agreed meaning",
            f"write two terms, {first} and {second}",
        )


def _law(term: Term) -> None:
    """Rule 7; continuous laws have mean 1, so they need no scale at evaluation."""
    if term.law == "bern":
        return
    if term.fill != 0 or (term.law in ("gauss", "uniform") and term.scale != "inv"):
        offers = (nearest(term, fill=0.0), nearest(term, law="bern"))
        _refuse(
            term,
            f"the law {term.law} multiplies by numbers and never replaces a value",
            f"write {' or '.join(dict.fromkeys(offers))}",
        )
    if any(axis.run == "[" for axis in term.axes.values()):
        _refuse(
            term,
            "a span is dropped or kept as a whole, which only the law bern does",
            f"write {nearest(term)}",
        )


def _learned(term: Term) -> None:
    """Rule 8."""
    if term.rate == "learned" and term.law == "bern":
        _refuse(
            term,
            "keeping or dropping has no gradient with respect to its rate",
            f"write {nearest(term)}, or any other number",
        )


def _has_site(term: Term, cell: str) -> None:
    """Rule 9."""
    if term.site == "emb":
        _refuse(
            term,
            f"an embedding table is not part of {cell}",
            f"give {nearest(term)} to lapse.keras.Embedding or lapse.torch.Embedding",
        )
    if term.site not in CELLS[cell]:
        what = "cell state" if term.site == "c" else term.site
        _refuse(term, f"{cell} has no {what}", f"its sites are {' '.join(CELLS[cell])}")
