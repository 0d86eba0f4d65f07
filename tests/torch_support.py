"""What the tests of the PyTorch modules and of the kernels share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import catalog
from catalog import Cell, Problem, distance
from lapse.backends.torch import BACKEND
from lapse.core import cells, drawing
from lapse.core.backend import Backend
from lapse.core.masks import Coins, Masks
from lapse.core.numpy_backend import NUMPY
from lapse.core.plan import plan
from lapse.core.weights import TorchWeights, Weights, from_torch
from lapse.engines import Call, named
from lapse.torch import GRU, LSTM, RNN

PAIRS = {"LSTM": (LSTM, nn.LSTM), "GRU": (GRU, nn.GRU), "SimpleRNN": (RNN, nn.RNN)}
MODULES = (LSTM, GRU, RNN)
in_every_pair = pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)
in_every_module = pytest.mark.parametrize("ours", MODULES, ids=lambda module: module.__name__)


def _has_bfloat16() -> bool:
    """Whether PyTorch's LSTM runs in bfloat16 on this processor; oneDNN needs AVX-512 for it."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
    except RuntimeError:
        return False
    return True


HAS_BFLOAT16 = _has_bfloat16()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On tensors this small, threads spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pair(ours: type, theirs: type, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """Our module and PyTorch's with the same weights."""
    dtype = options.pop("dtype", torch.float64)
    torch.manual_seed(0)
    one, other = theirs(*sizes, **options).to(dtype), ours(*sizes, **options).to(dtype)
    other.load_state_dict(one.state_dict(), strict=True)
    return other, one


def state_of(module: Any, *shape: int) -> Any:
    """A random initial state with gradients."""
    parts = tuple(
        torch.randn(*shape, dtype=module.weight_hh_l0.dtype, requires_grad=True)
        for _ in range(2 if module.mode == "LSTM" else 1)
    )
    return parts if module.mode == "LSTM" else parts[0]


def flat(result: Any) -> list[Tensor]:
    """The tensors of an output and a last state."""
    y, last = result
    return [y, *(last if isinstance(last, tuple) else (last,))]


def assert_close(found: list, expected: list, tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert catalog.distance(one.detach(), other.detach()) < tolerance


def gradients(module: Any, results: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of a random functional of all results, for the inputs and every parameter."""
    random = torch.Generator().manual_seed(1)
    loss = sum((r * torch.randn(r.shape, generator=random, dtype=r.dtype)).sum() for r in results)
    return list(torch.autograd.grad(loss, [*inputs, *module.parameters()]))


# The kernels.


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel forgets to write is no number, not an old right one."""
    plain = Tensor.new_empty

    def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        return plain(self, *size, **options).fill_(float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", new_empty)


def results(run: Any, cell: Cell, given: Problem, masks: Masks, dtype: Any, **options: Any) -> list:
    """Outputs, last states, and the gradients of all inputs for one weighting of all outputs."""

    def leaf(value: Any) -> Any:
        return None if value is None else torch.tensor(value, dtype=dtype, requires_grad=True)

    x, state = leaf(given.x), tuple(map(leaf, given.state))
    weights = Weights(*map(leaf, given.weights))
    torch_masks = Masks(*(tensor(mask, dtype) for mask in masks))
    options["reset_after"] = cell.reset_after
    y, last = run(cell.name, x, weights, torch_masks, initial_state=state or None, **options)
    outputs = [y, *last]
    leaves = [t for t in (x, *weights, *state) if t is not None]
    found = torch.autograd.grad(weighed(outputs), leaves, materialize_grads=True)
    return [*outputs, *found]


def weighed(outputs: list[Tensor]) -> Tensor:
    """A sum of all numbers in outputs, each with a weight of its own."""
    random = np.random.default_rng(7)
    total: Any = sum(
        (out * torch.tensor(random.normal(size=out.shape), dtype=out.dtype)).sum()
        for out in outputs
    )
    return total


def tensor(mask: Any, dtype: Any) -> Any:
    if isinstance(mask, Coins):
        return mask._replace(kept=torch.tensor(mask.kept))
    return torch.tensor(mask, dtype=dtype) if isinstance(mask, np.ndarray) else mask


def reference(cell: str, x: Tensor, weights: Weights, masks: Masks, **options: Any) -> Any:
    return cells.unroll(cell, x, weights, BACKEND.numbers(masks, x), backend=BACKEND, **options)


def on_engine(name: str) -> Callable:
    """`Engine.unroll` with the arguments of `cells.unroll`."""

    def run(cell: str, x: Tensor, weights: Weights, masks: Masks, **options: Any) -> Any:
        call = Call(BACKEND, cell, x, weights, plan("", cell), masks, **options)
        return named(name).unroll(call, masks)

    return run


on_cpu, on_native = on_engine("cpu"), on_engine("native")


def masks_of(cell: Cell, noise: Any, given: Problem, compact: bool = False, seed: int = 1) -> Masks:
    """Masks as layers draw them: numbers, or coins for those that change with time."""
    batch, timesteps, features = given.x.shape
    units = given.weights.recurrent_kernel.shape[0]
    sizes = {"batch": batch, "timesteps": timesteps, "features": features, "units": units}
    return drawing.draw(plan(noise, cell.name), seed, **sizes, compact=compact)


# Stacks of layers.


def doubled(masks: Masks) -> Masks:
    """Masks as NumPy's float64, exactly what they stand for."""

    def one(mask: Any) -> Any:
        if isinstance(mask, Coins):
            return np.float64(mask.kept) * mask.scale
        return mask.astype(np.float64) if isinstance(mask, np.ndarray) else mask

    return Masks(*map(one, masks))


def weights_of(module: Any, arrays: dict[str, Any], backend: Backend = NUMPY) -> list[Weights]:
    """The weights of each layer and direction, from arrays by the names of the parameters."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ends = [
        f"l{layer}{end}"
        for layer in range(module.num_layers)
        for end in ("", "_reverse")[: 1 + module.bidirectional]
    ]
    return [
        from_torch(
            module.cell,
            TorchWeights(*(arrays.get(f"{name}_{end}") for name in names)),
            backend,
        )
        for end in ends
    ]


def arrays_of(module: Any) -> dict[str, np.ndarray]:
    """The parameters by name, in float64."""
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def stacked(
    cell: str,
    x: Any,
    weights: list[Weights],
    masks: list[Masks],
    *,
    directions: int,
    states: Any = None,
    running: Any = None,
    backend: Backend = NUMPY,
    **options: Any,
) -> list:
    """Layer by layer and direction by direction through `cells.unroll`.

    Args:
        x: (batch, timesteps, features).
        weights, masks: of each layer and direction, in the order of `hx`.
        states: h, for LSTM h and c, each (layers * directions, batch, units).
        options: activations.

    Returns:
        y, 0 in padding, and the last h, for LSTM h and c, shaped like `states`.
    """
    lasts = []
    for first in range(0, len(weights), directions):
        outputs = []
        for n in range(first, first + directions):
            y, last = cells.unroll(
                cell,
                x,
                weights[n],
                masks[n],
                initial_state=None if states is None else tuple(part[n] for part in states),
                running=running,
                reverse=n > first,
                backend=backend,
                **options,
            )
            outputs.append(y)
            lasts.append(last)
        x = backend.concatenate(outputs, -1)
    if running is not None:
        x = backend.where(running[..., None], x, 0)
    joined = [
        backend.concatenate([part[None] for part in parts], 0) for parts in zip(*lasts, strict=True)
    ]
    return [x, *joined]


# The oracle's verdict.

# A loop in float32 rounds at each step, not just what goes in, and its sums have up to 70 terms.
ROUNDINGS = 8


def compare(found: list, outputs: list[np.ndarray], exact: Callable, dtype: str) -> None:
    """Judges what was computed in `dtype`: outputs, states, and gradients behind them.

    Args:
        outputs: what NumPy's loop in float64 gives for outputs and states.
        exact: computes all by PyTorch in float64, having given each array to a function first.
    """
    by_torch = [one.detach().numpy() for one in exact(lambda array: array)]
    judge(by_torch[: len(outputs)], outputs, len(outputs), exact, "float64")
    expected = [*outputs, *by_torch[len(outputs) :]]
    judge([one.detach().numpy() for one in found], expected, len(outputs), exact, dtype)


def judge(found: list, expected: list, values: int, exact: Callable, dtype: str) -> None:
    """Noise that scales up makes loops that carry a difference on and on, be it of one rounding.

    Where a result is further away than the catalogue's tolerance, it must still be no further than
    roundings explain: than results move, in float64, when what goes in moves by one rounding.
    """
    tolerance = catalog.TOLERANCE[dtype]
    limits = [tolerance.values] * values + [tolerance.gradients] * (len(expected) - values)
    apart = [distance(one, other) for one, other in zip(found, expected, strict=True)]
    if all(one <= limit for one, limit in zip(apart, limits, strict=True)):
        return
    for seed in range(3):
        nearby = exact(_moved(np.random.default_rng(seed), np.finfo(dtype).eps))
        for n, (near, wanted) in enumerate(zip(nearby, expected, strict=False)):
            limits[n] = max(limits[n], ROUNDINGS * distance(near.detach().numpy(), wanted))
    for n, (one, limit) in enumerate(zip(apart, limits, strict=True)):
        assert one <= limit, f"result {n} is {one:.2g} apart, where roundings explain {limit:.2g}"


def _moved(random: np.random.Generator, rounding: float) -> Callable[[np.ndarray], np.ndarray]:
    """Moves each number of an array by up to one rounding."""
    return lambda array: array * (1 + rounding * random.uniform(-1, 1, array.shape))


def on_torch(array: Any) -> Any:
    return torch.tensor(array) if isinstance(array, np.ndarray) else array
