"""Files by torch.save, read without torch: what is found is what torch itself loads, and nothing that a pickle says is run."""

import contextlib
import pickle
import zipfile
from collections import OrderedDict
from io import BytesIO
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from maskcli.tensors import open_tensors, torch_file
from maskcli.tensors.pickled_classes import UnfamiliarError
from maskcli.tensors.torch_file import from_torch
from maskcli.tensors.torch_pickle import SavedStorage, SavedTensor, described

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.bool,
    torch.int64,
    torch.int32,
    torch.int16,
]
DTYPES += [
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


@st.composite
def views(draw):
    """Tensors as models leave them: permuted, sliced, expanded, picked from larger ones; and a diagonal now and then, or windows that overlap."""
    shape = draw(st.lists(st.integers(1, 5), max_size=4))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, shape)
    tensor = torch.from_numpy(np.asarray(values)).to(draw(st.sampled_from(DTYPES)))
    for _ in range(draw(st.integers(0, 3))):
        axes = tensor.dim()
        kind = draw(
            st.sampled_from(
                ["permute", "narrow", "stride", "expand", "select", "diagonal", "unfold"]
                if axes > 1
                else ["expand"]
            )
        )
        axis = draw(st.integers(0, max(axes - 1, 0)))
        if kind == "permute":
            tensor = tensor.permute(*draw(st.permutations(range(axes))))
        elif kind == "narrow":
            start = draw(st.integers(0, tensor.shape[axis]))
            tensor = tensor.narrow(axis, start, draw(st.integers(0, tensor.shape[axis] - start)))
        elif kind == "stride":
            tensor = tensor[(slice(None),) * axis + (slice(None, None, draw(st.integers(2, 3))),)]
        elif kind == "expand":
            tensor = tensor.unsqueeze(axis).expand(
                *tensor.shape[:axis], draw(st.integers(1, 3)), *tensor.shape[axis:]
            )
        elif kind == "select" and tensor.shape[axis]:
            tensor = tensor.select(axis, draw(st.integers(0, tensor.shape[axis] - 1)))
        elif kind == "diagonal":
            tensor = tensor.diagonal()
        elif kind == "unfold" and tensor.shape[axis]:
            tensor = tensor.unfold(axis, draw(st.integers(1, tensor.shape[axis])), 1)
    return tensor


NESTS = st.recursive(
    views(),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.lists(inside, min_size=1, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abcdef") | st.integers(0, 3), inside, max_size=3)
        | st.dictionaries(st.sampled_from("abcdef"), inside, max_size=3).map(OrderedDict)
    ),
    max_leaves=4,
)
OTHERS = [
    None,
    True,
    3,
    -70_000,
    2**40,
    0.5,
    "text",
    (),
    (1, 2),
    torch.Size([2]),
    torch.float16,
    torch.device("cpu"),
]


@given(NESTS, st.lists(st.sampled_from(OTHERS), max_size=4), st.booleans(), st.data())
@settings(max_examples=100, deadline=None)
def test_every_tensor_is_what_torch_loads(tmp_path_factory, nest, others, zipped, data):
    path = tmp_path_factory.mktemp("saved") / "x.pt"
    saved = {"nest": nest, "others": others}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    # As an archive: torch writes the old format of integers that it does not read.
    torch.save(saved, path.with_suffix(".zip"))
    loaded = torch_file._named(str(path), torch.load(path.with_suffix(".zip")), torch.Tensor, from_torch)
    found = open_tensors(path).tensors
    assert [(each.name, each.dtype, each.shape) for each in found] == [
        (each.name, each.dtype, each.shape) for each in loaded
    ]
    for mine, theirs in zip(found, loaded, strict=True):
        np.testing.assert_array_equal(mine.read(), theirs.read())
        low, high = sorted(data.draw(st.tuples(*[st.integers(0, mine.row_count)] * 2)))
        np.testing.assert_array_equal(mine.rows(low, high), theirs.rows(low, high))
        index = tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1, -2]))) for _ in mine.shape)
        np.testing.assert_array_equal(mine.read(index), theirs.read(index))


def opened_without_torch(path):
    with mock.patch.object(torch_file, "_load", side_effect=AssertionError("torch was asked")):
        return open_tensors(path)


def test_what_models_and_people_save_needs_no_torch(tmp_path):
    layer = torch.nn.MultiheadAttention(8, 2)
    maps = torch.rand(2, 3, 4, 4)
    saved = {
        "attentions": (
            maps,
            maps.permute(0, 2, 1, 3),
            maps.transpose(-1, -2),
            maps[:, :1, -1:],
            maps[..., :2],
        ),
        "attention_mask": torch.ones(2, 1, 1, 4, dtype=torch.bool).expand(2, 3, 4, 4),
        "state": layer.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "meta": {
            "model": "gpt2",
            "layers": 3,
            "shape": maps.shape,
            "dtype": maps.dtype,
            "device": maps.device,
        },
        "gradient": maps.clone().requires_grad_() * 2,
        "complex": torch.ones(2, dtype=torch.complex64),
    }
    torch.save(saved, tmp_path / "x.pt")
    names = [each.name for each in opened_without_torch(tmp_path / "x.pt").tensors]
    assert names[:6] == [*(f"attentions.{layer}" for layer in range(5)), "attention_mask"]
    assert names[-3:] == ["parameter", "gradient", "complex"]


