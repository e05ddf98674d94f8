"""Labels against ids: batches made the way collators make them, healthy, or sick in one stated way."""

import itertools
import json
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from maskcli.diagnostics.diagnose import diagnose
from maskcli.meant.facts import Declared
from maskcli.tensors import from_arrays
from tests.cli.running import run
from tests.diagnostics.attention import loud, report, the

# Numbers of samples and lengths; the ids of a vocabulary: padding, beginning, end, then words.
SHAPES = [(1, 9), (3, 12), (2, 300)]
SIDES = ["left", "right", "none"]
PAD, BOS, EOS, WORDS, SIZE = 0, 1, 2, 10, 5000
PADS = [PAD, EOS]
IGNORE = -100
GRID = list(itertools.product(SHAPES, SIDES, PADS, [True, False], [0, 1]))


class Batch:
    """Prompts of equal length, each with its answer and its end token; `real`, `prompt` and `answer` say what each token is."""

    def __init__(self, shape, side="right", pad=PAD, seed=0, prompt=3):
        rng = np.random.default_rng(seed)
        batch, length = shape
        self.pad, self.side, self.prompt_length = pad, side, prompt
        self.ids = np.full(shape, pad)
        self.real = np.zeros(shape, bool)
        self.prompt = np.zeros(shape, bool)
        self.ends = []
        for item in range(batch):
            pads = (
                0
                if side == "none" or item == batch - 1 > 0
                else int(rng.integers(2, max(3, length - prompt - 4)))
            )
            start = pads if side == "left" else 0
            stop = start + length - pads
            self.ids[item, start:stop] = rng.permutation(np.arange(WORDS, SIZE))[: stop - start]
            self.ids[item, start], self.ids[item, stop - 1] = BOS, EOS
            self.real[item, start:stop] = True
            self.prompt[item, start : start + prompt] = True
            self.ends.append(stop - 1)
        self.answer = self.real & ~self.prompt

    def arrays(self, taught, shift=0, mask=True, ignore=IGNORE):
        """The batch with labels for the tokens `taught`, moved `shift` places to the left."""
        labels = np.where(taught, self.ids, ignore)
        labels = np.concatenate([labels[:, shift:], np.full((len(labels), shift), ignore)], axis=1)
        found = {"input_ids": self.ids.copy(), "labels": labels}
        return found | ({"attention_mask": self.real.astype(np.int64)} if mask else {})

    def facts(self, **more):
        return {"pad_id": self.pad, "eos_ids": (EOS,), "bos_ids": (BOS,), "vocab_size": SIZE} | more


def declarations(batch, shift=0):
    """Every choice of the facts that are true of a batch."""
    known = {
        "pad_id": batch.pad,
        "eos_ids": (EOS,),
        "bos_ids": (BOS,),
        "prompt_length": batch.prompt_length,
        "vocab_size": SIZE,
        "loss_shift": ["model", "data"][shift],
    }
    for chosen in itertools.product([False, True], repeat=len(known)):
        yield {name: value for (name, value), yes in zip(known.items(), chosen, strict=True) if yes}


def of_labels(found):
    """Codes and severities of this family."""
    return [(finding.code, finding.severity) for finding in found.findings if finding.code.startswith("MSK5")]


def cells(found):
    """The cells that a finding flags, as (sample, token), sample by sample."""
    return {
        (item, token)
        for spot in found.places or (found.where,)
        for item in (spot.batch if spot.batch is not None else range(99))
        for start, stop in spot.queries
        for token in range(start, stop)
    }


def flagged(finding, shape):
    return {(item, token) for item, token in cells(finding) if item < shape[0]}


def where(flags):
    return {(int(item), int(token)) for item, token in np.argwhere(flags)}


def only(found, code, severity=None):
    assert [each for each in loud(found) if each.startswith("MSK5")] == [code], [
        (f.code, f.message) for f in found.findings
    ]
    finding = the(found, code)
    assert severity is None or finding.severity == severity
    return finding


# What is healthy


@pytest.mark.combinations
@pytest.mark.parametrize(("shape", "side", "pad", "mask", "shift"), GRID)
def test_healthy_answers_are_silent_whatever_is_declared(shape, side, pad, mask, shift):
    batch = Batch(shape, side, pad)
    for facts in declarations(batch, shift):
        notes = [] if shift == 0 or "loss_shift" in facts else [("MSK505", "note")]
        assert of_labels(report(batch.arrays(batch.answer, shift, mask), **facts)) in ([], notes), facts
        if "prompt_length" not in facts:
            assert of_labels(report(batch.arrays(batch.real, shift, mask), **facts)) in ([], notes), facts


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_healthy_answers_are_silent(data):
    shape = (data.draw(st.integers(1, 5)), data.draw(st.integers(6, 30)))
    pad = data.draw(st.sampled_from(PADS))
    prompt = data.draw(st.integers(1, 3))
    batch = Batch(shape, data.draw(st.sampled_from(SIDES)), pad, data.draw(st.integers(0, 999)), prompt)
    shift = data.draw(st.sampled_from([0, 1]))
    # A small vocabulary: words come again, as they do in texts.
    inside = batch.real & ~np.isin(batch.ids, [BOS, EOS])
    batch.ids[inside] = WORDS + batch.ids[inside] % data.draw(st.integers(1, 40))
    facts = data.draw(st.sampled_from(list(declarations(batch, shift))))
    ignore = -1 if data.draw(st.booleans()) else IGNORE
    found = report(batch.arrays(batch.answer, shift, data.draw(st.booleans()), ignore), **facts)
    assert of_labels(found) in ([], [("MSK505", "note")] if shift else [])


