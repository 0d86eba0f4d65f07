"""The random bits on the backend of the run, by themselves and inside compiled graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras_support import BACKEND, array, compiled

from lapse.backends import named
from lapse.core import drawing
from lapse.core.backend import Counters
from lapse.core.numpy_backend import NUMPY
from lapse.core.philox import philox
from lapse.core.plan import plan
from lapse.keras.backend import draw
from test_philox import KNOWN_ANSWERS

EDGES = [0, 1, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]

SIZES = {"batch": 3, "timesteps": 7, "features": 5, "units": 1}
SEED_DTYPE = keras.random.SeedGenerator(0).state.dtype

ARRAYS = named(BACKEND)
RUNS = pytest.mark.parametrize("run", [lambda f: f, compiled], ids=["eager", "in a compiled graph"])


def numbers(words: Any) -> list[int]:
    return [int(word) for word in np.stack(array(words)).reshape(-1)]


@RUNS
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(run: Callable, counter: tuple, key: tuple, answer: tuple) -> None:
    """A carry lost between halves, or a product that wraps wrongly, gives other words."""
    answers = run(lambda *words: philox(words[:4], words[4:], ARRAYS))
    assert tuple(numbers(answers(*map(ARRAYS.word, (*counter, *key))))) == answer


@RUNS
def test_random_counters(run: Callable) -> None:
    random = np.random.default_rng(0)
    words = random.integers(0, 2**32, size=(6, 1000), dtype=np.uint64)
    words[random.random(words.shape) < 0.2] = random.choice(EDGES)
    expected = philox(tuple(words[:4]), tuple(words[4:]), NUMPY)
    found = run(lambda *words: philox(words[:4], words[4:], ARRAYS))(*map(ARRAYS.word, words))
    np.testing.assert_array_equal(np.stack(array(found)).astype(np.uint64), np.stack(expected))


@pytest.mark.parametrize("constant", [0xD2511F53, 0xCD9E8D57, 0xFFFFFFFF, 1])
def test_products_keep_both_words(constant: int) -> None:
    high, low = ARRAYS.multiply(ARRAYS.word(np.array(EDGES, np.uint64)), constant)
    products = [edge * constant for edge in EDGES]
    assert numbers((high,)) == [product >> 32 for product in products]
    assert numbers((low,)) == [product % 2**32 for product in products]


def test_sums_wrap() -> None:
    """The key schedule passes 2**32 in nearly every call."""
    sums = ARRAYS.add(ARRAYS.word(np.array(EDGES, np.uint64)), 0x9E3779B9)
    assert numbers((sums,)) == [(edge + 0x9E3779B9) % 2**32 for edge in EDGES]


def test_thresholds_and_quotients_of_large_words() -> None:
    """Words above 2**31 are negative where a signed comparison or division slips in."""
    words, exact = ARRAYS.word(np.array(EDGES, np.uint64)), NUMPY.word(EDGES)
    for threshold in (0, 1, 2**31, 2**32 - 1, 2**32):
        found = array(ARRAYS.at_least(words, threshold))
        np.testing.assert_array_equal(found, NUMPY.at_least(exact, threshold), str(threshold))
    for divisor in (1, 2, 512, 2**31, 2**32 - 1, 2**32):
        assert numbers((ARRAYS.quotient(words, divisor),)) == [e // divisor for e in EDGES]


@RUNS
@pytest.mark.parametrize("width", [1, 4, 7])
def test_words_stand_in_numpy_s_order(run: Callable, width: int) -> None:
    """Philox gives four words at once, for four units next to each other."""

    def words(samples: Any, steps: Any, gates: Any) -> Any:
        key = ARRAYS.word(1), ARRAYS.word(2)
        return ARRAYS.random_words(Counters(key, samples, steps, gates, width))

    rows = np.array([0, 5, 7]), np.array([0, 1]), np.array([3])
    key = NUMPY.word(1), NUMPY.word(2)
    expected = NUMPY.random_words(Counters(key, *map(NUMPY.word, rows), width))
    found = array(run(words)(*map(ARRAYS.word, rows)))
    np.testing.assert_array_equal(found.astype(np.uint64), expected)


@RUNS
@pytest.mark.parametrize("axis", [0, 1])
def test_hold_repeats_the_last_fresh_value(run: Callable, axis: int) -> None:
    random = np.random.default_rng(0)
    values, fresh = random.normal(size=(7, 5)).astype("f"), random.random((7, 5)) < 0.4
    held = run(lambda v, f: ARRAYS.hold(v, f, axis))(
        ops.convert_to_tensor(values), ops.convert_to_tensor(fresh)
    )
    np.testing.assert_array_equal(array(held), NUMPY.hold(values, fresh, axis))


@RUNS
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 7, 31])
def test_running_maxima(run: Callable, count: int, axis: int) -> None:
    """What covers a position is the span that reaches farthest, however long ago it started."""
    random = np.random.default_rng(count)
    values = random.integers(0, 2**16, size=(count, 5) if axis == 0 else (5, count))
    found = run(lambda words: ARRAYS.running_max(words, axis, count))(ARRAYS.word(values))
    expected = [[max(row[: n + 1]) for n in range(count)] for row in (values, values.T)[axis].T]
    np.testing.assert_array_equal(array(found), np.transpose(expected) if axis == 0 else expected)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 8])
def test_a_running_maximum_covers_its_window(window: int) -> None:
    values = np.random.default_rng(window).integers(0, 2**16, size=31)
    found = array(ARRAYS.running_max(ARRAYS.word(values), 0, window))
    so_far = np.maximum.accumulate(values)
    for n, one in enumerate(found):
        assert values[max(0, n + 1 - window) : n + 1].max() <= one <= so_far[n]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="its graphs alone have sizes that are unknown")
@pytest.mark.parametrize("over", ["BT[40]F", "T[3]", "BTF[7]"])
def test_spans_where_sizes_are_unknown(over: str) -> None:
    import tensorflow as tf

    made = plan(f"x:0.4@{over}!none", "LSTM")

    @tf.function(input_signature=[tf.TensorSpec([None, None, 5])])
    def drawn(x: Any) -> Any:
        batch, timesteps, features = ops.shape(x)
        sizes = {"batch": batch, "timesteps": timesteps, "features": features, "units": 1}
        return draw(made, 7, "float32", **sizes).x

    for batch, timesteps in ((3, 7), (1, 1), (2, 31)):
        sizes = {"batch": batch, "timesteps": timesteps, "features": 5, "units": 1}
        expected = drawing.draw(made, 7, **sizes).x
        np.testing.assert_array_equal(drawn(tf.zeros((batch, timesteps, 5))), expected)


@RUNS
@pytest.mark.parametrize("over", ["BT[3]F", "T[40]", "BTF[7]", "F[2]"])
def test_spans_are_numpy_s(run: Callable, over: str) -> None:
    made = plan(f"x:0.4@{over}!none", "LSTM")
    expected = drawing.draw(made, 7, **SIZES).x
    words = ops.convert_to_tensor(np.array([7, 0], np.uint32).astype(SEED_DTYPE))
    found = run(lambda words: draw(made, words, "float32", **SIZES).x)(words)
    np.testing.assert_array_equal(array(found), expected)


@RUNS
@pytest.mark.parametrize("seed", [7, 2**32 - 1, 2**64 - 2**31])
def test_a_seed_given_as_a_number_or_as_its_words_draws_numpy_s_masks(
    run: Callable, seed: int
) -> None:
    """Layers hand over the two words of a SeedGenerator; users hand over a number."""
    made = plan("x:0.5@BTF", "LSTM")
    expected = drawing.draw(made, seed, **SIZES).x
    by_number = run(lambda: draw(made, seed, "float32", **SIZES).x)
    np.testing.assert_array_equal(array(by_number()), expected)
    words = np.array([seed % 2**32, seed >> 32], np.uint32).astype(SEED_DTYPE)
    by_words = run(lambda words: draw(made, words, "float32", **SIZES).x)
    np.testing.assert_array_equal(array(by_words(ops.convert_to_tensor(words))), expected)


def test_masks_come_in_the_dtype_asked_for() -> None:
    made = plan("x:0.3@BF", "LSTM")
    found = draw(made, 1, "float16", **SIZES).x
    assert keras.backend.standardize_dtype(found.dtype) == "float16"
    np.testing.assert_array_equal(array(found), drawing.draw(made, 1, **SIZES).x.astype("float16"))
