"""What hypothesis draws: terms of the algebra, legal by construction, and how much of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

import catalog
from lapse.core.noise import Term, collect, text_of
from lapse.core.rules import LAWS, SCALES, SITES
from lapse.core.schedule import Schedule

# Of 500 random configurations; see conftest.py.
SHARES = {"modules": 240, "kernels": 160, "keras": 100}
# Ten thousand are so many runs of 500: pytest shows how far it is, and spreads them over processes.
in_parts = pytest.mark.parametrize("part", range(max(1, settings().max_examples // 500)))


def share(tests: str, among: int) -> settings:
    """How many examples one of so many tests draws in a part."""
    return settings(max_examples=-(-SHARES[tests] // among))


# The legality rules once more, from the published table rather than from rules.py.
GATE_SITES = ("i", "f", "g", "o", "z", "r", "n")
HOLDING_SITES = ("c", "s", "state")  # sites with a previous value


def written_legally(term: tuple) -> bool:
    """Whether site, over, fill, law and scale may stand in one term, whatever the cell."""
    site, over, fill, law, scale = term
    effective = scale or ("exp" if site in GATE_SITES else "inv")
    axes = re.findall(r"([A-Z])(/\d+|~[\d.]+|\[\d+\])?", over)
    names = [name for name, _ in axes]
    runs = [(name, run) for name, run in axes if run]
    if len(set(names)) != len(names) or len(runs) > 1:
        return False
    own = {"W": "IO", "U": "IO", "emb": "BV", "x": "BTFG", "h": "BTFG"}.get(site, "BTF")
    if set(names) - set(own) or (site == "emb" and "V" not in names):
        return False
    if any(name != "T" and not (name == "F" and run[0] == "[") for name, run in runs):
        return False
    if fill == "prev":
        if site not in HOLDING_SITES or scale is not None or law != "bern":
            return False
    elif fill != 0:
        return False
    if fill != "prev" and effective == "inv" and site in ("c", "state", "f", "z"):
        return False
    if law != "bern" and (fill != 0 or any(run[0] == "[" for _, run in runs)):
        return False
    return law not in ("gauss", "uniform") or effective == "inv"


numbers = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
progresses = st.lists(st.floats(0, 1, allow_subnormal=False), max_size=3).map(sorted)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    progress = [0.0, *draw(progresses), 1.0]
    return Schedule(tuple((at, draw(numbers)) for at in progress))


def times(longest: int) -> st.SearchStrategy[str]:
    lengths = st.integers(1, longest)
    return st.one_of(
        st.just("T"),
        lengths.map("T/{}".format),
        st.floats(0, 1, allow_subnormal=False).map("T~{!r}".format),
        lengths.map("T[{}]".format),
    )


@st.composite
def patterns(draw: st.DrawFn, site: str, longest: int) -> str:
    """The axes of a term at a site, with runs up to a length."""
    if site in ("W", "U"):
        letters = draw(st.sets(st.sampled_from("IO"), min_size=1))
    elif site == "emb":
        letters = {"V", *draw(st.sets(st.just("B")))}
    else:
        own = "BTFG" if site in ("x", "h") else "BTF"
        letters = draw(st.sets(st.sampled_from(own), min_size=1))
    time = draw(times(longest))
    names = [time if letter == "T" else letter for letter in sorted(letters)]
    if time == "T" or "T" not in letters:
        span = draw(st.one_of(st.just("F"), st.integers(1, longest).map("F[{}]".format)))
        names = [span if name == "F" else name for name in names]
    return "".join(draw(st.permutations(names)))


@st.composite
def _completed(
    draw: st.DrawFn, site: str, over: str, fill: Any, rates: Any, legal: Callable = written_legally
) -> Term:
    """A term of these parts, with a law, a scale and a rate that go with them."""
    pairs = [
        (law, scale)
        for law in LAWS
        for scale in (None, *SCALES)
        if legal((site, over, fill, law, scale))
    ]
    law = draw(st.sampled_from(sorted({law for law, _ in pairs})))
    scale = draw(st.sampled_from([scale for one, scale in pairs if one == law]))
    return Term(site, draw(rates(law)), over, fill, law, scale)


@st.composite
def legal_terms(draw: st.DrawFn) -> Term:
    """Any term that the rules allow: every site, axis, run, rate, fill, law and scale."""

    def rates(law: str) -> st.SearchStrategy:
        moving = [schedules()] if law == "bern" else [schedules(), st.just("learned")]
        return st.one_of(numbers, *moving)

    site = draw(st.sampled_from(SITES))
    over = draw(patterns(site, 1000))
    fills: list[Any] = [st.just(0.0)]
    if site in HOLDING_SITES:
        fills.append(st.just("prev"))
    return draw(_completed(site, over, draw(st.one_of(fills)), rates))


def _percent(number: int) -> float:
    return number / 100


@st.composite
def runnable_terms(draw: st.DrawFn, cell: catalog.Cell) -> Term:
    """Any term that a layer with this cell runs, with a rate that leaves something over."""

    def rates(law: str) -> st.SearchStrategy:
        return st.one_of(st.sampled_from((0.1, 0.3, 0.5)), st.floats(0, 0.8, allow_subnormal=False))

    def legal(term: tuple) -> bool:
        *_, fill, _, scale = term
        grows = site == "s" and cell.name == "GRU" and fill == 0 and scale in (None, "inv")
        return written_legally(term) and not grows

    site = draw(st.sampled_from(sorted(catalog.SITES[cell.name])))
    over = draw(patterns(site, 12))
    held = site in HOLDING_SITES and draw(st.booleans())
    return draw(_completed(site, over, "prev" if held else 0.0, rates, legal))


@st.composite
def noises(draw: st.DrawFn, cell: catalog.Cell, at_most: dict[str, int]) -> str:
    """The noise of a layer as text: a case of the catalogue, or up to four terms.

    Args:
        at_most: how many terms at a site the layer has room for, where that is less than four.
    """
    cases = [text for own, text in _TEXTS if own == cell]
    terms = st.lists(runnable_terms(cell), max_size=4).map(text_of)
    text = draw(st.one_of(st.sampled_from(cases), terms, terms))
    kept, seen = [], Counter[str]()
    for term in text.split():
        site = term.partition(":")[0]
        seen[site] += 1
        if seen[site] <= at_most.get(site, 4):
            kept.append(term)
    return " ".join(kept)


_TEXTS = [(cell, text_of(collect(catalog.NOISE[name]))) for cell, name in catalog.CASES]
sizes = st.one_of(st.sampled_from(catalog.WIDTHS), st.integers(1, 70))
lengths = st.one_of(st.integers(1, 3), st.integers(1, 12), st.integers(1, 40))
seeds = st.integers(0, 2**32 - 1)
