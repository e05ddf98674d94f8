"""Tensors that a spec names."""

import numpy as np
import pytest

from maskcli.errors import MaskcliError
from maskcli.scene.named import MOST_LABELS, held, labels_among, named_rows
from maskcli.tensors import from_arrays, roles_of

TENSORS = {
    "batch.token_type_ids": np.array([[0, 0, 1, 1]]), "left.labels_of": np.array([[0, 1, 1, 2]], np.int32), "right.labels_of": np.array([[0, 0, 0, 2]]),
    "flags": np.array([[True, False, True, True]]), "many": np.arange(MOST_LABELS + 1)[None], "input_ids": np.array([[5, 6, 7, 8]]),
    "most": np.arange(MOST_LABELS)[None], "shares": np.array([[0.5, 0.5, 0.0, 1.0]]), "deep": np.zeros((1, 2, 3, 4), int),
}  # fmt: skip


def test_tensors_that_a_spec_names():
    roled = roles_of(from_arrays(TENSORS))
    assert (
        held("batch.token_type_ids", roled).name
        == held("token_type_ids", roled).name
        == "batch.token_type_ids"
    )
    assert held("labels_of", roled) is None
    assert held("left.labels_of", roled).name == "left.labels_of"
    assert named_rows("flags", roled).tolist() == [[1, 0, 1, 1]]
    assert named_rows("right.labels_of", roled).tolist() == [[0, 0, 0, 2]]
    for name, words in (
        ("shares", "reads whole numbers"),
        ("deep", "reads rows of numbers"),
        ("gone", "none of those at hand"),
    ):
        with pytest.raises(MaskcliError, match=words):
            named_rows(name, roled)
    with pytest.raises(MaskcliError, match="there is no file that holds it"):
        named_rows("gone", ())
    assert set(labels_among(roled)) == {"batch.token_type_ids", "left.labels_of", "right.labels_of", "most"}
