"""The algebra: what can be written down, what it means, and what is refused and how."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import string
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import catalog
import lapse
from lapse.core.cells import unroll
from lapse.core.drawing import draw, draw_rows
from lapse.core.errors import LapseError
from lapse.core.forms import FORMS
from lapse.core.masks import Masks
from lapse.core.noise import Term, collect, parse, text_of
from lapse.core.plan import GATES, check_rows, plan
from lapse.core.rules import AXES, CELLS, LAWS, SCALES, SITES, check, warn_of_forgetting
from lapse.core.schedule import Schedule
from lapse.core.weights import Weights
from strategies import GATE_SITES, legal_terms, written_legally

PROFILE = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@cache
def made(site: str, over: str, fill: Any, law: str, scale: str | None) -> Term | LapseError:
    """The term, or the error."""
    try:
        return Term(site, 0.5, over, fill, law, scale)
    except LapseError as error:
        return error


OVERS = (
    "B T F G V I O BT BF TF BTF BFG BTG BTFG BV IO BIO VT BB BTT BX Q QTF "
    "T/2 BT/3F T~0.3 BT~0.3F BT[3] BTF[2] F[3] F/2 F~0.5 B/2 G[2] V[2] I/2 BT/2F[2]"
)
FILLS = (0.0, 0.5, "prev", "mean")
ALL_PARTS = list(itertools.product(SITES, OVERS.split(), FILLS, LAWS, (None, *SCALES)))


@PROFILE
@given(st.lists(legal_terms(), max_size=4))
def test_print_then_parse(terms: list[Term]) -> None:
    """A saved model stores the text, so a term that reads back as another one changes the model."""
    assert parse(text_of(terms)) == tuple(terms)


@PROFILE
@given(st.lists(legal_terms(), max_size=4))
def test_parse_then_print_is_canonical(terms: list[Term]) -> None:
    """Two texts of one term would make equal layers look different in files and tables."""
    text = text_of(terms)
    assert text_of(parse(text)) == text


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("x:.5@BTF", "x:0.5@BTF"),
        ("x:5e-1@FTB", "x:0.5@BTF"),
        ("x:0.50@FB!inv~bern", None),
        ("x:0.50@FB~bern!inv", "x:0.5@BF"),
        ("g:.25@GB", None),
        ("g:.25@FTB!exp", "g:0.25@BTF"),
        ("x:0@B", "x:0.0@B"),
        ("x:.5@FT[5]B>0", "x:0.5@BT[5]F"),
        ("x:.5@T~.1G", "x:0.5@T~0.1G"),
        ("x:.5@B>0.0!none", "x:0.5@B!none"),
        ("c:.5@FB>prev", "c:0.5@BF>prev"),
        ("x:.5@B>-1!none", None),
        ("x:0,.3@.5,0@BF", "x:0.0,0.3@0.5,0.0@BF"),
        ("x:0@0,.3@.5,0@1@BF", "x:0.0,0.3@0.5,0.0@BF"),
        ("  x:.5@B\n\ty:.5@B ", "x:0.5@B y:0.5@B"),
        ("", ""),
    ],
)
def test_spellings(written: str, canonical: str | None) -> None:
    """People write .5 and FTB; each spelling has one meaning and one printed form."""
    if canonical is None:
        with pytest.raises(LapseError):
            parse(written)
    else:
        assert text_of(parse(written)) == canonical


def test_defaults_of_scale() -> None:
    """A gate scaled up in training would pass 1; anything else not scaled up would shrink."""
    for site in SITES:
        for scale, term in ((s, made(site, _own_axes(site), 0.0, "bern", s)) for s in SCALES):
            if isinstance(term, Term) and scale == ("exp" if site in GATE_SITES else "inv"):
                assert Term(site, 0.5, _own_axes(site)) == term
    assert Term("c", 0.5, "BF", fill="prev").scale is None


def _own_axes(site: str) -> str:
    return {"W": "IO", "U": "IO", "emb": "V"}.get(site, "BF")


def test_terms_as_values() -> None:
    """Terms are keys of the plan's cache: equal ones must be equal and hash alike."""
    one, other = Term("x", 0.5, "FB"), Term("x", 0.5, "BF", 0, "bern", "inv")
    assert one == other
    assert hash(one) == hash(other)
    assert one != Term("x", 0.5, "BF", scale="none")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.rate = 0.1  # type: ignore[misc]


