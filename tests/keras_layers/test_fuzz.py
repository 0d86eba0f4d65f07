"""Random configurations of the layers against the oracle: outputs, states and every gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from keras_support import BACKEND, quietly

import catalog
import lapse.keras
from catalog import GRU_RESET_BEFORE, LAYERS, Cell, plan_for
from lapse.backends.torch import BACKEND as TORCH
from lapse.core import drawing
from lapse.core.backend import Backend
from lapse.core.cells import unroll
from lapse.core.masks import Masks
from lapse.core.numpy_backend import NUMPY
from lapse.core.plan import STATES, Plan
from lapse.core.weights import Weights
from strategies import in_parts, lengths, noises, share, sizes
from torch_support import compare, doubled, on_torch, weighed

pytestmark = pytest.mark.skipif(
    BACKEND != "torch",
    reason="JAX and TensorFlow compile each shape anew, which takes seconds for a configuration; "
    "test_layers.py goes through the catalogue there",
)

KINDS = [name for name in ("LSTM", "GRU", "SimpleRNN") if f"lapse.keras.{name}" in LAYERS]
# What changes how a call computes; test_catalog.py gives each of the other options alone.
OPTIONS = (
    *("activation", "recurrent_activation", "use_bias", "dropout", "recurrent_dropout"),
    *("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "engine"),
    *("zero_output_for_mask", "reset_after", "implementation"),
)
# Of arrays of NumPy, of tensors. Not hard_sigmoid: PyTorch's multiplies by 1/6 in float32.
FUNCTIONS: dict[str | None, tuple[Callable, Callable]] = {
    "tanh": (NUMPY.tanh, TORCH.tanh),
    "sigmoid": (NUMPY.sigmoid, TORCH.sigmoid),
    "softsign": (lambda a: a / (1 + np.abs(a)), lambda a: a / (1 + a.abs())),
    "relu": (lambda a: np.maximum(a, 0), torch.relu),
    None: (lambda a: a, lambda a: a),
}


@dataclass(frozen=True)
class Call:
    """A layer or two in opposite directions, and their calls: two where they are stateful."""

    kind: str
    options: dict[str, Any]
    noise: str
    merge: str  # of Bidirectional; "" for one layer
    batch: int
    timesteps: int
    features: int
    padding: float | None  # the share of steps that are none
    training: bool
    masks_given: bool
    state: bool
    seed: int

    @property
    def cell(self) -> Cell:
        return Cell(self.kind, self.options.get("reset_after", True))

    @property
    def shows_states(self) -> bool:
        """Whether the last states can be seen, be it on the layer only."""
        return bool(self.options["return_state"] or self.options["stateful"])

    @property
    def reverse(self) -> list[bool]:
        return [False, True] if self.merge else [self.options["go_backwards"]]


@st.composite
def calls(draw: st.DrawFn, kind: str) -> Call:
    table = LAYERS[f"lapse.keras.{kind}"]
    options = {name: draw(st.sampled_from(table[name])) for name in OPTIONS if name in table}
    own = options["activation"] == "tanh"
    own &= options.get("recurrent_activation", "sigmoid") == "sigmoid"
    # In float32, what has corners has other gradients than in float64, and what has no bounds may
    # grow past all numbers.
    options["dtype"] = draw(st.sampled_from(("float32", "float64"))) if own else "float64"
    if options["dtype"] == "float64" and options["engine"] == "cpu":
        options["engine"] = "auto"  # because the C++ kernels refuse this type
    options["units"] = draw(sizes)
    merge = draw(st.sampled_from(("", "", "concat", "sum", "mul", "ave")))
    if merge:
        options["go_backwards"] = False
        options["zero_output_for_mask"] = options["return_sequences"]  # Bidirectional makes it so
        options["return_state"] &= not options["stateful"]  # on which it breaks off (Keras 3.15)
    # Keras's two rates are terms at x and h.
    room = {
        "x": 4 - bool(options["dropout"]),
        "h": 4 - bool(options["recurrent_dropout"]),
    }
    cell = GRU_RESET_BEFORE if not options.get("reset_after", True) else Cell(kind)
    call = Call(
        kind,
        options,
        draw(noises(cell, room)),
        merge,
        draw(st.integers(1, 7)),
        draw(lengths),
        draw(sizes),
        draw(st.sampled_from((None, None, 0.1, 0.3, 0.5, 1.0))),
        draw(st.booleans()),
        draw(st.booleans()) and not merge,  # Bidirectional hands on no masks
        draw(st.booleans()),
        draw(st.integers(0, 2**31 - 1)),  # Keras's SeedGenerator takes no more on PyTorch
    )
    if options["engine"] == "native" and not (own and runs_natively(call)):
        options["engine"] = "auto"  # as above
    return call


def runs_natively(call: Call) -> bool:
    """Whether PyTorch's own kernel runs a call with its own activations."""
    if call.padding is not None or not call.cell.reset_after:
        return False
    made = plan_of(call)
    for slot, sources in made.slots:
        if slot in ("x", "y", "W", "U"):
            continue
        if call.training or call.masks_given:
            if slot != "h" or any(axis in source.term.axes for source in sources for axis in "BT"):
                return False
        elif slot != "h" and getattr(made.expected, slot) is not None:
            return False
    return True


