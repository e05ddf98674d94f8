"""An audit of rows in memory: what is told of a whole set."""

import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models

import maskcli
from maskcli.api.auditing import audit_files
from maskcli.auditing.results import RowOf

IGNORED = -100


def row(words, *, counted=None, end=True):
    """A row of words and an end, of which the last `counted` words (None: all) and the end are counted."""
    ids = [*words, *([2] if end else [])]
    begin = 0 if counted is None else len(words) - counted
    return {"input_ids": ids, "labels": [IGNORED] * begin + ids[begin:]}


def codes(report):
    return [found.code for found in report.findings]


def test_a_healthy_set_is_silent():
    rows = [row(range(10, 20 + n), counted=4) for n in range(9)]
    report = maskcli.audit(rows, pad_id=0, eos_id=2)
    assert codes(report) == []
    assert (report.glance.rows, report.glance.tokens, report.glance.counted) == (9, 9 * 11 + 36, 9 * 5)


def test_a_finding_is_told_once_for_all_its_rows():
    rows = [row(range(10, 20 + n), counted=4) for n in range(9)]
    for number in (3, 7):
        rows[number]["labels"][-1] = IGNORED
    (found,) = maskcli.audit(rows, pad_id=0, eos_id=2).findings
    assert (found.code, found.rows, found.of, found.tokens) == ("MSK506", 2, 9, 2)
    assert found.first == (RowOf("rows", 3), RowOf("rows", 7))
    assert found.examples[0].tokens == tuple(rows[3]["input_ids"])
    assert found.examples[0].flagged.index(True) == len(rows[3]["input_ids"]) - 1


def test_labels_of_another_length_are_a_finding_of_their_rows(tmp_path):
    rows = [row(range(10, 20 + n)) for n in range(9)]
    rows[4]["labels"].pop()
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    (report,) = audit_files([str(path)], rows_of=["label-length"], pad_id=0, eos_id=2)
    (found,) = report.findings
    assert (found.code, found.rows, found.first) == ("MSK515", 1, (RowOf(str(path), 4),))
    assert found.where[str(path)].tolist() == [4]
    # What the row's labels are for is not known, so its tokens are in no share.
    assert report.glance.tokens == sum(len(each["input_ids"]) for each in rows) - len(rows[4]["input_ids"])
    assert report.notes == ("1 row(s) were left out of all else: 'labels' does not fit the ids in length",)


def test_a_decoder_that_moves_labels_drops_the_first():
    rows = [row(range(10, 20 + n)) for n in range(9)]
    tokens = sum(len(each["input_ids"]) for each in rows)
    glance = maskcli.audit(rows, eos_id=2).glance
    assert (glance.counted, glance.rows_whole) == (tokens - 9, 9)
    stream = [{"input_ids": each["input_ids"][:-1], "labels": each["input_ids"][1:]} for each in rows]
    glance = maskcli.audit(stream, eos_id=2, loss_shift="data").glance
    assert (glance.counted, glance.tokens) == (tokens - 9, tokens - 9)


def padded(ids, width, left=0):
    """Ids under a mask, filled up with 0 behind them, or so far in front."""
    right = width - left - len(ids)
    return [0] * left + ids + [0] * right, [0] * left + [1] * len(ids) + [0] * right


def test_an_answers_mask_says_what_counts_of_prompts_and_completions():
    rows = []
    for n in range(9):
        prompt, prompt_mask = padded(list(range(10, 13 + n % 3)), 6, 3 - n % 3)
        answer, answer_mask = padded([*range(20, 23 + n), 2], 14)
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        rows.append(dict(zip(names, (prompt, prompt_mask, answer, answer_mask), strict=True)))
    report = maskcli.audit(rows, pad_id=0, eos_id=2)
    assert codes(report) == []
    assert report.glance.counted == sum(sum(each["completion_mask"]) for each in rows)
    # The same in whole rows, with the mask of the answer alone.
    whole = [
        {
            "input_ids": each["prompt_ids"] + each["completion_ids"],
            "attention_mask": each["prompt_mask"] + each["completion_mask"],
            "responses": each["completion_ids"],
            "response_mask": each["completion_mask"],
        }
        for each in rows
    ]
    assert codes(maskcli.audit(whole, pad_id=0, eos_id=2)) == []
    assert maskcli.audit(whole, pad_id=0, eos_id=2).glance.counted == report.glance.counted
    for each in whole:
        each["response_mask"] = [1] * 14
    assert codes(maskcli.audit(whole, pad_id=0, eos_id=2)) == ["MSK503"]