def test_every_combination_is_judged() -> None:
    """Too strict a rule takes away a method; too loose a rule lets the cell explode."""
    wrong = [
        parts for parts in ALL_PARTS if isinstance(made(*parts), Term) != written_legally(parts)
    ]
    assert not wrong, f"{len(wrong)} judged wrongly, e.g. {wrong[:5]}"


# The ten rules: text, cell or None, what the reason must say, and the terms that are offered.
RULES: list[tuple[int, str, str | None, str, tuple[str, ...]]] = [
    (1, "c:0.5@BF", None, "grows by 1/(1-rate)", ("c:0.5@BF!exp", "c:0.5@BF>prev")),
    (1, "state:0.5@BT", None, "grows", ("state:0.5@BT!exp", "state:0.5@BT>prev")),
    (1, "s:0.5@BF", "GRU", "carries s elementwise", ("s:0.5@BF!exp", "s:0.5@BF>prev")),
    (1, "c:0.5@BF~gauss", None, "grows", ()),
    (3, "h:0.5@BF>prev", None, "no previous value", ()),
    (3, "g:0.5@BF>prev", None, "no previous value", ()),
    (3, "x:0.5@BT>prev", None, "no previous value", ("x:0.5@BT", "s:0.5@BT>prev")),
    (3, "y:0.5@BTF>prev", None, "no previous value", ("y:0.5@BTF", "s:0.5@BTF>prev")),
    (3, "emb:0.5@V>prev", None, "no previous value", ("emb:0.5@V",)),
    (3, "c:0.5@BF>prev!exp", None, "kept is not scaled", ("c:0.5@BF>prev",)),
    (3, "c:0.5@BF>prev!inv", None, "kept is not scaled", ("c:0.5@BF>prev",)),
    (3, "x:0.5@BF>0.5", None, "neither 0 nor prev", ("x:0.5@BF",)),
    (3, "x:0.5@BT>mean", None, "neither 0 nor prev", ("x:0.5@BT",)),
    (3, "x:0.5@BF>mean~gauss", None, "neither 0 nor prev", ("x:0.5@BF~gauss",)),
    (3, "y:0.5@BT>-1.0", None, "neither 0 nor prev", ("y:0.5@BT",)),
    (3, "emb:0.3@V>-1.0", None, "neither 0 nor prev", ("emb:0.3@V",)),
    (3, "h:0.5@BF>0.3", None, "neither 0 nor prev", ("h:0.5@BF",)),
    (3, "c:0.5@BF>0.3", None, "neither 0 nor prev", ("c:0.5@BF!exp", "c:0.5@BF>prev")),
    (3, "c:0.5@BF>mean!exp", None, "neither 0 nor prev", ("c:0.5@BF!exp", "c:0.5@BF>prev")),
    (4, "f:0.5@BF!inv", None, "pushes the gate f above 1", ("f:0.5@BF",)),
    (4, "z:0.5@BTF!inv", None, "pushes the gate z above 1", ("z:0.5@BTF",)),
    (5, "g:0.5@BFG", None, "only x and h, which several gates read", ()),
    (5, "y:0.5@BG", None, "only x and h, which several gates read", ()),
    (5, "W:0.5@BIO", None, "shared by batch, time and gates", ("W:0.5@IO", "x:0.5@BF")),
    (5, "U:0.5@T", None, "shared by batch, time and gates", ("U:0.5@IO", "h:0.5@BF")),
    (5, "U:learned@BIO~concrete", None, "shared by batch, time and gates", ()),
    (5, "x:0.5@BI", None, "rows and columns of a weight", ()),
    (5, "x:0.5@BBF", None, "names an axis twice", ()),
    (6, "x:0.5@BV", None, "vocabulary id", ("emb:0.5@V",)),
    (6, "emb:0.5@B", None, "rows of vocabulary ids", ("emb:0.5@V",)),
    (6, "emb:0.5@TV", None, "rows of vocabulary ids", ("emb:0.5@V",)),
    (6, "x:learned@BV~concrete", None, "vocabulary id", ()),
    (6, "x:0.5@B/2F", None, "spans (T[L], F[L]) along T and F", ()),
    (6, "x:0.5@BF~0.3", None, "spans (T[L], F[L]) along T and F", ()),
    (6, "U:0.5@I[2]", None, "spans (T[L], F[L]) along T and F", ()),
    (6, "x:0.5@BT/0", None, "length 0", ()),
    (6, "x:0.5@BT[0]", None, "length 0", ()),
    (6, "x:0.5@BT~1.5", None, "probability", ()),
    (6, "x:0.5@BT/2F[2]", None, "two axes", ()),
    (7, "x:0.5@BF~uniform!exp", None, "multiplies by numbers", ("x:0.5@BF~uniform",)),
    (7, "i:0.5@BF~gauss", None, "multiplies by numbers", ("i:0.5@BF~gauss!inv",)),
    (7, "f:0.5@BF~gauss", None, "multiplies by numbers", ()),
    (7, "c:0.5@BF~gauss!exp", None, "multiplies by numbers", ()),
    (7, "c:0.5@BF>prev~concrete", None, "never replaces a value", ("c:0.5@BF>prev",)),
    (7, "x:0.5@BT[3]~concrete", None, "dropped or kept as a whole", ()),
    (8, "x:learned@BF", None, "no gradient", ("x:0.5@BF",)),
    (8, "i:learned@BF", None, "no gradient", ("i:0.5@BF",)),
    (9, "c:0.5@BF!exp", "GRU", "no cell state", ()),
    (9, "z:0.5@BF", "LSTM", "LSTM has no z", ()),
    (9, "i:0.5@BF", "GRU", "GRU has no i", ()),
    (9, "g:0.5@BF", "SimpleRNN", "SimpleRNN has no g", ()),
    (9, "emb:0.5@V", "LSTM", "not part of LSTM", ()),
]


