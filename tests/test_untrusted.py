"""What nobody vouched for is read up to its limit, or is one sentence."""

import os
import subprocess
import sys

import pytest

from maskcli.errors import MaskcliError
from maskcli.untrusted import json_object, read_bytes
from tests.cli.running import ROOT


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(bytes(4))
    assert read_bytes(path, 4) == bytes(4)
    with pytest.raises(MaskcliError, match="pass a smaller file"):
        read_bytes(path, 3)


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, word in [
        ("pipe", "pipe or socket"),
        ("", "directory"),
        ("none", "no such file"),
        ("\0", "null"),
    ]:
        with pytest.raises(MaskcliError, match=word):
            read_bytes(f"{tmp_path}/{path}", 4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "holds a JSON list"),
        ("{", "not valid"),
        (b"\xff", "not valid"),
        ('{"a":' * 100_000, "not valid"),
    ],
)
def test_what_is_no_object_has_a_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        json_object(text)


def test_a_name_may_be_asked_to_occur_once():
    assert json_object('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="occurs twice"):
        json_object('{"a": 1, "a": 2}', once=True)


@pytest.mark.long
def test_memory_is_limited_while_something_runs():
    code = """
import numpy as np, resource
from maskcli.untrusted import memory_limit

before = resource.getrlimit(resource.RLIMIT_AS)
with memory_limit(2**28):
    with memory_limit(2**30):
        np.ones(2**20)
    try:
        np.ones(2**27)
    except MemoryError:
        print("refused")
assert resource.getrlimit(resource.RLIMIT_AS) == before
np.ones(2**27)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "refused\n"
