"""The report of an audit, from reports made by hand: its forms, marked text, numbers."""

import csv
import io
import json
from dataclasses import replace

import pytest
from rich.cells import cell_len

from maskcli.auditing.results import Audited, Example, Glance, RowOf, Told
from maskcli.diagnostics.finding import Skipped
from maskcli.report.audited import FORMS, Audits
from maskcli.report.forms import choose
from maskcli.report.glance import lines, share
from maskcli.report.marked import painted, pieces, plain, words_apart

# What ids stand for: two tokens of one character, marks, an escape, a bidirectional override, a line break.
WORDS = {
    1: "<|im_start|>", 2: "<|im_end|>", 3: "user", 4: "\n", 5: "What", 6: "▁is", 7: "▁[[it]]", 8: "?",
    9: "▁\\xe6\\x97", 10: "\\xa5", 11: "\x1b[31m", 12: "\u202e", 13: "▁}}", 14: "▁a", 15: "\\x", 16: "e6",
}  # fmt: skip


def example(tokens, counted=(), flagged=(), row=0, first=0, length=None):
    size = len(tokens)
    flags = [tuple(first <= at < stop for at in range(size)) for first, stop in (counted or (0, 0), flagged or (0, 0))]  # fmt: skip
    return Example(RowOf("a.jsonl", row), tuple(tokens), *flags, first, size if length is None else length)


def marked(made, token=WORDS.get):
    apart = words_apart([made], token)
    return plain(pieces(made, token, apart), apart)


def told(*examples, rows=3, first=(0, 4, 5)):
    places = tuple(RowOf("a.jsonl", row) for row in first)
    return Told(
        "MSK504", "prompt-supervised", "error", "the prompt is counted", "set labels to -100",
        rows, 1200, 17, places, examples, {"counted": 17},
    )  # fmt: skip


GLANCE = Glance(
    rows=1200, tokens=612344, real=540120, counted=180455, rows_uncounted=3, rows_whole=0, answers=2400,
    answer_ends_counted=2399, longest=512, rows_longest=118, rows_longest_without_end=118, packed_rows=400,
    documents=1600, turns={"user": (2400, 120200, 0), "assistant": (2400, 300100, 299000)},
)  # fmt: skip
WAITS = Skipped("MSK411", "first-position", "a.jsonl", ("--model",))


def audits(*findings, name="a.jsonl", token=WORDS.get, decided=("MSK504",)):
    audited = Audited(
        name, GLANCE, findings, (WAITS,), {"input_ids": "ids"}, {"my_mask": "pass --column"}, frozenset(decided),
        ("labels are floats",),
    )  # fmt: skip
    return Audits((audited,), token)


ROW = example([1, 3, 4, 5, 6, 8, 2], counted=(1, 6), flagged=(3, 6), row=4)


