"""Writes the pages of docs/ that follow from the code; with --check says which are out of date.

python scripts/make_docs.py [--check]
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
from pathlib import Path

import lapse
from lapse.cli import main as lapse_command
from lapse.forms import FORMS
from lapse.rules import CELLS

DOCS = Path(__file__).parent.parent / "docs"


def forms() -> str:
    """One section a form."""
    sections = [
        "# The forms\n\nPublished dropout methods by name. `rate` is always the probability of "
        "dropping. `src/lapse/noise.py` has the grammar of the terms, "
        "`src/lapse/rules.py` the ten rules.\n"
    ]
    for form in FORMS:
        example = form(0.5, 0.5) if form is lapse.KerasDropout else form()
        sites = [term.site for term in example.terms]
        cells = [
            cell
            for cell in ("LSTM", "GRU", "SimpleRNN")
            if all(site in CELLS[cell] for site in sites)
        ]
        where = ", ".join(cells) if cells else "an embedding table"
        sections.append(
            f"## {form.__name__}\n\n{inspect.getdoc(form)}\n\n"
            f"- as written: `{example!r}`\n- terms: `{' '.join(map(str, example.terms))}`\n"
            f"- for: {where}\n- paper: {form.paper}\n"
        )
    return "\n".join(sections)


def cli() -> str:
    """The help of every command."""
    os.environ["COLUMNS"] = "96"
    parts = ["# The command\n"]
    for arguments in (["--help"], ["compare", "--help"], ["forms", "--help"]):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            lapse_command(arguments)
        command = " ".join(["lapse", *arguments])
        parts.append(f"```\n$ {command}\n{printed.getvalue().rstrip()}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Writes or checks the pages."""
    stale = []
    for name, text in {"forms.md": forms(), "cli.md": cli()}.items():
        path = DOCS / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.exit(f"docs/{', docs/'.join(stale)} are out of date: run python scripts/make_docs.py")


if __name__ == "__main__":
    main()