def refusal(text: str, cell: str | None) -> str:
    with pytest.raises(LapseError) as caught:
        terms = parse(text)
        check(terms, str(cell))
    return str(caught.value)


def offered(message: str) -> list[str]:
    """The terms that a refusal names after the one that was given."""
    tokens = [word.strip("(),;.") for word in message.split()]
    terms = [token for token in tokens if re.fullmatch(r"\w+:\S+@\S+", token)]
    return [term for term in terms[1:] if term != "site:rate@over>fill~law!scale"]


@pytest.mark.parametrize(("rule", "text", "cell", "why", "offers"), RULES)
def test_refusals_say_what_why_and_what_instead(
    rule: int, text: str, cell: str | None, why: str, offers: tuple[str, ...]
) -> None:
    """Without the term, the reason or the way out, a person can only guess what to change."""
    message = refusal(text, cell)
    assert message.startswith(f"{text} can't work: ")
    assert why in message
    assert ";" in message  # what to do instead
    assert set(offers) <= set(offered(message))


RATES = (0.5, "learned", Schedule(((0.0, 0.0), (0.5, 0.3), (1.0, 0.0))))


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_what_a_refusal_offers_runs(rate: Any) -> None:
    """Advice that is refused in its turn sends people round in circles."""
    wrong = []
    for parts in ALL_PARTS:
        site, over, fill, law, scale = parts
        try:
            Term(site, rate, over, fill, law, scale)
        except LapseError as error:
            if not str(error).startswith("'"):  # the axes can't be read, so there is no term yet
                wrong += _not_run(str(error), parts, list(GATES))
    assert not wrong, f"{len(wrong)} times, e.g. {wrong[:5]}"


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("cell", GATES)
def test_what_a_layer_offers_it_runs(cell: str, rate: Any) -> None:
    """A layer that refuses a legal term names one that it takes itself."""
    wrong = []
    for parts in ALL_PARTS:
        site, over, fill, law, scale = parts
        try:
            term = Term(site, rate, over, fill, law, scale)
        except LapseError:
            continue
        if site not in CELLS[cell]:
            continue
        try:
            plan(term, cell)
        except LapseError as error:
            wrong += _not_run(str(error), parts, [cell])
    assert not wrong, f"{len(wrong)} times, e.g. {wrong[:5]}"


