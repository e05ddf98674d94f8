"""Two masks to the regions where they differ, and what each difference means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Shape
from maskcli.masks.kinds import causal, documents, padding, window
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.runs import Runs, runs_of
from maskcli.masks.words import items_in_words, runs_in_words

MEANINGS = {
    "padding": "{narrower} ignores padding {keys}{whose}, {wider} lets {queries} see {it}",
    "future": "{wider} lets {queries}{whose} see {many} future {seen}",
    "itself": "{narrower} hides {queries}{whose} from {itself}, {wider} does not",
    "document": "{wider} lets {queries}{whose} see {many} {seen} of another document",
    "past": "{wider} lets {queries}{whose} see {many} earlier {seen} that {narrower} ignores ({keys})",
    "other": "{wider} lets {queries}{whose} see {many} {seen} that {narrower} ignores ({keys})",
}


# The runs of one item and head.
_Cells = tuple[bytes, bytes, bytes]
# Items, and heads that all of them have.
_Places = tuple[Sequence[int], Sequence[int]]


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
    """Where two masks of one shape differ: by who attends, by kinds of keys, and by items of the same cells.

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


def _classes(layout: Layout, shape: Shape) -> list[tuple[str, Mask]]:
    """Kinds of keys that a query has no business with, worst first, as masks of the cells."""
    classes = []
    if layout.real is not None and not layout.real.all():
        classes.append(("padding", ~padding(layout)))
    if not layout.cross:
        classes += [("future", ~causal(layout)), ("itself", window(layout, 0))]
    if layout.documents is not None and layout.inside:
        classes.append(("document", ~documents(layout)))
    return [(what, mask) for what, mask in classes if mask.shape == shape]


def _split(part: Mask, wider: str, narrower: str, what: str) -> list[Region]:
    """One region for each set of items and heads whose differing cells are the same."""
    heads_of: dict[tuple[_Cells, int], list[int]] = {}
    for item, head in np.ndindex(*part.stored[:2]):
        plane = part.plane(item, head)
        if plane.starts.size:
            cells = (plane.pointer.tobytes(), plane.starts.tobytes(), plane.stops.tobytes())
            heads_of.setdefault((cells, item), []).append(head)

    # All of a region's items have all of its heads.
    items_of: dict[tuple[_Cells, tuple[int, ...]], list[int]] = {}
    for (cells, item), heads in heads_of.items():
        items_of.setdefault((cells, tuple(heads)), []).append(item)
    return [_region(part, (items, heads), wider, narrower, what) for (_, heads), items in items_of.items()]


def _region(part: Mask, places: _Places, wider: str, narrower: str, what: str) -> Region:
    batch, heads, length, _ = part.shape
    own_items, own_heads = places
    plane = part.plane(own_items[0], own_heads[0])
    counts = np.broadcast_to(plane.keys_per_query.ravel(), length)
    queries, keys = runs_of(counts > 0), runs_of(plane.seen[0, 0])
    # An axis that is stored once holds for all.
    items = own_items if part.stored[0] > 1 else range(batch)
    some_heads = own_heads if part.stored[1] > 1 else range(heads)
    which = tuple(items) if len(items) < batch else None

    words = {
        "wider": wider,
        "narrower": narrower,
        "queries": runs_in_words(queries, "query", "queries"),
        "keys": runs_in_words(keys, "key", "keys"),
        "whose": f" of {items_in_words(which)}" if which else "",
        "itself": "itself" if queries[-1][1] - queries[0][0] == 1 else "themselves",
    }
    words |= _numbers_in_words(int(counts[counts > 0].min()), int(counts.max()))
    return Region(
        batch=which,
        heads=tuple(some_heads) if len(some_heads) < heads else None,
        queries=queries,
        keys=keys,
        cells=int(counts.sum()) * len(items) * len(some_heads),
        wider=wider,
        what=what,
        meaning=MEANINGS[what].format(**words),
    )


def _numbers_in_words(least: int, most: int) -> dict[str, str]:
    """How many keys queries see, and the words that go with it."""
    many = str(most) if least == most else f"{least} to {most}"
    return {"many": many, "seen": "key" if most == 1 else "keys", "it": "it" if most == 1 else "them"}
