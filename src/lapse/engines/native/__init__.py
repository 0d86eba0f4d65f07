"""PyTorch's own fused call, with masks applied to what it reads and returns.

It runs wherever PyTorch has a recurrent kernel: cuDNN, MIOpen, MPS, oneDNN. Masks of x and y are
multiplied before and after the call. Masks of W and U are multiplied into the weights, and so is a
mask of h that is the same for all samples and steps.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from lapse.core.masks import Masks
from lapse.engines.interface import Call, Engine

_FOLDED = ("x", "y", "W", "U")
_SHORT = 8  # timesteps; measured: up to here the C++ kernels are slower, because of their overhead


class Native(Engine):
    """`torch._VF.lstm`, `gru`, `rnn_tanh` and `rnn_relu`."""

    name = "native"
    title = "PyTorch's own kernel"

    def concerns(self, call: Call) -> bool:
        return call.backend.name == "torch"

    def obstacle(self, call: Call) -> str | None:
        backend = call.backend
        if backend.name != "torch":
            return f"the backend is {backend.name}"
        if backend.in_graph():
            return "torch.compile and torch.export would unroll it"
        if (slot := _inside(call)) is not None:
            return f"the mask of {slot} acts inside the recurrence"
        if call.running is not None and call.lengths is None:
            return "it takes padding as lengths, and the call has a mask"
        if call.cell == "GRU" and not call.reset_after:
            return "its GRU has reset_after=True"
        if call.exporting:
            return "the model is exported, to run elsewhere"
        known = (call.cell, call.activation) in backend.steps
        if call.recurrent_activation is not None or not known:
            return "its activations are tanh and sigmoid"
        device = backend.device(call.x)
        if device == "meta":
            return "the input is on the device meta"
        if call.lengths is not None and call.x.shape[0] == 0:
            return "it can't pack an empty batch"
        projected = call.weights[-1] is not None  # last in both layouts
        if projected and device == "cpu" and backend.dtype(call.x) == "float32":
            return "oneDNN has no projection of h"
        return backend.transform(call)

    def objection(self, call: Call) -> str | None:
        if call.backend.device(call.x) != "cpu":
            return None
        if call.backend.dtype(call.x) in ("float16", "bfloat16"):
            return "the C++ kernels compute in float32"
        if call.lengths is not None:
            return "the C++ kernels skip padding without packing"
        timesteps = call.x.shape[1]
        if timesteps == 1 or (timesteps <= _SHORT and not call.backend.records()):
            return None
        return "the C++ kernels are faster"

    def reason(self, call: Call) -> str:
        if call.backend.device(call.x) == "cpu":
            return "it has the least overhead for so short a call"
        return "no mask acts inside the recurrence"

    def unroll(self, call: Call, masks: Masks) -> tuple[Any, tuple]:
        return self.run(call, masks)

    def run(self, call: Call, masks: Masks) -> tuple[Any, tuple]:
        found: tuple[Any, tuple] = _module().run(call, masks)
        return found


@cache
def _module() -> Any:
    """Imports PyTorch, which other backends do not need."""
    return import_module("lapse.engines.native.run")


def _inside(call: Call) -> str | None:
    """A slot whose mask can't be applied outside the recurrence; None if there is no such slot."""
    if call.masks is not None:
        given = {slot: mask for slot, mask in call.masks._asdict().items() if mask is not None}
        return next((s for s, mask in given.items() if not _folds(s, _constant(mask))), None)
    for slot, _ in call.plan.slots:
        acts = call.training or getattr(call.plan.expected, slot) is not None
        if acts and not _folds(slot, not call.training or slot not in call.plan.apart):
            return slot
    return None


def _folds(slot: str, constant: bool) -> bool:
    return slot in _FOLDED or (slot == "h" and constant)


def _constant(mask: Any) -> bool:
    """Whether a mask is the same for all samples and steps."""
    return isinstance(mask, float) or tuple(mask.shape[:2]) == (1, 1)


NATIVE = Native()
