"""A few whole rows of a map: enough to rule out what is rare before a pass over everything looks for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks import views
from maskcli.masks.mask import Mask
from maskcli.tensors import Tensor

# Query rows looked at, and cells held for them at most (8 MiB as float32).
ROWS, CELLS = 16, 2**21
# Maps of so few cells are read at once.
SMALL = 2**16


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of the first `items` and `heads` at some `queries`: values [items, heads, n, K], float32 or 64."""

    items: int
    heads: int
    queries: Array
    values: Array

    def of(self, rows: Array) -> Array:
        """What an array that broadcasts to [B, H, Q] says of the sampled rows, [items, heads, n]."""
        at = self.queries if rows.shape[2] > 1 else np.zeros(len(self.queries), np.int64)
        part = rows[: self.items, : self.heads, at]
        return np.broadcast_to(part, (self.items, self.heads, len(self.queries)))

    def allowed(self, mask: Mask) -> Array:
        """What a mask lets the sampled rows attend, bool [items, heads, n, K]."""
        items, heads = np.arange(self.items)[:, None, None], np.arange(self.heads)[:, None]
        return views.rows_at(mask, items, heads, self.queries)


def sample(tensor: Tensor, shape: Shape, real: Array) -> Sample:
    """Rows spread over the queries of a map [B, H, Q, K] that some item of `real` [B, 1, Q] calls real."""
    batch, heads, queries, keys = shape
    known = np.flatnonzero(np.broadcast_to(real, (batch, 1, queries)).any(axis=(0, 1)))
    known = known if known.size else np.arange(queries)
    wanted = max(1, min(ROWS, CELLS // max(batch * heads * keys, 1)))
    chosen = known[np.unique(np.linspace(0, len(known) - 1, wanted).round().astype(int))]
    items = max(1, min(batch, CELLS // max(keys * len(chosen), 1)))
    heads = max(1, min(heads, CELLS // max(items * keys * len(chosen), 1)))
    first = (np.arange(items)[:, None] * shape[1] + np.arange(heads)) * queries
    values = some_rows(tensor, (first[..., None] + chosen).ravel())
    return Sample(items, heads, chosen, values.reshape(items, heads, len(chosen), keys))


def some_rows(tensor: Tensor, rows: Array) -> Array:
    """Some rows of a tensor, int [n] with its leading axes flattened: [n, K], read one by one where large."""
    if tensor.row_count * tensor.row_length <= SMALL:
        whole: Array = tensor.rows(0, tensor.row_count)[rows]
        return whole
    values = np.empty((len(rows), tensor.row_length), tensor.row_dtype)
    for at, row in enumerate(rows.tolist()):
        tensor.rows(row, row + 1, values[at : at + 1])
    return values
