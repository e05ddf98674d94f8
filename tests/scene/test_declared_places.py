"""Positions that fit nothing of a file are refused: an option that is passed over would look obeyed."""

import numpy as np
import pytest

import maskcli
from maskcli.errors import MaskcliError

WEIGHTS = np.full((2, 1, 4, 6), 1 / 6, np.float32)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"positions": "0,1"}, "--positions has 2 positions, and 4 queries stand there"),
        ({"key_positions": "0:5"}, "--key-positions has 5 positions, and 6 keys stand there"),
    ],
)
def test_positions_that_fit_no_map_are_refused(said, told):
    with pytest.raises(MaskcliError, match=told):
        maskcli.diagnose({"attentions.0": WEIGHTS}, **said)
    with pytest.raises(MaskcliError, match=told.replace("4 queries", "6 queries")):
        maskcli.compare(np.ones((6, 6), bool), "causal", **said)


def test_positions_that_fit_one_of_several_maps_are_taken():
    decode = WEIGHTS[:, :, :1]
    maskcli.diagnose({"attentions.0": WEIGHTS, "attentions.1": decode}, positions="2,3,4,5")
    maskcli.diagnose({"attentions.0": WEIGHTS}, key_positions="0:6")
