"""ONNX's own LSTM, GRU and RNN, for evaluation without factors from noise.

All other layers are exported by `torch.onnx.export` as the plain loop, in one Scan over time.
"""

from __future__ import annotations

from typing import Any

from lapse.core.masks import Masks
from lapse.engines.interface import Call, Engine


class Onnx(Engine):
    """One operator of ONNX for a layer. It is chosen only in an export, never by name."""

    name = "onnx"
    title = "ONNX's own operator"

    def concerns(self, call: Call) -> bool:
        return call.exporting and call.backend.name == "torch"

    def obstacle(self, call: Call) -> str | None:
        from lapse.engines.onnx.operator import impossible

        return impossible(call)

    def unroll(self, call: Call, masks: Masks) -> tuple[Any, tuple]:
        from lapse.engines.onnx.operator import run

        return run(call)


ONNX = Onnx()