def written(form, made, capsys, monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    choose(FORMS, form, None).write(made, None)
    return capsys.readouterr().out


def test_marks_nest_and_line_breaks_are_signs():
    assert marked(ROW) == "<|im_start|>[[user↵{{What is?}}]]<|im_end|>"
    assert marked(example([5, 6, 8], flagged=(1, 3))) == "What{{ is?}}"
    assert marked(example([5, 6, 8, 2], counted=(0, 2), flagged=(1, 3))) == "[[What{{ is}}]]{{?}}<|im_end|>"


def test_what_a_text_holds_is_no_mark_and_nothing_reaches_the_terminal_raw():
    assert marked(example([5, 7, 13], counted=(0, 3))) == r"[[What \[[it\]] \}}]]"
    assert marked(example([11, 12, 5, 14], counted=(2, 3))) == r"\x1b[31m\u202e[[What]] a"
    colour = painted(pieces(example([11, 12, 7]), WORDS.get, False), False)
    assert colour.plain == r"\x1b[31m\u202e [[it]]"


def test_a_character_of_several_tokens_is_whole_unless_a_mark_cuts_it():
    assert marked(example([5, 9, 10])) == "What 日"
    assert marked(example([5, 9, 10], counted=(2, 3))) == r"What \xe6\x97[[\xa5]]"
    # The same letters, written by a person, are no bytes.
    assert marked(example([5, 14, 15, 16])) == r"What a\xe6"


def test_words_and_ids_have_blanks_between_them():
    pieces_of = {1: "the", 2: "cat", 3: "##s", 4: "[SEP]"}
    assert marked(example([1, 2, 3, 4], counted=(1, 3)), pieces_of.get) == "the [[cats]] [SEP]"
    assert marked(example([101, 7, 8], counted=(1, 3), flagged=(2, 3)), None) == "101 [[7 {{8}}]]"


def test_long_pieces_lose_their_middle_and_long_rows_their_end():
    long = example([5] + [6] * 99 + [8] + [14] * 40 + [2], counted=(1, 100), flagged=(1, 100), length=900)
    assert marked(long) == f"What[[{{{{{' is' * 16} …{' is' * 8}}}}}]]?{' a' * 7} …{' a' * 5}<|im_end|>"
    many = example([5, 6] * 300, flagged=(3, 4))
    assert [piece.shown for piece in pieces(many, WORDS.get, False)] == [3, 1, 14]
    row = example([5, 6] * 300, length=5000)
    alternating = Example(row.row, row.tokens, tuple(at % 2 == 0 for at in range(600)), row.flagged, 0, 5000)
    assert sum(piece.tokens for piece in pieces(alternating, WORDS.get, False)) == 80


def test_blanks_are_those_before_words():
    words = {1: "▁▁▁a", 2: "\n▁▁b", 3: "<｜▁end▁of▁text▁｜>", 4: "▁"}
    assert marked(example([1, 2, 4, 3]), words.get) == "   a↵  b <｜▁end▁of▁text▁｜>"


def test_colour_tells_counted_from_flagged():
    text = painted(pieces(ROW, WORDS.get, False), False)
    styles = {text.plain[span.start : span.end]: span.style for span in text.spans if span.style}
    assert list(styles) == ["user↵", "What is?"]
    assert len(set(styles.values())) == 2


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        *((0, 0, "0 %"), (0, 9, "0 %"), (9, 9, "100 %"), (1, 9, "11.1 %"), (1, 1000, "0.1 %")),
        *((1, 30_000, "<0.1 %"), (29_999, 30_000, ">99.9 %"), (999, 1000, "99.9 %")),
    ],
)
def test_only_none_and_all_are_whole_shares(part, whole, text):
    assert share(part, whole) == text


def test_what_is_not_known_is_not_in_the_table():
    assert [line.label for line in lines(Glance(2, 10, 8))] == ["rows", "tokens", "padding"]
    known = {line.label: (line.number, line.share) for line in lines(GLANCE)}
    assert known["counted by the loss"] == (180455, "33.4 %")
    assert known["whose end is counted"] == (2399, ">99.9 %")
    assert known["documents in them"] == (1600, "4.0")


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("colour", ["0", "1"])
def test_the_text_fits_the_terminal(columns, colour, capsys, monkeypatch):
    made = audits(told(ROW, example([5, 6, 7] * 40, counted=(3, 90), first=50, length=400)))
    text = written("text", made, capsys, monkeypatch, COLUMNS=columns, FORCE_COLOR=colour)
    assert ("\x1b[" in text) == (colour == "1")
    if colour == "0":
        assert max(map(cell_len, text.splitlines())) <= columns
        assert "[[user↵{{What is?}}]]" in text.replace("\n    ", " ")


def test_a_pipe_gets_the_whole_story_in_order(capsys, monkeypatch):
    text = written("text", audits(told(ROW, rows=1180)), capsys, monkeypatch)
    expected = [
        "a.jsonl", "rows                         1,200", "user       2,400  120,200      0 %",
        "not read: my_mask: pass --column", "note: labels are floats",
        "rows as text: [[counted by the loss]], {{what the finding is about}}",
        "MSK504 prompt-supervised  error  1,180 of 1,200 rows (98.3 %)", "  The prompt is counted",
        "  rows:  0, 4, 5 and 1,177 more; --rows MSK504 lists them all", "  row 4, all 7 tokens",
        "    <|im_start|>[[user↵{{What is?}}]]<|im_end|>", "1 error in 1,200 rows",
        "more could be decided with:", "  --model: MSK411",
    ]  # fmt: skip
    places = [text.index(line) for line in expected]
    assert places == sorted(places)
    assert "\x1b" not in text


def test_a_cut_example_says_which_tokens_it_shows(capsys, monkeypatch):
    cut = example([5, 6, 8], counted=(0, 3), row=7, first=20, length=400)
    text = written("text", audits(told(cut)), capsys, monkeypatch)
    assert "  row 7, tokens 20..23 of 400\n    … [[What is?]] …\n" in text


