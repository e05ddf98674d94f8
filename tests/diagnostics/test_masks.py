"""Every rule on saved masks fires on its bug alone, and stays silent on what only looks like it."""

import numpy as np
import pytest
import torch

from tests.diagnostics.attention import DTYPES, causal, layers, loud, padding, report, the

dtypes = pytest.mark.parametrize("dtype", list(DTYPES))
sides = pytest.mark.parametrize("side", ["left", "right"])
SQUARE = (3, 2, 12, 12)


def additive(keep, fill=-np.inf, dtype="float32"):
    values = np.where(keep, 0.0, fill)
    low = {
        "float32": torch.finfo(torch.float32).min,
        "float16": -65504.0,
        "bfloat16": torch.finfo(torch.bfloat16).min,
    }[dtype]
    return torch.from_numpy(np.where(np.isfinite(values) & (values < low), low, values)).to(DTYPES[dtype])


def notes(found):
    return sorted({finding.code for finding in found.findings if finding.severity == "note"})


def ids_of(real):
    return torch.from_numpy(np.where(real, 7, 0))


@dtypes
@pytest.mark.parametrize("fill", [-np.inf, -1e30, -1e9])
def test_rows_without_keys(dtype, fill):
    if dtype == "float16" and fill == -1e9:
        return
    keep = np.broadcast_to(causal(SQUARE), (3, 1, 12, 12)).copy()
    keep[1, :, 5] = False
    keep[1, :, 8:, 5] = True
    found = report({"attn_mask": additive(keep, fill, dtype)})
    assert loud(found) == ["MSK101"]
    assert (the(found, "MSK101").where.batch, the(found, "MSK101").where.queries) == ((1,), ((5, 6),))


@dtypes
def test_padding_queries_without_keys_are_a_note(dtype):
    real = padding(SQUARE, "left")
    keep = causal(SQUARE) & real[:, None, None]
    for extra in ({}, {"attention_mask": torch.from_numpy(real.astype(int))}, {"input_ids": ids_of(real)}):
        found = report({"attn_mask": additive(keep, dtype=dtype), **extra}, pad_id=0)
        assert (loud(found), notes(found)) == ([], ["MSK101"])


def test_a_mask_that_hides_everything():
    assert loud(report({"attn_mask": torch.zeros(1, 1, 6, 6, dtype=torch.bool)}, convention="sdpa")) == [
        "MSK101"
    ]


@sides
def test_a_padding_mask_that_keeps_the_padding(side):
    real = padding(SQUARE, side)
    found = report(
        {"attention_mask": torch.from_numpy((~real).astype(int)), "input_ids": ids_of(real)}, pad_id=0
    )
    assert loud(found) == ["MSK102"]
    assert the(found, "MSK102").where.batch == (0, 1)
    four = torch.from_numpy((~real)[:, None, None])
    found = report(
        {"attn_mask": four, "attention_mask": torch.from_numpy(real.astype(int))}, convention="sdpa"
    )
    assert loud(found) == ["MSK102"]


@pytest.mark.parametrize("diagonal", [0, 1])
def test_a_causal_mask_that_keeps_the_future(diagonal):
    upper = torch.triu(torch.ones(9, 9, dtype=torch.bool), diagonal)
    assert loud(report({"attn_mask": upper}, convention="sdpa")) == ["MSK102"]
    assert loud(report({"attn_mask": ~upper}, convention="mha")) == ["MSK102"]
    # Nothing says what True means: neither is accused.
    assert report({"attn_mask": torch.triu(torch.ones(9, 9, dtype=torch.bool), 1)}).findings == ()
    assert report({"attn_mask": ~torch.triu(torch.ones(9, 9, dtype=torch.bool), 1)}).findings == ()


@dtypes
def test_a_float_mask_of_zeros_and_ones(dtype):
    keep = torch.from_numpy(np.broadcast_to(causal(SQUARE), (1, 1, 12, 12)).copy()).to(DTYPES[dtype])
    assert (loud(report({"attn_mask": keep})), notes(report({"attn_mask": keep}))) == ([], ["MSK103"])
    assert loud(report({"attn_mask": keep}, convention="additive")) == ["MSK103"]
    assert loud(report({"attn_mask": keep} | layers(SQUARE, np.ones(SQUARE, bool), dtype))) == ["MSK103"]
    # Used with masked_fill(mask == 0, ...) it is right, and the weights show it.
    assert report({"attn_mask": keep} | layers(SQUARE, causal(SQUARE), dtype)).findings == ()
    assert report({"attn_mask": keep}, convention="binary").findings == ()


