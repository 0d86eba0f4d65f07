"""Masks: which random word each element is, what it depends on, and how it is distributed."""

from __future__ import annotations

import itertools
import math
import random
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

import catalog
from lapse.core import noise
from lapse.core.drawing import draw, draw_rows
from lapse.core.errors import LapseError
from lapse.core.laws import span_start
from lapse.core.masks import Coins, Masks, check_masks, from_arrays, outlines, to_arrays
from lapse.core.noise import Term, collect, parse
from lapse.core.numpy_backend import NumpyBackend
from lapse.core.plan import Plan, plan
from lapse.engines.cpu.drawing import FAST_NUMPY
from test_philox import philox_of_ints

SHARED = 2**32 - 1
# The documented numbers of the sites: once stored results depend on them, they can't move.
SITE_NUMBERS = {
    **{"x": 0, "h": 1, "y": 2, "W": 3, "U": 4, "i": 5, "f": 6, "g": 7, "o": 8},
    **{"z": 9, "r": 10, "n": 11, "c": 12, "s": 13, "state": 14, "emb": 15},
}
SEED = 0x0123456789ABCDEF
SIZES = {"batch": 7, "timesteps": 9, "features": 5, "units": 7}

# Each cell once: both GRUs have the same masks.
CASES = [(cell, name) for cell, name in catalog.CASES if cell.reset_after]
CASE_IDS = [f"{cell.id} {name}" for cell, name in CASES]


def drawn(noise: Any, cell: str = "LSTM", seed: Any = SEED, **sizes: Any) -> Masks:
    return draw(plan(noise, cell), seed, **{**SIZES, **sizes})


def assert_equal(found: Masks, expected: Masks) -> None:
    for slot, one, other in zip(Masks._fields, found, expected, strict=True):
        assert (one is None) == (other is None), slot
        if one is not None:
            np.testing.assert_array_equal(one, other, err_msg=slot)


# The documented layout, in Python integers.


