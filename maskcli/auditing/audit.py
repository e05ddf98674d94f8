"""Audit a set: chunks to batches, batches to rules, findings to one report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maskcli.arrays import Array
from maskcli.auditing.batch import CELLS, Plan, batches
from maskcli.auditing.fold import Fold, folded, left_out, told
from maskcli.auditing.judging import RULES_OF_SETS, judge
from maskcli.auditing.results import Audited
from maskcli.auditing.roles import Columns
from maskcli.auditing.sided import Sided, sided, slice_of
from maskcli.diagnostics.declare import Meaning
from maskcli.diagnostics.finding import Skipped
from maskcli.diagnostics.fitting import found_in
from maskcli.diagnostics.supervision import IGNORE_INDEX, OTHER_IGNORE_INDEX, ignored_labels
from maskcli.meant.facts import Declared
from maskcli.tables.columns import Chunk, Column

# Rows of a set from which it is learnt how all of them are kept.
LEARNT = 2048


@dataclass(frozen=True)
class Task:
    """What is done with every part of a set: small, and the same in every process.

    `declared` are facts, `codes` the rules to report (None: all), `keep` those of which all row numbers are
    kept (None: all), `cells` the size of batches.
    """

    plan: Plan
    declared: Declared
    codes: frozenset[str] | None = None
    keep: frozenset[str] | None = frozenset()
    cells: int = CELLS


def learn(chunk: Chunk, columns: Columns, meaning: Meaning) -> Task:
    """How the rows of a set are kept, from the first of them: of one length or not, labels of the same text
    or of another, and the label that counts nothing.
    """
    declared = meaning.declared.with_model()
    head = slice_of(chunk, LEARNT)
    rows = sided(head, columns, frozenset())
    apart = frozenset(
        group for group, kind in rows.lengths if kind == "self" and _is_apart(rows, group, declared)
    )
    rows = sided(head, columns, apart)
    fixed = {
        side: int(lengths[0])
        for side, lengths in rows.lengths.items()
        if len(lengths) and (lengths == lengths[0]).all()
    }
    return Task(Plan(columns, fixed, apart), _with_ignored(rows, declared), meaning.codes)


def audit_chunk(chunk: Chunk, part: int, task: Task) -> Fold:
    """What the rules say of the rows of a chunk, which is one of a part's."""
    rows = sided(chunk, task.plan.columns, task.plan.apart)
    fold = left_out(rows, chunk, part, task.codes)
    total = np.sum(list(rows.lengths.values()), axis=0)
    for batch in batches(rows, task.plan, task.declared, task.cells):
        judged = judge(batch, task.declared, task.codes)
        fold += folded(judged, chunk.first + batch.rows, part, int(total[batch.rows].sum()), task.keep)
    return fold


def audit_chunks(chunks: Iterable[Chunk], part: int, task: Task) -> Fold:
    """What the rules say of the rows of a part."""
    return sum((audit_chunk(chunk, part, task) for chunk in chunks), Fold())


def report(name: str, fold: Fold, parts: Sequence[str], task: Task) -> Audited:
    """The report on a set; `parts` are the files of its parts, in order."""
    columns = task.plan.columns
    chosen = [rule for rule in RULES_OF_SETS if task.codes is None or rule.code in task.codes]
    skipped = [
        Skipped(rule.code, rule.name, name, fold.needs[rule.code])
        for rule in sorted(chosen, key=lambda rule: rule.code)
        if rule.code in fold.needs and rule.code not in fold.decided
    ]
    notes = tuple(
        f"{count:,} row(s) were left out: {column!r} has another length than the ids"
        for column, count in sorted(fold.left_out.items())
    )
    return Audited(
        name,
        fold.counts.glance(),
        told(fold, parts),
        tuple(skipped),
        columns.told(),
        columns.unread,
        fold.decided,
        notes,
    )


def _with_ignored(rows: Sided, declared: Declared) -> Declared:
    """The facts, with the label that counts nothing as the first rows show it: one row alone need not."""
    if declared.ignore_index is not None:
        return declared
    labels = [column.values for role, column in rows.columns.values() if role.role == "labels"]
    for index in (IGNORE_INDEX, OTHER_IGNORE_INDEX):
        if any((values == index).any() for values in labels):
            return replace(declared, ignore_index=index)
    return declared


def _is_apart(rows: Sided, group: str, declared: Declared) -> bool:
    """Whether the labels of a group are another text than its ids: of other lengths, and no part of them."""
    of_group = {
        role.role: (name, column)
        for name, (role, column) in rows.columns.items()
        if role.group == group and role.kind == "self"
    }
    if "input_ids" not in of_group or "labels" not in of_group:
        return False
    name, labels = of_group["labels"]
    odd = np.flatnonzero(rows.unlike.get(name, []))
    if not odd.size:
        return False
    wanted = _filled(labels, odd, IGNORE_INDEX)
    supervised = ~ignored_labels(wanted, declared) & (wanted >= 0)
    placed = found_in(wanted, _filled(of_group["input_ids"][1], odd, 0), supervised)
    return bool(2 * placed.found.sum() < odd.size)


def _filled(column: Column, rows: Array, fill: int) -> Array:
    """Some rows of a column [B, W], filled up behind."""
    assert column.offsets is not None
    begins, lengths = column.offsets[rows], column.lengths[rows]
    at = np.arange(int(lengths.max(initial=0)))
    inside = at < lengths[:, None]
    filled = np.full(inside.shape, fill, np.int64)
    filled[inside] = column.values[(begins[:, None] + at)[inside]]
    return filled
