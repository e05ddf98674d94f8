"""Every rule on weights fires on its bug, at the right place, alone; over shapes, dtypes and padding sides."""

import numpy as np
import pytest
import torch
import transformers

from tests.diagnostics.attention import (
    DTYPES,
    GRID,
    SHAPES,
    causal,
    layers,
    loud,
    padding,
    report,
    scores,
    softmax,
    the,
    weights,
)  # fmt: skip

grid = pytest.mark.parametrize(("shape", "dtype", "side"), GRID)
dtypes = pytest.mark.parametrize("dtype", list(DTYPES))


def mask_of(real):
    return {"attention_mask": torch.from_numpy(real.astype(np.int64))}


grid_without_padding_queries = pytest.mark.parametrize(
    # One query behind right padding is itself a padding query, of which nothing is said.
    ("shape", "dtype", "side"),
    [(shape, dtype, side) for shape, dtype, side in GRID if shape[2] > 1 or side == "left"],
)


def padded_items(real):
    return tuple(np.flatnonzero(~real.all(1)).tolist())


def batch_of(finding, count):
    return tuple(range(count)) if finding.where.batch is None else finding.where.batch


def pads_of(finding, real):
    """The keys that the finding names, item by item, as a boolean array."""
    keys = np.zeros(real.shape, bool)
    for place in finding.places or (finding.where,):
        for item in range(len(real)) if place.batch is None else place.batch:
            for start, stop in place.keys:
                keys[item, start:stop] = True
    return keys


@pytest.mark.combinations
@grid_without_padding_queries
def test_padding_attended_names_the_samples_and_keys(shape, dtype, side):
    real = padding(shape, side)
    found = report(layers(shape, np.ones(shape, bool), dtype) | mask_of(real))
    assert loud(found) == ["MSK202"]
    finding = the(found, "MSK202")
    assert batch_of(finding, shape[0]) == padded_items(real)
    assert np.array_equal(pads_of(finding, real), ~real)
    assert finding.tensors == ("attentions.0", "attentions.1")


def test_the_numbers_of_padding_attended_are_right():
    shape = (2, 3, 9, 9)
    real = padding(shape, "right")
    arrays = layers(shape, np.ones(shape, bool))
    means = [
        float((w.double().numpy() * ~real[:, None, None])[0][:, real[0]].sum(-1).mean())
        for w in arrays.values()
    ]
    evidence = the(report(arrays | mask_of(real)), "MSK202").evidence
    assert evidence["padding_mass_lowest_layer"] == pytest.approx(min(means), rel=1e-5)
    assert evidence["padding_mass_highest_layer"] == pytest.approx(max(means), rel=1e-5)


@pytest.mark.combinations
@grid
def test_padding_attended_under_a_causal_mask_needs_padding_on_the_left(shape, dtype, side):
    real = padding(shape, side)
    found = report(layers(shape, causal(shape), dtype) | mask_of(real))
    assert loud(found) == (["MSK202"] if side == "left" else [])


@pytest.mark.combinations
@grid_without_padding_queries
def test_padding_from_ids_and_a_pad_id(shape, dtype, side):
    real = padding(shape, side)
    ids = torch.from_numpy(np.where(real, 7, 0))
    assert loud(report(layers(shape, np.ones(shape, bool), dtype) | {"input_ids": ids}, pad_id=0)) == [
        "MSK202"
    ]


@pytest.mark.combinations
@grid_without_padding_queries
def test_inverted_padding(shape, dtype, side):
    real = padding(shape, side)
    found = report(layers(shape, ~real[:, None, None], dtype) | mask_of(real))
    assert loud(found) == ["MSK201"]
    assert the(found, "MSK201").evidence["violation_if_inverted"] < 0.05
    assert set(padded_items(real)) <= set(batch_of(the(found, "MSK201"), shape[0]))


@pytest.mark.parametrize("fill", [-1e30, -np.inf])
@pytest.mark.parametrize("side", ["left", "right"])
def test_inverted_padding_under_a_causal_mask(side, fill):
    """Right padding leaves most rows empty: uniform or NaN there, and only the padding rows show the inverse."""
    shape = (3, 4, 12, 12)
    real = padding(shape, side)
    found = report(layers(shape, causal(shape) & ~real[:, None, None], fill=fill) | mask_of(real))
    assert loud(found) == ["MSK201"]


