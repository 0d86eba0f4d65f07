"""Studies: which runs are read from disk, which are repeated, and what happens after a kill."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small import dataset, made_up_run, write_csv

from lapse.compare import study as study_module
from lapse.compare import workers
from lapse.compare.compare import Watcher, compare
from lapse.compare.ledger import Ledger
from lapse.compare.placements import PLACEMENTS, QUICK
from lapse.compare.step_times import measure
from lapse.compare.study import Study, quick_study
from lapse.compare.training import Settings
from lapse.compare.workers import run
from lapse.core.errors import LapseError
from lapse.core.plan import plan
from lapse.files import write_atomically

SETTINGS = Settings(units=5, epochs=3, batch=7)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    data = dataset(tmp_path_factory.mktemp("data"))
    few = tuple(placement for placement in PLACEMENTS if placement.key in QUICK)
    return Study(data, few, 2, SETTINGS)


def ignore(done, of, latest):
    pass


def test_placements_are_legal_unique_and_named():
    keys = [placement.key for placement in PLACEMENTS]
    assert len(set(keys)) == len(keys) == 11
    assert keys[0] == "none"
    assert set(QUICK) <= set(keys)
    for placement in PLACEMENTS:
        assert bool(plan(placement.noise, "LSTM").slots) == (placement.kind != "none")


def test_the_same_noise_is_one_run(study):
    everything = replace(study, placements=PLACEMENTS)
    assert len(everything.distinct()) == 10
    assert len(everything.tasks()) == 20


def test_a_run_on_disk_is_read_and_not_repeated(study, tmp_path, monkeypatch):
    first = run(study, tmp_path, ignore)
    assert [(result.placement, result.seed) for result in first] == [
        (placement, seed) for placement, _, seed in study.tasks()
    ]
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)  # would be called for a new run
    assert run(study, tmp_path, ignore) == first


def test_only_missing_or_incomplete_runs_are_repeated(study, tmp_path):
    first = run(study, tmp_path, ignore)
    ledger = Ledger(tmp_path)
    paths = [ledger.path(study.config(task)) for task in study.tasks()]
    before = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    paths[3].write_text(paths[3].read_text()[:100])
    paths[4].write_text("[]")
    assert run(study, tmp_path, ignore) == first
    after = [path.stat().st_mtime_ns for path in paths]
    changed = [n for n, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert changed == [1, 3, 4]


def test_another_setting_seed_noise_or_data_is_another_run(study):
    task = study.tasks()[1]
    config = study.config(task)
    others = [
        replace(study, settings=replace(SETTINGS, units=6)).config(task),
        replace(study, data=replace(study.data, sha256="0")).config(task),
        study.config((task[0], "x:0.3@BF", task[2])),
        study.config((task[0], task[1], 7)),
    ]
    ledger = Ledger(Path("."))
    assert len({ledger.path(one) for one in [config, *others]}) == 5


def test_runs_are_repeated_after_a_change_of_code(study, monkeypatch):
    before = study.config(study.tasks()[1])
    monkeypatch.setattr(study_module, "digest", lambda: "another digest")
    assert study.config(study.tasks()[1]) != before


def test_a_run_found_on_disk_has_the_name_of_this_study_s_placement(study, tmp_path):
    """A first look has x:0.1@BF as `dropout=`, a full study as SpatialDropout1D."""
    one = replace(study, placements=study.placements[:2])
    run(one, tmp_path, ignore)
    other = replace(one.placements[1], key="by another name")
    names = [
        r.placement
        for r in run(replace(one, placements=(one.placements[0], other)), tmp_path, ignore)
    ]
    assert names == ["none", "by another name"] * 2
    assert len(list(tmp_path.iterdir())) == 4


def test_a_killed_worker_is_a_lapse_error(study, tmp_path):
    def kill(done, of, latest):
        for worker in multiprocessing.active_children():
            worker.kill()

    with pytest.raises(LapseError, match="a training process was killed"):
        run(replace(study, seeds=10), tmp_path, kill)
    assert list(tmp_path.glob("*.json")), "finished runs are kept"


def test_ledger_gives_back_what_it_was_given(tmp_path):
    ledger = Ledger(tmp_path)
    result = made_up_run("none", 3, 0.1 + 0.2)
    ledger.write({"a": 1}, result)
    assert ledger.read({"a": 1}) == result
    assert ledger.read({"a": 2}) is None


def test_progress_counts_up_to_all(study, tmp_path):
    seen = []
    run(study, tmp_path, lambda done, of, latest: seen.append((done, of)))
    assert seen == [(n, 10) for n in range(1, 11)]


def test_the_library_compares_without_a_terminal(study, tmp_path):
    """`compare` returns everything that the command prints and writes."""
    heard = []

    class Listener(Watcher):
        def trained(self, done, of, latest):
            heard.append((done, of, latest.seed))

        def measuring(self):
            heard.append("measuring")

    found = compare(study, tmp_path, Listener())
    assert [row.placement for row in found.rows] == [one.key for one in study.placements]
    assert list(found.runs) == run(study, tmp_path, ignore)
    assert found.answer.startswith("A first look at walks with 2 seeds")
    assert (found.settings["seeds"], found.settings["quick"]) == (2, False)
    assert found.data["sha256"] == study.data.sha256 and found.made_with["processor"]
    assert len(heard) == 11 and heard[-1] == "measuring" and heard[-2][:2] == (10, 10)
    again = compare(study, tmp_path)
    assert (again.answer, again.runs) == (found.answer, found.runs)


def test_a_quick_study_says_so(study):
    quick = quick_study(study.data)
    assert quick.quick and quick.seeds == 3 and quick.settings.epochs < Settings().epochs
    assert [placement.key for placement in quick.placements] == list(QUICK)


def test_time_of_a_step_is_measured_for_every_noise(study):
    taken = measure(study, rounds=2)
    assert set(taken) == {placement.noise for placement in study.placements}
    assert all(0 < ms < 10_000 for ms in taken.values())


def test_a_file_is_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(LapseError, match=r"results.json can't be written: No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from small import dataset
    from test_study import PLACEMENTS, QUICK, SETTINGS, Study, replace, run

    if __name__ == "__main__":
        few = tuple(placement for placement in PLACEMENTS if placement.key in QUICK)
        data = dataset(Path({folder!r}), sequences=200)
        study = Study(data, few, 3, replace(SETTINGS, units=31, epochs=12))
        results = run(study, Path({folder!r}) / sys.argv[1], lambda d, o, r: print(d, flush=True))
        print(results)
"""


