"""Data sets for `lapse compare`: the embedded one, and the user's files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lapse.compare.readers import Sequences, read_csv, read_ts, shown
from lapse.core.errors import LapseError

TEST_SHARE = 0.3
MIN_TRAIN = 4
MIN_TEST = 2
_SPLIT_SEED = 20240501
_MAX_VALUES = 100_000_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled sequences, padded at the end.

    Attributes:
        name: Short name.
        x: Values, shape (samples, timesteps, features), zeros after the end of each sequence.
        lengths: Steps of each sequence, shape (samples,), each at least 1.
        labels: Class index of each sequence, shape (samples,), in [0, len(classes)).
        classes: Class names.
        features: Feature names.
        test: Marks the test sequences, which are used for no choice, shape (samples,).
        held_out: What the test set is, in words.
        source: Origin and licence, or the path as given.
        sha256: Digest of x, lengths, labels, test and classes.
    """

    name: str
    x: NDArray[np.float32]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    features: tuple[str, ...]
    test: NDArray[np.bool_]
    held_out: str
    source: str
    sha256: str


def japanese_vowels() -> Dataset:
    """The embedded Japanese Vowels data: 270 + 370 utterances by nine speakers.

    Raises:
        LapseError: The embedded file is damaged.
    """
    folder = files("lapse.compare") / "datasets"
    about = json.loads((folder / "DATASETS.json").read_text(encoding="utf-8"))["japanese_vowels"]
    content = (folder / about["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise LapseError(f"the embedded file {about['file']} is damaged; install lapse again.")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        values = np.split(stored["x"], np.cumsum(stored["lengths"])[:-1])
        return _dataset(
            name="Japanese Vowels",
            values=values,
            labels=stored["labels"],
            classes=tuple(str(name) for name in stored["classes"]),
            features=tuple(about["features"]),
            test=stored["test"],
            held_out="the 370 sequences of the released test set",
            source=f"{about['source']}, doi:{about['doi']}, {about['licence']}",
        )


def load(
    path: str | os.PathLike[str],
    *,
    id: str | None = None,
    time: str | None = None,
    target: str | None = None,
) -> Dataset:
    """Reads a `.ts` or a long `.csv` file.

    If NAME_TRAIN.ts is given and NAME_TEST.ts exists next to it (in upper or lower case), that is
    the test set. Otherwise 30 % of the sequences of each class are held out, always the same ones
    for the same file.

    Args:
        path: The file.
        id: For CSV, the column that identifies the sequence of a row.
        time: For CSV, the column that orders the steps of a sequence.
        target: For CSV, the column with the class.

    Raises:
        LapseError: The file can't be read, has a mistake, or has too few sequences of a class.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _split(path, read_csv(path, id=id, time=time, target=target))
    if suffix != ".ts":
        raise LapseError(
            f"{path} does not end in .ts or .csv; give a file in one of these formats."
        )
    if any(column is not None for column in (id, time, target)):
        raise LapseError(
            f"{path}: --id, --time and --target are for CSV files only; leave them out."
        )
    train = read_ts(path)
    if path.stem.lower().endswith("_train"):
        name = re.sub("train$", "test", path.stem, flags=re.IGNORECASE) + path.suffix
        for other in sorted(path.parent.iterdir()):
            if other.name.lower() == name.lower():
                return _joined(path, train, other, read_ts(other))
    return _split(path, train)


def _joined(path: Path, train: Sequences, test_path: Path, test: Sequences) -> Dataset:
    """Combines a training file and its test file."""
    if len(test.features) != len(train.features):
        raise LapseError(
            f"{test_path} has {len(test.features)} dimensions, but {path} has "
            f"{len(train.features)}; give both files the same dimensions."
        )
    unknown = sorted(set(test.labels) - set(train.classes))
    if unknown:
        raise LapseError(
            f"{test_path} has the class {shown(unknown[0])}, which is not declared in {path}; give "
            f"both files the same classes."
        )
    for name in train.classes:
        _require(test_path, name, test.labels.count(name), MIN_TEST, "for testing")
        _require(path, name, train.labels.count(name), MIN_TRAIN, "for training")
    return _from_file(
        path,
        Sequences(
            train.values + test.values, train.labels + test.labels, train.classes, train.features
        ),
        np.arange(len(train.values) + len(test.values)) >= len(train.values),
        f"the sequences of {test_path.name}",
    )


def _split(path: Path, data: Sequences) -> Dataset:
    """Holds out a fixed share of each class."""
    generator = np.random.default_rng(_SPLIT_SEED)
    test = np.zeros(len(data.labels), bool)
    for name in data.classes:
        members = np.flatnonzero([label == name for label in data.labels])
        use = f"({MIN_TRAIN} for training, {MIN_TEST} for testing)"
        _require(path, name, len(members), MIN_TRAIN + MIN_TEST, use)
        share = max(MIN_TEST, round(TEST_SHARE * len(members)))
        test[generator.permutation(members)[:share]] = True
    return _from_file(path, data, test, f"{TEST_SHARE:.0%} of the sequences of each class")


def _require(path: Path, name: str, count: int, least: int, use: str) -> None:
    if count < least:
        raise LapseError(
            f"{path}: class {shown(name)} has too few sequences: {count}, but at least {least} are "
            f"needed {use}; add sequences or remove the class."
        )


def _from_file(path: Path, data: Sequences, test: NDArray[np.bool_], held_out: str) -> Dataset:
    if len(data.classes) < 2:
        raise LapseError(
            f"{path} has only the class {shown(data.classes[0])}; give a file with at least two "
            "classes."
        )
    longest = max(map(len, data.values))
    if longest == 1:
        raise LapseError(
            f"{path}: every sequence has a single step, so recurrence has no effect; give the "
            "column that is the same for all steps of a sequence with --id."
        )
    padded = len(data.values) * longest * len(data.features)
    if padded > _MAX_VALUES:
        raise LapseError(
            f"{path}: padded to {longest} steps, its sequences have {padded} values, more than "
            f"the maximum of {_MAX_VALUES}; shorten the longest sequences or give fewer."
        )
    index = {name: i for i, name in enumerate(data.classes)}
    return _dataset(
        name=re.sub("_train$", "", path.stem, flags=re.IGNORECASE),
        values=data.values,
        labels=np.array([index[name] for name in data.labels], np.int64),
        classes=data.classes,
        features=data.features,
        test=test,
        held_out=held_out,
        source=str(path),
    )


def _dataset(
    *,
    name: str,
    values: list[NDArray[np.float32]],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    features: tuple[str, ...],
    test: NDArray[np.bool_],
    held_out: str,
    source: str,
) -> Dataset:
    """Pads the sequences and adds the digest of the contents."""
    lengths = np.array([len(sequence) for sequence in values], np.int64)
    x = np.zeros((len(values), int(lengths.max()), len(features)), np.float32)
    for row, sequence in zip(x, values, strict=True):
        row[: len(sequence)] = sequence
    digest = hashlib.sha256(json.dumps([x.shape, classes]).encode())
    for part, kind in ((x, "<f4"), (lengths, "<i8"), (labels, "<i8"), (test, "?")):
        digest.update(np.ascontiguousarray(part, kind).data)
    return Dataset(
        name, x, lengths, labels, classes, features, test, held_out, source, digest.hexdigest()
    )
