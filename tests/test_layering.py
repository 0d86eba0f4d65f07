"""Which module may know which, read from the source without running it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lapse

ROOT = Path(lapse.__file__).parent
CORE = {  # what a file of core/ may import of it: an arrow that isn't here is a decision
    "errors": set(),
    "advice": set(),
    "philox": set(),
    "schedule": {"errors"},
    "rules": {"advice", "errors"},
    "noise": {"advice", "errors", "rules", "schedule"},
    "forms": {"errors", "noise"},
    "masks": {"errors"},
    "plan": {"advice", "errors", "masks", "noise", "rules"},
    "backend": {"philox"},
    "numpy_backend": {"backend", "philox"},
    "laws": {"backend", "noise"},
    "drawing": {
        *("backend", "errors", "laws", "masks", "noise", "numpy_backend", "philox", "plan"),
    },
    "weights": {"backend"},
    "cells": {"backend", "masks", "numpy_backend", "plan", "weights"},
}
TOP = {  # the same for the modules beside the folders, of all of lapse
    "cli": {"bench.console", "compare.console", "core.errors", "core.forms"},
    "explain": {"core.errors", "core.masks", "core.noise", "core.plan"},
    "files": {"core.errors"},
    "machine": set(),
    "predict": {  # the two front-ends once it is known whose model it is
        *("core.errors", "keras.monte_carlo", "torch.monte_carlo", "uncertainty"),
    },
    "uncertainty": {"core.errors"},
}
FRAMEWORKS = {"torch", "keras", "tensorflow", "jax", "jaxlib", "scipy", "matplotlib", "rich"}
# What the comparison may use of lapse: its public front-ends, the core,
# and which engine made its numbers.
PUBLIC = {
    "lapse",
    "lapse.torch",
    "lapse.keras",
    "lapse.engines.cpu.loading",
    *(f"lapse.core.{name}" for name in CORE),
    *(f"lapse.{name}" for name in TOP if name != "cli"),
}

RUN_BY_TORCH = ("native/run.py", "onnx/operator.py")  # of engines/

FILES = sorted(ROOT.rglob("*.py"))


def files(*folders: str) -> pytest.MarkDecorator:
    """Runs a test for each file in these folders of the package, or in all."""
    chosen = [f for f in FILES if not folders or f.relative_to(ROOT).parts[0] in folders]
    assert chosen
    return pytest.mark.parametrize("file", chosen, ids=lambda file: str(file.relative_to(ROOT)))


def module_of(file: Path) -> str:
    parts = ("lapse", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(file: Path) -> ast.Module:
    """A file's syntax."""
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> list[tuple[str, str | None]]:
    """(module, name) of each import, (module, None) for `import module`; not for types only."""
    for_types = {
        id(inner)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(tree(file)):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file.name} imports relatively"
            found += [(str(node.module), alias.name) for alias in node.names]
    return found


def modules(file: Path) -> set[str]:
    """The modules that a file imports; `from lapse import masks` is lapse.core.masks."""
    known = {module_of(other) for other in FILES}
    return {
        f"{module}.{name}" if f"{module}.{name}" in known else module
        for module, name in imports(file)
    }


def test_every_module_is_in_a_table() -> None:
    """A new file has to say here what it may import."""
    assert {file.stem for file in (ROOT / "core").glob("*.py")} - {"__init__"} == set(CORE)
    assert {file.stem for file in ROOT.glob("*.py")} - {"__init__"} == set(TOP)


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_itself_and_numpy(name: str) -> None:
    """The core runs where there is no framework, and knows nothing of what is built on it."""
    for module in modules(ROOT / "core" / f"{name}.py"):
        top = module.partition(".")[0]
        if top == "lapse":
            allowed = {f"lapse.core.{other}" for other in CORE[name]}
            assert module in allowed, f"{name} imports {module}"
        else:
            assert top == "numpy" or top in sys.stdlib_module_names, f"{name} imports {module}"


def test_the_core_has_no_cycles() -> None:
    """One direction: each module can be read and tested after those that it imports."""
    graph = {
        name: {
            module.removeprefix("lapse.core.") for module in modules(ROOT / "core" / f"{name}.py")
        }
        & set(CORE)
        for name in CORE
    }
    order = list(TopologicalSorter(graph).static_order())  # raises on a cycle
    assert order.index("rules") < order.index("noise") < order.index("forms")
    assert order.index("noise") < order.index("plan") < order.index("drawing")
    assert order.index("plan") < order.index("cells")
    assert order.index("philox") < order.index("drawing")
    assert "forms" not in set().union(*graph.values())  # engines see slots, never papers


@pytest.mark.parametrize("name", TOP)
def test_modules_beside_the_core(name: str) -> None:
    """What `import lapse` offers needs no front-end, except where a model comes from one."""
    for module in modules(ROOT / f"{name}.py"):
        if module.startswith("lapse."):
            assert module.removeprefix("lapse.") in TOP[name], f"{name} imports {module}"


