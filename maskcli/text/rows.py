"""Rows of tokens laid out [B, L]: where the real ones stand, and what is counted along them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskcli.arrays import Array, Real
from maskcli.errors import MaskcliError
from maskcli.text.tokenizer import quoted

# Cells of [B, L]: a row of a million tokens fits 8 times, and showing them takes less than 500 MiB.
MAX_CELLS = 2**23


def padded_width(padding: str, max_length: int | None) -> int | None:
    """The length that rows are padded to, None for the longest row's."""
    if max_length is not None and max_length < 1:
        raise MaskcliError(f"a maximum length of {max_length} leaves no tokens; pass --max-length 1 or more")
    kind = padding.replace("_", "-")
    if kind not in ("longest", "max-length"):
        raise MaskcliError(
            f"there is no padding {quoted(padding)}; pass --padding longest or --padding max-length"
        )
    if kind == "longest":
        return None
    if max_length is None:
        raise MaskcliError(
            "--padding max-length needs to know how long; pass --max-length too, such as --max-length 128"
        )
    return max_length


def laid_out(lengths: Sequence[int], width: int | None, side: str) -> Real:
    """Real tokens, bool [B, L], of rows with these lengths, padded on a side to a width or the longest."""
    if side not in ("left", "right"):
        raise MaskcliError(
            f"there is no padding side {quoted(side)}; pass --padding-side left or --padding-side right"
        )
    size = max(lengths) if width is None else width
    if len(lengths) * size > MAX_CELLS:
        raise MaskcliError(
            f"{len(lengths)} x {size} tokens are more than the {MAX_CELLS} cells that a batch may have; "
            "pass fewer or shorter rows, or a smaller --max-length"
        )
    columns = np.arange(size)
    column = np.asarray(lengths, dtype=np.int64)[:, None]
    real: Real = columns < column if side == "right" else columns >= size - column
    return real


def filled(mask: Real, values: Array, fill: int) -> Array:
    """The values of all rows in turn where the mask is True, `fill` elsewhere; int64 [B, L]."""
    cells = np.full(mask.shape, fill, dtype=np.int64)
    cells[mask] = values
    return cells


def positions(mask: Real, documents: tuple[int, ...] | None) -> Array:
    """int64 [B, L]: real tokens counted from 0, in each document anew."""
    counted: Array = np.maximum(np.cumsum(mask, axis=1, dtype=np.int64) - 1, 0)
    if documents:
        counted[mask] -= np.repeat(np.cumsum((0, *documents[:-1])), documents)
        counted[~mask] = 0
    return counted


def document_index(mask: Real, documents: tuple[int, ...] | None) -> Array | None:
    """int64 [1, L]: the document of each token, -1 on padding; None without documents."""
    if documents is None:
        return None
    return filled(mask, np.repeat(np.arange(len(documents)), documents), -1)


def fit(lengths: Sequence[int], max_length: int | None, what: str) -> tuple[tuple[int, ...], list[str]]:
    """The lengths of documents that share a row of at most `max_length` tokens, and what each lost."""
    room = total = sum(lengths)
    if max_length is not None:
        room = min(max_length, total)
    kept, lost, start = [], [], 0
    for number, length in enumerate(lengths):
        left = max(0, min(length, room - start))
        start += length
        if left:
            kept.append(left)
        if left < length:
            lost.append(
                f"{what} {number} lost {length - left} of its {length} tokens, its end among them: "
                f"the packed row ends at {room}"
            )
    return tuple(kept), lost