def test_what_an_embedding_table_offers_it_runs() -> None:
    wrong = []
    for rate, over, fill, law, scale in itertools.product(RATES, ("V", "BV"), FILLS, LAWS, SCALES):
        try:
            check_rows((Term("emb", rate, over, fill, law, scale),))
        except LapseError as error:
            wrong += _not_run(str(error), (rate, over, fill, law, scale), [])
    assert not wrong, f"{len(wrong)} times, e.g. {wrong[:5]}"


def _not_run(message: str, parts: tuple, cells: list[str]) -> list[tuple]:
    """What is wrong with the terms that a refusal offers."""
    offers = offered(message)
    found: list[tuple] = [] if offers else [("nothing is offered", parts, message)]
    for offer in offers:
        site = offer.partition(":")[0]
        where = ["Embedding"] if site == "emb" else [cell for cell in cells if site in CELLS[cell]]
        found += [(offer, place, message) for place in where if not _runs(offer, place)]
        if not where and cells:
            found += [(offer, "no layer has its site", message)]
    return found


@cache
def _runs(text: str, where: str) -> bool:
    sizes = {"batch": 2, "timesteps": 3, "features": 3, "units": 2}
    try:
        if where == "Embedding":
            check_rows(parse(text))
            return draw_rows(parse(text), 0, batch=2, vocabulary=3) is not None
        drawn = draw(plan(text, where), 0, **sizes)
    except LapseError:
        return False
    return any(mask is not None for mask in drawn) and str(parse(text)[0]) == text


@pytest.mark.parametrize(("rule", "text", "cell", "why", "offers"), RULES)
def test_offered_terms_are_legal(
    rule: int, text: str, cell: str | None, why: str, offers: tuple[str, ...]
) -> None:
    """The same for the examples above."""
    for offer in offered(refusal(text, cell)):
        terms = parse(offer)
        if cell and terms[0].site in CELLS[cell]:
            check(terms, cell)


@pytest.mark.parametrize(
    "text",
    [
        *("x:0.5@BF>last", "x:0.5", "x:.1@.5@BF", "x:0,.3,0@BF", "x:0.5@BT/9999999999"),
        *("x:0.5@BT[9999999999]", "x:0.5@BT[65537]F", "x:0.5@T[65537]", "x:0.5@BF[65537]"),
        *("x:1.5@BF", "c:1.5@BTF", "x:0.5@BT/0", "x:0.5@BT[0]", "x:0.5@BT~1.5", "x:0.5@F[65537]"),
    ],
)
def test_what_is_offered_for_text_that_cannot_be_read_runs(text: str) -> None:
    with pytest.raises(LapseError) as caught:
        parse(text)
    offers = [offer for offer in offered("x:0@B " + str(caught.value)) if offer != text]
    assert offers
    for offer in offers:
        assert _runs(offer, "LSTM"), offer


def test_a_schedule_that_is_refused_is_told_that_no_layer_runs_one() -> None:
    for points in ((), ((0.0, 0.1),), ((0.5, 0.1), (1.0, 0.2)), "abc", None):
        with pytest.raises(LapseError, match=r"no layer runs .*write a number"):
            Schedule(points)  # type: ignore[arg-type]


def test_rules_reach_every_cell() -> None:
    """A cell whose row is missing or too long would take noise that it has no equations for."""
    for cell, sites in CELLS.items():
        for site in SITES:
            terms = (Term(site, 0.25, _own_axes(site), scale="none"),)
            if site in sites:
                check(terms, cell)
            else:
                with pytest.raises(LapseError, match=re.escape(str(terms[0]))):
                    check(terms, cell)
    with pytest.raises(LapseError, match=r"'Elman' is unknown.*LSTM, GRU"):
        check((), "Elman")


