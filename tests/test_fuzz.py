"""Random configurations against the oracle: outputs, last states and every gradient.

`make test` draws 500, `make fuzz` 10,000; see conftest.py. The values of the options are those of
the catalogue.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import catalog
from catalog import CELLS, LAYERS, Cell, Problem, problem
from lapse.backends.torch import BACKEND
from lapse.backends.torch.drawing import new_seed
from lapse.core import drawing
from lapse.core.cells import unroll
from lapse.core.masks import Masks
from lapse.core.noise import collect
from lapse.core.numpy_backend import NUMPY
from lapse.core.plan import plan
from lapse.core.weights import Weights
from lapse.engines.cpu import pointers
from lapse.engines.cpu.loading import extension
from strategies import in_parts, lengths, noises, seeds, share, sizes
from torch_support import (
    arrays_of,
    compare,
    doubled,
    flat,
    masks_of,
    on_cpu,
    on_torch,
    one_thread,  # noqa: F401  for every test here
    poisoned,  # noqa: F401  for every test here
    reference,
    results,
    stacked,
    weighed,
    weights_of,
)

MODULES = [name for name, options in LAYERS.items() if "hidden_size" in options]
CELL_OF = {"LSTM": catalog.LSTM, "GRU": catalog.GRU, "RNN": catalog.SIMPLE_RNN}
TERMS_AT_A_SITE = 4
THREADS = st.sampled_from((1, 1, 1, 2))  # two are slow wherever others use the cores too
quiet = pytest.mark.filterwarnings("ignore:.*forgets at evaluation:UserWarning")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Modules: their options, their calls.


@dataclass(frozen=True)
class Call:
    """A module, and one call of it."""

    layer: str
    options: dict[str, Any]
    noise: str
    batch: int
    timesteps: int
    training: bool
    masks_given: bool
    layout: str  # "batch", "single" (no batch axis), "lengths" or "packed"
    state: bool
    threads: int
    seed: int


def stays_outside(noise: str, recurrent_dropout: float) -> bool:
    """Whether no mask acts inside the recurrence, nor differs on h between samples or steps."""
    terms = collect(noise)
    of_h = [term for term in terms if term.site == "h"]
    outside = all(term.site in ("x", "y", "W", "U", "h") for term in terms)
    return outside and not recurrent_dropout and not any({*t.axes} & {"B", "T"} for t in of_h)


@st.composite
def calls(draw: st.DrawFn, layer: str) -> Call:
    """A call that PyTorch and lapse allow."""
    options = {
        name: draw(st.sampled_from(values))
        for name, values in LAYERS[layer].items()
        if name not in ("input_size", "hidden_size", "noise")
    }
    options["input_size"], options["hidden_size"] = draw(sizes), draw(sizes)
    if options.get("nonlinearity") == "relu":
        # Where float32 and float64 disagree about the sign of a number near 0, relu's gradients are
        # as far apart as can be.
        options["dtype"] = "float64"
    if options.get("proj_size", 0) >= options["hidden_size"]:
        options["proj_size"] = 0  # as PyTorch has it
    if options["dtype"] == "float64" or options.get("proj_size"):
        options["engine"] = "auto"  # the C++ kernels say that they can't
    if options["num_layers"] == 1:
        options["dropout"] = 0.0  # PyTorch warns that it does nothing
    room = {
        "x": TERMS_AT_A_SITE - bool(options["dropout"]),
        "h": TERMS_AT_A_SITE - bool(options["recurrent_dropout"]),
    }
    batch = draw(st.integers(0, 9))
    layouts = ["batch", "lengths"]
    layouts += ["packed"] if batch else []
    layouts += ["single"] if batch == 1 else []
    noise = draw(noises(CELL_OF[layer.rpartition(".")[2]], room))
    outside = stays_outside(noise, options["recurrent_dropout"])
    if options["engine"] == "native" and not (outside and batch):
        options["engine"] = "auto"  # PyTorch's own kernel says that it can't, or packs no lengths
    return Call(
        layer,
        options,
        noise,
        batch,
        draw(lengths),
        *(draw(st.booleans()) for _ in range(2)),
        draw(st.sampled_from(layouts)),
        draw(st.booleans()),
        draw(THREADS),
        draw(seeds),
    )


def made(call: Call) -> Any:
    """The module."""
    where, _, name = call.layer.rpartition(".")
    options = {**call.options, "noise": call.noise}
    options["dtype"] = getattr(torch, options["dtype"])
    options["generator"] = torch.Generator() if options["generator"] else None
    torch.manual_seed(call.seed)
    return getattr(importlib.import_module(where), name)(**options).train(call.training)


def drawn_by_hand(call: Call, module: Any, seed: Any, **changed: Any) -> list[Masks]:
    """The masks of each layer and direction, from the text of its noise."""
    terms = f"h:{call.options['recurrent_dropout']}@BFG {call.noise}"
    directions = 1 + module.bidirectional
    sizes = {"batch": call.batch, "timesteps": call.timesteps, "units": module.hidden_size}
    sizes["projected"] = module.proj_size
    drawn = []
    for layer in range(module.num_layers):
        between = f" x:{call.options['dropout']}@BTF" if layer else ""
        made = plan(terms + between, module.cell, projected=bool(module.proj_size))
        outputs = (module.proj_size or module.hidden_size) * directions
        features = outputs if layer else module.input_size
        for direction in range(directions):
            own = {"features": features, "layer": layer, "direction": direction}
            drawn.append(
                made.expected
                if seed is None
                else doubled(drawing.draw(made, seed, compact=True, **{**sizes, **own, **changed}))
            )
    return drawn


def start(call: Call, module: Any) -> tuple[Any, Any]:
    """What is given as masks=, and the seed of what is drawn; sets the generator to that seed."""
    source = module.generator or torch.default_generator
    if call.masks_given:
        return module.draw_masks(call.batch, call.timesteps, seed=call.seed), call.seed
    if not call.training:
        return None, None
    words = new_seed(source.manual_seed(call.seed)).tolist()
    source.manual_seed(call.seed)
    return None, words


def assert_a_part_has_the_masks_of_the_whole(call: Call, module: Any, seed: Any) -> None:
    """Some of the samples, in another order and with more steps behind."""
    rows = np.random.default_rng(call.seed).permutation(call.batch)[: 1 + call.batch // 2]
    longer = {"batch": len(rows), "samples": rows.tolist(), "timesteps": call.timesteps + 3}
    whole, part = drawn_by_hand(call, module, seed), drawn_by_hand(call, module, seed, **longer)
    for all_rows, some_rows in zip(whole, part, strict=True):
        for slot, mask in all_rows._asdict().items():
            found = getattr(some_rows, slot)
            if slot not in "WU" and mask is not None:
                mask = mask if call.batch != 1 and mask.shape[0] == 1 else mask[rows]
                found = found[:, : mask.shape[1]]
            np.testing.assert_array_equal(found, mask, slot)


class Given:
    """The numbers of a call, in float64 but no finer than the module's."""

    def __init__(self, call: Call, module: Any) -> None:
        random, dtype = np.random.default_rng(call.seed), call.options["dtype"]

        def some(*shape: int) -> np.ndarray:
            return random.normal(size=shape).astype(dtype).astype(np.float64)

        count = module.num_layers * (1 + module.bidirectional)
        widths = [module.proj_size or module.hidden_size]
        widths += [module.hidden_size] if module.cell == "LSTM" else []
        self.x = some(call.batch, call.timesteps, module.input_size)
        self.states = [some(count, call.batch, width) for width in widths if call.state]
        self.parameters = arrays_of(module)
        self.lengths = self.running = None
        if call.layout in ("lengths", "packed"):
            self.lengths = random.integers(1, call.timesteps, size=call.batch, endpoint=True)
            if call.layout == "packed":  # whose longest sequence says how many steps there are
                self.lengths[random.integers(call.batch)] = call.timesteps
            self.running = np.arange(call.timesteps) < self.lengths[:, None]
            self.x[~self.running] = np.nan  # must not reach anything

    def oracle(self, module: Any, masks: list[Masks], near: Callable | None = None) -> list:
        """What comes out, by NumPy; with `near` by PyTorch, and all gradients."""
        arrays: list[Any] = [self.x, *self.states, *self.parameters.values()]
        running, backend, relu = self.running, NUMPY, lambda array: np.maximum(array, 0)
        if near is not None:
            arrays = [torch.tensor(near(array), requires_grad=True) for array in arrays]
            running, backend, relu = on_torch(running), BACKEND, torch.relu
            masks = [Masks(*map(on_torch, one)) for one in masks]
        is_relu = getattr(module, "nonlinearity", "tanh") == "relu"
        x, states = arrays[0], arrays[1 : 1 + len(self.states)]
        parameters = dict(zip(self.parameters, arrays[1 + len(states) :], strict=True))
        found = stacked(
            module.cell,
            x,
            weights_of(module, parameters, backend),
            masks,
            directions=1 + module.bidirectional,
            states=states or None,
            running=running,
            backend=backend,
            activation=relu if is_relu else None,
        )
        if near is None:
            return found
        return [*found, *torch.autograd.grad(weighed(found), arrays, materialize_grads=True)]