def test_nothing_found_says_by_how_many_rules(capsys, monkeypatch):
    text = written("text", audits(), capsys, monkeypatch)
    assert "nothing found in 1,200 rows, by 1 rule\n" in text
    assert "rows as text" not in text


def test_json_holds_exact_numbers_and_runs(capsys, monkeypatch):
    cut = example([5, 6, 8], counted=(1, 3), flagged=(2, 3), row=7, first=20, length=400)
    whole = json.loads(written("json", audits(told(cut)), capsys, monkeypatch))
    (one,) = whole["sets"]
    assert one["glance"]["counted"] == 180455
    assert one["glance"]["padding"] == 72224
    assert one["glance"]["turns"]["user"] == {"turns": 2400, "tokens": 120200, "counted": 0}
    assert one["unread"] == {"my_mask": "pass --column"}
    assert one["skipped"] == [{"code": "MSK411", "name": "first-position", "needs": ["--model"]}]
    (finding,) = one["findings"]
    assert (finding["rows"], finding["of"], finding["share"]) == (3, 1200, 3 / 1200)
    assert finding["first"][1] == {"file": "a.jsonl", "row": 4}
    assert finding["examples"] == [
        {"file": "a.jsonl", "row": 7, "length": 400, "start": 20, "ids": [5, 6, 8], "tokens": ["What", "▁is", "?"]}
        | {"counted": [[21, 23]], "flagged": [[22, 23]]}
    ]  # fmt: skip
    assert whole["summary"] == {"error": 1, "warning": 0, "note": 0, "sets": 1, "rows": 1200}


def test_every_form_tells_the_same_findings(capsys, monkeypatch):
    made = Audits((*audits(told(ROW)).sets, *audits(told(rows=9), name="=b").sets))
    whole = json.loads(written("json", made, capsys, monkeypatch))
    lines_ = [json.loads(line) for line in written("jsonl", made, capsys, monkeypatch).splitlines()]
    assert [line["finding"] for line in lines_ if "finding" in line] == [
        finding for each in whole["sets"] for finding in each["findings"]
    ]
    assert [line["name"] for line in lines_ if "summary" in line] == ["a.jsonl", "=b"]

    rows = list(csv.DictReader(io.StringIO(written("csv", made, capsys, monkeypatch))))
    assert [(row["set"], row["code"], row["rows"]) for row in rows] == [
        ("a.jsonl", "MSK504", "3"),
        ("'=b", "MSK504", "9"),
    ]
    assert rows[0]["first"] == "a.jsonl:0 a.jsonl:4 a.jsonl:5"

    first, second, last = written("concise", made, capsys, monkeypatch).splitlines()
    assert first.startswith("a.jsonl: MSK504 prompt-supervised error: 3 of 1,200 rows (0.2 %): the prompt")
    assert second.startswith("=b: MSK504")
    assert last == "2 errors in 2,400 rows of 2 sets"


def test_a_rule_that_could_decide_in_one_set_is_not_missed():
    from maskcli.report.audited import _missing

    both = Audits((*audits(decided=("MSK411",)).sets, *audits(name="b").sets))
    assert _missing(both) == {}
    assert _missing(audits()) == {("--model",): frozenset({"MSK411"})}
    (one,) = audits().sets
    without = replace(one, skipped=(replace(WAITS, needs=("position_ids", "--model")),))
    assert _missing(Audits((without,))) == {}


def test_what_no_option_would_tell_is_not_asked_for():
    """Turns tell what a prompt is, labels that are their ids' text are no decoder's, a tokenizer its own beginning."""
    from maskcli.report.audited import _missing

    (one,) = audits().sets
    skipped = [replace(WAITS, code=code) for code in ("MSK409", "MSK412", "MSK504")]
    waiting = replace(one, skipped=tuple(skipped), decided=frozenset())
    assert _missing(Audits((waiting,))) == {("--model",): frozenset({"MSK409", "MSK412", "MSK504"})}
    assert _missing(Audits((waiting,), WORDS.get)) == {("--model",): frozenset({"MSK412", "MSK504"})}
    assert _missing(Audits((replace(waiting, decided=frozenset({"MSK509", "MSK513"})),), WORDS.get)) == {}
