"""Reads labelled sequences from the two text formats that `lapse compare` accepts."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lapse.core.errors import LapseError

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Sequences:
    """The contents of one file, before padding and before a test set is held out.

    Attributes:
        values: One float32 array of shape (timesteps, features) per sample.
        labels: The class name of each sample.
        classes: Every class name that the file declares or uses.
        features: The feature names.
    """

    values: list[NDArray[np.float32]]
    labels: list[str]
    classes: tuple[str, ...]
    features: tuple[str, ...]


def read_ts(path: Path) -> Sequences:
    """Reads a `.ts` file in the UEA/aeon format for sequence classification.

    After `#` comments and an `@` header, each line below `@data` is one sample: its dimensions
    separated by `:`, the values of a dimension by `,`, and the class label last. Samples may differ
    in length, but the dimensions of one sample may not. Of the header, only `@classLabel`,
    `@dimensions` and `@timeStamps` are used; lengths are taken from the data.

    Raises:
        LapseError: The file can't be read or is not in this format.
    """
    with _lines(path) as lines:
        classes, dimensions = _ts_header(path, lines)
        values: list[NDArray[np.float32]] = []
        labels: list[str] = []
        for number, line in lines:
            text = line.strip()
            if not text or text.startswith(("#", "%")):
                continue
            *cells, label = text.split(":")
            where = f"{path}, line {number}"
            dimensions = dimensions or len(cells)
            if not cells or len(cells) != dimensions:
                raise LapseError(
                    f"{where}: the number of dimensions before the class label is {len(cells)}, "
                    f"but it should be {dimensions or 'at least 1'}; separate dimensions and label "
                    f"by ':'."
                )
            if label.strip() not in classes:
                raise LapseError(
                    f"{where}: the last field {shown(label)} is not a class of @classLabel; "
                    f"correct the label or add it there."
                )
            values.append(_ts_case(cells, where))
            labels.append(label.strip())
    if not values:
        raise LapseError(f"{path} has no samples after @data; give a file with sequences.")
    names = tuple(f"channel {i}" for i in range(1, dimensions + 1))
    return Sequences(values, labels, classes, names)


def _ts_header(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[tuple[str, ...], int]:
    """Reads up to `@data`; returns the class names and the number of dimensions (0 if unknown)."""
    classes: list[str] = []
    dimensions = 0
    for number, line in lines:
        where = f"{path}, line {number}"
        tag, *words = line.split() or ["#"]
        match tag.lower():
            case "@classlabel":
                classes = words[1:] if words[:1] and words[0].lower() == "true" else []
                if len(set(classes)) < len(classes):
                    raise LapseError(f"{where}: @classLabel has a class twice; name each once.")
            case "@dimension" | "@dimensions":
                if len(words) != 1 or not words[0].isdecimal() or not 0 < len(words[0]) < 10:
                    raise LapseError(
                        f"{where}: {tag} must be followed by one whole number from 1 on."
                    )
                dimensions = int(words[0])
            case "@timestamps" if words[:1] and words[0].lower() == "true":
                raise LapseError(
                    f"{where}: time stamps are not supported; write values without them, and "
                    f"'@timeStamps false'."
                )
            case "@data" if classes:
                return tuple(classes), dimensions
            case "@data":
                raise LapseError(
                    f"{path} declares no classes; give a classification file, with a line such as "
                    f"'@classLabel true a b' before @data."
                )
            case other if not other.startswith(("#", "%", "@")):
                raise LapseError(
                    f"{where}: {shown(line.strip())} comes before @data, where only lines with '@' "
                    f"or '#' are allowed; give a .ts file of sequences."
                )
    raise LapseError(f"{path} has no @data line; give a .ts file of sequences.")


def _ts_case(dimensions: Sequence[str], where: str) -> NDArray[np.float32]:
    """One sample's values, shape (timesteps, features)."""
    rows: list[list[float]] = []
    for dimension, text in enumerate(dimensions, start=1):
        place = f"{where}, dimension {dimension}"
        row = _numbers(text.split(","), place, lambda i: f"step {i + 1}")
        if rows and len(row) != len(rows[0]):
            raise LapseError(
                f"{place} has {len(row)} steps, but dimension 1 has {len(rows[0])}; give all "
                f"dimensions of a sample the same length."
            )
        rows.append(row)
    return np.ascontiguousarray(np.array(rows, np.float32).T)


