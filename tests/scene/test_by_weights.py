"""What weights tell of their own input, against numpy and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.masks.kinds import causal
from maskcli.masks.layout import Layout
from maskcli.scene.by_weights import last_weighed, left_padding, skips_the_first, weighs
from maskcli.tensors import from_array


@given(st.integers(0, 2**32 - 1))
def test_what_last_queries_weigh(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(1, 5, size=4))
    batch, _, _, keys = shape
    dense = rng.choice([0.0, 0.0, 0.5, 1.0], size=shape).astype(np.float32)
    tensor = from_array("attentions.0", dense)
    key = rng.integers(0, keys, size=batch)
    wanted = [bool((dense[item, :, -1, key[item]] > 0).any()) for item in range(batch)]
    assert weighs(tensor, shape, key).tolist() == wanted
    none = all(not dense[item, :, -1, : key[item]].any() for item in range(batch))
    assert skips_the_first(tensor, shape, key) == none
    told = dense.max(-1) != dense.min(-1)
    weighed = np.flatnonzero((dense * told[..., None]).any(axis=(0, 1, 2)))
    assert last_weighed(tensor, shape) == (weighed[-1] if weighed.size else keys - 1)


@pytest.mark.parametrize("left", [(0, 0), (2, 0), (3, 1), (2, 2)])
def test_leading_rows_that_fall_through_are_padding(left):
    """Their finite fill lets them read what is forbidden; nobody behind them reads their keys."""
    real = np.arange(8) >= np.array(left)[:, None]
    keep = np.tril(np.ones((8, 8), bool)) & real[:, None, None] & np.ones((2, 3, 8, 8), bool)
    weights = np.where(keep, 1.0, 0.0) * np.arange(1, 9)
    for item, count in enumerate(left):
        weights[item, :, :count] = np.where(np.arange(8) >= count, np.arange(1, 9), 0)
    weights /= weights.sum(-1, keepdims=True)
    found = left_padding(from_array("w", weights), weights.shape, causal(Layout(2, 8, 8, 3)))
    assert (found is None) == (not any(left))
    if any(left):
        assert np.array_equal(found, real)
        # One that a later row does read is none.
        weights[0, 0, 7, 0] = 0.5
        found = left_padding(from_array("w", weights), weights.shape, causal(Layout(2, 8, 8, 3)))
        assert found is None or found[0].all()
