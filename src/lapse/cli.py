"""The command `lapse`: thin over the library; a user's mistake is one line and exit code 2."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import lapse
from lapse.core.errors import LapseError
from lapse.core.forms import FORMS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LapseError(f"{message}; see {self.prog} --help.")


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for a mistake, 130 when interrupted.

    `lapse bench` gives 1 where a kernel computes something wrong.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where it can't write a character, a "?"
            stream.reconfigure(errors="replace")
    code, goes_on = 0, ""
    try:
        arguments = _parser().parse_args(argv)
        if arguments.run is _compare:
            goes_on = "; the same command goes on from here"
        code = arguments.run(arguments) or 0
        sys.stdout.flush()
    except LapseError as error:
        print(f"lapse: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read this has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"lapse: stopped{goes_on}.", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lapse", description="The published forms of dropout for recurrent layers, compared."
    )
    parser.add_argument("--version", action="version", version=f"lapse {lapse.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    forms = commands.add_parser("forms", help="list the published forms of dropout")
    forms.set_defaults(run=_forms)

    compare = commands.add_parser(
        "compare",
        help="train the placements of dropout side by side and say which one wins",
        description="Trains the placements of dropout side by side, over paired seeds, and says "
        "which one wins, by how much and how surely. Writes results.json and report.html. Without "
        "FILE it uses the embedded Japanese Vowels data. The same command goes on after a stop.",
    )
    compare.add_argument("file", nargs="?", type=Path, metavar="FILE", help=".ts or long .csv file")
    compare.add_argument("--id", metavar="COLUMN", help="CSV: which sequence a row belongs to")
    compare.add_argument("--time", metavar="COLUMN", help="CSV: when, in order within a sequence")
    compare.add_argument("--target", metavar="COLUMN", help="CSV: the class of the sequence")
    compare.add_argument(
        "--out", type=Path, default=Path("lapse-compare"), metavar="DIR", help="where results go"
    )
    compare.add_argument(
        "--quick", action="store_true", help="a first look: fewer seeds, epochs and placements"
    )
    compare.add_argument(
        "--seeds", type=int, metavar="N", help="paired seeds, at least 10 (default: 10)"
    )
    compare.set_defaults(run=_compare)

    bench = commands.add_parser(
        "bench",
        help="measure the kernels, beside PyTorch's and Keras's own layers",
        description="Checks each layer against the plain loop in float64, then times its training "
        "steps in turns with those of its peers. Takes minutes; nothing else should run meanwhile.",
    )
    bench.add_argument("--quick", action="store_true", help="a first look, in less than a minute")
    bench.add_argument("--threads", type=int, metavar="N", help="how many (default: PyTorch's)")
    bench.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON to write (default: one in benchmarks/results, named after the processor)",
    )
    bench.set_defaults(run=_bench)
    return parser


def _forms(arguments: Any) -> None:
    for form in FORMS:
        example = form(0.5, 0.5) if form is lapse.KerasDropout else form()
        print(f"{example!r}\n    {' '.join(map(str, example.terms))}\n    {form.paper}")


def _compare(arguments: Any) -> None:
    try:
        from lapse.compare.console import compare
    except ModuleNotFoundError as error:
        raise LapseError(
            f"lapse compare needs {error.name}, which is not installed; install lapse with its "
            "extra [compare]."
        ) from None
    compare(
        arguments.file,
        id=arguments.id,
        time=arguments.time,
        target=arguments.target,
        out=arguments.out,
        quick=arguments.quick,
        seeds=arguments.seeds,
    )


def _bench(arguments: Any) -> int:
    try:
        from lapse.bench.console import bench
    except ModuleNotFoundError as error:
        raise LapseError(
            f"lapse bench needs {error.name}, which is not installed; install lapse with its "
            "extra [compare]."
        ) from None
    right = bench(quick=arguments.quick, count=arguments.threads, out=arguments.out)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