def word(
    place: tuple[str, int],
    unit: int,
    *,
    sample: int = SHARED,
    step: int = SHARED,
    gate: int = 0,
    use: int = 0,
    layer: int = 0,
    direction: int = 0,
    seed: int = SEED,
) -> int:
    """The random word of one element; `place` is the site and the order of its term there."""
    site, order = place
    stream = SITE_NUMBERS[site] | use << 4 | order << 6
    counter = (unit // 4, sample, step, stream | gate << 8 | direction << 12 | layer << 16)
    return philox_of_ints(counter, (seed % 2**32, seed >> 32))[unit % 4]


def uniform(a: int) -> float:
    return (a // 512 + 0.5) / 2**23


def factor(term: Term, order: int, at: tuple[int, int, int, int], **where: int) -> float:
    """What the mask of `term` should hold at (sample, step, gate, unit)."""
    axes, rate = term.axes, float(term.rate)  # type: ignore[arg-type]
    sample, step, gate, unit = at
    if term.site in "WU":  # (row, 0, 0, column)
        sample, unit = (sample if "I" in axes else SHARED), (unit if "O" in axes else 0)
        step, gate = SHARED, 0
    else:
        sample, step = (sample if "B" in axes else SHARED), (step if "T" in axes else SHARED)
        gate, unit = (gate if "G" in axes else 0), (unit if {"F", "V"} & set(axes) else 0)

    def number(step: int = step, unit: int = unit, use: int = 0) -> int:
        here = {"sample": sample, "step": step, "gate": gate, "use": use}
        return word((term.site, order), unit, **here, **where)

    scale = 1 / (1 - rate) if term.scale == "inv" else 1.0
    for axis in axes.values():
        if axis.run == "/":
            step //= int(axis.size)
        elif axis.run == "~":
            stays = round((1 - axis.size) * 2**32)
            while step and number(step, use=2) < stays:
                step -= 1
        elif axis.run == "[":
            longest = int(axis.size)
            q = start_rate(rate, longest)
            for back in range(longest):
                move = longest - 1 - back
                start = {"step": step + move} if axis.name == "T" else {"unit": unit + move}
                begins = number(**start) >= round((1 - q) * 2**32)  # type: ignore[arg-type]
                length = 1 + number(**start, use=1) // -(-(2**32) // longest)  # type: ignore[arg-type]
                if begins and length > back:
                    return 0.0
            return scale
    if term.law == "bern":
        return scale if number(step) >= round(rate * 2**32) else 0.0
    u, spread = uniform(number(step)), math.sqrt(rate / (1 - rate))
    if term.law == "uniform":
        return 1 + spread * math.sqrt(3) * (2 * u - 1)
    if term.law == "gauss":
        angle = 2 * math.pi * uniform(number(step, use=1))
        return 1 + spread * math.sqrt(-2 * math.log(u)) * math.cos(angle)
    logit = math.log(rate / (1 - rate)) + math.log(u / (1 - u))
    return scale * (1 - 1 / (1 + math.exp(-logit / 0.1)))


@cache
def start_rate(rate: float, longest: int) -> float:
    """How likely a span starts at a position, so that a share `rate` of positions is covered."""

    def uncovered(q: float) -> float:
        return math.prod(1 - q * (longest - k) / longest for k in range(longest))

    return float(brentq(lambda q: uncovered(q) - (1 - rate), 0, 1, xtol=1e-15))


def places(terms: tuple[Term, ...]) -> dict[Term, list[int]]:
    """The order of each term among the terms of its site."""
    found: dict[Term, list[int]] = {}
    for n, term in enumerate(terms):
        order = sum(other.site == term.site for other in terms[:n])
        found.setdefault(term, []).append(order)
    return found


@pytest.mark.parametrize(("cell", "name"), CASES, ids=CASE_IDS)
def test_counter_layout(cell: catalog.Cell, name: str) -> None:
    """A kernel that draws by the documented layout must get the very same masks."""
    noise, choose = catalog.NOISE[name], random.Random(name)
    where = {"layer": choose.randrange(1 << 16), "direction": choose.randrange(1 << 4)}
    found = drawn(noise, cell.name, **where)
    orders = places(collect(noise))
    widths = {"x": SIZES["features"]}
    for slot, sources in plan(noise, cell.name).slots:
        mask = getattr(found, slot)
        assert mask.dtype == np.float32
        terms = [one.term for one in sources]
        multiples = [
            (term, order) for term in dict.fromkeys(terms) for order in orders[term]
        ]  # equal terms have streams of their own
        assert len(multiples) == len(terms)
        for _ in range(6):
            if slot in "WU":
                rows = SIZES["features" if slot == "W" else "units"]
                row, column = choose.randrange(rows), choose.randrange(cell.gates * SIZES["units"])
                at = (row, 0, 0, column)
                value = np.broadcast_to(mask, (rows, cell.gates * SIZES["units"]))[row, column]
            else:
                shape = (7, 9, cell.gates, widths.get(slot, SIZES["units"]))
                at = tuple(map(choose.randrange, shape))  # type: ignore[assignment]
                value = np.broadcast_to(mask, shape)[at]
            expected = math.prod(factor(term, order, at, **where) for term, order in multiples)
            assert value == pytest.approx(expected, rel=1e-5, abs=2e-5)


@pytest.mark.parametrize("per_sample", [False, True])
def test_counter_layout_of_embeddings(per_sample: bool) -> None:
    """For an embedding table, the unit of the layout is the vocabulary id."""
    text = f"emb:0.4@{'B' if per_sample else ''}V"
    rows = draw_rows(parse(text), SEED, batch=3, vocabulary=63)
    for b, v in itertools.product(range(len(rows)), range(63)):
        expected = factor(parse(text)[0], 0, (b, 0, 0, v))
        assert rows[b, v] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "slot", "bits"),
    [
        ("x:0.5@BTF", "x", "xx..xx...xx.x.x...xx...xxx.x.x...xx.xxxx"),
        ("h:0.25@BFG", "h", "x.xxxxxx...xxxxxxxx...xxxxxxx.x..xx..xxx"),
        ("c:0.5@BTF>prev", "k_c", "..xx...x.x.xxxx...xx.x..xx.xx..xx.xxxxx."),
        ("U:0.5@IO", "U", "...xxxx......x.x...xxxxx...xxx.xxxx.x..x"),
        ("x:0.4@BT[3]F!none", "x", ".x.x.xxx..xxx..xxxx.xxx..xx.x.xx.x..xxxx"),
        ("y:0.5@BT~0.3F", "y", "..x..x......x......x......x..x...xx.x..."),
    ],
)
def test_golden_bits(text: str, slot: str, bits: str) -> None:
    """Results that name a seed can be repeated only while these bits stay."""
    mask = getattr(drawn(text), slot).ravel()[: len(bits)]
    assert "".join(".x"[int(value != 0)] for value in mask) == bits


@pytest.mark.parametrize(
    ("law", "numbers"),
    [
        ("gauss", [0.513986, 0.534837, 0.419814, 0.255889, 0.518973, 0.865214]),
        ("uniform", [1.498851, 1.616108, 0.049078, 0.951451, 1.405627, 2.086209]),
        ("concrete", [0.392604, 0.034295, 1.428571, 1.428445, 1.040815, 0.0]),
    ],
)
def test_golden_numbers(law: str, numbers: list[float]) -> None:
    """The same for the laws that aren't coins; their last digits are the mathematics library's."""
    mask = drawn(f"x:0.3@BTF~{law}").x.ravel()[: len(numbers)]
    np.testing.assert_allclose(mask, numbers, rtol=1e-5, atol=1e-5)


# What a mask may not depend on.


