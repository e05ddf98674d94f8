"""What the values and rows of a tensor are read as: a threshold, whole numbers, positions in order, sums in words."""

import numpy as np
import pytest

from maskcli.measure.survey import Survey
from maskcli.scene.describe import _row_sums
from maskcli.scene.saved_mask import _threshold
from maskcli.scene.sides import _whole
from maskcli.scene.tokens import _irregular


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
