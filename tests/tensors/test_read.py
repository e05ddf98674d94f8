"""What a file holds is what comes out, whatever the format, the type and the shape."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from maskcli.errors import MaskcliError
from maskcli.tensors import find_tensor, from_arrays, open_tensors

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
NUMPY = ["bool", *INTEGERS, "float16", "float32", "float64"]
DTYPES = [*NUMPY, "bfloat16", "float8_e4m3fn", "float8_e5m2"]
SHAPES = [(), (1,), (7,), (0,), (3, 4), (0, 3), (3, 0), (2, 3, 4), (2, 1, 3, 5)]
WIDE = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def sample(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * 50
    wanted = getattr(torch, dtype)
    return (
        values.abs().to(wanted)
        if dtype.startswith("uint")
        else (values > 0 if dtype == "bool" else values.to(wanted))
    )


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return (
        tensor.float().numpy()
        if str(tensor.dtype)[6:] in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
        else tensor.numpy()
    )


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".npz":
        (np.savez_compressed if "packed" in path.name else np.savez)(
            path, **{name: each.numpy() for name, each in tensors.items()}
        )
    elif path.suffix == ".npy":
        np.save(path, tensors["x"].numpy())
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization="legacy" not in path.name)


CASES = [
    (name, dtype)
    for name in ("x.safetensors", "x.pt", "x.npy", "x.npz", "packed.npz", "legacy.bin")
    for dtype in DTYPES
    if dtype in NUMPY or name in ("x.safetensors", "x.pt") or (dtype == "bfloat16" and name == "legacy.bin")
]


@pytest.mark.combinations
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_format_type_and_shape(tmp_path, name, dtype):
    for shape in SHAPES:
        want = sample(dtype, shape)
        save(tmp_path / name, {"x": want})
        (tensor,) = open_tensors(tmp_path / name).tensors
        assert (tensor.name, tensor.dtype, tensor.shape) == ("x", dtype, shape)
        assert tensor.nbytes == want.nbytes
        check(tensor, as_numpy(want))


def check(tensor, want):
    got = tensor.read()
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
    flat = want.reshape(math.prod(want.shape[:-1]), want.shape[-1] if want.ndim else 1)
    assert (tensor.row_count, tensor.row_length) == flat.shape
    rows = tensor.rows(0, tensor.row_count)
    assert rows.dtype == tensor.row_dtype == (np.float32 if tensor.dtype in WIDE else want.dtype)
    np.testing.assert_array_equal(rows, flat)
    middle = slice(tensor.row_count // 3, tensor.row_count * 2 // 3)
    np.testing.assert_array_equal(tensor.rows(middle.start, middle.stop), flat[middle])


@pytest.mark.long
@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("limits")
def test_any_index_of_any_shape(data):
    shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4)))
    order = data.draw(st.sampled_from(["C", "F"]))
    kind = data.draw(st.sampled_from(["<f4", ">f4", "<i2", ">f8", "?", ">u8"]))
    want = np.array(np.arange(math.prod(shape)).reshape(shape), dtype=kind, order=order)
    index = tuple(data.draw(index_of(size)) for size in shape[: data.draw(st.integers(0, len(shape)))])
    start = data.draw(st.integers(0, math.prod(shape[:-1])))
    stop = data.draw(st.integers(start, math.prod(shape[:-1])))
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", want)
        np.savez_compressed(f"{folder}/x.npz", x=want)
        for tensor in (*open_tensors(f"{folder}/x.npy").tensors, *open_tensors(f"{folder}/x.npz").tensors):
            got = tensor.read(index)
            assert got.dtype == want.dtype.newbyteorder("=")
            np.testing.assert_array_equal(got, want[index])
            flat = want.reshape(math.prod(shape[:-1]), shape[-1] if shape else 1)
            np.testing.assert_array_equal(tensor.rows(start, stop), flat[start:stop])


@pytest.fixture(
    params=[(8 << 20, 16 << 10, 256 << 10), (64, 16, 16), (8, 4, 8)], ids=["real", "small", "tiny"]
)
def limits(request, monkeypatch):
    """Small limits let small arrays take every path of the reader."""
    import maskcli.tensors.storage as storage

    for name, value in zip(("SPAN", "SPARSE", "BLOCK"), request.param, strict=True):
        monkeypatch.setattr(storage, name, value)


def index_of(size: int) -> st.SearchStrategy:
    bound = st.none() | st.integers(-size - 1, size + 1)
    steps = st.none() | st.integers(-3, 3).filter(bool)
    slices = st.builds(slice, bound, bound, steps)
    return slices | st.integers(-size, size - 1) if size else slices


def test_rows_fill_the_buffer_that_was_given():
    tensor = from_arrays({"x": np.arange(12.0, dtype=np.float32).reshape(4, 3)}).tensors[0]
    buffer = np.full((5, 3), -1, np.float32)
    got = tensor.rows(1, 3, buffer)
    assert got.base is buffer
    assert buffer[:, 0].tolist() == [3, 6, -1, -1, -1]
    with pytest.raises(ValueError, match="C-contiguous float32"):
        tensor.rows(0, 3, np.empty((2, 3), np.float32))


@pytest.mark.parametrize("index", [(3,), (0, 0, 0), (-4,)])
def test_an_index_outside_is_one_sentence(index):
    tensor = from_arrays({"x": np.zeros((3, 2))}).tensors[0]
    with pytest.raises(MaskcliError, match="'x'"):
        tensor.read(index)


def test_rows_outside_are_one_sentence():
    tensor = from_arrays({"x": np.zeros((3, 2))}).tensors[0]
    with pytest.raises(MaskcliError, match="expected rows within 0 to 3"):
        tensor.rows(0, 4)


def test_bfloat16_in_npy_arrives_as_v2(tmp_path):
    want = sample("bfloat16", (3, 4))
    np.save(tmp_path / "x.npy", want.view(torch.uint16).numpy().view("V2"))
    (tensor,) = open_tensors(tmp_path / "x.npy").tensors
    assert tensor.dtype == "bfloat16"
    check(tensor, as_numpy(want))


def test_a_lone_tensor_is_named_after_its_file(tmp_path):
    np.save(tmp_path / "attn_mask.npy", np.ones((2, 2)))
    torch.save(torch.ones(2, 2), tmp_path / "attn_mask.pt")
    assert [open_tensors(tmp_path / name).tensors[0].name for name in ("attn_mask.npy", "attn_mask.pt")] == [
        "attn_mask"
    ] * 2


def test_nests_become_dotted_names_in_order(tmp_path):
    one = torch.ones(1)
    nest = {"step": 3, "attentions": (one, [one, None]), "z": {"a": one, 1: one}, "text": "no"}
    torch.save(nest, tmp_path / "x.pt")
    names = [tensor.name for tensor in open_tensors(tmp_path / "x.pt").tensors]
    assert names == ["attentions.0", "attentions.1.0", "z.a", "z.1"]


def test_unusual_torch_tensors(tmp_path):
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "transposed": base.transpose(0, 2),
        "strided": base[:, ::2, 1::2],
        "expanded": base[:, :, :1].expand(2, 3, 5),
        "grad": base.clone().requires_grad_(),
        "parameter": torch.nn.Parameter(base.bfloat16()),
        "negative": torch._neg_view(base),
        "half": base.half().transpose(0, 1),
    }
    torch.save(tensors, tmp_path / "x.pt")
    for file in (open_tensors(tmp_path / "x.pt"), from_arrays(tensors)):
        for tensor in file.tensors:
            check(tensor, as_numpy(tensors[tensor.name].detach().resolve_neg().contiguous()))


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.eye(3).to_sparse(), "to_dense"),
        (torch.empty(3, device="meta"), "meta device"),
        (torch.zeros(3, dtype=torch.complex64), "complex64"),
        (torch.zeros(3).to(torch.float8_e4m3fnuz), "float8_e4m3fnuz"),
    ],
)
def test_torch_tensors_that_cannot_be_read_have_a_name_and_a_sentence(tmp_path, tensor, why):
    torch.save({"good": torch.ones(2), "odd": tensor}, tmp_path / "x.pt")
    file = open_tensors(tmp_path / "x.pt")
    odd = find_tensor(file, "odd")
    assert odd.shape == tuple(tensor.shape)
    for use in (odd.read, lambda: odd.rows(0, 1)):
        with pytest.raises(MaskcliError, match=why):
            use()
    assert find_tensor(file, "good").read().tolist() == [1, 1]


def test_metadata_of_safetensors(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"maskcli.expect": "causal"})
    assert dict(open_tensors(tmp_path / "x.safetensors").metadata) == {"maskcli.expect": "causal"}


def test_arrays_in_memory_are_not_copied():
    array = np.zeros((4, 4), np.float32)
    tensor = from_arrays({"x": array}).tensors[0]
    array[1, 1] = 5
    assert tensor.read((1, 1)) == 5
    assert tensor.rows(1, 2)[0, 1] == 5


def test_anything_with_array_will_do():
    class Wrapped:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3, dtype=np.int16)

    (tensor,) = from_arrays({"x": Wrapped()}).tensors
    assert (tensor.dtype, tensor.read().tolist()) == ("int16", [0, 1, 2])
    assert from_arrays({"x": [[True]]}).tensors[0].dtype == "bool"
