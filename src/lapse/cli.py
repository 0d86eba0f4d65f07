"""The command `lapse`, a thin layer over the library."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import lapse
from lapse.core.errors import LapseError
from lapse.core.forms import examples


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LapseError(f"{message}; see {self.prog} --help.")


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    0 is success, 1 means that `lapse bench` has found wrong numbers, 2 is an error (printed on one
    line), and 130 an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # "?" for characters it can't write
    code, hint = 0, ""
    try:
        arguments = _parser().parse_args(argv)
        if arguments.run is _compare:
            hint = "; the same command continues from here"
        code = arguments.run(arguments) or 0
        sys.stdout.flush()
    except LapseError as error:
        print(f"lapse: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has stopped reading, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"lapse: stopped{hint}.", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lapse", description="Dropout for recurrent layers: list, compare and benchmark."
    )
    parser.add_argument("--version", action="version", version=f"lapse {lapse.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    forms = commands.add_parser("forms", help="list the published forms of dropout")
    forms.set_defaults(run=_forms)

    compare = commands.add_parser(
        "compare",
        help="train placements of dropout side by side and say which is best",
        description="Trains placements of dropout side by side with paired seeds, and says which "
        "is best, by how much, and whether the difference is significant. Writes results.json and "
        "report.html. Without FILE, uses the embedded Japanese Vowels data. After an interrupt, "
        "the same command continues where it stopped.",
    )
    compare.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help=".ts file, or .csv file in long format"
    )
    compare.add_argument("--id", metavar="COLUMN", help="CSV: the sequence of a row")
    compare.add_argument("--time", metavar="COLUMN", help="CSV: the order of rows in a sequence")
    compare.add_argument("--target", metavar="COLUMN", help="CSV: the class of a sequence")
    compare.add_argument(
        "--out",
        type=Path,
        default=Path("lapse-compare"),
        metavar="DIR",
        help="output folder (default: lapse-compare)",
    )
    compare.add_argument(
        "--quick", action="store_true", help="a first look: fewer seeds, epochs and placements"
    )
    compare.add_argument(
        "--seeds", type=int, metavar="N", help="number of paired seeds, 10 to 1000 (default: 10)"
    )
    compare.set_defaults(run=_compare)

    bench = commands.add_parser(
        "bench",
        help="time the layers of lapse, PyTorch and Keras",
        description="Checks each layer against the reference loop in float64, then times its "
        "training steps in turns with those of other layers. Takes several minutes, during which "
        "no other program should run.",
    )
    bench.add_argument(
        "--quick", action="store_true", help="a small selection, in less than a minute"
    )
    bench.add_argument(
        "--threads", type=int, metavar="N", help="number of threads (default: PyTorch's)"
    )
    bench.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON file to write (default: benchmarks/results/PROCESSOR.json)",
    )
    bench.set_defaults(run=_bench)
    return parser


def _forms(arguments: Any) -> None:
    for form in examples():
        print(f"{form!r}\n    {' '.join(map(str, form.terms))}\n    {form.paper}")


def _compare(arguments: Any) -> None:
    try:
        from lapse.compare.console import command
    except ModuleNotFoundError as error:
        raise _missing("compare", error) from None
    command(
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
        raise _missing("bench", error) from None
    correct = bench(quick=arguments.quick, count=arguments.threads, out=arguments.out)
    return 0 if correct else 1


def _missing(command: str, error: ModuleNotFoundError) -> LapseError:
    return LapseError(
        f"lapse {command} needs {error.name}, which is not installed; install lapse with the extra "
        "[compare]."
    )


if __name__ == "__main__":
    sys.exit(main())