def test_after_a_kill_it_continues_and_ends_with_the_same_numbers(tmp_path):
    """After kill -9 its workers end too, no file is incomplete, and finished runs are kept."""
    write_csv(tmp_path / "walks.csv", sequences=200)
    script = tmp_path / "study.py"
    tests = os.path.dirname(__file__)
    script.write_text(textwrap.dedent(KILLED.format(tests=tests, folder=str(tmp_path))))

    def start(folder):
        command = [sys.executable, str(script), folder]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    process = start("killed")
    for _ in range(4):
        assert process.stdout.readline().strip()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for _ in range(100):
        if not alive_in_session(process.pid):
            break
        time.sleep(0.1)
    assert not alive_in_session(process.pid), "workers outlived the study"
    kept = {path: path.read_text() for path in (tmp_path / "killed").glob("*.json")}
    assert 4 <= len(kept) < 15
    for text in kept.values():
        json.loads(text)

    again = start("killed")
    out, _ = again.communicate()
    for path, text in kept.items():
        assert path.read_text() == text
    whole, _ = start("whole").communicate()
    assert out.splitlines()[-1] == whole.splitlines()[-1]


def alive_in_session(session):
    """Processes of a POSIX session that are not zombies."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    state, _, _, its_session = file.read().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(its_session) == session and state != "Z":
                found.append(int(entry))
    return found
