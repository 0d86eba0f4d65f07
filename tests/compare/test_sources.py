"""Which files decide the numbers of a run, so that an edit of one makes it run again."""

from pathlib import Path

import pytest

from lapse.compare import study
from test_layering import FILES, ROOT, module_of, modules

FILE_OF = {module_of(file): file for file in FILES}


@pytest.mark.parametrize(
    "file", ["kernels/layer.py", "kernels/dispatch.py", "torch/fused.py", "masks.py", "__init__.py"]
)
def test_an_edit_of_what_trains_runs_again(file, monkeypatch):
    """A stale run beside fresh ones would be a difference between versions, not placements."""
    before = study._code.__wrapped__()
    edited, read = ROOT / file, Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path) + b"#" if path == edited else read(path)
    )
    assert study._code.__wrapped__() != before


def test_all_that_training_imports_decides_its_numbers():
    """A new folder must not be forgotten: wherever an import stands, its file is looked at."""
    sources, found, todo = set(study._sources()), set(), {ROOT / "compare/training.py"}
    while todo:
        file = todo.pop()
        found.add(file)
        names = {name for name in modules(file) if name.startswith("lapse")}
        parents = {name.rpartition(".")[0] for name in names} - {""}
        # `predict` asks whose a model is, and a model that trains here is not Keras's.
        own = {name for name in names | parents if not name.startswith("lapse.keras")}
        todo |= {FILE_OF[name] for name in own if name in FILE_OF} - found
    assert {file.relative_to(ROOT).parts[0] for file in found} > {"kernels", "torch", "compare"}
    assert found <= sources


def test_what_only_reports_decides_no_numbers():
    """A comma in the report must not throw away hours of training."""
    names = {path.name for path in study._sources() if path.parent.name == "compare"}
    assert not names & {"answer.py", "console.py", "plots.py", "report.py", "statistics.py"}
    assert not {"keras", "bench"} & {path.parent.name for path in study._sources()}
