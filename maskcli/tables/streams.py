"""Streams of token ids without a header, cut at the end of each text or by length."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.tables.columns import NUMBERS, Chunk, Column, Look, Part, Raw, Wanted
from maskcli.tables.limits import BLOCK, MAX_VALUES, PART
from maskcli.tables.places import exists, opened, size_of

IDS, MASK = "input_ids", "labels_mask"
# What names of files that belong together have: OLMo's token_ids_part_0.npy and labels_mask_part_0.npy.
PAIR = ("token_ids", "labels_mask")
SUFFIXES = (".npy", ".bin", ".raw", ".dat")
# What files with a header begin with: numpy's, archives, pickles.
HEADED = (b"\x93NUMPY", b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
TYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")


def holds(path: str, head: bytes) -> bool:
    """Whether a file is a stream, by its suffix and because it begins as nothing else does."""
    return path.lower().endswith(SUFFIXES) and not head.startswith(HEADED)


def look(path: str, form: str, raw: Raw) -> Look:
    """Its pieces of about PART bytes; a file of masks beside it is its second column."""
    if raw.dtype not in TYPES:
        raise MaskcliError(f"{raw.dtype!r} is no type of token ids, expected one of {', '.join(TYPES)}")
    if not raw.eos and raw.length is None:
        raise MaskcliError(
            f"{path!r} is a stream of tokens: say where its rows end, by the id of the last token "
            "(--eos-id) or by a length (--max-length)"
        )
    width = np.dtype(raw.dtype).itemsize
    count, rest = divmod(size_of(path), width)
    if rest:
        raise MaskcliError(f"{path!r} has {size_of(path)} bytes, which are no {raw.dtype}; check the type")
    mask = mask_of(path)
    if mask is not None:
        _mask_type(mask, count, raw)
    unit = raw.length or 1
    step = max(1, PART // width // unit) * unit
    pieces = [(first, min(first + step, count)) for first in range(0, count, step)]
    parts = (Part(path, form, piece, size=(piece[1] - piece[0]) * width, raw=raw) for piece in pieces)
    return Look(tuple(parts), {IDS: NUMBERS} | ({MASK: NUMBERS} if mask is not None else {}))


def read(part: Part, wanted: Wanted) -> Iterator[Chunk]:
    """The texts that begin in a piece of the stream, or its rows of one length."""
    assert part.raw is not None
    raw, (begin, end) = part.raw, part.piece
    mask = mask_of(part.path) if MASK in wanted.numbers else None
    total = size_of(part.path) // np.dtype(raw.dtype).itemsize
    mask_type = _mask_type(mask, total, raw) if mask is not None else ""
    row = 0
    for at, tokens, offsets in _texts(part.path, raw, begin, end, total):
        columns = {IDS: Column(tokens, offsets)} if IDS in wanted.numbers else {}
        if mask is not None:
            columns[MASK] = Column(_slice(mask, mask_type, at, at + len(tokens)), offsets)
        yield Chunk(row, len(offsets) - 1, columns)
        row += len(offsets) - 1


def mask_of(path: str) -> str | None:
    """The file that holds the mask of a file of ids, by its name."""
    folder, name = os.path.split(path)
    beside = os.path.join(folder, name.replace(*PAIR))
    return beside if beside != path and exists(beside) else None


def is_mask(path: str) -> bool:
    """Whether a file is the mask of another, which is read with it."""
    folder, name = os.path.split(path)
    ids = os.path.join(folder, name.replace(PAIR[1], PAIR[0]))
    return ids != path and exists(ids)


def _texts(path: str, raw: Raw, begin: int, end: int, total: int) -> Iterator[tuple[int, Array, Array]]:
    """(place of the first token, tokens, offsets) of the rows that begin in a piece, some at a time."""
    at = begin if raw.length or not begin else _behind_an_end(path, raw, begin, total)
    ahead = BLOCK // np.dtype(raw.dtype).itemsize
    ahead = max(1, ahead // raw.length) * raw.length if raw.length else ahead
    count = ahead
    while at < end:
        tokens = _slice(path, raw.dtype, at, min(at + count, total))
        ends = _ends(tokens, raw, last=at + count >= total)
        if not len(ends):
            count *= 2
            if count > MAX_VALUES:
                where = (
                    f"has no token {', '.join(map(str, raw.eos))} in {MAX_VALUES} tokens from token {at} on"
                )
                raise MaskcliError(f"{path!r} {where}; check the id and the type")
            continue
        offsets = np.concatenate([[0], ends])
        offsets = offsets[: 1 + int(np.searchsorted(at + offsets[:-1], end))]
        yield at, tokens[: offsets[-1]], offsets
        at, count = at + int(offsets[-1]), ahead


def _ends(tokens: Array, raw: Raw, last: bool) -> Array:
    """Where rows end among tokens that begin with one: behind the last tokens of texts, or by length."""
    if raw.length:
        return np.append(np.arange(raw.length, len(tokens), raw.length), len(tokens))
    ends = np.flatnonzero(np.isin(tokens, raw.eos)) + 1
    is_cut = last and (not len(ends) or ends[-1] < len(tokens))
    return np.append(ends, len(tokens)) if is_cut else ends


def _behind_an_end(path: str, raw: Raw, begin: int, total: int) -> int:
    """The first place from `begin` on at which a text begins, or the end of the stream."""
    step = BLOCK // np.dtype(raw.dtype).itemsize
    for at in range(begin - 1, total, step):
        tokens = _slice(path, raw.dtype, at, min(at + step, total))
        found = np.flatnonzero(np.isin(tokens, raw.eos))
        if len(found):
            return at + int(found[0]) + 1
    return total


def _mask_type(path: str, count: int, raw: Raw) -> str:
    """The type of a mask, by how many numbers there should be: bytes, or the type of the ids."""
    for dtype in ("uint8", raw.dtype):
        if size_of(path) == count * np.dtype(dtype).itemsize:
            return dtype
    raise MaskcliError(
        f"{path!r} has {size_of(path)} bytes, expected a mask of {count} tokens; check the pair"
    )


def _slice(path: str, dtype: str, first: int, last: int) -> Array:
    """Numbers `first` to `last` of a stream."""
    width = np.dtype(dtype).itemsize
    with opened(path) as file:
        file.seek(first * width)
        found: Array = np.frombuffer(file.read((last - first) * width), np.dtype(dtype).newbyteorder("<"))
    return found
