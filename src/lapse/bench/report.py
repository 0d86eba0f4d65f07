"""The result as tables: on the terminal, and as docs/speed.md."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from lapse.bench.run import Row

HEAD = ("case", "measured", "over", "value", "must", "aim", "", "ms", "quartiles", "GF/s", "error")


def tables(result: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Title and lines of each table, in the order in which they were measured."""
    rows = [Row(**row) for row in result["rows"]]
    order = {row.what: n for n, row in reversed(list(enumerate(rows)))}
    for what, some in groupby(sorted(rows, key=lambda row: order[row.what]), lambda row: row.what):
        yield what, [line(row) for row in some]


def line(row: Row) -> tuple[str, ...]:
    """The cells of a row, under HEAD."""

    def bound(value: float | None) -> str:
        if value is None:
            return ""
        return f"{'>=' if row.unit == '%' else '<='} {value:g}"

    spread = "" if row.low is None or row.high is None else f"{row.low:.3g} to {row.high:.3g}"
    over = f"{row.peer} ({row.peer_ms:.3g} ms)" if row.peer_ms is not None else row.peer
    return (
        row.case,
        row.subject,
        over,
        row.note or _value(row),
        bound(row.must),
        bound(row.aim),
        {True: "met", False: "MISSED", None: ""}[row.met],
        "" if row.ms is None else f"{row.ms:.3g}",
        spread,
        "" if row.gflops is None else f"{row.gflops:.0f}",
        "" if row.error is None else f"{row.error:.1e}",
    )


def _value(row: Row) -> str:
    if row.value is None:
        return ""
    return {
        "%": f"{row.value:.0f} %",
        "s": f"{row.value:.3f} s",
        "bytes": f"{row.value:g}",
        "ratio": f"{row.value:.2f}",
    }[row.unit]


def markdown(results: list[dict[str, Any]]) -> str:
    """The page docs/speed.md, with a part for each processor."""
    return "\n".join(["# Speed\n", HOW, *(part for one in results for part in _on(one))])


HOW = """Measured by `make bench`; this page is made from what it writes into `benchmarks/results/`.

A figure is the time of a whole training step over that of its peer: forward with freshly drawn
masks, then the gradients of the input and all weights. Both take turns in one process (Keras's
backends in a process each, which also take turns), every other round in the opposite order; the
figure is the median of the rounds' ratios, beside it are the median time and the quartiles.
Compiling and first calls are left out. The processor's peak is a peer as well: as many
multiply-adds as the products have, done in registers, so that a processor which slows down counts
for neither side.

Before anything is timed, its output and all gradients are compared with the plain loop of
`cells.py` in float64, with the same weights and masks: that of lapse's layers, of PyTorch's, packed
or not, and of the loop over a cell (of Keras's layers, lapse's only). `error` is the largest
difference, relative to the largest entry or to 1. What is wrong has no time.

Shapes are (batch, timesteps, features, units): S1 (32, 100, 64, 128), S2 (32, 100, 128, 512), S4
(1, 1000, 64, 256). In padded batches the n-th of B samples has (n/B)^2 of the steps. GF/s counts
the products only. Ratios differ between processors: run it on yours.
"""


def _on(result: dict[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    commit = f" ({machine['commit']})" if machine.get("commit") else ""
    yield (
        f"## On {machine['processor']}\n\n{machine['threads']} threads, "
        f"{machine['instruction_set']}, {machine['peak_gflops']:g} GF/s in multiply-adds of "
        f"registers; lapse {machine['lapse']}{commit}, Python {machine['python']}, {versions}; "
        "load average at the start "
        f"{machine['load']:g}.\n"
    )
    for what, lines in tables(result):
        used = [n for n in range(len(HEAD)) if any(cells[n] for cells in lines)]
        table = [[HEAD[n] for n in used], ["---"] * len(used)]
        table += [[cells[n] for n in used] for cells in lines]
        rows = "\n".join("| " + " | ".join(cells) + " |" for cells in table)
        yield f"### {what}\n\n{rows}\n"
