"""How masks are written: fills, types and axes."""

import pytest

from maskcli.masks.conventions import Target


@pytest.mark.parametrize(
    ("shape", "rows", "axes"),
    [((2, 6), 1, "B,K"), ((6, 6), 6, "Q,K"), ((4, 6, 6), 6, "B*H,Q,K"), ((2, 1, 6, 6), 6, "B,H,Q,K")],
)
def test_axes_of_a_written_mask(shape, rows, axes):
    assert Target(shape, [(0, 0)], rows).axes == axes
