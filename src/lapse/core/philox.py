"""The random bits: Philox4x32-10, a function of a counter and a key.

It makes four 32-bit words from four, keyed by a 64-bit seed. It has no state, so every word can be
computed directly, on any device and in any order. Salmon, Moraes, Dror, Shaw 2011, "Parallel Random
Numbers: As Easy as 1, 2, 3", doi:10.1145/2063384.2063405. (NumPy's own Philox is the 64-bit
variant.)
"""

from __future__ import annotations

from typing import Any, Protocol

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF  # the largest 32-bit word, and the mask that cuts a number down to one


class Words(Protocol):
    """How an array library holds 32-bit words."""

    def multiply(self, word: Any, constant: int) -> tuple[Any, Any]:
        """The high and the low word of the 64-bit product."""

    def add(self, word: Any, constant: int) -> Any:
        """The sum, modulo 2**32."""


def philox(counter: tuple[Any, ...], key: tuple[Any, Any], words: Words) -> tuple[Any, ...]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four arrays of words; their shapes broadcast.
        key: two words: the low and the high half of the seed.
        words: the arithmetic of the arrays' library.

    Returns:
        Four arrays of words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = words.multiply(c0, MULTIPLIERS[0])
        high1, low1 = words.multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = words.add(k0, WEYL[0]), words.add(k1, WEYL[1])
    return c0, c1, c2, c3
