"""What must stay silent: no error and no warning on attention that only looks odd."""

import numpy as np
import pytest
import torch

from maskcli.diagnostics.diagnose import diagnose
from maskcli.meant.facts import Declared
from maskcli.tensors import open_tensors
from tests.diagnostics.attention import (
    DTYPES,
    GRID,
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
BIG = (2, 4, 64, 64)


def mask_of(real):
    return {"attention_mask": torch.from_numpy(real.astype(np.int64))}


def silent(arrays, *expectations, **declared):
    for expect in ((), *expectations):
        assert loud(report(arrays, expect=expect, **declared)) == []


@pytest.mark.combinations
@pytest.mark.parametrize(("shape", "dtype", "side"), GRID)
@pytest.mark.parametrize("pad_rows", ["uniform", "zero", "arbitrary"])
def test_healthy_models(shape, dtype, side, pad_rows):
    """Causal and bidirectional, with padding queries left as each library leaves them."""
    real = padding(shape, side)
    queries = real[:, shape[3] - shape[2] :]
    for keep, spec in ((causal(shape) & real[:, None, None], "causal"), (real[:, None, None], "full")):
        arrays = layers(shape, keep, dtype)
        for array in arrays.values():
            for item, query in zip(*np.nonzero(~queries), strict=True):
                if pad_rows == "arbitrary":
                    array[item, :, query] = torch.from_numpy(softmax(scores((1, 1, 1, shape[3]))))[
                        0, 0, 0
                    ].to(array.dtype)
                else:
                    array[item, :, query] = 0.0 if pad_rows == "zero" else 1 / shape[3]
        silent(arrays | mask_of(real), spec)
        silent(arrays | {"input_ids": torch.from_numpy(np.where(real, 7, 0))}, spec, pad_id=0)
        silent(arrays)
        whole = np.broadcast_to(keep, (shape[0], 1, *shape[2:]))
        additive = torch.from_numpy(np.where(whole, 0, -1e30).astype(np.float32))
        silent(arrays | mask_of(real) | {"attn_mask": additive}, spec)
        # Without word of the padding, only rows that the mask leaves empty are known to be padding.
        silent(layers(shape, keep, dtype) | {"attn_mask": additive}, spec)


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_sinks(dtype, share, side):
    real = padding(BIG, side)
    raw = scores(BIG)
    for item in range(BIG[0]):
        raw[item, :, :, int(np.argmax(real[item]))] += 8 * share
    w = softmax(np.where(causal(BIG) & real[:, None, None], raw, -1e30))
    silent({"attentions.0": torch.from_numpy(w).to(DTYPES[dtype])} | mask_of(real), "causal")


@dtypes
def test_a_head_that_looks_at_the_previous_token(dtype):
    raw = scores(BIG)
    raw[:, 1] += 12 * (np.arange(64)[:, None] - 1 == np.arange(64))
    silent(
        {"attentions.0": torch.from_numpy(softmax(np.where(causal(BIG), raw, -1e30))).to(DTYPES[dtype])},
        "causal",
    )


@dtypes
def test_sink_logits_and_softmax_off_by_one(dtype):
    for sink in (0.0, 3.0, -4.0):
        raw = np.where(causal(BIG), scores(BIG), -1e30)
        shifted = np.exp(raw - raw.max(-1, keepdims=True))
        w = shifted / (shifted.sum(-1, keepdims=True) + np.exp(sink - raw.max(-1, keepdims=True)))
        silent({"attentions.0": torch.from_numpy(w).to(DTYPES[dtype])}, "causal")


@dtypes
def test_sigmoid_and_relu_attention(dtype):
    sigmoid = np.where(causal(BIG), 1 / (1 + np.exp(-scores(BIG))), 0.0)
    relu = np.where(causal(BIG), np.maximum(scores(BIG), 0), 0.0)
    for w in (sigmoid, relu, relu / 64):
        silent({"attentions.0": torch.from_numpy(w).to(DTYPES[dtype])}, "causal")


@dtypes
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout(dtype, p):
    rng = np.random.default_rng(1)
    w = weights(BIG, causal(BIG)).numpy() * (rng.random(BIG) > p) / (1 - p)
    silent({"attentions.0": torch.from_numpy(w).to(DTYPES[dtype])}, "causal")


@dtypes
def test_random_initialisation(dtype):
    w = softmax(np.where(causal(BIG), scores(BIG, scale=0.02), -1e30))
    silent({"attentions.0": torch.from_numpy(w).to(DTYPES[dtype])}, "causal")
    silent({"attentions.0": torch.from_numpy(softmax(scores(BIG, scale=0.02))).to(DTYPES[dtype])}, "full")


@dtypes
@pytest.mark.parametrize(
    ("spec", "keep"),
    [
        ("causal & sliding:8", lambda p, k: (p - k < 8) & (k <= p)),
        ("chunked:16", lambda p, k: (p // 16 == k // 16) & (k <= p)),
        ("prefix-lm:10", lambda p, k: (k < 10) | (k <= p)),
        ("window:5 | global:2", lambda p, k: (abs(p - k) <= 5) | (k < 2) | (p < 2)),
        ("documents:20,30,14 & causal", lambda p, k: (np.searchsorted([20, 50], p, "right") == np.searchsorted([20, 50], k, "right")) & (k <= p)),
    ],
)  # fmt: skip
def test_other_patterns(dtype, spec, keep):
    p, k = np.arange(64)[:, None], np.arange(64)
    arrays = layers(BIG, keep(p, k), dtype)
    silent(arrays, spec)
    silent(arrays | {"attn_mask": torch.from_numpy(np.where(keep(p, k), 0, -1e30))}, spec)


def test_alternating_local_and_global_layers():
    p, k = np.arange(64)[:, None], np.arange(64)
    arrays = {
        "attentions.0": weights(BIG, (k <= p) & (p - k < 8)),
        "attentions.1": weights(BIG, causal(BIG), seed=1),
    }
    silent(arrays, "causal", ["causal", "attentions.0=sliding:8"])
    for saved in ((k <= p) & (p - k < 8), k <= p):
        silent(arrays | {"attn_mask": torch.from_numpy(np.where(saved, 0, -1e30))})


@dtypes
def test_cross_attention_and_encoders(dtype):
    source = np.ones((2, 20), bool)
    source[0, 15:] = False
    target = np.ones((2, 9), bool)
    target[1, 7:] = False
    arrays = {
        "encoder_attentions.0": weights((2, 2, 20, 20), source[:, None, None], dtype),
        "cross_attentions.0": weights((2, 2, 9, 20), source[:, None, None], dtype),
        "decoder_attentions.0": weights((2, 2, 9, 9), causal((2, 2, 9, 9)) & target[:, None, None], dtype),
        "attention_mask": torch.from_numpy(source.astype(int)),
        "decoder_attention_mask": torch.from_numpy(target.astype(int)),
    }
    silent(arrays, "causal")
    arrays["encoder_attentions.0"] = weights((2, 2, 20, 20), np.ones((20, 20), bool), dtype)
    assert loud(report(arrays)) == ["MSK202"]


@dtypes
def test_layouts_that_are_not_attention_maps(dtype):
    rng = np.random.default_rng(0)
    longformer = softmax(rng.normal(size=(2, 4, 64, 17)))
    swin = softmax(rng.normal(size=(32, 4, 49, 49)))
    funnel = softmax(rng.normal(size=(2, 4, 32, 64)))
    real = {"attention_mask": torch.ones(2, 64, dtype=torch.int64)}
    for array in (longformer, swin, funnel):
        silent({"attentions.0": torch.from_numpy(array).to(DTYPES[dtype])} | real)
        silent({"attentions.0": torch.from_numpy(array).to(DTYPES[dtype])})


@dtypes
def test_static_caches(dtype):
    """A prefill with empty slots at the end, and decode steps whose cache is longer than what is filled."""
    slots = np.arange(32)
    prefill = np.broadcast_to(slots <= np.arange(10)[:, None], (2, 2, 10, 32))
    step = np.broadcast_to(slots <= 17, (2, 2, 1, 32))
    silent({"attentions.0": weights((2, 2, 10, 32), prefill, dtype)})
    silent({"attentions.0": weights((2, 2, 1, 32), step, dtype)})
    silent({"attentions.0": weights((2, 2, 1, 32), step, dtype)} | {"attention_mask": torch.from_numpy((slots <= 17)[None].repeat(2, 0).astype(int))}, "causal")  # fmt: skip
    silent({"attentions.0": weights((2, 2, 10, 32), prefill, dtype)} | mask_of(np.ones((2, 10), bool)))


@dtypes
def test_weights_averaged_over_heads_and_without_a_batch(dtype):
    real = padding((3, 4, 12, 12), "right")
    keep = causal((3, 4, 12, 12)) & real[:, None, None]
    mean = weights((3, 4, 12, 12), keep).mean(1).to(DTYPES[dtype])
    silent({"attentions.0": mean} | mask_of(real), "causal")
    one = weights((1, 4, 12, 12), causal((1, 4, 12, 12)), dtype)[0]
    silent({"attentions.0": one}, "causal")
    wrong = weights((3, 4, 12, 12), np.ones((12, 12), bool)).mean(1).to(DTYPES[dtype])
    assert loud(report({"attentions.0": wrong} | mask_of(real))) == ["MSK202"]


def test_the_real_healthy_capture_is_silent():
    for declared in (Declared(), Declared(pad_id=0), Declared(pad_id=0, exact=True)):
        assert diagnose(open_tensors("tests/data/minilm_attn.safetensors"), declared).findings == ()


def test_the_same_model_without_its_mask():
    found = diagnose(open_tensors("tests/data/minilm_attn_nomask.safetensors"), Declared(pad_id=0))
    assert [finding.code for finding in found.findings] == ["MSK202"]
    finding = the(found, "MSK202")
    assert finding.tensors == tuple(f"attentions.{n}" for n in range(6))
    assert [(place.batch, place.keys) for place in finding.places] == [
        ((0,), ((12, 26),)),
        ((1,), ((8, 26),)),
    ]
    assert (
        0.14
        < finding.evidence["padding_mass_lowest_layer"]
        < finding.evidence["padding_mass_highest_layer"]
        < 0.47
    )


@dtypes
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_static_cache_prefill_with_padding(dtype, side):
    """The padding mask is as long as the prompt, the keys as long as the cache; padding queries are fully masked."""
    queries, keys = 12, 20
    real = padding((3, 2, queries, queries), side)
    whole = np.pad(real, ((0, 0), (0, keys - queries)))
    keep = (np.arange(keys) <= np.arange(queries)[:, None]) & whole[:, None, None]
    arrays = layers((3, 2, queries, keys), keep, dtype)
    silent(arrays | mask_of(real), "causal")
    silent(arrays | mask_of(real) | {"attn_mask": torch.from_numpy(np.where(keep, 0, -1e30))}, "causal")
    # Without word of the padding: the rows that are fully masked are those whose own key nobody sees.
    silent(arrays)
    silent(arrays | {"attn_mask": torch.from_numpy(np.where(keep, 0, -1e30))})


@dtypes
def test_boolean_masks_whose_polarity_only_the_weights_tell(dtype):
    real = padding((2, 4, 1, 9), "left")
    step = weights((2, 4, 1, 9), np.ones((2, 1, 1, 9), bool), dtype)
    silent({"attentions.0": step, "attn_mask": torch.zeros(2, 1, 1, 9, dtype=torch.bool)})
    padded = weights((2, 4, 1, 9), real[:, None, None], dtype)
    for polarity in (real, ~real):
        silent({"attentions.0": padded, "attn_mask": torch.from_numpy(polarity[:, None, None])})


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("scale", [1e-3, 1.0, 4.0, 16.0])
@pytest.mark.parametrize("shape", [(3, 4, 1, 13), (3, 4, 1, 40), (2, 4, 40, 40)])
def test_a_sink_of_zero_at_any_sharpness(dtype, scale, shape):
    raw = np.random.default_rng(0).normal(size=(*shape[:3], shape[3] + 1), scale=scale)
    raw[..., -1] = 0
    raw[..., :-1] = np.where(causal(shape), raw[..., :-1], -1e30)
    silent({"attentions.0": torch.from_numpy(softmax(raw)[..., :-1]).to(DTYPES[dtype])}, "causal")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scores_too_close_for_sixteen_bits_in_one_layer(dtype):
    shape = (2, 2, 12, 12)
    close = torch.from_numpy(softmax(scores(shape, scale=1e-4))).to(DTYPES[dtype])
    silent({"attentions.0": close, "attentions.1": weights(shape, np.ones(shape, bool), dtype, 1), "attentions.2": weights(shape, np.ones(shape, bool), dtype, 2)})  # fmt: skip


def test_the_state_of_a_linear_layer_among_the_maps_is_passed_over():
    arrays = layers((3, 4, 12, 12), causal((3, 4, 12, 12))) | {
        "attentions.2": torch.from_numpy(scores((3, 4, 8, 8)))
    }
    found = report(arrays)
    assert found.findings == ()
    assert set(found.unfit) == {"attentions.2"}
    # Two of a size are maps, if sick ones.
    found = report(arrays | {"attentions.3": torch.from_numpy(scores((3, 4, 8, 8), 1))})
    assert not found.unfit
    assert "MSK216" in loud(found)
