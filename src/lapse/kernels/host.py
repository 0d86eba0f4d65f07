"""The kernels as NumPy functions, for frameworks that call back into Python from their graphs.

Each is a value: two that compute the same are equal, so that a graph which is cached by what it
calls is found again. `into` holds the arrays to write to, where the framework has them ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lapse.kernels import layer
from lapse.kernels.layer import Flags, Gradients, Inputs, Results
from lapse.kernels.memory import NUMPY


@dataclass(frozen=True)
class Forward:
    """`layer.forward` on NumPy arrays."""

    flags: Flags
    scales: tuple[float, ...]

    def __call__(self, inputs: Inputs, into: Results | None = None) -> Results:
        return layer.forward(NUMPY, self.flags, inputs.each(_array), self.scales, into)


@dataclass(frozen=True)
class Backward:
    """`layer.backward` on NumPy arrays; of what is not used, it is given no gradient."""

    flags: Flags
    scales: tuple[float, ...]
    of_x: bool

    def __call__(
        self,
        inputs: Inputs,
        h: Any,
        c: Any,
        saved: Any,
        *gradients: Any,
        into: Gradients | None = None,
    ) -> Gradients:
        """`gradients`: of the last h, of the last c, and of all h or all outputs."""
        return layer.backward(
            NUMPY,
            self.flags,
            inputs._replace(bias=None).each(_array),
            self.scales,
            Results(None, None, _array(h), _array(c), _array(saved), None),
            *map(_array, gradients),
            of_x=self.of_x,
            columns_first=False,
            into=into,
        )


def _array(value: Any) -> Any:
    """NumPy's view of a framework's array, in the same memory."""
    return None if value is None else np.asarray(value)
