"""Which of lapse's code determines the numbers of a run: after an edit of it, runs are repeated."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import lapse
from lapse.engines.cpu.loading import extension

_NO_EFFECT = (  # on the numbers: code that reports or measures times, and the unused front-end
    "bench/",
    "keras/",
    "cli.py",
    "machine.py",
    *(
        f"compare/{name}.py"
        for name in ("answer", "compare", "console", "plots", "report", "statistics", "step_times")
    ),
)


@cache
def digest() -> str:
    """A digest of the code that determines the numbers of a run."""
    found = hashlib.sha256()
    for path in sources():
        content = path.read_bytes()
        found.update(f"{path.name} {len(content)} ".encode() + content)
    return found.hexdigest()


def sources() -> list[Path]:
    """The compiled kernels, and all files of the package but those known to have no effect."""
    package = Path(lapse.__file__).parent
    found = [
        path
        for path in sorted(package.rglob("*.py"))
        if not path.relative_to(package).as_posix().startswith(_NO_EFFECT)
    ]
    return found if (kernels := extension()) is None else [*found, Path(kernels.__file__)]