@pytest.mark.parametrize("shape", [(1, 8), (4, 64)])
@pytest.mark.parametrize("ignored", [0, 3])
def test_chunks_of_one_long_text_are_at_most_a_note(shape, ignored):
    text = np.random.default_rng(0).integers(WORDS, 99, np.prod(shape) + 1)
    ids, labels = text[:-1].reshape(shape), text[1:].reshape(shape).copy()
    labels[0, : max(ignored - 1, 0)] = -1
    labels[:, -1:] = -1 if ignored else labels[:, -1:]
    arrays = {"input_ids": ids, "labels": labels, "attention_mask": np.ones(shape, int)}
    assert [(f.code, f.severity) for f in report(arrays).findings] == [("MSK505", "note")]
    assert report(arrays, loss_shift="data", vocab_size=99).findings == ()
    if not ignored:
        assert [(f.code, f.severity) for f in report(arrays, loss_shift="data", eos_ids=(EOS,)).findings] == [
            ("MSK507", "note")
        ]


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("pad", PADS)
def test_an_end_that_only_the_labels_hold_is_silent(mask, pad):
    whole = Batch((3, 13), "right", pad)
    inputs = whole.real[:, 1:]
    arrays = {
        "input_ids": np.where(inputs, whole.ids[:, :-1], pad),
        "labels": np.where(inputs, whole.ids[:, 1:], IGNORE),
    }
    arrays |= {"attention_mask": inputs.astype(int)} if mask else {}
    for facts in ({}, {"pad_id": pad}, whole.facts(), whole.facts(loss_shift="data")):
        notes = [] if "loss_shift" in facts else [("MSK505", "note")]
        assert [(finding.code, finding.severity) for finding in report(arrays, **facts).findings] == notes


def packed(seed=0, lengths=(5, 9, 4)):
    """Documents in one row, each from its beginning to its end."""
    rng = np.random.default_rng(seed)
    documents = [[BOS, *rng.integers(WORDS, SIZE, length - 2), EOS] for length in lengths]
    ids = np.concatenate(documents)[None]
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    return ids, positions


def test_packed_documents_are_silent():
    ids, positions = packed()
    for labels, extra in itertools.product(
        (ids, np.where(positions == 0, IGNORE, ids), np.where(positions < 2, IGNORE, ids)),
        ({}, {"position_ids": positions}),
    ):
        for facts in (
            {},
            {"eos_ids": (EOS,)},
            {"eos_ids": (EOS,), "pad_id": EOS},
            {"eos_ids": (EOS,), "bos_ids": (BOS,)},
        ):
            found = report({"input_ids": ids, "labels": labels} | extra, **facts)
            if extra and labels is ids:
                assert flagged(only(found, "MSK516", "error"), ids.shape) == {(0, 5), (0, 14)}
            else:
                assert found.findings == ()


@pytest.mark.parametrize("known", ["documents", "bos", "the row's first token"])
def test_a_token_that_both_begins_and_ends_texts_is_no_unsupervised_end(known):
    ids, positions = packed()
    ids[ids == BOS] = EOS
    labels = np.where(positions == 0, IGNORE, ids)
    extra = {"position_ids": positions} if known == "documents" else {}
    facts = {"bos_ids": (EOS,)} if known == "bos" else {}
    assert (
        loud(report({"input_ids": ids, "labels": labels} | extra, eos_ids=(EOS,), pad_id=EOS, **facts)) == []
    )
    # Texts that begin with it but do not end with it: nothing is taught to stop, but no end was masked either.
    cut = labels.copy()
    cut[:, :-1][ids[:, :-1] == EOS] = IGNORE
    kept = (
        np.delete(ids, [4, 13], axis=1),
        np.delete(cut, [4, 13], axis=1),
        np.delete(positions, [4, 13], axis=1),
    )
    extra = {"position_ids": kept[2]} if known == "documents" else {}
    found = report({"input_ids": kept[0], "labels": kept[1]} | extra, eos_ids=(EOS,), pad_id=EOS, **facts)
    assert loud(found) == []


