"""A file format costs its reader and one row: whatever opens, looks for or speaks of files then knows it."""

import inspect

import numpy as np
import pytest

from maskcli.cli import diagnose
from maskcli.errors import MaskcliError
from maskcli.inputs.files import expand
from maskcli.masks import leaves
from maskcli.tensors import (
    find_tensor,
    formats,
    from_arrays,
    open_tensors,
    readable,
    source_from,
    write_tensors,
)
from maskcli.tensors.formats import Format
from maskcli.tensors.sources import Writer


def holds(handle, head):
    return head.startswith(b"BYTES")


def read(handle):
    values = np.frombuffer(handle.bytes(5, handle.size), np.uint8)
    return from_arrays({"x": values}, handle.path)


def write(path, tensors, metadata):
    with open(path, "wb") as file:
        file.write(b"BYTES" + b"".join(chunk.tobytes() for chunk in tensors["x"].chunks))


@pytest.fixture
def file(monkeypatch, tmp_path):
    """A file of a format that only these tests know."""
    row = Format("bytes", (".bytes", ".b"), holds, read, Writer(write, lambda tensors: None))
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, row))
    path = tmp_path / "x.bytes"
    write_tensors(path, {"x": source_from(np.arange(3, dtype=np.uint8))})
    return path


def test_it_is_written_and_opened(file):
    assert find_tensor(open_tensors(file), "x").read().tolist() == [0, 1, 2]


def test_a_folder_stands_for_it(file):
    (file.parent / "y.b").write_bytes(b"BYTES")
    (file.parent / "z.txt").write_bytes(b"BYTES")
    assert expand([str(file.parent)]) == [str(file), str(file.parent / "y.b")]
    assert expand([f"{file.parent}/*.byt*"]) == [str(file)]


def test_messages_name_it(file):
    lying = file.rename(file.with_suffix(".npy"))
    with pytest.raises(
        MaskcliError, match=r"holds bytes data, not what \.npy promises; rename it to end in \.bytes"
    ):
        open_tensors(lying)
    (file.parent / "y.b").write_bytes(b"GGUF")
    with pytest.raises(MaskcliError, match="holds GGUF data, not bytes"):
        open_tensors(file.parent / "y.b")
    other = lying.rename(file.parent / "x.other")
    for act in (open_tensors, lambda path: write_tensors(path, {})):
        with pytest.raises(MaskcliError, match=r"\.safetensors.*\.pt.*\.bytes"):
            act(other)
    with pytest.raises(MaskcliError, match=r"\.bin, \.bytes, \.b"):
        expand([f"{file.parent}/*.none"])


def test_what_starts_without_this_room_names_every_format():
    """Specs and help texts are read before anybody has asked for a file."""
    # Of what is no format of tensors, a mask may be code, or what `show` wrote as JSON.
    assert {*readable(), ".py", ".json"} == set(leaves.FILE_SUFFIXES)
    for suffix in readable():
        assert suffix in inspect.getsource(diagnose)
