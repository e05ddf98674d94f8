"""What a saved tensor is said to be, and the picture of a mask, against counts by hand."""

from unittest import mock

import numpy as np
import pytest

from maskcli.measure import passes
from maskcli.scene.describe import describe, shares
from maskcli.tensors import Zoom, from_arrays, roles_of

CAUSAL = np.tril(np.ones((6, 6), bool))
REAL = np.array([[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
WEIGHTS = np.full((1, 2, 3, 4), 0.25, np.float32)


def described(name, values):
    (roled,) = roles_of(from_arrays({name: np.asarray(values)}))
    return describe(roled)


@pytest.mark.parametrize(
    ("name", "values", "summary"),
    [
        ("attn_mask", CAUSAL[None, None], "False and True"),
        ("attn_mask", np.ones((1, 1, 2, 4), bool), "True"),
        ("attn_mask", np.zeros((1, 1, 0, 4), bool), "no elements"),
        ("attentions.0", WEIGHTS, "0.25, rows sum to 1 within 0.0e+00"),
        ("attentions.0", WEIGHTS * 2, "0.5, rows sum to 2 to 2"),
        ("attentions.0", np.where(WEIGHTS.cumsum(-1) > 0.9, np.nan, WEIGHTS), "0.25, 6 NaN"),
        ("scores.0", np.arange(8.0).reshape(1, 1, 2, 4), "0 to 7"),
        ("scores.0", np.array([[[[1.0, -np.inf, np.inf, -np.inf]]]]), "1, 3 infinite"),
        ("input_ids", np.array([[5, 6, 5, 7]]), "5 and 6 and 7"),
        ("input_ids", np.arange(5)[None], "0 to 4"),
        ("attn_mask", np.full((1, 1, 2, 2), np.nan), "4 NaN"),
    ],
)
def test_the_values_in_a_line(name, values, summary):
    assert described(name, values).summary == summary


@pytest.mark.parametrize("cells", [4, 8, 2**20])
def test_booleans_are_read_until_both_are_seen(cells):
    late = np.ones((1, 1, 4, 4), bool)
    late[..., 3, 3] = False
    with mock.patch.object(passes, "CHUNK_CELLS", cells):
        assert described("attn_mask", late).summary == "False and True"
        assert described("attn_mask", ~late).summary == "False and True"
        assert described("attn_mask", np.ones_like(late)).summary == "True"


def test_masks_are_named_and_padding_is_counted():
    mask = described("attn_mask", CAUSAL[None, None])
    assert (mask.name.spec, mask.name.exact, mask.padding) == ("causal", True, ())
    padding = described("attention_mask", REAL)
    assert padding.name.spec == "padding"
    assert padding.padding == ((1, 0, 0), (0, 0, 0), (2, 0, 0))
    assert described("attentions.0", WEIGHTS).given is None
    assert described("attentions.0", WEIGHTS).padding == ()


@pytest.mark.parametrize(("tall", "wide"), [(6, 6), (3, 2), (2, 6), (1, 1)])
@pytest.mark.parametrize("place", [None, (1, 1)])
def test_pixels_of_a_mask(tall, wide, place):
    cells = np.random.default_rng(0).random((2, 2, 6, 6)) < 0.5
    zoom = Zoom() if place is None else Zoom(*place)
    found = shares(described("attn_mask", cells), zoom, tall, wide)
    part = cells[place or (0, 0)]
    pixels = part.reshape(tall, 6 // tall, wide, 6 // wide).mean(axis=(1, 3))
    assert np.allclose(found.pixels, pixels)
    assert (found.rows, found.keys) == ((0, 6), (0, 6))


def test_pixels_of_a_padding_mask_are_rows_of_samples():
    found = shares(described("attention_mask", REAL), Zoom(), 3, 2)
    assert found.pixels.tolist() == [[0.5, 1.0], [1.0, 1.0], [0.0, 1.0]]
    # More samples than lines have no picture of their own.
    assert shares(described("attention_mask", REAL), Zoom(), 2, 2) is None
    assert shares(described("attentions.0", WEIGHTS), Zoom(), 3, 2) is None
    # Of three axes the first one is a sample, or a head.
    one = shares(described("attn_mask", REAL[:, None]), Zoom(), 3, 2)
    assert one.pixels.tolist() == [[0.5, 1.0]]
