"""A chunk is cut into chunks whose rectangle has a bounded size, and nothing of it is lost."""

from itertools import chain, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskcli.tables.columns import Chunk, Column, Wanted
from maskcli.tables.cut import cut
from tests.tables.whole import gathered


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 100), st.integers(1, 20))
def test_rows_fit_and_stay_in_order(lengths, cells, rows):
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    columns = {"ids": Column(np.arange(sum(lengths)), offsets), "n": Column(np.arange(len(lengths)))}
    pieces = list(
        cut(Chunk(0, len(lengths), columns, {"text": [str(n) for n in lengths]}), Wanted((), (), cells, rows))
    )
    for piece in pieces:
        longest = max(piece.columns["ids"].lengths.max(), 1)
        assert piece.rows == 1 or (piece.rows <= rows and piece.rows * longest <= cells)
    for one, next_one in pairwise(pieces):
        longest = max(one.columns["ids"].lengths.max(), next_one.columns["ids"].lengths[0], 1)
        assert one.rows == rows or (one.rows + 1) * longest > cells, "a chunk is as large as it may be"
    whole = gathered(pieces, ["ids", "n"], ["text"])
    assert [len(row) for row in whole["ids"]] == lengths
    assert list(chain.from_iterable(whole["ids"])) == list(range(sum(lengths)))
    assert whole["n"] == list(range(len(lengths)))
    assert whole["text"] == [str(n) for n in lengths]
