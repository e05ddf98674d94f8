"""Tables elsewhere, by addresses: the same rows as on this machine."""

import pytest

from maskcli.errors import MaskcliError
from maskcli.tables import open_tables, read
from tests.tables.whole import as_rows, gathered, read_back, write_jsonl

fsspec = pytest.importorskip("fsspec")
pa = pytest.importorskip("pyarrow")
COLUMNS = {"input_ids": [[at, at + 1] for at in range(100)], "labels": [[at] for at in range(100)]}


def put(folder, path):
    """A folder of this machine, copied to an address."""
    address = f"memory://{folder}/"
    fsspec.filesystem("memory").put(str(path), f"/{folder}", recursive=True)
    return address


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files(tmp_path, stream):
    table = pa.table(COLUMNS)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=30)
    address = put(f"arrow-{stream}", tmp_path)
    assert read_back(address)[1] == read_back(tmp_path)[1] == COLUMNS


def test_folders_by_save_to_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict(COLUMNS)})
    splits.save_to_disk(str(tmp_path / "set"))
    (table,) = open_tables([put("saved", tmp_path / "set")])
    assert table.name == "train"
    assert gathered(read(table.parts[0], table.numbers), table.numbers) == COLUMNS


def test_lines_in_pieces_and_what_is_wrong_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr("maskcli.tables.jsonl.PART", 100)
    write_jsonl(tmp_path / "x.jsonl", as_rows(COLUMNS))
    address = put("lines", tmp_path)
    table, whole = read_back(address)
    assert len(table.parts) > 10
    assert whole == COLUMNS
    with fsspec.open("memory://lines/x.jsonl", "ab") as file:
        file.write(b"{")
    with pytest.raises(MaskcliError, match=r"line 101 of 'memory://lines/x.jsonl' is not JSON"):
        read_back(address)


def test_what_an_address_holds_of_passwords_is_never_said():
    fsspec.filesystem("memory").pipe("/secret/x.jsonl", b"[1")
    with pytest.raises(MaskcliError) as caught:
        read_back("memory://user:password@secret/x.jsonl")
    assert "password" not in str(caught.value)