def test_an_end_beside_one_that_begins_texts_as_well_needs_its_label():
    """One end begins each row; the other, in the middle, ends an answer, and no label asks for it."""
    other = EOS + 1
    ids = np.array([[EOS, 20, 21, 22, other, 23, 24, EOS], [EOS, 30, 31, 32, 33, other, 34, EOS]])
    labels = np.where(ids == other, IGNORE, ids)
    labels[:, 0] = IGNORE
    arrays = {"input_ids": ids, "labels": labels}
    found = report(arrays, eos_ids=(EOS, other), pad_id=PAD)
    assert {*zip(*np.nonzero(ids == other), strict=True)} == cells(only(found, "MSK506"))
    assert (
        loud(report(arrays | {"labels": np.where(ids == EOS, labels, ids)}, eos_ids=(EOS, other), pad_id=PAD))
        == []
    )


def conversation(pad=PAD):
    """Two chats of user and assistant turns, each turn with its end token; assistant tokens and ends are taught."""
    user, assistant = [11, 12, 13, EOS], [21, 22, 23, 24, EOS]
    rows = [user + assistant + user + assistant, user + assistant]
    taught = [[False] * 4 + [True] * 5 + [False] * 4 + [True] * 5, [False] * 4 + [True] * 5]
    length = len(rows[0])
    ids = np.array([row + [pad] * (length - len(row)) for row in rows])
    flags = np.array([row + [False] * (length - len(row)) for row in taught])
    real = np.arange(length) < np.array([[len(row)] for row in rows])
    return ids, flags, real


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("last", [True, False], ids=["ends with the assistant", "ends with the user"])
def test_chats_whose_user_turns_are_ignored_are_silent(pad, mask, last):
    ids, taught, real = conversation(pad)
    if not last:
        taught[0, 13:] = False
    arrays = {"input_ids": ids, "labels": np.where(taught, ids, IGNORE)}
    arrays |= {"attention_mask": real.astype(int)} if mask else {}
    for facts in (
        {},
        {"eos_ids": (EOS,)},
        {"eos_ids": (EOS,), "pad_id": pad},
        {"pad_id": pad, "loss_shift": "model"},
    ):
        assert of_labels(report(arrays, **facts)) == []


@pytest.mark.parametrize("same_length", [True, False])
@pytest.mark.parametrize("decoder_ids", [True, False])
def test_labels_of_an_encoder_decoder_are_silent(same_length, decoder_ids):
    rng = np.random.default_rng(1)
    source = rng.integers(WORDS, SIZE, (3, 12))
    real = np.arange(12) < np.array([[12], [5], [8]])
    length = 12 if same_length else 7
    target = rng.integers(WORDS, SIZE, (3, length))
    lengths = np.array([length, length - 2, length])
    target[np.arange(3), lengths - 1] = EOS
    there = np.arange(length) < lengths[:, None]
    arrays = {
        "input_ids": np.where(real, source, PAD),
        "attention_mask": real.astype(int),
        "labels": np.where(there, target, IGNORE),
    }
    if decoder_ids:
        arrays["decoder_input_ids"] = np.concatenate(
            [np.full((3, 1), PAD), np.where(there, target, PAD)[:, :-1]], 1
        )
    for facts in (
        {},
        {"eos_ids": (EOS,), "pad_id": PAD, "vocab_size": SIZE},
        {"loss_shift": "model"},
        {"loss_shift": "data"},
    ):
        assert report(arrays, **facts).findings == ()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("keep", ["masked tokens only", "all tokens"])
def test_labels_of_a_masked_language_model(seed, keep):
    """Those of masked tokens alone are silent; those of all others too ask for words that stand there."""
    rng = np.random.default_rng(seed)
    batch = Batch((6, 30), "right", PAD, seed)
    masked = batch.real & (rng.random(batch.ids.shape) < 0.15)
    masked[5, :] = False
    masked[0, 1:3] = True
    labels = np.where(masked if keep == "masked tokens only" else batch.real, batch.ids, IGNORE)
    chance = rng.random(batch.ids.shape)
    ids = np.where(
        masked & (chance < 0.8),
        3,
        np.where(masked & (chance < 0.9), rng.integers(WORDS, SIZE, chance.shape), batch.ids),
    )
    arrays = {"input_ids": ids, "labels": labels, "attention_mask": batch.real.astype(int)}
    for facts in (
        {},
        batch.facts(),
        batch.facts(expect="full"),
        {"expect": "full"},
        {"loss_shift": "data"},
        {"loss_shift": "model"},
    ):
        found = report(arrays, **facts)
        if keep == "masked tokens only":
            assert found.findings == ()
        else:
            finding = only(found, "MSK502", "warning")
            assert flagged(finding, ids.shape) == where(batch.real & (ids == labels))


def test_tags_are_silent():
    batch = Batch((4, 20), "right")
    tags = np.random.default_rng(0).integers(0, 9, batch.ids.shape)
    arrays = {
        "input_ids": batch.ids,
        "labels": np.where(batch.answer, tags, IGNORE),
        "attention_mask": batch.real.astype(int),
    }
    for facts in ({}, batch.facts(), batch.facts(loss_shift="model"), {"prompt_length": 2}):
        assert report(arrays, **facts).findings == ()


def test_classes_are_silent():
    batch = Batch((4, 20), "right")
    arrays = {
        "input_ids": batch.ids,
        "labels": np.array([0, 2, 1, 0]),
        "attention_mask": batch.real.astype(int),
    }
    assert report(arrays, **batch.facts()).findings == ()


