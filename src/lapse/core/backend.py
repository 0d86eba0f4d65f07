"""What lapse asks of a library of arrays. Each library has one file that answers, with these names.

`core.numpy_backend` is NumPy's, which the core itself needs; `lapse.backends` has those of PyTorch,
JAX and TensorFlow. Arrays come with operators, `shape` and `dtype` in all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from lapse.core.philox import philox

Shape = tuple[int, ...]


class Counters(NamedTuple):
    """Where random words are drawn: a row for each sample, step and gate, of `width` words.

    All are words; `gates` hold the stream, the direction and the layer as well (see `drawing.py`).
    """

    key: tuple[Any, Any]
    samples: Any
    steps: Any
    gates: Any
    width: int


class Backend(ABC):
    """The operations on arrays that drawing masks and running cells take."""

    name: ClassVar[str]

    # Random words: 32 bits each, in whatever type holds them and their products.

    @abstractmethod
    def word(self, value: Any) -> Any:
        """Words from a whole number, or from whole numbers or booleans."""

    @abstractmethod
    def multiply(self, word: Any, constant: int) -> tuple[Any, Any]:
        """The high and the low word of the 64-bit product."""

    @abstractmethod
    def add(self, word: Any, constant: int) -> Any:
        """The sum, modulo 2**32."""

    @abstractmethod
    def quotient(self, words: Any, divisor: int) -> Any:
        """Words divided by a constant of up to 2**32, without the rest."""

    @abstractmethod
    def at_least(self, words: Any, threshold: int) -> Any:
        """Booleans: word >= threshold, for a threshold of up to 2**32."""

    @abstractmethod
    def range(self, count: Any) -> Any:
        """The words 0, 1, ... count - 1."""

    @abstractmethod
    def running_max(self, words: Any, axis: int, window: int) -> Any:
        """The largest word at each position along `axis` and the `window` - 1 before it.

        Words further before may count too.
        """

    def random_words(self, at: Counters) -> Any:
        """(samples, steps, gates, width) random words; subclasses may know a faster way."""
        quads = self.range(-(-at.width // 4))
        counter = (
            quads,
            at.samples[:, None, None, None],
            at.steps[:, None, None],
            at.gates[:, None],
        )
        parts = self.stack(philox(counter, at.key, self), -1)
        *shape, last, four = self.shape(parts)
        return self.reshape(parts, (*shape, last * four))[..., : at.width]

    def coins(self, at: Counters, threshold: int) -> Any:
        """What keeps, of the same shape: where a random word is at least `threshold`."""
        return self.at_least(self.random_words(at), threshold)

    def scaled(self, coins: Any, factor: float) -> Any:
        """float32: what coins keep is `factor`, the rest 0."""
        return self.floats(coins) * factor

    @abstractmethod
    def floats(self, values: Any) -> Any:
        """float32 of booleans or words."""

    # Arrays of any type.

    tanh: Callable[..., Any]  # (array), as the next four
    sigmoid: Callable[..., Any]
    log: Callable[..., Any]
    cos: Callable[..., Any]
    sqrt: Callable[..., Any]
    concatenate: Callable[..., Any]  # (arrays, axis)
    stack: Callable[..., Any]  # (arrays, axis)
    split: Callable[..., Any]  # (array, parts, axis)
    swapaxes: Callable[..., Any]  # (array, first, second)
    flip: Callable[..., Any]  # (array, axis)
    where: Callable[..., Any]  # (condition, then, otherwise)

    @abstractmethod
    def zeros(self, shape: Any, like: Any) -> Any:
        """Zeros of the type, and on the device, of another array."""

    def shape(self, array: Any) -> tuple[Any, ...]:
        """Numbers, or in a graph what stands for those that are not known yet."""
        return tuple(array.shape)

    def reshape(self, array: Any, shape: Any) -> Any:
        return array.reshape(shape)

    def scan(self, step: Callable, carry: tuple, inputs: dict[str, Any]) -> tuple[tuple, Any]:
        """The loop over time.

        Args:
            step: takes a carry and the inputs of one step by name, and gives the next carry.
            carry: the first one.
            inputs: by name, with timesteps first.

        Returns:
            The last carry, and carry[0] of every step.
        """
        outputs = []
        for values in zip(*inputs.values(), strict=True):
            carry = step(carry, dict(zip(inputs, values, strict=True)))
            outputs.append(carry[0])
        return carry, self.stack(outputs, 0)

    def once(self, step: Callable, carry: tuple, inputs: dict[str, Any]) -> tuple[tuple, Any]:
        """`scan` over a single step, which needs no loop."""
        carry = step(carry, {name: value[0] for name, value in inputs.items()})
        return carry, carry[0][None]

    def hold(self, values: Any, fresh: Any, axis: int) -> Any:
        """Where `fresh` is false, the value of the last position along `axis` where it was true.

        The first position counts as fresh.
        """

        def step(carry: tuple, now: dict[str, Any]) -> tuple:
            return (self.where(now["fresh"], now["value"], carry[0]),)

        values, fresh = self.swapaxes(values, axis, 0), self.swapaxes(fresh, axis, 0)
        _, held = self.scan(step, (values[0],), {"value": values, "fresh": fresh})
        return self.swapaxes(held, 0, axis)


class Memory(Protocol):
    """How arrays lie in memory: what code that takes addresses needs to know, and its threads.

    NumPy's and PyTorch's arrays have by one name, besides: shape, dtype, device, itemsize,
    swapaxes, T, and reading and writing by index.
    """

    float32: Any
    uint8: Any
    bool: Any

    def empty(self, like: Any, shape: Shape) -> Any:
        """A new array of the type, and on the device, of another, which is float32."""

    def address(self, array: Any) -> int: ...

    def strides(self, array: Any) -> Shape:
        """In elements."""

    def dense(self, array: Any) -> Any:
        """Row after row in memory; a copy where it is not so yet."""

    def threads(self) -> tuple[int, int]:
        """How many, and the address of the C function that runs them; 0 for lapse's own."""
