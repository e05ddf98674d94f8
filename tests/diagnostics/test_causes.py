"""Leaks with a cause of their own are called by it, alone and at the right place; their healthy likenesses are silent."""

import numpy as np
import pytest
import torch

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
sides = pytest.mark.parametrize("side", ["left", "right"])
grid = pytest.mark.parametrize(("shape", "dtype", "side"), GRID)
BIG = (3, 4, 24, 24)


def mask_of(real):
    return {"attention_mask": torch.from_numpy(real.astype(np.int64))}


def to(values, dtype):
    return torch.from_numpy(values).to(DTYPES[dtype])


# MSK210


@dtypes
@sides
@pytest.mark.parametrize("look", ["causal", "full"])
def test_a_product_with_the_mask_gives_every_forbidden_key_the_same_weight(dtype, side, look):
    real = padding(BIG, side)
    keep = np.broadcast_to(real[:, None, None] & (causal(BIG) if look == "causal" else True), BIG)
    arrays = {f"attentions.{n}": to(softmax(scores(BIG, n) * keep), dtype) for n in range(2)}
    found = report(arrays | mask_of(real), expect=look)
    # Padding tokens may all have one and the same key, but its score wanders: 0 keeps its place among the others.
    assert loud(found) == ["MSK210"]
    assert the(found, "MSK210").evidence["constant_weight"] > 0


@dtypes
@pytest.mark.parametrize("fill", [-5, -6])
def test_a_constant_fill_is_named_as_one_way_to_equal_weights(dtype, fill):
    """Scores that were filled, as masked_fill(mask == 0, -5) does, without the mask that says so."""
    real = padding(BIG, "right")
    filled = np.where(real[:, None, None], scores(BIG), fill)
    found = report({"attentions.0": to(softmax(filled), dtype)} | mask_of(real))
    finding = the(found, "MSK210")
    assert ("a fill that is too small" in finding.message) or ("cannot silence a key" in finding.message)
    assert "multiplied by 0" not in finding.message


@dtypes
@sides
@pytest.mark.parametrize("fill", [-4.0, -6.0])
def test_a_weak_fill_leaves_every_head_a_little(dtype, side, fill):
    real = padding(BIG, side)
    arrays = {
        f"attentions.{n}": to(softmax(scores(BIG, n, 0.2) + fill * ~real[:, None, None]), dtype)
        for n in range(2)
    }
    found = report(arrays | mask_of(real))
    assert loud(found) == ["MSK210"]
    finding = the(found, "MSK210")
    assert finding.evidence["ratio"] == pytest.approx(np.exp(fill), rel=0.5)
    assert finding.where.batch == tuple(np.flatnonzero(~real.all(1)))


@dtypes
@pytest.mark.parametrize(("added", "kept"), [(0.0, 1.0), (-3.0, 0.0)])
def test_saved_scores_tell_what_was_added(dtype, added, kept):
    real = padding(BIG, "right")
    raw = scores(BIG)
    bias = np.where(real[:, None, None], kept, added)
    arrays = {"attentions.0": to(softmax(raw + bias), dtype), "scores.0": to(raw, "float32")} | mask_of(real)
    found = report(arrays)
    assert loud(found) == ["MSK210"]
    assert the(found, "MSK210").evidence["implied_bias"] == pytest.approx(added - kept, abs=0.1)


@dtypes
def test_scores_that_were_not_masked_at_all_are_no_soft_mask(dtype):
    real = padding(BIG, "right")
    arrays = {
        "attentions.0": to(softmax(scores(BIG)), dtype),
        "scores.0": to(scores(BIG), "float32"),
    } | mask_of(real)
    assert loud(report(arrays)) == ["MSK202"]