@dtypes
def test_inverted_causal_mask(dtype):
    shape = (2, 2, 10, 10)
    found = report(layers(shape, ~causal(shape), dtype), expect="causal")
    assert loud(found) == ["MSK201"]
    mask = torch.from_numpy(np.where(causal(shape), 0.0, -np.inf).astype(np.float32))
    assert loud(report(layers(shape, ~causal(shape), dtype) | {"attn_mask": mask})) == ["MSK201"]


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[2] > 1])
@dtypes
def test_future_attended(shape, dtype):
    found = report(layers(shape, np.ones(shape, bool), dtype), expect="causal")
    assert loud(found) == ["MSK203"]
    finding = the(found, "MSK203")
    assert finding.where.keys[-1][1] == shape[3]
    assert finding.where.keys[0][0] == shape[3] - shape[2] + 1
    mask = torch.from_numpy(np.broadcast_to(causal(shape), shape[2:]).copy())
    assert loud(report(layers(shape, np.ones(shape, bool), dtype) | {"attn_mask": mask})) == ["MSK203"]


def test_one_head_that_looks_ahead_is_accused_only_when_causal_was_declared():
    shape = (1, 4, 9, 9)
    keep = np.broadcast_to(causal(shape), shape).copy()
    keep[:, 2] = True
    mask = {"attn_mask": torch.from_numpy(causal(shape))}
    assert loud(report(layers(shape, keep) | mask)) == []
    found = report(layers(shape, keep) | mask, expect="causal")
    assert loud(found) == ["MSK203"]
    assert the(found, "MSK203").where.heads == (2,)


def test_one_layer_is_accused_only_when_it_was_declared():
    shape = (1, 2, 9, 9)
    arrays = {
        "attentions.0": weights(shape, causal(shape)),
        "attentions.1": weights(shape, np.ones(shape, bool)),
    }
    assert loud(report(arrays | {"attn_mask": torch.from_numpy(causal(shape))})) == []
    found = report(arrays, expect="causal")
    assert the(found, "MSK203").tensors == ("attentions.1",)
    assert loud(report(arrays, expect=["causal", "attentions.1=full"])) == []


@dtypes
def test_a_mask_that_was_not_applied(dtype):
    shape = (2, 2, 12, 12)
    rng = np.random.default_rng(3)
    keep = (rng.random((2, 1, 12, 12)) < 0.5) | np.eye(12, dtype=bool)
    arrays = layers(shape, np.ones(shape, bool), dtype) | {
        "attn_mask": torch.from_numpy(np.where(keep, 0, -1e9).astype(np.float32))
    }
    found = report(arrays)
    assert loud(found) == ["MSK204"]
    assert "no mask at all" in the(found, "MSK204").message
    arrays = layers(shape, causal(shape), dtype) | {
        "attn_mask": torch.from_numpy(np.where(keep, 0, -1e9).astype(np.float32))
    }
    assert "a causal mask" in the(report(arrays), "MSK204").message


def test_neither_half_of_a_combined_mask_applied_is_one_finding():
    shape = (2, 2, 9, 9)
    real = padding(shape, "right")
    keep = causal(shape) & real[:, None, None]
    arrays = layers(shape, np.ones(shape, bool)) | mask_of(real)
    assert loud(report(arrays | {"attn_mask": torch.from_numpy(np.where(keep, 0.0, -1e9))})) == ["MSK204"]


def test_a_window_that_was_declared_and_not_kept():
    shape = (1, 2, 16, 16)
    found = report(layers(shape, causal(shape)), expect="causal & sliding:4")
    assert loud(found) == ["MSK213"]
    assert "up to 16 keys" in the(found, "MSK213").message


@pytest.mark.parametrize("leak", [1e-30, 1e-8, 5e-5])
def test_exact_wants_exactly_zero(leak):
    shape = (1, 2, 6, 6)
    array = weights(shape, causal(shape)).double().numpy()
    array[0, 1, 2, 4] = leak
    assert loud(report({"attentions.0": array}, expect="causal", exact=True)) == ["MSK204"]
    assert loud(report({"attentions.0": weights(shape, causal(shape))}, expect="causal", exact=True)) == []


@pytest.mark.combinations
@grid
def test_a_fully_masked_real_row(shape, dtype, side):
    if shape[2] < 5:
        return
    real = padding(shape, side)
    keep = np.broadcast_to(causal(shape) & real[:, None, None], shape).copy()
    # A real row of an item without padding (or the first real row of a single one) loses every key.
    item, row = shape[0] - 1, shape[2] // 2
    keep[item, :, row] = False
    found = report(layers(shape, keep, dtype) | mask_of(real))
    assert loud(found) == ["MSK205"]
    finding = the(found, "MSK205")
    assert finding.where.queries == ((row, row + 1),)
    assert batch_of(finding, shape[0]) == (item,)