def plan_of(call: Call) -> Plan:
    """The plan of a layer, with Keras's two rates as terms."""
    rates = call.options["dropout"], call.options["recurrent_dropout"]
    gates = "G" if rates[1] else ""
    return plan_for(f"x:{rates[0]}@BF{gates} h:{rates[1]}@BFG {call.noise}", call.cell)


def made(call: Call) -> Any:
    options = {**call.options, "noise": call.noise, "seed": call.seed}
    layer = quietly(lambda: getattr(lapse.keras, call.kind)(**options))
    if call.merge:
        both = {"merge_mode": call.merge, "dtype": options["dtype"]}
        layer = quietly(lambda: keras.layers.Bidirectional(layer, **both))
    layer.build((call.batch, call.timesteps, call.features))
    return layer


class Given:
    """The numbers of a call, in float64 but no finer than the layer's."""

    def __init__(self, call: Call) -> None:
        self.call = call
        random, dtype = np.random.default_rng(call.seed), call.options["dtype"]

        def some(*shape: int) -> np.ndarray:
            return random.normal(size=shape).astype(dtype).astype(np.float64)

        units = call.options["units"]
        self.x = some(call.batch, call.timesteps, call.features)
        self.weights, self.states = [], []
        for _ in call.reverse:
            weights = catalog.problem(
                call.cell,
                features=call.features,
                units=units,
                bias=call.options["use_bias"],
                seed=int(random.integers(2**32)),
            ).weights
            self.weights.append([w.astype(dtype).astype(float) for w in weights if w is not None])
            self.states.append([some(call.batch, units) for _ in range(STATES[call.kind])])
        self.running = None
        if call.padding is not None:
            self.running = random.random((call.batch, call.timesteps)) >= call.padding

    def oracle(
        self, masks: list[Masks], states: list | None, near: Callable | None = None
    ) -> list[Any]:
        """What comes out, and the last states, by NumPy; with `near` by PyTorch, and all gradients.

        Args:
            states: the first ones of each layer.
        """
        backend, options = NUMPY if near is None else TORCH, self.call.options
        given: list[Any] = [self.x, *(w for weights in self.weights for w in weights)]
        running = self.running
        if near is not None:
            given = [torch.tensor(near(array), requires_grad=True) for array in given]
            running = on_torch(running)
            masks = [Masks(*map(on_torch, one)) for one in masks]
            states = states and [list(map(on_torch, one)) for one in states]
        outputs, lasts, each = [], [], len(self.weights[0])
        for n, reverse in enumerate(self.call.reverse):
            weights = given[1 + n * each : 1 + (n + 1) * each]
            y, last = unroll(
                self.call.kind,
                given[0],
                Weights(*weights),
                masks[n],
                initial_state=states and tuple(states[n]),
                running=running,
                reset_after=self.call.cell.reset_after,
                reverse=reverse,
                **self._activations(near is not None),
                backend=backend,
            )
            if options["zero_output_for_mask"] and running is not None:
                y = backend.where(running[..., None], y, 0)
            if not options["return_sequences"]:
                y = y[:, 0 if reverse else -1]
            elif reverse and not self.call.merge:  # Keras gives steps in the order of running
                y = backend.flip(y, 1)
            outputs.append(y)
            lasts += last
        found = [_merged(self.call.merge, outputs, backend), *lasts]
        if near is None:
            return found
        returned = found if options["return_state"] else found[:1]
        gradients = torch.autograd.grad(weighed(returned), given, materialize_grads=True)
        return [*(found if self.call.shows_states else returned), *gradients]

    def _activations(self, of_tensors: bool) -> dict[str, Callable]:
        names = {"recurrent_activation": "sigmoid", **self.call.options}
        return {
            name: FUNCTIONS[names[name]][of_tensors]
            for name in ("activation", "recurrent_activation")
        }