# MSK211


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("shape", "dtype", "side"),
    [each for each in GRID if each[0][0] > 1 and each[0][1] > 1 and each[0][2] > 1],
)
@pytest.mark.parametrize("order", ["repeat", "rolled", "reversed"])
def test_masks_of_other_samples(shape, dtype, side, order):
    batch, heads = shape[:2]
    real = padding(shape, side)
    b, h = np.arange(batch)[:, None], np.arange(heads)[None]
    other = {"repeat": (b * heads + h) % batch, "rolled": np.broadcast_to((b + 1) % batch, (batch, heads)), "reversed": np.broadcast_to(batch - 1 - b, (batch, heads))}[order]  # fmt: skip
    keep = real[other][:, :, None]
    found = report(layers(shape, keep, dtype) | mask_of(real))
    assert loud(found) == ["MSK211"]
    finding = the(found, "MSK211")
    wrong = {
        item
        for item in range(batch)
        for head in range(heads)
        if (~real[item] & real[other[item, head]]).any()
    }
    assert set(range(batch) if finding.where.batch is None else finding.where.batch) == wrong


@pytest.mark.combinations
@grid
def test_no_mask_is_not_another_samples_mask(shape, dtype, side):
    real = padding(shape, side)
    codes = loud(report(layers(shape, np.ones(shape, bool), dtype) | mask_of(real)))
    assert codes in (["MSK202"], []), "one query behind right padding is padding itself"


# MSK212


@dtypes
@pytest.mark.parametrize("look", ["causal", "full"])
@pytest.mark.parametrize("masked", ["once", "twice"])
def test_a_softmax_of_a_softmax(dtype, look, masked):
    shape = (2, 3, 40, 40)
    keep = np.broadcast_to(causal(shape) if look == "causal" else np.ones((40, 40), bool), shape)
    once = softmax(np.where(keep, scores(shape, scale=6.0), -1e30))
    twice = softmax(np.where(keep, once, -1e30) if masked == "twice" else once)
    found = report({f"attentions.{n}": to(twice, dtype) for n in range(2)})
    assert loud(found) == ["MSK212"]
    assert the(found, "MSK212").tensors == ("attentions.0", "attentions.1")
    assert loud(report({"attentions.0": to(twice, dtype)}, expect=look)) == ["MSK212"]


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("scale", [0.005, 0.02, 0.2, 1.0, 2.0, 4.0])
def test_flat_attention_is_no_softmax_of_a_softmax(dtype, scale):
    for keys in (12, 40, 300):
        shape = (2, 3, 12, keys)
        assert loud(report({"attentions.0": to(softmax(scores(shape, scale=scale)), dtype)})) == []
    for seed in range(8):
        shape = (3, 4, 6 + seed % 4, 6 + seed % 4)
        w = softmax(np.where(causal(shape), scores(shape, seed, scale), -1e30))
        assert loud(report({"attentions.0": to(w, dtype)})) == []


# MSK219


@dtypes
@pytest.mark.parametrize("queries", [1, 6])
@pytest.mark.parametrize("saved_mask", [False, True])
def test_empty_cache_slots(dtype, queries, saved_mask):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 4, queries, 8)), rng.normal(size=(2, 4, 20, 8))
    k[:, :, 13:] = 0
    w = softmax(q @ k.transpose(0, 1, 3, 2))
    arrays = {"attentions.0": to(w, dtype), "key.0": to(k, dtype)}
    if saved_mask:
        arrays |= {"attention_mask": (torch.arange(20) < 13).long().expand(2, 20)}
    found = report(arrays)
    assert loud(found) == ["MSK219"]
    finding = the(found, "MSK219")
    assert finding.evidence["filled"] == 13
    assert finding.where.keys == ((13, 20),)
    assert finding.evidence["mass_lowest_layer"] == pytest.approx(w[..., 13:].sum(-1).mean(), rel=0.05)
    healthy = softmax(np.where(np.arange(20) < 13, q @ k.transpose(0, 1, 3, 2), -1e30))
    assert loud(report(arrays | {"attentions.0": to(healthy, dtype)})) == []