@dtypes
@pytest.mark.parametrize("expect", [(), "causal"])
def test_uniform_attention(dtype, expect):
    shape = (2, 2, 24, 24)
    zero = np.where(causal(shape), 0.0, -1e30) + np.zeros(shape)
    found = report({"attentions.0": torch.from_numpy(softmax(zero)).to(DTYPES[dtype])}, expect=expect)
    assert loud(found) == ["MSK206"]
    everything = torch.full(shape, 1 / 24).to(DTYPES[dtype])
    assert loud(report({"attentions.0": everything}, expect=expect)) == ["MSK206"]
    assert (
        "forbidden ones too" in the(report({"attentions.0": everything}, expect="causal"), "MSK206").message
    )


@dtypes
@pytest.mark.parametrize("factor", [0.5, 0.9, 2.0])
def test_rows_that_sum_to_another_constant(dtype, factor):
    shape = (2, 2, 16, 16)
    scaled = {
        f"attentions.{n}": (weights(shape, causal(shape), "float32", n) * factor).to(DTYPES[dtype])
        for n in range(2)
    }
    found = report(scaled)
    assert "MSK207" in loud(found)
    assert the(found, "MSK207").evidence["lowest_sum"] == pytest.approx(factor, rel=0.02)


@dtypes
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mask_after_the_softmax_where_no_row_sees_every_key(dtype, side):
    """Its sums are those of a sink or of a sigmoid too, and are told whatever is beside the weights."""
    shape = (3, 2, 24, 24)
    real = padding(shape, side)
    real[-1, 0 if side == "left" else -1] = False
    keep = real[:, None, None] & real[:, None, :, None]
    cut = {"attentions.0": torch.from_numpy(softmax(scores(shape)) * keep).to(DTYPES[dtype])}
    for beside in ({}, mask_of(real), mask_of(real) | {"scores.0": scores(shape)}):
        assert [
            finding.code for finding in report(cut | beside).findings if finding.code in ("MSK207", "MSK209")
        ]
    (note,) = report(cut | mask_of(real)).findings
    assert (note.code, note.severity) == ("MSK207", "note")
    assert 0 < note.evidence["lowest_sum"] < note.evidence["median_sum"] < 1
    assert "a mask multiplied in after the softmax" in note.message
    assert "scores" in note.fix


@dtypes
def test_sums_below_one_by_design_are_a_note_and_softmax_and_dropout_are_none(dtype):
    shape = (2, 2, 24, 24)
    sink = np.concatenate([scores(shape), np.ones((*shape[:3], 1))], axis=-1)
    found = report({"attentions.0": torch.from_numpy(softmax(sink)[..., :-1]).to(DTYPES[dtype])})
    assert [(finding.code, finding.severity) for finding in found.findings] == [("MSK207", "note")]
    whole = softmax(scores(shape))
    kept = np.random.default_rng(1).random(shape) < 0.9
    for healthy in (whole, whole * kept / 0.9):
        found = report({"attentions.0": torch.from_numpy(healthy).to(DTYPES[dtype])})
        assert "MSK207" not in [finding.code for finding in found.findings]


def test_a_few_rows_that_do_not_sum_to_one():
    array = weights((1, 2, 16, 16), causal((1, 2, 16, 16)))
    array[0, :, 5] *= 0.7
    found = report({"attentions.0": array})
    assert loud(found) == ["MSK207"]
    assert the(found, "MSK207").where.queries == ((5, 6),)


@dtypes
@pytest.mark.parametrize(("axis", "word"), [(2, "queries"), (1, "heads"), (0, "batch")])
def test_softmax_over_another_axis(dtype, axis, word):
    shape = (3, 4, 20, 20)
    moved = np.moveaxis(softmax(np.moveaxis(scores(shape), axis, -1)), -1, axis)
    found = report({"attentions.0": torch.from_numpy(moved).to(DTYPES[dtype])})
    assert loud(found) == ["MSK208"]
    assert word in the(found, "MSK208").message