def test_the_package_imports_no_front_end() -> None:
    """`import lapse` must not pull one in."""
    beside = {f"lapse.{name}" for name in TOP if name != "cli"}
    assert modules(ROOT / "__init__.py") <= {f"lapse.core.{name}" for name in CORE} | beside


@files("torch", "keras")
def test_front_ends_do_not_know_each_other(file: Path) -> None:
    """Who has only PyTorch must not need Keras, and the other way round."""
    found = modules(file)
    other = {"torch": "lapse.keras", "keras": "lapse.torch"}[file.relative_to(ROOT).parts[0]]
    above = (other, "lapse.compare", "lapse.cli", "lapse.explain", "lapse.predict")
    assert not [module for module in found if module.startswith(above)]
    if other == "lapse.keras":
        tops = {module.partition(".")[0] for module in found}
        assert not tops & {"keras", "tensorflow", "jax"}


@files("engines")
def test_engines_know_the_core_and_nothing_above_them(file: Path) -> None:
    """Only what runs PyTorch's own calls imports PyTorch, and only once such a call is chosen."""
    calls_torch = file.relative_to(ROOT / "engines").as_posix() in RUN_BY_TORCH
    for module in modules(file):
        top = module.partition(".")[0]
        assert (
            top in sys.stdlib_module_names
            or module == "numpy"
            or module.startswith(("lapse.core.", "lapse.engines"))
            or (calls_torch and top == "torch")
        )


def test_importing_the_engines_loads_no_framework() -> None:
    assert not loaded_by("import lapse.engines") & FRAMEWORKS


@files("backends")
def test_backends_know_one_framework_each(file: Path) -> None:
    """Who has only JAX must not need TensorFlow; and no backend knows a front-end."""
    own = file.relative_to(ROOT / "backends").parts[0].removesuffix(".py")
    for module in modules(file):
        top = module.partition(".")[0]
        assert (
            top in sys.stdlib_module_names
            or top in ("numpy", own)
            or module.startswith(("lapse.core", "lapse.engines", "lapse.backends"))
        )


@files("compare", "bench")
def test_comparing_uses_the_public_front_ends(file: Path) -> None:
    """What is measured must be what a user gets."""
    own = f"lapse.{file.relative_to(ROOT).parts[0]}"
    # The bench measures PyTorch's threads alone, too, and checks layers against the plain loop.
    backends = {"lapse.backends.torch", "lapse.backends.torch.arrays"}
    allowed = PUBLIC | backends if own == "lapse.bench" else PUBLIC
    for module in modules(file):
        if module.partition(".")[0] == "lapse" and not module.startswith(own):
            assert module in allowed, f"{file.name} imports {module}"


@files()
def test_nobody_imports_private_names(file: Path) -> None:
    """A leading underscore is a promise to the module's own later self."""
    for module, name in imports(file):
        if module.partition(".")[0] == "lapse":
            private = [part for part in [*module.split("."), str(name)] if part.startswith("_")]
            assert not private, f"{file.name} imports {module}.{name}"


@files()
def test_nothing_runs_or_fetches_foreign_code(file: Path) -> None:
    """A file of weights, data or settings must never be able to run something."""
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    network = {"urllib.request", "http.client", "ftplib", "socket", "requests", "httpx", "aiohttp"}
    assert not {module for module in modules(file) if module in forbidden | network}
    assert ("urllib", "request") not in imports(file)
    for node in ast.walk(tree(file)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"eval", "exec", "compile", "__import__"}, f"line {node.lineno}"
        assert called not in {"torch.load", "os.system", "os.popen"}, f"line {node.lineno}"
        assert called.rpartition(".")[2] not in {"urlopen", "urlretrieve"}, f"line {node.lineno}"
        for keyword in node.keywords:
            switched_on = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            assert not (keyword.arg in ("allow_pickle", "shell") and switched_on)


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after `statement`."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {module.partition(".")[0] for module in json.loads(result.stdout)}


def test_import_lapse_loads_no_framework() -> None:
    """A framework takes seconds to load, which the command line and the core must not cost."""
    loaded = loaded_by("import lapse")
    assert "lapse" in loaded
    assert not loaded & FRAMEWORKS


def test_import_lapse_torch_loads_no_keras() -> None:
    """The same for the other front-end's framework."""
    assert not loaded_by("import lapse.torch") & {"keras", "tensorflow", "jax"}


def test_a_first_step_waits_for_no_compiler() -> None:
    """PyTorch's takes a second to import, and nothing here needs it."""
    program = """
import sys, torch
from lapse.torch import LSTM
LSTM(3, 4, recurrent_dropout=0.5)(torch.randn(5, 2, 3))[0].sum().backward()
print("torch._dynamo" in sys.modules)
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_importing_lapse_loads_neither_numpy_nor_the_engines() -> None:
    program = "import sys, lapse; print({'numpy', 'lapse.engines'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n"