# MSK220


@dtypes
@pytest.mark.parametrize("lengths", [(9, 20), (16, 16)])
@pytest.mark.parametrize("wrong", ["target", "none"])
def test_cross_attention_with_the_wrong_padding(dtype, lengths, wrong):
    targets, sources = lengths
    source, target = np.ones((2, sources), bool), np.ones((2, targets), bool)
    source[0, sources - 5 :] = False
    target[1, targets - 2 :] = False
    keep = np.ones((2, 1, 1, sources), bool)
    if wrong == "target" and targets == sources:
        keep = target[:, None, None]
    arrays = {
        "cross_attentions.0": weights((2, 2, targets, sources), keep, dtype),
        "encoder_attentions.0": weights((2, 2, sources, sources), source[:, None, None], dtype),
        "attention_mask": torch.from_numpy(source.astype(int)),
        "decoder_attention_mask": torch.from_numpy(target.astype(int)),
    }
    found = report(arrays)
    assert loud(found) == ["MSK220"]
    finding = the(found, "MSK220")
    assert (finding.where.batch, finding.where.keys) == ((0,), ((sources - 5, sources),))
    assert ("the target's padding" in finding.message) == (wrong == "target" and targets == sources)
    arrays["cross_attentions.0"] = weights((2, 2, targets, sources), source[:, None, None], dtype)
    assert loud(report(arrays)) == []


@dtypes
def test_cross_attention_to_the_first_key_alone_knows_no_order(dtype):
    shape = (2, 2, 1, 6)
    keep = np.arange(6) < 1
    arrays = {"cross_attentions.0": weights(shape, np.ones(shape, bool), dtype), "cross_attn_mask": torch.from_numpy(np.where(keep, 0.0, -1e30))[None, None, None]}  # fmt: skip
    assert loud(report(arrays)) == ["MSK204"]


# MSK217


def packed(lengths):
    documents = np.repeat(np.arange(len(lengths)), lengths)
    return documents[:, None] == documents, np.concatenate([np.arange(n) for n in lengths])


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("look", ["causal", "full"])
@pytest.mark.parametrize("told", ["position_ids", "cu_seqlens", "segment_ids"])
def test_documents_that_see_each_other(dtype, look, told):
    same, positions = packed([7, 11, 6])
    shape = (1, 4, 24, 24)
    facts = {
        "position_ids": torch.from_numpy(positions)[None],
        "cu_seqlens": torch.tensor([0, 7, 18, 24], dtype=torch.int32),
        "segment_ids": torch.from_numpy(np.repeat([0, 1, 2], [7, 11, 6]))[None],
    }[told]
    keep = causal(shape) if look == "causal" else np.ones((24, 24), bool)
    sick, healthy = (
        layers(shape, keep, dtype) | {told: facts},
        layers(shape, keep & same, dtype) | {told: facts},
    )
    found = report(sick)
    assert [(finding.code, finding.severity) for finding in found.findings] == [("MSK217", "note")]
    found = report(sick, expect=f"{look} & documents")
    assert loud(found) == ["MSK217"]
    finding = the(found, "MSK217")
    assert finding.where.queries == (((7, 24),) if look == "causal" else ((0, 24),))
    mass = np.array([(array.double().numpy() * ~same).sum(-1)[..., (7 if look == "causal" else 0) :].mean() for array in (sick["attentions.0"], sick["attentions.1"])])  # fmt: skip
    assert finding.evidence["mass_lowest_layer"] == pytest.approx(mass.min(), rel=0.05)
    for expect in ((), f"{look} & documents", look):
        assert report(healthy, expect=expect).findings == ()