@dtypes
def test_scores_saved_as_weights(dtype):
    shape = (2, 2, 16, 16)
    raw = torch.from_numpy(scores(shape)).to(DTYPES[dtype])
    assert loud(report({"attentions.0": raw})) == ["MSK216"]
    masked = torch.from_numpy(np.where(causal(shape), scores(shape), -np.inf)).to(DTYPES[dtype])
    assert loud(report({"attentions.0": masked})) == ["MSK216"]
    exponents = torch.from_numpy(np.exp(scores(shape, scale=0.5))).to(DTYPES[dtype])
    assert "MSK216" in loud(report({"attentions.0": exponents}))


@dtypes
@pytest.mark.parametrize("sick", [(0,), (1,), (0, 1)])
def test_maps_of_zeros(dtype, sick):
    shape = (2, 3, 12, 12)
    real = padding(shape, "left")
    arrays = layers(shape, causal(shape) & real[:, None, None], dtype)
    for layer in sick:
        arrays[f"attentions.{layer}"] *= 0
    for extra, declared in (({}, {}), (mask_of(real), {}), (mask_of(real), {"expect": "causal"})):
        found = report(arrays | extra, **declared)
        assert loud(found) == ["MSK207"]
        assert the(found, "MSK207").tensors == tuple(f"attentions.{layer}" for layer in sick)
    # One sample of them; without a mask it may be all padding.
    arrays = layers(shape, causal(shape) & real[:, None, None], dtype)
    for array in arrays.values():
        array[1] = 0
    assert loud(report(arrays)) == []
    assert the(report(arrays | mask_of(real)), "MSK207").where.batch == (1,)
    real[1] = False
    assert loud(report(arrays | mask_of(real))) == []
    # A pruned head, and a source that is all padding, leave zeros too.
    pruned = layers(shape, causal(shape), dtype)
    pruned["attentions.1"][:, 1] = 0
    assert loud(report(pruned)) == []
    nobody = {"cross_attentions.0": torch.zeros(1, 2, 4, 6), "attention_mask": torch.zeros(1, 6).long()}
    assert "MSK207" not in loud(report(nobody))


# Designs whose weights are below 0 or above 1


def signed(shape, keep, seed):
    raw = scores(shape, seed)
    return np.sign(raw) * softmax(np.where(keep, np.abs(raw), -1e30))


def talking(shape, keep, seed):
    mixing = np.random.default_rng(seed).normal(size=(shape[1], shape[1]))
    return np.einsum("gh,bhqk->bgqk", mixing, softmax(np.where(keep, scores(shape, seed), -1e30)))


def differential(shape, keep, seed):
    first, second = (softmax(np.where(keep, scores(shape, seed + n), -1e30)) for n in (0, 50))
    return first - 0.8 * second


DESIGNS = {"talking heads": talking, "differential": differential, "signed": signed}


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("side", ["left", "right", None])
@pytest.mark.parametrize("ahead", [False, True])
def test_weights_with_a_sign_by_design_are_a_warning(dtype, design, side, ahead):
    shape = (2, 4, 16, 16)
    real = np.ones((2, 16), bool) if side is None else padding(shape, side)
    keep = (causal(shape) | ahead) & real[:, None, None]
    arrays = {
        f"attentions.{n}": torch.from_numpy(DESIGNS[design](shape, keep, n)).to(DTYPES[dtype])
        for n in range(2)
    }
    found = report(arrays | (mask_of(real) if side else {}))
    assert loud(found) == ["MSK216"]
    assert the(found, "MSK216").severity == "warning"
    assert design in the(found, "MSK216").message


@dtypes
def test_scores_that_are_centred_are_scores(dtype):
    shape = (2, 4, 16, 16)
    raw = scores(shape) - scores(shape).mean(-1, keepdims=True)
    found = report({"attentions.0": torch.from_numpy(raw).to(DTYPES[dtype])})
    assert the(found, "MSK216").severity == "error"


@pytest.mark.parametrize(("fading", "codes"), [(0, ["MSK207"]), (1, ["MSK207"]), (12, [])])
def test_sums_that_fade_into_1_are_those_of_a_weak_sink(fading, codes):
    """More than a tenth as many rows between 1 and the 20 odd ones as there are odd ones."""
    made = weights((1, 2, 64, 64), np.ones((64, 64), bool)).clone()
    made[0, 0, :20] *= 0.97
    made[0, 1, :fading] *= 1 - 2e-5
    found = report({"attentions.0": made})
    assert loud(found) == codes
    assert not codes or "sum to 0.97 to 0.97, all others to 1" in the(found, "MSK207").message


