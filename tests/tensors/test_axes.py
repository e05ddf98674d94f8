"""Axes of saved tensors: what each of them is, for every number of axes."""

import numpy as np
import pytest

from maskcli.tensors import from_array
from maskcli.tensors.axes import cell_of, map_shape, mask_shape, state_shape, token_rows


@pytest.mark.parametrize(
    ("shape", "batch", "expected"),
    [
        ((4, 5), None, (1, 1, 4, 5)),
        ((6, 4, 5), None, (1, 6, 4, 5)),
        ((6, 4, 5), 2, (2, 3, 4, 5)),
        ((6, 4, 5), 6, (6, 1, 4, 5)),
        ((6, 4, 5), 4, (1, 6, 4, 5)),
        ((2, 3, 4, 5), 7, (2, 3, 4, 5)),
        ((5,), None, None),
        ((2, 2, 3, 4, 5), None, None),
        ((2, 0, 4, 5), None, None),
    ],
)
def test_maps(shape, batch, expected):
    assert map_shape(shape, batch) == expected


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((9,), {}, (1, 1, 1, 9)),
        ((4, 9), {}, (1, 1, 4, 9)),
        ((4, 9), {"over_keys": True}, (4, 1, 1, 9)),
        ((2, 4, 9), {}, (2, 1, 4, 9)),
        ((6, 4, 9), {"heads": 3}, (2, 3, 4, 9)),
        ((2, 3, 4, 9), {"over_keys": True, "heads": 2}, (2, 3, 4, 9)),
        ((), {}, None),
        ((1, 1, 1, 1, 1), {}, None),
    ],
)
def test_masks(shape, options, expected):
    assert mask_shape(shape, **options) == expected


def test_states():
    assert state_shape((2, 3, 4, 8)) == (2, 3, 4, 8)
    assert state_shape((2, 4, 8)) == (2, 1, 4, 8)
    assert state_shape((4, 8)) is None


@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 1, 3), (2, 1, 1, 3)])
def test_rows_of_tokens(shape):
    values = np.arange(6).reshape(shape)
    rows = token_rows(from_array("ids", values))
    assert rows.tolist() == values.reshape(-1, shape[-1]).tolist()
    assert token_rows(from_array("ids", np.zeros((2, 2, 3)))) is None
    assert token_rows(from_array("ids", np.zeros(()))) is None


def test_cells():
    assert cell_of((4, 5)) == (None, None, 4, 5)
    assert cell_of((1, 4, 5)) == (1, None, 4, 5)
    assert cell_of((1, 2, 4, 5)) == (1, 2, 4, 5)
