"""Only what is asked for is read, by any number of threads, and torch stays away."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from maskcli.tensors import Source, open_tensors, write_tensors

ROWS, KEYS = 32 * 1024, 2500


def child(program: str, *arguments: object) -> str:
    """What a fresh interpreter prints."""
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = {sys.path!r}\n{program}",
        *map(str, arguments),
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def sparse_file(path, dtype="F32", itemsize=4):
    """A file of 310 MB that takes no room on the disk: a header, then a hole."""
    size = ROWS * KEYS * itemsize
    if path.suffix == ".npy":
        with open(path, "wb") as file:
            header = {"descr": f"<f{itemsize}", "fortran_order": False, "shape": (4, ROWS // 4, KEYS)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + size)
        return
    header = (
        f'{{"x":{{"dtype":"{dtype}","shape":[4,{ROWS // 4},{KEYS}],"data_offsets":[0,{size}]}}}}'.encode()
    )
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(file.tell() + size)


MEASURE = """
import numpy as np
def peak():
    # Not ru_maxrss: a child process inherits that of its parent.
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
from maskcli.tensors import open_tensors
tensor = open_tensors(sys.argv[1]).tensors[0]
out = np.empty((256, tensor.row_length), tensor.row_dtype)
tensor.rows(0, 256, out)
tensor.read((0, slice(0, 64)))
before = peak()
for start in range(0, tensor.row_count, 256):
    assert not tensor.rows(start, min(start + 256, tensor.row_count), out).any()
assert not tensor.read((3, slice(-100, None), slice(None, None, -7))).any()
assert not tensor.read((slice(None), slice(None), 17)).any()
print((peak() - before) // 1024, "torch" in sys.modules)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "dtype", "itemsize"),
    [
        ("x.safetensors", "F32", 4),
        ("x.safetensors", "BF16", 2),
        ("x.safetensors", "F16", 2),
        ("x.npy", "", 4),
    ],
)
def test_memory_stays_flat_in_the_size_of_the_file(tmp_path, name, dtype, itemsize):
    sparse_file(tmp_path / name, dtype, itemsize)
    grown, torch_loaded = child(MEASURE, tmp_path / name).split()
    assert int(grown) < 40
    assert torch_loaded == "False"


@pytest.mark.long
@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x.transpose(0, 1), lambda x: x.transpose(1, 2), lambda x: x[:, 1:, :-1]]
)
def test_memory_stays_flat_for_torch_files(tmp_path, view):
    """A file of 164 MB."""
    torch.save({"x": view(torch.zeros(4, ROWS // 8, KEYS))}, tmp_path / "x.pt")
    grown, torch_loaded = child(MEASURE.replace("3, slice(-100", "-1, slice(-100"), tmp_path / "x.pt").split()
    assert int(grown) < 40
    assert torch_loaded == "False"


def test_writing_stays_flat_too(tmp_path):
    program = """
import numpy as np
def peak():
    # Not ru_maxrss: a child process inherits that of its parent.
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
from maskcli.tensors import Source, write_tensors
def big(rows):
    return {"x": Source("bool", (rows, 4096), (np.ones((64, 4096), bool) for _ in range(rows // 64)))}
write_tensors(sys.argv[1], big(64))
before = peak()
write_tensors(sys.argv[1], big(16384))
print((peak() - before) // 1024)
"""
    for suffix in (".npy", ".npz", ".safetensors"):
        assert int(child(program, tmp_path / f"x{suffix}")) < 20


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".npz", ".pt"])
def test_torch_is_not_imported(tmp_path, suffix):
    program = """
from maskcli.tensors import open_tensors, roles_of
file = open_tensors(sys.argv[1])
roles_of(file)
file.tensors[0].rows(0, 1)
print(sorted({"torch", "safetensors", "transformers"} & set(sys.modules)))
"""
    path = tmp_path / f"x{suffix}"
    write_tensors(path, {"x": Source("float32", (2, 2, 2), [np.ones(8, np.float32)])})
    assert child(program, path) == "[]\n"


def test_the_probe_sees_torch(tmp_path):
    """Were the two tests above blind, this one would fail."""
    program = (
        "from maskcli.tensors import open_tensors\nopen_tensors(sys.argv[1])\nprint('torch' in sys.modules)"
    )
    torch.save(torch.ones(2).to_sparse(), tmp_path / "x.pt")
    assert child(program, tmp_path / "x.pt") == "True\n"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_share_a_file_without_mixing_rows(tmp_path, dtype):
    want = np.arange(256, dtype=np.float32)[:, None] + np.zeros((256, 5000), np.float32)
    write_tensors(tmp_path / "x.safetensors", {"x": Source(dtype, want.shape, [want])})
    tensor = open_tensors(tmp_path / "x.safetensors").tensors[0]
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        out = np.empty((32, 5000), np.float32)
        starts = [int(start) for start in rng.integers(0, 224, 60)]
        wrong.extend(
            low for low in starts if not np.array_equal(tensor.rows(low, low + 32, out), want[low : low + 32])
        )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_is_closed_when_nobody_holds_it(tmp_path):
    import os

    write_tensors(tmp_path / "x.npy", {"x": Source("float32", (2,), [np.ones(2, np.float32)])})
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        open_tensors(tmp_path / "x.npy").tensors[0].read()
    assert len(os.listdir("/proc/self/fd")) <= before
