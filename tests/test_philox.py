"""The random bits against the published known answers and a second implementation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lapse.core.numpy_backend import NUMPY
from lapse.core.philox import philox

# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, answer.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox_of_ints(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 as in the paper's figure, in Python's own unbounded integers."""
    left0, right0, left1, right1 = counter
    key0, key1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * left0, 0xCD9E8D57 * left1
        left0, right0, left1, right1 = (
            (product1 >> 32) ^ right0 ^ key0,
            product1 % 2**32,
            (product0 >> 32) ^ right1 ^ key1,
            product0 % 2**32,
        )
        key0, key1 = (key0 + 0x9E3779B9) % 2**32, (key1 + 0xBB67AE85) % 2**32
    return left0, right0, left1, right1


def run(counter: tuple, key: tuple) -> tuple:
    return philox(tuple(map(NUMPY.word, counter)), tuple(map(NUMPY.word, key)), NUMPY)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple, key: tuple, answer: tuple) -> None:
    """A wrong constant, round count or word order gives other words than Random123."""
    assert tuple(map(int, run(counter, key))) == answer
    assert philox_of_ints(counter, key) == answer  # the reference of the other tests, too


def test_random_counters_against_python_integers() -> None:
    """An overflow in the 64-bit products shows for some words only, so many are tried."""
    choose = random.Random(0)
    edges = [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]

    def word() -> int:
        return choose.choice(edges) if choose.random() < 0.2 else choose.getrandbits(32)

    counters = [tuple(word() for _ in range(4)) for _ in range(2000)]
    keys = [(word(), word()) for _ in counters]
    found = run(tuple(np.array(counters).T), tuple(np.array(keys).T))
    expected = np.array([philox_of_ints(*pair) for pair in zip(counters, keys, strict=True)])
    np.testing.assert_array_equal(np.stack(found, axis=-1), expected.astype(np.uint64))


def test_counters_broadcast() -> None:
    """Masks hand over each counter word as its own axis; a word that isn't broadcast is wrong."""
    c0, c1, c2, c3 = np.arange(3), np.arange(5)[:, None], np.array([7]), np.array(9)
    found = run((c0, c1, c2, c3), (11, 13))
    for a in range(3):
        for b in range(5):
            expected = philox_of_ints((a, b, 7, 9), (11, 13))
            assert tuple(int(np.broadcast_to(part, (5, 3))[b, a]) for part in found) == expected


def test_words_wrap() -> None:
    """The key schedule overflows 32 bits in nearly every call; a sum that grows breaks the xor."""
    assert int(NUMPY.add(NUMPY.word(2**32 - 1), 2)) == 1
    high, low = NUMPY.multiply(NUMPY.word(2**32 - 1), 0xFFFFFFFF)
    assert (int(high) << 32 | int(low)) == (2**32 - 1) ** 2