# MSK209


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("evidence", ["nothing", "mask", "expect"])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_mask_behind_the_softmax(dtype, evidence, scale):
    shape = (2, 4, 24, 24)
    w = softmax(scores(shape, scale=scale)) * causal(shape)
    arrays = {f"attentions.{n}": to(w, dtype) for n in range(2)}
    arrays |= (
        {"attn_mask": torch.from_numpy(np.where(causal(shape), 0.0, -1e30))} if evidence == "mask" else {}
    )
    found = report(arrays, expect="causal" if evidence == "expect" else ())
    assert loud(found) == ["MSK209"]
    finding = the(found, "MSK209")
    assert finding.where.queries == ((0, 23),)
    assert finding.evidence["lowest_sum"] == pytest.approx(w.sum(-1)[..., :23].min(), abs=5e-3)


@dtypes
def test_a_mask_behind_the_softmax_when_no_query_may_see_every_key(dtype):
    real = padding(BIG, "right")
    real[2, 20:] = False
    raw = scores(BIG)
    arrays = {"attentions.0": to(softmax(raw) * real[:, None, None], dtype)} | mask_of(real)
    found = report(arrays)
    assert loud(found) == []
    assert (
        "scores, or a query of attentions.0" in next(s for s in found.skipped if s.code == "MSK209").needs[0]
    )
    assert loud(report(arrays | {"scores.0": torch.from_numpy(raw)})) == ["MSK209"]
    sink = softmax(
        np.concatenate([np.where(real[:, None, None], raw, -1e30), np.zeros((*BIG[:3], 1))], axis=3)
    )[..., :-1]
    assert (
        loud(report({"attentions.0": to(sink, dtype), "scores.0": torch.from_numpy(raw)} | mask_of(real)))
        == []
    )


@dtypes
@pytest.mark.parametrize("declared", ["", "causal"])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_padding_cut_off_behind_a_causal_softmax(dtype, declared, scale):
    real = padding(BIG, "left")
    w = {f"attentions.{n}": softmax(np.where(causal(BIG), scores(BIG, n, scale), -1e30)) for n in range(2)}
    sick = {name: to(values * real[:, None, None], dtype) for name, values in w.items()}
    found = report(sick | mask_of(real), expect=declared or ())
    assert loud(found) == ["MSK209"]
    what = "padding before them" if declared else "forbidden keys"
    assert f"have {what} and sum to" in the(found, "MSK209").message
    pads = ~real.all(axis=1)
    assert the(found, "MSK209").where.batch == tuple(np.flatnonzero(pads))
    lost = np.concatenate([(v * real[:, None, None]).sum(-1)[b][:, real[b]].ravel() for v in w.values() for b in np.flatnonzero(pads)])  # fmt: skip
    assert the(found, "MSK209").evidence["lowest_sum"] == pytest.approx(lost.min(), abs=1e-2)


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("declared", ["", "causal"])
@pytest.mark.parametrize("kind", ["masked rightly", "sink", "dropout"])
def test_sums_below_1_that_no_padding_explains(dtype, declared, kind):
    rng = np.random.default_rng(0)
    real = padding(BIG, "left")
    keep = causal(BIG) & real[:, None, None]
    raw = np.where(keep, scores(BIG), -1e30)
    if kind == "sink":
        w = softmax(np.concatenate([raw, np.zeros((*BIG[:3], 1))], axis=3))[..., :-1]
    else:
        w = softmax(raw)
    if kind == "dropout":
        w = w * (rng.random(w.shape) > 0.1) / 0.9
    found = report({"attentions.0": to(w, dtype)} | mask_of(real), expect=declared or ())
    assert "MSK209" not in {each.code for each in found.findings}


# MSK213, MSK214, MSK215, MSK218


