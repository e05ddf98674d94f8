"""Where NaN comes from: the earliest cause, once."""

import numpy as np
import pytest
import torch

from tests.diagnostics.attention import (
    DTYPES,
    causal,
    layers,
    loud,
    padding,
    report,
    scores,
    softmax,
    the,
    weights,
)

dtypes = pytest.mark.parametrize("dtype", list(DTYPES))
SHAPE = (2, 3, 10, 10)


def parts(dtype="float32", heads=3, scale=1.0):
    rng = np.random.default_rng(5)
    return {
        name: torch.from_numpy(rng.normal(size=(2, heads, 10, 16)) * scale).to(DTYPES[dtype])
        for name in ("query", "key", "value")
    }


@dtypes
@pytest.mark.parametrize("saved", ["nothing", "mask", "padding"])
def test_nan_from_an_empty_row(dtype, saved):
    real = padding(SHAPE, "left")
    keep = np.broadcast_to(causal(SHAPE) & real[:, None, None], SHAPE)
    arrays = layers(SHAPE, keep, dtype, count=1, fill=-np.inf)
    # The next layer reads the NaN rows as keys: the whole sample is lost.
    later = weights(SHAPE, keep, dtype, seed=1)
    later[0] = float("nan")
    arrays["attentions.1"] = later
    if saved == "mask":
        arrays["attn_mask"] = torch.from_numpy(np.where(keep[:, :1], 0, -np.inf).astype(np.float32))
    if saved == "padding":
        arrays["attention_mask"] = torch.from_numpy(real.astype(int))
    found = report(arrays)
    assert loud(found) == ["MSK301"]
    finding = the(found, "MSK301")
    pads = int((~real[0]).sum())
    assert (finding.tensors, finding.where.batch, finding.where.queries) == (
        ("attentions.0",),
        (0,),
        ((0, pads),),
    )
    assert "attentions.1 inherit it" in finding.message


@dtypes
@pytest.mark.parametrize("role", ["query", "key", "scores"])
def test_nan_from_an_input(dtype, role):
    arrays = parts(dtype)
    raw = torch.from_numpy(scores(SHAPE)).to(DTYPES[dtype])
    arrays["scores"] = raw
    broken = arrays[role]
    broken[1, 2, 4, 3] = float("nan")
    w = softmax(np.where(causal(SHAPE), raw.double().numpy(), -np.inf))
    w[1, 2, 4] = np.nan
    found = report({**arrays, "attentions.0": torch.from_numpy(w).to(DTYPES[dtype])})
    assert loud(found) == ["MSK302"]
    assert the(found, "MSK302").tensors == (role,)
    assert the(found, "MSK302").evidence["index"] == "[1, 2, 4, 3]"


def test_scores_with_minus_infinity_are_masked_scores():
    masked = torch.from_numpy(np.where(causal(SHAPE), scores(SHAPE), -np.inf))
    assert report({"scores": masked, "attentions.0": torch.softmax(masked, -1)}).findings == ()


def test_scores_that_overflowed():
    raw = torch.from_numpy(scores(SHAPE)).half()
    raw[0, 1, 3, 2] = float("inf")
    w = torch.softmax(raw.float(), -1).half()
    found = report({"scores": raw, "attentions.0": w})
    assert loud(found) == ["MSK303"]
    assert the(found, "MSK303").where.queries == ((3, 4),)


@pytest.mark.parametrize("follows", [True, False])
def test_products_beyond_half_precision(follows):
    arrays = parts("float16")
    arrays["query"][1, 0, 6] = 300.0
    arrays["key"][1, 0, 2] = 300.0
    raw = arrays["query"].float() @ arrays["key"].float().transpose(-1, -2)
    w = torch.softmax(raw / 4, -1)
    if follows:
        w[1, 0, 6] = float("nan")
    found = report({**arrays, "attentions.0": w.half()})
    codes = [(finding.code, finding.severity) for finding in found.findings]
    assert codes == [("MSK303", "error" if follows else "note")]
    assert found.findings[0].evidence["largest_score"] == pytest.approx(float(raw.abs().max()), rel=1e-3)


@dtypes
@pytest.mark.parametrize("role", ["value", "key"])
def test_nan_behind_the_mask_reaches_the_output(dtype, role):
    real = padding(SHAPE, "right")
    arrays = parts(dtype)
    arrays[role][0, :, 9] = float("nan")
    found = report({
        **arrays, **layers(SHAPE, np.broadcast_to(real[:, None, None], SHAPE), dtype, count=1),
        "attention_mask": torch.from_numpy(real.astype(int)),
    })  # fmt: skip
    assert loud(found) == ["MSK304"]
    assert (the(found, "MSK304").where.batch, the(found, "MSK304").where.keys) == ((0,), ((9, 10),))


@dtypes
def test_nan_that_nothing_explains(dtype):
    arrays = layers(SHAPE, causal(SHAPE), dtype)
    arrays["attentions.1"][1, 2, 7, 3] = float("nan")
    found = report(arrays)
    assert loud(found) == ["MSK305"]
    finding = the(found, "MSK305")
    assert (finding.tensors, finding.where.batch, finding.where.heads, finding.where.queries) == (
        ("attentions.1",), (1,), (2,), ((7, 8),)
    )  # fmt: skip
    assert finding.evidence["nan_cells"] == 1


def test_nan_rows_that_the_mask_does_not_explain():
    arrays = layers(SHAPE, causal(SHAPE), count=1) | {"attn_mask": torch.from_numpy(causal(SHAPE).copy())}
    arrays["attentions.0"][0, :, 4] = float("nan")
    assert loud(report(arrays)) == ["MSK305"]


def test_a_nan_mask_explains_the_nan_behind_it():
    mask = torch.from_numpy(np.where(causal(SHAPE), np.nan, -np.inf))[None, None]
    arrays = {"attentions.0": torch.full(SHAPE, float("nan")), "attn_mask": mask}
    assert loud(report(arrays)) == ["MSK106"]


def test_nan_from_a_window_inside_the_padding():
    shape = (2, 2, 16, 16)
    real = padding(shape, "right")
    real[0, 6:] = False
    near = np.arange(16)[:, None] - np.arange(16) < 3
    keep = np.broadcast_to(causal(shape) & near & real[:, None, None], shape)
    found = report(
        layers(shape, keep, count=1, fill=-np.inf) | {"attention_mask": torch.from_numpy(real.astype(int))}
    )
    assert loud(found) == ["MSK301"]
    assert the(found, "MSK301").where.queries == ((8, 16),)