@pytest.mark.parametrize(("cell", "name"), CASES, ids=CASE_IDS)
def test_masks_depend_on_no_neighbour(cell: catalog.Cell, name: str) -> None:
    """Splitting a batch, padding it or widening it must leave every mask where it was."""
    noise = catalog.NOISE[name]
    whole = drawn(noise, cell.name)
    assert_equal(drawn(noise, cell.name), whole)  # and drawing leaves no trace

    part = drawn(noise, cell.name, batch=3, samples=np.array([5, 0, 2]))
    longer = drawn(noise, cell.name, timesteps=31)
    wider = drawn(noise, cell.name, features=31)
    for slot, mask in whole._asdict().items():
        if mask is None:
            continue
        if slot in "WU":
            np.testing.assert_array_equal(getattr(part, slot), mask)
            np.testing.assert_array_equal(getattr(longer, slot), mask)
            np.testing.assert_array_equal(getattr(wider, slot)[: mask.shape[0]], mask)
            continue
        rows = mask[[5, 0, 2]] if mask.shape[0] > 1 else mask
        np.testing.assert_array_equal(getattr(part, slot), rows)
        np.testing.assert_array_equal(getattr(longer, slot)[:, : mask.shape[1]], mask)
        np.testing.assert_array_equal(getattr(wider, slot)[..., : mask.shape[-1]], mask)


def test_samples_are_numbers_not_positions() -> None:
    """Two rows with one number are one sample; the numbers may be far apart."""
    found = drawn("h:0.5@BTF", batch=4, samples=np.array([3, 2**31, 3, 0])).h
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[[0, 3]], drawn("h:0.5@BTF").h[[3, 0]])
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize(
    "texts",
    [
        ("x:0.5@BF", "h:0.5@BFG", "y:0.5@BTF"),
        ("U:0.5@IO", "W:0.5@IO", "s:0.3@BTF>prev"),
        ("i:0.3@BTF", "f:0.3@BTF", "o:0.3@BF", "g:0.3@BT"),
        ("c:0.3@BTF>prev", "s:0.3@BTF>prev", "x:0.5@BT[3]!none"),
    ],
)
def test_terms_do_not_disturb_each_other(texts: tuple[str, ...]) -> None:
    """Adding noise at one site must not change the noise at another, nor may their order."""
    alone = Masks(*(None,) * len(Masks._fields))
    for text in texts:
        one = drawn(text)
        alone = alone._replace(**{k: m for k, m in one._asdict().items() if m is not None})
    for order in itertools.permutations(texts):
        assert_equal(drawn(" ".join(order)), alone)


def test_terms_at_one_site_count_in_order() -> None:
    """Equal terms at one site have coins of their own, or their product would be one coin."""
    one = drawn("x:0.5@BTF").x
    two = drawn("x:0.5@BTF x:0.5@BTF").x
    assert set(np.unique(two)) == {0.0, 4.0}
    assert not two[one == 0].any()
    assert 0 < (two[one != 0] != 0).mean() < 1


def test_one_coin_for_state() -> None:
    """Skipping a step is skipping c and h together; rnnDrop's mask is one on i and f."""
    found = drawn("state:0.5@BT>prev")
    np.testing.assert_array_equal(found.k_c, found.k_h)
    found = drawn("state:0.5@BTF!exp")
    np.testing.assert_array_equal(found.i, found.f)
    np.testing.assert_array_equal(found.i, found.o)
    found = drawn("c:0.5@BF!exp")
    np.testing.assert_array_equal(found.i, found.f)
    both = drawn("c:0.5@BTF>prev s:0.5@BTF>prev")
    assert (both.k_c != both.k_h).any()


def signs(mask: np.ndarray) -> np.ndarray:
    return np.where(mask != 0, 1.0, -1.0).ravel()


def assert_unrelated(one: np.ndarray, other: np.ndarray) -> None:
    """Fair coins: their correlation is within 5 standard deviations of 0."""
    assert one.shape == other.shape
    assert one.size > 10_000
    assert abs(signs(one) @ signs(other)) < catalog.SIGMAS * math.sqrt(one.size)


BIG = {"batch": 31, "timesteps": 63, "features": 63, "units": 63}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": SEED + 1},
        {"seed": SEED + 2**32},
        {"seed": SEED ^ 2**63},
        {"seed": 0},
        {"layer": 1},
        {"layer": 2**16 - 1},
        {"direction": 1},
        {"direction": 15},
        {"layer": 1, "direction": 1},
        {"samples": np.arange(31) + 31},
    ],
    ids=str,
)
def test_streams_are_independent(change: dict[str, Any]) -> None:
    """Two layers, directions or calls with related masks would drop the same units together."""
    one, other = drawn("h:0.5@BTF", **BIG), drawn("h:0.5@BTF", **{**BIG, **change})
    assert_unrelated(one.h, other.h)


def test_sites_and_gates_are_independent() -> None:
    """The same for sites, gates, and terms of one site."""
    text = (
        "x:.5@BTF h:.5@BTF y:.5@BTF i:.5@BTF f:.5@BTF g:.5@BTF o:.5@BTF c:.5@BTF>prev s:.5@BTF>prev"
    )
    found = [mask for mask in drawn(text, **BIG) if mask is not None]
    found.append(drawn("state:0.5@BTF>prev", **BIG).k_h)
    found += [drawn(f"{site}:0.5@BTF", "GRU", **BIG)[Masks._fields.index(site)] for site in "zrn"]
    gates = drawn("h:0.5@BTFG", **BIG).h
    found += [gates[:, :, k : k + 1] for k in range(1, 4)]
    np.testing.assert_array_equal(gates[:, :, :1], found[1])  # gate 0 is the shared stream
    for one, other in itertools.combinations(found, 2):
        assert_unrelated(one, other)
    weights = drawn("U:0.5@IO W:0.5@IO", **{**BIG, "features": 127, "units": 127})
    assert_unrelated(weights.U, weights.W)


