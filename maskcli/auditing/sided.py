"""The columns of a chunk by the side of a row that they speak of, each with a value for every token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array
from maskcli.auditing.roles import BORDERS, OF_ROWS, Columns, Joined, Role
from maskcli.errors import MaskcliError
from maskcli.meant.facts import Declared
from maskcli.scene.sides import OF_LOSS, TOKEN_ROLES
from maskcli.tables.columns import Chunk, Column

# Roles whose numbers are whole: ids, and numbers of texts. Positions that became floats are a finding.
WHOLE = ("input_ids", "labels", "segment_ids", "token_type_ids")
# What an int64 holds, as a float.
LARGEST = 2.0**63
# Tokens that columns speak of: a group (chosen, rejected) and a kind (encoder, decoder).
Side = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Sided:
    """The columns of B rows, by name, and of each side how long each row is, int64 [B].

    `unlike` bool [B] are rows in which a column has another length than its side, by name.
    """

    columns: dict[str, tuple[Role, Column]]
    lengths: dict[Side, Array]
    unlike: dict[str, Array]

    @property
    def fits(self) -> Array:
        """Rows [B] of which all columns fit each other."""
        odd = np.zeros(len(next(iter(self.lengths.values()), ())), bool)
        for other in self.unlike.values():
            odd |= other
        return ~odd


def slice_of(chunk: Chunk, rows: int) -> Chunk:
    """The first rows of a chunk."""
    columns = {
        name: Column(values[:rows])
        if offsets is None
        else Column(values[: offsets[: rows + 1][-1]], offsets[: rows + 1])
        for name, (values, offsets) in chunk.columns.items()
    }
    return Chunk(chunk.first, min(rows, chunk.rows), columns)


def side_of(role: Role) -> Side:
    """The side that a role speaks of."""
    return role.group, role.kind


def sided(chunk: Chunk, columns: Columns, apart: frozenset[str]) -> Sided:
    """The columns of a chunk by side: prompts joined to their answers, borders of texts told for each token.

    `apart` are the groups whose labels are another text than their ids.
    """
    held = {
        name: (role, _numbers(chunk, name, role))
        for name, role in columns.roles.items()
        if name in chunk.columns and (chunk.columns[name].offsets is None) == (role.role in OF_ROWS)
    }
    for each in columns.joined:
        held |= _as_one(chunk, each)
    decoders = apart | {role.group for role, _ in held.values() if role.kind == "decoder"}
    held = {name: (_placed(role, decoders), column) for name, (role, column) in held.items()}

    lengths = dict[Side, Array]()
    for wanted in TOKEN_ROLES:
        for role, column in held.values():
            if role.role == wanted:
                lengths.setdefault(side_of(role), column.lengths)
    for name in columns.of_answers & held.keys():
        role, column = held[name]
        held[name] = role, _at_the_end(column, lengths.get(side_of(role), column.lengths))
    unlike = dict[str, Array]()
    for name, (role, column) in held.items():
        if role.role in TOKEN_ROLES or role.role == "segment_ids":
            other = column.lengths != lengths.get(side_of(role), column.lengths)
            if other.any():
                unlike[name] = other
    told = _per_token(held, lengths, unlike)
    return Sided(told, lengths, unlike)


def _numbers(chunk: Chunk, name: str, role: Role) -> Column:
    """A column, of whole numbers where its role asks for them: nulls in JSON make floats of all others."""
    values, offsets = chunk.columns[name]
    if values.dtype.kind != "f" or role.role not in WHOLE:
        return chunk.columns[name]
    odd = ~(np.abs(values) < LARGEST) | (values != np.floor(values))
    if odd.any():
        place = int(odd.argmax())
        row = place if offsets is None else int(np.searchsorted(offsets, place, side="right")) - 1
        raise MaskcliError(
            f"the column {name!r} holds {values[place]} in row {chunk.first + row} where {role.role} are "
            "whole numbers; mend that row, or leave the column out"
        )
    return Column(values.astype(np.int64), offsets)


def _placed(role: Role, decoders: frozenset[str]) -> Role:
    """A role on its side: labels and loss masks are a decoder's where there is one."""
    return role._replace(kind="decoder") if role.role in OF_LOSS and role.group in decoders else role


