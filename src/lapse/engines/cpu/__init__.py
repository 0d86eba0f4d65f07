"""The C++ kernels of `csrc/`: all cells and masks, on a CPU, in float32."""

from __future__ import annotations

from typing import Any

from lapse.engines.arrays import Gradients, Results
from lapse.engines.cpu import passes
from lapse.engines.cpu.loading import extension, instruction_set
from lapse.engines.fused import Fused
from lapse.engines.interface import Call

_COMPUTED = ("float32", "float16", "bfloat16")


class Cpu(Fused):
    """Half precision is computed in float32."""

    name = "cpu"

    title = "the C++ kernels" + (f" ({instruction_set()})" if extension() else "")

    def obstacle(self, call: Call) -> str | None:
        if extension() is None:
            return "lapse was installed without a C++ compiler"
        if call.exporting:
            return "the model is exported, to run without lapse"
        if (missing := self.missing(call)) is not None:
            return missing
        backend = call.backend
        if (device := backend.device(call.x)) != "cpu":
            return f"the input is on the device {device}"
        masks = [mask for mask in call.masks or () if hasattr(mask, "dtype")]
        for array in (call.x, *call.weights, *masks, *(call.initial_state or ())):
            if array is not None and (dtype := backend.dtype(array)) not in _COMPUTED:
                return f"they compute in float32, and were given {dtype}"
        if any(map(backend.wants_gradient, masks)):
            return "they have no gradients for masks"
        if call.weights[-1] is not None:  # last in both layouts
            return "they have no projection of h"
        if call.activation is not None or call.recurrent_activation is not None:
            return "their activations are tanh and sigmoid"
        return backend.transform(call)

    def forward(self, *given: Any, **options: Any) -> Results:
        return passes.forward(*given, **options)

    def backward(self, *given: Any, **options: Any) -> Gradients:
        return passes.backward(*given, **options)


CPU = Cpu()
