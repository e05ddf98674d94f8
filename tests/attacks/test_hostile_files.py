"""Files that are wrong by accident or on purpose: each is one sentence, at once, without eating the memory."""

import io
import json
import os
import pickle
import resource
import socket
import struct
import zipfile
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcli.errors import MaskcliError
from maskcli.tensors import open_tensors, roles_of
from tests.cli.running import run


def read_all(path) -> None:
    file = open_tensors(path)
    roles_of(file)
    for tensor in file.tensors:
        tensor.rows(0, tensor.row_count)


def refused(path, *words: str) -> str:
    """The sentence a file is refused with, after checking that it is one and cost little memory."""
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MaskcliError) as caught:
        read_all(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < 300 * 1024
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) < 800
    for word in words:
        assert word in sentence
    return sentence


def safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + data


# What lies where a file should


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "dump.safetensors").write_bytes(b"")
    refused(tmp_path / "dumpp.safetensors", "does not exist", "did you mean", "dump.safetensors'")
    refused(tmp_path / "none" / "x.npy", "does not exist", "folder")
    refused(tmp_path / "zzzzzz.npy", "does not exist")
    refused(tmp_path / "dump.safetensors" / "x.npy", "does not exist")


def test_folders_pipes_sockets_and_devices_are_never_opened(tmp_path):
    refused(tmp_path, "is a folder")
    os.mkfifo(tmp_path / "x.npy")
    refused(tmp_path / "x.npy", "is a pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "x.pt"))
        refused(tmp_path / "x.pt", "is a socket")
    refused("/dev/zero", "is a device")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3))
    (tmp_path / "x.npy").chmod(0)
    refused(tmp_path / "x.npy", "may not be read")


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".npz", ".pt", ".pth", ".bin"])
def test_what_is_no_such_file(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for content, word in [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"<html>", "web page"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"x", "x"),
        (bytes(600), "x"),
        (os.urandom(4000).replace(b"PK", b"pk"), "x"),
        (b"PK\x03\x04" + bytes(100), "directory"),
        (b"hello world, this is text", "x"),
    ]:
        path.write_bytes(content)
        refused(path, word)


def test_a_tar_is_refused(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "x.pt", "w") as archive:
        archive.add(__file__, "storages")
    refused(tmp_path / "x.pt", "tar")


