"""Ids against the padding mask."""

import numpy as np
import pytest
import torch

from tests.diagnostics.attention import layers, loud, padding, report, the

SHAPE = (3, 2, 12, 12)


def ids(real, pad=0):
    return torch.from_numpy(np.where(real, np.arange(5, 17), pad))


def mask(real):
    return torch.from_numpy(real.astype(np.int64))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0, 3])
def test_padding_that_is_not_masked(side, pad):
    real = padding(SHAPE, side)
    found = report({"input_ids": ids(real, pad), "attention_mask": mask(np.ones_like(real))}, pad_id=pad)
    assert loud(found) == ["MSK401"]
    assert the(found, "MSK401").where.batch == (0, 1)
    assert the(found, "MSK401").evidence["padding_tokens"] == int((~real).sum())


def test_a_training_batch_with_an_all_ones_mask_is_a_note():
    real = padding(SHAPE, "right")
    labels = torch.from_numpy(np.where(real, np.arange(5, 17), -100))
    arrays = {"input_ids": ids(real), "attention_mask": mask(np.ones_like(real)), "labels": labels}
    found = report(arrays | layers(SHAPE, np.tril(np.ones((12, 12), bool))), expect="causal", pad_id=0)
    assert [(f.code, f.severity) for f in found.findings] == [("MSK401", "note")]


@pytest.mark.parametrize("hole", [3, 6])
def test_a_real_token_that_is_masked(hole):
    real = padding(SHAPE, "right")
    holed = real.copy()
    holed[2, hole] = False
    found = report({"input_ids": ids(real), "attention_mask": mask(holed)}, pad_id=0)
    assert loud(found) == ["MSK402"]
    assert (the(found, "MSK402").where.batch, the(found, "MSK402").where.keys) == ((2,), ((hole, hole + 1),))
    assert loud(report({"input_ids": ids(real), "attention_mask": mask(holed)})) == ["MSK402"]


def test_masking_by_id_when_pad_is_eos():
    real = padding(SHAPE, "right")
    numbers = ids(real, 2)
    numbers[2, 5] = 2
    found = report({"input_ids": numbers, "attention_mask": (numbers != 2).long()}, pad_id=2, eos_ids=(2,))
    assert loud(found) == ["MSK402"]
    assert "the pad id" in the(found, "MSK402").message


def test_a_finished_answer_whose_eos_is_the_pad_token():
    numbers = torch.tensor([[5, 6, 7, 2, 2, 2], [5, 6, 7, 8, 9, 2]])
    right = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    assert report({"input_ids": numbers, "attention_mask": right}, pad_id=2, eos_ids=(2,)).findings == ()


def test_right_padding_under_a_mask_of_ones_with_ignored_labels_is_a_note_in_training():
    """Labels that ask for the text itself are those of a causal model, whose text never sees what is behind it."""
    real = padding(SHAPE, "right")
    numbers = ids(real)
    arrays = {"input_ids": numbers, "attention_mask": mask(np.ones_like(real))}
    labels = torch.where(torch.from_numpy(real), numbers, -100)
    for extra in ({"labels": labels}, {"labels": torch.cat([labels[:, 1:], torch.full((3, 1), -100)], 1)}):
        found = report(arrays | extra, pad_id=0)
        assert [f.severity for f in found.findings if f.code == "MSK401"] == ["note"]
    # An encoder, labels on the padding, padding on the left, and labels of another text are no such thing.
    sick = [
        report(arrays | {"labels": labels}, pad_id=0, expect="full"),
        report(arrays | {"labels": numbers}, pad_id=0),
        report(arrays | {"labels": torch.where(labels == -100, -100, labels + 40)}, pad_id=0),
    ]
    left = padding(SHAPE, "left")
    numbers = ids(left)
    ones = mask(np.ones_like(left))
    labels = torch.where(torch.from_numpy(left), numbers, -100)
    sick.append(report({"input_ids": numbers, "attention_mask": ones, "labels": labels}, pad_id=0))
    assert all("MSK401" in loud(found) for found in sick)


# A decoder's mask. Its ids are the labels, moved one place behind a start token.

LABELS = torch.tensor([[5, 6, 7, 8, 1, -100, -100], [9, 10, 11, 12, 13, 14, 1], [9, 10, 1, *[-100] * 4]])


def decoder(start, pad=0):
    shifted = torch.cat([torch.full((3, 1), start), LABELS[:, :-1]], 1)
    return {
        "input_ids": torch.tensor([[20, 21, 22, 1], [20, 21, 1, pad], [24, 1, pad, pad]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]),
        "decoder_input_ids": shifted.masked_fill(shifted == -100, pad),
        "decoder_attention_mask": (LABELS != -100).long(),
    }