def test_axes_are_independent() -> None:
    """Neighbours along sample, step and unit, also four units apart where the counter moves on."""
    mask = drawn("x:0.5@BTF", **BIG).x[:, :, 0]
    assert_unrelated(mask[1:], mask[:-1])
    assert_unrelated(mask[:, 1:], mask[:, :-1])
    for apart in (1, 2, 3, 4, 5):
        assert_unrelated(mask[..., apart:], mask[..., :-apart])
    # Nor is (sample, step) mixed up with (step, sample), nor step with unit.
    one, other = np.triu_indices(31, 1)
    assert_unrelated(mask[one, other], mask[other, one])
    one, other = np.triu_indices(63, 1)
    assert_unrelated(mask[:, one, other], mask[:, other, one])


@pytest.mark.parametrize(("cell", "name"), CASES, ids=CASE_IDS)
def test_sharing(cell: catalog.Cell, name: str) -> None:
    """A mask has size 1 along what it is shared over, and truly varies along the rest."""
    noise = catalog.NOISE[name]
    sizes = {"batch": 31, "timesteps": 31, "features": 31, "units": 31}
    found = [drawn(noise, cell.name, seed, **sizes) for seed in range(9)]
    for slot, sources in plan(noise, cell.name).slots:
        mask = np.stack([getattr(one, slot) for one in found])
        axes = {name for one in sources for name in one.term.axes}
        if slot in "WU":
            shape = (31 if "I" in axes else 1, 31 * cell.gates if "O" in axes else 1)
        else:
            letters = zip("BTGF", (31, 31, cell.gates, 31), strict=True)
            shape = tuple(size if letter in axes else 1 for letter, size in letters)
        assert mask.shape == (9, *shape)
        for axis, size in enumerate(mask.shape):
            if size > 1:
                first = np.take(mask, [0], axis=axis)
                assert (mask != first).any(), f"{slot} is constant along axis {axis}"


# How masks are distributed.


@pytest.mark.parametrize(
    "rate", [1e-6, 1e-4, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6]
)
def test_keep_rates(rate: float) -> None:
    """The share that is kept is 1 - rate, from almost none dropped to almost all."""
    sizes = {"batch": 63, "timesteps": 127, "features": 127}
    mask = drawn(Term("x", rate, "BTF"), **sizes).x
    dropped, count = int((mask == 0).sum()), mask.size
    assert abs(dropped - count * rate) < catalog.SIGMAS * math.sqrt(count * rate * (1 - rate)) + 1
    kept = mask[mask != 0]
    np.testing.assert_array_equal(kept, np.full_like(kept, 1 / (1 - rate)))


def test_rates_next_to_0_and_1() -> None:
    """Rates that round to 0 or 1 in 32 bits still give finite masks."""
    assert (drawn(Term("x", 1e-12, "BTF")).x == 1).all()
    almost = drawn(Term("x", math.nextafter(1, 0), "BTF")).x
    assert (almost == 0).all()


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("law", ["bern", "gauss", "uniform"])
def test_laws_have_mean_1_and_matched_variance(law: str, rate: float) -> None:
    """Rule 7: laws are comparable only if equal rates mean equal variance."""
    mask = drawn(Term("x", rate, "BTF", law=law), batch=63, timesteps=63, features=127).x
    values, variance = mask.astype(np.float64).ravel(), rate / (1 - rate)
    error = catalog.SIGMAS / math.sqrt(values.size)
    assert abs(values.mean() - 1) < error * math.sqrt(variance)
    kurtosis = {"bern": 1 / (rate * (1 - rate)) - 3, "gauss": 3.0, "uniform": 1.8}[law]
    spread = error * variance * math.sqrt(kurtosis - 1) + 1e-6
    assert abs(((values - 1) ** 2).mean() - variance) < spread


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("law", ["gauss", "uniform"])
def test_shapes_of_the_continuous_laws(law: str, rate: float) -> None:
    """Mean and variance fit many laws: the quantiles must be those of the one that is named."""
    mask = drawn(Term("x", rate, "BTF", law=law), batch=31, timesteps=63, features=63).x
    values = np.sort((mask.astype(np.float64).ravel() - 1) / math.sqrt(rate / (1 - rate)))
    if law == "uniform":
        share = (values / math.sqrt(3) + 1) / 2
        assert share.min() > 0
        assert share.max() < 1
    else:
        share = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in values])
    expected = (np.arange(values.size) + 0.5) / values.size
    assert np.abs(share - expected).max() < 2.3 / math.sqrt(values.size)  # Kolmogorov, 1 in 20000


