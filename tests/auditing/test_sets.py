"""Files to reports: what is read of them, row numbers over pieces and files, rows that are rendered."""

import json

import pytest

from maskcli.api.auditing import audit_files
from maskcli.auditing.sets import Asked
from maskcli.diagnostics.declare import declare
from maskcli.errors import MaskcliError
from tests.auditing.test_rendering import MARKED, backbone, saved  # noqa: F401 (fixtures)

GOOD = {"input_ids": [5, 6, 7, 2], "labels": [-100, 6, 7, 2]}
# The labels end before the text does.
BAD = {"input_ids": [5, 6, 7, 2], "labels": [-100, 6, 7, -100]}


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def audited(*targets, asked=None, **said):
    return list(audit_files(targets, asked or Asked(), declare(**{"eos_id": 2, "pad_id": 0, **said})))


def test_rows_are_counted_in_their_files(tmp_path):
    first = write(tmp_path / "a.jsonl", [GOOD] * 7 + [BAD])
    second = write(tmp_path / "b.jsonl", [BAD, GOOD, BAD])
    (report,) = audited(first, second, select=["MSK506"])
    (found,) = report.findings
    assert (found.rows, found.of) == (3, 11)
    assert found.first == ((first, 7), (second, 0), (second, 2))


def test_columns_that_only_later_rows_have_are_read(tmp_path):
    alone = [{"input_ids": each["input_ids"]} for each in [GOOD] * 3000]
    (report,) = audited(write(tmp_path / "a.jsonl", [*alone, BAD]))
    assert report.roles == {"input_ids": "input_ids", "labels": "labels"}
    assert report.glance.counted == 2


def test_messages_are_rendered_and_bad_rows_told(tmp_path, saved):  # noqa: F811
    folder, _ = saved("sets", MARKED)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write(
        tmp_path / "a.jsonl", [{"messages": chat}] * 5 + [{"messages": [{"role": "user", "content": 3}]}]
    )
    asked = Asked(tokenizer=folder)
    (report,) = audited(path, asked=asked, tokenizer=folder, eos_id=None, pad_id=None)
    assert report.glance.rows == 6
    assert report.glance.counted > 0
    rendered, refused = report.notes
    assert "{% generation %}" in rendered
    assert refused.startswith("row 5: could not be rendered")

    with pytest.raises(MaskcliError, match="has no ids, but 'messages'; pass --tokenizer"):
        audited(path)
    bad = write(tmp_path / "bad.jsonl", [{"messages": [{"role": "user", "content": 3}]}] * 2)
    with pytest.raises(MaskcliError, match=r"no row of .* could be rendered; the first: the content of"):
        audited(bad, asked=asked, tokenizer=folder)


def test_a_set_without_rows_or_tokens_is_an_error(tmp_path):
    with pytest.raises(MaskcliError, match="nothing to audit among 'score'"):
        audited(write(tmp_path / "a.jsonl", [{"score": 3}]))


def test_what_was_read_is_told(tmp_path):
    path = write(tmp_path / "a.jsonl", [GOOD] * 50)
    read = []
    list(audit_files([path], Asked(), declare(eos_id=2), read.append))
    assert sum(read) == (tmp_path / "a.jsonl").stat().st_size
