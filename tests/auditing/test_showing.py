"""Single rows of a set, token by token."""

import json

import pytest

from maskcli.auditing.audit import Asked
from maskcli.auditing.showing import shown_rows
from maskcli.diagnostics.declare import declare
from maskcli.errors import MaskcliError
from maskcli.tables import open_tables
from tests.auditing.test_rendering import MARKED, backbone, saved  # noqa: F401 (fixtures)


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def shown(path, *wanted, asked=None, **said):
    paths = [path] if isinstance(path, str) else path
    return list(shown_rows(open_tables(paths), wanted, declare(**said), asked or Asked()))


def row(first, length=6):
    ids = list(range(first, first + length))
    return {"input_ids": ids, "labels": [-100, -100, *ids[2:]]}


def test_a_row_is_found_wherever_it_stands(tmp_path, monkeypatch):
    from maskcli.tables import jsonl

    path = write(tmp_path / "a.jsonl", [row(10 * at) for at in range(300)])
    monkeypatch.setattr(jsonl, "PART", 2000)
    assert len(open_tables([path])[0].parts) > 5
    for at in (0, 1, 17, 150, 299):
        (found,) = shown(path, str(at))
        (side,) = found.sides
        assert found.row == (path, at)
        assert side.columns == {
            "id": list(range(10 * at, 10 * at + 6)),
            "counted": [False, False, True, True, True, True],
            "label": [-100, -100, *range(10 * at + 2, 10 * at + 6)],
        }


def test_labels_that_the_data_moved_count_the_token_that_they_ask_for(tmp_path):
    ids = [5, 6, 7, 8, 9]
    path = write(tmp_path / "a.jsonl", [{"input_ids": ids, "labels": [-100, 7, 8, 9, -100]}] * 9)
    ((side,),) = (each.sides for each in shown(path, "3", loss_shift="data"))
    assert side.columns["label"] == [-100, 7, 8, 9, -100]
    assert side.columns["counted"] == [False, False, True, True, True]


def test_packed_texts_are_numbered(tmp_path):
    ids = [5, 6, 7, 8, 9]
    packed = {"input_ids": ids, "labels": ids, "position_ids": [0, 1, 2, 0, 1], "attention_mask": [1] * 5}
    (by_positions,) = shown(write(tmp_path / "a.jsonl", [packed] * 3), "1")[0].sides
    assert by_positions.columns["document"] == [0, 0, 0, 1, 1]
    assert by_positions.columns["position_id"] == [0, 1, 2, 0, 1]
    lengths = {"input_ids": ids, "labels": ids, "seq_lengths": [3, 2]}
    (by_lengths,) = shown(write(tmp_path / "b.jsonl", [lengths] * 3), "2")[0].sides
    assert by_lengths.columns["document"][2] != by_lengths.columns["document"][3]


def test_a_pair_has_two_sides(tmp_path):
    pair = {"chosen_input_ids": [5, 6, 7], "chosen_labels": [-100, 6, 7]}
    pair |= {"rejected_input_ids": [5, 8], "rejected_labels": [-100, 8]}
    (found,) = shown(write(tmp_path / "a.jsonl", [pair] * 3), "0")
    assert [side.name for side in found.sides] == ["chosen", "rejected"]
    assert [side.columns["counted"] for side in found.sides] == [[False, True, True], [False, True]]
    joined = {"prompt_ids": [5, 6], "chosen_ids": [7, 2], "rejected_ids": [8]}
    (found,) = shown(write(tmp_path / "b.jsonl", [joined] * 3), "0")
    assert [side.columns["id"] for side in found.sides] == [[5, 6, 7, 2], [5, 6, 8]]
    assert [side.columns["counted"] for side in found.sides] == [
        [False, False, True, True],
        [False, False, True],
    ]


def test_labels_of_another_length_are_shown_as_far_as_they_go(tmp_path):
    odd = {**row(5, 8), "labels": row(5)["labels"]}
    (side,) = shown(write(tmp_path / "a.jsonl", [row(5)] * 5 + [odd]), "5")[0].sides
    assert side.columns == {"id": list(range(5, 13)), "label": [-100, -100, 7, 8, 9, 10, None, None]}


@pytest.mark.long
def test_messages_are_shown_with_their_turns(tmp_path, saved):  # noqa: F811
    folder, reference = saved("showing", MARKED)
    chat = [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Hi"}]
    bad = [{"role": "user", "content": 3}]
    path = write(tmp_path / "a.jsonl", [{"messages": each} for each in (chat, bad, chat)])
    asked = Asked(tokenizer=folder)
    (side,) = shown(path, "2", asked=asked, tokenizer=folder)[0].sides
    ids = reference.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"]
    assert side.columns["id"] == ids
    counted = [number for number, counts in zip(ids, side.columns["counted"], strict=True) if counts]
    assert reference.decode(counted) == "Hi<|im_end|>"
    said = {(role, part) for role, part in zip(side.columns["role"], side.columns["part"], strict=True)}
    assert {("user", "header"), ("user", "content"), ("assistant", "content"), ("assistant", "end")} <= said
    with pytest.raises(MaskcliError, match=r"row 1 of .* could not be rendered: the content of message"):
        shown(path, "1", asked=asked, tokenizer=folder)


def test_a_row_that_is_not_there_is_an_error(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(5)] * 3)
    other = write(tmp_path / "b.jsonl", [row(50)] * 2)
    with pytest.raises(MaskcliError, match=r"no row 3 in .*, which has 3 \(counted from 0\)"):
        shown(path, "3")
    with pytest.raises(MaskcliError, match="is no row; write its number"):
        shown(path, "x")
    with pytest.raises(MaskcliError, match="there are 2 files; say of which"):
        shown([path, other], "1")
    with pytest.raises(MaskcliError, match="is none of the files"):
        shown([path, other], "c.jsonl:1")
    (found,) = shown([path, other], f"{other}:1")
    assert found.sides[0].columns["id"][0] == 50
