"""The result as tables: on the terminal, and as the page docs/speed.md."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from lapse.bench.run import Row

HEAD = (
    "case",
    "measured",
    "baseline",
    "value",
    "required",
    "goal",
    "",
    "ms",
    "quartiles",
    "GFLOP/s",
    "error",
)


def tables(result: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Title and lines of each table, in the order of measurement."""
    rows = [Row(**row) for row in result["rows"]]
    order = {row.what: n for n, row in reversed(list(enumerate(rows)))}
    for what, some in groupby(sorted(rows, key=lambda row: order[row.what]), lambda row: row.what):
        yield what, [line(row) for row in some]


def line(row: Row) -> tuple[str, ...]:
    """The cells of a row, in the order of HEAD."""

    def bound(value: float | None) -> str:
        if value is None:
            return ""
        return f"{'>=' if row.unit == '%' else '<='} {value:g}"

    spread = "" if row.low is None or row.high is None else f"{row.low:.3g} to {row.high:.3g}"
    baseline = row.baseline
    if row.baseline_ms is not None:
        baseline += f" ({row.baseline_ms:.3g} ms)"
    return (
        row.case,
        row.subject,
        baseline,
        row.note or _value(row),
        bound(row.required),
        bound(row.goal),
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
    """The page docs/speed.md, with a section for each processor."""
    return "\n".join(["# Speed\n", METHOD, *(part for one in results for part in _section(one))])


METHOD = """`make bench` measures these figures and writes them to `benchmarks/results/`;
`scripts/make_docs.py` turns them into this page. Ratios differ between processors, so measure on
your own.

**Times.** Unless a table says otherwise, `value` is the time of a whole training step divided by
the time of the baseline's step. A step draws new masks, runs forward, and computes the gradients of
the input and all weights. The measured layer and the baseline take turns in one process, and every
other round runs in reverse order. (Each Keras backend has its own process; the processes take turns
too.) `value` is the median of the ratios of all rounds, `ms` the median time of the measured layer.
Compilation and first calls are not included.

**Correctness.** Before anything is timed, its output and all gradients are compared with those of
the reference loop (`cells.py`) in float64, with the same weights and masks. This includes PyTorch's
layers and the loops over cells, but not Keras's own layers. `error` is the largest difference,
relative to the largest entry or to 1. A layer whose error is too large is not timed.

**Peak.** The share of the processor's peak compares a step with the same number of multiply-adds on
registers. These run in turns with the layer, so a change of the clock rate affects both. GFLOP/s
counts the matrix products only.

**Shapes** are (batch, timesteps, features, units): S1 is (32, 100, 64, 128), S2 is (32, 100, 128,
512), S4 is (1, 1000, 64, 256). In padded batches the n-th of B samples has (n/B)^2 of the
timesteps.
"""


def _section(result: dict[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    commit = f" ({machine['commit']})" if machine.get("commit") else ""
    yield (
        f"## {machine['processor']}\n\n{machine['threads']} threads, "
        f"{machine['instruction_set']}, peak {machine['peak_gflops']:g} GFLOP/s; "
        f"lapse {machine['lapse']}{commit}, Python {machine['python']}, {versions}; "
        f"load average before the start {machine['load']:g}.\n"
    )
    for what, lines in tables(result):
        used = [n for n in range(len(HEAD)) if any(cells[n] for cells in lines)]
        table = [[HEAD[n] for n in used], ["---"] * len(used)]
        table += [[cells[n] for n in used] for cells in lines]
        rows = "\n".join("| " + " | ".join(cells) + " |" for cells in table)
        yield f"### {what}\n\n{rows}\n"
