"""How a saved mask is read where nobody declares it: by its name, its type, its values, and what makes sense."""

from types import SimpleNamespace

import numpy as np
import pytest

from maskcli.masks.mask import Mask
from maskcli.masks.spec import parse
from maskcli.scene.assemble import _asks_for_order, _holds_its_window
from maskcli.scene.saved_mask import _speaks_for, is_negated, may_be_negated, read_padding
from maskcli.tensors import from_arrays, roles_of

REAL = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
CAUSAL = np.tril(np.ones((4, 4), bool))


@pytest.mark.parametrize(
    ("keep", "real", "past", "speaks"),
    [
        # Over keys it hides just the padding.
        (REAL[:, None, None], REAL, None, True),
        (~REAL[:, None, None], REAL, None, False),
        (REAL[:, None, None], ~REAL, None, False),
        (REAL[:, None, None], None, None, False),
        # Where none of the keys is padding, or the mask is of other keys, it says nothing.
        (np.ones((2, 1, 1, 4), bool), np.ones((2, 4), bool), None, False),
        (REAL[:, None, None], REAL[:, :3], None, False),
        # Over queries it shows nobody what is behind.
        (CAUSAL[None, None], None, None, True),
        (~CAUSAL[None, None], None, None, False),
        (CAUSAL.T[None, None], None, None, False),
        (np.zeros((1, 1, 4, 4), bool), None, None, False),
        (CAUSAL[None, None, 2:], None, None, True),
        (CAUSAL[None, None, 2:], None, 2, True),
        (CAUSAL[None, None, 2:], None, 1, False),
        (CAUSAL[None, None, 1:3], None, 1, True),
        (CAUSAL[None, None, 2:3], None, None, False),
    ],
)
def test_a_reading_makes_sense_that_hides_the_padding_or_what_is_behind(keep, real, past, speaks):
    assert _speaks_for(Mask.from_dense(keep), real, past) is speaks


@pytest.mark.parametrize("values", [(-2, -1), (254, 255), (-2,), (254,)])
@pytest.mark.parametrize("first", [0, -1])
def test_what_was_negated_as_integers_is_no_padding(values, first):
    row = np.array([values[first], *values, values[-1]])
    assert may_be_negated(row)
    assert is_negated(tuple(float(value) for value in values))
    file = from_arrays({"attention_mask": row[None].astype(np.uint8 if row.max() > 0 else np.int64)})
    assert read_padding(roles_of(file)[0], None) is None


@pytest.mark.parametrize("row", [[1, 1, 0], [0, 1, 1], [2, 1, 0], [-2, 0, 1]])
def test_other_integers_were_not_negated(row):
    assert not is_negated(tuple(map(float, sorted(set(row)))))


def test_no_value_was_negated_where_there_is_none():
    assert not may_be_negated(np.zeros((0, 4), int))


@pytest.mark.parametrize(
    ("keys", "queries", "jumping", "asks"),
    [(4, 1, False, False), (5, 2, False, False), (6, 2, False, True), (4, 2, False, False), (4, 2, True, True), (8, 8, False, False)],
)  # fmt: skip
def test_a_cache_that_holds_its_window_needs_no_order(keys, queries, jumping, asks):
    """A sliding layer of 4 keeps 4 keys, or 3 in front of each of its new queries."""
    placement = SimpleNamespace(shape=(1, 1, queries, keys), scattered=SimpleNamespace(jumping=jumping))
    assert _asks_for_order(parse("sliding:4"), placement) is asks
    placement.scattered = None
    assert _asks_for_order(parse("full"), placement) is False
    assert _holds_its_window(parse("sliding:4"), placement.shape) is (
        queries < keys and keys in (4, 3 + queries)
    )