@dtypes
@pytest.mark.parametrize("fill", [-1e-9, -1.0, -10.0, -20.0])
def test_a_fill_that_cannot_silence(dtype, fill):
    if dtype == "float16" and fill == -1e-9:
        return
    found = report({"attn_mask": additive(causal(SQUARE)[None, None], fill, dtype)})
    assert loud(found) == ["MSK104"]
    assert the(found, "MSK104").evidence["fill"] == pytest.approx(fill, rel=0.01)


@dtypes
def test_minus_ten_thousand_is_a_note_until_a_row_is_empty(dtype):
    keep = causal(SQUARE)[None, None].copy()
    found = report({"attn_mask": additive(keep, -1e4, dtype)})
    assert (loud(found), notes(found)) == ([], ["MSK104"])
    keep[..., 4, :] = False
    keep[..., 6, 4] = True
    assert "MSK104" in loud(report({"attn_mask": additive(keep, -1e4, dtype)}))


def test_biases_are_not_weak_fills():
    heads = np.array([0.5, 0.25, 0.125, 0.0625])[None, :, None, None]
    distance = np.arange(12)[:, None] - np.arange(12)
    alibi = np.where(distance >= 0, -heads * distance, -np.inf)
    assert report({"attn_mask": torch.from_numpy(alibi.astype(np.float32))}).findings == ()
    swin = np.where(np.not_equal.outer(np.arange(12) < 6, np.arange(12) < 6), -100.0, 0.0)
    assert report({"attn_mask": torch.from_numpy(swin[None, None])}).findings == ()
    t5 = np.random.default_rng(0).normal(size=(1, 4, 12, 12))
    assert report({"attn_mask": torch.from_numpy(t5)}).findings == ()


@dtypes
def test_fills_that_overflow(dtype):
    low = torch.finfo(DTYPES[dtype]).min
    left = torch.zeros(1, 1, 8, 8, dtype=DTYPES[dtype]).masked_fill(torch.arange(8) < 3, low)
    right = torch.zeros(1, 1, 8, 8, dtype=DTYPES[dtype]).masked_fill(
        ~torch.from_numpy(causal((1, 1, 8, 8))), low
    )
    found = report({"attn_mask": left + right}, pad_id=0)
    assert "MSK105" in loud(found)


def test_a_fill_that_overflowed_in_a_cast():
    keep = causal((1, 1, 8, 8))[None, None]
    found = report({"attn_mask": additive(keep, -1e9), "layers.1.attn_mask": additive(keep, -1e9).half()})
    assert loud(found) == ["MSK105"]


@dtypes
def test_nan_in_the_mask(dtype):
    keep = torch.from_numpy(causal((1, 1, 8, 8)).copy())[None, None].to(DTYPES[dtype])
    found = report({"attn_mask": (1 - keep) * float("-inf")})
    assert loud(found) == ["MSK106"]
    assert the(found, "MSK106").where.queries == ((0, 1),)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_negated_integers(dtype):
    mask = ~torch.from_numpy(causal((1, 1, 8, 8)).copy()).to(dtype)[None, None]
    assert loud(report({"attn_mask": mask})) == ["MSK107"]


@pytest.mark.parametrize("numbers", [(0, 1), (0, 1, 2), (0, 1, 2, 3)])
def test_integer_masks_of_segments_are_fine(numbers):
    mask = torch.from_numpy(np.resize(np.array(numbers), (1, 1, 8, 8)))
    mask[..., 0] = 1
    assert loud(report({"attn_mask": mask})) == []


@sides
def test_padding_on_the_query_axis(side):
    real = padding(SQUARE, side)
    found = report({"attn_mask": additive(np.broadcast_to(real[:, None, :, None], (3, 1, 12, 12)))})
    assert loud(found) == ["MSK108"]
    found = report({
        "attn_mask": additive(causal(SQUARE) & real[:, None, :, None]), "attention_mask": torch.from_numpy(real.astype(int))
    })  # fmt: skip
    # Under right padding a causal mask hides the padding from every real token all the same.
    assert loud(found) == (["MSK108"] if side == "left" else [])