@pytest.mark.parametrize("start", [0, 2])
def test_a_decoder_mask_may_hide_what_no_label_asks_for(start):
    """Made of the labels, it hides the end token behind each text: nothing is asked for there."""
    arrays = decoder(start)
    for extra in ({}, {"labels": LABELS}):
        assert loud(report(arrays | extra, pad_id=0)) == []
    for row, stop in ((1, 5), (0, 3)):
        holed = arrays["decoder_attention_mask"].clone()
        holed[row, stop:] = 0
        sick = arrays | {"decoder_attention_mask": holed, "labels": LABELS}
        found = report(sick, pad_id=0)
        assert loud(found) == ["MSK402"]
        assert the(found, "MSK402").where.batch == (row,)
        assert the(found, "MSK402").where.keys[0][0] == stop


@pytest.mark.parametrize("start", [0, 2])
def test_a_decoder_mask_that_is_turned_around_hides_no_words(start):
    """It is said to be inverted, and not that it hides all words; T5's start is its padding, and real."""
    arrays = decoder(start)
    real = arrays["decoder_input_ids"] != 0
    real[:, 0] = True
    sick = arrays | {"decoder_attention_mask": (~real).long()}
    assert loud(report(sick, pad_id=0)) == ["MSK102"]
    assert loud(report(arrays | {"decoder_attention_mask": real.long()}, pad_id=0)) == []


# Masks negated as integers

NEGATED = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.mark.combinations
@pytest.mark.parametrize("dtype", NEGATED, ids=str)
@pytest.mark.parametrize("side", ["left", "right", "none"])
@pytest.mark.parametrize("name", ["attention_mask", "key_padding_mask", "padding_mask"])
def test_a_padding_mask_negated_as_integers(dtype, side, name):
    real = np.ones((3, 12), bool) if side == "none" else padding(SHAPE, side)
    right = mask(real).to(dtype)
    keep = real[:, None, None]
    for extra in ({}, {"input_ids": ids(real)}, layers(SHAPE, keep), layers(SHAPE, np.ones_like(keep))):
        for declared in ({}, {"pad_id": 0}):
            assert loud(report({name: ~right, **extra}, **declared)) == ["MSK107"]
        assert "MSK107" not in loud(report({name: right, **extra}))
    found = report({name: (~right).float()})
    assert loud(found) == ["MSK107"]
    assert the(found, "MSK107").tensors == (name,)


@pytest.mark.parametrize("values", [(0, 255), (0, -1), (1, 2), (0, 254), (-1, 1)])
def test_other_integers_of_a_padding_mask_are_not_negated(values):
    numbers = torch.tensor(values)[mask(padding(SHAPE, "right"))]
    assert "MSK107" not in loud(report({"attention_mask": numbers}))


# Padding for generation


@pytest.mark.parametrize("batch", [(3, 9, 12), (7,), (4, 12)])
def test_right_padding_before_generation(batch):
    real = np.arange(12) < np.array(batch)[:, None]
    arrays = {"attention_mask": mask(real), "input_ids": ids(real)}
    found = report(arrays, purpose="generate", pad_id=0)
    assert loud(found) == ["MSK403"]
    short = tuple(n for n, length in enumerate(batch) if length < 12)
    assert the(found, "MSK403").where.batch == (None if len(short) == len(batch) else short)
    assert the(found, "MSK403").where.keys == ((min(batch), 12),)
    assert the(found, "MSK403").evidence == {"padding_tokens": int((~real).sum()), "samples": len(short)}
    # Either alone says it too; training, or no word of a purpose, does not mind.
    assert loud(report({"input_ids": ids(real)}, purpose="generate", pad_id=0)) == ["MSK403"]
    assert loud(report({"attention_mask": mask(real)}, purpose="generate")) == ["MSK403"]
    assert loud(report(arrays, purpose="train", pad_id=0)) == loud(report(arrays, pad_id=0)) == []


def test_padding_that_generation_does_not_mind():
    left = padding(SHAPE, "left")
    assert (
        report({"attention_mask": mask(left), "input_ids": ids(left)}, purpose="generate", pad_id=0).findings
        == ()
    )
    whole = np.ones((1, 12), bool)
    assert report({"attention_mask": mask(whole)}, purpose="generate").findings == ()
    # A prompt that ends in its eos, which is the pad token as well.
    numbers = torch.tensor([[5, 6, 7, 2], [5, 6, 8, 9]])
    assert report({"input_ids": numbers}, purpose="generate", pad_id=2, eos_ids=(2,)).findings == ()
    # A row of nothing but padding fills up the batch.
    assert (
        report({"attention_mask": torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])}, purpose="generate").findings
        == ()
    )


