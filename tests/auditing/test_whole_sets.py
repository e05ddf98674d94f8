"""A report on a set does not depend on how its rows are cut into chunks, batches and parts, and counts what is there."""

from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcli.auditing.audit import Task, audit_chunks, report
from maskcli.auditing.fold import Fold
from maskcli.auditing.learning import learn
from maskcli.auditing.roles import columns_of
from maskcli.meant.facts import Declared
from maskcli.tables.rows import from_rows

IGNORED, PAD, START, END, FIRST_WORD = -100, 0, 1, 2, 10
FACTS = Declared(pad_id=PAD, bos_ids=(START,), eos_ids=(END,), vocab_size=1000)
SET = "set.jsonl"


# Rows, and what is wrong with some of them


def healthy(rng):
    """A prompt (of some rows none) and an answer that is counted with its end; ids differ, so that labels fit
    at one place alone.
    """
    prompt, answer = (int(n) for n in rng.integers(5, 12, 2))
    prompt *= int(rng.random() < 0.8)
    ids = [START, *rng.permutation(np.arange(FIRST_WORD, 900))[: prompt + answer].tolist(), END]
    return {"input_ids": ids, "labels": [IGNORED] * (prompt + 1) + ids[prompt + 1 :]}


def end_left_out(row):
    row["labels"][-1] = IGNORED
    return "MSK506", [len(row["labels"]) - 1]


def nothing_counted(row):
    row["labels"] = [IGNORED] * len(row["labels"])
    return "MSK502", []


def labels_cut(row):
    row["labels"].pop()
    return "MSK515", []


def no_token(row):
    row["labels"][-2] = 5000
    return "MSK508", [len(row["labels"]) - 2]


def moved(row):
    labels = row["labels"]
    kept = [at for at, label in enumerate(labels) if label != IGNORED]
    row["labels"] = labels[3:] + [IGNORED] * 3
    return "MSK514", [at - 3 for at in kept if at >= 3]


def started_twice(row):
    row["input_ids"].insert(0, START)
    row["labels"].insert(0, IGNORED)
    return "MSK409", [1]


def goes_on(row):
    row["input_ids"].append(950)
    row["labels"].append(950)
    return "MSK513", [len(row["labels"]) - 1]


FAULTS = [end_left_out, nothing_counted, labels_cut, no_token, moved, started_twice, goes_on]


@st.composite
def training_sets(draw):
    """Rows, most of them healthy, and by code the rows with its fault and the tokens that show it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = [healthy(rng) for _ in range(draw(st.integers(12, 60)))]
    found = {}
    sick = draw(st.lists(st.integers(0, len(rows) - 1), unique=True, max_size=len(rows) // 4))
    for number in sorted(sick):
        code, tokens = draw(st.sampled_from(FAULTS))(rows[number])
        found.setdefault(code, {})[number] = tokens
    return rows, found


def task_of(rows, **changes):
    held, chunk = opened(rows, len(rows))
    plan, facts = learn(chunk[0], columns_of(held.table.numbers), FACTS)
    return held.table, Task(plan, facts, keep=None, **changes)


def opened(rows, size):
    (held,) = from_rows(rows, SET)
    return held, list(held.read(held.table.numbers, rows=size))


def audited(rows, task, table, *, cuts=(), size=4096):
    """The report on rows that are cut into parts, and those into chunks."""
    borders = [0, *cuts, len(rows)]
    parts = [rows[start:stop] for start, stop in pairwise(borders)]
    folds = [audit_chunks(opened(part, size)[1], number, task) for number, part in enumerate(parts) if part]
    return report(table, reduce(add, folds, Fold()), [SET] * len(parts), task)


@given(training_sets())
@settings(max_examples=60, deadline=None)
def test_findings_name_just_the_rows_and_tokens_with_the_fault(case):
    rows, expected = case
    table, task = task_of(rows)
    told = audited(rows, task, table)
    assert {found.code: found.where[SET].tolist() for found in told.findings} == {
        code: sorted(of_rows) for code, of_rows in expected.items()
    }
    for found in told.findings:
        of_rows = expected[found.code]
        assert (found.rows, found.of, found.tokens) == (
            len(of_rows),
            len(rows),
            sum(map(len, of_rows.values())),
        )
        assert [each.row for each in found.first] == sorted(of_rows)[:5]
        for example in found.examples:
            assert list(np.flatnonzero(example.flagged) + example.first) == of_rows[example.row.row]
            assert (
                list(example.tokens)
                == rows[example.row.row]["input_ids"][example.first :][: len(example.tokens)]
            )


@given(training_sets())
@settings(max_examples=30, deadline=None)
def test_the_glance_counts_what_a_loop_over_rows_counts(case):
    rows, _ = case
    table, task = task_of(rows)
    glance = audited(rows, task, table).glance
    fits = [row for row in rows if len(row["labels"]) == len(row["input_ids"])]
    # The model moves the labels, and so drops the first.
    counted = [sum(label != IGNORED for label in row["labels"][1:]) for row in fits]
    longest = max(len(row["input_ids"]) for row in fits)
    assert (glance.rows, glance.tokens) == (len(rows), sum(len(row["input_ids"]) for row in fits))
    assert (glance.counted, glance.rows_uncounted) == (sum(counted), counted.count(0))
    assert glance.rows_whole == sum(
        len(row["labels"]) > 1 and IGNORED not in row["labels"][1:] for row in fits
    )
    assert (glance.longest, glance.rows_longest) == (
        longest,
        sum(len(row["input_ids"]) == longest for row in fits),
    )


@pytest.mark.long
@given(training_sets(), st.data())
@settings(max_examples=60, deadline=None)
def test_the_report_is_the_same_however_rows_are_cut(case, data):
    rows, _ = case
    table, task = task_of(rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3), label="cuts"))
    size = data.draw(st.integers(1, len(rows)), label="rows of a chunk")
    _, other = task_of(
        rows, cells=data.draw(st.sampled_from([1, 100, 1000, 2**18]), label="cells of a batch")
    )
    whole, cut = audited(rows, task, table), audited(rows, other, table, cuts=cuts, size=size)
    assert cut == whole
    for one, two in zip(whole.findings, cut.findings, strict=True):
        assert one.where[SET].tolist() == two.where[SET].tolist()


@pytest.mark.long
@given(training_sets(), st.data())
@settings(max_examples=30, deadline=None)
def test_folds_add_up_in_any_grouping(case, data):
    rows, _ = case
    table, task = task_of(rows)
    folds = [audit_chunks(opened([row], 1)[1], number, task) for number, row in enumerate(rows)]
    at = data.draw(st.integers(1, len(folds) - 1))
    left, right = reduce(add, folds[:at]), reduce(add, folds[at:])
    paths = [SET] * len(rows)
    assert report(table, left + right, paths, task) == report(table, reduce(add, folds), paths, task)
