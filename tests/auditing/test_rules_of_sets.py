"""The bug of every rule that a set can show, found by an audit as by diagnose; what is kept does not grow with a set."""

import tracemalloc
from collections import defaultdict

import numpy as np
import pytest
import torch

from maskcli.auditing.audit import Asked, Task, audit_chunks, audit_held
from maskcli.auditing.judging import RULES_OF_SETS
from maskcli.auditing.learning import learn
from maskcli.auditing.roles import columns_of
from maskcli.diagnostics.declare import Meaning
from maskcli.meant.facts import Declared
from maskcli.meant.settling import expectation
from maskcli.tables.columns import Chunk, Column
from maskcli.tables.rows import from_rows
from tests.diagnostics.attention import loud
from tests.diagnostics.corpus import sick

CASES = defaultdict(list)
for code, label, case in sick():
    if all(len(values.shape) == 2 for values in case.arrays.values()):
        CASES[code].append((label, case))
# Masks over queries and keys are no columns of a set; pairs are groups of two sides in one batch.
OF_COLUMNS = [rule.code for rule in RULES_OF_SETS if CASES[rule.code]]


@pytest.mark.combinations
@pytest.mark.parametrize("code", OF_COLUMNS)
def test_the_bug_is_found_in_a_set_and_nothing_else(code):
    for label, case in CASES[code]:
        said = dict(case.declared)
        texts = said.pop("expect", ())
        specs = [texts] if isinstance(texts, str) else texts
        declared = Declared(**said, expect=tuple(map(expectation, specs)))
        (held,) = from_rows({name: torch.as_tensor(values) for name, values in case.arrays.items()})
        assert loud(audit_held(held, Meaning(declared, None, None), Asked())) == [code], label


def test_what_sets_show_is_most_of_what_tokens_show():
    assert len(OF_COLUMNS) >= len(RULES_OF_SETS) - 2


def endless(count):
    """Chunks of rows of which every second counts nothing and every third has labels on its padding."""
    rng = np.random.default_rng(0)
    rows, length = 256, 128
    offsets = np.arange(rows + 1) * length
    for number in range(count):
        ids = rng.integers(10, 900, (rows, length))
        ids[:, 100:] = 0
        labels = np.where(ids == 0, -100, ids)
        labels[::2] = -100
        labels[1::3] = ids[1::3]
        yield Chunk(
            number * rows,
            rows,
            {"input_ids": Column(ids.ravel(), offsets), "labels": Column(labels.ravel(), offsets)},
        )


def test_memory_does_not_grow_with_the_rows():
    facts = Declared(pad_id=0, eos_ids=(2,))
    task = Task(*learn(next(endless(1)), columns_of(["input_ids", "labels"]), facts))

    def peak(count):
        tracemalloc.start()
        fold = audit_chunks(endless(count), 0, task)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert fold.counts.rows == 256 * count
        return most

    few = peak(4)
    assert peak(40) < 1.1 * few