@pytest.mark.parametrize("convention", ["sdpa", "mha"])
@sides
def test_healthy_boolean_masks(convention, side):
    real = padding(SQUARE, side)
    keep = causal(SQUARE) & real[:, None, None]
    if side == "left":
        keep = keep | np.eye(12, dtype=bool)
    mask = torch.from_numpy(keep if convention == "sdpa" else ~keep)
    for declared in (convention, None):
        assert report({"attn_mask": mask}, convention=declared).findings == ()
    assert (
        report({"key_padding_mask": torch.from_numpy(~real), "input_ids": ids_of(real)}, pad_id=0).findings
        == ()
    )


@pytest.mark.parametrize("name", ["key_padding_mask", "kpm", "key_pad_mask", "layer.key_padding_mask"])
def test_padding_masks_by_every_name_hide_the_same(name):
    real = padding(SQUARE, "right")
    arrays = layers(SQUARE, real[:, None, None])
    assert report(arrays | {name: torch.from_numpy(~real)}).findings == ()
    assert loud(report(layers(SQUARE, np.ones(SQUARE, bool)) | {name: torch.from_numpy(~real)})) == ["MSK202"]
    additive_padding = torch.from_numpy(np.where(real, 0, -np.inf))
    assert report(arrays | {name: additive_padding}).findings == ()


def test_an_additive_padding_mask_that_hides_nothing_hides_no_finding():
    arrays = layers(SQUARE, np.ones(SQUARE, bool)) | {"key_padding_mask": torch.zeros(3, 12)}
    assert loud(report(arrays, expect="causal")) == ["MSK203"]


# Types that masks have seldom

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
@pytest.mark.parametrize("form", ["0 and 1", "0 and a fill"])
@pytest.mark.parametrize("name", ["attention_mask", "attn_mask"])
def test_masks_of_eight_bits_are_read_as_other_floats_are(dtype, form, name):
    """Padding masks too: one answer, whoever reads them."""
    shape = (3, 2, 12, 12)
    real = padding(shape, "right")
    keep = causal(shape) & real[:, None, None]
    cells = torch.from_numpy((real if name == "attention_mask" else keep).astype(np.float32))
    mask = (cells if form == "0 and 1" else (1 - cells) * -448).to(dtype)
    assert loud(report(layers(shape, keep) | {name: mask})) == []
    for sick, extra in (
        (causal(shape) | True, {"expect": "causal"}),
        (causal(shape) & ~real[:, None, None], {}),
    ):
        assert loud(report(layers(shape, sick & np.ones(shape, bool)) | {name: mask}, **extra)) != []


@pytest.mark.parametrize("fill", [-10000, -(2**31)])
@pytest.mark.parametrize("name", ["attention_mask", "attn_mask"])
def test_integers_with_a_fill_are_added(fill, name):
    """(1 - mask) * -10000 on whole numbers: 0 attends, as in the same mask of floats."""
    shape = (3, 2, 12, 12)
    real = padding(shape, "right")
    keep = causal(shape) & real[:, None, None]
    cells = torch.from_numpy((real if name == "attention_mask" else keep).astype(np.int64))
    arrays = {name: (1 - cells) * fill}
    assert loud(report(layers(shape, keep) | arrays)) == []
    assert loud(report(layers(shape, causal(shape) & ~real[:, None, None]) | arrays)) != []


def test_a_place_behind_the_one_row_of_a_mask_is_shown_in_that_row():
    """Packed texts begin at tokens of which a mask over keys, [B, 1, 1, K], has no row."""
    real = padding((2, 1, 16, 16), "right")
    texts = {
        "segment_ids": torch.arange(16).expand(2, 16) // 4,
        "attention_mask": torch.from_numpy(real.astype(int)),
    }
    (found,) = report(texts | {"attn_mask": torch.ones(2, 1, 1, 16, dtype=torch.bool)}).findings
    assert (found.code, found.where.queries) == ("MSK405", ((0, 16),))
    assert [(each.start, each.stop) for each in found.excerpt.queries] == [(0, 1)]
    # The later texts alone see another one: no row stands there.
    first = torch.arange(16).lt(4).expand(2, 1, 1, 16)
    found = next(
        each for each in report(texts | {"attn_mask": first.contiguous()}).findings if each.code == "MSK405"
    )
    assert found.where.queries == ((4, 16),)
    assert found.see == "maskcli inspect dump.safetensors:attn_mask"
