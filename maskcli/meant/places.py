"""Positions as people tell them: "0:4,28:32", rows between semicolons, a tensor, or FILE:TENSOR."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError

if TYPE_CHECKING:
    from maskcli.meant.settling import Origin

# Positions behind this are no text's; masks over them would take more memory than anybody has.
MOST = 2**27
_WRITTEN = re.compile(r"[-0-9,;:\s]+")
_RANGE = re.compile(r"([0-9]{1,9}):([0-9]{1,9})|-?[0-9]{1,9}")


@dataclass(frozen=True, eq=False)
class Places:
    """Where tokens stand: rows int [b, L], -1 for a slot without one, or the `name` of a tensor in the file.

    `source` is who says so, in words.
    """

    source: str
    rows: Array | None = None
    name: str | None = None


def places(given: Any, origin: Origin) -> Places:
    """Positions as an option, a keyword or metadata gives them; only users may name files."""
    if not isinstance(given, str):
        return Places(origin.name, whole(np.atleast_2d(np.asarray(given)), origin.name))
    if _WRITTEN.fullmatch(given):
        return Places(origin.name, whole(_rows(given, origin), origin.name))

    from maskcli.tensors import find_tensor, open_tensors, readable, split_target, suffix_of

    path, name = split_target(given)
    if suffix_of(path) not in readable():
        return Places(origin.name, name=given)
    if not origin.trusted:
        raise MaskcliError(f"{origin.name} is {given!r}: only the command line may name files")
    file = open_tensors(path)
    tensor = file.tensors[0] if name is None and len(file.tensors) == 1 else find_tensor(file, name or "")
    return Places(origin.name, whole(np.atleast_2d(tensor.read()), f"{origin.name} {given!r}"))


def whole(rows: Array, source: str) -> Array:
    """Positions [b, L] as int64. Raises MaskcliError for what is none."""
    real = rows.astype(np.float64) if rows.dtype.kind in "iuf" else np.full(rows.shape, np.nan)
    fits = rows.ndim == 2 and bool((real == np.floor(real)).all() and (np.abs(real) < MOST).all())
    if not fits:
        raise MaskcliError(
            f"{source} has the shape {list(rows.shape)} of {rows.dtype}; positions are whole numbers below "
            f"{MOST:,}, one for each token, in a row for all samples or one for each"
        )
    return np.maximum(rows.astype(np.int64), -1)


def _rows(text: str, origin: Origin) -> Array:
    """Rows of numbers and ranges START:STOP."""
    rows = [_row(part, origin) for part in text.strip().strip(";").split(";")]
    if len({row.size for row in rows}) > 1:
        sizes = ", ".join(str(row.size) for row in rows)
        raise MaskcliError(f"{origin.name} has rows of {sizes} positions; every sample needs as many")
    return np.stack(rows)


def _row(text: str, origin: Origin) -> Array:
    pieces = [np.zeros(0, np.int64)]
    for word in text.replace(",", " ").split():
        match = _RANGE.fullmatch(word)
        if match is None:
            raise MaskcliError(
                f"{origin.name} has {word!r} where a position belongs; write positions such as 0,1,6,7 or "
                "ranges such as 0:4,28:32"
            )
        pieces.append(np.arange(int(match[1]), int(match[2])) if match[1] else np.array([int(word)]))
    return np.concatenate(pieces)