def test_cut_rows_beside_one_that_ends_are_silent():
    batch = Batch((3, 12), "none")
    batch.ids[:2, -1] = 99
    for facts in ({}, batch.facts(), batch.facts(prompt_length=3)):
        assert report(batch.arrays(batch.answer), **facts).findings == ()


# MSK501


@pytest.mark.combinations
@pytest.mark.parametrize(("shape", "side", "shift"), list(itertools.product(SHAPES, SIDES, [0, 1])))
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("prompt", [True, False], ids=["prompt ignored", "prompt supervised"])
def test_an_end_masked_by_its_id(shape, side, shift, mask, prompt):
    batch = Batch(shape, side, EOS)
    taught = (batch.answer if prompt else batch.real) & (batch.ids != EOS)
    arrays = batch.arrays(taught, shift, mask)
    for facts in (
        {"eos_ids": (EOS,)},
        {"eos_ids": (EOS,), "pad_id": EOS},
        batch.facts(loss_shift=["model", "data"][shift]),
    ):
        finding = only(report(arrays, **facts), "MSK501", "error")
        assert flagged(finding, shape) == {(item, end) for item, end in enumerate(batch.ends)}
        assert finding.evidence == {"unsupervised_ends": shape[0], "supervised_ends": 0}


def test_an_end_masked_by_its_id_in_one_sample_and_in_every_turn():
    ids, taught, real = conversation(EOS)
    arrays = {
        "input_ids": ids,
        "labels": np.where(taught & (ids != EOS), ids, IGNORE),
        "attention_mask": real.astype(int),
    }
    finding = only(report(arrays, eos_ids=(EOS,), pad_id=EOS), "MSK501")
    assert flagged(finding, ids.shape) == where(taught & (ids == EOS))
    taught[0, -1] = False
    arrays["labels"] = np.where(taught, ids, IGNORE)
    finding = only(report(arrays, eos_ids=(EOS,), pad_id=EOS), "MSK501")
    assert flagged(finding, ids.shape) == {(0, ids.shape[1] - 1)}
    assert finding.evidence == {"unsupervised_ends": 1, "supervised_ends": 2}


@pytest.mark.combinations
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shift", [0, 1])
def test_ends_that_a_mask_made_by_id_hides_are_real_all_the_same(shape, side, shift):
    """No text of the batch ends in another token, not the longest either: the first of a trailing run is the end."""
    batch = Batch(shape, side, EOS)
    arrays = batch.arrays(batch.answer & (batch.ids != EOS), shift)
    arrays["attention_mask"] = (batch.ids != EOS).astype(int)
    for declared in ({"eos_ids": (EOS,), "pad_id": EOS}, {"eos_ids": (EOS,)}):
        finding = only(report(arrays, **declared), "MSK501")
        assert finding.evidence["unsupervised_ends"] == len(batch.ids)
    taught = batch.arrays(batch.answer, shift) | {"attention_mask": arrays["attention_mask"]}
    assert "MSK501" not in loud(report(taught, eos_ids=(EOS,), pad_id=EOS))


def test_an_end_that_the_mask_calls_padding_is_none():
    batch = Batch((3, 12), "right", EOS)
    batch.ids[2, -1] = 99
    arrays = batch.arrays(batch.answer & (batch.ids != EOS))
    arrays["attention_mask"] = (batch.ids != EOS).astype(int)
    # Texts that do not end, padded with the end token: nothing was masked that should not be.
    finding = only(report(arrays, eos_ids=(EOS,), pad_id=EOS), "MSK507")
    counts = {"samples": 3, "full_samples": 1, "short_samples": 2, "length": 12}
    assert finding.evidence == {**counts, "cause": "template"}


def test_two_end_tokens_in_a_row_need_one_label():
    batch = Batch((2, 12), "right", 3)
    ids = np.concatenate([batch.ids, np.full((2, 1), 3)], axis=1)
    labels = np.concatenate([np.where(batch.answer, batch.ids, IGNORE), np.full((2, 1), IGNORE)], axis=1)
    assert report({"input_ids": ids, "labels": labels}, eos_ids=(EOS, 3), pad_id=3).findings == ()


# MSK502


@pytest.mark.combinations
@pytest.mark.parametrize(("shape", "side", "pad", "mask", "shift"), GRID)
def test_nothing_is_supervised(shape, side, pad, mask, shift):
    batch = Batch(shape, side, pad)
    none, some = np.zeros(shape, bool), batch.answer.copy()
    some[1:2] = False
    for facts in ({}, batch.facts(), batch.facts(prompt_length=3, loss_shift=["model", "data"][shift])):
        finding = only(report(batch.arrays(none, shift, mask), **facts), "MSK502", "error")
        assert (finding.where.batch, finding.evidence["samples"], finding.evidence["of"]) == (
            None,
            shape[0],
            shape[0],
        )
        if shape[0] > 1:
            found = report(batch.arrays(some, shift, mask), **facts)
            assert only(found, "MSK502", "warning").where.batch == (1,)