def windowed(shape, size):
    p, k = np.arange(shape[2])[:, None] + shape[3] - shape[2], np.arange(shape[3])
    return (k <= p) & (p - k < size)


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (2, 3, 24, 24), (2, 2, 8, 30), (2, 4, 1, 40)])
@pytest.mark.parametrize(("real", "said"), [(6, 5), (9, 5), (40, 5)])
def test_windows_that_are_too_wide(dtype, shape, real, said):
    arrays = layers(shape, windowed(shape, real), dtype)
    found = report(arrays, expect=f"sliding:{said}")
    assert loud(found) == ["MSK213"]
    finding = the(found, "MSK213")
    assert finding.evidence["keys_seen"] == min(real, shape[3])
    assert loud(report(arrays, expect=f"attentions.0=sliding:{said}")) == ["MSK213"]


@pytest.mark.combinations
@dtypes
@sides
@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (2, 3, 24, 24), (2, 2, 8, 30)])
def test_windows_that_are_too_narrow(dtype, side, shape):
    real = padding(shape, side)
    arrays = layers(shape, windowed(shape, 4) & real[:, None, None], dtype) | mask_of(real)
    for expect in ("sliding:5", "causal & sliding:7", "attentions.*=causal"):
        found = report(arrays, expect=expect)
        assert loud(found) == ["MSK213"]
        assert the(found, "MSK213").evidence["keys_seen"] == 4
    for expect in ("sliding:4", "causal", ()):
        assert loud(report(arrays, expect=expect)) == []


def test_a_window_longer_than_the_text_cannot_be_told():
    shape = (1, 2, 8, 8)
    found = report(layers(shape, causal(shape)), expect="sliding:64")
    assert found.findings == ()
    assert "more than 64 keys" in next(s for s in found.skipped if s.code == "MSK213").needs[0]


@pytest.mark.combinations
@dtypes
@sides
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 4, 12, 12), (2, 2, 5, 17), (2, 2, 80, 80)])
def test_one_future_key(dtype, side, shape):
    real = padding(shape, side)
    p = np.arange(shape[2])[:, None] + shape[3] - shape[2]
    keep = (np.arange(shape[3]) <= p + 1) & real[:, None, None]
    found = report(layers(shape, keep, dtype) | mask_of(real), expect="causal")
    assert loud(found) == ["MSK214"]
    found = report(
        layers(shape, keep, dtype)
        | mask_of(real)
        | {"attn_mask": torch.from_numpy(np.where(causal(shape), 0.0, -1e30))}
    )
    assert loud(found) == ["MSK214"]


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 4, 12, 12), (2, 2, 80, 80)])
@pytest.mark.parametrize("first", ["uniform", "nan", "zero"])
def test_a_strict_diagonal(dtype, shape, first):
    strict = np.tril(np.ones(shape[2:], bool), -1)
    arrays = layers(shape, strict, dtype)
    for array in arrays.values():
        array[:, :, 0] = {"uniform": 1 / shape[3], "nan": np.nan, "zero": 0.0}[first]
    for expect in ((), "causal"):
        assert loud(report(arrays, expect=expect)) == ["MSK214"]


@pytest.mark.parametrize("read", ["its own", "all", "nothing"])
def test_a_strict_diagonal_behind_left_padding(read):
    """Whatever queries of padding read."""
    shape = (3, 2, 12, 12)
    real = padding(shape, "left")
    arrays = layers(shape, np.tril(np.ones((12, 12), bool), -1) & real[:, None, None])
    for array in arrays.values():
        for item, count in enumerate((~real).sum(axis=1)):
            array[item, :, :count] = {"its own": torch.eye(12)[:count], "all": 1 / 12, "nothing": 0.0}[read]
            array[item, :, count] = 1 / 12
    assert loud(report(arrays | mask_of(real))) == ["MSK214"]


