"""Training batches as trainers make them: each fault as it was reported, called by its rule alone, beside its healthy twin."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from maskcli.meant.model_config import Config, config_of
from tests.diagnostics.attention import loud, report, the
from tests.diagnostics.test_labels import cells

PAD, BOS, EOS, IMAGE, MASK = 0, 1, 2, 7, 4
IGNORE = -100
KNOWN = {"pad_id": PAD, "eos_ids": (EOS,), "bos_ids": (BOS,)}
DECODER = Config("config.json", "--model", "causal", (), None, None, (), (), None)


def whole(config):
    return {"model": config_of(config, {}, "config.json", "--model")}


T5 = KNOWN | whole(
    {"model_type": "t5", "is_encoder_decoder": True, "decoder_start_token_id": 0, "pad_token_id": 0}
)
WHISPER = {"pad_id": 90, "eos_ids": (EOS,), "bos_ids": (EOS,)} | whole(
    {"model_type": "whisper", "is_encoder_decoder": True, "decoder_start_token_id": 50}
)
ROBERTA = whole({"model_type": "roberta", "pad_token_id": 1, "architectures": ["RobertaForMaskedLM"]})
BERT = whole({"model_type": "bert", "pad_token_id": 0, "architectures": ["BertForMaskedLM"]})
VISION = {"model": replace(DECODER, media_ids=(IMAGE,))} | KNOWN


def text(lengths, width=16, side="right", pad=PAD, seed=0):
    """Ids [B, L] of texts with a beginning and an end, and which of them are real."""
    rng = np.random.default_rng(seed)
    ids, real = np.full((len(lengths), width), pad), np.zeros((len(lengths), width), bool)
    for row, length in enumerate(lengths):
        at = slice(width - length, width) if side == "left" else slice(0, length)
        ids[row, at] = [BOS, *rng.permutation(np.arange(20, 90))[: length - 2], EOS]
        real[row, at] = True
    return ids, real


IDS, REAL = text([10, 16, 13])
FULL, _ = text([16, 16, 16])
LEFT, LEFT_REAL = text([10, 16, 13], side="left")
PROMPT = 4
FIRST = REAL.argmax(1)[:, None]
ANSWER = REAL & (np.arange(16) >= PROMPT)
LEFT_ANSWER = LEFT_REAL & (np.arange(16) >= LEFT_REAL.argmax(1)[:, None] + PROMPT)
LABELS = np.where(ANSWER, IDS, IGNORE)


def moved(rows, places=1, fill=IGNORE):
    """Rows moved to the left (or, by a negative number, to the right)."""
    out = np.full_like(rows, fill)
    if places >= 0:
        out[:, : rows.shape[1] - places] = rows[:, places:]
    else:
        out[:, -places:] = rows[:, :places]
    return out


def at(flags):
    return {(int(row), int(token)) for row, token in np.argwhere(flags)}


def batch(ids=IDS, real=REAL, labels=LABELS, **more):
    arrays = {
        "input_ids": ids,
        "attention_mask": None if real is None else real.astype(int),
        "labels": labels,
    }
    return {name: array for name, array in (arrays | more).items() if array is not None}


class Case(NamedTuple):
    """A batch that is sick, the one rule that calls it, at which tokens, its healthy twin, and what is declared."""

    sick: dict
    code: str
    cells: set
    healthy: dict
    facts: tuple = ({}, KNOWN)
    severity: str = "error"


def rows_of(flags, *rows):
    """The flagged tokens of some rows."""
    chosen = np.isin(np.arange(len(flags)), rows)[:, None]
    return at(flags & chosen)


SWAPPED = LABELS[[0, 2, 1]]
STRANGE = np.where(REAL, np.where((np.arange(3) == 1)[:, None], IDS + 100, IDS), IGNORE)
RIGHT_OF_LEFT = np.concatenate([LEFT[:1, 6:], LEFT[:1, :6]], 1)
MISCOUNTED = {
    n: np.concatenate(
        [moved(np.where(LEFT_ANSWER, LEFT, IGNORE)[:1], n), np.where(LEFT_ANSWER, LEFT, IGNORE)[1:]]
    )
    for n in (1, 2, 3, 4)
}
NEXT = moved(IDS, 1, 33)
COUNTED = moved(ANSWER, 1, False)

CASES = {
    "ids padded on the left and labels on the right": Case(
        batch(LEFT, LEFT_REAL, LABELS), "MSK514", rows_of(ANSWER, 0, 2), batch(LEFT, LEFT_REAL, np.where(LEFT_ANSWER, LEFT, IGNORE)),
    ),
    **{
        f"padding of labels miscounted by {n}": Case(
            batch(LEFT, LEFT_REAL, labels), "MSK514", rows_of(labels != IGNORE, 0),
            batch(LEFT, LEFT_REAL, np.where(LEFT_ANSWER, LEFT, IGNORE)),
        )
        for n, labels in MISCOUNTED.items()
    },
    "padding of labels miscounted by 3 in every row": Case(
        batch(FULL, None, moved(FULL, 3)), "MSK514", at(moved(FULL, 3) != IGNORE), batch(FULL, None, FULL)
    ),
    "labels moved the wrong way": Case(
        batch(labels=moved(LABELS, -1)), "MSK514", at(moved(LABELS, -1) != IGNORE), batch()
    ),
    "labels of two rows swapped": Case(batch(labels=SWAPPED), "MSK514", rows_of(SWAPPED != IGNORE, 1, 2), batch()),
    "labels of a text that is not there": Case(
        batch(labels=STRANGE), "MSK514", rows_of(REAL, 1), batch(labels=np.where(REAL, IDS, IGNORE))
    ),
    "labels shorter than ids": Case(batch(labels=LABELS[:, 1:]), "MSK515", set(), batch()),
    "few labels, one of them of id 0, shorter than ids": Case(
        {"input_ids": FULL * (np.arange(16) != 8), "labels": (moved(FULL, 1, 0) * (np.arange(16) != 7))[:, 5:9]}, "MSK515", set(),
        {"input_ids": FULL * (np.arange(16) != 8), "labels": np.where((np.arange(16) > 5) & (np.arange(16) < 10), FULL * (np.arange(16) != 8), IGNORE)},
    ),
    "a loss mask shorter than ids": Case(
        batch(labels=None, completion_mask=ANSWER[:, :-1].astype(int)), "MSK515", set(),
        batch(labels=None, completion_mask=ANSWER.astype(int)),
    ),
    "a loss mask of ones": Case(
        batch(labels=None, assistant_masks=np.ones_like(IDS)), "MSK503", at(~REAL),
        batch(labels=None, assistant_masks=ANSWER.astype(int)),
    ),
    "a loss mask of ones without padding": Case(
        batch(FULL, None, None, assistant_masks=np.ones_like(IDS)), "MSK504", at(FULL > -1),
        batch(FULL, None, None, assistant_masks=(np.arange(16) > 3) * np.ones_like(IDS)), severity="warning",
    ),
    "a loss mask of zeros": Case(
        batch(labels=None, assistant_masks=np.zeros_like(IDS)), "MSK502", set(),
        batch(labels=None, assistant_masks=ANSWER.astype(int)),
    ),
    "a loss mask of zeros beside labels": Case(
        batch(loss_mask=np.zeros(IDS.shape, np.float32)), "MSK502", set(), batch(loss_mask=ANSWER.astype(np.float32))
    ),
    "a completion mask padded on the other side": Case(
        batch(labels=None, completion_mask=LEFT_ANSWER.astype(int)), "MSK503", rows_of(LEFT_ANSWER & ~REAL, 0, 2),
        batch(labels=None, completion_mask=ANSWER.astype(int)),
    ),
    "moved labels that count padding": Case(
        {"input_ids": IDS, "attention_mask": REAL.astype(int), "shift_labels": moved(np.where(np.arange(16) >= PROMPT, IDS, IGNORE))},
        "MSK503", at(moved(~REAL, 1, False)),
        {"input_ids": IDS, "attention_mask": REAL.astype(int), "shift_labels": moved(LABELS)},
        (KNOWN,),
    ),
    "moved labels that count padding, beside others": Case(
        batch(shift_labels=moved(np.where(np.arange(16) >= PROMPT, IDS, IGNORE))), "MSK503",
        at(moved(~REAL, 1, False)), batch(shift_labels=moved(LABELS)), (KNOWN,),
    ),
    "a label lost where ranks cut the row": Case(
        {"input_ids": FULL, "shift_labels": np.where(np.isin(np.arange(16), (3, 7, 11)), IGNORE, moved(FULL))}, "MSK506",
        {(row, token) for row in range(3) for token in (4, 8, 12)}, {"input_ids": FULL, "shift_labels": moved(FULL)},
        severity="warning",
    ),
    "Megatron counts padding": Case(
        {"tokens": IDS, "labels": NEXT, "loss_mask": np.ones(IDS.shape, np.float32), "attention_mask": REAL.astype(int)},
        "MSK503", at(np.concatenate([~REAL[:, 1:], ~REAL[:, -1:]], 1)),
        {"tokens": IDS, "labels": NEXT, "loss_mask": moved(REAL, 1, False).astype(np.float32), "attention_mask": REAL.astype(int)},
        (KNOWN,),
    ),
    "labels of images": Case(
        batch(np.where((np.arange(16) > 4) & (np.arange(16) < 8), IMAGE, IDS), labels=np.where((np.arange(16) > 4) & (np.arange(16) < 8), IMAGE, LABELS)),
        "MSK517", {(row, token) for row in range(3) for token in (5, 6, 7)},
        batch(np.where((np.arange(16) > 4) & (np.arange(16) < 8), IMAGE, IDS), labels=np.where((np.arange(16) > 4) & (np.arange(16) < 8), IGNORE, LABELS)),
        (VISION,),
    ),
    "labels of padding inside a row": Case(
        batch(np.where(np.isin(np.arange(16), (6, 7)), PAD, IDS), labels=np.where(np.isin(np.arange(16), (6, 7)), PAD, LABELS)),
        "MSK517", {(row, token) for row in range(3) for token in (6, 7)},
        batch(np.where(np.isin(np.arange(16), (6, 7)), PAD, IDS), labels=np.where(np.isin(np.arange(16), (6, 7)), IGNORE, LABELS)),
        (KNOWN,),
    ),
    "an end twice": Case(
        batch(np.where(np.arange(16) == 8, EOS, IDS)[:1], REAL[:1], np.where(np.arange(16) == 8, EOS, LABELS)[:1]),
        "MSK513", {(0, 9)}, batch(IDS[:1], REAL[:1], LABELS[:1]), (KNOWN,), "warning",
    ),
    "a line break behind the end": Case(
        batch(np.where(np.arange(16) == 10, 11, IDS)[:1], (np.arange(16) < 11)[None], np.where(np.arange(16) == 10, 11, LABELS)[:1]),
        "MSK513", {(0, 10)},
        batch(np.where(np.arange(16) == 10, 11, IDS)[:1], (np.arange(16) < 11)[None], LABELS[:1]), (KNOWN,), "warning",
    ),
    "a beginning twice": Case(
        batch(np.where((np.arange(16) == FIRST + 1), BOS, IDS)), "MSK409", {(0, 1), (1, 1), (2, 1)}, batch(), (KNOWN,), "warning"
    ),
}  # fmt: skip

LENGTHS = (5, 7, 4)
DOCUMENTS = np.repeat(np.arange(3), LENGTHS)[None]
PACKED = np.concatenate([text([length], length, seed=length)[0] for length in LENGTHS], 1)
RESTART = np.concatenate([np.arange(length) for length in LENGTHS])[None]
STARTS = {(0, 5), (0, 12)}
TOLD = {
    "segment_ids": DOCUMENTS, "seq_idx": DOCUMENTS, "attention_mask": DOCUMENTS + 1, "seq_lens": np.array([LENGTHS]),
    "seq_lengths": np.array([LENGTHS]), "cu_seqlens": np.array([0, 5, 12, 16]), "seq_start_id": np.array([[0, 5, 12, -1]]),
}  # fmt: skip
BORDERS = np.where(RESTART == 0, IGNORE, PACKED)
for name, told in TOLD.items():
    packed = {"input_ids": PACKED, name: told}
    CASES[f"the first token of a document is counted, by {name}"] = Case(
        packed | {"labels": PACKED}, "MSK516", STARTS, packed | {"labels": BORDERS}
    )
    CASES[f"the data moves it, by {name}"] = Case(
        packed | {"shift_labels": moved(PACKED)}, "MSK516", STARTS, packed | {"shift_labels": moved(BORDERS)}
    )
    CASES[f"positions run through documents, by {name}"] = Case(
        packed | {"labels": BORDERS, "position_ids": np.arange(16)[None]}, "MSK410", STARTS,
        packed | {"labels": BORDERS, "position_ids": RESTART},
    )  # fmt: skip
    CASES[f"positions stand still, by {name}"] = Case(
        packed | {"labels": BORDERS, "input_pos": np.ones((1, 16), int)}, "MSK410", {(0, token) for token in range(16)},
        packed | {"labels": BORDERS, "input_pos": RESTART},
    )  # fmt: skip

SOURCE, SOURCE_REAL = text([12, 9, 11], 12, seed=3)
TARGET, TARGET_REAL = text([7, 5, 6], 7, seed=4)
TARGET, TARGET_REAL = TARGET[:, 1:], TARGET_REAL[:, 1:]
LINES = np.where(TARGET_REAL, TARGET, IGNORE)
START = np.concatenate([np.zeros((3, 1), int), np.where(TARGET_REAL, TARGET, PAD)[:, :-1]], 1)


def pair(labels=LINES, decoder=None, **more):
    arrays = {"input_ids": SOURCE, "attention_mask": SOURCE_REAL.astype(int), "labels": labels} | more
    return arrays | ({} if decoder is None else {"decoder_input_ids": decoder})


PADDED_TARGET = np.where(TARGET_REAL, TARGET, PAD)
SAME_LENGTH = np.concatenate([PADDED_TARGET, np.zeros((3, 6), int)], 1)
SPEECH = np.array([[51, 52, 30, 31, 32, 2], [51, 52, 33, 34, 2, IGNORE]])
HEARD = np.array([[50, 51, 52, 30, 31, 32], [50, 51, 52, 33, 34, 2]])
CASES |= {
    "padding in the labels of T5": Case(pair(PADDED_TARGET), "MSK503", at(~TARGET_REAL), pair(), (T5,)),
    "padding in the labels of T5, with decoder ids": Case(
        pair(PADDED_TARGET, START), "MSK503", at(~TARGET_REAL), pair(decoder=START), (T5,)
    ),
    "padding in the labels of T5, as long as the source": Case(
        pair(SAME_LENGTH), "MSK503", at(SAME_LENGTH == PAD), pair(np.where(SAME_LENGTH == PAD, IGNORE, SAME_LENGTH)), (T5,)
    ),
    "decoder ids without a start": Case(
        pair(decoder=PADDED_TARGET), "MSK412", {(0, 0), (1, 0), (2, 0)}, pair(decoder=START), (T5,)
    ),
    "Whisper's start in the labels": Case(
        {"labels": np.concatenate([np.full((2, 1), 50), SPEECH], 1)}, "MSK412", {(0, 0), (1, 0)}, {"labels": SPEECH}, (WHISPER,)
    ),
    "Whisper's start twice": Case(
        {"decoder_input_ids": np.concatenate([np.full((2, 1), 50), HEARD], 1), "labels": np.concatenate([np.full((2, 1), 50), SPEECH], 1)},
        "MSK409", {(0, 1), (1, 1)}, {"decoder_input_ids": HEARD, "labels": SPEECH}, (WHISPER,), "warning",
    ),
    "the first target has no label": Case(
        pair(np.where(np.arange(6) == 0, IGNORE, LINES), START), "MSK506", {(0, 0), (1, 0), (2, 0)}, pair(decoder=START), (T5, {}),
        "warning",
    ),
}  # fmt: skip

OTHER_IDS = np.where(IDS == BOS, 3, np.where(IDS == PAD, 1, IDS))
CHOSEN = np.random.default_rng(2).random(IDS.shape) < 0.3
MASKED = np.where(CHOSEN & REAL, MASK, IDS)
MASKED_PADS = np.where(CHOSEN, MASK, IDS)
CASES |= {
    "masked language model: labels on padding": Case(
        batch(MASKED_PADS, labels=np.where(CHOSEN, IDS, IGNORE)), "MSK503", at(CHOSEN & ~REAL),
        batch(MASKED, labels=np.where(CHOSEN & REAL, IDS, IGNORE)), ({}, {"pad_id": PAD}, KNOWN),
    ),
    "masked language model: labels on words that are seen": Case(
        batch(MASKED, labels=np.where(REAL, IDS, IGNORE)), "MSK502", at(REAL & ~CHOSEN),
        batch(MASKED, labels=np.where(CHOSEN & REAL, IDS, IGNORE)), ({}, {"pad_id": PAD}, KNOWN), "warning",
    ),
    "RoBERTa counted from 0": Case(
        {"input_ids": OTHER_IDS, "position_ids": np.arange(16)[None] * np.ones((3, 1), int)}, "MSK411", {(0, 0), (1, 0), (2, 0)},
        {"input_ids": OTHER_IDS, "position_ids": np.arange(2, 18)[None] * np.ones((3, 1), int)}, (ROBERTA,),
    ),
    "BERT counted as RoBERTa": Case(
        {"input_ids": IDS, "position_ids": np.arange(1, 17)[None] * np.ones((3, 1), int)}, "MSK411", {(0, 0), (1, 0), (2, 0)},
        {"input_ids": IDS, "position_ids": np.arange(16)[None] * np.ones((3, 1), int)}, (BERT,),
    ),
}  # fmt: skip


@pytest.mark.combinations
@pytest.mark.parametrize("name", CASES)
def test_a_fault_and_its_healthy_twin(name):
    case = CASES[name]
    for facts in case.facts:
        found = report(case.sick, **facts)
        assert loud(found) == [case.code], [(each.code, each.message) for each in found.findings]
        finding = the(found, case.code)
        assert finding.severity == case.severity
        samples = max(len(array) for array in case.sick.values() if array.ndim == 2)
        assert not case.cells or {cell for cell in cells(finding) if cell[0] < samples} == case.cells
        assert "{}" not in finding.message
        healthy = report(case.healthy, **facts)
        assert loud(healthy) == [], [(each.code, each.message) for each in healthy.findings]


def test_an_end_that_begins_texts_too_stands_twice_between_them():
    stream = np.array(
        [
            [EOS, 20, 21, EOS, EOS, 22, 23, EOS],
            [EOS, EOS, 24, 25, 26, EOS, EOS, 27],
            [28, 29, 30, EOS, EOS, 31, EOS, EOS],
        ]
    )
    known = {"eos_ids": (EOS,), "bos_ids": (EOS,)}
    assert loud(report(batch(stream, None, stream), **known)) == []
    doubled = np.concatenate([np.full((3, 2), EOS), 40 + np.arange(18).reshape(3, 6)], 1)
    assert loud(report({"input_ids": doubled}, **known)) == ["MSK409"]


def test_rows_cut_out_of_a_long_text_may_begin_with_the_end_before_them():
    """Where padding is the end, one such token at an edge is no padding."""
    stream = np.array([[EOS, BOS, 20, 21, 22, EOS], [BOS, 23, 24, 25, 26, 27], [28, 29, EOS, BOS, 30, 31]])
    known = {"pad_id": EOS, "eos_ids": (EOS,), "bos_ids": (BOS,)}
    for mask in (None, np.ones_like(stream)):
        assert loud(report(batch(stream, mask, stream), **known)) == []


def test_packed_texts_that_meet_in_the_middle_lose_no_label():
    ids = np.array([[BOS, 20, 21, 22, 23, 24, 25, EOS, BOS, 26, 27, 28, 29, 30, 31, EOS]] * 2)
    labels = np.where(np.arange(16) == 7, IGNORE, moved(ids))
    assert loud(report({"input_ids": ids, "shift_labels": labels}, **KNOWN)) == []


def test_holes_of_two_rows_are_told_apart():
    real = REAL.astype(int)
    real[0, 3] = real[1, 7] = real[1, 9] = 0
    finding = the(report(batch(real=real), **KNOWN), "MSK402")
    assert [(spot.batch, spot.keys) for spot in finding.places] == [
        ((0,), ((3, 4),)),
        ((1,), ((7, 8), (9, 10))),
    ]
    assert "key 3 of sample 0, keys 7, 9 of sample 1" in finding.message


def test_padding_of_another_id_is_a_note_that_names_it():
    (finding,) = report(batch(np.where(REAL, IDS, 9)), **KNOWN).findings
    assert (finding.code, finding.severity, finding.evidence["pad_id"]) == ("MSK402", "note", 9)
    assert "--pad-id 9" in finding.fix


@pytest.mark.parametrize("hidden", ["behind the labels", "the labels' own mask"])
def test_a_decoder_mask_that_hides_only_what_no_label_asks_for(hidden):
    mask = TARGET_REAL.astype(int)
    if hidden == "behind the labels":
        mask = np.concatenate([np.ones((3, 1), int), mask[:, :-1]], 1)
    healthy = pair(decoder=START, decoder_attention_mask=mask)
    for facts in ({}, KNOWN, T5):
        assert loud(report(healthy, **facts)) == []
    mask[0, 2] = 0
    assert loud(report(pair(decoder=START, decoder_attention_mask=mask), **T5)) == ["MSK402"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_that_hold_whole_numbers_are_labels_too(dtype):
    found = report(batch(labels=LABELS.astype(dtype)), **KNOWN)
    assert [(each.code, each.severity) for each in found.findings] == [("MSK508", "note")]
    padded = np.where(REAL, LABELS, IDS).astype(dtype)
    assert loud(report(batch(labels=padded), **KNOWN)) == ["MSK503"]
    # Shares of classes, and numbers to be met, are none.
    for other in (np.eye(3, dtype=dtype), LABELS.astype(dtype) + dtype(0.5)):
        assert report(batch(labels=other), **KNOWN).findings == ()


def test_labels_that_are_no_text_leave_rules_undecided():
    tags = np.where(ANSWER, np.random.default_rng(0).integers(0, 9, IDS.shape), IGNORE)
    found = report(batch(labels=tags), **KNOWN)
    assert found.findings == ()
    skipped = {skip.code: skip.needs for skip in found.skipped}
    assert {"MSK501", "MSK506", "MSK513"} <= set(skipped)
    assert any("fit at no shift" in need for need in skipped["MSK506"])


@pytest.mark.parametrize("pad", [PAD, EOS])
def test_no_fix_advises_the_id_where_padding_is_the_end(pad):
    ids = np.where(REAL, IDS, pad)
    found = report(batch(ids, np.ones_like(REAL)), **KNOWN | {"pad_id": pad})
    finding = next(each for each in found.findings if each.code == "MSK401")
    assert ("ids != pad_id" in finding.fix) == (pad != EOS)


@pytest.mark.parametrize("words", ["prompt_length", "prompt_lengths"])
def test_prompts_of_another_length_in_each_row(words):
    lengths = np.array([2, 5, 3])
    taught = REAL & (np.arange(16) >= lengths[:, None])
    healthy = batch(labels=np.where(taught, IDS, IGNORE), **{words: lengths})
    assert loud(report(healthy, **KNOWN)) == []
    finding = the(report(healthy | {"labels": np.where(REAL, IDS, IGNORE)}, **KNOWN), "MSK504")
    assert cells(finding) == {
        (row, token) for row, length in enumerate(lengths) for token in range(1, length)
    }
    late = REAL & (np.arange(16) > lengths[:, None])
    found = report(healthy | {"labels": np.where(late, IDS, IGNORE)}, **KNOWN)
    assert loud(found) == ["MSK506"]
    assert {cell for cell in cells(the(found, "MSK506")) if cell[0] < 3} == {(0, 2), (1, 5), (2, 3)}


@pytest.mark.combinations
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("pad", [PAD, EOS])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("facts", ["nothing", "the ends", "all"])
def test_right_batches_of_megatron_are_silent(rows, pad, mask, facts):
    ids = np.where(REAL, IDS, pad)[:rows]
    labels = np.concatenate([ids[:, 1:], np.full((rows, 1), pad)], 1)
    arrays = {
        "tokens": ids, "labels": labels, "loss_mask": moved(REAL, 1, False)[:rows].astype(np.float32),
        "position_ids": np.arange(16)[None].repeat(rows, 0),
    }  # fmt: skip
    arrays |= {"attention_mask": REAL[:rows].astype(int)} if mask else {}
    known = {"nothing": {}, "the ends": {"eos_ids": (EOS,)}, "all": KNOWN | {"pad_id": pad}}[facts]
    assert loud(report(arrays, **known)) == []


def test_only_a_text_that_stands_where_it_begins_tells_where_positions_begin():
    """Neither a row of padding alone nor a text behind padding that is counted says how the model counts."""
    positions = np.arange(2, 18)[None] * np.ones((3, 1), int)
    real = np.ones((3, 16), int)
    positions[1], real[1] = 0, 0
    given = {"input_ids": OTHER_IDS, "attention_mask": real, "position_ids": positions}
    assert "MSK411" not in codes_of(given, ROBERTA)
    positions[0] -= 2
    assert "MSK411" in codes_of(given, ROBERTA)

    counted = np.arange(16)[None] * np.ones((3, 1), int)
    real = (np.arange(16) >= np.array([[0], [1], [1]])).astype(int)
    given = {"input_ids": IDS, "attention_mask": real, "position_ids": counted}
    assert "MSK411" not in codes_of(given, BERT)
    assert "MSK411" in codes_of(given | {"position_ids": counted + 1}, BERT)


def codes_of(given, facts):
    return {finding.code for finding in report(given, **facts).findings}
