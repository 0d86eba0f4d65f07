"""The benchmark: interleaving, arithmetic, checks, and pages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lapse.bench import check, keras_race, memory, peak, report, run, startup, steps, timing
from lapse.bench.cases import S1, S2, Case, Shape, forms, share, table
from lapse.cli import main

TINY = Shape(5, 4, 3, 7)


def test_subjects_take_turns_in_both_orders() -> None:
    now, calls = [0.0], []

    def subject(name: str, seconds: float) -> Any:
        def call() -> None:
            calls.append(name)
            now[0] += seconds

        return call

    subjects = {"a": subject("a", 1.0), "b": subject("b", 2.0), "says": lambda: 7.0}
    times = timing.interleave(subjects, 20.0, clock=lambda: now[0])
    assert calls[:4] == ["a", "b", "a", "b"]  # warm-up
    assert calls[4:10] == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": [1.0] * 20, "b": [2.0] * 20, "says": [7.0] * 20}
    assert len(timing.interleave(subjects, 90.0, clock=lambda: now[0])["a"]) == 30
    # If rounds are slow there are fewer of them, but always enough for quartiles.
    assert len(timing.interleave(subjects, 9.0, clock=lambda: now[0])["a"]) == 12
    assert len(timing.interleave(subjects, 1.0, clock=lambda: now[0])["a"]) == 5


def test_medians_and_quartiles() -> None:
    found = timing.summary([5.0, 1.0, 2.0, 4.0, 3.0])
    assert found == {"min": 1.0, "q1": 2.0, "median": 3.0, "q3": 4.0, "rounds": 5}
    # A round in which everything takes ten times as long changes no ratio.
    assert timing.ratio([1.0, 10.0, 1.0], [2.0, 20.0, 2.0])["median"] == 0.5


def test_flops_of_a_training_step() -> None:
    """A product of (m, k) and (k, n) is 2mkn; forward has two a step, backward four."""
    batch, timesteps, features, units = S2
    one_step = 2 * batch * features * 4 * units + 2 * batch * units * 4 * units
    assert S2.flops("LSTM") == 3 * timesteps * one_step == 25_165_824_000
    assert S1.flops("GRU") * 4 == S1.flops("LSTM") * 3


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize(
    "kind", ["lapse", "lapse x:.5@BTF h:.5@BFG y:.5@BF", "padded", "nn", "packed", "loop"]
)
def test_right_modules_pass_the_check_and_wrong_ones_fail(
    cell: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("", cell, TINY, {}, "")
    x, dy = steps.inputs(case)
    module: Any = steps.build(case, kind)
    assert 0 < check.error(module, x, dy) < check.TOLERANCE
    right = steps.like

    def off(*arguments: Any) -> Any:  # wrong weights in the reference, right ones elsewhere
        layer = right(*arguments)
        layer.weight_hh_l0.data += 1e-3
        return layer

    monkeypatch.setattr(check, "like", off)
    assert check.error(module, x, dy) > 10 * check.TOLERANCE


def test_wrong_modules_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "error", lambda *_: float("nan"))
    subjects = {"a": "lapse x:.5@BF", "nn.LSTM": "nn"}
    case = Case("what", "LSTM", TINY, subjects, "nn.LSTM", 1.0, 0.8, 0.0)
    rows = run.measure(case)
    assert [row.subject for row in rows] == ["a", "nn.LSTM"]
    row = rows[0]
    assert row.wrong and row.ms is None and "numbers are wrong" in row.note


def test_a_case_from_end_to_end() -> None:
    subjects = {"a": "lapse x:.5@BF", "nn.LSTM": "nn", "none": "lapse", "loop": "loop"}
    rows = run.measure(Case("what", "LSTM", TINY, subjects, "nn.LSTM", 1e9, 0.0, 0.0))
    assert [row.subject for row in rows] == ["a", "none", "loop"]
    first = rows[0]
    assert first.met and first.baseline == "nn.LSTM" and first.value and first.ms and first.gflops
    assert first.gflops == pytest.approx(TINY.flops("LSTM") / first.ms / 1e6)
    assert rows[1].met is None and rows[2].gflops is None
    assert all(row.error is not None and row.error < check.TOLERANCE for row in rows)
    packed = Case("what", "GRU", TINY, {"lengths=": "padded", "p": "packed"}, "p", seconds=0.0)
    (row,) = run.measure(packed)
    assert row.error is not None and row.error < check.TOLERANCE


def test_the_peak_is_a_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does as many operations as the layer's products; the share is the ratio of the times."""
    case = replace(share("LSTM", S2, 0.0), shape=TINY)
    baseline = case.baseline
    with monkeypatch.context() as timed:
        taken = {name: [0.008] * 7 for name in case.subjects} | {baseline: [0.006] * 7}
        timed.setattr(timing, "interleave", lambda *_: taken)
        (row,) = run.measure(case)
    assert (row.unit, row.required, row.ms, row.baseline_ms) == ("%", 75, 8, 6)
    assert row.value == pytest.approx(75)
    done = []
    real = peak.extension()

    class Counting:
        def multiply_adds(self, *arguments: Any) -> int:
            done.append(real.multiply_adds(*arguments))
            return done[-1]

    monkeypatch.setattr(peak, "extension", Counting)
    peak.multiply_adds(S2.flops("GRU"))
    assert done[-1] == pytest.approx(S2.flops("GRU"), rel=1e-5)


