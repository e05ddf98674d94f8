"""An audit of rows in memory: what is told of a whole set."""

import json

import pytest

import maskcli
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


def test_labels_of_another_length_are_a_finding_of_their_rows():
    rows = [row(range(10, 20 + n)) for n in range(9)]
    rows[4]["labels"].pop()
    (found,) = maskcli.audit(rows, pad_id=0, eos_id=2).findings
    assert (found.code, found.rows, found.first) == ("MSK515", 1, (RowOf("rows", 4),))


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
