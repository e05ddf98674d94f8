"""States in any order of their axes are read in the usual one."""

import numpy as np
import pytest

from maskcli.scene.layouts import in_usual_order
from maskcli.tensors import from_arrays, roles_of

STATE = np.arange(2 * 4 * 6 * 8, dtype=np.float32).reshape(2, 4, 6, 8)
MAP = np.full((2, 4, 6, 6), 1 / 6, np.float32)
SAVED = {
    "[B, H, L, D]": STATE, "[B, L, H, D]": STATE.transpose(0, 2, 1, 3), "[L, B, H, D]": STATE.transpose(2, 0, 1, 3),
    "[B, H, D, L]": STATE.swapaxes(2, 3), "[B*H, L, D]": STATE.reshape(8, 6, 8), "[B, L, H*D]": STATE.transpose(0, 2, 1, 3).reshape(2, 6, 32),
}  # fmt: skip


@pytest.mark.parametrize("order", SAVED)
@pytest.mark.parametrize("role", ["query", "key", "attn_output"])
def test_states_beside_a_map_are_read_in_the_usual_order(order, role):
    if (order, role) == ("[B, L, H*D]", "key"):
        return
    roled = roles_of(from_arrays({"attn_weights": MAP, role: np.ascontiguousarray(SAVED[order])}))
    (state,) = [each.tensor for each in in_usual_order(roled) if each.role not in ("weights", None)]
    assert np.array_equal(state.read(), STATE)


@pytest.mark.parametrize(("saved", "turned"), [("[B, L, H, D]", True), ("[B, H, L, D]", False)])
def test_states_without_a_map_are_read_by_the_number_of_tokens(saved, turned):
    roled = roles_of(
        from_arrays({"input_ids": np.ones((2, 6), int), "query": np.ascontiguousarray(SAVED[saved])})
    )
    (state,) = [each.tensor for each in in_usual_order(roled) if each.role == "query"]
    assert np.array_equal(state.read(), STATE)
