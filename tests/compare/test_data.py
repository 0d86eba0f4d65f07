"""Reading data sets: exact values, every mistake a user can make, and the embedded data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lapse.compare import data as data_module
from lapse.compare import readers
from lapse.compare.data import Dataset, japanese_vowels, load
from lapse.compare.readers import read_csv, read_ts
from lapse.core.errors import LapseError

DATASETS = files("lapse.compare") / "datasets"
COLUMNS = {"id": "id", "time": "t", "target": "y"}
TS_HEAD = "@problemName walks\n@timeStamps false\n@classLabel true a b\n@data\n"
Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def ts(samples_of_each: int, classes: str = "ab", dimensions: int = 1) -> str:
    """A .ts file whose i-th sample has i % 3 + 1 steps, all of value i."""
    cases = []
    for i in range(samples_of_each * len(classes)):
        dimension = ",".join([str(i)] * (i % 3 + 1))
        cases.append(":".join([dimension] * dimensions + [classes[i % len(classes)]]))
    return f"@classLabel true {' '.join(classes)}\n@data\n" + "\n".join(cases)


def long_csv(samples_of_each: int) -> str:
    """A CSV file of classes a and b with two steps for each sample i: i and i + 0.5."""
    rows = []
    for i in range(2 * samples_of_each):
        rows += [f"s{i},0,{'ab'[i % 2]},{i}", f"s{i},1,{'ab'[i % 2]},{i}.5"]
    return "id,t,y,v\n" + "\n".join(rows) + "\n"


# .ts


def test_ts_gives_the_values_of_every_dimension(write: Write) -> None:
    path = write(
        "walks.ts",
        "#about\r\n% more\r\n\r\n@problemName walks\r\n@TIMESTAMPS false\r\n@missing false\r\n"
        "@univariate false\r\n@dimensions 2\r\n@equalLength false\r\n@classLabel True b a\r\n"
        "@DATA\r\n1,2.5,-3e-1:4, 5,6:a\r\n# between\r\n\r\n7:8: b \r\n",
    )
    read = read_ts(path)
    np.testing.assert_array_equal(
        read.values[0], np.array([[1, 4], [2.5, 5], [-0.3, 6]], np.float32)
    )
    np.testing.assert_array_equal(read.values[1], np.array([[7, 8]], np.float32))
    assert all(value.dtype == np.float32 for value in read.values)
    assert read.labels == ["a", "b"]
    assert read.classes == ("b", "a")
    assert read.features == ("channel 1", "channel 2")


def test_ts_pads_with_zeros_and_holds_out_a_share_of_each_class(write: Write) -> None:
    path = write("walks.ts", ts(10, dimensions=2))
    data = load(path)
    assert data.name == "walks"
    assert data.source == str(path)
    assert data.x.shape == (20, 3, 2)
    assert data.x.dtype == np.float32
    assert data.lengths.tolist() == [i % 3 + 1 for i in range(20)]
    assert data.labels.tolist() == [0, 1] * 10
    assert data.classes == ("a", "b")
    for i in range(20):
        expected = np.zeros((3, 2), np.float32)
        expected[: i % 3 + 1] = i
        np.testing.assert_array_equal(data.x[i], expected)
    assert np.bincount(data.labels[data.test]).tolist() == [3, 3]


def test_the_split_is_the_same_every_time(write: Write) -> None:
    first, second = load(write("walks.ts", ts(40))), load(write("copy.ts", ts(40)))
    np.testing.assert_array_equal(first.test, second.test)
    assert first.test.sum() == 24
    assert not first.test[-24:].all()
    assert first.sha256 == second.sha256


def test_six_sequences_are_the_least_that_can_be_split(write: Write) -> None:
    data = load(write("walks.ts", ts(6)))
    assert np.bincount(data.labels[data.test]).tolist() == [2, 2]
    with pytest.raises(LapseError, match=r"class 'a' has too few sequences: 5, but at least 6"):
        load(write("walks.ts", ts(5)))


def test_a_test_file_beside_the_training_file_is_the_test_set(write: Write) -> None:
    path = write("walks_TRAIN.ts", ts(4))
    alone = write("walks_TEST.ts", "@classLabel true b a\n@data\n50,51,52,53:b\n60:a\n70:a\n80:b\n")
    data = load(path)
    assert data.name == "walks"
    assert data.source == str(path)
    assert data.test.tolist() == [False] * 8 + [True] * 4
    assert data.labels.tolist() == [0, 1] * 4 + [1, 0, 0, 1]
    assert data.x[8, :, 0].tolist() == [50, 51, 52, 53]
    assert data.x[11, :, 0].tolist() == [80, 0, 0, 0]
    assert data.lengths[8:].tolist() == [4, 1, 1, 1]
    assert data.held_out == "the sequences of walks_TEST.ts"
    small = alone.rename(alone.with_name("walks_test.ts"))
    assert load(path).x.shape == data.x.shape
    small.unlink()
    with pytest.raises(LapseError, match="but at least 6"):
        load(path)


@pytest.mark.parametrize(
    ("test_file", "message"),
    [
        (ts(3, dimensions=2), "walks_TEST.ts has 2 dimensions, but .*walks_TRAIN.ts has 1; give"),
        (
            ts(3, "abc"),
            "walks_TEST.ts has the class 'c', which is not declared in .*walks_TRAIN.ts; give",
        ),
        (ts(1), "walks_TEST.ts: class 'a' has too few sequences: 1, but at least 2 are needed"),
        ("", "walks_TEST.ts has no @data line"),
    ],
)
def test_a_test_file_must_fit_the_training_file(write: Write, test_file: str, message: str) -> None:
    path = write("walks_TRAIN.ts", ts(4))
    write("walks_TEST.ts", test_file)
    with pytest.raises(LapseError, match=message):
        load(path)


def test_a_training_file_needs_four_of_each_class(write: Write) -> None:
    write("walks_TEST.ts", ts(2))
    with pytest.raises(LapseError, match=r"walks_TRAIN.ts: class 'a' .* 3, but at least 4"):
        load(write("walks_TRAIN.ts", ts(3)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "walks.ts has no @data line; give"),
        ("@classLabel true a b\n", "has no @data line"),
        ("1,2,3:a\n", "line 1: '1,2,3:a' comes before @data"),
        ("x" * 100_000, r"line 1: 'x{57}\.\.\.' comes before @data"),
        ("@classLabel\n@data\n1:a", "declares no classes; give a classification file"),
        ("@classLabel false\n@data\n1:a", "declares no classes"),
        ("@classLabel true\n@data\n1:a", "declares no classes"),
        ("@targetLabel true\n@data\n1:2.5", "declares no classes"),
        ("@classLabel true a b a\n@data\n1:a", "line 1: @classLabel has a class twice"),
        ("@dimensions two\n", "line 1: @dimensions must be followed by one whole number"),
        ("@dimension\n", "line 1: @dimension must be followed by one whole number"),
        (f"@dimensions {'9' * 5000}\n", "must be followed by one whole number"),
        ("\n@timeStamps true\n", "line 2: time stamps are not supported"),
        (TS_HEAD, "has no samples after @data"),
        (
            TS_HEAD + "1,2,3\n",
            "line 5: the number of dimensions .* is 0, but it should be at least 1",
        ),
        (
            TS_HEAD + "1:2:a\n1:a\n",
            "line 6: the number of dimensions .* is 1, but it should be 2",
        ),
        (
            "@dimensions 3\n" + TS_HEAD + "1:2:a\n",
            "line 6: the number of dimensions .* is 2, but it should be 3",
        ),
        (TS_HEAD + "1,2:c\n", "line 5: the last field 'c' is not a class of @classLabel"),
        (TS_HEAD + "1,2:3,4\n", "line 5: the last field '3,4' is not a class of @classLabel"),
        (TS_HEAD + "1,2:1:a\n", "line 5, dimension 2 has 1 steps, but dimension 1 has 2"),
        (
            TS_HEAD + "1,2:1,?:a\n",
            r"line 5, dimension 2, step 2: '\?' is not a number; correct it or",
        ),
        (TS_HEAD + "1,,2:a\n", "line 5, dimension 1, step 2: '' is not a number"),
        (TS_HEAD + ":a\n", "line 5, dimension 1, step 1: '' is not a number"),
        (TS_HEAD + "NaN:a\n", "step 1: 'NaN' is not a number"),
        (TS_HEAD + "-inf:a\n", "step 1: '-inf' is too large for float32"),
        (TS_HEAD + "4e38:a\n", "step 1: '4e38' is too large for float32"),
        (TS_HEAD + "1_0:a\n", "step 1: '1_0' is not a number"),
        (TS_HEAD + "9" * 100_000 + ":a\n", r"step 1: '9{57}\.\.\.' is too large for float32"),
        (ts(9, "a"), "has only the class 'a'; give a file with at least two"),
        (ts(9) + "\n1:c", "line 21: the last field 'c'"),
        (ts(9).replace("a b", "a b c"), "class 'c' has too few sequences: 0, but at least 6"),
    ],
)
def test_ts_mistakes(write: Write, content: str, message: str) -> None:
    with pytest.raises(LapseError, match=message):
        load(write("walks.ts", content))


@pytest.mark.parametrize("column", ["id", "time", "target"])
def test_column_names_are_for_csv_only(write: Write, column: str) -> None:
    with pytest.raises(LapseError, match="--id, --time and --target are for CSV files only"):
        load(write("walks.ts", ts(6)), **{column: "x"})


# CSV


def test_csv_gives_steps_in_the_order_of_time(write: Write) -> None:
    path = write(
        "walks.csv",
        b"\xef\xbb\xbf"
        b'v, y ,t,id,"w,1"\r\n'
        b"1,run,10,k2,0.5\r\n"
        b"2,rest,1,k1,1.5\r\n"
        b"\r\n"
        b"3,run,9,k2,2.5\r\n"
        b'"4", run,-2.5e0,k2 ,3.5\r\n',
    )
    read = read_csv(path, **COLUMNS)
    assert read.features == ("v", "w,1")
    assert read.labels == ["run", "rest"]
    assert read.classes == ("rest", "run")
    np.testing.assert_array_equal(
        read.values[0], np.array([[4, 3.5], [3, 2.5], [1, 0.5]], np.float32)
    )
    np.testing.assert_array_equal(read.values[1], np.array([[2, 1.5]], np.float32))


@pytest.mark.parametrize(
    ("early", "late"),
    [
        ("9", "10"),
        ("1700000000000000001", "1700000000000000002"),
        ("-1e3", "0.5"),
        ("2024-05-01", "2024-05-02"),
        ("2024-05-01T09:59:59.5", "2024-05-01 10:00"),
        ("2024-05-01T23:00:00+09:00", "2024-05-01T15:00:00Z"),
    ],
)
def test_csv_times(write: Write, early: str, late: str) -> None:
    path = write("walks.csv", f"id,t,y,v\nk,{late},a,2\nk,{early},a,1\n")
    assert read_csv(path, **COLUMNS).values[0][:, 0].tolist() == [1, 2]


def test_csv_becomes_a_data_set(write: Write) -> None:
    data = load(write("walks.CSV", long_csv(6)), **COLUMNS)
    assert data.classes == ("a", "b")
    assert data.features == ("v",)
    assert data.labels.tolist() == [0, 1] * 6
    assert data.x[:, :, 0].tolist() == [[i, i + 0.5] for i in range(12)]
    assert np.bincount(data.labels[data.test]).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "walks.csv is empty or starts with an empty line"),
        ("\nid,t,y,v\n", "walks.csv is empty or starts with an empty line"),
        ("id,t,y,v\n", "walks.csv has a header but no rows"),
        ("id,t,y,v,v\n", "the column names are 'id', 't', 'y', 'v', 'v', but they must be unique"),
        (
            "id,t,y,\n",
            "the column names are 'id', 't', 'y', '', but they must be unique and not empty",
        ),
        ("name,t,y,v\n", "has no column 'id' for --id; its columns are 'name', 't', 'y', 'v'"),
        ("id;t;y;v\n", "has no column 'id' for --id; its columns are 'id;t;y;v'"),
        ("id,t,y\nk,1,a\n", "has no columns but id, time and target"),
        ("id,t,y,v\nk,1,a\n", "line 2: the row has 3 fields, but the header has 4"),
        ("id,t,y,v\nk,1,a,2,3\n", "line 2: the row has 5 fields, but the header has 4"),
        (
            "id,t,y,v\nk,1,a,n/a\n",
            "line 2, column 'v': 'n/a' is not a number; correct it or remove such",
        ),
        ("id,t,y,v\n\nk,1,a,\n", "line 3, column 'v': '' is not a number"),
        ("id,t,y,v\nk,1,a,nan\n", "line 2, column 'v': 'nan' is not a number"),
        ("id,t,y,v\nk,1,a,inf\n", "line 2, column 'v': 'inf' is too large for float32"),
        ("id,t,y,v\nk,1,a,1_2\n", "line 2, column 'v': '1_2' is not a number"),
        ("id,t,y,v\n,1,a,2\n", "line 2, column 'id': the field is empty"),
        ("id,t,y,v\nk, ,a,2\n", "line 2, column 't': the field is empty"),
        ("id,t,y,v\nk,1,,2\n", "line 2, column 'y': the field is empty"),
        (
            "id,t,y,v\nk,1,a,2\nk,2,b,2\n",
            "line 3, column 'y': the class is 'b', but earlier rows of id 'k' .*'a'",
        ),
        ("id,t,y,v\nk,2,a,2\nk,1,a,2\nk,2.0,a,2\n", "lines 2 and 4: id 'k' has the same time in"),
        (
            "id,t,y,v\nk,noon,a,2\n",
            "line 2, column 't': 'noon' is neither a number nor an ISO date",
        ),
        ("id,t,y,v\nk,nan,a,2\n", "'nan' is neither a number nor an ISO date"),
        ("id,t,y,v\nk,1_0,a,2\n", "'1_0' is neither a number nor an ISO date"),
        (
            "id,t,y,v\nk,1,a,2\nk,2024-05-01,a,2\n",
            "line 3, column 't': '2024-05-01' is a date without a time zone, but the first row has "
            "a number",
        ),
        (
            "id,t,y,v\nk,2024-05-01,a,2\nk,2024-05-02T00:00Z,a,2\n",
            "'2024-05-02T00:00Z' is a date with a time zone, but the first row has a date without",
        ),
        ('id,t,y,v\nk,1,a,"2', r"line 2: the CSV is malformed \(unexpected end of data\)"),
        ('id,t,y,v\nk,1,a,"2"3\n', "line 2: the CSV is malformed"),
        ("x" * 200_000, r"line 1: the CSV is malformed \(field larger than"),
        ("id,t,y,v\nk,1,a,2\nm,1,b,2\n", "class 'a' has too few sequences: 1, but at least 6"),
    ],
)
def test_csv_mistakes(write: Write, content: str, message: str) -> None:
    with pytest.raises(LapseError, match=message):
        load(write("walks.csv", content), **COLUMNS)


@pytest.mark.parametrize("missing", ["id", "time", "target"])
def test_csv_needs_all_three_columns(write: Write, missing: str) -> None:
    named = {role: name for role, name in COLUMNS.items() if role != missing}
    with pytest.raises(LapseError, match=f"so --{missing} must name.*'id', 't', 'y', 'v'"):
        load(write("walks.csv", long_csv(6)), **named)


def test_csv_columns_must_differ(write: Write) -> None:
    with pytest.raises(LapseError, match="must name three different columns"):
        load(write("walks.csv", long_csv(6)), id="id", time="t", target="t")


# Files that are neither


@pytest.mark.parametrize("name", ["walks.ts", "walks.csv"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "is not UTF-8 text"),
        (b"PK\x03\x04\x14\x00\x00\x00\x08\x00x.npy", "has binary data"),
        ("id,t\n".encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_binary_files(write: Write, name: str, content: bytes, message: str) -> None:
    with pytest.raises(LapseError, match=message):
        load(write(name, content), **(COLUMNS if name.endswith("csv") else {}))


def test_text_that_turns_binary_late(write: Write) -> None:
    with pytest.raises(LapseError, match="is not UTF-8 text"):
        load(write("walks.ts", TS_HEAD.encode() + b"1,2,3:a\n" * 5000 + b"\xff"))
    with pytest.raises(LapseError, match="is not UTF-8 text"):
        load(write("walks.csv", b"id,t,y,v\n" + b"k,1,a,2\n" * 5000 + b"\xff"), **COLUMNS)


@pytest.mark.parametrize("name", ["walks.npz", "walks", "walks.ts.gz", ".ts", ""])
def test_other_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(LapseError, match=r"does not end in \.ts or \.csv"):
        load(tmp_path / name)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(LapseError, match=r"gone.ts does not exist or is not a file"):
        load(str(tmp_path / "gone.ts"))
    with pytest.raises(LapseError, match="does not exist or is not a file"):
        load("a\0b.csv", **COLUMNS)
    with pytest.raises(LapseError, match="can't be read: File name too long"):
        load(tmp_path / ("x" * 5000 + ".ts"))
    (tmp_path / "folder.ts").mkdir()
    with pytest.raises(LapseError, match=r"folder\.ts is a folder"):
        load(tmp_path / "folder.ts")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ts")
    with pytest.raises(LapseError, match="is not a file"):
        load(tmp_path / "pipe.ts")


def test_sequences_of_one_step_are_refused(write: Write) -> None:
    rows = "".join(f"{n},0,{n % 2},1.5\n" for n in range(20))
    path = write("walks.csv", "id,t,kind,v\n" + rows)
    with pytest.raises(LapseError, match=r"every sequence has a single step.* with --id"):
        load(path, id="id", time="t", target="kind")


def test_padding_must_fit_in_memory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "_MAX_VALUES", 35)
    with pytest.raises(LapseError, match="padded to 3 steps, its sequences have 36 values"):
        load(write("walks.ts", ts(6)))


# The digest


def test_the_digest_follows_the_contents_and_nothing_else() -> None:
    ones, two = np.ones((2, 1), np.float32), np.ones((1, 1), np.float32)
    base: dict[str, Any] = {
        "name": "walks",
        "values": [ones, two],
        "labels": np.array([0, 1]),
        "classes": ("a", "b"),
        "features": ("v",),
        "test": np.array([False, True]),
        "held_out": "the last",
        "source": "here",
    }

    def digest(**changes: object) -> str:
        return data_module._dataset(**{**base, **changes}).sha256

    assert digest(name="runs", held_out="", source="there", features=("w",)) == digest()
    different = [
        digest(),
        digest(values=[ones, 2 * two]),
        digest(values=[two, ones]),
        digest(values=[ones, np.array([[1], [0]], np.float32)]),
        digest(labels=np.array([1, 0])),
        digest(test=np.array([True, False])),
        digest(classes=("a", "c")),
        digest(classes=("a", "b", "c")),
    ]
    assert len(set(different)) == len(different)


# Anything at all

TS_TEXT = st.lists(
    st.sampled_from(["@classLabel true a b\n", "@data\n", "@dimensions 2\n", "1", "-2.5", ",", ":"])
    | st.sampled_from(["a", "b", "\n", "\r", "\0", "@", "#", "nan", "\ufeff", "1_0", " ", "é"])
    | st.text(max_size=4)
).map("".join)
CSV_TEXT = st.lists(
    st.sampled_from(["id,t,y,v\n", "k,1,a,2\n", "m,2,b,-1\n", "k", ",", "\n", "\r", '"', "\0", ";"])
    | st.sampled_from(["2024-05-01", "2024-05-01T00:00Z", "0001-01-01T00:00+23:59", "1e999"])
    | st.text(max_size=4)
).map("".join)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=300)
    | st.one_of(TS_TEXT, CSV_TEXT, TS_TEXT.map(lambda text: TS_HEAD + text)).map(
        lambda text: text.encode(errors="surrogatepass")
    ),
    extra=st.booleans(),
)
def test_any_file_gives_a_data_set_or_a_lapse_error(
    tmp_path: Path, content: bytes, extra: bool
) -> None:
    for name, good, columns in (
        ("fuzz.ts", ts(6) + "\n", dict[str, str]()),
        ("fuzz.csv", long_csv(6), COLUMNS),
    ):
        path = tmp_path / name
        path.write_bytes(good.encode() * extra + content)
        try:
            data = load(path, **columns)
        except LapseError as error:
            assert str(error).startswith(str(tmp_path))
            assert len(str(error)) < 2000
            continue
        assert isinstance(data, Dataset)
        assert np.isfinite(data.x).all()
        assert data.lengths.min() >= 1
        assert set(np.bincount(data.labels, minlength=len(data.classes)) >= 6) == {True}


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="0123456789-+:TZW.e ", max_size=24) | st.text(max_size=12))
def test_any_time_is_ordered_or_refused(text: str) -> None:
    try:
        kind, value = readers._time(text, "here")
    except LapseError:
        return
    assert kind.startswith(("a number", "a date"))
    assert value == value


# Embedded data


def test_japanese_vowels_are_the_published_data() -> None:
    data = japanese_vowels()
    assert data.x.shape == (640, 29, 12)
    assert data.x.dtype == np.float32
    assert (data.lengths.min(), data.lengths.max()) == (7, 29)
    assert data.lengths.dtype == data.labels.dtype == np.int64
    assert data.classes == tuple("123456789")
    assert np.bincount(data.labels[~data.test]).tolist() == [30] * 9
    assert np.bincount(data.labels[data.test]).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert data.test.tolist() == [False] * 270 + [True] * 370
    assert len(data.features) == 12
    np.testing.assert_array_equal(
        data.x[0, :2, :5],
        np.array(
            [
                [1.860936, -0.207383, 0.261557, -0.214562, -0.171253],
                [1.891651, -0.193249, 0.235363, -0.249118, -0.112890],
            ],
            np.float32,
        ),
    )
    beyond = np.arange(29) >= data.lengths[:, None]
    assert not data.x[beyond].any()
    assert data.x[~beyond].any(axis=1).all()
    assert "10.24432/C5NS47" in data.source
    assert "CC BY 4.0" in data.source


def test_the_embedded_file_is_small_plain_and_described() -> None:
    about = json.loads((DATASETS / "DATASETS.json").read_text(encoding="utf-8"))["japanese_vowels"]
    content = (DATASETS / about["file"]).read_bytes()
    assert len(content) < 500_000
    assert hashlib.sha256(content).hexdigest() == about["sha256"]
    assert {"creators", "doi", "url", "licence", "citation", "changes"} <= about.keys()


def test_pickle_is_never_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = []
    original = np.load

    def watched(file: IO[bytes], *, allow_pickle: bool) -> object:
        allowed.append(allow_pickle)
        return original(file, allow_pickle=allow_pickle)

    monkeypatch.setattr(np, "load", watched)
    japanese_vowels()
    assert allowed == [False]


def test_a_damaged_embedded_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "datasets"
    folder.mkdir()
    (folder / "DATASETS.json").write_bytes((DATASETS / "DATASETS.json").read_bytes())
    content = (DATASETS / "japanese_vowels.npz").read_bytes()
    (folder / "japanese_vowels.npz").write_bytes(content[:-1] + b"\xff")
    monkeypatch.setattr(data_module, "files", lambda _: tmp_path)
    with pytest.raises(LapseError, match=r"japanese_vowels.npz is damaged; install lapse again"):
        japanese_vowels()