def test_suffixes_that_lie_or_say_nothing(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    np.savez(tmp_path / "b.npz", np.ones(3))
    torch.save({"x": torch.ones(3)}, tmp_path / "c.pt")
    for name, suffix, says in [
        ("a.npy", ".pt", ".npy"),
        ("b.npz", ".pt", ".npz"),
        ("c.pt", ".npz", ".pt"),
        ("c.pt", ".safetensors", ".pt"),
    ]:
        lying = tmp_path / f"lying{suffix}"
        lying.write_bytes((tmp_path / name).read_bytes())
        refused(lying, "rename it", f"end in {says}")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    refused(tmp_path / "x.gguf", ".safetensors, .npy, .npz, .pt, .pth, .bin")
    refused(safetensors(tmp_path / "x", {}), ".safetensors")


def test_names_of_files_cannot_break_the_sentence(tmp_path):
    for name in ("a\nb.npy", "a\x1b[31mb.npy", "a\u202eb.npy", "a\udc80b.npy"):
        refused(tmp_path / name, "does not exist")
    refused("a\0b.npy", "null")


# safetensors


@pytest.mark.parametrize(
    ("header", "data", "word"),
    [
        ({"x": entry(shape=[0, 2**60], offsets=[0, 0])}, b"", "shape"),
        ({"x": entry(shape=[2**62, 4], offsets=[0, 0])}, b"", "shape"),
        ({"x": entry(shape=[1] * 99, offsets=[0, 4])}, bytes(4), "shape"),
        ({"x": entry(shape=[-2])}, bytes(8), "shape"),
        ({"x": entry(shape=[2.0])}, bytes(8), "shape"),
        ({"x": entry(shape=[True, 2])}, bytes(8), "shape"),
        ({"x": entry(shape="ab")}, bytes(8), "shape"),
        ({"x": entry(shape=[3])}, bytes(8), "fill"),
        ({"x": entry(offsets=[0, 2**63])}, bytes(8), "fill"),
        ({"x": entry(offsets=[8, 0])}, bytes(8), "data_offsets"),
        ({"x": entry(offsets=[-8, 0])}, bytes(8), "data_offsets"),
        ({"x": entry(offsets=[0])}, bytes(8), "data_offsets"),
        ({"x": entry(), "y": entry(offsets=[4, 12])}, bytes(12), "begins"),
        ({"x": entry(), "y": entry()}, bytes(8), "begins"),
        ({"x": entry(offsets=[8, 16])}, bytes(16), "begins"),
        ({"x": entry()}, bytes(7), "cut short"),
        ({"x": entry()}, bytes(9), "added"),
        ({"x": entry(dtype="F99")}, bytes(8), "F99"),
        ({"x": entry(dtype=["F32"])}, bytes(8), "type"),
        ({"x": entry(dtype="\x1b[31m")}, bytes(8), "type"),
        ({"x\x1b[31m\n\u202e": entry(shape=[3])}, bytes(8), "fill"),
        ({"x" * 2000: entry()}, bytes(8), "name"),
        ({"x": {"dtype": "F32"}}, b"", "lacks"),
        ({"x": []}, b"", "lacks"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
        ({"__metadata__": []}, b"", "__metadata__"),
        (b"[]", b"", "x"),
        (b"{", b"", "header"),
        (b'{"x": {}, "x": {}}', b"", "JSON"),
        (b'{"a":' * 100_000, b"", "JSON"),
        (b'{"a":' + b"[" * 100_000, b"", "JSON"),
        (b'{"a":' + b"9" * 100_000 + b"}", b"", "JSON"),
        (b'{"\xff": 1}', b"", "JSON"),
        ({"x": entry(dtype="F8_E4M3FNUZ", offsets=[0, 2])}, bytes(2), "float8_e4m3fnuz"),
        ({"x": entry(dtype="C64", offsets=[0, 16])}, bytes(16), "complex64"),
        ({"x": entry(dtype="F4", offsets=[0, 1])}, bytes(1), "F4"),
    ],
)
def test_hostile_safetensors(tmp_path, header, data, word):
    refused(safetensors(tmp_path / "x.safetensors", header, data), word)


def test_safetensors_with_an_absurd_header_length(tmp_path):
    for length in (2**64 - 1, 2**40, 10_000):
        (tmp_path / "x.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
        refused(tmp_path / "x.safetensors", "header")
    with open(tmp_path / "x.safetensors", "wb") as file:
        file.write((99 << 20).to_bytes(8, "little") + b"{")
        file.truncate(100 << 20)
    refused(tmp_path / "x.safetensors", "header of")


@pytest.mark.long
def test_safetensors_with_too_many_tensors(tmp_path):
    header = (
        b"{"
        + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(120_000))
        + b"}"
    )
    refused(safetensors(tmp_path / "x.safetensors", header), "120000 tensors")


def test_an_empty_safetensors_is_no_error(tmp_path):
    assert open_tensors(safetensors(tmp_path / "x.safetensors", {})).tensors == ()


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    file = open_tensors(safetensors(tmp_path / "x.safetensors", {"x": entry()}, bytes(8)))
    os.truncate(tmp_path / "x.safetensors", 20)
    for use in (file.tensors[0].read, lambda: file.tensors[0].rows(0, 1)):
        with pytest.raises(MaskcliError, match="became shorter"):
            use()


# numpy


HEADERS = [
    ("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}", "cut short"),
    (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807)}",
        "shape",
    ),
    ("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 1152921504606846976)}", "shape"),
    ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", "shape"),
    ("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 60 + ")}", "shape"),
    ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "pickled"),
    ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "fields"),
    ("{'descr': '<U5', 'fortran_order': False, 'shape': (1,)}", "str160"),
    ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", "complex64"),
    ("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}", "datetime64"),
    ("{'descr': '<f3', 'fortran_order': False, 'shape': (1,)}", "no sound array"),
    ("{'descr': '<f8', 'fortran_order': False}", "no sound array"),
    ("{'descr': '<f8', 'fortran_order': 2, 'shape': (1,)}", "no sound array"),
    ("{'descr': '<f8', 'fortran_order': False, 'shape': 5}", "no sound array"),
    ("__import__('os').system('false')", "no sound array"),
    ("(" * 5000, "no sound array"),
    ("-" * 5000 + "1", "no sound array"),
    ("x" * 9_999, "no sound array"),
    ("{'descr': '|V1000000000', 'fortran_order': False, 'shape': (1,)}", "void"),
    ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}", "cut short"),
]