def test_several_loss_masks_all_count():
    ids, first = np.arange(10, 34).reshape(2, 12), np.broadcast_to(np.arange(12) < 6, (2, 12)).astype(int)
    arrays = {"input_ids": ids, "completion_mask": first}
    assert loud(report(arrays | {"assistant_masks": first})) == []
    assert loud(report(arrays | {"assistant_masks": 1 - first})) == ["MSK502"]


def test_a_label_at_index_0_alone_counts_for_a_decoder_as_none():
    batch = Batch((3, 12), "none")
    taught = batch.answer.copy()
    taught[2] = np.arange(12) == 0
    finding = only(report(batch.arrays(taught)), "MSK502", "warning")
    assert (finding.where.batch, finding.evidence["labels_at_index_0"]) == ((2,), 1)
    taught[:2] = taught[2]
    assert only(report(batch.arrays(taught)), "MSK502", "error").evidence["labels_at_index_0"] == 3
    # Labels that the data moved are all counted, those of an encoder too.
    assert report(batch.arrays(taught), expect="full").findings == ()
    moved = batch.arrays(batch.answer, 1)
    moved["labels"][2, 1:] = IGNORE
    moved["labels"][2, 0] = batch.ids[2, 1]
    assert "MSK502" not in loud(report(moved))
    assert "MSK502" not in loud(report(moved, loss_shift="data"))
    # The first label may ask for the same token or for an equal one behind it.
    arrays = {
        "input_ids": np.array([[7, 7, 8, 9]]),
        "labels": np.array([[7, -100, -100, -100]]),
        "attention_mask": np.ones((1, 4), int),
    }
    assert loud(report(arrays)) == []
    assert loud(report(arrays, loss_shift="model")) == ["MSK502"]


def test_labels_of_another_shape_than_the_ids_are_seen():
    batch = Batch((2, 12), "right")
    labels = np.full((2, 7), IGNORE)
    assert only(report({"input_ids": batch.ids, "labels": labels}), "MSK502").severity == "error"
    found = report({"input_ids": batch.ids, "labels": labels + 150}, eos_ids=(EOS,))
    assert found.findings == ()
    assert {skip.code for skip in found.skipped} >= {"MSK501", "MSK506", "MSK507"}


def test_a_row_of_padding_alone_need_not_be_supervised():
    batch = Batch((3, 12), "right")
    batch.ids[1], batch.real[1], batch.answer[1] = PAD, False, False
    assert report(batch.arrays(batch.answer), **batch.facts()).findings == ()


# MSK503


@pytest.mark.combinations
@pytest.mark.parametrize(("shape", "side"), list(itertools.product(SHAPES, ["left", "right"])))
@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("prompt", [True, False], ids=["prompt ignored", "prompt supervised"])
def test_padding_that_is_supervised(shape, side, pad, prompt):
    batch = Batch(shape, side, pad)
    taught = ~batch.prompt if prompt else np.ones(shape, bool)
    arrays = batch.arrays(taught)
    first = np.zeros(shape, bool)
    if pad == EOS and side == "right":
        # Behind an end that is real, the first of the padding may be the end as well: a second label that says the same.
        rows = np.flatnonzero(~batch.real[:, -1])
        first[rows, batch.real[rows].sum(axis=1)] = True
    wrong = ~batch.real
    for facts in ({}, {"pad_id": pad}):
        finding = only(report(arrays, **facts), "MSK503", "error")
        assert finding.tensors == ("labels", "attention_mask")
        assert flagged(finding, shape) == where(wrong)
        assert finding.evidence == {"labels_on_padding": int(wrong.sum()), "supervised": int(taught.sum())}
    finding = only(report(arrays, **batch.facts()), "MSK503", "error")
    assert flagged(finding, shape) == where(wrong & ~first)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_that_is_supervised_by_moved_labels(side):
    batch = Batch((3, 12), side)
    ids = np.concatenate([batch.ids, np.full((3, 1), PAD)], axis=1)
    arrays = batch.arrays(batch.real) | {"labels": ids[:, 1:]}
    if side == "left":
        arrays["labels"][:, -1] = IGNORE
    # A label asks for padding when it stands on padding and more follows.
    wrong = np.zeros((3, 12), bool)
    for item, at in itertools.product(range(3), range(12)):
        wrong[item, at] = not batch.real[item, at] and (at == 11 or not batch.real[item, at + 1])
    finding = only(report(arrays, loss_shift="data"), "MSK503")
    assert flagged(finding, (3, 12)) == where(wrong)


def test_padding_known_from_ids_alone():
    batch = Batch((3, 12), "right")
    arrays = batch.arrays(np.ones((3, 12), bool), mask=False)
    assert flagged(only(report(arrays, pad_id=PAD), "MSK503"), (3, 12)) == where(~batch.real)
    assert "MSK503" in {skip.code for skip in report(arrays).skipped}


