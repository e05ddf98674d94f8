"""Rows of a chunk as rectangular batches: rows of like length together, padded as a collator pads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.auditing.roles import Columns, Role
from maskcli.auditing.sided import Side, Sided, real_tokens, side_of
from maskcli.diagnostics.supervision import IGNORE_INDEX
from maskcli.meant.facts import Declared
from maskcli.tables.columns import Column
from maskcli.tensors import Roled, from_array

# Cells of a batch, padding included: few enough for the caches of a core, enough that what each batch costs
# does not matter.
CELLS = 2**18


@dataclass(frozen=True)
class Plan:
    """How rows of a set become batches.

    `fixed` is the length of the rows of a side where all have one, `apart` are the groups whose labels are
    another text than their ids, as a translation is.
    """

    columns: Columns
    fixed: dict[Side, int]
    apart: frozenset[str]


class Batch(NamedTuple):
    """Rows of a chunk as tensors with roles; `rows` int64 [B] are their numbers in the chunk, rising."""

    rows: Array
    tensors: tuple[Roled, ...]

    def take(self, items: Array) -> Batch:
        """The rows at some places."""
        parts = (
            _roled(each.tensor.name, Role(each.role or "", each.kind, each.group), each.tensor.read()[items])
            for each in self.tensors
        )
        return Batch(self.rows[items], tuple(parts))


def batches(rows: Sided, plan: Plan, declared: Declared, cells: int = CELLS) -> Iterator[Batch]:
    """The rows whose columns fit each other, those of like length together.

    Rows of a set of one length are passed as they are. Others are padded, one place further than the longest
    of them: what is cut off at a row's end shows in no batch then, and so in none by chance.
    """
    if not rows.lengths:
        return
    usual = rows.fits
    for side, lengths in rows.lengths.items():
        usual = usual & (lengths == plan.fixed.get(side, -1))
    ragged = rows.fits & ~usual
    total = np.sum(list(rows.lengths.values()), axis=0)

    for part in _cut(np.flatnonzero(usual), total, cells):
        yield _batch(rows.columns, rows.lengths, part, declared, wider=0)
    columns = rows.columns | _made_masks(rows, declared) if ragged.any() else {}
    for part in _cut(np.flatnonzero(ragged), total, cells):
        yield _batch(columns, rows.lengths, part, declared, wider=1)


def _batch(
    columns: dict[str, tuple[Role, Column]],
    lengths: dict[Side, Array],
    rows: Array,
    declared: Declared,
    wider: int,
) -> Batch:
    widths = {side: int(each[rows].max(initial=0)) + wider for side, each in lengths.items()}
    tensors = (
        _roled(name, role, _rectangle(column, rows, widths.get(side_of(role), 0), role.role, declared))
        for name, (role, column) in columns.items()
    )
    return Batch(rows, tuple(tensors))


def _cut(rows: Array, lengths: Array, cells: int) -> Iterator[Array]:
    """Rows from the longest to the shortest, cut where a batch has so many cells; each part rising."""
    order = rows[np.argsort(lengths[rows], kind="stable")]
    stop = len(order)
    while stop > 0:
        width = int(lengths[order[stop - 1]]) + 1
        start = max(stop - max(cells // width, 1), 0)
        yield np.sort(order[start:stop])
        stop = start


def _rectangle(column: Column, rows: Array, width: int, role: str, declared: Declared) -> Array:
    """Rows [B, W] of a column, filled up behind; [B] where it has one number a row."""
    values, offsets = column
    if offsets is None:
        return values[rows]
    begins, stops = offsets[rows], offsets[rows + 1]
    lengths = stops - begins
    if (lengths == width).all() and rows[-1] - rows[0] + 1 == len(rows):
        return values[begins[0] : stops[-1]].reshape(len(rows), width)

    at = np.arange(width)
    inside = at < lengths[:, None]
    fill = _fill(role, values.dtype, declared)
    filled = np.full(inside.shape, fill, np.result_type(values.dtype, np.min_scalar_type(fill)))
    filled[inside] = values[(begins[:, None] + at)[inside]]
    if role == "segment_ids" and len(values):
        # Padding goes with the text before it.
        filled = np.where(inside, filled, values[np.maximum(stops - 1, 0)][:, None])
    return filled


def _fill(role: str, dtype: np.dtype[Any], declared: Declared) -> int | bool:
    """What a collator fills rows up with."""
    if role == "input_ids":
        return declared.pad_id or 0
    if role == "labels":
        return IGNORE_INDEX if declared.ignore_index is None else declared.ignore_index
    return False if dtype.kind == "b" else 0


def _made_masks(rows: Sided, declared: Declared) -> dict[str, tuple[Role, Column]]:
    """Padding masks of the sides that have none."""
    made = dict[str, tuple[Role, Column]]()
    for group, kind in rows.lengths:
        of_side = {
            role.role: column for role, column in rows.columns.values() if side_of(role) == (group, kind)
        }
        ids = of_side.get("input_ids")
        if ids is not None and "padding_mask" not in of_side:
            words = (group, "decoder" if kind == "decoder" else "", "attention_mask")
            role = next(role for role, column in rows.columns.values() if column is ids)
            name = "_".join(word for word in words if word)
            made[name] = role._replace(role="padding_mask"), Column(real_tokens(ids, declared), ids.offsets)
    return made


def _roled(name: str, role: Role, values: Array) -> Roled:
    return Roled(from_array(name, values), role.role, "name", role.group, role.kind, None)