def run(call: Call, module: Any, numbers: Given, masks: Any) -> list[Tensor]:
    """What comes out and all gradients, in the layout of the oracle."""
    dtype, single = module.weight_hh_l0.dtype, call.layout == "single"
    x, *states = (
        torch.tensor(array, dtype=dtype, requires_grad=True)
        for array in (numbers.x, *numbers.states)
    )
    hx: Any = tuple(state[:, 0] if single else state for state in states) or None
    hx = hx[0] if len(states) == 1 else hx
    if call.layout == "packed":
        y, last = module(
            pack_padded_sequence(x, numbers.lengths, batch_first=True, enforce_sorted=False),
            hx,
            masks=masks,
        )
        y = pad_packed_sequence(y, batch_first=True, total_length=call.timesteps)[0]
    else:
        turned = x if module.batch_first else x.swapaxes(0, 1)
        y, last = module(
            x[0] if single else turned, hx, masks=masks, lengths=on_torch(numbers.lengths)
        )
        y = y[None] if single else y if module.batch_first else y.swapaxes(0, 1)
    outputs = [y, *(part[:, None] if single else part for part in flat((y, last))[1:])]
    leaves = [x, *states, *module.parameters()]
    back = torch.autograd.grad(weighed(outputs), leaves, materialize_grads=True)
    return [*outputs, *back]


