"""The whole benchmark: a plain result, rows of numbers that `report` draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from lapse.bench import check, keras_race, machine, start, steps, timing
from lapse.bench.cases import BOTH, FLOOR, NAMES, S1, S2, Case, Shape, table


@dataclass
class Row:
    """One figure.

    Attributes:
        what: the question; rows with the same one stand in one table.
        case, subject, peer: what was measured, over what.
        value: a ratio of times, unless `unit` says something else; None where it wasn't measured.
        must, aim: what `value` must reach and may aim at, from above unless `unit` is "%".
        ms, low, high: the subject's median time and its quartiles.
        peer_ms: the peer's median time.
        gflops: floating-point operations a second in the subject's products.
        error: how far the subject lies from the plain loop in float64; None if not checked.
        note: why there is no value.
    """

    what: str
    case: str
    subject: str
    peer: str = ""
    value: float | None = None
    unit: str = "ratio"
    must: float | None = None
    aim: float | None = None
    ms: float | None = None
    low: float | None = None
    high: float | None = None
    peer_ms: float | None = None
    gflops: float | None = None
    error: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is what it must be; None where nothing is asked, or nothing was measured."""
        if self.must is None or self.value is None:
            return None
        return self.value >= self.must if self.unit == "%" else self.value <= self.must

    @property
    def wrong(self) -> bool:
        return self.error is not None and not self.error <= check.TOLERANCE


WRONG = "not measured: it computes something else"
Progress = Callable[[str, float], None]


def run(quick: bool, described: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Measures everything.

    Args:
        quick: whether only what a first look needs.
        described: from `machine.describe`.
        progress: hears what comes next, and which share is done.
    """
    cases = table(quick)
    shapes = [] if quick else [(cell, shape) for cell in ("LSTM", "GRU") for shape in (S1, S2)]
    # What each part takes, about: seconds, for the progress.
    weights = [case.seconds + 1 for case in cases] + [60.0 for _ in shapes] + [12.0]
    rows: list[Row] = []
    for n, case in enumerate(cases):
        progress(f"{case.what}: {case.name}", sum(weights[:n]) / sum(weights))
        rows += measure(case)
    for n, (cell, shape) in enumerate(shapes, len(cases)):
        progress(f"Keras: {cell} {NAMES[shape]}", sum(weights[:n]) / sum(weights))
        rows += keras(cell, shape, described["threads"])
    progress("beginning", 1 - weights[-1] / sum(weights))
    rows += beginning()
    return {"machine": described, "quick": quick, "rows": [asdict(row) for row in rows]}


def measure(case: Case) -> list[Row]:
    """The rows of a case: right first, then timed."""
    x, dy = steps.inputs(case)
    flops = case.shape.flops(case.cell)
    modules = {n: steps.build(case, kind) for n, kind in case.subjects.items() if n != FLOOR}
    errors = {name: check.error(module, x, dy) for name, module in modules.items()}
    of_case: dict[str, Any] = {"what": case.what, "case": case.name}
    wrong = [
        Row(**of_case, subject=name, error=apart, note=WRONG)
        for name, apart in errors.items()
        if not apart <= check.TOLERANCE
    ]
    if wrong:  # and nothing of it is timed
        return wrong
    subjects: dict[str, steps.Step] = {n: steps.step(m, x, dy) for n, m in modules.items()}
    if FLOOR in case.subjects:
        subjects[FLOOR] = partial(machine.multiply_adds, flops)
    times = timing.interleave(subjects, case.seconds)
    found = []
    for name, kind in case.subjects.items():
        if name == case.peer:
            continue
        row: dict[str, Any] = timed(times[name], times[case.peer])
        row["error"] = errors[name]
        if case.peer == FLOOR:
            row["value"], row["unit"] = 100 / row["value"], "%"
        if case.peer == FLOOR or kind == "padded" or kind.startswith("lapse "):
            row |= {"must": case.must, "aim": case.aim}
        if kind.startswith("lapse"):
            row["gflops"] = flops / row["ms"] / 1e6
        found.append(Row(**of_case, subject=name, peer=case.peer, **row))
    return found


def timed(times: list[float], peer: list[float]) -> dict[str, float]:
    """The numbers of a row, from what the subject and its peer took in the same rounds."""
    own, other = timing.summary(times), timing.summary(peer)
    return {
        "value": timing.ratio(times, peer)["median"],
        "ms": 1e3 * own["median"],
        "low": 1e3 * own["q1"],
        "high": 1e3 * own["q3"],
        "peer_ms": 1e3 * other["median"],
    }


def keras(cell: str, shape: Shape, threads: int) -> list[Row]:
    """lapse on each backend of Keras, over the fastest of Keras's own layers, and each of these."""
    what = "Keras with dropout=.5, recurrent_dropout=.5, over the fastest stock backend"
    of_case: dict[str, Any] = {"what": what, "case": f"{cell} {NAMES[shape]}"}
    found = keras_race.race(cell, shape, 12.0, threads)
    rows = [
        Row(**of_case, subject=name, note=f"not measured: {why}")
        for name, why in found.missing.items()
    ]
    wrong = {name: apart for name, apart in found.errors.items() if not apart <= check.TOLERANCE}
    rows += [Row(**of_case, subject=name, error=apart, note=WRONG) for name, apart in wrong.items()]
    stock = {name: taken for name, taken in found.times.items() if name not in found.errors}
    if not stock:
        return rows
    fastest = min(stock, key=lambda name: timing.summary(stock[name])["median"])
    for name, taken in found.times.items():
        if name != fastest and name not in wrong:
            row: dict[str, Any] = timed(taken, stock[fastest])
            if name in found.errors:
                row |= {"must": 0.6, "aim": 0.45, "error": found.errors[name]}
            rows.append(Row(**of_case, subject=name, peer=fastest, **row))
    return rows


def beginning() -> list[Row]:
    """Import, first step, and memory."""
    first = "from `import lapse.torch`, after PyTorch's, to the end of a training step"
    time_rows = [
        Row("To begin", "seconds", "import lapse", value=start.seconds(start.IMPORT), must=0.2),
        Row("To begin", "seconds", first, value=start.seconds(start.FIRST_STEP), must=1.0),
    ]
    quiet = start.bytes_a_step("")
    noises = {"constant over time": BOTH, "drawn each step": "c:.5@BTF>prev s:.05@BTF>prev"}
    memory = [
        Row(
            "More bytes kept for backward than without noise, for each unit and step",
            f"LSTM {NAMES[S1]}",
            f"{name}: {noise}",
            value=(start.bytes_a_step(noise) - quiet) / (S1.batch * S1.units),
            must=0.0 if name == "constant over time" else 2.0,
        )
        for name, noise in noises.items()
    ]
    for row in (*time_rows, *memory):
        row.unit = "s" if row in time_rows else "bytes"
    return time_rows + memory