def test_labels_on_all_that_an_inverted_mask_calls_padding():
    batch = Batch((3, 12), "right")
    arrays = batch.arrays(batch.answer) | {"attention_mask": (~batch.real).astype(int)}
    assert "turn the mask around" in only(report(arrays), "MSK503").fix
    assert loud(report(arrays, **batch.facts())) == ["MSK102"]


@pytest.mark.parametrize("saved_ids", [True, False])
def test_padding_that_is_tagged(saved_ids):
    batch = Batch((4, 20), "right")
    tags = np.where(batch.real, np.random.default_rng(0).integers(0, 9, batch.ids.shape), 0)
    arrays = {"labels": tags, "attention_mask": batch.real.astype(int)} | (
        {"input_ids": batch.ids} if saved_ids else {}
    )
    assert flagged(only(report(arrays), "MSK503"), (4, 20)) == where(~batch.real)


def test_an_end_that_the_mask_calls_padding_may_be_supervised():
    batch = Batch((2, 12), "right", EOS)
    arrays = batch.arrays(batch.answer)
    arrays["attention_mask"] = (batch.ids != EOS).astype(int)
    for facts in ({}, {"eos_ids": (EOS,)}, {"pad_id": EOS}, batch.facts()):
        assert report(arrays, **facts).findings == ()


# MSK504 and MSK506


@pytest.mark.combinations
@pytest.mark.parametrize(("shape", "side", "pad", "mask", "shift"), GRID)
def test_a_prompt_that_is_supervised(shape, side, pad, mask, shift):
    batch = Batch(shape, side, pad)
    known = batch.facts(prompt_length=3)
    finding = only(report(batch.arrays(batch.real, shift, mask), **known), "MSK504", "warning")
    starts = batch.real.argmax(axis=1)
    assert flagged(finding, shape) == {
        (item, int(start) + n) for item, start in enumerate(starts) for n in (1, 2)
    }
    assert finding.evidence == {"prompt_tokens": 2 * shape[0], "prompt_length": 3}
    # Without a declared length it is a choice.
    found = report(batch.arrays(batch.real, shift, mask), **batch.facts())
    assert loud(found) == []
    assert "MSK504" in {skip.code for skip in found.skipped}


@pytest.mark.combinations
@pytest.mark.parametrize(("shape", "side", "pad", "mask", "shift"), GRID)
def test_an_answer_that_starts_one_late(shape, side, pad, mask, shift):
    batch = Batch(shape, side, pad)
    starts = batch.real.argmax(axis=1) + 3
    taught = batch.answer.copy()
    taught[np.arange(shape[0]), starts] = False
    known = batch.facts(prompt_length=3, loss_shift=["model", "data"][shift])
    finding = only(report(batch.arrays(taught, shift, mask), **known), "MSK506", "warning")
    assert flagged(finding, shape) == {(item, int(start)) for item, start in enumerate(starts)}
    assert finding.evidence == {"late_starts": shape[0]}


@pytest.mark.combinations
@pytest.mark.parametrize(("shape", "side", "shift"), list(itertools.product(SHAPES, SIDES, [0, 1])))
def test_an_answer_that_ends_one_early(shape, side, shift):
    batch = Batch(shape, side)
    taught = batch.answer & (batch.ids != EOS)
    for facts in (batch.facts(), batch.facts(prompt_length=3)):
        finding = only(report(batch.arrays(taught, shift), **facts), "MSK506", "warning")
        assert flagged(finding, shape) == {(item, end) for item, end in enumerate(batch.ends)}
        assert finding.evidence == {"early_ends": shape[0]}


def test_an_answer_that_starts_two_late_is_another_prompt():
    batch = Batch((3, 20), "left")
    assert report(batch.arrays(batch.answer), **batch.facts(prompt_length=1)).findings == ()


# MSK505


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("shape", "side", "pad", "mask"), list(itertools.product(SHAPES, SIDES, PADS, [True, False]))
)
@pytest.mark.parametrize(
    ("shift", "declared", "severity"),
    [
        (1, None, "note"),
        (1, "model", "error"),
        (2, None, "error"),
        (2, "model", "error"),
        (2, "data", "error"),
        (0, "data", "error"),
    ],
)
def test_labels_that_are_moved(shape, side, pad, mask, shift, declared, severity):
    batch = Batch(shape, side, pad)
    facts = [{}, batch.facts()]
    for known in facts:
        found = report(batch.arrays(batch.real, shift, mask), **known, loss_shift=declared)
        (finding,) = [finding for finding in found.findings if finding.code.startswith("MSK5")]
        assert (finding.code, finding.severity, finding.evidence["places"]) == ("MSK505", severity, shift)
        # Every token that far from the start of its row is the label of another; without padding known the last are left out.
        asked, counted = int(batch.real[:, shift:].sum()), finding.evidence["agreeing_labels"]
        assert (
            counted == asked if mask or known or shift == 0 else asked - shift * shape[0] <= counted <= asked
        )


