"""The few queries and keys that show a finding: who attends, and who should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from operator import and_
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.diagnostics.finding import Excerpt, Stretch, Where
from maskcli.masks.kinds import padding
from maskcli.masks.mask import Mask
from maskcli.scene.scene import Attention, Saved, Scene
from maskcli.tensors import Tensor

# Lines and columns of an excerpt.
QUERIES, KEYS = 8, 10
# Rows of the place that are looked at, and cells of them.
ROWS, CELLS = 64, 2**21

Token = Callable[[int], str]


class _Matrix(NamedTuple):
    """Who should attend [B, H, Q, K], and who does in rows [low, high) of a sample and head."""

    shape: Shape
    should: Mask
    attends: Callable[[int, int, tuple[int, int]], Array]


def excerpt(scene: Scene, name: str, spot: Where, token: Token | None) -> Excerpt | None:
    """The rows of a tensor that first go wrong in a place; None where nothing says what should be, or does.

    Equal neighbours are one: of any length at most QUERIES lines and KEYS columns are left.
    """
    matrix = _matrix(scene, name)
    if matrix is None:
        return None
    batch, heads, length, keys = matrix.shape
    item = min((spot.batch or (0,))[0], batch - 1)
    head = min((spot.heads or (0,))[0], heads - 1)
    first, last = (spot.queries or ((0, length),))[0]
    rows = first, min(last, first + ROWS, first + max(1, CELLS // max(keys, 1)))

    attends = matrix.attends(item, head, rows)
    should = matrix.should.dense(item, head, rows)
    wrong = attends != should
    if not wrong.any():
        return None
    texts = [_texts(scene, item, size, token) for size in (length, keys)]
    return _folded(Excerpt(name, item, head, (), (), (), ()), attends, should, rows, texts)


def _matrix(scene: Scene, name: str) -> _Matrix | None:
    """What a scene knows of a tensor: weights that have to obey, or a mask that should be another."""
    for attention in scene.attentions:
        if attention.name == name:
            return _weights(attention)
    return next((_mask(saved) for saved in scene.masks if saved.roled.tensor.name == name), None)


def _weights(attention: Attention) -> _Matrix | None:
    if attention.meant is None:
        return None
    shape, tensor = attention.shape, attention.tensor

    def attends(item: int, head: int, rows: tuple[int, int]) -> Array:
        above: Array = _part(tensor, shape, item, head, rows) > 0
        return above

    return _Matrix(shape, attention.meant, attends)


def _part(tensor: Tensor, shape: Shape, item: int, head: int, rows: tuple[int, int]) -> Array:
    """Rows of one sample and head of a tensor with two to four axes."""
    leading = (item, head) if len(tensor.shape) == 4 else (item * shape[1] + head,)
    index = (*leading, slice(*rows))[-(len(tensor.shape) - 1) :]
    return tensor.read(index).reshape(rows[1] - rows[0], shape[3])


def _mask(saved: Saved) -> _Matrix | None:
    """A saved mask beside what was declared for it, or beside itself with the padding."""
    layout = saved.layout
    declared = saved.expected[0].mask if saved.expected else None
    known = padding(layout) if layout.real is not None else None
    parts = [each for each in (declared, known) if each is not None]
    if not parts:
        return None
    whole = [saved.given.keep, *parts]
    shape = tuple(map(max, zip(*(each.shape for each in whole), strict=True)))
    fitting = [mask for each in whole if (mask := each.broadcast_to(shape)) is not None]
    if len(fitting) < len(whole):
        return None
    keep, *meant = fitting
    if declared is None:
        meant.append(keep)
    return _Matrix(shape, reduce(and_, meant), keep.dense)


def _texts(scene: Scene, item: int, size: int, token: Token | None) -> list[str]:
    """The tokens of an axis, empty where they are not known."""
    ids = next((tokens.ids for tokens in scene.tokens if tokens.ids is not None), None)
    if token is None or ids is None or ids.shape[1] != size or item >= len(ids):
        return [""] * size
    return [token(int(each)) for each in ids[item]]


def _folded(
    empty: Excerpt, attends: Array, should: Array, rows: tuple[int, int], texts: Sequence[Sequence[str]]
) -> Excerpt:
    """Equal neighbours together, and of what is left the stretches around the first wrong cell."""
    lines = np.concatenate([attends, should], axis=1)
    tokens = texts[0][rows[0] : rows[1]]
    queries = _around(_edges(lines, tokens), (attends != should).any(axis=1), QUERIES)
    picked = [start for start, _ in queries]
    attends, should = attends[picked], should[picked]

    columns = np.concatenate([attends, should]).T
    every = _edges(columns, texts[1])
    if len(every) > KEYS:
        every = _edges(columns, None)
    keys = _around(every, (attends != should).any(axis=0), KEYS)
    firsts = [start for start, _ in keys]
    return empty._replace(
        queries=tuple(_stretch(low + rows[0], high + rows[0], texts[0]) for low, high in queries),
        keys=tuple(_stretch(low, high, texts[1]) for low, high in keys),
        attends=tuple(map(tuple, attends[:, firsts].tolist())),
        should=tuple(map(tuple, should[:, firsts].tolist())),
    )


def _edges(lines: Array, tokens: Sequence[str] | None) -> list[tuple[int, int]]:
    """Neighbours [start, stop) that are equal, and of the same token."""
    new = (lines[1:] != lines[:-1]).any(axis=1)
    if tokens is not None:
        new |= np.array([first != second for first, second in pairwise(tokens)], bool)
    starts = [0, *(np.flatnonzero(new) + 1).tolist()]
    return [*pairwise([*starts, len(lines)])]


def _around(stretches: list[tuple[int, int]], wrong: Array, most: int) -> list[tuple[int, int]]:
    """At most so many of them, from the one before the first that is wrong."""
    first = next(at for at, (start, stop) in enumerate(stretches) if wrong[start:stop].any())
    low = max(0, min(first - 1, len(stretches) - most))
    return stretches[low : low + most]


def _stretch(start: int, stop: int, texts: Sequence[str]) -> Stretch:
    return Stretch(start, stop, texts[start] if len(set(texts[start:stop])) == 1 else "")
