"""Work that a file only claims: elements that stand for many, members that share bytes, evidence without an end."""

import json
import struct
import zipfile

import numpy as np
import pytest
import torch

from maskcli.errors import MaskcliError
from maskcli.tensors import limits, open_tensors
from tests.attacks.test_hostile_files import refused
from tests.cli.running import read, run


def test_one_element_for_two_to_the_forty(tmp_path):
    many = torch.ones(1, 1, 1, 1).expand(1, 1, 2**20, 2**20)
    torch.save({"mask": many, "rest": torch.ones(2, 2)}, tmp_path / "x.pt")
    mask, rest = open_tensors(tmp_path / "x.pt").tensors
    assert "before it was expanded" in mask.refusal
    assert rest.read().tolist() == [[1, 1], [1, 1]]
    done = run("diagnose", "x.pt", cwd=tmp_path)
    assert done.returncode == 2
    assert "4,398,046,511,104 bytes" in done.stderr


def test_many_tensors_of_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("maskcli.tensors.claims.MAX_CLAIMED", 2**20)
    shared = torch.ones(2**17)
    torch.save([shared.view(2**17) for _ in range(10)], tmp_path / "x.pt")
    refusals = [tensor.refusal for tensor in open_tensors(tmp_path / "x.pt").tensors]
    assert refusals[:2] == [None, None]
    assert None not in refusals[3:]


def test_what_is_expanded_a_little_is_read(tmp_path):
    torch.save({"mask": torch.arange(4.0).expand(2, 3, 4)}, tmp_path / "x.pt")
    (mask,) = open_tensors(tmp_path / "x.pt").tensors
    assert mask.read().tolist() == [[[0, 1, 2, 3]] * 3] * 2


def test_members_that_share_their_bytes(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones(2**16))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        at = archive.start_dir
    entry = data[at : data.rindex(b"PK\x05\x06")]
    copies = b"".join(entry.replace(b"a.npy", b"%c.npy" % letter) for letter in b"abcdefgh")
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 8, 8, len(copies), at, 0)
    path.write_bytes(data[:at] + copies + end)
    refused(path, "share their bytes")


def test_a_member_that_expands_past_the_memory(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\x93NUMPY")
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, directory + 24, limits.MAX_INFLATED + 1)
    path.write_bytes(data)
    with pytest.raises(MaskcliError, match="would expand"):
        open_tensors(path)


def test_infinite_evidence_stops_no_other_file(tmp_path):
    for name, value in (("a", np.inf), ("b", 1.0), ("c", np.nan)):
        weights = np.tril(np.ones((1, 2, 8, 8), np.float32))
        weights[0, 1, 3] = value
        np.savez(tmp_path / f"{name}.npz", **{"attentions.0": weights, "labels": np.full((1, 8), value)})
    whole = read("diagnose", tmp_path, check=1)
    assert whole["summary"]["files"] == 3
    assert "inf" in json.dumps([finding["evidence"] for finding in whole["findings"]])
    done = run("diagnose", tmp_path, "--format", "jsonl", check=1)
    assert [json.loads(line)["file"][-5] for line in done.stdout.splitlines()] == ["a", "b", "c"]
    assert done.stderr == ""
