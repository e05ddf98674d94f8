"""Generated layouts, specs and boolean arrays."""

import numpy as np
from hypothesis import strategies as st

from maskcli.masks.kinds import KINDS
from maskcli.masks.layout import Layout
from maskcli.masks.spec import Named


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
    labels = np.array(
        [draw(st.lists(st.integers(-1, 2), min_size=keys, max_size=keys)) for _ in range(batch)]
    )
    heads = draw(st.integers(1, 2))
    return Layout(batch, queries, keys, heads, past, real, documents, cross=True, tensors=lambda name: labels)


@st.composite
def kinds(draw, layout=None):
    """A kind with numbers that fit the layout, as an operand of a spec."""
    name = draw(st.sampled_from(list(KINDS)))
    return draw(operand(name, layout))


@st.composite
def operand(draw, name, layout=None):
    kind, batch = KINDS[name], layout.batch if layout else 2
    length = layout.keys if layout else 12
    if name == "documents":
        lengths = draw(st.lists(st.integers(0, 5), max_size=4))
        return Named(name, tuple(lengths) if 0 < sum(lengths) <= length else ())
    if name == "tree":
        nodes = draw(st.integers(1, layout.past + layout.queries if layout else 9))
        return Named(name, tuple(draw(st.integers(-1, node - 1)) for node in range(nodes)))
    if kind.reads == "labels":
        return Named(name, tuple(draw(st.lists(st.integers(0, 2), max_size=2, unique=True))), "labels")
    if kind.reads == "ranges":
        starts = draw(st.lists(st.integers(0, 12), min_size=1, max_size=3))
        return Named(name, tuple(at for start in starts for at in (start, start + draw(st.integers(1, 6)))))
    if kind.reads == "sizes":
        return Named(name, tuple(draw(st.integers(0, 20)) for _ in range(draw(st.sampled_from([1, batch])))))
    least = len(kind.numbers) - kind.optional
    numbers = [draw(st.integers(kind.lowest, 20)) for _ in range(least)]
    if kind.optional and draw(st.booleans()):
        numbers += [draw(st.integers(kind.lowest_optional, 20)) for _ in range(kind.optional)]
    return Named(name, tuple(numbers))


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