def test_growth_that_rule_1_claims() -> None:
    """The number in the message is a promise: the refused scaling really passes 10^59."""
    message = refusal("c:0.5@BF", None)
    claim = re.search(r"at rate (\S+) it passes 10\^(\d+) after (\d+) steps", message)
    assert claim
    rate, power, steps = float(claim[1]), int(claim[2]), int(claim[3])
    keep_all = {"i": -40.0, "f": 40.0, "g": 0.0, "o": 0.0}
    lstm = Weights(np.zeros((1, 4)), np.zeros((1, 4)), np.array(list(keep_all.values())))
    doubled = np.full((1, 1, 1, 1), 1 / (1 - rate))
    x = np.zeros((1, steps, 1))
    state = (np.zeros((1, 1)), np.ones((1, 1)))
    _, (_, c) = unroll("LSTM", x, lstm, Masks(i=doubled, f=doubled), initial_state=state)
    assert 10.0**power < c[0, 0] < 10.0 ** (power + 2)

    gru = Weights(np.zeros((1, 3)), np.zeros((1, 3)), np.array([[40.0, 0, 0], [0, 0, 0]]))
    _, (h,) = unroll("GRU", x, gru, Masks(s=doubled), initial_state=(np.ones((1, 1)),))
    assert 10.0**power < h[0, 0] < 10.0 ** (power + 2)


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    ("site", "cell"), [("c", "LSTM"), ("s", "GRU"), ("state", "LSTM"), ("f", "LSTM"), ("z", "GRU")]
)
def test_rule_2_warns_with_the_number(site: str, cell: str, rate: float) -> None:
    """The warning's number is what evaluation really leaves of a value after 50 steps."""
    term = Term(site, rate, "BF", scale="exp")
    with pytest.warns(UserWarning, match="forgets at evaluation") as caught:
        warn_of_forgetting((term,), cell)
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith(f"{term} forgets")
    found = re.search(
        r"(?:forget|update) gate of (\S+) a value keeps (\S+) of itself after (\d+)", message
    )
    assert found
    gate, left, steps = float(found[1]), found[2], int(found[3])
    logit = math.log(gate / (1 - gate))
    bias = np.array([-40.0, logit, 0, 0] if cell == "LSTM" else [[logit, 0, 0], [0, 0, 0]])
    columns = bias.shape[-1]
    weights = Weights(np.zeros((1, columns)), np.zeros((1, columns)), bias)
    state = (np.ones((1, 1)),) * (2 if cell == "LSTM" else 1)
    constants = plan(term, cell).expected
    x = np.zeros((1, steps, 1))
    _, last = unroll(cell, x, weights, constants, initial_state=state)
    assert f"{float(last[-1][0, 0]):.1g}" == left
    _, plain = unroll(cell, x, weights, initial_state=state)
    assert f"{float(plain[-1][0, 0]):.2f} without noise" in message


@pytest.mark.parametrize(
    ("text", "cell"),
    [("c:0.5@BF>prev", "LSTM"), ("c:0.5@BF!none", "LSTM"), ("s:0.5@BF!exp", "LSTM")],
)
def test_rule_2_is_silent_where_nothing_is_forgotten(text: str, cell: str) -> None:
    """A warning at noise that keeps memory would teach people to ignore it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_forgetting(parse(text), cell)


def test_rule_2_warns_every_time() -> None:
    """A second layer with the same noise warns as the first does."""
    terms = parse("c:0.4375@BF!exp")
    for _ in range(2):
        with pytest.warns(UserWarning, match="forgets at evaluation"):
            warn_of_forgetting(terms, "LSTM")


def test_planning_warns_of_nothing() -> None:
    """Layers plan again whenever they are copied or loaded; only their constructors warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(parse("c:0.4375@BF!exp"), "LSTM")
        assert plan("c:0.4375@BF!exp", "LSTM") is plan("c:0.4375@BF!exp", "LSTM")


# Nonsense.


