"""Small decisions of the scene and of measuring, each by itself: what surrounds them hides a slip in most files."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.diagnostics.rules.alignment import _is_staircase
from maskcli.diagnostics.rules.products import _has_values
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import build, parse
from maskcli.measure.spans import MAX_SPANS, _apart
from maskcli.measure.survey import Survey
from maskcli.scene.describe import _row_sums
from maskcli.scene.placement import _of_standing
from maskcli.scene.saved_mask import _threshold
from maskcli.scene.sides import _whole
from maskcli.scene.standing import Stand
from maskcli.scene.tokens import _irregular


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ((2, 4, 9, 8), True), ((2, 2, 9, 8), True), ((2, 1, 9, 8), True), ((2, 3, 9, 8), False), ((1, 4, 9, 8), False),
        ((2, 4, 7, 8), False), ((2, 9, 4, 8), False), ((4, 9, 8), False), ((2, 4, 9), False), ((2, 4, 9, 8, 1), False),
    ],
)  # fmt: skip
def test_values_are_of_a_map_by_samples_keys_and_groups_of_heads(value, fits):
    attention = SimpleNamespace(parts={"value": SimpleNamespace(shape=value)}, shape=(2, 4, 7, 9))
    assert _has_values(attention) == fits


@pytest.mark.parametrize(
    ("spec", "queries", "keys", "is_one"),
    [
        ("causal", 6, 6, True), ("causal", 4, 7, True), ("sliding:2", 6, 6, True), ("sliding:2", 3, 8, True), ("full", 6, 6, False),
        ("window:1", 6, 6, False), ("prefix:1", 6, 6, False), ("causal & ~sliding:1", 6, 6, False), ("causal", 7, 4, False),
    ],
)  # fmt: skip
def test_a_staircase_sees_itself_and_nothing_behind_it(spec, queries, keys, is_one):
    mask = build(parse(spec), Layout(1, queries, keys, past=max(keys - queries, 0)))
    assert _is_staircase(mask) == is_one


def test_positions_that_follow_each_other_tell_the_past():
    rows = np.array([[5, 6, 7], [3, 4, 5]])
    assert _of_standing(Stand(rows, None, "position_ids")) == (3, "position_ids")
    assert _of_standing(Stand(rows, np.arange(9)[None], "slots")) == (0, "slots")
    assert _of_standing(Stand(rows * 2, None, "position_ids")) == (0, "position_ids")


@pytest.mark.parametrize(
    ("distinct", "infinities", "between"),
    [
        ((-1e4, 0.0), 0, -5e3),
        ((-1e4, 0.0), 3, None),
        ((-1e4, -1.0, 0.0), 0, None),
        ((-1e4, 1.0), 0, None),
        ((0.0,), 0, None),
        (None, 0, None),
    ],
)
def test_a_weak_fill_and_0_are_told_apart_in_the_middle(distinct, infinities, between):
    silent = _threshold(Survey(None, -1.0, 0.0, 0, 0, 0, None))
    found = _threshold(Survey(distinct, -1e4, 1.0, 0, infinities, 0, None))
    assert found == (silent if between is None else between)


@pytest.mark.parametrize(
    ("least", "largest", "words"),
    [
        (1.0, 1.0, "rows sum to 1 within 0.0e+00"), (0.9999, 1.0, "rows sum to 1 within 1.0e-04"), (1.0, 1.0002, "rows sum to 1 within 2.0e-04"),
        (0.25, 1.0, "rows sum to 0.25 to 1"), (1.0, 3.0, "rows sum to 1 to 3"),
    ],
)  # fmt: skip
def test_sums_of_rows_in_words(least, largest, words):
    assert _row_sums(least, largest) == words


@pytest.mark.parametrize(
    ("rows", "whole"),
    [
        ([[1.0, -100.0]], True),
        ([[1.5, 2.0]], False),
        ([[np.nan, 1.0]], False),
        ([[1e30, 1.0]], False),
        ([[3, 4]], True),
    ],
)
def test_labels_are_whole_numbers(rows, whole):
    given = np.array(rows)
    found = _whole(given)
    assert (found is not None) == whole
    assert not whole or (found == given).all()


@pytest.mark.parametrize(
    ("rows", "kept", "odd"),
    [
        ([0, 1, 2, 3], [1, 1, 1, 1], False), ([0, 1, 0, 1], [1, 1, 1, 1], False), ([0, 1, 1, 2], [1, 1, 1, 1], True),
        ([0, 1, 3, 4], [1, 1, 1, 1], True), ([0, 0, 0, 1], [0, 0, 1, 1], False), ([5, 6, 5, 6], [1, 1, 1, 1], False),
        ([5, 6, 0, 1], [1, 1, 1, 1], False), ([5, 6, 7, 6], [1, 1, 1, 1], True), ([0, 1, 1, 2], [1, 1, 0, 1], True),
        ([0, 1, 9, 9], [1, 1, 0, 0], False), ([9, 9, 0, 1], [0, 0, 1, 1], False),
    ],
)  # fmt: skip
def test_steps_of_positions_lead_one_further_or_to_the_first(rows, kept, odd):
    assert _irregular(np.array([rows]), np.array([kept], bool)).tolist() == [odd]


@given(st.sets(st.integers(1, 4000), min_size=1, max_size=200))
def test_spans_are_few_and_wide_enough(inside):
    borders = inside | {0}
    found = _apart(borders)
    assert found == sorted(set(found))
    assert set(found) <= borders
    assert (found[0], found[-1]) == (0, max(borders))
    assert len(found) <= MAX_SPANS + 1
    few = len(borders) <= MAX_SPANS + 1
    assert not few or found == sorted(borders)
    assert few or min(np.diff(found)) >= -(-max(borders) // MAX_SPANS)


def test_masks_of_one_row_are_no_staircase_without_their_own_key():
    assert not _is_staircase(Mask.from_dense(np.array([[[[True, False]]]])))
