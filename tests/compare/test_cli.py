"""The command as a user runs it: what it prints, what it writes, how it fails."""

import html.parser
import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console
from small import made_up_run, write_csv

from lapse.cli import main
from lapse.compare.answer import rows
from lapse.compare.console import print_table
from lapse.compare.placements import PLACEMENTS
from lapse.compare.result import Comparison
from lapse.core.forms import FORMS

KEYS = [placement.key for placement in PLACEMENTS]
COLUMNS = ["--id", "walk", "--time", "at", "--target", "kind"]


def lapse(*arguments, cwd, ascii=False):
    """Runs the command in a new process, with `ascii` on a terminal that can only write ASCII."""
    command = [sys.executable, "-m", "lapse.cli", *map(str, arguments)]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"} if ascii else None
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def test_quick_look_at_a_csv_file(tmp_path):
    write_csv(tmp_path / "walks.csv")
    done = lapse("compare", "walks.csv", *COLUMNS, "--quick", "--out", "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "15 of 15 runs" in done.stdout
    assert "A first look at walks with 3 seeds" in done.stdout
    assert "recurrent_dropout=" in done.stdout
    results = Comparison.from_json((tmp_path / "found/results.json").read_text())
    assert results.rows[0].placement == "none"
    assert len(results.runs) == 15
    assert results.answer in done.stdout
    page = (tmp_path / "found/report.html").read_text()
    html.parser.HTMLParser().feed(page)
    assert "A first look at walks" in page
    assert not list((tmp_path / "found").rglob("*.part"))

    again = lapse("compare", "walks.csv", *COLUMNS, "--quick", "--out", "found", cwd=tmp_path)
    assert again.returncode == 0
    repeated = Comparison.from_json((tmp_path / "found/results.json").read_text())
    assert repeated.runs == results.runs
    assert repeated.answer == results.answer


@pytest.mark.parametrize("width", [160, 100, 80])
def test_table_fits_the_terminal_and_cuts_no_number(width):
    runs = [made_up_run(key, seed, 0.1 + 0.01 * seed) for key in KEYS for seed in range(10)]
    noises = (placement.noise for placement in PLACEMENTS)
    table = rows(PLACEMENTS, runs, dict.fromkeys(noises, 12.345))
    settings = {"seeds": 10, "quick": False}
    comparison = Comparison("", {}, settings, table, tuple(runs), {})
    console = Console(width=width, record=True, file=io.StringIO(), soft_wrap=True)
    print_table(comparison, console)
    shown = console.export_text()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert ("accuracy" in shown.splitlines()[0]) == (width == 160)
    assert ("in the report: accuracy" in shown) == (width < 160)


def test_ts_file_through_the_command(tmp_path):
    lines = ["@problemName Steps", "@timeStamps false", "@classLabel true up down", "@data"]
    for n in range(24):
        sign = 1 if n % 2 else -1
        values = ",".join(f"{sign * t + 0.1 * ((n * 7 + t) % 5):.2f}" for t in range(3 + n % 4))
        lines.append(f"{values}:{'up' if n % 2 else 'down'}")
    (tmp_path / "steps.ts").write_text("\n".join(lines))
    done = lapse("compare", "steps.ts", "--quick", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "lapse-compare/results.json").read_text())["data"]["train"] == 16


MISTAKES = {
    "missing file": (["compare", "nothing.csv", *COLUMNS], "nothing.csv"),
    "not what it claims": (["compare", "picture.ts"], "picture.ts"),
    "unknown suffix": (["compare", "picture.png"], "picture.png"),
    "columns of no file": (["compare", "--id", "walk"], "--id walk was given without a FILE"),
    "missing column": (["compare", "walks.csv", "--id", "walk"], "--time"),
    "wrong column": (["compare", "walks.csv", *COLUMNS[:-1], "species"], "species"),
    "too few seeds": (["compare", "--seeds", "3"], "at least 10"),
    "too many seeds": (["compare", "--seeds", "1000000"], "give at most 1000"),
    "seeds and quick": (["compare", "--seeds", "12", "--quick"], "one of the two"),
    "seeds not a number": (["compare", "--seeds", "many"], "many"),
    "unknown option": (["compare", "--dropout", ".5"], "--dropout"),
    "unknown command": (["train"], "train"),
    "no command": ([], "COMMAND"),
    "out is a file": (["compare", "--quick", "--out", "walks.csv"], "walks.csv"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "walks.csv")
    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    (tmp_path / "picture.ts").write_bytes(picture)
    (tmp_path / "picture.png").write_bytes(picture)
    before = sorted(os.listdir(tmp_path))
    arguments, expected = MISTAKES[name]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lapse: ")
    assert err.count("\n") == 1
    assert expected in err
    assert sorted(os.listdir(tmp_path)) == before, "nothing is written"


def test_an_existing_folder_keeps_its_gitignore(tmp_path):
    (tmp_path / ".gitignore").write_text("secrets\n")
    write_csv(tmp_path / "walks.csv")
    done = lapse(
        "compare", "walks.csv", *COLUMNS, "--quick", "--out", ".", cwd=tmp_path, ascii=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".gitignore").read_text() == "secrets\n"
    assert "A first look at walks" in done.stdout, "also without a minus sign"
    assert "held out for the test: 30% of the sequences of each class" in done.stdout


def test_a_reader_that_stops_early_is_not_an_error():
    command = f"{sys.executable} -m lapse.cli forms | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "Dropout(rate=0.5)\n"
    assert done.stderr == ""


def test_forms_lists_every_form_with_its_terms_and_paper(capsys):
    assert main(["forms"]) == 0
    out = capsys.readouterr().out
    for form in FORMS:
        assert f"\n{form.__name__}(" in "\n" + out
        assert form.paper in out
    assert "c:0.5@BTF>prev" in out or "s:0.05@BTF>prev" in out


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["forms", "--help"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    assert "usage: lapse" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == "lapse 0.1.0\n"
