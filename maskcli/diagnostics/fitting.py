"""Where labels fit the ids: how many places on, row by row, and which rows fit nowhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array

# Labels are the ids, some places on, when this share of them agrees. Labels made from ids agree to the last
# one; those of a masked language model that keep every id agree at 85 to 89 %, as one token in seven is
# replaced.
SAME_TEXT = 0.95
# How many places on the ids are looked for: not moved, moved once, moved twice.
SHIFTS = (0, 1, 2)
# So many labels of a row that stand elsewhere in the ids, all as far away, are no chance.
PLACED = 4
# Rows of so many labels that fit their ids show what a row of the batch looks like; one of which not half
# fit is then no text of its ids.
SURE, FITS_NOT = 8, 0.5
# Labels in a row by which a text is looked for, and what makes one number of them.
ANCHOR = 3
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 1)


class Counts(NamedTuple):
    """Of each row: labels that are the id so many places on, and those that could be, int [B] each."""

    same: Array
    compared: Array

    @property
    def fits(self) -> Array:
        """Rows [B] that fit."""
        fits: Array = (self.same > 0) & (self.same >= SAME_TEXT * self.compared)
        return fits


class Placed(NamedTuple):
    """Where the labels of rows stand in the ids: row j's at `row[j]`, `places` on; `found` where they do."""

    found: Array
    row: Array
    places: Array


class Fit(NamedTuple):
    """How labels stand to the ids.

    `agree` counts the labels that show each shift which holds nearly everywhere. `astray` are rows [B] that
    do not fit where the others do; `placed` says where those are.
    """

    agree: dict[int, int]
    astray: Array
    placed: Placed


def counts_at(labels: Array, ids: Array, supervised: Array, real: Array | None, shift: int) -> Counts:
    """How many supervised labels of each row are the id so many places later.

    What the last label of a text asks for need not be there: a text ends before padding or, where nothing
    says what is padding, with its run of labels.
    """
    length = labels.shape[1]
    here, there = slice(0, length - shift), slice(shift, length)
    compared = supervised[:, here]
    if shift:
        compared = compared & (supervised if real is None else real)[:, there]
    same = compared & (labels[:, here] == ids[:, there])
    return Counts(same.sum(axis=1), compared.sum(axis=1))


def agreement(labels: Array, ids: Array, supervised: Array, real: Array | None) -> dict[int, int]:
    """How many supervised labels are the id so many places later, for the shifts at which nearly all are."""
    shifts = SHIFTS[: labels.shape[1]]
    return _agree({shift: counts_at(labels, ids, supervised, real, shift) for shift in shifts})


def fit(
    labels: Array,
    ids: Array,
    supervised: Array,
    real: Array | None,
    due: int | None,
    usual: int | None = None,
) -> Fit:
    """How labels [B, L] stand to ids [B, L], with the rows that stand otherwise than the rest.

    A row is astray when its labels are found elsewhere in the ids, all as far away, or when they are no text
    of it while most rows are. Labels of another sequence (tags, a translation) are neither. Where the rows
    are some of a set, `usual` is the shift of its labels, and what most of these rows show does not matter.
    """
    shifts, labelled = SHIFTS[: labels.shape[1]], supervised.sum(axis=1)
    if usual in shifts:
        known = counts_at(labels, ids, supervised, real, usual)
        none = np.zeros(len(labels), bool)
        if (known.fits | (labelled < PLACED)).all():
            return Fit({usual: int(known.same.sum())}, none, _placed(labels, ids, supervised, none))
    counts = {shift: counts_at(labels, ids, supervised, real, shift) for shift in shifts}
    agree = _agree(counts)
    shift = due if due in agree else min(agree, default=_of_most(counts, labelled))
    if usual in counts:
        shift = usual
    fits = [each.fits for place, each in counts.items() if shift in (None, place)]
    suspects = ~np.any(fits, axis=0) & (labelled >= PLACED)
    # Labels that copy padding stand where they were put, however much of it is elsewhere.
    words = supervised if real is None else supervised & (real | (labels != ids))
    placed = _placed(labels, ids, words, suspects)
    if not suspects.any():
        return Fit(_known(counts, usual) or agree, suspects, placed)

    strangers = suspects & ~placed.found & _no_text(counts, labelled)
    usually = usual in counts or _is_usual(counts, labelled, shift)
    astray = (suspects & placed.found) | (strangers & usually)
    if agree or usual in counts or (shift is not None and astray[suspects].all()):
        counts = {place: Counts(*(each[~astray] for each in rows)) for place, rows in counts.items()}
        agree = _known(counts, usual) or _agree(counts)
    return Fit(agree, astray, placed)


def _known(counts: dict[int, Counts], usual: int | None) -> dict[int, int]:
    """The labels that show the usual shift; empty where there is none."""
    return {} if usual is None or usual not in counts else {usual: int(counts[usual].same.sum())}