@quiet
@in_parts
@pytest.mark.parametrize("layer", MODULES)
@share("modules", among=len(MODULES))
@given(data=st.data())
def test_a_module_is_the_oracle(layer: str, part: int, data: st.DataObject) -> None:
    call = data.draw(calls(layer))
    module = made(call)
    numbers = Given(call, module)
    given, seed = start(call, module)
    masks = drawn_by_hand(call, module, seed)
    before = torch.get_rng_state()
    with threads(call.threads):
        found = run(call, module, numbers, given)
    if seed is None:
        assert torch.equal(torch.get_rng_state(), before), "evaluation drew something"
    else:
        assert_a_part_has_the_masks_of_the_whole(call, module, seed)
    outputs = numbers.oracle(module, masks)
    compare(found, outputs, lambda near: numbers.oracle(module, masks, near), call.options["dtype"])


# The kernels: every cell, padding anywhere, what threads share, every set of instructions.


@dataclass(frozen=True)
class KernelCall:
    """A call of `on_cpu`."""

    noise: str
    batch: int
    timesteps: int
    features: int
    units: int
    bias: bool
    state: bool
    reverse: bool
    padding: float | None  # the share of steps that are none
    masks: str  # "numbers", "coins" or "constants"
    threads: int
    shares_units: bool
    instructions: str
    seed: int


def kernel_calls(cell: Cell) -> st.SearchStrategy[KernelCall]:
    flags = st.booleans()
    return st.builds(
        KernelCall,
        noise=noises(cell, {}),
        batch=st.integers(0, 9),
        timesteps=lengths,
        features=sizes,
        units=sizes,
        bias=flags,
        state=flags,
        reverse=flags,
        padding=st.sampled_from((None, None, 0.1, 0.3, 0.5, 1.0)),
        masks=st.sampled_from(("numbers", "coins", "coins", "constants")),
        threads=THREADS,
        shares_units=flags,
        instructions=st.sampled_from(extension().instruction_sets()),
        seed=seeds,
    )


@quiet
@in_parts
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
@share("kernels", among=len(CELLS))
@given(data=st.data())
def test_a_kernel_is_the_oracle(cell: Cell, part: int, data: st.DataObject) -> None:
    call = data.draw(kernel_calls(cell))
    sizes = {n: getattr(call, n) for n in ("batch", "timesteps", "features", "units", "bias")}
    numbers = rounded(problem(cell, **sizes, seed=call.seed), call.state)
    masks = plan(call.noise, cell.name).expected
    if call.masks != "constants":
        masks = masks_of(cell, call.noise, numbers, compact=call.masks == "coins", seed=call.seed)
    running = None
    if call.padding is not None:
        random = np.random.default_rng(call.seed)
        running = random.random((call.batch, call.timesteps)) >= call.padding
        numbers.x[~running] = np.nan  # must not reach anything
    options = {"reverse": call.reverse, "running": on_torch(running)}

    def exact(near: Callable) -> list[Tensor]:
        moved = Problem(
            near(numbers.x),
            Weights(*(None if w is None else near(w) for w in numbers.weights)),
            tuple(map(near, numbers.state)),
        )
        return results(reference, cell, moved, masks, torch.float64, **options)

    with pytest.MonkeyPatch.context() as forced, threads(call.threads):
        forced.setattr(pointers, "shares_units", lambda *_: call.shares_units)
        forced.setattr(pointers, "instruction_set", lambda: call.instructions)
        found = results(on_cpu, cell, numbers, masks, torch.float32, **options)
    y, last = unroll(
        cell.name,
        numbers.x,
        numbers.weights,
        doubled(masks),
        initial_state=numbers.state or None,
        running=running,
        reverse=call.reverse,
        reset_after=cell.reset_after,
    )
    compare(found, [y, *last], exact, "float32")


def rounded(exact: Problem, state: bool) -> Problem:
    """A problem no finer than float32, with or without initial states."""

    def one(array: Any) -> Any:
        return None if array is None else array.astype(np.float32).astype(np.float64)

    weights = Weights(*map(one, exact.weights))
    return Problem(one(exact.x), weights, tuple(map(one, exact.state)) if state else ())
