"""Positions inside of documents, against a loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskcli.masks.packed import positions_in


@given(st.integers(0, 2**32 - 1))
def test_positions_in_documents_count_anew(seed):
    rng = np.random.default_rng(seed)
    documents = np.cumsum(rng.random((int(rng.integers(1, 4)), int(rng.integers(1, 9)))) < 0.4, axis=1)
    found = positions_in(documents)
    for row, at in np.ndindex(documents.shape):
        begin = at
        while begin and documents[row, begin - 1] == documents[row, at]:
            begin -= 1
        assert found[row, at] == at - begin
