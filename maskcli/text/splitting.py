"""Rows of ids to turns: an automaton over the places where markers stand, all rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.padding import one_of
from maskcli.text.markers import ROLES, End, Header
from maskcli.text.sentinels import Ids

# Parts of a turn; NONE is outside of any: a row's start, and rows in which no marker stands.
NONE, HEADER, CONTENT, END, BEHIND = range(5)
# States of the automaton beside roles: what began before the row did, and between turns.
_UNKNOWN, _BETWEEN = -2, -1
_LONG = 2**32


class Kinds(NamedTuple):
    """Markers as columns [M]: headers, what stands before all turns (`start`), and ends for the rest.

    `need` ids are enough to know a header, `role` is the one that it opens. `ends` [M, R] are the roles that
    an end ends. `strong` ones hold a special id, and hold wherever they stand: as ends they `close` [M, R]
    turns of any role, but of those that have a shorter end in the last of their ids.
    """

    ids: tuple[Ids, ...]
    need: Array
    header: Array
    start: Array
    role: Array
    ends: Array
    closes: Array
    strong: Array
    borrowed: Array


@dataclass(frozen=True, eq=False)
class Split:
    """Turns of N ids, flat or [B, L] as the ids were.

    `turn` int32: which turn of its row, -1 outside. `role` int8: an index of ROLES, -1 where unknown or
    outside. `part` int8: NONE, HEADER, CONTENT, END, or BEHIND for what follows an end up to the next
    header.
    """

    turn: Array
    role: Array
    part: Array

    def of(self, *roles: str) -> Array:
        """bool: tokens of turns of these roles, of all their parts."""
        return one_of(self.role, map(ROLES.index, roles))

    @property
    def headers(self) -> Array:
        """bool: what stands before contents."""
        return np.asarray(self.part == HEADER)

    @property
    def contents(self) -> Array:
        """bool: what is said in turns."""
        return np.asarray(self.part == CONTENT)

    @property
    def ends(self) -> Array:
        """bool: what ends turns."""
        return np.asarray(self.part == END)

    @property
    def ended(self) -> Array:
        """bool: what ends turns, and what stands behind it."""
        return np.asarray(self.part >= END)

    def spread(self, real: Array) -> Split:
        """Flat rows as a rectangle: what is told of each `real` token, bool [B, L], in their order."""
        columns = (np.full(real.shape, outside, np.int32) for outside in (-1, -1, NONE))
        spread = Split(*columns)
        spread.turn[real], spread.role[real], spread.part[real] = self.turn, self.role, self.part
        return spread

    def at(self, *index: Any) -> Split:
        """What is told of some of the tokens, which are chosen as numpy does it."""
        return Split(self.turn[index], self.role[index], self.part[index])

    def answers(self) -> Array:
        """bool: contents of assistants' turns and what ends them, which the loss is to count."""
        told: Array = self.of("assistant") & (self.contents | self.ends)
        return told


class _Events(NamedTuple):
    """Places where a marker stands [E]: the first id's, how many ids match, which marker, in which row.

    `end` is an end that stands at the same place, -1 for none.
    """

    place: Array
    size: Array
    marker: Array
    row: Array
    end: Array


def kinds_of(
    headers: Sequence[Header], ends: Sequence[End], starts: Sequence[Ids], strong: Sequence[bool]
) -> Kinds:
    """Columns of all markers: headers, then ends, then starts; `strong` for each in that order."""
    first, second = len(headers), len(headers) + len(ends)
    count = second + len(starts)
    ids = (*(header.ids for header in headers), *(end.ids for end in ends), *starts)
    need = [header.need for header in headers] + [len(item) for item in ids[first:]]
    index = np.arange(count)
    role = np.full(count, -1)
    role[:first] = [ROLES.index(header.role) for header in headers]
    table = np.zeros((count, len(ROLES)), bool)
    for at, end in enumerate(ends, first):
        table[at, [ROLES.index(name) for name in end.roles]] = True
    borrowed = np.zeros(count, bool)
    borrowed[:first] = [header.borrowed for header in headers]
    holds = np.asarray(strong, bool)
    closes = table | (holds[:, None] & ~_shorter(ids, table))
    return Kinds(
        ids, np.asarray(need, int), index < first, index >= second, role, table, closes, holds, borrowed
    )