@pytest.mark.parametrize("shape", [(1, 12), (3, 40)])
@pytest.mark.parametrize("period", [1, 2])
def test_texts_that_repeat_themselves_say_nothing(shape, period):
    ids = np.broadcast_to(WORDS + np.arange(shape[1]) % period, shape)
    for shift, declared in itertools.product((0, 2), (None, "model")):
        labels = np.roll(ids, -shift, axis=1)
        assert loud(report({"input_ids": ids, "labels": labels}, loss_shift=declared)) == []


def test_texts_that_repeat_themselves_are_not_decided():
    ids = np.full((2, 12), WORDS)
    ids[:, 0] = BOS
    arrays = {"input_ids": ids, "labels": np.concatenate([ids[:, 1:], ids[:, -1:]], axis=1)}
    arrays["labels"][:, :4], arrays["attention_mask"] = IGNORE, np.ones_like(ids)
    found = report(arrays, eos_ids=(EOS,), prompt_length=2)
    assert loud(found) == ["MSK507"]
    assert {skip.code for skip in found.skipped} >= {"MSK501", "MSK504", "MSK506"}
    # One and two places on fit alike, the same place does not: which of them is wrong cannot be told.
    ids = np.array([[*range(WORDS, WORDS + 12), 50, 60, 60, 60]])
    labels = np.full_like(ids, IGNORE)
    labels[0, 12:] = 60
    found = report(
        {"input_ids": ids, "labels": labels, "attention_mask": np.ones_like(ids)}, loss_shift="model"
    )
    assert loud(found) == []


def test_few_labels_say_nothing():
    ids = np.array([[11, 12, 13, 12, 15]])
    labels = np.array([[IGNORE, 12, IGNORE, IGNORE, IGNORE]])
    labels_moved = np.array([[IGNORE, IGNORE, 15, IGNORE, IGNORE]])
    real = np.ones((1, 5), int)
    for each in (labels, labels_moved):
        assert loud(report({"input_ids": ids, "labels": each, "attention_mask": real}, eos_ids=(EOS,))) == []


def test_labels_of_a_decoder_side_moved_twice():
    rng = np.random.default_rng(0)
    target = rng.integers(WORDS, SIZE, (3, 10))
    arrays = {
        "input_ids": rng.integers(WORDS, SIZE, (3, 6)),
        "decoder_input_ids": np.concatenate([np.zeros((3, 1), int), target[:, :-1]], axis=1),
        "labels": np.concatenate([target[:, 1:], np.full((3, 1), IGNORE)], axis=1),
    }
    assert only(report(arrays), "MSK505", "error").evidence["places"] == 2


# MSK507


@pytest.mark.parametrize(("shape", "side"), list(itertools.product(SHAPES[1:], ["left", "right"])))
@pytest.mark.parametrize("shift", [0, 1])
def test_a_template_without_an_end(shape, side, shift):
    batch = Batch(shape, side)
    batch.ids[batch.ids == EOS] = 7
    short = int((~batch.real.all(axis=1)).sum())
    finding = only(report(batch.arrays(batch.answer, shift), **batch.facts()), "MSK507", "warning")
    counts = {"samples": shape[0], "full_samples": shape[0] - short, "short_samples": short}
    assert finding.evidence == {**counts, "length": shape[1], "cause": "template"}
    assert f"{short} of {shape[0]}" in finding.message


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_answers_that_were_cut(shape, mask, shift):
    batch = Batch(shape, "none")
    batch.ids[batch.ids == EOS] = 7
    finding = only(report(batch.arrays(batch.answer, shift, mask), **batch.facts()), "MSK507", "warning")
    counts = {"samples": shape[0], "full_samples": shape[0], "short_samples": 0}
    assert finding.evidence == {**counts, "length": shape[1], "cause": "truncation"}
    assert f"all {shape[1]} places" in finding.message


# MSK508


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("value", "facts"),
    [
        (-2, {}),
        (-1, {}),
        (-100, {"ignore_index": -1}),
        (SIZE, {"vocab_size": SIZE}),
        (9 * SIZE, {"vocab_size": SIZE}),
    ],
)
def test_a_label_that_no_token_has(shape, value, facts):
    batch = Batch(shape, "right")
    ignore = facts.get("ignore_index", IGNORE)
    arrays = batch.arrays(batch.answer, ignore=ignore)
    arrays["labels"][0, 0], arrays["labels"][-1, 1] = value, ignore
    finding = only(report(arrays, **facts), "MSK508", "error")
    assert flagged(finding, shape) == {(0, 0)}
    assert finding.evidence == {"values": 1, "lowest": value, "highest": value}


@pytest.mark.parametrize("value", [-1, -200, SIZE])
@pytest.mark.parametrize("labels", [True, False])
def test_an_id_that_no_token_has(value, labels):
    batch = Batch((3, 12), "right")
    arrays = batch.arrays(batch.answer)
    arrays["input_ids"][2, 0] = value
    if not labels:
        del arrays["labels"]
    finding = only(report(arrays, vocab_size=SIZE), "MSK508", "error")
    assert (flagged(finding, (3, 12)), finding.tensors) == ({(2, 0)}, ("input_ids",))