@dtypes
def test_a_strict_diagonal_with_a_zero_slot_or_a_sink_is_healthy(dtype):
    strict = np.tril(np.ones((24, 24), bool), -1)
    raw = np.where(strict, scores((2, 3, 24, 24)), -1e30)
    slot = softmax(np.concatenate([np.zeros((2, 3, 24, 1)), raw], axis=3))
    assert loud(report({"attentions.0": to(slot, dtype)})) == []
    assert loud(report({"attentions.0": to(slot[..., 1:], dtype)})) == []


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("shape", [(1, 2, 5, 17), (2, 2, 5, 17), (2, 3, 1, 16)])
@pytest.mark.parametrize("told", ["past", "position_ids", "attention_mask"])
def test_causal_from_the_top_left_with_a_cache(dtype, shape, told):
    corner = np.arange(shape[3]) <= np.arange(shape[2])[:, None]
    arrays = layers(shape, corner, dtype)
    behind = shape[3] - shape[2]
    facts = {
        "past": {},
        "position_ids": {"position_ids": torch.arange(behind, shape[3]).expand(shape[0], -1)},
        "attention_mask": {"attention_mask": torch.ones(shape[0], shape[3], dtype=torch.long)},
    }[told]
    for expect in ((), "causal"):
        found = report(arrays | facts, expect=expect, past=behind if told == "past" else None)
        assert loud(found) == ["MSK215"]
        assert the(found, "MSK215").evidence["past"] == behind
    assert loud(report(layers(shape, causal(shape), dtype) | facts, expect="causal")) == []


@dtypes
def test_one_head_that_looks_only_at_the_first_key_is_a_sink(dtype):
    shape = (1, 3, 1, 16)
    w = weights(shape, np.ones(shape, bool), dtype)
    w[:, 1] = torch.nn.functional.one_hot(torch.tensor(0), 16).to(w.dtype)
    arrays = {
        "attentions.0": w,
        "attentions.1": torch.eye(16)[:1].expand(1, 3, 1, 16).to(w.dtype).contiguous(),
    }
    assert loud(report(arrays, past=15)) == []


@dtypes
@sides
def test_an_encoder_that_never_looks_ahead(dtype, side):
    real = padding(BIG, side)
    arrays = layers(BIG, causal(BIG) & real[:, None, None], dtype) | mask_of(real)
    found = report(arrays, expect="full")
    assert loud(found) == ["MSK218"]
    assert the(found, "MSK218").tensors == ("attentions.0", "attentions.1")
    assert loud(report(layers(BIG, real[:, None, None], dtype) | mask_of(real), expect="full")) == []


# MSK221, MSK306


def heads(shape, groups, seed=0):
    rng = np.random.default_rng(seed)
    batch, count, queries, keys = shape
    return (
        rng.normal(size=(batch, count, queries, 8)),
        rng.normal(size=(batch, groups, keys, 8)),
        rng.normal(size=(batch, groups, keys, 8)),
    )


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize(("count", "groups"), [(4, 2), (6, 3), (8, 2)])
@pytest.mark.parametrize("order", ["runs", "turns"])
def test_the_order_of_grouped_heads(dtype, count, groups, order):
    shape = (2, count, 12, 12)
    q, k, _ = heads(shape, groups)
    of = np.arange(count) // (count // groups) if order == "runs" else np.arange(count) % groups
    w = softmax(np.where(causal(shape), q @ k[:, of].transpose(0, 1, 3, 2) / np.sqrt(8), -1e30))
    arrays = {"attentions.0": to(w, dtype), "query.0": to(q, dtype), "key.0": to(k, dtype)}
    found = report(arrays)
    assert loud(found) == ([] if order == "runs" else ["MSK221"])
    if order == "turns":
        assert the(found, "MSK221").evidence == {"query_heads": count, "key_heads": groups}


