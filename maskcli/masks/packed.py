"""A mask in which every packed document is a text of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.masks.kinds import Numbers, document_ids
from maskcli.masks.layout import Layout, at_positions
from maskcli.masks.mask import Mask


class _Document(NamedTuple):
    """The keys `start` to `stop` of one item, its `queries`, rows of the matrix, and their places in it."""

    item: int
    start: int
    stop: int
    queries: Array
    places: Array


@at_positions
def by_document(layout: Layout, lengths: Numbers, build: Callable[[Layout], Mask], alike: bool) -> Mask:
    """The mask that `build` makes of each document by itself, and nothing across documents.

    Documents are those of the input, or of these lengths. `alike` says that those of one length have one
    mask, whatever their tokens are.
    """
    documents = document_ids(layout, *lengths)
    if not layout.inside:
        raise MaskcliError(
            f"the last query stands at position {layout.positions.max()}, behind the last of "
            f"{layout.keys} keys, so its document is unknown; pass a smaller past"
        )
    positions = layout.positions[:, 0]
    items = max(len(documents), len(positions)) if alike else layout.batch
    found = [
        document
        for item in range(items)
        for document in _documents(item, _of(documents, item), _of(positions, item))
    ]

    known: dict[tuple[int, bytes], Mask] = {}
    parts: list[Mask] = []
    for document in found:
        size = document.stop - document.start, document.places.tobytes()
        part = known.get(size) if alike else None
        if part is None:
            part = known[size] = _rows(build(_layout_of(layout, document)))
        parts.append(part)
    return _stacked(layout, items, found, parts)


def _of(rows: Array, item: int) -> Array:
    """The row of an item, of one for all or one for each."""
    row: Array = rows[item if len(rows) > 1 else 0]
    return row


def _documents(item: int, documents: Array, positions: Array) -> Iterator[_Document]:
    """The documents of one item that have queries, in one piece each."""
    starts = np.append(0, np.flatnonzero(np.diff(documents)) + 1)
    labels = documents[starts]
    named = labels[labels >= 0]
    if np.unique(named).size < named.size:
        raise MaskcliError(
            "per-document needs documents in one piece, and here tokens of one document stand apart; "
            "write documents, which takes such labels"
        )
    stops = np.append(starts[1:], documents.size)
    of_query = np.maximum(np.searchsorted(starts, positions, "right") - 1, 0)
    order = np.argsort(of_query, kind="stable")
    numbers, first = np.unique(of_query[order], return_index=True)
    for number, queries in zip(numbers.tolist(), np.split(order, first[1:]), strict=True):
        start = int(starts[number])
        yield _Document(item, start, int(stops[number]), queries, positions[queries] - start)


def positions_in(documents: Array) -> Array:
    """The position of each key in its document, int64 [b, K]."""
    keys = np.arange(documents.shape[1])
    begins = np.ones(documents.shape, bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    first: Array = np.maximum.accumulate(np.where(begins, keys, 0), axis=1)
    return keys - first


def _layout_of(layout: Layout, document: _Document) -> Layout:
    """The layout of one document as a text of its own."""
    span = slice(document.start, document.stop)
    places = document.places
    in_a_row = bool((np.diff(places) == 1).all())

    def tensors(name: str) -> Array:
        assert layout.tensors is not None
        rows = layout.tensors(name)
        return _of(rows, document.item)[None, span] if rows.shape[1] == layout.keys else rows

    return dataclasses.replace(
        layout,
        batch=1,
        queries=places.size,
        keys=document.stop - document.start,
        past=int(places[0]) if in_a_row else 0,
        queries_at=None if in_a_row else places[None],
        real=None if layout.real is None else _of(layout.real, document.item)[None, span],
        documents=None,
        origin=None,
        tensors=tensors if layout.tensors is not None else None,
    )


def _rows(mask: Mask) -> Mask:
    """A row for every query of a document."""
    whole = mask.compact()
    if whole.stored[1] > 1:
        raise MaskcliError("per-document takes no mask that differs between heads; write one of specs")
    return whole.expand((1, 1, mask.shape[2]))


def _stacked(layout: Layout, items: int, documents: list[_Document], parts: list[Mask]) -> Mask:
    """The rows of all documents in the order of queries, each moved to its document's keys."""
    each = [(part, document.start) for part, document in zip(parts, documents, strict=True)]
    counts = np.concatenate([np.diff(part.pointer) for part, _ in each])
    starts = np.concatenate([part.starts + start for part, start in each])
    stops = np.concatenate([part.stops + start for part, start in each])
    rows = np.concatenate([document.queries + document.item * layout.queries for document in documents])

    shape = (1, 1, rows.size, layout.keys)
    stacked = Mask.from_runs(shape, shape[:3], counts, starts, stops)
    place = np.empty(rows.size, np.int64)
    place[rows] = np.arange(rows.size)
    return stacked.take(layout.shape, place.reshape(items, 1, layout.queries))