@pytest.mark.parametrize(("header", "word"), HEADERS)
def test_hostile_npy(tmp_path, header, word):
    (tmp_path / "x.npy").write_bytes(npy(header, bytes(16)))
    refused(tmp_path / "x.npy", word)


@pytest.mark.parametrize(("header", "word"), HEADERS)
@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_hostile_npy_in_npz(tmp_path, header, word, packing):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", packing) as archive:
        archive.writestr("good.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", bytes(8)))
        archive.writestr("x\x1b[31m.npy", npy(header, bytes(16)))
    refused(tmp_path / "x.npz", word)


@pytest.mark.parametrize("version", [b"\x03\x00", b"\x00\x00", b"\xff\xff"])
def test_odd_versions_of_npy(tmp_path, version):
    (tmp_path / "x.npy").write_bytes(npy("{}", bytes(16), version))
    refused(tmp_path / "x.npy", "version")


def test_npz_bombs(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({1 << 24},)}}"))
        block = bytes(1 << 24)
        member.write(block)
    small = (tmp_path / "x.npz").read_bytes()
    assert open_tensors(tmp_path / "x.npz").tensors[0].read().sum() == 0
    directory = small.rindex(b"PK\x01\x02")
    for claim in (0xFFFF_FFF0, 100):  # says it is far larger, or smaller, than it is
        lying = bytearray(small)
        lying[directory + 24 : directory + 28] = struct.pack("<I", claim)
        (tmp_path / "y.npz").write_bytes(lying)
        refused(tmp_path / "y.npz", "expand" if claim > 100 else "no sound array")