def test_text_cut_out_of_a_stream_needs_no_end_where_all_of_it_is_meant():
    rows = [row(range(10 + n, 42 + n), end=False) for n in range(9)]
    (note,) = maskcli.audit(rows, eos_id=2).findings
    assert (note.code, note.severity) == ("MSK507", "note")
    assert maskcli.audit(rows, eos_id=2, purpose="pretrain").findings == ()
    answers = [row(range(10 + n, 42 + n), counted=9, end=False) for n in range(9)]
    assert maskcli.audit(answers, eos_id=2).findings[0].severity == "warning"


def test_labels_beside_an_encoder_are_its_decoders(tmp_path):
    config = {"is_encoder_decoder": True, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", **config}))
    rows = []
    for n in range(9):
        ids, mask = padded([*range(10, 20 + n), 1], 24)
        labels = [*range(40, 44 + n), 1]
        rows.append(
            {"input_ids": ids, "attention_mask": mask, "labels": labels + [-100] * (24 - len(labels))}
        )
    report = maskcli.audit(rows, model=str(tmp_path))
    assert codes(report) == []
    assert report.glance.counted == sum(5 + n for n in range(9))
    for each in rows:
        each["labels"] = [0 if label == -100 else label for label in each["labels"]]
    (found,) = maskcli.audit(rows, model=str(tmp_path)).findings
    assert (found.code, found.tokens) == ("MSK503", sum(24 - 5 - n for n in range(9)))
    # What is shown are the labels, not the text of the source.
    assert found.examples[0].tokens == (40, 41, 42, 43, 1, *[0] * 19)
    assert found.examples[0].flagged == (*[False] * 5, *[True] * 19)


def test_decoder_ids_without_the_start_explain_labels_that_stand_elsewhere(tmp_path):
    config = {"is_encoder_decoder": True, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", **config}))
    rows = []
    for n in range(12):
        labels = [*range(40 + n, 52 + 2 * n), 1]
        decoder = labels if n in (3, 8) else [0, *labels[:-1]]
        rows.append({"input_ids": [*range(10, 20 + n), 1], "labels": labels, "decoder_input_ids": decoder})
    (found,) = maskcli.audit(rows, model=str(tmp_path)).findings
    assert (found.code, found.first) == ("MSK412", (RowOf("rows", 3), RowOf("rows", 8)))


def test_labels_on_padding_are_no_other_text():
    """A masked language model's labels, of which some rows have 0 on their padding, as other rows' ids do."""
    rows = []
    for n in range(12):
        words = list(range(200 + 30 * n, 205 + 32 * n))
        ids, mask = padded([words[0], 103, 103, *words[3:]], 40)
        labels = [-100, *words[1:3], *[-100] * 37]
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": mask})
    assert codes(maskcli.audit(rows, pad_id=0)) == []
    for n in (5, 8):
        rows[n]["labels"] = [
            label if real else 0
            for label, real in zip(rows[n]["labels"], rows[n]["attention_mask"], strict=True)
        ]
    (found,) = maskcli.audit(rows, pad_id=0).findings
    assert (found.code, found.first) == ("MSK503", (RowOf("rows", 5), RowOf("rows", 8)))


def test_moved_labels_that_ask_for_padding_behind_a_full_row():
    rows = []
    for n in range(9):
        ids, mask = padded([*range(10 + n, 20 + 2 * n), 2], 19)
        rows.append({"tokens": ids, "labels": [*ids[1:], 0], "loss_mask": [*mask[1:], 0]})
    assert codes(maskcli.audit(rows, pad_id=0, eos_id=2, loss_shift="data")) == []
    rows[8]["loss_mask"][-1] = 1
    (found,) = maskcli.audit(rows, pad_id=0, eos_id=2, loss_shift="data").findings
    assert (found.code, found.tokens, found.first) == ("MSK503", 1, (RowOf("rows", 8),))


@pytest.mark.parametrize("borders", ["position_ids", "segment_ids", "seq_lengths"])
def test_packed_texts_without_labels_beside_others(borders):
    rows = []
    for n in range(9):
        texts = [[*range(10 + n, 16 + 2 * n), 2], [*range(40, 46 + n), 2], [*range(60, 70 - n), 2]]
        told = {
            "position_ids": [at for text in texts for at in range(len(text))],
            "segment_ids": [number for number, text in enumerate(texts) for _ in text],
            "seq_lengths": [len(text) for text in texts],
        }
        ids = [word for text in texts for word in text]
        labels = [label for text in texts for label in (IGNORED, *text[1:])]
        rows.append({"input_ids": ids, "labels": labels, borders: told[borders]})
    assert codes(maskcli.audit(rows, pad_id=0, eos_id=2)) == []
    for n in (2, 6):
        first, second = 7 + n, 14 + 2 * n
        rows[n]["labels"][first:second] = [IGNORED] * (second - first)
    # The last text of a row may be cut before its answer.
    rows[8]["labels"][-3:] = [IGNORED] * 3
    (found,) = maskcli.audit(rows, pad_id=0, eos_id=2).findings
    assert (found.code, found.severity) == ("MSK502", "warning")
    assert (found.rows, found.tokens, found.first) == (2, 9 + 13, (RowOf("rows", 2), RowOf("rows", 6)))


def test_borders_of_texts_that_do_not_fit_are_told():
    rows = []
    for n in range(9):
        ids = [*range(10 + n, 16 + n), 2, *range(40, 46 + n), 2]
        labels = [IGNORED, *ids[1:7], IGNORED, *ids[8:]]
        # Padding behind the last text is in none.
        rows.append(
            {"input_ids": [*ids, 0, 0], "labels": [*labels, IGNORED, IGNORED], "cu_seqlens": [0, 7, len(ids)]}
        )
    report = maskcli.audit(rows, pad_id=0, eos_id=2)
    assert (codes(report), report.notes, report.glance.documents) == ([], (), 18)
    rows[4]["labels"] = rows[4]["input_ids"][:-2] + [IGNORED] * 2
    rows[5]["cu_seqlens"][-1] += 9
    report = maskcli.audit(rows, pad_id=0, eos_id=2)
    assert [(found.code, found.first) for found in report.findings] == [("MSK516", (RowOf("rows", 4),))]
    assert report.notes == (
        "1 row(s) were left out of all else: 'cu_seqlens' does not fit the ids in length",
    )


def test_labels_lost_where_ranks_cut_some_rows():
    rows = []
    for n in range(9):
        ids = [*range(10 + n, 41 + n), 2]
        rows.append({"input_ids": ids, "shift_labels": [*ids[1:], IGNORED]})
    assert codes(maskcli.audit(rows, eos_id=2)) == []
    for n in (1, 5):
        for place in (7, 15, 23):
            rows[n]["shift_labels"][place] = IGNORED
    (found,) = maskcli.audit(rows, eos_id=2).findings
    assert (found.code, found.tokens) == ("MSK506", 6)
    assert found.first == (RowOf("rows", 1), RowOf("rows", 5))


def test_nested_lists_are_refused_by_name(tmp_path):
    path = tmp_path / "choices.jsonl"
    path.write_text('{"input_ids": [[5, 6], [7, 8]], "label": 1}\n' * 3)
    with pytest.raises(
        maskcli.MaskcliError, match="'input_ids' holds nested lists, expected a list of numbers"
    ):
        maskcli.audit(str(path))


def test_a_row_without_labels_says_nothing_of_the_others(tmp_path):
    rows = [row(range(10, 20 + n), counted=4) for n in range(9)]
    rows[3]["labels"][-1] = IGNORED
    rows[5]["labels"] = None
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    report = maskcli.audit(str(path), pad_id=0, eos_id=2)
    assert {found.code: found.first[0].row for found in report.findings} == {"MSK515": 5, "MSK506": 3}


def test_rows_that_hold_nothing_are_no_missing_columns(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('{"input_ids": [], "labels": []}\n' * 2)
    with pytest.raises(maskcli.MaskcliError, match="holds anything as 'input_ids', 'labels'"):
        maskcli.audit(str(path))


def test_a_tokenizer_that_has_not_the_ids_is_told(tmp_path):
    words = Tokenizer(models.WordLevel({f"w{at}": at for at in range(30)}, unk_token="w0"))
    words.save(str(tmp_path / "tokenizer.json"))
    rows = [row(range(10, 20), counted=4)] * 3
    assert maskcli.audit(rows, eos_id=2, tokenizer=str(tmp_path)).notes == ()
    rows.append(row(range(25, 31), counted=4))
    told = maskcli.audit(rows, eos_id=2, tokenizer=str(tmp_path)).notes
    assert told == ("id 30 is no token of the tokenizer, which may be another model's",)


def test_files_that_describe_a_folder_hold_no_rows(tmp_path):
    rows = [row(range(10, 20 + n), counted=4) for n in range(9)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (tmp_path / "dataset_infos.json").write_text('{"default": {"features": {}}}')
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert maskcli.audit(str(tmp_path), eos_id=2).glance.rows == 9


def test_a_program_that_audits_files_is_not_imported_again(tmp_path):
    """No `if __name__ == "__main__":` is needed, however large the files are."""
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jsonl").write_text(json.dumps(row(range(10, 20))) + "\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import maskcli\nfrom maskcli.auditing import audit\naudit.WORTH_A_PROCESS = 1\n"
        f"print(maskcli.audit({str(folder)!r}, eos_id=2).glance.rows)\n"
    )
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "2\n"), ran.stderr


def test_no_rows_and_no_tokens_are_errors():
    with pytest.raises(maskcli.MaskcliError, match="no rows"):
        maskcli.audit([])
    with pytest.raises(maskcli.MaskcliError, match="nothing to audit among 'score'"):
        maskcli.audit([{"score": 1.0}])
    with pytest.raises(maskcli.MaskcliError, match="pass a tokenizer"):
        maskcli.audit([{"messages": [{"role": "user", "content": "a"}]}])


def test_files_are_audited_as_rows_are(tmp_path):
    rows = [row(range(10, 20 + n), counted=4) for n in range(9)]
    rows[5]["labels"][-1] = IGNORED
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    of_rows = maskcli.audit(rows, pad_id=0, eos_id=2)
    of_file = maskcli.audit(str(path), pad_id=0, eos_id=2)
    assert of_file.glance == of_rows.glance
    assert [(found.code, found.rows) for found in of_file.findings] == [("MSK506", 1)]
    assert of_file.findings[0].first == (RowOf(str(path), 5),)


def test_a_row_of_two_sides_is_one_row():
    rows = [
        {
            f"{side}_{name}": ids
            for side, last in sides
            for name, ids in row(range(10, last), counted=4).items()
        }
        for sides in ((("chosen", 20 + n), ("rejected", 30 + n)) for n in range(9))
    ]
    assert codes(maskcli.audit(rows, pad_id=0, eos_id=2)) == []
    for each in (rows[4], rows[7]):
        each["chosen_labels"][-1] = each["rejected_labels"][-1] = IGNORED
    (found,) = maskcli.audit(rows, pad_id=0, eos_id=2).findings
    assert (found.code, found.rows, found.of, found.tokens) == ("MSK506", 2, 9, 4)
    assert found.first == (RowOf("rows", 4), RowOf("rows", 7))


def test_masks_of_two_parts_are_named_as_they_are():
    rows = [
        {
            "prompt_ids": [0, 0, *range(10, 15 + n)],
            "prompt_mask": [0, 0] + [1] * (5 + n),
            "completion_ids": [30, 31, 32, 2, 0, 0],
            "completion_mask": [1, 1, 1, 1, 0, 0],
        }
        for n in range(9)
    ]
    assert codes(maskcli.audit(rows, pad_id=0, eos_id=2)) == []
    rows[5]["completion_mask"] = [1] * 6
    (found,) = maskcli.audit(rows, pad_id=0, eos_id=2).findings
    assert (found.code, found.first, found.tokens) == ("MSK401", (RowOf("rows", 5),), 2)
    assert found.message.startswith("'prompt_mask + completion_mask' is 1 over padding")