def test_padded_and_packed_compute_the_same() -> None:
    case = Case("", "LSTM", TINY, {}, "")
    x, dy = steps.inputs(case)
    assert steps.lengths_of(case).tolist() == [1, 1, 2, 3, 4]
    padded, packed = (steps.step(steps.build(case, kind), x, dy)() for kind in ("padded", "packed"))
    for one, other in zip(padded, packed, strict=True):
        torch.testing.assert_close(one, other)


def test_every_form_of_a_layer_is_measured() -> None:
    (case,) = (case for case in table(quick=True) if case.what.startswith("Each form"))
    assert len(case.subjects) == len(forms()) + 1
    assert {form.partition("(")[0] for form in forms()} >= {"Zoneout", "WeightDrop", "AwdLstm"}
    units = {case.shape.units for case in table(quick=False)}
    assert units >= {1, 7, 31, 63, 100, 300}


def test_verdicts() -> None:
    assert run.Row("", "", "", value=1.0, required=1.0).met
    assert run.Row("", "", "", value=1.01, required=1.0).met is False
    assert run.Row("", "", "", value=80.0, unit="%", required=75).met
    assert run.Row("", "", "", value=74.0, unit="%", required=75).met is False
    assert run.Row("", "", "", required=1.0).met is None
    assert run.Row("", "", "", error=2e-5).wrong and not run.Row("", "", "").wrong


def test_pages() -> None:
    machine = {
        "processor": "An Abacus", "threads": 2, "instruction_set": "beads", "peak_gflops": 1.5,
        "lapse": "9", "commit": "abcdef0", "python": "3", "versions": {"torch": "2", "jax": None},
        "load": 0.1,
    }  # fmt: skip
    slow = {"what": "A", "case": "LSTM S1", "subject": "x", "baseline": "nn", "value": 1.25}
    times = {"ms": 12.345, "low": 12.0, "high": 13.0, "baseline_ms": 10.0}
    rows = [
        {**slow, **times, "required": 1, "error": 2e-6},
        {"what": "B", "case": "GRU S1", "subject": "y", "note": "not measured"},
        {"what": "A", "case": "LSTM S2", "subject": "x", "value": 0.5, "required": 1.0},
        {"what": "C", "case": "LSTM", "subject": "z", "value": 80.2, "required": 75, "unit": "%"},
    ]  # fmt: skip
    result = json.loads(json.dumps({"machine": machine, "rows": rows}))
    page = report.markdown([result])
    assert "## An Abacus" in page and "lapse 9 (abcdef0), Python 3," in page
    assert "torch 2;" in page and "jax" not in page.split("###")[0]
    assert "| LSTM S1 | x | nn (10 ms) | 1.25 | <= 1 | MISSED | 12.3 | 12 to 13 | 2.0e-06 |" in page
    assert "| GRU S1 | y | not measured |" in page
    assert "80 % | >= 75 | met" in page
    assert [what for what, _ in report.tables(result)] == ["A", "B", "C"]


def test_memory_and_startup() -> None:
    assert memory.bytes_per_step("h:.5@BFG") == memory.bytes_per_step("")
    assert startup.seconds("print(0.25)", times=1) == 0.25


def test_nan_is_never_right() -> None:
    """At any position among the results."""
    right, wrong = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    for found in ([right, wrong], [wrong, right]):
        assert check.worst(found, [right, right]) == float("inf")
    assert check.worst([right, right + 0.5], [right, right]) == 0.5


def test_a_worker_that_stops_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_race, "BACKENDS", ("torch",))
    found = keras_race.race("NoSuchCell", TINY, 0.0, 1)
    assert not found.times and set(found.missing) == {"Keras on torch", "lapse on torch"}
    assert "Keras on torch stopped: " in found.missing["lapse on torch"]
    assert "NoSuchCell" in found.missing["lapse on torch"]
    monkeypatch.setattr(keras_race, "find_spec", lambda package: None)
    rows = run.keras("LSTM", S1, 1)
    assert [row.note for row in rows] == ["not measured: keras is not installed"] * 2


@pytest.mark.parametrize("backend", keras_race.BACKENDS)
def test_keras_takes_turns(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stock, ours = f"Keras on {backend}", f"lapse on {backend}"
    monkeypatch.setattr(keras_race, "BACKENDS", (backend,))
    found = keras_race.race("GRU", TINY, 0.0, 1)
    assert not found.missing
    assert {n: len(taken) for n, taken in found.times.items()} == dict.fromkeys(
        (stock, ours), timing.MIN_ROUNDS
    )
    assert 0 < found.errors[ours] < check.TOLERANCE
    monkeypatch.setattr(keras_race, "race", lambda *_: found)
    (row,) = run.keras("GRU", S1, 1)
    assert row.subject == ours and row.ms and row.baseline == stock and not row.wrong
    found.errors[ours] = float("inf")
    (row,) = run.keras("GRU", S1, 1)
    assert row.wrong and row.ms is None


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--threads", "0"], "--threads is 0; give a whole number of at least 1"),
        (["--threads", "two"], "invalid int value: 'two'"),
        (["--out", "."], "--out is ., which is a folder"),
        (["--out", "/dev/null/x.json"], "/dev/null can't be written: "),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1