def test_odd_npz_members(tmp_path):
    def archive(name: str, member: str = "x.npy", packing: int = zipfile.ZIP_STORED) -> bytearray:
        with zipfile.ZipFile(tmp_path / name, "w", packing) as opened:
            opened.writestr(member, npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", bytes(16)))
        return bytearray((tmp_path / name).read_bytes())

    archive("lzma.npz", packing=zipfile.ZIP_LZMA)
    refused(tmp_path / "lzma.npz", "in a way numpy never does")
    secret = archive("secret.npz")
    secret[secret.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.npz").write_bytes(secret)
    refused(tmp_path / "secret.npz", "encrypted")
    for offset in (1, 40, 2**31):
        moved = archive("moved.npz")
        at = moved.rindex(b"PK\x01\x02") + 42
        moved[at : at + 4] = struct.pack("<I", offset)
        (tmp_path / "moved.npz").write_bytes(moved)
        refused(tmp_path / "moved.npz", "moved.npz")
    torn = archive("torn.npz")
    (tmp_path / "torn.npz").write_bytes(torn[:-10])
    refused(tmp_path / "torn.npz", "directory")
    archive("escape.npz", "../../etc/passwd.npy")
    assert open_tensors(tmp_path / "escape.npz").tensors[0].name == "../../etc/passwd"
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as opened:
        opened.writestr("x.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            opened.writestr("x.npy", b"")
    refused(tmp_path / "twice.npz", "twice")


# torch


class Boom:
    """Unpickled without care, this would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_pickle_never_runs(tmp_path):
    for zipped in (True, False):
        torch.save(
            {"x": torch.ones(1), "b": Boom(tmp_path / "boom")},
            tmp_path / "x.pt",
            _use_new_zipfile_serialization=zipped,
        )
        refused(tmp_path / "x.pt", "open" if zipped else "pickle", "torch.save")
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Boom(tmp_path / "boom")))
    refused(tmp_path / "x.bin", "x.bin")
    assert not (tmp_path / "boom").exists()


def test_a_refused_class_is_named_with_the_line_that_saves_it_anew(tmp_path):
    torch.save({"x": Fraction(1, 2)}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "fractions.Fraction", "torch.save(plain(obj), 'dump.pt')")


def test_stacks_of_more_layers_than_a_model_has_are_refused(tmp_path):
    np.save(tmp_path / "attentions.npy", np.ones((70_000, 1, 1, 2, 2), np.float16))
    assert "more than 65,536 layers" in run("diagnose", tmp_path / "attentions.npy", check=2).stderr
    torch.save({"attentions": torch.ones(1).expand(2**10, 2**10, 1, 1, 1, 1, 1)}, tmp_path / "x.pt")
    assert "7 axes" in run("diagnose", tmp_path / "x.pt", check=2).stderr


def test_names_of_runs_open_nothing_else(tmp_path):
    """What a file is called is a name for its tensors, and no path."""
    folder = tmp_path / "run"
    folder.mkdir()
    names = [
        "name=..___layer_id=3",
        "name=attn_weights___layer_id=" + "9" * 200,
        "step=-1___name=attn",
        "name=___rank=x",
    ]
    for name in names:
        (folder / f"{name}.pt").write_bytes(b"PK")
    done = run("diagnose", folder, check=2)
    assert sum(name in done.stderr for name in names) >= 1
    assert "files are so" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"")
        archive.writestr("x/constants.pkl", b"")
    refused(tmp_path / "x.pt", "TorchScript")


def repacked(path: Path, packing: int, **replace: bytes) -> None:
    old = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(old)) as before, zipfile.ZipFile(path, "w", packing) as after:
        for name in before.namelist():
            inner = name.partition("/")[2]
            after.writestr(name, replace.get(inner.replace("/", "_").replace(".", "_"), before.read(name)))


def test_torch_bombs(tmp_path):
    torch.save({"x": torch.zeros(1 << 24)}, tmp_path / "x.pt")
    repacked(tmp_path / "x.pt", zipfile.ZIP_DEFLATED)
    assert (tmp_path / "x.pt").stat().st_size < 1 << 20
    refused(tmp_path / "x.pt", "compressed member")


def test_torch_storages_that_are_too_small(tmp_path):
    for content in (b"", bytes(8)):
        torch.save({"x": torch.zeros(1 << 10)}, tmp_path / "x.pt")
        repacked(tmp_path / "x.pt", zipfile.ZIP_STORED, data_0=content)
        refused(tmp_path / "x.pt", "x.pt")


def test_torch_cut_short(tmp_path):
    for zipped in (True, False):
        torch.save({"x": torch.zeros(1 << 10)}, tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
        whole = (tmp_path / "whole.pt").read_bytes()
        for keep in (1, 2, 10, 100, len(whole) // 2, len(whole) - 1):
            (tmp_path / "x.pt").write_bytes(whole[:keep])
            refused(tmp_path / "x.pt", "x.pt")


@pytest.mark.long
def test_nests_without_end(tmp_path):
    loop: list[object] = []
    loop.append(loop)
    torch.save(loop, tmp_path / "loop.pt")
    refused(tmp_path / "loop.pt", "nests")
    laughs: object = torch.ones(1)
    for _ in range(40):
        laughs = [laughs, laughs]
    torch.save(laughs, tmp_path / "laughs.pt")
    refused(tmp_path / "laughs.pt", "nests")
    deep: object = torch.ones(1)
    for _ in range(200):
        deep = OrderedDict(a=deep)
    torch.save(deep, tmp_path / "deep.pt")
    refused(tmp_path / "deep.pt", "nests")


def test_two_tensors_of_one_name(tmp_path):
    torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "two tensors", "a.b")


def test_a_legacy_file_of_two_gigabytes_is_not_read(tmp_path):
    with open(tmp_path / "x.bin", "wb") as file:
        file.write(b"\x80\x02\x8a")
        file.truncate(2 << 30)
    refused(tmp_path / "x.bin", "old format")


@pytest.mark.parametrize("name", ["x.safetensors", "x.npy", "x.npz", "packed.npz", "x.pt", "legacy.pt"])
def test_any_damage_is_one_sentence_or_no_harm(tmp_path, name):
    path = tmp_path / name
    values = torch.rand(3, 4)
    if name.endswith(".pt"):
        torch.save({"a": [values, values.half()]}, path, _use_new_zipfile_serialization=name == "x.pt")
    elif name == "x.npy":
        np.save(path, values.numpy())
    elif name.endswith(".npz"):
        (np.savez if name == "x.npz" else np.savez_compressed)(path, a=values.numpy(), b=np.arange(5))
    else:
        safetensors(path, {"a": entry(), "b": entry("BF16", (4,), (8, 16))}, bytes(16))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 6)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.2 else damaged)
        try:
            read_all(path)
        except MaskcliError as error:
            assert str(error).isprintable()