@pytest.mark.parametrize("ignore", [-1, -100, 0, SIZE])
def test_an_ignore_index_is_no_invalid_label(ignore):
    batch = Batch((3, 12), "right", 3)
    facts = {"ignore_index": ignore, "vocab_size": SIZE}
    assert report(batch.arrays(batch.answer, ignore=ignore), **facts).findings == ()
    if ignore < 0:
        assert report(batch.arrays(batch.answer, ignore=ignore), vocab_size=SIZE).findings == ()


# What is shown


def test_the_command_and_the_token_of_a_finding_are_those_of_its_place(tmp_path):
    batch = Batch((4, 20), "right", EOS)
    file = tmp_path / "batch.safetensors"
    arrays = batch.arrays(batch.answer & (batch.ids != EOS))
    arrays["labels"][0, batch.ends[0]] = EOS
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
    said = run("diagnose", file, "--eos-id", EOS, "--pad-id", EOS, "--format", "json", check=1).stdout
    (finding,) = json.loads(said)["findings"]
    program, *arguments = shlex.split(finding["see"])
    end = batch.ends[1]
    assert (program, arguments) == (
        "maskcli",
        ["inspect", f"{file}:labels", "--rows", "1:2", "--keys", f"{end}:{end + 1}"],
    )
    assert run(*arguments, check=0).stdout.split()[-2:] == ["1", str(IGNORE)]
    found = diagnose(from_arrays(arrays), Declared(eos_ids=(EOS,), pad_id=EOS), token=str)
    assert the(found, "MSK501").tokens == (str(EOS),)


# Real collators


@pytest.fixture(scope="module")
def tokenizers():
    """Two tokenizers of words that end every text with </s>: padded with <pad>, and with </s> itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {
        word: at
        for at, word in enumerate(
            ["<pad>", "<s>", "</s>", "<unk>", *"the cat sat on mat dogs ran far".split()]
        )
    }
    made = {}
    for pad in ("<pad>", "</s>"):
        backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        made[pad] = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=pad
        )
    return made


TEXTS = ["the cat sat on the mat", "dogs ran far", "the dogs sat"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_batches_of_the_causal_language_model_collator(tokenizers, side, pad):
    from transformers import DataCollatorForLanguageModeling

    tokenizer = tokenizers[pad]
    tokenizer.padding_side = side
    batch = dict(DataCollatorForLanguageModeling(tokenizer, mlm=False)([tokenizer(text) for text in TEXTS]))
    # This collator ignores labels by the id of padding, so that it hides the ends as well when they are the same.
    masked_by_id = bool((batch["labels"][batch["input_ids"] == tokenizer.pad_token_id] == IGNORE).all())
    facts = {"pad_id": tokenizer.pad_token_id, "eos_ids": (2,), "bos_ids": (1,), "vocab_size": len(tokenizer)}
    found = report(batch, **facts)
    if pad == "</s>" and masked_by_id:
        finding = only(found, "MSK501", "error")
        real = batch["attention_mask"].numpy()
        ends = [row.nonzero()[0].max() for row in real]
        assert flagged(finding, real.shape) == {(item, int(end)) for item, end in enumerate(ends)}
    else:
        assert found.findings == ()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_batches_of_the_seq2seq_collator(tokenizers, side, pad):
    from transformers import DataCollatorForSeq2Seq

    tokenizer = tokenizers[pad]
    tokenizer.padding_side = side
    collate = DataCollatorForSeq2Seq(tokenizer)
    answers = [
        tokenizer(text) | {"labels": [IGNORE] * 2 + tokenizer(text)["input_ids"][2:]} for text in TEXTS
    ]
    translations = [
        tokenizer(text) | {"labels": tokenizer(" ".join(text.split()[::-1]))["input_ids"]} for text in TEXTS
    ]
    facts = {"pad_id": tokenizer.pad_token_id, "eos_ids": (2,), "bos_ids": (1,), "vocab_size": len(tokenizer)}
    assert report(dict(collate(answers)), **facts).findings == ()
    assert report(dict(collate(answers)), **facts, prompt_length=2, loss_shift="model").findings == ()
    assert report(dict(collate(translations)), **facts).findings == ()
    assert only(report(dict(collate(answers)), **facts, prompt_length=4), "MSK504").evidence[
        "prompt_tokens"
    ] == 2 * len(TEXTS)


def test_batches_of_the_flattening_collator(tokenizers):
    from transformers import DataCollatorWithFlattening

    rows = [{"input_ids": tokenizers["</s>"](text)["input_ids"]} for text in TEXTS]
    batch = dict(DataCollatorWithFlattening(return_tensors="pt")(rows))
    for pad_id in (None, 0, 2):
        assert report(batch, pad_id=pad_id, eos_ids=(2,), bos_ids=(1,)).findings == ()
    batch["labels"][batch["input_ids"] == 2] = IGNORE
    assert only(report(batch, pad_id=2, eos_ids=(2,)), "MSK501").evidence["unsupervised_ends"] == len(TEXTS)
