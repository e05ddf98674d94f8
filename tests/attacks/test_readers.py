"""What is no file where one belongs, streams without an end, and streams that are not there."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from maskcli.errors import MaskcliError
from maskcli.text import read_standard_input
from maskcli.untrusted import MEBIBYTE, read_stream
from tests.cli.running import ROOT, refused

# Every option and argument that names a file to be read.
READERS = [
    ("diagnose", "{}"),
    ("diagnose", "m.npy", "--model", "{}"),
    ("diagnose", "m.npy", "--tokenizer", "{}"),
    ("show", "--file", "{}"),
    ("show", "a", "--tokenizer", "{}"),
    ("show", "[]", "--chat", "--tools", "{}"),
    ("show", "[]", "--chat", "--template", "{}"),
    ("show", "a", "-m", "./{}.npy"),
    ("inspect", "{}"),
    ("diff", "./{}.npy", "full"),
    ("convert", "./{}.npy", "--to", "hf"),
    ("audit", "{}"),
]


@pytest.fixture
def pipes(tmp_path):
    np.save(tmp_path / "m.npy", np.tri(4) > 0)
    for name in ("pipe", "pipe.npy"):
        os.mkfifo(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_a_pipe_is_refused_at_once(arguments, pipes):
    refused(*(argument.format("pipe") for argument in arguments), cwd=pipes)


def test_a_pipe_among_the_files_of_a_tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\na\n")
    os.mkfifo(tmp_path / "special_tokens_map.json")
    assert "pipe" in refused("show", "a", "-t", tmp_path)


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    from maskcli import untrusted

    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(untrusted, "check_file", lambda *_: None)
    assert untrusted.read_bytes(tmp_path / "pipe", 4) == b""


def test_standard_input_without_an_end():
    assert "more than the 16 MiB" in refused("show", "-", stdin=b"a b\n" * (5 * MEBIBYTE))


def test_standard_input_that_says_nothing():
    ours, theirs = os.pipe()
    with (
        open(ours, "rb") as stream,
        open(theirs, "wb"),
        pytest.raises(MaskcliError, match="did not end within"),
    ):
        read_stream(stream, 4, 0.05)


def test_standard_input_that_is_no_text():
    assert "not UTF-8" in refused("show", "-", stdin=b"a\xff")
    assert "binary" in refused("show", "-", stdin=b"a\0")


def test_standard_input_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(MaskcliError, match="standard input is closed"):
        read_standard_input()


def test_a_file_never_becomes_a_stream_that_was_closed(tmp_path):
    call = f"{shlex.quote(sys.executable)} -m maskcli show a -o x.json <&- >&- 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", call], cwd=tmp_path, env=environment, check=True)
    assert json.loads((tmp_path / "x.json").read_text())["mask"]["spec"] == "combined"
