"""Two masks to the regions where they differ, and what each difference means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.kinds import Layout, causal, documents, padding, window
from maskcli.masks.mask import Mask, Runs, runs_of
from maskcli.masks.words import items_in_words, runs_in_words


@dataclass(frozen=True)
class Region:
    """Cells in which one mask attends and the other does not.

    `batch` and `heads` are indices, None for all; `queries` and `keys` are runs [start, stop) that cover the
    cells; `cells` counts them; `wider` is the mask that attends, "A" or "B"; `meaning` says it in a sentence.
    """

    batch: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    queries: Runs
    keys: Runs
    cells: int
    wider: str
    what: str
    meaning: str


def regions(a: Mask, b: Mask, layout: Layout) -> tuple[Region, ...]:
    """Where two masks of one shape differ: by who attends, by what kind of keys, and by items whose cells are the same.

    `layout` tells padding and documents apart, where they are known.
    """
    found = []
    for wider, narrower, difference in (("A", "B", a - b), ("B", "A", b - a)):
        rest = difference
        for what, cells in _classes(layout, a.shape):
            part = rest & cells
            if part.attended:
                found += _split(part, wider, narrower, what)
                rest = rest - cells
        if rest.attended:
            found += _split(rest, wider, narrower, "other" if layout.cross else "past")
    return tuple(found)


def _classes(layout: Layout, shape: tuple[int, int, int, int]) -> list[tuple[str, Mask]]:
    """Kinds of keys that a query has no business with, worst first, as masks of the cells."""
    classes = []
    if layout.real is not None and not layout.real.all():
        classes.append(("padding", ~padding(layout)))
    if not layout.cross:
        classes += [("future", ~causal(layout)), ("itself", window(layout, 0))]
    if layout.documents is not None and layout.queries + layout.past <= layout.keys:
        classes.append(("document", ~documents(layout)))
    return [(what, mask) for what, mask in classes if mask.shape == shape]


def _split(part: Mask, wider: str, narrower: str, what: str) -> list[Region]:
    """One region for each set of items and heads whose differing cells are the same."""
    batch, heads = part.shape[:2]
    b, h, q = part.stored
    groups: dict[tuple[bytes, bytes, bytes], list[tuple[int, int]]] = {}
    for item in range(b):
        for head in range(h):
            one = part.select(
                slice(item, item + 1) if b > 1 else slice(None),
                slice(head, head + 1) if h > 1 else slice(None),
            )
            if one.starts.size:
                key = (one.pointer.tobytes(), one.starts.tobytes(), one.stops.tobytes())
                groups.setdefault(key, []).append((item, head))
    found = []
    for members in groups.values():
        item, head = members[0]
        one = part.select(
            slice(item, item + 1) if b > 1 else slice(None), slice(head, head + 1) if h > 1 else slice(None)
        )
        counts = one.keys_per_query.reshape(-1)
        rows = np.broadcast_to(counts > 0, part.shape[2]) if q == 1 else counts > 0
        items, some = sorted({i for i, _ in members}), sorted({j for _, j in members})
        queries, keys = runs_of(rows), runs_of(np.any(one.seen, axis=(0, 1)))
        cells = (
            int(np.broadcast_to(counts, part.shape[2]).sum())
            * (len(items) if b > 1 else batch)
            * (len(some) if h > 1 else heads)
        )
        which = tuple(items) if b > 1 and len(items) < batch else None
        found.append(
            Region(
                which,
                tuple(some) if h > 1 and len(some) < heads else None,
                queries,
                keys,
                cells,
                wider,
                what,
                _meaning(wider, narrower, what, queries, keys, counts[counts > 0], which),
            )
        )
    return found


def _meaning(
    wider: str,
    narrower: str,
    what: str,
    queries: Runs,
    keys: Runs,
    counts: Array,
    items: tuple[int, ...] | None,
) -> str:
    low, high = int(counts.min()), int(counts.max())
    many = str(low) if low == high else f"{low} to {high}"
    plural = "" if high == 1 else "s"
    whose = f" of {items_in_words(items)}" if items is not None else ""
    who = f"{runs_in_words(queries, 'query', 'queries')}{whose}"
    if what == "padding":
        return f"{narrower} ignores padding {runs_in_words(keys, 'key', 'keys')}{whose}, {wider} lets {runs_in_words(queries, 'query', 'queries')} see {'it' if high == 1 else 'them'}"
    if what == "future":
        return f"{wider} lets {who} see {many} future key{plural}"
    if what == "document":
        return f"{wider} lets {who} see {many} key{plural} of another document"
    if what == "itself":
        return f"{narrower} hides {who} from {'itself' if queries[-1][1] - queries[0][0] == 1 else 'themselves'}, {wider} does not"
    which = "earlier " if what == "past" else ""
    return f"{wider} lets {who} see {many} {which}key{plural} that {narrower} ignores ({runs_in_words(keys, 'key', 'keys')})"