def test_what_is_no_array_is_left_to_torch(tmp_path):
    for odd in (torch.ones(3).to_sparse(), torch.rand(2).to(torch.complex64).conj()):
        torch.save({"good": torch.ones(2), "odd": odd}, tmp_path / "x.pt")
        with pytest.raises(AssertionError, match="torch was asked"):
            opened_without_torch(tmp_path / "x.pt")
        assert [each.name for each in open_tensors(tmp_path / "x.pt").tensors] == ["good", "odd"]


@pytest.mark.parametrize("zipped", [True, False])
def test_windows_that_overlap_are_read_without_torch(tmp_path, zipped):
    for odd in (torch.rand(9).unfold(0, 3, 2), torch.rand(20)[3:].as_strided((3, 2, 4), (5, 1, 1))):
        torch.save([odd], tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        (found,) = opened_without_torch(tmp_path / "x.pt").tensors
        np.testing.assert_array_equal(found.read(), odd.numpy())
        np.testing.assert_array_equal(found.rows(1, 3), odd.reshape(-1, odd.shape[-1]).numpy()[1:3])


def test_a_pickle_by_python_2_is_followed(tmp_path):
    """Its texts are of bytes, and torch before 0.4 had another name for what makes a tensor."""
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    block = (tmp_path / "x.pt").read_bytes().replace(b"X\x01\x00\x00\x00w", b"U\x01w")
    hooks = block.index(b"\x89ccollections\nOrderedDict")
    after = block.index(b"R", hooks) + 1
    stored = after + (block[after : after + 1] == b"q") * 2
    block = block[:hooks] + block[stored:]
    (tmp_path / "x.pt").write_bytes(block.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor"))
    assert torch.load(tmp_path / "x.pt")["w"].tolist() == [1.0, 1.0]
    (found,) = opened_without_torch(tmp_path / "x.pt").tensors
    assert (found.name, found.read().tolist()) == ("w", [1.0, 1.0])


def pickled(value):
    with zipfile.ZipFile(value) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def test_a_pickle_by_any_protocol_is_followed(tmp_path):
    for protocol in (2, 3, 4, 5):
        torch.save({"x": torch.ones(2)}, tmp_path / "x.pt", pickle_protocol=protocol)
        storage = SavedStorage("0", "float32", 2)
        saved = {"x": SavedTensor(storage, "float32", 0, (2,), (1,))}
        assert described(BytesIO(pickled(tmp_path / "x.pt"))) == (saved, {"0": storage})


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_damage_is_unfamiliar_or_harmless(noise, at, byte):
    whole = bytearray(SAVED)
    whole[at % len(whole)] = byte
    for data in (bytes(whole), bytes(whole[: at % len(whole)]), noise, b"\x80\x02" + noise):
        with contextlib.suppress(UnfamiliarError):
            described(BytesIO(data))


class Call:
    """What is pickled as a call."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.long
def test_nothing_is_called_and_nothing_grows(tmp_path):
    path = str(tmp_path / "made")
    pair: object = ()
    for _ in range(60):
        pair = (pair, pair)
    hostile = [
        pickle.dumps(Call(open, path, "w"), 2),
        pickle.dumps(Call(OrderedDict, [(pair, 1)]), 2),
        b"\x80\x02}" + pickle.dumps(pair, 2)[2:-1] + b"K\x01s.",
        pickle.dumps(Call(torch.Size, [1] * 100), 2),
        b"\x80\x02" + b"}" * 30_000 + b".",
        b"\x80\x02]q\x00h\x00h\x00a.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + b"(" + b"N" * 100_000 + b"tR.",
        b"\x80\x05\x96" + (1 << 60).to_bytes(8, "little"),
        b"\x80\x02\x8b" + (1 << 30).to_bytes(4, "little"),
        b"\x80\x02)r\xff\xff\xff\xff.",
        b"",
        # Objects of known classes that share what they hold, and arrays that share their bytes.
        b"\x80\x02]q\x00(" + b"N" * 50_000 + b"e0](" + b"cbuiltins\nset\nh\x00\x85R" * 30_000 + b"e.",
        b"\x80\x02}q\x00](" + b"ctypes\nSimpleNamespace\n)\x81h\x00b" * 30_000 + b"e.",
        b"\x80\x02X\x00\x00\x10\x00"
        + b"a" * (1 << 20)
        + b"q\x000]("
        + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 300_000
        + b"e.",
        pickle.dumps(Call(SimpleNamespace, *range(10)), 2),
        pickle.dumps(Call(np.dtype, "O"), 2),
    ]
    for data in hostile:
        with contextlib.suppress(UnfamiliarError):
            described(BytesIO(data))
    assert not (tmp_path / "made").exists()


def test_a_storage_that_is_too_short_is_no_tensor(tmp_path):
    torch.save({"x": torch.ones(8)}, tmp_path / "x.pt")
    data = pickled(tmp_path / "x.pt").replace(b"K\x08\x85", b"K\x09\x85")
    with zipfile.ZipFile(tmp_path / "long.pt", "w") as made, zipfile.ZipFile(tmp_path / "x.pt") as old:
        for name in old.namelist():
            made.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    with pytest.raises(MaskcliError, match="damaged"):
        open_tensors(tmp_path / "long.pt")


SAVED = b""


@pytest.fixture(scope="module", autouse=True)
def saved(tmp_path_factory):
    global SAVED
    path = tmp_path_factory.mktemp("whole") / "x.pt"
    torch.save({"x": [torch.ones(2, 3), torch.ones(2).half()], "y": (1, 2.5, None)}, path)
    SAVED = pickled(path)
