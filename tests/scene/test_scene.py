"""Which rows of a mask are padding, against a loop over its rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskcli.masks.mask import Mask
from maskcli.scene.scene import pad_rows


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_empty_rows_whose_own_key_nobody_sees_are_padding(seed, one):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, size=4))
    batch, _, queries, keys = shape
    dense = rng.random(shape) < 0.4
    dense &= rng.random((batch, 1, queries, 1)) < 0.6
    dense &= rng.random((batch, 1, 1, keys)) < 0.7
    own = rng.integers(-1, keys, size=(1 if one else batch, queries))
    found = pad_rows(Mask.from_dense(dense), own)
    for item, query in np.ndindex(batch, queries):
        key = own[0 if one else item, query]
        seen = dense[item, :, :, key if key >= 0 else keys - 1].any()
        empty = not dense[item, :, query].any()
        assert np.broadcast_to(found, (batch, 1, queries))[item, 0, query] == (empty and not seen)