@PROFILE
@given(st.one_of(st.text(max_size=40), st.text("xhyWUcs:@BTFG/~[]>!,.-0123456789e ", max_size=30)))
@example("x:0.5@BT/" + "9" * 400)
@example("x:0.5@BT[" + "9" * 400 + "]")
@example("x:" + "9" * 400 + "@B")
@example("x:0.5@BT~1e999")
@example("x:0.5@B>" + "9" * 400)
@example("x:0.5@B>nan")
@example("x:\u0660.\u0665@B")
@example("x:0,0@B")
@example("x:0.5@0.5@B")
@example("x:0.5@\x00")
def test_nonsense_gives_lapse_errors_only(text: str) -> None:
    """Any other exception shows people our code instead of their mistake."""
    try:
        terms = parse(text)
    except LapseError as error:
        assert str(error)
    else:
        assert parse(text_of(terms)) == terms or "nan" in text


@PROFILE
@given(
    st.lists(legal_terms(), min_size=1, max_size=2),
    st.integers(0, 200),
    st.sampled_from("xcs:@BTFIOV/~[]>!,.-05e" + string.ascii_lowercase),
    st.booleans(),
)
def test_slips_of_the_pen_give_lapse_errors_only(
    terms: list[Term], at: int, character: str, instead: bool
) -> None:
    """One wrong character in a legal text is the likeliest mistake of all."""
    text = text_of(terms)
    at %= len(text)
    try:
        parse(text[:at] + character + text[at + instead :])
    except LapseError as error:
        assert str(error)


@pytest.mark.parametrize(
    "text",
    [
        *("x", "x:", "x:0.5", "x@B", "x:0.5@", ":0.5@BF", "x=0.5@BF", "x:0.5@bf", "x:half@BF"),
        *("x:0.5@BF>", "x:0.5@BF~", "x:0.5@BF!inv>prev", "x:0.5,@BF", "x:0.5@BF,", "x:0.5 @BF"),
    ],
)
def test_unreadable_text_is_quoted(text: str) -> None:
    """The part that can't be read must stand in the message, with the grammar beside it."""
    with pytest.raises(LapseError, match=r"site:rate@over>fill~law!scale") as caught:
        parse(text)
    assert f"'{text.split()[0]}'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part", "known"),
    [
        ("q:0.5@BF", "'q'", "x, h, y"),
        ("x:0.5@BF~normal", "'normal'", "bern, gauss"),
        ("x:0.5@BF!out", "'out'", "inv, exp, none"),
        ("x:0.5@BF>last", "'last'", "neither 0 nor prev; write x:0.5@BF"),
        ("x:0.5@BX", "'BX'", AXES),
        ("x:0.5@B//2", "", "site:rate"),
    ],
)
def test_unknown_parts_list_the_known_ones(text: str, part: str, known: str) -> None:
    """A misspelt name is refused with the names to choose from."""
    with pytest.raises(LapseError) as caught:
        parse(text)
    assert part in str(caught.value)
    assert known in str(caught.value)


NO_RATES = [-0.1, -1e-9, 1.0, 1, 1.5, 50, math.nan, math.inf, -math.inf, True]
NO_NUMBERS = ["0.5", "half", "", None, [0.5], (0.5,), {}, object(), 0.5j]


@pytest.mark.parametrize("rate", NO_RATES, ids=repr)
def test_rates_out_of_range(rate: Any) -> None:
    """A rate of 1 divides by 0, and NaN passes every comparison that is written the other way."""
    with pytest.raises(LapseError, match=r"\[0, 1\)"):
        Term("x", rate, "BF")
    with pytest.raises(LapseError):
        Term("x", Schedule(((0.0, 0.0), (1.0, rate))), "BF")
    for form in FORMS:
        with pytest.raises(LapseError):
            form(rate)  # type: ignore[call-arg]


@pytest.mark.parametrize("rate", NO_NUMBERS, ids=lambda rate: type(rate).__name__)
def test_rates_that_are_no_numbers(rate: Any) -> None:
    """A rate from a config file may be anything; it must not surface as a TypeError."""
    with pytest.raises(LapseError):
        Term("x", rate, "BF")


