"""Positions that are told one by one: of queries and keys that do not simply follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.errors import MaskcliError
from maskcli.meant.places import MOST
from maskcli.scene.by_weights import fills_only, skips_the_first, weighs
from maskcli.scene.tokens import jumps
from maskcli.scene.witnesses import Padding, Witnesses
from maskcli.tensors import Tensor


class Stand(NamedTuple):
    """Positions of queries, int [b, Q], and of keys, int [b, K] (None: key k stands at k), and who says so.

    `filled` int [B] is how many slots of each item hold a token, where lengths tell it.
    """

    queries: Array
    keys: Array | None
    told_by: str
    filled: Array | None = None


class Scattered(NamedTuple):
    """Why nobody knows where the keys stand, and whether the queries do not even follow each other."""

    why: str
    jumping: bool


class Told(NamedTuple):
    """What is asked about: the map's shape, its padding where that covers every key, and its weights.

    `slots` says that saved positions are places in a cache, which count the padding in front.
    """

    shape: Shape
    padding: Padding | None
    weights: Tensor | None
    slots: bool = False

    def at(self, positions: Array) -> Array:
        """Where tokens of these positions [b, Q] stand among the keys, whose padding no position counts."""
        if self.padding is None or self.slots:
            return positions
        real = self.padding.real
        # Real keys first, in their order; behind them positions go on.
        order = np.argsort(~real, axis=1, kind="stable")
        count = real.sum(axis=1, keepdims=True)
        rows = np.broadcast_to(positions, (len(real), positions.shape[1]))
        inside = np.take_along_axis(order, np.clip(rows, 0, real.shape[1] - 1), axis=1)
        return np.where(rows < count, inside, rows + real.shape[1] - count)


def stand(witnesses: Witnesses, told: Told) -> Stand | None:
    """Where queries and keys stand one by one, by the first that says so; None: one behind the other."""
    found = _with_keys(witnesses, told) or _declared(witnesses, told) or _by_positions(witnesses, told)
    if found is None and witnesses.declared.past is None:
        found = _by_lengths(witnesses, told)
    return found


def check_declared(witnesses: Witnesses, shapes: Sequence[Shape]) -> None:
    """Refuse declared positions that fit none of the maps and masks [B, H, Q, K]; none is passed over."""
    keys = witnesses.key_positions if witnesses.declared.key_positions is not None else (None, "")
    for what, axis, (rows, source) in (("queries", 2, witnesses.declared_positions), ("keys", 3, keys)):
        fits = any(fitting(rows, shape[0], shape[axis]) is not None for shape in shapes)
        if rows is not None and shapes and not fits:
            raise MaskcliError(
                f"{source} has {rows.shape[1]} positions, and {shapes[0][axis]} {what} stand there; write "
                "whole numbers from 0 on, one for each, or a row of them for each sample"
            )


def _with_keys(witnesses: Witnesses, told: Told) -> Stand | None:
    """Keys where a declaration, a tensor or a block table puts them; the queries are the last of them."""
    batch, _, queries, keys = told.shape
    rows, source = witnesses.key_positions
    at = fitting(rows, batch, keys)
    if at is None:
        at, source = _paged(witnesses, told), "the block table"
    if at is None:
        return None

    declared, _ = witnesses.declared_positions
    mine = fitting(declared, batch, queries)
    if mine is None:
        mine = fitting(witnesses.positions, batch, queries)
    if mine is None:
        # The newest tokens ask: in a square map all of them, each from where its key stands.
        mine = at if queries == keys else np.sort(at, axis=1)[:, -queries:]
    return Stand(mine, at, source)


def _paged(witnesses: Witnesses, told: Told) -> Array | None:
    """Where every slot of a paged cache [B, K] stands in each item's text, by its block table and length."""
    batch, _, _, keys = told.shape
    table, size, lengths = witnesses.block_table, witnesses.block_size, _totals(witnesses, told)
    if table is None or size is None or lengths is None or len(table) != batch:
        return None
    blocks = table.shape[1]
    physical = keys % size == 0 and int(table.max()) < keys // size and keys > blocks * size
    if not physical:
        return None
    at = np.full((batch, keys), -1)
    for item, (row, length) in enumerate(zip(table, lengths, strict=True)):
        slots = (row[:, None] * size + np.arange(size)).ravel()[: int(length)]
        at[item, slots] = np.arange(slots.size)
    return at


def _declared(witnesses: Witnesses, told: Told) -> Stand | None:
    rows, source = witnesses.declared_positions
    at = fitting(rows, told.shape[0], told.shape[2])
    if at is None:
        return None
    if told.shape[2] == told.shape[3]:
        return Stand(at, at, source)
    return Stand(at, None, source) if at.max() < told.shape[3] else None


