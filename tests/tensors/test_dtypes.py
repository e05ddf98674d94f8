"""Every code of every small type stands for the number torch says it does."""

import numpy as np
import pytest
import torch

from maskcli.tensors import Source, from_arrays, open_tensors, write_tensors

ALL_16 = np.arange(65_536, dtype=np.uint16)
ALL_8 = np.arange(256, dtype=np.uint8)


def same_bits_or_nan(got, want):
    return got.dtype == want.dtype and bool(
        ((got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))).all()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part", [slice(None), slice(0, 0x7C00), slice(0, 0xFC00, 3), slice(0x8000, 0xFC00)])
def test_all_sixteen_bit_codes(dtype, part):
    codes = torch.from_numpy(ALL_16[part].view(np.int16).copy()).view(dtype)
    tensor = from_arrays({"x": codes}).tensors[0]
    assert same_bits_or_nan(tensor.rows(0, 1)[0], codes.float().numpy())
    assert same_bits_or_nan(tensor.read().astype(np.float32), codes.float().numpy())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_all_float8_codes(dtype):
    codes = torch.from_numpy(ALL_8.copy()).view(dtype)
    tensor = from_arrays({"x": codes}).tensors[0]
    assert tensor.dtype == str(dtype).removeprefix("torch.")
    assert same_bits_or_nan(tensor.rows(0, 1)[0], codes.float().numpy())
    assert same_bits_or_nan(tensor.read(), codes.float().numpy())


def test_any_byte_but_zero_is_true(tmp_path):
    path = tmp_path / "m.npy"
    np.save(path, ALL_8)
    path.write_bytes(path.read_bytes().replace(b"'|u1'", b"'|b1'"))
    tensor = open_tensors(path).tensors[0]
    assert tensor.read().view(np.uint8).tolist() == [0] + [1] * 255
    assert tensor.rows(0, 1).view(np.uint8).tolist() == [[0] + [1] * 255]


def test_float32_is_rounded_to_bfloat16_as_torch_does(tmp_path):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    halves = (ALL_16.astype(np.uint32) << 16)[:, None] + np.array([0x7FFF, 0x8000, 0x8001], np.uint32)
    values = np.concatenate([bits, halves.reshape(-1)]).view(np.float32)
    write_tensors(tmp_path / "x.safetensors", {"x": Source("bfloat16", values.shape, [values])})
    got = open_tensors(tmp_path / "x.safetensors").tensors[0].read()
    assert same_bits_or_nan(got, torch.from_numpy(values).bfloat16().float().numpy())