def read_csv(path: Path, *, id: str | None, time: str | None, target: str | None) -> Sequences:
    """Reads a CSV file with a header line and one row per timestep.

    Samples are in the order in which their id first appears, steps in the order of their time.
    Times are numbers or ISO dates, all like the first one. Classes are the sorted target values.

    Args:
        path: The file.
        id: Name of the column that identifies the sample of a row.
        time: Name of the column that orders the steps of a sample.
        target: Name of the column with the class, the same in all rows of a sample.

    Raises:
        LapseError: The file can't be read, a column is missing, or a row has a mistake.
    """
    values, times, lines = array("f"), list[int | float](), array("q")
    rows: dict[str, list[int]] = {}
    labels: dict[str, str] = {}
    first_kind = ""
    with _lines(path) as numbered:
        reader = csv.reader((line for _, line in numbered), strict=True)
        header = [name.strip() for name in _csv_row(path, reader) or []]
        roles = _csv_roles(path, header, {"id": id, "time": time, "target": target})
        features = [i for i in range(len(header)) if i not in roles]
        while (cells := _csv_row(path, reader)) is not None:
            where = f"{path}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise LapseError(
                    f"{where}: the row has {len(cells)} fields, but the header has {len(header)}; "
                    f"give every row one field per column."
                )
            sample, moment, label = (cells[i].strip() for i in roles)
            if not (sample and moment and label):
                empty = next(header[i] for i in roles if not cells[i].strip())
                raise LapseError(
                    f"{where}, column {shown(empty)}: the field is empty; fill it or remove such "
                    f"rows."
                )
            if labels.setdefault(sample, label) != label:
                raise LapseError(
                    f"{where}, column {target!r}: the class is {shown(label)}, but earlier rows of "
                    f"id {shown(sample)} have {shown(labels[sample])}; give all rows of an id the "
                    f"same class."
                )
            kind, order = _time(moment, f"{where}, column {time!r}")
            first_kind = first_kind or kind
            if kind != first_kind:
                raise LapseError(
                    f"{where}, column {time!r}: {shown(moment)} is {kind}, but the first row has "
                    f"{first_kind}; write all times in the same way."
                )
            rows.setdefault(sample, []).append(len(times))
            times.append(order)
            lines.append(reader.line_num)
            picked = [cells[i] for i in features]
            values.extend(_numbers(picked, where, lambda i: f"column {shown(header[features[i]])}"))
    if not times:
        raise LapseError(f"{path} has a header but no rows; give a file with data.")

    for sample, steps in rows.items():
        steps.sort(key=times.__getitem__)
        for before, after in pairwise(steps):
            if times[before] == times[after]:
                raise LapseError(
                    f"{path}, lines {lines[before]} and {lines[after]}: id {shown(sample)} has "
                    f"the same time in column {time!r} twice; keep one row for each time."
                )
    table = np.frombuffer(values, np.float32).reshape(-1, len(features))
    return Sequences(
        values=[table[steps] for steps in rows.values()],
        labels=list(labels.values()),
        classes=tuple(sorted(set(labels.values()))),
        features=tuple(header[i] for i in features),
    )


def _csv_row(path: Path, reader: CsvReader) -> list[str] | None:
    """The next row; None at the end of the file."""
    try:
        return next(reader, None)
    except csv.Error as error:
        raise LapseError(
            f"{path}, line {reader.line_num}: the CSV is malformed ({error}); correct the line."
        ) from None


def _csv_roles(path: Path, header: list[str], named: dict[str, str | None]) -> list[int]:
    """The positions of the columns for id, time and target."""
    if not header:
        raise LapseError(f"{path} is empty or starts with an empty line; start with a header line.")
    known = ", ".join(shown(name) for name in header[:50])
    if "" in header or len(set(header)) < len(header):
        raise LapseError(
            f"{path}: the column names are {known}, but they must be unique and not empty; rename "
            "the columns."
        )
    missing = [f"--{role}" for role, name in named.items() if name is None]
    if missing:
        raise LapseError(
            f"{path} is a CSV file, so {' and '.join(missing)} must name a column; its columns are "
            f"{known}."
        )
    for role, name in named.items():
        if name not in header:
            raise LapseError(
                f"{path} has no column {name!r} for --{role}; its columns are {known}."
            )
    roles = [header.index(name) for name in named.values() if name is not None]
    if len(set(roles)) < len(roles):
        raise LapseError(
            f"{path}: --id, --time and --target must name three different columns; its columns are "
            f"{known}."
        )
    if len(header) == len(roles):
        raise LapseError(f"{path} has no columns but id, time and target; add a feature column.")
    return roles


def _time(text: str, where: str) -> tuple[str, int | float]:
    """The kind of a time, and a number that orders times of that kind.

    Whole numbers stay integers, because a float can't represent a count of nanoseconds exactly.
    """
    if "_" not in text:
        for parse in (int, float):
            try:
                value = parse(text)
            except ValueError:
                continue
            if abs(value) < math.inf:
                return "a number", value
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise LapseError(
            f"{where}: {shown(text)} is neither a number nor an ISO date such as "
            f"2024-05-01T12:30:00; write all times in one of these ways."
        ) from None
    epoch = datetime(1970, 1, 1, tzinfo=UTC if moment.tzinfo else None)
    kind = "a date with a time zone" if moment.tzinfo else "a date without a time zone"
    return kind, (moment - epoch) // timedelta(microseconds=1)


def _numbers(cells: Sequence[str], where: str, part: Callable[[int], str]) -> list[float]:
    """Parses values that must fit in a finite float32.

    Args:
        cells: The texts.
        where: Position of the row, for the error.
        part: Returns the position of the i-th text in the row.

    Raises:
        LapseError: A text is not such a number.
    """
    values = []
    for i, cell in enumerate(cells):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        # Python parses 1_2 as 12, but in a data file it is probably a name.
        if not -_LARGEST <= value <= _LARGEST or "_" in cell:
            fault = "not a number" if value != value or "_" in cell else "too large for float32"
            raise LapseError(
                f"{where}, {part(i)}: {shown(cell)} is {fault}; correct it or remove such rows."
            )
        values.append(value)
    return values


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[tuple[int, str]]]:
    """Opens a text file as numbered lines; every failure to read it is a LapseError."""
    try:
        if path.is_dir():
            raise LapseError(f"{path} is a folder; give a .ts or a .csv file.")
        if not path.is_file():
            raise LapseError(f"{path} does not exist or is not a file; give a .ts or a .csv file.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield ((i, _checked(path, line)) for i, line in enumerate(file, start=1))
    except UnicodeDecodeError:
        raise LapseError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise LapseError(f"{path} can't be read: {error.strerror}; check the path.") from None


def _checked(path: Path, line: str) -> str:
    """Returns the line; raises if it shows that the file is not text."""
    if "\0" in line:
        raise LapseError(f"{path} has binary data; give a text file saved as UTF-8.")
    return line


def shown(text: str) -> str:
    """Quotes a piece of a file for an error message, cut to a readable length."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