def test_the_correlations_of_autoformer():
    config = transformers.AutoformerConfig(
        prediction_length=8, context_length=16, d_model=32, encoder_layers=2, decoder_layers=2, label_length=4,
        encoder_attention_heads=4, decoder_attention_heads=4, lags_sequence=[1, 2, 3], num_time_features=1,
        encoder_ffn_dim=32, decoder_ffn_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoformerModel(config).eval()
    with torch.no_grad():
        out = model(
            past_values=torch.randn(3, 19), past_time_features=torch.randn(3, 19, 1),
            past_observed_mask=torch.ones(3, 19), future_values=torch.randn(3, 8),
            future_time_features=torch.randn(3, 8, 1), output_attentions=True,
        )  # fmt: skip
    sides = ("encoder_attentions", "decoder_attentions", "cross_attentions")
    found = report({f"{side}.{n}": each for side in sides for n, each in enumerate(out[side])})
    assert [(each.code, each.severity) for each in found.findings] == [("MSK216", "warning")]
    assert "Autoformer" in found.findings[0].message


# Weights of eight bits


@pytest.mark.combinations
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize(
    "shape", [(3, 2, 12, 12), (2, 3, 1, 16), (1, 1, 80, 80), (1, 2, 300, 300), (1, 1, 700, 700)]
)
@pytest.mark.parametrize("scale", [0.05, 1, 3])
@pytest.mark.parametrize("ahead", [False, True])
def test_healthy_weights_of_eight_bits(dtype, shape, scale, ahead):
    """Equal weights of 700 keys come to 1.37 in e4m3; of half of that, the row above it, to 0.9."""
    real = padding(shape, "left")
    keep = (causal(shape) | ahead) & real[:, None, None]
    arrays = {
        f"attentions.{n}": torch.from_numpy(softmax(np.where(keep, scale * scores(shape, n), -1e30))).to(
            dtype
        )
        for n in range(2)
    }
    for extra, expect in (({}, ()), (mask_of(real), ()), (mask_of(real), "full" if ahead else "causal")):
        assert loud(report(arrays | extra, expect=expect)) == []


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("shape", [(3, 2, 12, 12), (1, 1, 80, 80)])
def test_sick_weights_of_eight_bits(dtype, shape):
    real = padding(shape, "left")
    good, bad = (softmax(np.where(keep, scores(shape), -1e30)) for keep in (causal(shape), np.ones(shape)))
    sick = {
        "MSK207": (good * 0.5, {}, ()),
        "MSK203": (bad, {}, "causal"),
        "MSK202": (good, mask_of(real), ()),
        "MSK216": (scores(shape), {}, ()),
    }
    for code, (values, extra, expect) in sick.items():
        arrays = {"attentions.0": torch.from_numpy(values).to(dtype)} | extra
        assert loud(report(arrays, expect=expect)) == [code]


def windowed(shape, size=4):
    p = np.arange(shape[2])[:, None]
    return causal(shape) & (p - np.arange(shape[3]) < size)


@dtypes
@pytest.mark.parametrize("side", ["left", "right"])
def test_inverted_padding_in_local_layers(dtype, side):
    """The window empties rows too; they must not hide that the others read only padding."""
    shape = (3, 2, 16, 16)
    real = padding(shape, side)
    real[0, slice(0, 6) if side == "left" else slice(10, 16)] = False
    found = report(layers(shape, windowed(shape) & ~real[:, None, None], dtype) | mask_of(real))
    assert loud(found) == ["MSK201"]


def test_layers_with_different_masks_that_were_both_dropped():
    shape = (2, 2, 16, 16)
    arrays = layers(shape, np.ones(shape, bool)) | {
        "attn_mask.0": torch.from_numpy(np.where(windowed(shape), 0, -1e30)),
        "attn_mask.1": torch.from_numpy(np.where(causal(shape), 0, -1e30)),
    }
    assert loud(report(arrays)) == ["MSK203", "MSK204"]


@pytest.mark.parametrize("expect", [(), "causal"])
def test_a_mask_of_the_wrong_type_has_one_cause_with_and_without_a_declaration(expect):
    shape = (3, 2, 12, 12)
    real = padding(shape, "left")
    keep = causal(shape) & real[:, None, None]
    arrays = layers(shape, np.ones(shape, bool)) | mask_of(real)
    assert loud(report(arrays | {"attn_mask": torch.from_numpy(keep.astype(np.float32))}, expect=expect)) == [
        "MSK103"
    ]
    assert loud(report(arrays | {"attn_mask": torch.from_numpy(keep)}, expect=expect)) == ["MSK204"]