def _shorter(ids: Sequence[Ids], ends: Array) -> Array:
    """Roles that have an end of their own in the last ids of another marker, [M, R]."""
    found = np.zeros_like(ends)
    for at, long in enumerate(ids):
        for other, short in enumerate(ids):
            if len(short) < len(long) and long[-len(short) :] == short:
                found[at] |= ends[other]
    return found


def split_rows(kinds: Kinds, ids: Array, offsets: Array) -> Split:
    """Turns of ragged rows: ids [N] and the places where rows begin and the last ends, [B + 1]."""
    events = _events(kinds, ids, offsets)
    kept, before = _accepted(kinds, events, offsets)
    return _filled(kinds, kept, before, offsets)


def _events(kinds: Kinds, ids: Array, offsets: Array) -> _Events:
    """Where markers stand in their rows: at each the longest, whole ones first, headers before ends."""
    firsts = np.asarray([item[0] for item in kinds.ids], np.int64)
    table = np.zeros(int(firsts.max(initial=0)) + 2, bool)
    table[firsts] = True
    # Ids that the table does not hold meet its last cell, which is of no marker.
    place = np.flatnonzero(np.take(table, ids, mode="clip") & (ids >= 0))
    row = np.searchsorted(offsets, place, side="right") - 1
    first, stop = ids[place], offsets[row + 1]

    best = np.zeros(len(place), np.int64)
    size = np.zeros(len(place), np.int64)
    marker, end = np.full(len(place), -1), np.full(len(place), -1)
    for number, item in enumerate(kinds.ids):
        at = np.flatnonzero(first == item[0])
        matched = _matched(ids, place[at], stop[at], item)
        whole = matched == len(item)
        rank = _LONG * whole + 4 * matched + 2 * kinds.header[number] + (not kinds.start[number])
        better = (matched >= kinds.need[number]) & (rank > best[at])
        chosen = at[better]
        if kinds.ends[number].any():
            end[at[whole]] = number
        best[chosen], size[chosen], marker[chosen] = rank[better], matched[better], number
    found = marker >= 0
    return _Events(place[found], size[found], marker[found], row[found], end[found])


def _matched(ids: Array, place: Array, stop: Array, marker: Ids) -> Array:
    """How many first ids of a marker stand at places of one row, where the first does."""
    matched = np.ones(len(place), np.int64)
    alive = np.arange(len(place))
    for step, number in enumerate(marker[1:], 1):
        at = place[alive] + step
        alive, at = alive[at < stop[alive]], at[at < stop[alive]]
        alive = alive[ids[at] == number]
        if not len(alive):
            break
        matched[alive] = step + 1
    return matched


def _accepted(kinds: Kinds, events: _Events, offsets: Array) -> tuple[_Events, Array]:
    """Events that change a row's state, and the state before each: one step for each rank in the rows.

    Rows are taken from the most events to the fewest, so that each step is a slice of them.
    """
    rows = len(offsets) - 1
    counts = np.bincount(events.row, minlength=rows)
    firsts = np.cumsum(counts) - counts
    order = np.argsort(-counts, kind="stable")
    busy = np.searchsorted(-counts[order], -np.arange(int(counts.max(initial=0))), side="left")

    closes = ~kinds.header & ~kinds.start
    ending: Array = np.asarray(kinds.ends.any(axis=0))
    # Plain words are no marker inside a turn that ends by a marker, unless its row has lost its ends.
    ends_in_row = np.bincount(events.row[closes[events.marker]], minlength=rows)
    state = np.full(rows, _UNKNOWN)
    cursor = np.zeros(rows, np.int64)
    keep = np.zeros(len(events.row), bool)
    before = np.full(len(events.row), _BETWEEN)
    for rank, active in enumerate(busy):
        row = order[:active]
        event = firsts[row] + rank
        marker = events.marker[event]
        now: Array = state[row]
        free = events.place[event] >= cursor[row]
        inside: Array = now >= 0
        role = np.maximum(now, 0)
        loose = kinds.strong[marker] | ~inside | ~ending[role] | (ends_in_row[row] == 0)
        opens = kinds.header[marker] & loose
        own = inside & kinds.closes[marker, role]
        at_start = events.place[event] == offsets[row]
        ends = closes[marker] & (own | ((now == _UNKNOWN) & ~at_start))
        taken: Array = free & (opens | ends | kinds.start[marker])

        keep[event], before[event] = taken, now
        moved = row[taken]
        state[moved] = np.where(kinds.header[marker[taken]], kinds.role[marker[taken]], _BETWEEN)
        cursor[moved] = (events.place + events.size)[event[taken]]
        state[row[free & closes[marker] & (now == _UNKNOWN) & at_start]] = _BETWEEN
    kept = _Events(*(column[keep] for column in events))
    return kept, before[keep]


