"""Write big files of healthy attention: python -m tests.benchmarks.attention_files OUT --gib 4 --dtype float16 --format safetensors.

Layers of causal, left-padded attention [B, H, N, N] as an eager model leaves it (padding queries uniform over all keys), and
their attention_mask. One set of heads is computed; the layers hold it in different orders, so that writing is all that takes time.
.npy holds one tensor, [B, layers x H, N, N], and no mask: pass the mask beside it, which OUT gets as a file of its own.
"""

import argparse
import json
from pathlib import Path

import numpy as np

TYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
BATCH, HEADS = 2, 8


def heads(length, dtype, seed=0):
    """The heads of every item, [B, H, N, N] in the type as it lies in a file, and the real keys [B, N]."""
    rng = np.random.default_rng(seed)
    real = np.ones((BATCH, length), np.int64)
    for item in range(BATCH):
        real[item, : (item + 1) * length // 16] = 0
    causal = np.tri(length, dtype=bool)
    maps = np.empty(
        (BATCH, HEADS, length, length), {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[dtype]
    )
    for item in range(BATCH):
        for head in range(HEADS):
            query, key = rng.normal(size=(2, length, 16)).astype(np.float32)
            scores = np.where(causal & (real[item] == 1), query @ key.T / 2, np.finfo(np.float32).min)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            maps[item, head] = _stored(weights, dtype)
    return maps, real


def _stored(weights, dtype):
    if dtype != "bfloat16":
        return weights.astype(dtype)
    bits = weights.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _orders(layers):
    """The order of heads in every layer; each layer begins with another head."""
    return [np.roll(np.arange(HEADS), layer) for layer in range(layers)]


def write_safetensors(path, maps, real, layers, dtype):
    """attention_mask and attentions.0, attentions.1, …"""
    header, end = (
        {"attention_mask": {"dtype": "I64", "shape": list(real.shape), "data_offsets": [0, real.nbytes]}},
        real.nbytes,
    )
    for layer in range(layers):
        start, end = end, end + maps.nbytes
        header[f"attentions.{layer}"] = {
            "dtype": TYPES[dtype][0],
            "shape": list(maps.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + real.astype("<i8").tobytes())
        for order in _orders(layers):
            for item in range(BATCH):
                for head in order:
                    file.write(memoryview(maps[item, head]))


def write_npy(path, maps, real, layers, dtype):
    """All layers as the heads of one tensor, and the mask beside it as OUT.attention_mask.npy; bfloat16 is a raw <V2."""
    shape = (BATCH, layers * HEADS, *maps.shape[2:])
    descr = "<V2" if dtype == "bfloat16" else np.lib.format.dtype_to_descr(maps.dtype)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        for item in range(BATCH):
            for order in _orders(layers):
                for head in order:
                    file.write(memoryview(maps[item, head]))
    np.save(f"{path}.attention_mask.npy", real)


def write_torch(path, maps, real, layers, dtype):
    """A dict of tensors by torch.save."""
    import torch

    tensors = {"attention_mask": torch.from_numpy(real)}
    for layer, order in enumerate(_orders(layers)):
        tensor = torch.from_numpy(np.ascontiguousarray(maps[:, order]))
        tensors[f"attentions.{layer}"] = tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
    torch.save(tensors, path)


WRITERS = {"safetensors": write_safetensors, "npy": write_npy, "pt": write_torch}


def main():
    """Write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--dtype", choices=TYPES, default="float32")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--format", choices=WRITERS, default="safetensors")
    chosen = parser.parse_args()
    maps, real = heads(chosen.length, chosen.dtype)
    layers = max(1, round(chosen.gib * 2**30 / maps.nbytes))
    WRITERS[chosen.format](chosen.out, maps, real, layers, chosen.dtype)
    print(
        f"{chosen.out}: {layers} layers of {list(maps.shape)} {chosen.dtype}, {chosen.out.stat().st_size / 2**30:.2f} GiB"
    )


if __name__ == "__main__":
    main()
