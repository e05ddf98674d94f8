"""Generated layouts, specs and boolean arrays."""

import numpy as np
from hypothesis import strategies as st

from maskcli.masks.kinds import KINDS
from maskcli.masks.layout import Layout


@st.composite
def layouts(draw, longest=12):
    batch = draw(st.integers(1, 3))
    queries = draw(st.integers(1, longest))
    past = draw(st.integers(0, 4))
    keys = queries + past + draw(st.sampled_from([0, 0, 0, 3]))
    side = draw(st.sampled_from(["none", "left", "right", "both", "holes"]))
    real = np.ones((batch, keys), bool)
    for row in real:
        cut = draw(st.integers(0, keys - 1))
        other = draw(st.integers(0, keys - 1))
        if side in ("left", "both"):
            row[:cut] = False
        if side in ("right", "both"):
            row[keys - other :] = False
        if side == "holes":
            row[:] = draw(st.lists(st.booleans(), min_size=keys, max_size=keys))
    documents = np.array(
        [draw(st.lists(st.integers(-1, 3), min_size=keys, max_size=keys)) for _ in range(batch)]
    )
    if draw(st.booleans()):
        documents = np.sort(documents, axis=1)
    return Layout(batch, queries, keys, draw(st.integers(1, 2)), past, real, documents, cross=True)


@st.composite
def kinds(draw, layout):
    name = draw(st.sampled_from(list(KINDS)))
    kind = KINDS[name]
    if kind.numbers == ("...",):
        lengths = draw(st.lists(st.integers(0, 5), max_size=4))
        return name, tuple(lengths) if 0 < sum(lengths) <= layout.keys else ()
    if name == "dilated":
        return name, (draw(st.integers(0, 20)), draw(st.integers(1, 5)))
    return name, tuple(draw(st.integers(kind.lowest, 20)) for _ in kind.numbers)


@st.composite
def dense_masks(draw, count=1, longest=7):
    """`count` boolean arrays [B, H, Q, K] that broadcast to one shape, with that shape."""
    shape = tuple(draw(st.integers(1, n)) for n in (3, 2, longest, longest))
    arrays = []
    for _ in range(count):
        size = [n if draw(st.booleans()) else 1 for n in shape[:3]] + [shape[3]]
        cells = draw(st.lists(st.booleans(), min_size=int(np.prod(size)), max_size=int(np.prod(size))))
        arrays.append(np.array(cells, bool).reshape(size))
    return shape, arrays