def test_the_source_of_an_encoder_decoder_may_be_padded_on_the_right():
    real = padding(SHAPE, "right")
    target = np.ones((3, 5), bool)
    arrays = {"attention_mask": mask(real), "decoder_attention_mask": mask(target)}
    assert report(arrays, purpose="generate").findings == ()
    target[1, 4:] = False
    found = report({"attention_mask": mask(real), "decoder_attention_mask": mask(target)}, purpose="generate")
    assert the(found, "MSK403").tensors == ("decoder_attention_mask",)


def test_the_empty_slots_of_a_cache_are_no_padding():
    slots = torch.from_numpy((np.arange(32) < 10)[None].repeat(2, 0).astype(int))
    keep = np.broadcast_to(np.arange(32) <= np.arange(10)[:, None], (2, 2, 10, 32))
    assert loud(report({"attention_mask": slots} | layers((2, 2, 10, 32), keep), purpose="generate")) == []


# The mask and the token types


def pairs(first, second, length, side="right"):
    """Ids, mask and types of sentence pairs as a tokenizer makes them: [CLS] first [SEP] second [SEP], padding 0."""
    out = np.zeros((3, len(first), length), np.int64)
    for row, (a, b) in enumerate(zip(first, second, strict=True)):
        text = [101, *range(200, 200 + a), 102] + ([*range(300, 300 + b), 102] if b else [])
        types = [0] * (a + 2) + [1] * (b + 1 if b else 0)
        spot = slice(0, len(text)) if side == "right" else slice(length - len(text), length)
        out[0, row, spot], out[1, row, spot], out[2, row, spot] = text, 1, types
    return dict(
        zip(("input_ids", "attention_mask", "token_type_ids"), map(torch.from_numpy, out), strict=True)
    )


PAIRS = [((3, 5), (4, 2)), ((3, 5, 9), (4, 2, 0)), ((4,), (4,)), ((2, 4), (6, 4))]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("pad_id", [0, None])
def test_token_types_in_the_place_of_the_mask(first, second, side, pad_id):
    length = max(a + b + 3 for a, b in zip(first, second, strict=True)) + (2 if len(first) > 1 else 0)
    right = pairs(first, second, length, side)
    assert report(right, pad_id=pad_id).findings == ()
    swapped = right | {"attention_mask": right["token_type_ids"], "token_type_ids": right["attention_mask"]}
    found = report(swapped, pad_id=pad_id)
    assert loud(found) == ["MSK407"]
    # Of a row without a second sentence the mask keeps nothing: no sentence of it stands in front of another.
    hidden = (right["token_type_ids"].numpy().cumsum(1) == 0) & right["attention_mask"].numpy().astype(bool)
    assert the(found, "MSK407").evidence["hidden_tokens"] == hidden[np.array(second) > 0].sum()
    # The ids alone say it too, and weights that obeyed the swapped mask add nothing.
    del swapped["token_type_ids"]
    keep = swapped["attention_mask"].numpy().astype(bool)[:, None, None]
    for arrays in (swapped, swapped | layers((len(first), 2, length, length), keep)):
        again = report(arrays, pad_id=pad_id)
        assert loud(again) == ["MSK407"]
        assert the(again, "MSK407").evidence == the(found, "MSK407").evidence


@pytest.mark.parametrize("types", [0, 1])
def test_ordinary_left_padding_is_no_first_sentence(types):
    real = padding(SHAPE, "left")
    arrays = {"attention_mask": mask(real), "token_type_ids": torch.full((3, 12), types)}
    assert report(arrays | {"input_ids": ids(real)}).findings == ()
    found = report(arrays)
    assert found.findings == ()
    assert ("MSK407" in {skip.code for skip in found.skipped}) == (types == 1)


def test_token_types_of_padding_may_be_anything():
    real = padding(SHAPE, "left")
    types = torch.from_numpy(np.where(real, np.arange(12) > 7, 3))
    assert (
        report({"attention_mask": mask(real), "token_type_ids": types, "input_ids": ids(real)}).findings == ()
    )


def test_a_finished_answer_whose_eos_is_the_pad_token_though_nobody_said_so():
    numbers = torch.tensor([[5, 6, 7, 2, 2, 2], [5, 6, 7, 8, 9, 2]])
    right = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    assert loud(report({"input_ids": numbers, "attention_mask": right}, pad_id=2)) == []
    assert loud(report({"input_ids": numbers, "attention_mask": torch.ones_like(right)}, pad_id=2)) == [
        "MSK401"
    ]