def _filled(kinds: Kinds, events: _Events, before: Array, offsets: Array) -> Split:
    """Parts, roles and turns of all ids: of each row's beginning, of each marker, and of what follows it."""
    rows, count = len(offsets) - 1, len(events.row)
    header = kinds.header[events.marker]
    empty = _empty(kinds, events, before, offsets)
    # A header that nothing follows may only end the turn before it.
    opens = header & ~empty
    closes = ~header & ~kinds.start[events.marker] | (empty & (before >= 0))

    first_of_row: Array = np.r_[True, events.row[1:] != events.row[:-1]] if count else np.zeros(0, bool)
    begun: Array = np.zeros(rows, bool)
    leads = first_of_row & closes
    begun[events.row[leads]] = True
    lead_role = np.full(rows, -1)
    lead_role[events.row[leads]] = _only_role(kinds.ends[events.marker[leads]])

    turn: Array = np.cumsum(opens)
    base = np.zeros(rows, np.int64)
    base[events.row[first_of_row]] = (turn - opens)[first_of_row]
    turn = turn - base[events.row] - 1 + begun[events.row]
    role = np.where(opens, kinds.role[events.marker], np.where(before >= 0, before, -1))
    role = np.where(leads, lead_role[events.row], role)
    started = kinds.start[events.marker] | (empty & (before < 0))

    cells = rows + 2 * count
    initial = np.arange(rows) + 2 * np.searchsorted(events.row, np.arange(rows))
    marked = events.row + 1 + 2 * np.arange(count)
    columns = np.empty((3, cells), np.int32)
    columns[:, initial] = np.where(begun, 0, -1), lead_role, np.where(begun, CONTENT, NONE)
    outside = np.full(count, -1)
    own_part = np.where(started, NONE, np.where(opens, HEADER, END))
    own = np.where(started, outside, turn), np.where(started, outside, role), own_part
    columns[:, marked] = own
    columns[:, marked + 1] = (own[0], own[1], np.where(started, NONE, np.where(opens, CONTENT, BEHIND)))

    begins = np.empty(cells + 1, np.int64)
    begins[initial], begins[-1] = offsets[:-1], offsets[-1]
    begins[marked], begins[marked + 1] = events.place, events.place + events.size
    lengths = np.diff(begins)
    return Split(
        np.repeat(columns[0], lengths),
        np.repeat(columns[1].astype(np.int8), lengths),
        np.repeat(columns[2].astype(np.int8), lengths),
    )


def _empty(kinds: Kinds, events: _Events, before: Array, offsets: Array) -> Array:
    """Headers that open no turn, bool [E]: borrowed ones that another header follows at once, and those at
    the row's end that end the turn before too.
    """
    header = kinds.header[events.marker]
    stop = events.place + events.size
    empty: Array = header & (stop == offsets[events.row + 1]) & (events.end >= 0)
    empty &= kinds.ends[events.end, np.maximum(before, 0)] & (before >= 0)
    same, touches = events.row[1:] == events.row[:-1], events.place[1:] == stop[:-1]
    empty[:-1] |= same & touches & header[1:] & header[:-1] & kinds.borrowed[events.marker[:-1]]
    return empty


def _only_role(ends: Array) -> Array:
    """The role that an end belongs to, [E, R] to [E]; -1 where several share it."""
    only: Array = np.where(ends.sum(axis=1) == 1, ends.argmax(axis=1), -1)
    return only
