"""Padding at the edges of rows, against a loop over single tokens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskcli.padding import edge_padding, edge_runs, text_span

PAD = 0
ROWS = st.integers(0, 7).flatmap(
    lambda length: st.lists(st.lists(st.integers(0, 1), min_size=length, max_size=length), max_size=4).map(
        lambda rows: np.array(rows, dtype=np.int64).reshape(len(rows), length)
    )
)


def oracle(row, begins, ends):
    real = list(row)
    if not any(real):
        return real
    while real and real[0] == PAD:
        real.pop(0)
    while real and real[-1] == PAD:
        real.pop()
    text = "".join(map(str, real))
    at = "".join(map(str, row)).index(text)
    stop = at + len(real)
    return [at - begins <= i < stop + ends for i in range(len(row))]


@given(ROWS, st.booleans(), st.booleans())
def test_only_the_runs_at_the_edges_are_padding(ids, begins, ends):
    real = edge_padding(ids, PAD, (PAD,) * begins, (7, PAD) if ends else (7,))
    assert real.tolist() == [list(map(bool, oracle(row, begins, ends))) for row in ids.tolist()]


@given(ROWS)
def test_runs_lie_outside_the_span_and_padding_alone_is_a_trailing_run(ids):
    starts, stops = text_span(ids == PAD)
    leading, trailing = edge_runs(ids == PAD)
    for row, start, stop, head, tail in zip(ids, starts, stops, leading, trailing, strict=True):
        assert head.tolist() == [i < start for i in range(len(row))]
        assert tail.tolist() == [i >= stop for i in range(len(row))]
        assert not row[:start].any()
        assert not row[stop:].any()
        assert (start, stop) == (0, 0) if not row.any() else row[start] and row[stop - 1]
