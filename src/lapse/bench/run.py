"""Runs the whole benchmark; the result is plain data, which `report` turns into tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from lapse.bench import check, keras_race, memory, startup, steps, timing
from lapse.bench.cases import BOTH, NAMES, PEAK, S1, S2, Case, Shape, table
from lapse.bench.peak import multiply_adds


@dataclass
class Row:
    """One figure.

    Attributes:
        what: title of the table.
        case: cell and shape.
        subject, baseline: what is measured, and what it is compared with.
        value: a ratio of times, unless `unit` says otherwise; None if not measured.
        required, goal: bounds of `value`: lower bounds if `unit` is "%", otherwise upper bounds.
        ms, low, high: the subject's median time and its quartiles.
        baseline_ms: the baseline's median time.
        gflops: floating-point operations per second in the subject's matrix products, in 10^9.
        error: the largest difference from the reference loop in float64; None if not checked.
        note: why there is no value.
    """

    what: str
    case: str
    subject: str
    baseline: str = ""
    value: float | None = None
    unit: str = "ratio"
    required: float | None = None
    goal: float | None = None
    ms: float | None = None
    low: float | None = None
    high: float | None = None
    baseline_ms: float | None = None
    gflops: float | None = None
    error: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether `value` is within its required bound; None without a bound or a value."""
        if self.required is None or self.value is None:
            return None
        return self.value >= self.required if self.unit == "%" else self.value <= self.required

    @property
    def wrong(self) -> bool:
        return self.error is not None and not self.error <= check.TOLERANCE


WRONG = "not timed: its numbers are wrong"
Progress = Callable[[str, float], None]


def run(quick: bool, described: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Measures everything.

    Args:
        quick: whether to measure a small selection only.
        described: from `environment.describe`.
        progress: called before each part with its name and the share of the work that is done.
    """
    cases = table(quick)
    shapes = [] if quick else [(cell, shape) for cell in ("LSTM", "GRU") for shape in (S1, S2)]
    # Estimated seconds of each part, for the progress.
    weights = [case.seconds + 1 for case in cases] + [60.0 for _ in shapes] + [12.0]
    rows: list[Row] = []
    for n, case in enumerate(cases):
        progress(f"{case.what}: {case.name}", sum(weights[:n]) / sum(weights))
        rows += measure(case)
    for n, (cell, shape) in enumerate(shapes, len(cases)):
        progress(f"Keras: {cell} {NAMES[shape]}", sum(weights[:n]) / sum(weights))
        rows += keras(cell, shape, described["threads"])
    progress("startup and memory", 1 - weights[-1] / sum(weights))
    rows += startup_rows() + memory_rows()
    return {"machine": described, "quick": quick, "rows": [asdict(row) for row in rows]}


def measure(case: Case) -> list[Row]:
    """The rows of a case: every subject is checked before any is timed."""
    x, dy = steps.inputs(case)
    flops = case.shape.flops(case.cell)
    modules = {n: steps.build(case, kind) for n, kind in case.subjects.items() if n != PEAK}
    errors = {name: check.error(module, x, dy) for name, module in modules.items()}
    of_case: dict[str, Any] = {"what": case.what, "case": case.name}
    wrong = [
        Row(**of_case, subject=name, error=error, note=WRONG)
        for name, error in errors.items()
        if not error <= check.TOLERANCE
    ]
    if wrong:  # then nothing of this case is timed
        return wrong
    subjects: dict[str, steps.Step] = {n: steps.step(m, x, dy) for n, m in modules.items()}
    if PEAK in case.subjects:
        subjects[PEAK] = partial(multiply_adds, flops)
    times = timing.interleave(subjects, case.seconds)
    found = []
    for name, kind in case.subjects.items():
        if name == case.baseline:
            continue
        row: dict[str, Any] = timed(times[name], times[case.baseline])
        row["error"] = errors[name]
        if case.baseline == PEAK:
            row["value"], row["unit"] = 100 / row["value"], "%"
        if case.baseline == PEAK or kind == "padded" or kind.startswith("lapse "):
            row |= {"required": case.required, "goal": case.goal}
        if kind.startswith("lapse"):
            row["gflops"] = flops / row["ms"] / 1e6
        found.append(Row(**of_case, subject=name, baseline=case.baseline, **row))
    return found


def timed(times: list[float], baseline: list[float]) -> dict[str, float]:
    """The figures of a row, from the times of subject and baseline in the same rounds."""
    own, other = timing.summary(times), timing.summary(baseline)
    return {
        "value": timing.ratio(times, baseline)["median"],
        "ms": 1e3 * own["median"],
        "low": 1e3 * own["q1"],
        "high": 1e3 * own["q3"],
        "baseline_ms": 1e3 * other["median"],
    }


def keras(cell: str, shape: Shape, threads: int) -> list[Row]:
    """Keras's and lapse's layer on each backend, relative to Keras's on its fastest backend."""
    what = (
        "Keras layers with dropout=.5, recurrent_dropout=.5, relative to Keras's own layer on its "
        "fastest backend"
    )
    of_case: dict[str, Any] = {"what": what, "case": f"{cell} {NAMES[shape]}"}
    found = keras_race.race(cell, shape, 12.0, threads)
    rows = [
        Row(**of_case, subject=name, note=f"not measured: {why}")
        for name, why in found.missing.items()
    ]
    wrong = {name: error for name, error in found.errors.items() if not error <= check.TOLERANCE}
    rows += [Row(**of_case, subject=name, error=error, note=WRONG) for name, error in wrong.items()]
    stock = {name: taken for name, taken in found.times.items() if name not in found.errors}
    if not stock:
        return rows
    fastest = min(stock, key=lambda name: timing.summary(stock[name])["median"])
    for name, taken in found.times.items():
        if name != fastest and name not in wrong:
            row: dict[str, Any] = timed(taken, stock[fastest])
            if name in found.errors:
                row |= {"required": 0.6, "goal": 0.45, "error": found.errors[name]}
            rows.append(Row(**of_case, subject=name, baseline=fastest, **row))
    return rows


def startup_rows() -> list[Row]:
    """Seconds in a new Python process."""
    of_case: dict[str, Any] = {"what": "Startup", "case": "new Python process", "unit": "s"}
    first = "first training step, including the import of lapse.torch but not of PyTorch"
    imported, stepped = (startup.seconds(p) for p in (startup.IMPORT, startup.FIRST_STEP))
    return [
        Row(**of_case, subject="import lapse", value=imported, required=0.2),
        Row(**of_case, subject=first, value=stepped, required=1.0),
    ]


def memory_rows() -> list[Row]:
    """Bytes that noise adds to what is kept for the backward pass."""
    what = "Additional bytes that noise keeps for the backward pass, per unit and timestep"
    of_case: dict[str, Any] = {"what": what, "case": f"LSTM {NAMES[S1]}", "unit": "bytes"}
    without = memory.bytes_per_step("")

    def row(name: str, noise: str, required: float) -> Row:
        value = (memory.bytes_per_step(noise) - without) / (S1.batch * S1.units)
        return Row(**of_case, subject=f"{name}: {noise}", value=value, required=required)

    return [
        row("constant over time", BOTH, 0.0),
        row("drawn at each step", "c:.5@BTF>prev s:.05@BTF>prev", 2.0),
    ]
