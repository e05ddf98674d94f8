"""What each kind of tensor tells of packed texts, and what is no such tensor."""

import numpy as np
import pytest

from maskcli.meant.facts import Declared
from maskcli.scene.documents import between, numbered, of_lengths, started
from maskcli.scene.witnesses import Witnesses
from maskcli.tensors import from_arrays, roles_of


def rows(found):
    return None if found is None else found.tolist()


def real_of(*texts):
    return np.array([[int(cell) for cell in text] for text in texts], bool)


@pytest.mark.parametrize(
    ("lengths", "batch", "keys", "real", "told"),
    [
        ([[2, 3]], 1, 5, None, [[0, 0, 1, 1, 1]]),
        ([[2, 3], [4, 1]], 2, 5, None, [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]),
        # In front of padding, they add up to its tokens.
        ([[2, 1]], 1, 4, real_of("1110"), [[0, 0, 1, 2]]),
        ([[2, 1], [3, 1]], 2, 4, real_of("1110", "1111"), [[0, 0, 1, 2], [0, 0, 0, 1]]),
        ([[2, 1]], 1, 4, real_of("0111"), None),
        ([[2, 1]], 1, 4, real_of("1111"), None),
        ([[2, 1]], 1, 4, None, None),
        # One vector that goes on from row to row, and none over the end of a row.
        ([[2, 3, 4, 1]], 2, 5, None, [[0, 0, 1, 1, 1], [2, 2, 2, 2, 3]]),
        ([[2, 4, 3, 1]], 2, 5, None, None),
        ([[2, 3, 4]], 2, 5, None, None),
        # A length for each sample tells where it ends.
        ([[5, 5]], 2, 5, None, None),
        ([[5], [5]], 2, 5, None, None),
        ([[2, 3], [1, 4], [5, 0]], 2, 5, None, None),
        ([[2, 3], [6, -1]], 2, 5, None, None),
    ],
)
def test_lengths_of_texts(lengths, batch, keys, real, told):
    assert rows(of_lengths(np.array(lengths), batch, keys, real)) == told


@pytest.mark.parametrize(
    ("borders", "told"),
    [
        ([[0, 2, 5]], [[0, 0, 1, 1, 1]]),
        ([[0, 2, 5, -1], [0, 1, 2, 5]], [[0, 0, 1, 1, 1], [0, 1, 2, 2, 2]]),
        ([[0, 5]], [[0, 0, 0, 0, 0]]),
        ([[0, 2, 4]], None),
        ([[0, 3, 2, 5]], None),
        ([[5]], None),
        ([[]], None),
    ],
)
def test_borders_of_texts(borders, told):
    assert rows(between(np.array(borders, int), 5)) == told


@pytest.mark.parametrize(
    ("starts", "told"),
    [
        ([[0, 2]], [[0, 0, 1, 1, 1]]),
        ([[0, 4, -1], [0, 1, 2]], [[0, 0, 0, 0, 1], [0, 1, 2, 2, 2]]),
        ([[1, 2]], None),
        ([[0, 3, 2]], None),
        ([[0, 2, 2]], None),
        ([[0, 5]], None),
        ([[]], None),
    ],
)
def test_starts_of_texts(starts, told):
    assert rows(started(np.array(starts, int), 5)) == told
    if told is not None:
        file = from_arrays({"input_ids": np.ones((len(told), 5), int), "seq_start_id": np.array(starts)})
        found = Witnesses(roles_of(file), "", Declared()).documents(len(told), 5)
        assert (rows(found.rows), found.source) == (told, "seq_start_id")


@pytest.mark.parametrize(
    ("borders", "beside", "told"),
    [
        ([0, 2, 5], {}, [[0, 0, 1, 1, 1]]),
        # What is no row of borders tells nothing.
        ([[[0, 2, 5]], [[0, 1, 5]]], {}, None),
        # Positions that go on say that the text is one, whatever the borders say.
        ([0, 2, 5], {"position_ids": [[0, 1, 2, 3, 4]]}, [[0, 0, 0, 0, 0]]),
        ([0, 2, 5], {"position_ids": [[0, 1, 2, 0, 1]]}, [[0, 0, 0, 1, 1]]),
    ],
)
def test_borders_that_are_saved(borders, beside, told):
    arrays = {"input_ids": [[1, 1, 1, 1, 1]], "cu_seqlens": borders} | beside
    file = from_arrays({name: np.array(values) for name, values in arrays.items()})
    found = Witnesses(roles_of(file), "", Declared()).documents(1, 5)
    assert (None if found is None else rows(found.rows)) == told
    if beside:
        found = Witnesses(roles_of(file), "", Declared()).documents(1, 5, positions=False)
        assert rows(found.rows) == [[0, 0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([1, 1, 2, 2, 0], True), ([0, 1, 1, 2, 3], True), ([1, 0, 2, 2, 0], True), ([1, 1, 1, 1, 0], False),
        ([1, 2, 1, 1, 0], False), ([1, 1, 3, 3, 0], False), ([2, 2, 3, 3, 0], False), ([1, 2, -1, 0, 0], False),
    ],
)  # fmt: skip
def test_padding_masks_that_number_texts(mask, counts):
    assert rows(numbered(np.array([mask]))) == ([mask] if counts else None)
    assert numbered(np.array([mask], float)) is None


def test_texts_without_tokens_are_texts():
    """An empty text takes a number, as an empty one of cu_seqlens does; a negative length is none."""
    assert rows(of_lengths(np.array([[2, 0, 3]]), 1, 5, None)) == [[0, 0, 2, 2, 2]]
    assert of_lengths(np.array([[2, -1, 4]]), 1, 5, None) is None
