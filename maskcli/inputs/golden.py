"""Masks in JSON: a golden mask of pytest, or what `show --format json` wrote, read again."""

from __future__ import annotations

import itertools
import math
import os
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.masks.mask import Mask
from maskcli.untrusted import json_object, read_bytes

SUFFIX = ".json"
# A mask in JSON is for reading: one of more bytes is none, nor is one of more cells taken as a tensor.
MOST_BYTES, MOST_CELLS = 2**26, 2**28
MADE = "write it anew with maskcli show -o FILE.json, a golden one with pytest --maskcli-update"
# What tells documents from token types, of which JSON says the segment alone.
DOCUMENTS = "document"


class Golden(NamedTuple):
    """A mask, and what stood beside it of the tokens on its axes, by the usual names."""

    mask: Mask
    tokens: dict[str, Array]


def read(path: str | os.PathLike[str]) -> Golden:
    """The mask in a file. Raises MaskcliError where there is none."""
    try:
        whole = json_object(read_bytes(path, MOST_BYTES))
        return Golden(_mask(whole["mask"]), _tokens(whole))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise MaskcliError(f"{os.fspath(path)!r} holds no mask ({reason}); {MADE}") from None


def tensors(path: str) -> dict[str, Array]:
    """The same as arrays: the mask [B, H, Q, K], True where a query attends."""
    golden = read(path)
    if math.prod(golden.mask.shape) > MOST_CELLS:
        raise MaskcliError(
            f"{path!r} keeps a mask {list(golden.mask.shape)}, too large for JSON; write it with -o FILE.npz"
        )
    return {"mask": np.asarray(golden.mask)} | golden.tokens


def _mask(kept: dict[str, Any]) -> Mask:
    """A mask of its shape and its runs [B][h][Q]; ValueError where they do not go together."""
    batch, heads, queries, keys = kept["shape"]
    items = kept["runs"]
    planes = [plane for item in items for plane in item]
    stored = (len(items), len(planes) // max(len(items), 1), queries)
    if stored[0] != batch or stored[1] not in (1, heads) or {len(plane) for plane in planes} != {queries}:
        raise ValueError(f"its runs are not those of a mask {kept['shape']}")

    rows = [[edge for run in row for edge in run] for plane in planes for row in plane]
    for row in rows:
        rising = all(low < high for low, high in itertools.pairwise([-1, *row, keys + 1]))
        if not rising or len(row) % 2 or not all(isinstance(edge, int) for edge in row):
            raise ValueError(f"runs {row} do not lie apart in 0..{keys}")
    starts, stops = np.array([edge for row in rows for edge in row], int).reshape(-1, 2).T
    shape = (batch, heads, queries, keys)
    return Mask.from_runs(shape, stored, np.array([len(row) // 2 for row in rows]), starts, stops).compact()


def _tokens(whole: dict[str, Any]) -> dict[str, Array]:
    """Padding, ids and documents, as far as they are there and stand on the keys."""
    sides = {"": whole.get("sequences")}
    if whole.get("source"):
        sides = {"encoder_": whole["source"], "decoder_": whole.get("sequences")}
    columns = {"attention_mask": "attention_mask", "input_ids": "id"}
    if DOCUMENTS in whole["mask"].get("spec", ""):
        columns["segment_ids"] = "segment"
    found = {
        side + name: _column(sequences, column)
        for side, sequences in sides.items()
        for name, column in columns.items()
    }
    keys = whole["mask"]["shape"][3]
    told = {name: rows for name, rows in found.items() if rows is not None}
    return {name: rows for name, rows in told.items() if rows.shape[1] == keys or name.startswith("decoder_")}


def _column(sequences: Any, column: str) -> Array | None:
    """A column of all tokens, int64 [B, L]; None where it is not known of each."""
    rows = [[token.get(column) for token in each["tokens"]] for each in sequences or ()]
    if not rows or len({len(row) for row in rows}) > 1 or any(None in row for row in rows):
        return None
    found = np.array(rows, np.int64)
    return found if found.ndim == 2 and found.size else None
