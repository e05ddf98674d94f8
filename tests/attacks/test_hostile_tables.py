"""Tables that are wrong by accident or on purpose: each is one sentence, soon, and without eating the memory."""

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.running import ROOT, plain_environment

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

# Waits for tables; a fork of it reads each whole, and tells how that ended and by how many MiB it grew.
READERS = """
import json, os, resource, sys
import numpy, pyarrow.parquet
from maskcli.errors import MaskcliError
from maskcli.tables import open_tables, read

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

def outcome(path):
    before, said, rows = peak(), None, 0
    try:
        for table in open_tables([path]):
            for part in table.parts:
                for chunk in read(part, table.numbers, table.others):
                    rows += chunk.rows
                    for column in chunk.columns.values():
                        column.values.sum(dtype=float)
    except MaskcliError as error:
        said = str(error)
    return said, rows, peak() - before

for line in sys.stdin:
    child = os.fork()
    if not child:
        print(json.dumps(outcome(json.loads(line))), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("null", flush=True)
"""


@pytest.fixture(scope="module")
def outcome():
    """What becomes of a path: the sentence that refuses it, its rows, and MiB that reading it took."""
    with subprocess.Popen(
        [sys.executable, "-c", READERS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=plain_environment(),
    ) as readers:  # fmt: skip

        def asked(path):
            readers.stdin.write(json.dumps(str(path)) + "\n")
            readers.stdin.flush()
            answer = json.loads(readers.stdout.readline())
            assert answer is not None, f"reading {path} killed the process"
            return answer

        yield asked
        readers.stdin.close()


@pytest.fixture
def refused(outcome):
    def check(path, *words, most=200):
        said, _, grown = outcome(path)
        assert said is not None
        assert said.isprintable()
        assert len(said) < 800
        assert all(word in said for word in words), said
        assert grown < most, f"{grown} MiB"

    return check


@pytest.fixture
def read_whole(outcome):
    def check(path, rows, most=200):
        said, count, grown = outcome(path)
        assert (said, count) == (None, rows)
        assert grown < most, f"{grown} MiB"

    return check


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# What lies where a table should


def test_what_is_no_table(tmp_path, refused):
    for name, content, word in [
        ("x.parquet", b"", "is empty"),
        ("x.jsonl", b" \n\t\n", "is empty"),
        ("x.parquet", b"<!doctype html>", "holds no rows in a form that is read here"),
        ("x.parquet", b"version https://git-lfs.github.com/spec/v1", "holds no rows"),
        ("x.parquet", b"PAR1" + bytes(100), "cannot be read as parquet"),
        ("x.arrow", b"ARROW1" + bytes(100), "cannot be read as arrow"),
        ("x.arrow", b"\xff\xff\xff\xff" + bytes(100), "cannot be read as arrow"),
        ("x.arrow", b"\xff\xff\xff\xff\xff\xff\xff\x7f", "cannot be read as arrow"),
        ("x.jsonl", b"\x1f\x8b\x08", "cut off or damaged"),
        ("x.jsonl", b"\x28\xb5\x2f\xfd", "cut off or damaged"),
        ("x.csv", b"input_ids,labels\n1,2\n", "holds no rows"),
        ("x.json", b'"text"', "holds no rows"),
    ]:
        refused(write(tmp_path / name, content), word, str(tmp_path / name))


def test_pipes_folders_and_missing_files(tmp_path, refused):
    os.mkfifo(tmp_path / "x.jsonl")
    refused(tmp_path / "x.jsonl", "is a device, pipe or socket")
    refused("/dev/zero", "is a device, pipe or socket")
    refused(tmp_path / "none.jsonl", "no such file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is a folder without files of the types")
    refused(tmp_path / "*.parquet", "matches no files")


def test_forms_that_are_mixed(tmp_path, refused):
    write(tmp_path / "a.jsonl", '{"ids": [1]}')
    pq.write_table(pa.table({"ids": [[1]]}), tmp_path / "b.parquet")
    refused(tmp_path, "mixes JSON lines", "a.jsonl", "parquet", "b.parquet", "pass a pattern")


def test_columns_of_files_that_disagree_are_not_read(tmp_path, read_whole):
    pq.write_table(pa.table({"ids": [[1]], "a": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"ids": [[1]], "a": [7]}), tmp_path / "b.parquet")
    read_whole(tmp_path, 2)


# Damage


@pytest.mark.parametrize("kind", ["parquet", "stream", "file", "packed"])
def test_files_that_are_cut_off(tmp_path, kind, refused):
    table = pa.table({"input_ids": [list(range(50))] * 400, "text": ["abc"] * 400})
    path = tmp_path / "x"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if kind == "packed" else None)
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with make(str(path), table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=100)
    whole = path.read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 9):
        # Without the end of a stream nothing is missing: its last batch is.
        if kind in ("stream", "packed") and size == len(whole) - 9:
            size -= 20
        refused(write(tmp_path / "y", whole[:size]), "cannot be read as")


