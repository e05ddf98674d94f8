"""Why cells are forbidden: one reason for each."""

import numpy as np
import pytest

from maskcli.masks.kinds import causal
from maskcli.masks.layout import Layout
from maskcli.masks.spec import build, parse
from maskcli.scene.forbidden import forbidden


@pytest.mark.parametrize("declared", [None, "causal & sliding:2", "full", "window:1 | global:1"])
@pytest.mark.parametrize("cross", [False, True])
def test_every_forbidden_cell_has_one_reason(declared, cross):
    real = np.array([[0, 1, 1, 1, 1, 1]], bool)
    layout = Layout(1, 6, 6, real=real, documents=np.array([[0, 0, 0, 1, 1, 1]]), cross=cross)
    allowed = build(parse("causal & padding & documents & window:3"), layout)
    found = forbidden(allowed, layout, None if declared is None else parse(declared), "the mask")
    cells = np.sum([reason.forbids.dense().astype(int) for reason in found], axis=0)
    assert np.array_equal(cells, (~allowed.dense()).astype(int))
    kinds = {reason.kind for reason in found}
    assert "padding" in kinds
    assert ("document" in kinds) == (declared is None)
    assert ("future" in kinds) == (not cross if declared is None else declared == "causal & sliding:2")
    assert [reason.operand for reason in found if reason.kind == "other"] in ([], ["the mask"])


def test_what_a_file_says_has_no_reason_of_its_own():
    layout = Layout(1, 6, 6)
    found = forbidden(causal(layout), layout, parse("saved.npz:mask & sliding:2"), "the mask")
    assert [reason.kind for reason in found] == ["future"]
