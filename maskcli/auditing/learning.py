"""What the first rows of a set show of all, so that no row is judged by those that stand beside it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np

from maskcli.arrays import Array
from maskcli.auditing.batch import Plan, batches
from maskcli.auditing.roles import Columns
from maskcli.auditing.sided import Sided, sided, slice_of
from maskcli.diagnostics.chats import Chat, begin_within, chats
from maskcli.diagnostics.fitting import found_in, shift_of_most
from maskcli.diagnostics.rules.endings import ends_that_begin
from maskcli.diagnostics.supervision import IGNORE_INDEX, OTHER_IGNORE_INDEX, ignored_labels, readings
from maskcli.meant.facts import Declared
from maskcli.meant.shown import Shown
from maskcli.scene.assemble import build_scenes
from maskcli.scene.scene import Scene
from maskcli.tables.columns import Chunk, Column

# Rows that are looked at.
ROWS = 2048


def learn(chunk: Chunk, columns: Columns, declared: Declared) -> tuple[Plan, Declared]:
    """How the rows of a set are kept, from the first of them, and the facts with what these show.

    Rows are of one length or not, labels are the text of the ids or another, where they stand and which of
    them counts nothing.
    """
    head = slice_of(chunk, ROWS)
    rows = sided(head, columns, frozenset())
    apart = frozenset(
        group
        for group, kind in rows.lengths
        if kind == "self" and (_has_a_decoder(declared) or _is_apart(rows, group, declared))
    )
    rows = sided(head, columns, apart)
    fixed = {
        side: int(lengths[0])
        for side, lengths in rows.lengths.items()
        if len(lengths) and (lengths == lengths[0]).all()
    }
    plan, declared = Plan(columns, fixed, apart), _with_ignored(rows, declared)
    return plan, replace(declared, shown=_shown(rows, plan, declared))


def _with_ignored(rows: Sided, declared: Declared) -> Declared:
    """The facts, with the label that counts nothing as the rows show it."""
    if declared.ignore_index is not None:
        return declared
    for index in (IGNORE_INDEX, OTHER_IGNORE_INDEX):
        if any((values == index).any() for values in _of_role("labels", rows)):
            return replace(declared, ignore_index=index)
    return declared


def _shown(rows: Sided, plan: Plan, declared: Declared) -> Shown:
    """Where labels stand, and what they tell of the ends of texts and of the turns of chats."""
    shifts, ends, starts = dict[str, Counter[int]](), False, set[int]()
    scenes = _scenes(rows, plan, declared)
    read = [reading for scene in scenes for reading in readings(scene)]
    for reading in read:
        shift = reading.shift
        if shift is None and reading.tokens.ids is not None:
            shift = shift_of_most(reading.labels, reading.tokens.ids, reading.supervised, reading.real)
        if shift is not None:
            shifts.setdefault(reading.name, Counter())[shift] += int(reading.supervised.sum())
            ends |= bool(reading.asks_for(declared.eos_ids).any())
            starts |= set(ends_that_begin(reading, declared))
    most = {name: counts.most_common(1)[0][0] for name, counts in shifts.items()}
    told = (chat for scene in scenes if declared.chat is not None for chat in chats(scene))
    return Shown(
        most,
        ends,
        tuple(sorted(starts)),
        longest=max((int(reading.no_padding.sum(axis=1).max()) for reading in read), default=None),
        stream=any(begin_within(chat) for chat in told if isinstance(chat, Chat)),
        bare=not plan.fixed and all(values.all() for values in _of_role("padding_mask", rows)),
    )


def _of_role(wanted: str, rows: Sided) -> list[Array]:
    """The values of all columns of a role."""
    return [column.values for role, column in rows.columns.values() if role.role == wanted]


def _scenes(rows: Sided, plan: Plan, declared: Declared) -> list[Scene]:
    found = (build_scenes("", batch.tensors, declared) for batch in batches(rows, plan, declared))
    return list(chain.from_iterable(found))


def _has_a_decoder(declared: Declared) -> bool:
    """Whether the model has an encoder and a decoder, which reads what the labels ask for."""
    return declared.model is not None and declared.model.start_id is not None


def _is_apart(rows: Sided, group: str, declared: Declared) -> bool:
    """Whether the labels of a group are another text than its ids: of other lengths in most rows that have
    labels, and no part of them.
    """
    of_group = {
        role.role: (name, column)
        for name, (role, column) in rows.columns.items()
        if role.group == group and role.kind == "self"
    }
    if "input_ids" not in of_group or "labels" not in of_group:
        return False
    name, labels = of_group["labels"]
    has = labels.lengths > 0
    odd = np.flatnonzero(rows.unlike.get(name, ~has) & has)
    if 2 * odd.size <= has.sum():
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