def _as_one(chunk: Chunk, joined: Joined) -> dict[str, tuple[Role, Column]]:
    """Ids of whole rows, and what counts of them: what follows the prompt."""
    if joined.prompt not in chunk.columns or joined.answer not in chunk.columns:
        return {}
    prompt, answer = chunk.columns[joined.prompt], chunk.columns[joined.answer]
    counted = [
        Column(np.full(len(each.values), at), each.offsets) for at, each in enumerate((prompt, answer))
    ]
    name = f"{joined.prompt} + {joined.answer}"
    prefix = f"{joined.group}_" if joined.group else ""
    made = {name: (Role("input_ids", group=joined.group), _behind(prompt, answer))}
    if joined.masks and all(mask in chunk.columns for mask in joined.masks):
        masks = [chunk.columns[mask] for mask in joined.masks]
        made[" + ".join(joined.masks)] = Role("padding_mask", group=joined.group), _behind(*masks)
        # The mask of what is no padding of the answer is that of what counts as well.
        counted[1] = masks[1]
    made[f"{prefix}completion_mask"] = Role("loss_mask", group=joined.group), _behind(*counted)
    return made


def _at_the_end(column: Column, lengths: Array) -> Column:
    """A mask of the last tokens of each row as one of rows of these lengths; as it is where it is longer."""
    missing = lengths - column.lengths
    if column.offsets is None or (missing < 0).any():
        return column
    begins = np.concatenate([[0], np.cumsum(missing)])
    return _behind(Column(np.zeros(begins[-1], column.values.dtype), begins), column)


def _behind(first: Column, second: Column) -> Column:
    """Each row of one column with that of another behind it."""
    assert first.offsets is not None
    assert second.offsets is not None
    lengths = np.stack([np.diff(first.offsets), np.diff(second.offsets)], axis=1)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    values = np.empty(int(begins[-1]), np.result_type(first.values, second.values))
    is_second = np.repeat(np.tile([False, True], len(lengths)), lengths.ravel())
    values[~is_second], values[is_second] = first.values, second.values
    return Column(values, begins[::2])


def _per_token(
    held: dict[str, tuple[Role, Column]], lengths: dict[Side, Array], unlike: dict[str, Array]
) -> dict[str, tuple[Role, Column]]:
    """Columns of the borders of texts as the number of each token's text; `unlike` takes rows that these do
    not fit.
    """
    told = dict[str, tuple[Role, Column]]()
    for name, (role, column) in held.items():
        if role.role not in BORDERS:
            told[name] = role, column
        elif (length := lengths.get(side_of(role))) is not None:
            offsets = np.concatenate([[0], np.cumsum(length)])
            texts, fits = _texts(role.role, column, offsets)
            told[name] = role._replace(role="segment_ids"), Column(texts, offsets)
            if not fits.all():
                unlike[name] = ~fits
    return told


def _texts(role: str, borders: Column, offsets: Array) -> tuple[Array, Array]:
    """The number of each token's text, int64 [N], counted from 0 in each row, and rows whose borders fit,
    bool [B]. What stands behind the last text is padding.
    """
    assert borders.offsets is not None
    rows = np.repeat(np.arange(len(offsets) - 1), borders.lengths)
    length = np.diff(offsets)
    values = borders.values.astype(np.int64)
    places, whole = values, np.zeros(len(length), np.int64)
    if role == "lengths":
        ends = np.cumsum(values)
        places = ends - values
        base = np.concatenate([[0], ends])[borders.offsets[:-1]]
        places = places - base[rows]
        whole = np.concatenate([[0], ends])[borders.offsets[1:]] - base
    elif role == "cu_seqlens":
        np.maximum.at(whole, rows, values)
    else:
        whole = length
    fits = whole <= length
    inside = (values >= 0) & (places < length[rows]) & (places >= 0) & fits[rows]
    begins = np.zeros(int(offsets[-1]) + 1, np.int64)
    np.add.at(begins, (offsets[:-1][rows] + places)[inside], 1)
    rest = fits & (whole < length) & (whole > 0)
    begins[(offsets[:-1] + whole)[rest]] += 1
    count = np.cumsum(begins)[:-1]
    first = np.concatenate([[0], count])[offsets[:-1]]
    texts: Array = count - np.repeat(first, length)
    return texts, fits


def real_tokens(ids: Column, declared: Declared) -> Array:
    """What is no padding among the ids of ragged rows, bool [N]: what stands in a row is real.

    Runs of padding at its edges are not, where its id is known to end and begin no texts.
    """
    assert ids.offsets is not None
    pad = declared.pad_id
    real = np.ones(len(ids.values), bool)
    if pad is None or pad in (*declared.eos_ids, *declared.bos_ids):
        return real
    words = np.flatnonzero(ids.values != pad)
    if len(words) == len(real):
        return real
    first = np.searchsorted(words, ids.offsets[:-1])
    last = np.searchsorted(words, ids.offsets[1:])
    begin = np.append(words, len(real))[first]
    stop = np.where(last > first, np.append(words, 0)[last - 1] + 1, begin)
    at = np.arange(len(real))
    lengths = np.diff(ids.offsets)
    inside: Array = (at >= np.repeat(begin, lengths)) & (at < np.repeat(stop, lengths))
    return inside
