"""What a batch says of its tokens, and where its positions begin again."""

import numpy as np
import pytest

from maskcli.meant.facts import Declared
from maskcli.scene.sides import token_sets
from maskcli.scene.tokens import restarts, several
from maskcli.scene.witnesses import Witnesses
from maskcli.tensors import from_arrays, roles_of


def tokens_of(**arrays):
    file = from_arrays({name: np.asarray(values) for name, values in arrays.items()})
    return list(token_sets(Witnesses(roles_of(file), "", Declared())))


@pytest.mark.parametrize(
    ("positions", "real", "told"),
    [
        ([0, 1, 2, 0, 1], None, [0, 0, 0, 1, 1]),
        ([0, 0, 1, 2, 3], None, [0, 1, 1, 1, 1]),
        ([1, 2, 1, 1, 2], None, [0, 0, 1, 2, 2]),
        # What stays above the lowest begins nothing, nor does what rounding makes equal.
        ([0, 1, 1, 2, 3], None, [0, 0, 0, 0, 0]),
        ([256, 256, 258, 258, 260], None, [0, 0, 0, 0, 0]),
        ([255, 255, 256, 257, 258], None, [0, 1, 1, 1, 1]),
        # Padding begins nothing, and what stands behind it goes on.
        ([1, 1, 0, 1, 2], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]),
        ([0, 1, 2, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]),
        ([0, 1, 0, 1, 1], [1, 1, 1, 1, 0], [0, 0, 1, 1, 1]),
    ],
)
def test_positions_that_begin_again(positions, real, told):
    found = restarts(np.array([positions]), None if real is None else np.array([real], bool))
    assert found.tolist() == [told]
    assert several(found) == (len(set(told)) > 1)
    assert not several(None)


def test_the_tokens_of_a_batch():
    ids, labels = np.arange(5, 13).reshape(2, 4), np.arange(5, 13).reshape(2, 4)
    (tokens,) = tokens_of(input_ids=ids, labels=labels, prompt_lengths=[1, 2], position_ids=[[0, 1, 2, 3]])
    assert np.array_equal(tokens.labels, labels)
    assert tokens.prompt_lengths.tolist() == [1, 2]
    assert tokens.positions.tolist() == [[0, 1, 2, 3]] * 2
    assert tokens.documents is None
    assert tokens.names == {
        "input_ids": "input_ids", "labels": "labels", "position_ids": "position_ids", "prompt_lengths": "prompt_lengths",
    }  # fmt: skip
    (tokens,) = tokens_of(input_ids=ids, prompt_lengths=[1, 2, 3], position_ids=[[0, 1, 0, 1]])
    assert tokens.prompt_lengths is None
    assert tokens.documents.tolist() == [[0, 0, 1, 1]] * 2
    assert tokens.names["documents"] == "position_ids"


def test_labels_of_another_length_stand_alone_as_well():
    ids, counted = np.arange(5, 13).reshape(2, 4), np.ones((2, 3), int)
    both = tokens_of(input_ids=ids, labels=ids[:, 1:], loss_mask=counted)
    assert [sorted(tokens.names) for tokens in both] == [["input_ids"], ["labels", "loss_mask"]]
    assert set(both[0].unlike) == {"labels", "loss_mask"}
    assert np.array_equal(both[1].labels, ids[:, 1:])
    assert both[1].counted.tolist() == counted.tolist()
    apart = tokens_of(input_ids=ids, labels=ids[:, 1:], loss_mask=np.ones((2, 4), int))
    assert [sorted(tokens.names) for tokens in apart] == [["input_ids", "loss_mask"], ["labels"]]
    assert apart[1].counted is None
