"""The modules as they leave: torch.export's programs, and ONNX's, for any batch and time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from lapse.torch import GRU, LSTM, RNN
from torch_support import flat, in_every_module

B = T = Dim.DYNAMIC
SIZES = [(3, 6), (4, 11), (1, 1), (2, 31)]
STACK: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
IDENTITY = "x:.3@BTF h:.4@BFG U:.2@IO y:.2@BTF"  # in evaluation
CASES: list[tuple[type, dict[str, Any], str]] = [
    (LSTM, {}, "LSTM"),
    (LSTM, {**STACK, "noise": IDENTITY, "dropout": 0.3}, "LSTM"),
    (LSTM, {"bidirectional": True, "noise": "c:.4@BTF>prev s:.1@BTF>prev"}, "Scan"),
    (LSTM, {"noise": "i:.2@BF o:.3@BTF"}, "Scan"),
    (GRU, {"noise": IDENTITY}, "GRU"),
    (GRU, {**STACK, "bias": False}, "GRU"),
    (GRU, {"num_layers": 2, "noise": "s:.3@BTF>prev"}, "Scan"),
    (RNN, {**STACK, "noise": IDENTITY}, "RNN"),
    (RNN, {"nonlinearity": "relu", "bidirectional": True}, "RNN"),
    (RNN, {"nonlinearity": "relu", "noise": "s:.3@BTF>prev"}, "Scan"),
]  # fmt: skip
IDS = [f"{ours.__name__} {options}" for ours, options, _ in CASES]
in_every_case = pytest.mark.parametrize(("ours", "options", "operator"), CASES, ids=IDS)
# layout, whether states are given, whether lengths are
CALLS = [("batch first", True, True), ("time first", False, False)]
in_every_call = pytest.mark.parametrize("call", CALLS, ids=str)
pytestmark = pytest.mark.filterwarnings(  # of PyTorch and of onnxscript, about themselves
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:The .grad attribute:UserWarning",
    "ignore:torch.compile is ignored when called inside:UserWarning",
)


def made(ours: type, options: dict[str, Any], call: tuple = ("batch first",), **others: Any) -> Any:
    torch.manual_seed(0)
    return ours(5, 7, batch_first=call[0] == "batch first", **options, **others).eval()


def inputs(module: Any, call: tuple, batch: int, timesteps: int) -> dict[str, Any]:
    layout, states, lengths = call
    dtype = module.weight_hh_l0.dtype
    shape = (batch, timesteps, 5) if layout == "batch first" else (timesteps, batch, 5)
    rows = (len(module.sublayers()), batch, 7)
    given: dict[str, Any] = {"input": torch.randn(*shape, dtype=dtype)}
    if states:
        h, c = torch.randn(*rows, dtype=dtype), torch.randn(*rows, dtype=dtype)
        given["hx"] = (h, c) if module.mode == "LSTM" else h
    if lengths:
        given["lengths"] = torch.randint(1, timesteps + 1, (batch,))
    return given


def dynamic(module: Any, call: tuple) -> dict[str, Any]:
    layout, states, lengths = call
    shapes: dict[str, Any] = {"input": {0: B, 1: T} if layout == "batch first" else {0: T, 1: B}}
    if states:
        shapes["hx"] = ({1: B}, {1: B}) if module.mode == "LSTM" else {1: B}
    if lengths:
        shapes["lengths"] = {0: B}
    return shapes


def run(path: Path, given: dict[str, Any]) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path)
    arrays = []
    for value in given.values():
        arrays += [part.numpy() for part in (value if isinstance(value, tuple) else (value,))]
    names = [one.name for one in session.get_inputs()]
    return [torch.tensor(a) for a in session.run(None, dict(zip(names, arrays, strict=True)))]


# torch.export.


def check_program(module: Any, call: tuple, kind: str, strict: bool = False) -> None:
    program = torch.export.export(
        module, (), inputs(module, call, 3, 6), dynamic_shapes=dynamic(module, call), strict=strict
    )
    found = Counter(str(node.target) for node in program.graph.nodes)
    assert found[kind] == len(module.sublayers())
    for one in (program.module(), program.run_decompositions().module()):
        for batch, timesteps in SIZES:
            given = inputs(module, call, batch, timesteps)
            for a, b in zip(flat(one(**given)), flat(module(**given)), strict=True):
                torch.testing.assert_close(a, b)


@in_every_call
@in_every_case
def test_exported_programs_compute_what_the_module_does(
    ours: type, options: dict[str, Any], operator: str, call: tuple
) -> None:
    """With the kernel as one operator, whatever evaluation has in it; strict and not."""
    module = made(ours, options, call)
    kind = "scan" if options.get("nonlinearity") == "relu" else "lapse.layer.default"
    check_program(module, call, kind, strict=call == CALLS[1])


@in_every_module
def test_exported_programs_without_the_kernel_scan(ours: type) -> None:
    """Of any length: a loop would have been written down for as many steps as the sample has."""
    options = {"bidirectional": True, "noise": "s:.3@BTF>prev", "engine": "reference"}
    check_program(made(ours, options, CALLS[0]), CALLS[0], "scan")


def test_exported_programs_are_saved_and_loaded(tmp_path: Path) -> None:
    module = made(LSTM, {**STACK, "noise": "c:.4@BTF>prev"})
    program = torch.export.export(module, (torch.randn(3, 6, 5),), dynamic_shapes=({0: B, 1: T},))
    torch.export.save(program, tmp_path / "module.pt2")
    x = torch.randn(4, 11, 5)
    loaded = torch.export.load(tmp_path / "module.pt2").module()
    for a, b in zip(flat(loaded(x)), flat(module(x)), strict=True):
        assert torch.equal(a, b)


# ONNX.


@in_every_call
@in_every_case
def test_onnx_computes_what_the_module_does(
    ours: type, options: dict[str, Any], operator: str, call: tuple, tmp_path: Path
) -> None:
    module, path = made(ours, options, call), tmp_path / "module.onnx"
    torch.onnx.export(
        module, (), path, kwargs=inputs(module, call, 3, 6),
        dynamic_shapes=dynamic(module, call), verbose=False,
    )  # fmt: skip
    found = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert {name: found[name] for name in ("LSTM", "GRU", "RNN", "Scan") if found[name]} == {
        operator: len(module.sublayers())
    }
    for batch, timesteps in SIZES:
        given = inputs(module, call, batch, timesteps)
        for a, b in zip(run(path, given), flat(module(**given)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@in_every_module
def test_onnx_of_float64_scans(ours: type, tmp_path: Path) -> None:
    """onnxruntime runs the recurrent operators in float32 alone."""
    module, path = made(ours, {}).double(), tmp_path / "module.onnx"
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    torch.onnx.export(module, (x,), path, dynamic_shapes=({0: B, 1: T},), verbose=False)
    x = torch.randn(4, 11, 5, dtype=torch.float64)
    for a, b in zip(run(path, {"input": x}), flat(module(x)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


class Net(nn.Module):
    """What comes after a layer depends on its sizes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.readout = layer, nn.Linear(7, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.layer(x)[0]
        return self.readout(y[:, -1]), y.mean(1), y.flatten(0, 1)


@pytest.mark.parametrize("noise", ["", "s:.3@BTF>prev"], ids=["operator", "scan"])
@in_every_module
def test_onnx_of_a_model_around_a_layer(ours: type, noise: str, tmp_path: Path) -> None:
    net, path = Net(ours(5, 7, batch_first=True, noise=noise)).eval(), tmp_path / "net.onnx"
    shapes = ({0: B, 1: T},)
    torch.onnx.export(net, (torch.randn(3, 6, 5),), path, dynamic_shapes=shapes, verbose=False)
    x = torch.randn(4, 11, 5)
    for a, b in zip(run(path, {"x": x}), net(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@in_every_module
def test_the_older_exporter_writes_every_step_down(ours: type, tmp_path: Path) -> None:
    """For as many as the sample has; any batch."""
    net = Net(ours(5, 7, batch_first=True, noise="s:.3@BTF>prev")).eval()
    path = tmp_path / "net.onnx"
    torch.onnx.export(
        net, (torch.randn(3, 6, 5),), path, dynamo=False,
        input_names=["x"], dynamic_axes={"x": {0: "batch"}},
    )  # fmt: skip
    x = torch.randn(4, 6, 5)
    for a, b in zip(run(path, {"x": x}), net(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Exporting a model while it is in training mode")
@in_every_module
def test_onnx_in_training_is_refused_in_words(ours: type, tmp_path: Path) -> None:
    module = ours(5, 7, noise="x:.5@BF")
    with pytest.raises(torch.onnx.OnnxExporterError, match=r"call model\.eval\(\) before"):
        torch.onnx.export(module, (torch.randn(6, 3, 5),), tmp_path / "module.onnx", verbose=False)


@in_every_module
def test_onnx_where_the_kernel_is_asked_for_is_refused_in_words(ours: type, tmp_path: Path) -> None:
    module = ours(5, 7, engine="cpu").eval()
    with pytest.raises(torch.onnx.OnnxExporterError, match="the model is exported, to run"):
        torch.onnx.export(module, (torch.randn(6, 3, 5),), tmp_path / "module.onnx", verbose=False)
