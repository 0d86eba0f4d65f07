"""Writes the pages of docs/ that follow from the code; with --check says which are out of date.

python scripts/make_docs.py [--check]
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import sys
from pathlib import Path

import lapse
from lapse.bench.report import markdown
from lapse.cli import main as lapse_command
from lapse.core.forms import FORMS
from lapse.core.noise import text_of
from lapse.core.rules import CELLS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"


_TOGETHER = """\
## Several at once

Forms and terms in one list act together, at most four terms at one site. Each has random numbers
of its own, and masks at one site multiply. Masks act on the new value first, and then `>prev`
(zoneout) puts the old value in its place, whichever is written first: after
`s:0.2@BF!exp s:0.1@BTF>prev` a unit holds its old value with probability 0.1, and else its new one,
which is 0 with probability 0.2.

## Other laws

`~gauss`, `~uniform` and `~concrete` multiply by other numbers than 0 and 1. With the scale
`inv` a coin, `gauss` and `uniform` have mean 1 and variance rate / (1 - rate). The variance of
`concrete` is 8.5 to 9.9 % smaller, most so at rate 0.5, because at its temperature of 0.1 some
numbers lie between its two ends. Its mean is at most 0.2 % below 1 and, at rates near 1, up to
1.7 % above.

## Spans

`T[L]` and `F[L]` drop spans of 1 to L steps or features, where L is at most 65536. Drawing them
costs as much as timesteps + L steps.
"""


def forms() -> str:
    """One section a form."""
    sections = [
        "# The forms\n\nPublished dropout methods by name. `rate` is always the probability of "
        "dropping. `src/lapse/core/noise.py` has the grammar of the "
        "terms, `src/lapse/core/rules.py` the ten rules.\n",
        _TOGETHER,
    ]
    for form in FORMS:
        example = form(0.5, 0.5) if form is lapse.KerasDropout else form()
        sites = [term.site for term in example.terms]
        cells = [cell for cell, own in CELLS.items() if all(site in own for site in sites)]
        where = ", ".join(cells) if cells else "an embedding table"
        sections.append(
            f"## {form.__name__}\n\n{inspect.getdoc(form)}\n\n"
            f"- as written: `{example!r}`\n- terms: `{text_of(example.terms)}`\n"
            f"- for: {where}\n- paper: {form.paper}\n"
        )
    return "\n".join(sections)


def cli() -> str:
    """The help of every command."""
    os.environ["COLUMNS"] = "96"
    parts = ["# The command\n"]
    for arguments in (["--help"], *([name, "--help"] for name in ("compare", "forms", "bench"))):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            lapse_command(arguments)
        command = " ".join(["lapse", *arguments])
        parts.append(f"```\n$ {command}\n{printed.getvalue().rstrip()}\n```\n")
    return "\n".join(parts)


def speed() -> str:
    """The tables of all results but those of a first look."""
    whole = sorted(path for path in RESULTS.glob("*.json") if not path.stem.endswith("-quick"))
    return markdown([json.loads(path.read_text(encoding="utf-8")) for path in whole])


def main() -> None:
    """Writes or checks the pages."""
    stale = []
    pages = {"forms.md": forms(), "cli.md": cli(), "speed.md": speed()}
    for name, text in pages.items():
        path = DOCS / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.exit(f"docs/{', docs/'.join(stale)} are out of date: run python scripts/make_docs.py")


if __name__ == "__main__":
    main()