def test_offsets_that_lead_out_of_a_column(tmp_path, refused):
    table = pa.table({"ids": [[1, 2], [3]]})
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    data = (tmp_path / "x.arrow").read_bytes()
    offsets = np.array([0, 2, 3], np.int32).tobytes()
    assert data.count(offsets) == 1
    for bad in ([0, 2, 2**30], [0, 3, 2], [-5, 2, 3]):
        refused(
            write(tmp_path / "y.arrow", data.replace(offsets, np.array(bad, np.int32).tobytes())),
            "cannot be read as arrow",
        )


@pytest.mark.parametrize("kind", ["gzip", "zstandard"])
def test_packed_files_that_are_cut_off(tmp_path, kind, refused):
    text = b"".join(b'{"ids": [%d]}\n' % number for number in range(5000))
    packed = gzip.compress(text) if kind == "gzip" else pa.compress(text, "zstd", asbytes=True)
    refused(write(tmp_path / "x.jsonl.gz", packed[: len(packed) // 2]), "cut off or damaged")


# Bombs


@pytest.mark.long
def test_lines_without_an_end(tmp_path, refused):
    with open(tmp_path / "x.jsonl", "wb") as file:
        file.write(b'{"a": "')
        file.truncate(2**30)
    refused(tmp_path / "x.jsonl", "a line of more than", most=700)
    bomb = gzip.compress(b'{"a": [' + b"0," * (2**27 + 9), 1)
    refused(write(tmp_path / "x.jsonl.gz", bomb), "a line of more than", most=700)
    refused(write(tmp_path / "x.json", b'[{"a": "' + b"x" * (2**26 + 9)), "has more than", most=400)


@pytest.mark.long
def test_a_row_of_too_many_numbers(tmp_path, refused):
    refused(
        write(tmp_path / "x.jsonl", '{"a": [' + "0," * 2**26 + "0,0]}"),
        "a line of more than 67108864 numbers",
        most=700,
    )


def test_a_small_file_does_not_expand_for_ever(tmp_path, refused):
    line = b'{"ids": [' + b"1, " * 20_000 + b"2]}\n"
    bomb = pa.compress(line * (2**28 // len(line)), "zstd", asbytes=True)
    assert len(bomb) < 2**16
    refused(write(tmp_path / "x.jsonl.zst", bomb), "expands to more than")


def test_numbers_and_nests_that_json_should_not_have(tmp_path, outcome):
    for text, word in [
        ('{"a": ' + "[" * 100_000, "nests its values too deep"),
        ('{"a": ' + '{"a":' * 100_000, "nests its values too deep"),
        ('{"a": [' + "9" * 10_000 + "]}", "digits"),
        (
            '{"a": [1e999, 1]}\n{"a": [9223372036854775808, -1]}\n{"a": 99999999999999999999999}',
            "beyond 64 bits",
        ),
        ("{" + ", ".join(f'"{n}": 1' for n in range(2000)) + "}", "2000 columns"),
        ('{"a": "\xff"}'.encode("latin-1"), "is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "holds no rows"),
    ]:
        for suffix, around in [("jsonl", b"%s"), ("json", b"[%s]")]:
            content = text if isinstance(text, bytes) else text.encode()
            said, _, grown = outcome(
                write(
                    tmp_path / f"x.{suffix}",
                    around % content.replace(b"}\n{", b"},{") if suffix == "json" else content,
                )
            )
            assert said is not None
            assert word in said or suffix == "json", said
            assert grown < 200


@pytest.mark.long
def test_nan_and_infinity_are_numbers_of_a_kind(tmp_path, read_whole):
    read_whole(write(tmp_path / "x.jsonl", '{"a": [NaN, 1, -Infinity]}\n{"a": [1]}\n'), 2)


@pytest.mark.long
@pytest.mark.parametrize("rows", [1, 2000], ids=["alone", "among others"])
def test_one_endless_row_of_parquet(tmp_path, rows, refused):
    zeros = pa.array(np.zeros(10**8, np.int64))
    ends = pa.array([0] * rows + [len(zeros)] * rows, pa.int64())
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"ids": pa.LargeListArray.from_arrays(ends, zeros)}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    refused(path, "takes more than 2048 MiB for a few of its rows", most=2200)


@pytest.mark.long
def test_a_row_of_ten_million_tokens_is_read(tmp_path, read_whole):
    tokens = np.arange(10**7) % 150_000
    lists = pa.ListArray.from_arrays([0, 3, len(tokens)], pa.array(tokens))
    pq.write_table(pa.table({"input_ids": lists, "labels": lists}), tmp_path / "x.parquet")
    read_whole(tmp_path / "x.parquet", 2, most=800)
    write(tmp_path / "x.jsonl", '{"input_ids": [' + "12345, " * 10**7 + "7]}")
    read_whole(tmp_path / "x.jsonl", 1, most=500)


@pytest.mark.long
def test_a_group_of_rows_is_never_held_whole(tmp_path, read_whole):
    values = pa.array(np.zeros(2**25, np.int64))
    offsets = pa.array(np.arange(0, 2**25 + 1, 2**9, dtype=np.int32))
    pq.write_table(
        pa.table({"ids": pa.ListArray.from_arrays(offsets, values)}),
        tmp_path / "x.parquet",
        row_group_size=2**20,
    )
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 1
    read_whole(tmp_path / "x.parquet", 2**16, most=160)
