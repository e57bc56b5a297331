"""Rows from files: numbers, texts as places, a column of labels; every fault of a file has a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_sdk.datasets import load, load_splits, load_unlabelled
from edge_sdk.errors import DataError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.tabular import as_known, read_table


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_csv_file_is_numbers_texts_and_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "age,sex,smokes,label\n60,f,true,ill\n,m,false,well\n20.5,,true,ill\n")
    table = read_table(path)
    assert table.columns == ("age", "sex", "smokes")
    assert table.words == {"sex": ("f", "m")}
    np.testing.assert_array_equal(table.values, [[60, 0, 1], [np.nan, 1, 0], [20.5, np.nan, 1]])
    assert table.classes == ("ill", "well")
    assert table.labels.tolist() == [0, 1, 0]


def test_parquet_gives_what_csv_gives_with_another_label_times_and_strata(tmp_path: Path) -> None:
    rows = {
        "x": [1.0, None, 3.0],
        "grade": [10, 9, 10],
        "city": pa.array(["b", "a", "b"]).dictionary_encode(),
        "times": pa.array([0, 1_000_000, 2_500_000], pa.timestamp("us")),
        "strata": ["day", "night", "day"],
    }
    pq.write_table(pa.table(rows), tmp_path / "d.parquet")
    dataset = load(f"table:{tmp_path / 'd.parquet'}#grade")
    assert dataset.classes == ("9", "10")  # as numbers are ordered
    assert dataset.columns == ("x", "city")
    assert dataset.words == {"city": ("a", "b")}
    assert dataset.rows
    assert dataset.times is not None
    assert dataset.times.tolist() == [0.0, 1.0, 2.5]
    assert dataset.strata is not None
    assert dataset.strata.tolist() == ["day", "night", "day"]
    taken = dataset.take([2, 0])
    assert taken.columns == dataset.columns
    assert taken.words == dataset.words


def test_equal_rows_are_never_in_two_splits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [f"{rng.integers(40)},{rng.choice(['a', 'b'])},{rng.integers(2)}" for _ in range(600)]
    splits = load_splits(f"table:{write(tmp_path / 'd.csv', chr(10).join(['x,c,label', *lines]))}", seed=1)
    parts = [set(part.hashes) for part in (splits.train, splits.validation, splits.calibration, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_a_digest_is_of_the_texts_and_not_of_their_places(tmp_path: Path) -> None:
    rows = "x,city,label\n1,{0},0\n2,{1},1\n3,,0\n4,{1},1\n"
    paris, rome = (
        load(f"table:{write(tmp_path / f'{first}.csv', rows.format(first, second))}")
        for first, second in (("bonn", "paris"), ("bonn", "rome"))
    )
    np.testing.assert_array_equal(paris.images, rome.images)
    assert [one == other for one, other in zip(paris.hashes, rome.hashes, strict=True)] == [True, False, True, False]
    assert paris.digest != rome.digest
    more = load(f"table:{write(tmp_path / 'more.csv', rows.format('bonn', 'paris') + '5,aachen,0')}")
    assert more.take(np.arange(4)).digest == paris.digest


def test_texts_are_said_in_the_words_of_the_model(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "x,city,label\n1,rome,0\n2,bonn,1\n3,,0\n4,oslo,1\n")
    dataset = load(f"table:{path}")
    spec = ProcessingSpec.table(["x", "city"], categories={"city": ["oslo", "rome"]})
    known = as_known(dataset, spec)
    np.testing.assert_array_equal(np.asarray(known.images)[:, 1], [1, np.nan, np.nan, 0])
    assert known.digest == dataset.digest
    assert as_known(known, spec) is known
    with pytest.raises(
        DataError, match="the columns of the data are not those of the model: 'city' is only in one of them"
    ):
        as_known(dataset, ProcessingSpec.table(["x", "town"], categories={"town": ["oslo"]}))
    with pytest.raises(DataError, match="their order differs"):
        as_known(dataset, ProcessingSpec.table(["city", "x"], categories={"city": ["oslo"]}))
    with pytest.raises(DataError, match="'city' holds texts in the data and numbers in the model"):
        as_known(dataset, ProcessingSpec.table(["x", "city"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "has no column 'label' of labels; say which one is, as table:"),
        ("a,label\n1,x\n2,\n", "column 'label' is empty in 1 of 2 rows"),
        ("a,label\n1,0.5\n2,0.7\n", "column 'label' holds double; classes are texts, integers or booleans"),
        ("a,a,label\n1,2,0\n", "two columns are called 'a'"),
        ("a,b,label\n1,,0\n2,,1\n", "column 'b' is empty; leave it out"),
        ("a,day,label\n1,2026-01-02,0\n2,2026-01-03,1\n", "column 'day' holds date32"),
        (",label\n0,a\n1,b\n", "column '' has no name of its own; pandas writes none with index=False"),
        ("label\n0\n1\n", "has 2 rows of 0 columns beside 'label'"),
        ("a,label\n1,0\n1,2,3\n", "is not a usable table: CSV parse error"),
        ("", "is not a usable table"),
        ("name,label\n" + "".join(f"n{i},0\n" for i in range(1001)), "has 1,001 different texts, more than 1,000"),
        ("a,times,label\n1,soon,0\n", "column 'times' holds string; expected times, or seconds since 1970"),
        ("a,times,label\n1,,0\n2,5,0\n", "column 'times' is empty in 1 rows"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_the_column_at_fault(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", text)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.csv"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is not a file"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"should end in \.csv or \.parquet"):
        read_table(write(tmp_path / "d.xlsx", "x"))
    with pytest.raises(DataError, match=r"d\.parquet is not a usable table"):
        read_table(write(tmp_path / "d.parquet", "PAR1 and then nothing"))
    with pytest.raises(DataError, match="are more than 0 GiB"):
        read_table(write(tmp_path / "d.csv", "a,label\n1,0\n"), limit=4)


@pytest.mark.parametrize(
    "text",
    [
        'a,c,label\n1,"open,0\n' + "1,b,0\n" * 400_000,
        f"{','.join(f'column{at}' for at in range(100_000))},label\n" + "1," * 100_000 + "0\n",
        f"{','.join(f'c{at}' for at in range(100_000))},label\n" + f"0.{'1' * 30}," * 100_000 + "0\n",
    ],
    ids=["an open quote", "a long line of names", "a long row"],
)
def test_a_row_that_is_too_long_is_said_to_be(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d\.csv has a row of more than 1 MiB: a quote is not closed, or"):
        read_table(write(tmp_path / "d.csv", text))


def test_texts_may_have_several_lines_wherever_the_file_is_cut_for_reading(tmp_path: Path) -> None:
    rows = 40_000  # more than one block of the reader
    lines = [f'{i},"first\nand {i % 3:030d}",{i % 2}' for i in range(rows)]
    table = read_table(write(tmp_path / "d.csv", "\n".join(["a,text,label", *lines])))
    assert table.values[:, 0].tolist() == list(range(rows))
    assert table.words == {"text": tuple(f"first\nand {i:030d}" for i in range(3))}


def test_bytes_that_are_no_text_are_told_so_and_never_steer_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes("city,label\nKöln,0\nBonn,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="column 'city' holds bytes that are no UTF-8 text"):
        read_table(tmp_path / "d.csv")
    with pytest.raises(DataError, match="CSV parse error") as caught:
        read_table(write(tmp_path / "d.csv", "a,label\n1,2,\x1b[2J\n"))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (pa.array([1, 1_500_000_001, -3], pa.timestamp("ns")), [1e-9, 1.500000001, -3e-9]),
        (pa.array([10**15, 0, 1], pa.timestamp("s")), [1e15, 0, 1]),  # beyond what microseconds can say
        (pa.array([1, 20_000, -1], pa.date32()), [86_400, 20_000 * 86_400, -86_400]),
        (pa.array([86_400_000, 0, 1], pa.timestamp("ms")).cast(pa.date64(), safe=False), [86_400, 0, 0]),
    ],
)
def test_times_are_seconds_whatever_a_file_counts_in(times: pa.Array, seconds: list[float], tmp_path: Path) -> None:
    rows = {"x": [1.0, 2.0, 3.0], "label": [0, 1, 0], "times": times}
    pq.write_table(pa.table(rows), tmp_path / "d.parquet")
    found = read_table(tmp_path / "d.parquet").times
    assert found is not None
    np.testing.assert_allclose(found, seconds, rtol=1e-12)


def test_the_number_of_a_row_that_pandas_writes_is_no_feature(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0], "label": [0], "__index_level_0__": [7]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="'__index_level_0__' has no name of its own"):
        read_table(tmp_path / "d.parquet")


def test_an_npz_may_name_its_columns_and_its_sample_rate(tmp_path: Path) -> None:
    y = np.arange(40) % 2
    np.savez(tmp_path / "r.npz", x=np.ones((40, 2)), y=y, columns=np.array(["a", "b"]))
    assert load(f"npz:{tmp_path / 'r.npz'}").columns == ("a", "b")
    np.savez(tmp_path / "s.npz", x=np.ones((40, 800)), y=y, sample_rate=8000)
    sound = load(f"npz:{tmp_path / 's.npz'}")
    assert (sound.sample_rate, sound.images[0].dtype, sound.rows) == (8000, np.float32, False)
    np.savez(tmp_path / "r.npz", x=np.ones((40, 2)), y=y, columns=np.array(["a", "a"]))
    with pytest.raises(DataError, match="expected different names for the last axis of x"):
        load(f"npz:{tmp_path / 'r.npz'}")
    np.savez(tmp_path / "s.npz", x=np.ones((40, 8, 2)), y=y, sample_rate=8000)
    with pytest.raises(DataError, match="expected a number of hertz, beside x of clips"):
        load(f"npz:{tmp_path / 's.npz'}")


def test_rows_without_labels_are_rows(tmp_path: Path) -> None:
    plain = load_unlabelled(f"table:{write(tmp_path / 'd.csv', 'a,b' + chr(10) + '1,x' + chr(10) + '2,y' + chr(10))}")
    labelled = load_unlabelled(f"table:{write(tmp_path / 'e.csv', 'a,b,label' + chr(10) + '1,x,0' + chr(10))}")
    assert plain.columns == labelled.columns == ("a", "b")
    assert plain.labels.tolist() == [-1, -1]