@pytest.mark.parametrize("rate", ["half", "", None, True, False, [0.5], "0.5 y:0.5"], ids=repr)
def test_forms_refuse_rates_that_are_no_numbers(rate: Any) -> None:
    """The forms write their rates into text, where anything might slip in."""
    for form in FORMS:
        with pytest.raises(LapseError):
            form(rate)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "arguments",
    [
        ("q", 0.5, "BF"),
        (None, 0.5, "BF"),
        (3, 0.5, "BF"),
        ("x", 0.5, ""),
        ("x", 0.5, "btf"),
        ("x", 0.5, "Q"),
        ("x", 0.5, None),
        ("x", 0.5, ("B", "F")),
        ("x", 0.5, "BF", "last"),
        ("x", 0.5, "BF", None),
        ("x", 0.5, "BF", 0.0, "normal"),
        ("x", 0.5, "BF", 0.0, None),
        ("x", 0.5, "BF", 0.0, "bern", "out"),
        ("x", "trained", "BF"),
    ],
    ids=repr,
)
def test_unknown_parts_of_a_term(arguments: tuple) -> None:
    """Terms built in Python are checked like terms read from text."""
    with pytest.raises(LapseError):
        Term(*arguments)


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((0.0, 0.1),),
        ((0.0, 0.1), (0.5, 0.2)),
        ((0.5, 0.1), (1.0, 0.2)),
        ((0.0, 0.1), (0.7, 0.1), (0.5, 0.2), (1.0, 0.2)),
        ((0.0, 0.1), (1.5, 0.1), (1.0, 0.2)),
        ((0.0, 0.1), (math.nan, 0.1), (1.0, 0.2)),
    ],
    ids=str,
)
def test_schedules_run_from_0_to_1(points: tuple) -> None:
    """A schedule with no rate at some progress has no meaning there."""
    with pytest.raises(LapseError, match="schedule"):
        Schedule(points)


@pytest.mark.parametrize(
    "text", ["x:0,.3,0@BF", "x:0,.3@.5@BF", "x:.1@.5@BF", "x:0,.3@.7,.1@.2,0@B"]
)
def test_schedules_that_cannot_be_read(text: str) -> None:
    """A point without its progress would silently move to an end."""
    with pytest.raises(LapseError, match="schedule"):
        parse(text)


@pytest.mark.parametrize("number", [np.float64(0.3), np.float32(0.5), np.float16(0.5), 0], ids=repr)
def test_rates_of_other_number_types(number: Any) -> None:
    """Rates often come out of NumPy; a saved text with `np.float64(0.3)` can't be read back."""
    for term in (
        Term("x", number, "BF"),
        Term("x", Schedule(((0.0, number), (1.0, number))), "BF"),
    ):
        assert parse(str(term)) == (term,)
        assert str(parse(str(term))[0]) == str(term)
    plan(Term("x", number, "BF"), "LSTM")


# What a user may give as noise=.


def test_collect_takes_every_kind_of_noise() -> None:
    """None, text, a term, a form and lists of these mean the same terms in the same order."""
    x, y = Term("x", 0.5, "BF"), Term("y", 0.25, "BF")
    assert collect(None) == ()
    assert collect("") == collect([]) == collect([None, (), ""]) == ()
    assert collect("x:.5@BF y:.25@BF") == collect([x, y]) == (x, y)
    assert collect((lapse.SpatialDropout(0.5), [[y]])) == (x, y)
    assert collect(lapse.Locked(0.5, 0.25)) == (x, y)
    assert collect([y, x]) == (y, x)


def test_collect_leaves_out_rate_0() -> None:
    """A term with rate 0 would cost a mask, and move the streams of the terms after it."""
    assert collect("x:0@BF x:0.5@BTF x:-0.0@B") == (Term("x", 0.5, "BTF"),)
    assert collect(lapse.Zoneout(hidden=0.1)) == (Term("s", 0.1, "BTF", "prev"),)


@PROFILE
@given(
    st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.binary(),
        st.dictionaries(st.text(), st.text(), max_size=2),
        st.sets(st.text(), max_size=2),
        st.lists(st.one_of(st.integers(), st.text(max_size=9)), min_size=1, max_size=3),
    )
)
@example(lapse.Zoneout)
@example(object())
@example(0.5)
def test_collect_refuses_anything_else(noise: Any) -> None:
    """`noise=0.5` is a likely first try; it must get an answer, not a traceback."""
    try:
        collect(noise)
    except LapseError as error:
        assert str(error)
    else:
        assert isinstance(noise, list)
        assert all(isinstance(part, str) and not part.split() for part in noise)