@pytest.mark.parametrize("rate", [1e-6, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_concrete_law(rate: float) -> None:
    """The relaxed coin: finite, between 0 and 1 before scaling, with the mean of its formula."""
    for scale in ("none", "inv"):
        term = Term("x", rate, "BTF", law="concrete", scale=scale)
        mask = drawn(term, batch=31, timesteps=63, features=63).x.astype(np.float64)
        top = 1 / (1 - rate) if scale == "inv" else 1.0
        assert np.isfinite(mask).all()
        assert mask.min() >= 0
        assert mask.max() <= top * (1 + 1e-6)
        u = (np.arange(2**20) + 0.5) / 2**20
        kept = 1 / (1 + np.exp((math.log(rate / (1 - rate)) + np.log(u / (1 - u))) / 0.1))
        error = catalog.SIGMAS * top * kept.std() / math.sqrt(mask.size) + 1e-6 * top
        assert abs(mask.mean() - top * kept.mean()) < error
        assert abs(kept.mean() - (1 - rate)) < 0.01  # relaxing hardly moves the rate
        hard = abs(kept - 0.5) > 0.45
        assert hard.mean() > 0.7  # and most coins are nearly heads or tails


def test_how_far_the_concrete_law_is_from_its_coin() -> None:
    """The algebra and the page of the forms give these numbers: variance and mean, at any rate."""
    u = (np.arange(2**18) + 0.5) / 2**18
    below, off = [], []
    for rate in (1e-4, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 0.99, 1 - 1e-4):
        kept = 1 / (1 + np.exp((math.log(rate / (1 - rate)) + np.log(u / (1 - u))) / 0.1))
        factor = kept / (1 - rate)
        below.append(100 * (1 - factor.var() / (rate / (1 - rate))))
        off.append(100 * (factor.mean() - 1))
    said = " ".join(str(noise.__doc__).split())
    assert f"variance is {min(below):.1f} to {max(below):.1f} % below (most at rate 0.5)" in said
    assert (
        f"mean up to {-min(off):.1f} % below 1 and, at rates near 1, up to {max(off):.1f} %" in said
    )
    for rate in (0.2, 0.5):
        sizes = {"batch": 63, "timesteps": 127, "features": 127}
        mask = drawn(Term("x", rate, "BTF", law="concrete"), **sizes).x.astype(np.float64)
        assert 0.08 < 1 - mask.var() / (rate / (1 - rate)) < 0.105


@pytest.mark.parametrize("rho", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_chains(rate: float, rho: float) -> None:
    """A chain that redraws with probability rho has correlation (1-rho)^k after k steps."""
    term = Term("h", rate, f"BT~{rho}F", scale="none")
    mask = drawn(term, batch=127, timesteps=15, units=127).h[:, :, 0].astype(np.float64)
    count = mask[:, 0].size
    for t in range(15):
        assert abs(mask[:, t].mean() - (1 - rate)) < catalog.SIGMAS * math.sqrt(
            rate * (1 - rate) / count
        )
    noise = (mask - (1 - rate)) / math.sqrt(rate * (1 - rate))
    fourth = 1 / (rate * (1 - rate)) - 3  # of a standardised coin
    for lag in range(1, 15):
        found = (noise[:, 0] * noise[:, lag]).mean()
        expected = (1 - rho) ** lag
        spread = math.sqrt(max(1.0, fourth) / count)
        assert abs(found - expected) < catalog.SIGMAS * spread


def test_chains_at_their_ends() -> None:
    """T~1 is T and T~0 never changes: the chain joins per-step and per-sequence masks."""
    every, never = drawn("h:0.5@BT~1F").h, drawn("h:0.5@BT~0F").h
    fresh = drawn("h:0.5@BTF").h
    np.testing.assert_array_equal(every, fresh)
    np.testing.assert_array_equal(never, np.broadcast_to(fresh[:, :1], fresh.shape))
    gauss, chain = drawn("h:0.5@BTF~gauss").h, drawn("h:0.5@BT~0.5F~gauss").h
    assert set(chain.ravel()) < set(gauss.ravel())  # a chain only repeats


@pytest.mark.parametrize("block", [1, 2, 4, 9, 100])
def test_blocks(block: int) -> None:
    """T/k holds one coin for k steps and then the next one of T; the last block may be short."""
    found, fresh = drawn(f"h:0.5@BT/{block}F").h, drawn("h:0.5@BTF").h
    for t in range(SIZES["timesteps"]):
        np.testing.assert_array_equal(found[:, t], fresh[:, t // block])


@pytest.mark.parametrize("longest", [1, 2, 5, 40])
@pytest.mark.parametrize("rate", [0.03, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("axis", ["T", "F"])
def test_spans_cover_their_rate_everywhere(axis: str, rate: float, longest: int) -> None:
    """A rate that held on average only would spare the first steps, where no span reaches."""
    over = f"BT[{longest}]" if axis == "T" else f"BF[{longest}]"
    sizes = {"batch": 4001, "timesteps": 31, "features": 31}
    mask = drawn(Term("x", rate, over, scale="none"), **sizes).x
    covered = 1 - mask.reshape(4001, 31).astype(np.float64)
    assert set(np.unique(covered)) <= {0.0, 1.0}
    error = catalog.SIGMAS * math.sqrt(rate * (1 - rate) / len(covered))
    assert np.abs(covered.mean(axis=0) - rate).max() < error


@pytest.mark.parametrize("longest", [1, 2, 3, 7])
def test_lengths_of_spans(longest: int) -> None:
    """Spans that stand alone are 1 to L long, each length as often as the others."""
    rate = 0.002 * longest
    term = Term("x", rate, f"BT[{longest}]", scale="none")
    mask = drawn(term, batch=1001, timesteps=501).x[:, :, 0, 0]
    lengths = np.zeros(600, dtype=int)
    for row in mask:
        edges = np.flatnonzero(np.diff(np.concatenate([[1.0], row, [1.0]])))
        for begin, end in edges.reshape(-1, 2):
            if begin and end < 501:
                lengths[end - begin] += 1
    alone, total = lengths[1 : longest + 1], lengths.sum()
    touching = lengths[longest + 1 :].sum()
    assert touching <= 0.05 * total
    expected = total / longest
    error = catalog.SIGMAS * math.sqrt(expected) + 0.05 * expected  # a few touch or overlap
    assert np.abs(alone - expected).max() < error


@pytest.mark.parametrize("longest", [1, 2, 7, 100, 5000])
@pytest.mark.parametrize("axis", ["T", "F"])
def test_spans_are_those_of_their_definition(axis: str, longest: int) -> None:
    """A span that starts at s with length l covers s to s + l - 1, and nothing else is covered."""
    rate, batch, count, other = 0.4, 3 if longest < 5000 else 1, 13, 5 if longest < 100 else 1
    over = f"BT[{longest}]F" if axis == "T" else f"BTF[{longest}]"
    steps, features = (count, other) if axis == "T" else (other, count)
    mask = drawn(
        Term("x", rate, over, scale="none"), batch=batch, timesteps=steps, features=features
    ).x[:, :, 0]
    starts = round((1 - start_rate(rate, longest)) * 2**32)
    share = -(-(2**32) // longest)  # words that mean one length
    for b, beside in itertools.product(range(batch), range(other)):
        expected = np.ones(count)
        for s in range(-(longest - 1), count):
            number = s + longest - 1  # the streams begin with the first span that can matter
            step, unit = (number, beside) if axis == "T" else (beside, number)
            if word(("x", 0), unit, sample=b, step=step) >= starts:
                length = 1 + word(("x", 0), unit, sample=b, step=step, use=1) // share
                expected[max(s, 0) : max(s + length, 0)] = 0
        found = mask[b, :, beside] if axis == "T" else mask[b, beside]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("over", ["BT[7]F", "BTF[7]", "T[7]", "F[7]"])
def test_spans_leave_nothing_behind(over: str) -> None:
    """A part of a larger array would keep the whole in memory, and kernels read rows in turn."""
    mask = drawn(f"y:0.4@{over}!none", compact=True).y
    kept = getattr(mask, "kept", mask)
    assert kept.flags.c_contiguous
    base = kept if kept.base is None else kept.base
    assert base.nbytes == kept.nbytes


class Counted(NumpyBackend):
    """Counts the array operations."""

    calls = 0

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "calls":
            self.calls += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize("axis", ["T", "F"])
def test_the_work_for_spans_does_not_grow_with_their_length(axis: str) -> None:
    """Each operation takes all positions once; one for each length would make the cost L**2."""

    def operations(longest: int) -> int:
        counted = Counted()
        over = f"BT[{longest}]F" if axis == "T" else f"BTF[{longest}]"
        drawn(Term("x", 0.3, over, scale="none"), backend=counted)
        return counted.calls

    assert operations(3) == operations(300) > 5


@pytest.mark.parametrize("longest", [1, 2, 3, 10, 63, 100, 400])
@pytest.mark.parametrize("rate", [1e-6, 0.03, 0.25, 1 / 3, 0.5, 0.9, 0.999, 1 - 1e-9])
def test_the_chance_to_start_a_span_is_rounded_in_one_way(rate: float, longest: int) -> None:
    """Bisection over products in this order: another way to round would move masks by a bit."""
    low, high = 0.0, 1.0
    for _ in range(60):
        q = (low + high) / 2
        uncovered = math.prod(1 - q * j / longest for j in range(1, longest + 1))
        low, high = (q, high) if uncovered > 1 - rate else (low, q)
    assert span_start(rate, longest) == high


def test_spans_longer_than_the_sequence() -> None:
    """A span may be longer than all steps; the first coverage is still the rate."""
    mask = drawn("x:0.5@BT[63]!none", batch=2001, timesteps=1).x
    assert abs(mask.mean() - 0.5) < catalog.SIGMAS * 0.5 / math.sqrt(2001)


def average(term: Term) -> float:
    """The mean of a factor in training."""
    rate = float(term.rate)  # type: ignore[arg-type]
    if term.law == "concrete":
        u = (np.arange(2**16) + 0.5) / 2**16
        kept = 1 / (1 + np.exp((math.log(rate / (1 - rate)) + np.log(u / (1 - u))) / 0.1))
        return float(kept.mean()) / (1 - rate if term.scale == "inv" else 1)
    return 1.0 if term.scale == "inv" else 1 - rate


@pytest.mark.parametrize(("cell", "name"), CASES, ids=CASE_IDS)
def test_evaluation_stands_for_the_average(cell: catalog.Cell, name: str) -> None:
    """The constants of evaluation are what the masks of training average to; gaps stay open."""
    noise = catalog.NOISE[name]
    one_plan: Plan = plan(noise, cell.name)
    constants = one_plan.expected
    calls = [draw(one_plan, seed, **SIZES) for seed in range(24)]
    for slot, sources in one_plan.slots:
        terms = [one.term for one in sources]
        scaled = [t for t in terms if t.fill == "prev" or t.scale == "exp"]
        constant = getattr(constants, slot)
        if scaled:
            assert constant == pytest.approx(math.prod(1 - float(t.rate) for t in scaled))  # type: ignore[arg-type]
        else:
            assert constant is None
        means = [float(getattr(call, slot).mean(dtype=np.float64)) for call in calls]
        spread = max(float(np.std(means, ddof=1)), 1e-3) / math.sqrt(len(means))
        expected = math.prod(map(average, terms))
        assert abs(float(np.mean(means)) - expected) < 1.3 * catalog.SIGMAS * spread
    unused = set(Masks._fields) - {slot for slot, _ in one_plan.slots}
    assert all(getattr(constants, slot) is None for slot in unused)


# Seeds and sizes.


def test_seeds() -> None:
    """A seed is 64 bits, whole or in two words; each bit counts."""
    one_plan = plan("x:0.5@BTF", "LSTM")
    for seed in (0, 1, 2**32 - 1, 2**32, 2**64 - 1, SEED):
        whole = draw(one_plan, seed, **SIZES).x
        halves = draw(one_plan, (seed % 2**32, seed >> 32), **SIZES).x
        np.testing.assert_array_equal(whole, halves)
    found = {draw(one_plan, 1 << bit, **SIZES).x.tobytes() for bit in range(64)}
    assert len(found) == 64


@pytest.mark.parametrize("seed", [-1, 2**64, 10**30, 1.5, "seven", None], ids=repr)
def test_seeds_out_of_range(seed: Any) -> None:
    """A seed that is cut to 64 bits in silence would repeat another one's masks."""
    with pytest.raises(LapseError, match="seed"):
        drawn("x:0.5@BTF", seed=seed)


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32], ids=lambda kind: kind.__name__)
def test_seeds_of_numpy(kind: type) -> None:
    """Seeds are often drawn with NumPy, whose whole numbers are not Python's."""
    assert_equal(drawn("x:0.5@BTF", seed=kind(7)), drawn("x:0.5@BTF", seed=7))


@pytest.mark.parametrize("place", [{"layer": -1}, {"layer": 2**16}, {"direction": 16}], ids=str)
def test_places_out_of_range(place: dict[str, int]) -> None:
    """A layer number that overflows its bits would share the masks of another layer."""
    with pytest.raises(LapseError, match="out of range"):
        drawn("x:0.5@BTF", **place)


def test_no_noise_draws_nothing() -> None:
    """Without noise there are no masks, and evaluation has no constants."""
    assert drawn(None) == Masks()
    assert plan(None, "GRU").expected == Masks()


@pytest.mark.parametrize("size", catalog.ODD_SIZES)
def test_odd_sizes(size: int) -> None:
    """Four numbers come from one counter: a width that is no multiple of four loses some."""
    whole = drawn("x:0.5@BTF h:0.5@BTFG", features=64, units=64)
    part = drawn("x:0.5@BTF h:0.5@BTFG", features=size, units=size)
    np.testing.assert_array_equal(part.x, whole.x[..., :size])
    np.testing.assert_array_equal(part.h, whole.h[..., :size])


def test_empty_batch() -> None:
    """The last batch of a split may be empty."""
    assert drawn("x:0.5@BTF h:0.5@BFG", batch=0).x.shape == (0, 9, 1, 5)


@pytest.mark.parametrize(
    "noise",
    ["x:.5@BFG", "x:.5@BT", "h:.4@BT~.2F", "h:.5@BG", "y:.3@BT[3]F", "U:.5@IO", "c:.3@BTF"],
)
@pytest.mark.parametrize("law", ["", "~gauss"])
@pytest.mark.parametrize(("features", "units"), [(63, 100), (1, 7), (32, 33), (31, 5)])
def test_the_bits_of_the_cpp_kernels_are_those_of_numpy(
    noise: str, law: str, features: int, units: int
) -> None:
    """Rows that fill vectors of counters, and rows that share them."""
    if law and noise[0] in "yc":
        law = ""  # spans and states have no continuous law
    fill = ">prev" if noise[0] == "c" else ""
    made = plan(noise + fill + law, "LSTM")
    sizes = {"batch": 7, "timesteps": 31, "features": features, "units": units}
    sizes |= {"layer": 3, "direction": 1}
    samples = [0, 5, 2**32 - 2, 1, 9, 8, 7]
    fast = draw(made, 2**63 + 5, **sizes, samples=samples, backend=FAST_NUMPY)
    slow = draw(made, 2**63 + 5, **sizes, samples=samples)
    for one, other in zip(fast, slow, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "samples",
    [
        *([0, -1], [2**32 - 1, 0], np.array([2**33, 1]), [2**70, 1]),
        *("ab", "abc", ["a", "b"], 2.5, [0.5, 1.0], [True, False], [[0, 1]], [[0], [1, 2]]),
        *([], [7], [1, 2, 3], 7, ..., {}),
    ],
    ids=str,
)
def test_samples_are_whole_numbers_one_for_each_sequence(samples: object) -> None:
    """2**32 - 1 stands for a shared mask, and 0.5 would be cut to 0, which is another sample."""
    with pytest.raises(LapseError, match=r"samples=.* must be whole numbers in"):
        draw(plan("x:.5@BF", "LSTM"), 1, batch=2, timesteps=1, features=3, units=4, samples=samples)


@pytest.mark.parametrize("samples", [[3, 0], (3, 0), np.array([3, 0], np.int8), range(3, -1, -3)])
def test_kinds_of_samples(samples: Any) -> None:
    found = drawn("x:.5@BF", batch=2, samples=samples).x
    np.testing.assert_array_equal(found, drawn("x:.5@BF").x[[3, 0]])
    assert drawn("x:.5@BF", batch=0, samples=[]).x.shape == (0, 1, 1, 5)


NO_SIZES = [
    -1,
    -(2**40),
    None,
    "abc",
    "3",
    b"3",
    2.5,
    3.0,
    True,
    np.True_,
    np.float32(3),
    [3],
    (3,),
    3j,
]


@pytest.mark.parametrize("noise", ["x:.5@BTF", "h:.5@BF", "U:.5@IO", None])
@pytest.mark.parametrize("size", NO_SIZES, ids=repr)
def test_sizes_are_whole_numbers(size: Any, noise: str | None) -> None:
    """-1 gave masks of nothing, and True those of one sample."""
    for name in ("batch", "timesteps"):
        with pytest.raises(LapseError, match=rf"{name}=.* was given; write a whole number from 0"):
            drawn(noise, **{name: size})
    with pytest.raises(LapseError, match=r"batch=.* was given; write a whole number from 0\."):
        draw_rows(parse("emb:.5@V"), SEED, batch=size, vocabulary=3)


def test_whole_numbers_of_numpy_are_sizes() -> None:
    sizes = {"batch": np.int64(3), "timesteps": np.uint8(7)}
    np.testing.assert_array_equal(
        drawn("x:.5@BTF", **sizes).x, drawn("x:.5@BTF", batch=3, timesteps=7).x
    )


# Masks as plain arrays, and masks that a user gives.


@pytest.mark.parametrize(("cell", "name"), CASES, ids=CASE_IDS)
def test_masks_travel_as_plain_arrays(cell: catalog.Cell, name: str) -> None:
    """Graphs of frameworks carry arrays alone: their shapes are known before anything is drawn."""
    made = plan(catalog.NOISE[name], cell.name)
    compact, whole = draw(made, SEED, **SIZES, compact=True), draw(made, SEED, **SIZES)
    arrays = to_arrays(made, compact)
    assert [(array.shape, array.dtype == np.uint8) for array in arrays] == outlines(made, **SIZES)
    back = from_arrays(made.scales, arrays)
    for slot, mask in back._asdict().items():
        one, other = getattr(compact, slot), getattr(whole, slot)
        assert type(mask) is type(one)
        if isinstance(mask, Coins):
            assert mask.kept is one.kept and mask.scale == one.scale
            mask = mask.kept * np.float32(mask.scale)
        np.testing.assert_array_equal(mask, other)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (Masks(h=np.ones((7, 1, 1, 7))), r"hold one for h, .*its noise is 'x:0.5@BTF U:0.5@IO'"),
        (Masks(x=[1.0]), r"the mask for x is \[1.0\]; pass what draw_masks returns, or a float"),
        (Masks(x=np.ones((7, 9, 5))), r"for x has shape \(7, 9, 5\); .* needs \(7, 9, 4, 5\)"),
        (Masks(x=np.ones((6, 9, 1, 5))), r"for x has shape \(6, 9, 1, 5\)"),
        (Masks(U=np.ones((7, 7))), r"for U has shape \(7, 7\); .* needs \(7, 28\)"),
    ],
)
def test_masks_that_do_not_fit(given: Masks, why: str) -> None:
    """A mask that broadcasts to something else would drop what nobody asked for."""
    made = plan("x:0.5@BTF U:0.5@IO", "LSTM")
    check_masks(draw(made, SEED, **SIZES), made, **SIZES)
    check_masks(Masks(x=0.5, U=np.ones((1, 28))), made, **SIZES)
    with pytest.raises(LapseError, match=why):
        check_masks(given, made, **SIZES)