def _merged(merge: str, outputs: list, backend: Backend) -> Any:
    if not merge:
        return outputs[0]
    one, other = outputs
    merges = {"sum": one + other, "mul": one * other, "ave": (one + other) / 2}
    return backend.concatenate(outputs, -1) if merge == "concat" else merges[merge]


def masks_of(call: Call, number: int) -> list[Masks]:
    """What each layer has in a call, the first or the second: numbers of float32, in any layer."""
    made = plan_of(call)
    if not (call.training or call.masks_given):
        return [made.expected] * len(call.reverse)
    return [
        doubled(
            drawing.draw(
                made,
                call.seed | (0 if call.masks_given else number << 32),
                batch=call.batch,
                timesteps=call.timesteps,
                features=call.features,
                units=call.options["units"],
                direction=int(reverse),
            )
        )
        for reverse in call.reverse
    ]


@pytest.mark.filterwarnings("ignore:.*forgets at evaluation:UserWarning")
@in_parts
@pytest.mark.parametrize("kind", KINDS)
@share("keras", among=len(KINDS))
@given(data=st.data())
def test_a_layer_is_the_oracle(kind: str, part: int, data: st.DataObject) -> None:
    call = data.draw(calls(kind))
    layer, numbers = made(call), Given(call)
    layer.set_weights([w for weights in numbers.weights for w in weights])
    dtype = getattr(torch, call.options["dtype"])
    options: dict[str, Any] = {"training": call.training, "mask": on_torch(numbers.running)}
    if call.masks_given:
        options["masks"] = layer.draw_masks(call.batch, call.timesteps, seed=call.seed)
    states = numbers.states if call.state else None
    if states is not None:
        options["initial_state"] = [torch.tensor(s, dtype=dtype) for one in states for s in one]
    for number in range(1 + call.options["stateful"]):
        masks = masks_of(call, number)
        x = torch.tensor(numbers.x, dtype=dtype, requires_grad=True)
        made_of_x = layer(x, **options)
        shown = list(made_of_x) if call.options["return_state"] else [made_of_x]
        leaves = [x, *(weight.value for weight in layer.trainable_weights)]
        gradients = torch.autograd.grad(weighed(shown), leaves, materialize_grads=True)
        if call.options["stateful"]:
            shown[1:] = [state for one in carried(layer) for state in one]
        compare(
            [*shown, *gradients],
            numbers.oracle(masks, states)[: len(shown)],
            lambda near, masks=masks, states=states: numbers.oracle(masks, states, near),
            call.options["dtype"],
        )
        if call.options["stateful"]:  # it goes on from where it was
            options.pop("initial_state", None)
            states = [[s.numpy().astype(np.float64) for s in one] for one in carried(layer)]


def carried(layer: Any) -> list[list[torch.Tensor]]:
    """The states that a stateful layer, or both of Bidirectional's, begin the next call with."""
    both = isinstance(layer, keras.layers.Bidirectional)
    each = [layer.forward_layer, layer.backward_layer] if both else [layer]
    return [[state.value.detach().clone() for state in one.states] for one in each]
