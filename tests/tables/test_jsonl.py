"""Rows as lines of JSON: read back as json reads them, in pieces and chunks of any size, packed or not."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from maskcli.tables import limits, open_tables
from maskcli.tables.json_rows import quick_rows, read_row
from tests.tables.whole import as_rows, columns, read_back, telling, write_jsonl

anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
bounds = st.fixed_dictionaries({"cells": st.integers(1, 40), "rows": st.integers(1, 5)})


@pytest.mark.long
@anywhere
@given(columns, bounds, st.integers(1, 200), st.sampled_from([None, (",", ":"), (" , ", " : ")]))
def test_written_and_read_back_in_pieces_of_any_size(tmp_path, columns, bounds, part, separators):
    path = write_jsonl(tmp_path / "x.jsonl", as_rows(columns), separators=separators)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskcli.tables.jsonl.PART", part)
        if not columns["labels"]:
            with pytest.raises(MaskcliError, match="is empty"):
                open_tables([str(path)])
            return
        table, whole = read_back(path, **bounds)
    assert whole == telling(columns)
    assert set(table.unread) == set(columns) - set(whole)
    assert len(table.parts) == -(-path.stat().st_size // part)


@pytest.mark.long
@anywhere
@given(columns.filter(lambda columns: columns["labels"]), st.sampled_from(["gz", "zst"]))
def test_packed_files(tmp_path, columns, how):
    pa = pytest.importorskip("pyarrow")
    text = "".join(json.dumps(row) + "\n" for row in as_rows(columns)).encode()
    packed = gzip.compress(text) if how == "gz" else pa.compress(text, "zstd", asbytes=True)
    (tmp_path / f"x.jsonl.{how}").write_bytes(packed + (packed if how == "gz" else b""))
    table, whole = read_back(tmp_path / f"x.jsonl.{how}")
    assert len(table.parts) == 1
    assert whole == {name: values * (2 if how == "gz" else 1) for name, values in telling(columns).items()}


numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.none())
values = st.recursive(
    st.one_of(
        numbers,
        st.text(max_size=9),
        st.lists(st.integers(-9, 2**64), max_size=5),
        st.lists(st.floats(), max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(one, other):
    """Whether two values of JSON are equal, arrays being lists."""
    if isinstance(one, np.ndarray):
        one = one.tolist()
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[key], other[key]) for key in one)
        )
    return one == other or (one != one and other != other)


@given(st.lists(st.dictionaries(st.text(max_size=4), values, max_size=4), max_size=3), st.booleans())
def test_the_fast_way_reads_what_json_reads(rows, ascii_only):
    lines = [json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for row in rows]
    for row, line in zip(quick_rows(lines), lines, strict=True):
        assert row is None or same(row, json.loads(line))


@given(st.text(alphabet='0123456789-+.eE, []{}":aN\\', max_size=40))
def test_the_fast_way_refuses_what_json_refuses(text):
    (row,) = quick_rows([('{"a": [' + text).encode()])
    if row is not None:
        try:
            expected = json.loads('{"a": [' + text)
        except ValueError:
            # numpy takes numbers that json does not: 007, 1., +1
            assert not has_only_json_numbers(text)
        else:
            assert same(row, expected)


def has_only_json_numbers(text):
    import re

    return not re.search(
        r"(?<![0-9.])[-+]?0[0-9]|\+[0-9]|\.(?![0-9])|(?<![0-9])\.|[0-9]\.?[eE](?![-+0-9])", text
    )


def test_lists_are_arrays_and_texts_are_left_alone():
    line = (
        b'{"ids": [1, -2], "n": 3, "text": "[1, 2] NaNo", "f": [1.5], "deep": {"x": [[4], []]}, "none": []}'
    )
    (row,) = quick_rows([line.replace(b" NaNo", b"")])
    assert row["ids"].dtype == np.int64
    assert row["f"].dtype == np.float64
    assert same(row, json.loads(line.replace(b" NaNo", b"")))
    assert quick_rows([line]) == [None]


def test_numbers_beyond_64_bits_are_no_row(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"ids": [1]}, {"ids": [2**63 - 1, -(2**63)]}])
    assert read_back(path)[1] == {"ids": [[1], [2**63 - 1, -(2**63)]]}
    path = write_jsonl(tmp_path / "x.jsonl", [{"ids": [1]}, {"ids": [2**70]}])
    with pytest.raises(MaskcliError, match=r"line 2 of '.*' holds whole numbers beyond 64 bits as 'ids'"):
        read_back(path)


def test_columns_that_come_late_are_told(tmp_path, monkeypatch):
    from maskcli.tables import read

    monkeypatch.setattr("maskcli.tables.jsonl.SAMPLE", 10)
    path = write_jsonl(
        tmp_path / "x.jsonl", [{"ids": [1]}, {"ids": [2], "labels": [2], "source": "web"}, {"labels": [3]}]
    )
    (table,) = open_tables([str(path)])
    assert table.numbers == ("ids",)
    chunks = list(read(table.parts[0], table.numbers, rows=2))
    wider = table.widened(chunks[0].unasked)
    assert (wider.numbers, wider.others) == (("ids", "labels"), {"source": "text"})
    assert wider.widened(chunks[0].unasked) is None
    monkeypatch.undo()
    table, whole = read_back(path)
    assert whole == {"ids": [[1], [2], []], "labels": [[], [2], [3]], "source": [None, "web", None]}


@pytest.mark.parametrize("part", [limits.PART, 7])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "holds a JSON list, expected an object"),
        ("3", "holds a JSON int"),
        ('{"ids": [1, null]}', "holds a null at place 1 as 'ids'"),
        ('{"ids": [1, "x"]}', "holds text ('x') among numbers as 'ids'"),
        ('{"ids": "12"}', "holds text ('12') as 'ids', expected numbers"),
        ('{"ids": [[1], [2]]}', "holds nested lists"),
        ('{"ids": {"a": 1}}', "holds object"),
        ('{"ids": [1]} {"ids": [2]}', "is not JSON"),
        ('{"ids": [1,, 2]}', "is not JSON"),
        ('{"ids": [1 2]}', "is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, monkeypatch, part, line, said):
    monkeypatch.setattr("maskcli.tables.jsonl.PART", part)
    monkeypatch.setattr("maskcli.tables.jsonl.SAMPLE", 5)
    path = tmp_path / "x.jsonl"
    path.write_text('{"ids": [1, 2]}\n\n{"ids": [3]}\n' + line + '\n{"ids": [4]}\n')
    with pytest.raises(MaskcliError) as caught:
        read_back(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"line 4 of {str(path)!r}")


def test_a_line_that_is_not_utf8(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(MaskcliError, match=r"line 2 of .* is not UTF-8 \(byte 0xff at place 10\)"):
        read_back(path)
    path.write_bytes(b'\xef\xbb\xbf{"text": "\xc3\xa4"}\r\n{"text": "b"}')
    assert read_back(path)[1] == {"text": ["ä", "b"]}


def test_one_number_among_lists_is_a_list_of_it(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", [{"ids": [1, 2]}, {"ids": 5, "n": 1}, {"ids": None}])
    assert read_back(path)[1] == {"ids": [[1, 2], [5], []], "n": [[], [1], []]}
    path = write_jsonl(tmp_path / "x.jsonl", [{"n": 1}, {"n": 2}])
    assert read_back(path)[1] == {"n": [1, 2]}


def test_the_exact_way_keeps_pythons_values():
    assert read_row(b'{"a": [1, 2.0, true, null, "x"]}', lambda: "line 1") == {"a": [1, 2.0, True, None, "x"]}
