"""Rows whose columns do not fit each other: no batch holds them; labels of another length are a finding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.auditing.fold import FIRST, SHOWN, Fold, Key, Sample, Seen
from maskcli.auditing.glance import Counts
from maskcli.auditing.results import EXAMPLES
from maskcli.auditing.sided import Sided, side_of
from maskcli.diagnostics.rules.targets import label_length
from maskcli.diagnostics.supervision import ignored_labels
from maskcli.meant.facts import Declared
from maskcli.scene.sides import OF_LOSS
from maskcli.tables.columns import Column

FIX = "make them as long as the ids; labels that are not to count hold the ignore index"


def left_out(rows: Sided, numbers: Array, part: int, declared: Declared, *, told: bool, kept: bool) -> Fold:
    """What is known of the rows that no batch holds; `numbers` are those of all rows in their part.

    Labels and loss masks of another length are a finding where it is to be `told`, of which all row numbers
    are `kept` or not.
    """
    out = np.flatnonzero(~rows.fits)
    if not out.size:
        return Fold()
    seen, others = dict[Key, Seen](), dict[str, int]()
    for name, unlike in rows.unlike.items():
        at = np.flatnonzero(unlike)
        others[name] = len(at)
        if told and rows.columns[name][0].role in OF_LOSS:
            message = f"{name!r} and the ids differ in length in {{items}}: which is for which is not said"
            seen[Key(label_length.code, label_length.severity, message)] = Seen(
                FIX,
                len(at),
                0,
                {"rows": len(at)},
                {},
                tuple((part, int(number)) for number in numbers[at[:FIRST]]),
                tuple(
                    sample._replace(at=(part, int(numbers[sample.at[1]])))
                    for sample in _samples(rows, name, at[:EXAMPLES], declared)
                ),
                {part: numbers[at]} if kept else {},
            )
    decided = frozenset({label_length.code})
    # What the loss counts of their tokens is not known, so these are in no number.
    return Fold(Counts(rows=len(out)), seen, decided=decided, rows={part: len(out)}, left_out=others)


def _samples(rows: Sided, name: str, items: Array, declared: Declared) -> Iterator[Sample]:
    """The ids of some rows, with what is counted as far as labels go; `at` of each is its place here."""
    role, column = rows.columns[name]
    beside = [
        other for of, other in rows.columns.values() if (of.role, side_of(of)) == ("input_ids", side_of(role))
    ]
    for item in items if beside else ():
        ids = _row(beside[0], item)[:SHOWN]
        values = _row(column, item)[: len(ids)]
        counted = np.zeros(len(ids), bool)
        counted[: len(values)] = (
            values != 0 if role.role == "loss_mask" else ~ignored_labels(values, declared)
        )
        length = int(beside[0].lengths[item])
        yield Sample(
            (0, int(item)), tuple(ids.tolist()), tuple(counted.tolist()), (False,) * len(ids), 0, length
        )


def _row(column: Column, item: int) -> Array:
    assert column.offsets is not None
    return column.values[column.offsets[item] : column.offsets[item + 1]]
