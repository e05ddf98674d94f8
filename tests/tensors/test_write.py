"""What is written is what the other libraries read, and an old file lives until the new one is whole."""

import os
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from maskcli.errors import MaskcliError
from maskcli.tensors import Source, open_tensors, replacing, source_from, source_of, write_tensors

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
DTYPES = ["bool", *INTEGERS, "float16", "bfloat16", "float32", "float64"]


def source(dtype, shape=(4, 3)):
    values = (np.arange(12).reshape(shape) % 2).astype(np.float32 if dtype == "bfloat16" else dtype)
    return values, Source(dtype, shape, [values[:1], values[1:1], values[1:]])


def load(path):
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    loaded = np.load(path, allow_pickle=False)
    return {"x": torch.from_numpy(loaded if path.suffix == ".npy" else loaded["x"])}


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".npz", ".pt"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_libraries_read_what_is_written(tmp_path, suffix, dtype):
    path = tmp_path / f"x{suffix}"
    values, what = source(dtype)
    if dtype == "bfloat16" and suffix in (".npy", ".npz"):
        with pytest.raises(MaskcliError, match="numpy has no bfloat16"):
            write_tensors(path, {"x": what})
        assert os.listdir(tmp_path) == []
        return
    write_tensors(path, {"x": what}, {"maskcli.expect": "causal"})
    got = load(path)["x"]
    assert str(got.dtype) == f"torch.{dtype}"
    np.testing.assert_array_equal(got.to(torch.float64).numpy(), values.astype(np.float64))
    file = open_tensors(path)
    assert (file.tensors[0].dtype, file.tensors[0].shape) == (dtype, (4, 3))
    assert dict(file.metadata) == ({} if suffix == ".npy" else {"maskcli.expect": "causal"})


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_many_tensors_scalars_and_empties(tmp_path, suffix):
    arrays = {
        "b.0": np.array([True]),
        "wide": np.ones((2, 2)),
        "empty": np.zeros((0, 4), np.int8),
        "one": np.array(7),
    }
    write_tensors(tmp_path / f"x{suffix}", {name: source_from(each) for name, each in arrays.items()})
    file = open_tensors(tmp_path / f"x{suffix}")
    assert {tensor.name: tensor.read().tolist() for tensor in file.tensors} == {
        k: v.tolist() for k, v in arrays.items()
    }
    assert {tensor.name: tensor.shape for tensor in file.tensors} == {
        name: each.shape for name, each in arrays.items()
    }
    write_tensors(tmp_path / f"y{suffix}", {tensor.name: source_of(tensor) for tensor in file.tensors})
    assert (tmp_path / f"y{suffix}").stat().st_size == (tmp_path / f"x{suffix}").stat().st_size


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".npz", ".pt"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_source_that_fails_leaves_the_old_file_alone(tmp_path, suffix, error):
    def failing():
        yield np.zeros((1, 3))
        raise error

    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_tensors(path, {"x": Source("float64", (2, 3), failing())})
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("rows", [1, 3])
def test_chunks_must_add_up_to_the_shape(tmp_path, rows):
    with pytest.raises(ValueError, match="add up"):
        write_tensors(tmp_path / "x.npy", {"x": Source("float64", (2, 3), [np.zeros((rows, 3))])})
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    what = source_from(np.ones(3))
    for path, tensors, why in [
        (tmp_path / "x.csv", {"x": what}, "expected one of .safetensors"),
        (tmp_path / "x.npy", {"x": what, "y": what}, "one tensor, not 2"),
        (tmp_path / "none" / "x.npy", {"x": what}, "does not exist"),
        (tmp_path / "x.pt", {"x": Source("float8_e5m2", (1,), [])}, "cannot hold 'x' as float8_e5m2"),
        (tmp_path / "x.pt", {"x": Source("float64", (2**40,), [])}, "use .safetensors"),
    ]:
        with pytest.raises(MaskcliError, match=why):
            write_tensors(path, tensors)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(MaskcliError, match="disk is full"), replacing(tmp_path / "x.npy"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_permissions_links_and_suffix(tmp_path):
    old, link, new = tmp_path / "old.png", tmp_path / "link.png", tmp_path / "new.png"
    old.write_bytes(b"old")
    old.chmod(0o640)
    link.symlink_to(old)
    before = os.umask(0o027)
    try:
        for path in (link, new):
            with replacing(path) as temporary:
                assert os.path.dirname(temporary) == str(tmp_path)
                assert temporary.endswith(".png")
                with open(temporary, "wb") as file:
                    file.write(b"new")
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert old.read_bytes() == new.read_bytes() == b"new"
    assert stat.S_IMODE(old.stat().st_mode) == stat.S_IMODE(new.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.png", "new.png", "old.png"]


def test_a_folder_is_refused_and_a_device_is_written_directly(tmp_path):
    with pytest.raises(MaskcliError, match="is a folder"), replacing(tmp_path):
        pass
    with replacing("/dev/null") as path:
        assert path == "/dev/null"
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