# The plan.


@pytest.mark.parametrize("cell", catalog.CELLS, ids=lambda cell: cell.id)
@pytest.mark.parametrize("name", catalog.NOISE)
def test_each_cell_takes_exactly_what_it_can_run(cell: catalog.Cell, name: str) -> None:
    """Noise that a cell can't run but takes would silently do something else."""
    noise = catalog.NOISE[name]
    if catalog.legal(cell, noise):
        found = plan(noise, cell.name)
        assert set(found.terms) == set(collect(noise))
    else:
        with pytest.raises(LapseError):
            plan(noise, cell.name)


@pytest.mark.parametrize(
    ("text", "cell", "slots"),
    [
        ("x:.5@BF", "LSTM", "x"),
        ("h:.5@BF", "GRU", "h"),
        ("y:.5@BF", "SimpleRNN", "y"),
        ("W:.5@IO", "LSTM", "W"),
        ("U:.5@IO", "GRU", "U"),
        ("i:.5@BF", "LSTM", "i"),
        ("f:.5@BF", "LSTM", "f"),
        ("g:.5@BF", "LSTM", "g"),
        ("o:.5@BF", "LSTM", "o"),
        ("z:.5@BF", "GRU", "z"),
        ("r:.5@BF", "GRU", "r"),
        ("n:.5@BF", "GRU", "n"),
        ("g:.5@BF", "GRU", "n"),
        ("c:.5@BF!exp", "LSTM", "i f"),
        ("c:.5@BF>prev", "LSTM", "k_c"),
        ("s:.5@BF", "LSTM", "o"),
        ("s:.5@BF>prev", "LSTM", "k_h"),
        ("s:.5@BF!exp", "GRU", "s"),
        ("s:.5@BF>prev", "GRU", "k_h"),
        ("s:.5@BF", "SimpleRNN", "s"),
        ("s:.5@BF>prev", "SimpleRNN", "k_h"),
        ("state:.5@BF!exp", "LSTM", "i f o"),
        ("state:.5@BF>prev", "LSTM", "k_c k_h"),
        ("state:.5@BF!exp", "GRU", "s"),
        ("state:.5@BF>prev", "GRU", "k_h"),
        ("state:.5@BF!exp", "SimpleRNN", "s"),
        ("state:.5@BF>prev", "SimpleRNN", "k_h"),
    ],
)
def test_slots(text: str, cell: str, slots: str) -> None:
    """A term in the wrong slot is another method."""
    assert [slot for slot, _ in plan(text, cell).slots] == slots.split()


def test_plans_without_a_layer() -> None:
    """A name that is almost a cell's is refused with those that exist."""
    for cell in ("minGRU", "SRU", "QRNN", "lstm", ""):
        with pytest.raises(LapseError, match=f"'{cell}'.*LSTM, GRU, SimpleRNN"):
            plan("x:0.5@BF", cell)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x:learned@BF~concrete", "rate that changes"),
        ("x:0,0.3@.5,0@BF", "rate that changes"),
        ("x:.1@B x:.1@T x:.1@F x:.1@BT x:.1@BF", "fifth term at x"),
    ],
)
def test_what_no_layer_runs_is_said(text: str, why: str) -> None:
    """The algebra is wider than the layers; running something else instead would be a lie."""
    with pytest.raises(LapseError, match=why) as caught:
        plan(text, "LSTM")
    assert str(parse(text)[-1]) in str(caught.value)


def test_what_is_offered_for_a_run_that_is_too_long_is_taken() -> None:
    with pytest.raises(LapseError) as said:
        plan("x:.5@BT~9999999999", "LSTM")
    for text in ("x:0.5@BT/4", "x:0.5@BT~0.1", "x:0.5@BT[65536]"):
        assert text in str(said.value)
        assert [str(one) for one in parse(text)] == [text]
