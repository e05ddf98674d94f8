"""Attention made the way models make it: random queries and keys, a mask, a softmax; healthy, or sick in one stated way."""

import itertools

import numpy as np
import torch

from maskcli.diagnostics.diagnose import diagnose
from maskcli.meant import facts, settling
from maskcli.tensors import from_arrays

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# batch, heads, queries, keys
SHAPES = [(1, 1, 8, 8), (3, 4, 12, 12), (2, 2, 5, 17), (2, 3, 1, 16), (2, 2, 80, 80)]
SIDES = ["left", "right"]
GRID = list(itertools.product(SHAPES, DTYPES, SIDES))


def padding(shape, side):
    """Real keys [B, K]: every item but the last has a different amount of padding; a single item has some too."""
    batch, _, queries, keys = shape
    real = np.ones((batch, keys), bool)
    for item in range(batch if batch == 1 else batch - 1):
        pads = max(1, min(2 + item, keys - queries - 1 if 1 < queries < keys else keys // 3))
        real[item, slice(0, pads) if side == "left" else slice(keys - pads, keys)] = False
    return real


def causal(shape):
    _, _, queries, keys = shape
    return np.arange(keys) <= (np.arange(queries) + keys - queries)[:, None]


def scores(shape, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    batch, heads, queries, keys = shape
    q = rng.normal(size=(batch, heads, queries, 16))
    k = rng.normal(size=(batch, heads, keys, 16))
    return scale * (q @ k.transpose(0, 1, 3, 2)) / 4


def softmax(values):
    with np.errstate(invalid="ignore"):
        shifted = np.exp(values - values.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)


def weights(shape, keep, dtype="float32", seed=0, fill=-1e30):
    """Softmax over scores [B, H, Q, K] with `fill` where keep (broadcasting) is False; a torch tensor of the dtype."""
    return torch.from_numpy(softmax(np.where(keep, scores(shape, seed), fill))).to(DTYPES[dtype])


def layers(shape, keep, dtype="float32", count=2, **options):
    return {f"attentions.{n}": weights(shape, keep, dtype, seed=n, **options) for n in range(count)}


def report(arrays, expect=(), **declared):
    declared["expect"] = tuple(
        settling.expectation(text) for text in ([expect] if isinstance(expect, str) else expect)
    )
    return diagnose(from_arrays(arrays, "dump.safetensors"), facts.Declared(**declared))


def loud(found):
    """Codes at error and warning."""
    return sorted({finding.code for finding in found.findings if finding.severity != "note"})


def the(found, code):
    (finding,) = [
        finding for finding in found.findings if finding.code == code and finding.severity != "note"
    ]
    return finding
