"""Which files determine the numbers of a run, so that it is repeated after an edit of one."""

from pathlib import Path

import pytest

from lapse.compare import sources
from test_layering import FILES, ROOT, module_of, modules

FILE_OF = {module_of(file): file for file in FILES}


@pytest.mark.parametrize(
    "file",
    [
        "engines/cpu/passes.py",
        "engines/choice.py",
        "engines/fused.py",
        "core/masks.py",
        "__init__.py",
    ],
)
def test_runs_are_repeated_after_an_edit_of_what_trains(file, monkeypatch):
    """Otherwise a study would compare versions of the code instead of placements."""
    before = sources.digest.__wrapped__()
    edited, read = ROOT / file, Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path) + b"#" if path == edited else read(path)
    )
    assert sources.digest.__wrapped__() != before


def test_everything_that_training_imports_is_a_source():
    """Follows all imports, so that a new folder can't be forgotten."""
    known, found, todo = set(sources.sources()), set(), {ROOT / "compare/training.py"}
    while todo:
        file = todo.pop()
        found.add(file)
        names = {name for name in modules(file) if name.startswith("lapse")}
        parents = {name.rpartition(".")[0] for name in names} - {""}
        # `predict` imports lapse.keras for Keras models only, and none is trained here.
        own = {name for name in names | parents if not name.startswith("lapse.keras")}
        todo |= {FILE_OF[name] for name in own if name in FILE_OF} - found
    assert {file.relative_to(ROOT).parts[0] for file in found} > {
        "engines",
        "backends",
        "torch",
        "compare",
    }
    assert found <= known


def test_what_only_reports_is_not_a_source():
    """An edit of the report must not repeat hours of training."""
    names = {path.name for path in sources.sources() if path.parent.name == "compare"}
    assert not names & {"answer.py", "console.py", "plots.py", "report.py", "statistics.py"}
    assert not {"keras", "bench"} & {path.parent.name for path in sources.sources()}
