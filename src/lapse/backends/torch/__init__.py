"""PyTorch: for `lapse.torch`, and for Keras where it runs on PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lapse.backends.torch import autograd, drawing, private
from lapse.backends.torch.arrays import TorchArrays
from lapse.backends.torch.operators import Settings
from lapse.core.masks import Masks
from lapse.core.noise import Term
from lapse.core.plan import Plan
from lapse.engines import Call, Framework, choice
from lapse.engines.arrays import Flags, Inputs
from lapse.engines.interface import Again

for _called in (choice.asked_for, choice.raise_obstacle, choice.warn_of_plain_loop):
    private.constant(_called)


class Torch(TorchArrays, Framework):
    """Runs engines as operators, with PyTorch's autograd."""

    sequences, steps = private.SEQUENCES, private.STEPS

    def like(self, array: Any, other: Any) -> Any:
        return array.to(other)

    def broadcast(self, array: Any, shape: Any) -> Any:
        return array.expand(shape)

    def dtype(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def device(self, array: Any) -> str:
        device = array.device
        return str(getattr(device, "type", device))  # in NumPy's arrays it is a text

    def in_graph(self, array: Any = None) -> bool:
        return not private.direct(array) if isinstance(array, Tensor) else private.in_graph()

    def transform(self, call: Call) -> str | None:
        if private.mapped():
            return "vmap is not supported"
        if private.forward_mode():
            return "derivatives in forward mode are not supported"
        return None

    def exporting(self) -> bool:
        return torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            yield

    def records(self) -> bool:
        return torch.is_grad_enabled()

    def wants_gradient(self, array: Any) -> bool:
        return bool(array.requires_grad)

    def differentiable(
        self, engine: str, flags: Flags, inputs: Inputs, scales: tuple[float, ...],
        again: tuple[Again, ...],
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        places, arrays = inputs.flat()
        found = autograd.run(Settings(engine, *flags, scales, places), arrays, again)
        last_h, last_c, h, _, _, y = found
        return last_h, last_c, h, y

    def draw(self, plan: Plan, seed: Any, **sizes: Any) -> Masks:
        return drawing.draw(plan, seed, **sizes)

    def draw_rows(self, terms: Sequence[Term], seed: Any, **sizes: Any) -> Any:
        return drawing.draw_rows(terms, seed, **sizes)


BACKEND = Torch()
