"""Generates pages of docs/ from the code; with --check, only reports which are out of date.

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

from lapse.bench.report import markdown
from lapse.cli import main as lapse_command
from lapse.core.forms import examples
from lapse.core.rules import CELLS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"


_TOGETHER = """\
## Combining forms

Forms and terms in one list act together, with at most four terms per site. Each has its own random
numbers, and masks at one site are multiplied. Masks act on the new value first; then `>prev`
(zoneout) replaces some units with their old value. The order in which they are written does not
matter: after `s:0.2@BF!exp s:0.1@BTF>prev` a unit keeps its old value with probability 0.1;
otherwise it has its new value, which is 0 with probability 0.2.

## Other distributions

`~gauss`, `~uniform` and `~concrete` draw multipliers from another distribution than Bernoulli's.
With the scale `inv`, Bernoulli, `gauss` and `uniform` multipliers have mean 1 and variance
rate / (1 - rate). The variance of `concrete` is 8.5 to 9.9 % smaller (most at rate 0.5), because at
its temperature of 0.1 some multipliers are between its two ends. Its mean is at most 0.2 % below 1
and, at rates near 1, up to 1.7 % above 1.

## Spans

`T[L]` and `F[L]` drop spans of 1 to L steps or features, with L up to 65536. Drawing them costs
time proportional to timesteps + L.
"""


def forms() -> str:
    """One section per form."""
    sections = [
        "# The forms\n\nPublished dropout methods by name. `rate` is always the probability of "
        "dropping. `src/lapse/core/noise.py` has the grammar of the terms, "
        "`src/lapse/core/rules.py` the rules that they must follow.\n",
        _TOGETHER,
    ]
    for example in examples():
        form = type(example)
        sites = [term.site for term in example.terms]
        cells = [
            cell
            for cell in ("LSTM", "GRU", "SimpleRNN")
            if all(site in CELLS[cell] for site in sites)
        ]
        where = ", ".join(cells) if cells else "an embedding table"
        sections.append(
            f"## {form.__name__}\n\n{inspect.getdoc(form)}\n\n"
            f"- example: `{example!r}`\n- terms: `{' '.join(map(str, example.terms))}`\n"
            f"- for: {where}\n- paper: {form.paper}\n"
        )
    return "\n".join(sections)


def cli() -> str:
    """The help texts of all commands."""
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
    """The tables of all results that were not measured with --quick."""
    whole = sorted(path for path in RESULTS.glob("*.json") if not path.stem.endswith("-quick"))
    return markdown([json.loads(path.read_text(encoding="utf-8")) for path in whole])


def main() -> None:
    """Writes the pages, or checks them."""
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
