"""Parquet files and Arrow's own: what was written is read back, in chunks of any size."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from maskcli.tables import open_tables
from maskcli.tables.arrow import column, word_of_type
from maskcli.tables.columns import NOTHING
from tests.tables.whole import as_rows, columns, plain, read_back

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
bounds = st.fixed_dictionaries({"cells": st.integers(1, 40), "rows": st.integers(1, 5)})
list_types = st.sampled_from([pa.list_, pa.large_list, pa.list_view])


def table_of(columns, make=pa.list_):
    return pa.table({name: pa.array(values, make(pa.int64())) for name, values in columns.items()})


def write_arrow(path, table, stream, batch):
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


@anywhere
@given(
    columns,
    bounds,
    st.integers(1, 5),
    st.sampled_from([pa.list_, pa.large_list]),
    st.sampled_from(["snappy", "zstd", "none"]),
)
def test_parquet(tmp_path, columns, bounds, group, make, compression):
    pq.write_table(
        table_of(columns, make), tmp_path / "x.parquet", row_group_size=group, compression=compression
    )
    table, whole = read_back(tmp_path / "x.parquet", **bounds)
    assert table.numbers == tuple(columns)
    assert whole == columns
    assert sum(part.rows for part in table.parts) == len(columns["labels"])


@pytest.mark.long
@anywhere
@given(columns, bounds, st.integers(1, 5), list_types, st.booleans())
def test_arrow_files_and_streams(tmp_path, columns, bounds, batch, make, stream):
    path = write_arrow(tmp_path / "x.arrow", table_of(columns, make), stream, batch)
    table, whole = read_back(path, **bounds)
    assert table.numbers == tuple(columns)
    assert whole == columns


@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=4)), max_size=9), st.data(), list_types
)
def test_slices_and_nulls(rows, data, make):
    array = pa.array(rows, make(pa.int16()))
    start = data.draw(st.integers(0, len(rows)))
    length = data.draw(st.integers(0, len(rows)))
    got = column(array.slice(start, length), "ids", str)
    assert got.values.dtype == np.int16
    expected = [row or [] for row in rows[start : start + length]]
    assert plain(got, len(expected)) == expected


def test_a_null_row_may_hide_numbers():
    lists = pa.ListArray.from_arrays(
        [0, 2, 3, 5], pa.array([1, 2, 3, 4, 5]), mask=pa.array([False, True, False])
    )
    assert plain(column(lists, "ids", str), 3) == [[1, 2], [], [4, 5]]
    fixed = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4]), 2, mask=pa.array([True, False]))
    assert plain(column(fixed, "ids", str), 2) == [[], [3, 4]]


def test_numbers_are_not_copied():
    values = pa.array(range(100))
    got = column(pa.ListArray.from_arrays([0, 50, 100], values).slice(1), "ids", str)
    assert got.values.ctypes.data == values.buffers()[1].address + 50 * 8


@pytest.mark.parametrize(
    "kind",
    [
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "float16",
        "float32",
        "float64",
        "bool_",
    ],
)
def test_every_type_of_number(kind):
    values = [True, False, True] if kind == "bool_" else np.array([1, 0, 3]).astype(kind)
    got = column(pa.array([values, [], values[:1]], pa.list_(getattr(pa, kind)())), "x", str)
    assert got.values.dtype == np.dtype(kind.rstrip("_"))
    assert plain(got, 3) == [list(values), [], list(values[:1])]
    single = column(pa.array(values, getattr(pa, kind)()), "x", str)
    assert single.offsets is None
    assert plain(single, 3) == list(values)


def test_numbers_one_a_row_with_nulls_are_short_rows():
    assert plain(column(pa.array([3, None, 5]), "n", str), 3) == [[3], [], [5]]


def test_a_null_among_numbers_names_its_row_and_column(tmp_path):
    pq.write_table(pa.table({"labels": [[1, 2], [3], [4, None]]}), tmp_path / "x.parquet")
    with pytest.raises(MaskcliError, match=r"row 2 of '.*x.parquet' holds a null at place 1 as 'labels'"):
        read_back(tmp_path / "x.parquet", rows=1)


def test_what_is_no_number_is_told_in_a_word():
    types = {
        pa.list_(pa.list_(pa.int32())): "nested lists",
        pa.string(): "text",
        pa.list_(pa.large_string()): "texts",
        pa.dictionary(pa.int8(), pa.string()): "text",
        pa.dictionary(pa.int8(), pa.int64()): "numbers",
        pa.list_(pa.struct([("role", pa.string())])): "objects",
        pa.struct([("role", pa.string())]): "object",
        pa.timestamp("s"): "timestamp[s]",
        pa.null(): NOTHING,
        pa.list_(pa.null()): NOTHING,
        pa.list_(pa.uint8(), 3): "numbers",
        pa.binary(): "binary",
    }
    assert {kind: word_of_type(kind) for kind in types} == types


def test_objects_are_pythons_own(tmp_path):
    messages = [[{"role": "user", "content": "hi"}], [], None]
    pq.write_table(pa.table({"messages": messages, "n": [1, 2, 3]}), tmp_path / "x.parquet")
    table, whole = read_back(tmp_path / "x.parquet")
    assert (table.numbers, table.others) == (("n",), {"messages": "objects"})
    assert whole == {"messages": messages, "n": [1, 2, 3]}


def test_what_was_not_asked_for_is_told(tmp_path):
    from maskcli.tables import read

    pq.write_table(pa.table({"a": [[1]], "b": ["x"]}), tmp_path / "x.parquet")
    (table,) = open_tables([str(tmp_path / "x.parquet")])
    assert table.widened({"a": "numbers", "b": "text", "c": NOTHING}) is None
    pq.write_table(pa.table({"a": [[1]], "b": ["x"], "labels": [[1]]}), tmp_path / "x.parquet")
    (chunk,) = read(table.parts[0], ["a"])
    assert chunk.unasked == {}, "parquet reads no more than it is asked for"


def test_many_small_groups_are_few_parts(tmp_path):
    pq.write_table(pa.table({"ids": [[1, 2]] * 1000}), tmp_path / "x.parquet", row_group_size=10)
    (table,) = open_tables([str(tmp_path / "x.parquet")])
    assert [part.rows for part in table.parts] == [1000]


def test_saved_datasets_are_a_table_for_each_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    columns = {"input_ids": [[1, 2], [3], []], "labels": [[1, -100], [3], []]}
    train = datasets.Dataset.from_dict(columns)
    train.save_to_disk(tmp_path / "one", num_shards=2)
    table, whole = read_back(tmp_path / "one")
    assert table.name == str(tmp_path / "one")
    assert whole == columns

    splits = datasets.DatasetDict({"train": train, "test": train.select([2, 0])})
    splits.save_to_disk(tmp_path / "two")
    tables = open_tables([str(tmp_path / "two")])
    assert [each.name for each in tables] == ["train", "test"]
    assert [read_back(part.path)[1] for part in tables[1].parts] == [
        {"input_ids": [[], [1, 2]], "labels": [[], [1, -100]]}
    ]


@pytest.mark.parametrize("name", ["../x.arrow", "/etc/passwd", "", "..", 7, None])
def test_a_state_leads_nowhere_else(tmp_path, name):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(MaskcliError, match="expected a file or folder beside it"):
        open_tables([str(tmp_path)])


def test_rows_of_files_are_alike_however_they_were_written(tmp_path):
    columns = {"input_ids": [[1, 2], [], [3]], "labels": [[-100, 2], [], [3]]}
    pa.json = pytest.importorskip("pyarrow.json")
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in as_rows(columns)))
    assert pa.json.read_json(tmp_path / "x.jsonl").to_pydict() == read_back(tmp_path / "x.jsonl")[1]