def shift_of_most(labels: Array, ids: Array, supervised: Array, real: Array | None) -> int | None:
    """The only shift at which half of the rows with enough labels fit, or more."""
    counts = {shift: counts_at(labels, ids, supervised, real, shift) for shift in SHIFTS[: labels.shape[1]]}
    return _of_most(counts, supervised.sum(axis=1))


def found_in(labels: Array, ids: Array, supervised: Array) -> Placed:
    """Where the labels [B, L] of each row stand in its own ids [B, K], all as far away."""
    return _placed(labels, ids, supervised, supervised.sum(axis=1) >= PLACED, elsewhere=False)


def _agree(counts: dict[int, Counts]) -> dict[int, int]:
    totals = {shift: (int(rows.same.sum()), int(rows.compared.sum())) for shift, rows in counts.items()}
    return {shift: same for shift, (same, of) in totals.items() if same and same >= SAME_TEXT * of}


def _of_most(counts: dict[int, Counts], labelled: Array) -> int | None:
    """The shift at which half of the rows with enough labels fit, or more; None for none or several."""
    enough = labelled >= PLACED
    most = [shift for shift, rows in counts.items() if 2 * (rows.fits & enough).sum() >= enough.sum() > 1]
    return most[0] if len(most) == 1 else None


def _no_text(counts: dict[int, Counts], labelled: Array) -> Array:
    """Rows [B] of many labels of which not half fit at any shift."""
    best = np.max([rows.same for rows in counts.values()], axis=0)
    none: Array = (labelled >= SURE) & (best < FITS_NOT * labelled)
    return none


def _is_usual(counts: dict[int, Counts], labelled: Array, shift: int | None) -> bool:
    """Whether most rows of many labels fit."""
    if shift is None:
        return False
    many = labelled >= SURE
    return bool(2 * (counts[shift].fits & many).sum() > many.sum())


def _placed(labels: Array, ids: Array, supervised: Array, rows: Array, *, elsewhere: bool = True) -> Placed:
    """Where the labels of some `rows` [B] stand: in their own ids, else in those of another row.

    They are looked for by the first and by the last few labels that follow each other, and have to fit from
    end to end.
    """
    count, (batch, length) = len(labels), ids.shape
    own = np.arange(count)
    found, row, places = np.zeros(count, bool), own.copy(), np.zeros(count, np.int64)
    if min(length, labels.shape[1]) < ANCHOR or not rows.any():
        return Placed(found, row, places)

    runs: Array = np.all(np.lib.stride_tricks.sliding_window_view(supervised, ANCHOR, axis=1), axis=2)
    has = rows & runs.any(axis=1)
    asked, held = _numbers(labels), _numbers(ids)
    last = runs.shape[1] - 1 - runs[:, ::-1].argmax(axis=1)
    for at in (runs.argmax(axis=1), last):
        wanted = asked[own, at]
        left = np.flatnonzero(has & ~found)
        if batch == count:
            column = (held[left] == wanted[left, None]).argmax(axis=1)
            _keep(left, left, column - at[left], labels, ids, supervised, (found, row, places))
    for at in (runs.argmax(axis=1), last) if elsewhere else ():
        left = np.flatnonzero(has & ~found)
        if left.size:
            order = np.argsort(held, axis=None, kind="stable")
            nearest = np.searchsorted(held.ravel()[order], asked[own, at][left])
            other, column = np.divmod(order[np.minimum(nearest, order.size - 1)], held.shape[1])
            _keep(left, other, column - at[left], labels, ids, supervised, (found, row, places))
    return Placed(found, row, places)


def _keep(
    rows: Array,
    others: Array,
    places: Array,
    labels: Array,
    ids: Array,
    supervised: Array,
    kept: tuple[Array, Array, Array],
) -> None:
    """Note the rows whose labels are the ids of `others`, so many places on."""
    columns = np.arange(labels.shape[1]) + places[:, None]
    inside = supervised[rows] & (columns >= 0) & (columns < ids.shape[1])
    there = ids[others[:, None], np.clip(columns, 0, ids.shape[1] - 1)]
    same, of = (inside & (labels[rows] == there)).sum(axis=1), inside.sum(axis=1)
    good = (same >= PLACED) & (same >= SAME_TEXT * of) & (2 * of >= supervised[rows].sum(axis=1))
    found, row, place = kept
    found[rows[good]], row[rows[good]], place[rows[good]] = True, others[good], places[good]


def _numbers(rows: Array) -> Array:
    """One number for each few tokens that follow each other, [B, L - 2]."""
    windows = np.lib.stride_tricks.sliding_window_view(rows.astype(np.uint64), ANCHOR, axis=1)
    factors = np.array(_FACTORS, np.uint64)
    mixed: Array = (windows * factors).sum(axis=2, dtype=np.uint64)
    return mixed