def _by_positions(witnesses: Witnesses, told: Told) -> Stand | None:
    """Position ids that jump, or that begin elsewhere in each item."""
    batch, _, queries, keys = told.shape
    rows = fitting(witnesses.positions, batch, queries)
    if rows is None or witnesses.declared.past is not None:
        return None
    real = told.padding.real if told.padding is not None and queries == keys else None
    if not jumps(rows, real):
        at = told.at(rows)
        differ = queries < keys and len(np.unique(at[:, 0])) > 1
        return _each_behind_its_own(at, told) if differ else None
    if queries == keys:
        return Stand(rows, rows, "position_ids")
    at = told.at(rows)
    return Stand(at, None, "position_ids") if at.max() < keys else None


def scattered(witnesses: Witnesses, shape: Shape) -> Scattered | None:
    """Whether queries stand behind as many keys as there are; in a square map they are the same tokens."""
    batch, _, queries, keys = shape
    rows = fitting(witnesses.declared_positions[0], batch, queries)
    rows = fitting(witnesses.positions, batch, queries) if rows is None else rows
    if rows is None or queries == keys or rows.max() < keys:
        return None
    last = f"its last query stands at position {int(rows.max())}"
    why = f"{last}, and nothing tells where its {keys} keys stand; pass --key-positions"
    return Scattered(why, jumps(rows))


def _each_behind_its_own(at: Array, told: Told) -> Stand | None:
    """Positions [B, Q] that begin elsewhere in each item, unless the weights show keys behind all of them."""
    keys, end = told.shape[3], int(at.max()) + 1
    if (np.diff(at, axis=1) != 1).any() or end > keys or _may_be_padded(at[:, -1], told):
        return None
    unfilled = end < keys and told.padding is None and told.weights is not None
    if unfilled and told.weights is not None and not fills_only(told.weights, told.shape, end):
        return None
    return Stand(at, None, "position_ids")


def _may_be_padded(last: Array, told: Told) -> bool:
    """Whether last positions int [B] may differ only because padding stands in front, which nothing tells.

    Then all stand in one slot, and the weights skip what is in front of the shorter texts.
    """
    if told.padding is not None:
        return False
    if told.weights is None:
        return True
    shape, furthest = told.shape, int(last.max())
    behind = np.full(shape[0], furthest)
    short = np.broadcast_to(last, shape[:1])
    together = weighs(told.weights, shape, behind)[short < furthest]
    return bool(together.all()) and skips_the_first(told.weights, shape, behind - short)


def _by_lengths(witnesses: Witnesses, told: Told) -> Stand | None:
    """The last filled slots of each item, by a vector of lengths."""
    totals = _totals(witnesses, told)
    if totals is None or told.shape[2] >= told.shape[3]:
        return None
    differ = len(np.unique(totals)) > 1
    if differ and told.weights is not None and _may_be_padded(totals - 1, told):
        return None
    at = totals[:, None] - told.shape[2] + np.arange(told.shape[2])
    return Stand(at, None, witnesses.lengths_name, totals)


def _totals(witnesses: Witnesses, told: Told) -> Array | None:
    """How many slots of each item hold a token, int [B], the queries' own among them."""
    (batch, _, queries, keys), lengths = told.shape, witnesses.lengths
    if lengths is None or lengths.size != batch or lengths.min() < 0 or lengths.max() > keys:
        return None
    before = lengths + queries
    positions = fitting(witnesses.positions, batch, queries)
    if positions is not None:
        last = positions[:, -1] + 1
        return before if (last == before).all() else lengths
    if not witnesses.lengths_before or before.max() > keys:
        return lengths if lengths.min() >= queries else None
    if told.weights is None:
        return before
    # Caches are measured before or after the new tokens are put in: they weigh themselves.
    return before if weighs(told.weights, told.shape, before - 1).any() else lengths


def fitting(rows: Array | None, batch: int, length: int) -> Array | None:
    """Positions as int [b, length], b 1 or `batch`, when they are whole and fit; one row can hold all."""
    if rows is None or not np.isfinite(rows).all():
        return None
    if rows.shape == (1, batch * length):
        rows = rows.reshape(batch, length)
    whole = rows.astype(np.int64)
    if (whole != rows).any() or whole.max(initial=0) >= MOST:
        return None
    whole = whole[:1] if (whole == whole[:1]).all() else whole
    return whole if whole.shape[1] == length and len(whole) in (1, batch) else None