@dtypes
def test_keys_that_were_saved_before_they_were_turned_say_nothing(dtype):
    shape = (2, 4, 12, 12)
    q, k, _ = heads(shape, 2)
    arrays = {
        "attentions.0": weights(shape, causal(shape), dtype),
        "query.0": to(q, dtype),
        "key.0": to(k, dtype),
    }
    assert loud(report(arrays)) == []


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("layout", ["hq", "qh"])
@sides
def test_weights_that_did_not_make_the_output(dtype, groups, layout, side):
    shape = (2, 4, 12, 12)
    _, _, v = heads(shape, groups)
    real = padding(shape, side)
    keep = causal(shape) & real[:, None, None]
    used, saved = weights(shape, keep, "float32"), weights(shape, keep, dtype, seed=9)
    values = to(v, dtype)
    output = used.double() @ values.double().repeat_interleave(4 // groups, 1)
    output = (output if layout == "hq" else output.transpose(1, 2).contiguous()).to(DTYPES[dtype])
    common = {"value.0": values, "attn_output.0": output} | mask_of(real)
    assert loud(report(common | {"attentions.0": saved})) == ["MSK306"]
    assert loud(report(common | {"attentions.0": used.to(DTYPES[dtype])})) == []
    joined = output.flatten(2) if layout == "qh" else output.transpose(1, 2).flatten(2)
    # With the heads joined as well, unless a projection came behind.
    found = report(common | {"attentions.0": saved, "attn_output.0": joined.contiguous()})
    assert loud(found) == ["MSK306"]
    projected = joined.float() @ torch.randn(joined.shape[2], joined.shape[2])
    found = report(common | {"attentions.0": saved, "attn_output.0": projected.to(DTYPES[dtype])})
    assert loud(found) == []
    assert "MSK306" in [skip.code for skip in found.skipped]


# MSK112, MSK113


def test_a_padding_mask_that_also_fits_the_queries():
    real = np.ones((5, 5), bool)
    real[0, 3:] = real[1, 2:] = real[3, 4:] = False
    found = report({"attn_mask": torch.from_numpy(real), "input_ids": torch.ones(5, 5, dtype=torch.long)})
    assert loud(found) == ["MSK112"]
    assert "5 samples of 5 queries" in the(found, "MSK112").message
    assert (
        loud(
            report(
                {"attn_mask": torch.ones(5, 5).tril().bool(), "input_ids": torch.ones(5, 5, dtype=torch.long)}
            )
        )
        == []
    )
    shape = (5, 2, 5, 5)
    for keep in (real[:, None, None], real[None, None]):
        arrays = {"attentions.0": weights(shape, keep), "attn_mask": torch.from_numpy(real)}
        assert "MSK112" not in loud(report(arrays))


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("kind", ["float", "bool"])
@pytest.mark.parametrize(("obeyed", "codes"), [("samples", []), ("heads", []), ("neither", ["MSK204"])])
def test_weights_that_settle_whose_axis_a_mask_has(obeyed, codes, kind, dtype):
    shape = (4, 4, 16, 16)
    at = np.arange(16)
    windows = np.stack([causal(shape) & (at[:, None] - at < 2 + 2 * n) for n in range(4)])
    keep = {"samples": windows[:, None], "heads": windows[None], "neither": causal(shape)}[obeyed]
    mask = np.where(windows, 0.0, -1e30).astype(np.float32) if kind == "float" else windows
    arrays = {f"attentions.{n}": weights(shape, keep, dtype, seed=n) for n in range(2)}
    assert loud(report(arrays | {"attn_mask": torch.from_numpy(mask)})) == codes


@sides
def test_blocks_over_batch_and_heads_in_the_wrong_order(side):
    shape = (3, 2, 8, 8)
    real = padding(shape, side)
    blocks = {"turns": np.tile(real, (2, 1)), "runs": np.repeat(real, 2, axis=0)}
    for order, rows in blocks.items():
        mask = np.broadcast_to(rows[:, None], (6, 8, 8)).copy()
        arrays = {
            "attn_mask": torch.from_numpy(np.where(mask, 0.0, -1e30)),
            "attentions.0": weights(shape, real[:, None, None]),
        }
        codes = loud(report(arrays | mask_of(real)))
        assert ("MSK112" in codes) == (order == "turns")
    # Blocks that hide no padding, or all of it, have no order.
    for rows in (np.ones((6, 8), bool), np.broadcast_to(real.all(axis=0), (6, 8))):
        arrays["attn_mask"] = torch.from_numpy(np.broadcast_to(rows[:, None], (6, 8, 8)).copy())
        assert "MSK112" not in loud(report(arrays | mask_of(real)))


@dtypes
@pytest.mark.parametrize("shorter", [True, False])
@pytest.mark.parametrize("rows", [1, 6])
def test_masks_of_another_length(dtype, shorter, rows):
    keys = 20
    real = np.ones((3, keys), bool)
    real[0, :5] = real[1, :3] = False
    shape = (3, 2, rows, keys)
    keep = causal(shape) & real[:, None, None]
    length = keys - 4 if shorter else keys + 4
    wrong = np.ones((3, length), bool)
    wrong[0, 8:11] = wrong[1, 6:9] = wrong[2, 2:12] = False
    found = report(layers(shape, keep, dtype) | mask_of(wrong))
    assert loud(found) == ["MSK113"]
    assert the(found, "MSK113").evidence["mask_length"] == length


@dtypes
@pytest.mark.parametrize(
    "case", ["prompt only", "virtual prefix", "sliding cache", "earlier step", "static cache"]
)
def test_masks_of_another_length_that_agree(dtype, case):
    real = np.ones((2, 12), bool)
    real[0, :4] = False
    ones, none = np.ones((2, 3), bool), np.zeros((2, 3), bool)
    keys = {
        "prompt only": np.concatenate([real, ones], 1), "virtual prefix": np.concatenate([ones, real], 1),
        "sliding cache": real[:, 2:], "earlier step": real[:, :9], "static cache": np.concatenate([real, none], 1),
    }[case]  # fmt: skip
    shape = (2, 2, 1, keys.shape[1])
    assert loud(report(layers(shape, keys[:, None, None], dtype) | mask_of(real))) == []


@pytest.mark.parametrize("told", ["cu_seqlens", "segment_ids"])
@pytest.mark.parametrize("dtype", ["bool", *DTYPES])
def test_a_saved_mask_that_lets_documents_see_each_other(told, dtype):
    same, _ = packed([7, 11, 6])
    facts = {
        "cu_seqlens": torch.tensor([0, 7, 18, 24]),
        "segment_ids": torch.from_numpy(np.repeat([0, 1, 2], [7, 11, 6]))[None],
    }
    keep = np.tril(np.ones((24, 24), bool))
    for allowed in (keep, keep & same):
        mask = torch.from_numpy(allowed)[None, None]
        if dtype != "bool":
            mask = torch.where(mask, 0.0, torch.finfo(DTYPES[dtype]).min).to(DTYPES[dtype])
        found = report({"attn_mask": mask, told: facts[told]}, expect="causal & documents")
        assert loud(found) == (["MSK217"] if allowed is keep else [])
        if found.findings:
            where = the(found, "MSK217").where
            assert (where.queries, where.keys) == (((7, 24),), ((0, 18),))
        plain = report({"attn_mask": mask, told: facts[told]})
        assert [(f.code, f.severity) for f in plain.findings] == (
            [("MSK217", "note")] if allowed is keep else []
        )
    # A mask that also hides what it should show is another one, and told once.
    found = report({"attn_mask": torch.from_numpy(keep), told: facts[told]}, expect="documents")
    assert loud(found) == ["MSK114"]
    assert the(found, "MSK114").evidence["document_cells"] == int((keep & ~same).sum())


def test_equal_weights_outside_of_the_mask_are_a_leak():
    shape = (1, 2, 12, 12)
    w = softmax(np.where(causal(shape), np.zeros(shape), -1e30))
    assert loud(report({"attentions.0": to(w, "float32")}, expect="sliding:4")) == ["MSK213"]
    assert loud(report({"attentions.0": to(w, "float32")}, expect="causal")) == ["MSK206"]
