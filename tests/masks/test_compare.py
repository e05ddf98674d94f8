"""Where two masks differ, against numpy, and in sentences."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.masks.compare import regions
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import build, parse

REAL = np.array([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], bool)
DOCUMENTS = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]])


def told(found, shape):
    """The cells of all regions, how often each is in one, for masks whose regions are blocks."""
    cells = np.zeros(shape, int)
    for region in found:
        axes = [region.batch or range(shape[0]), region.heads or range(shape[1])]
        axes += [[at for run in runs for at in range(*run)] for runs in (region.queries, region.keys)]
        for place in itertools.product(*axes):
            cells[place] += 1
    return cells


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.booleans())
def test_regions_cover_what_differs_and_are_of_one_kind(seed, padded, packed, cross):
    rng = np.random.default_rng(seed)
    shape = (2, int(rng.integers(1, 3)), 6, 6)
    stored = tuple(size if rng.random() < 0.7 else 1 for size in shape[:3])
    pair = [rng.random((*stored, 6)) < 0.5 for _ in range(2)]
    masks = [Mask.from_dense(np.broadcast_to(each, shape)) for each in pair]
    layout = Layout(
        2, 6, 6, shape[1], real=REAL if padded else None, documents=DOCUMENTS if packed else None, cross=cross
    )
    a, b = (np.broadcast_to(each, shape) for each in pair)
    found = regions(*masks, layout)
    query, key = np.arange(6)[:, None], np.arange(6)
    ones = np.ones(shape, bool)
    kinds = {
        "padding": ones & ~REAL[:, None, None] if padded else ~ones,
        "future": ones & (key > query) & (not cross),
        "itself": ones & (key == query) & (not cross),
        "document": ones & (DOCUMENTS[:, None, :, None] != DOCUMENTS[:, None, None]) if packed else ~ones,
        "past": ones & (not cross),
        "other": ones,
    }
    for wider, difference in (("A", a & ~b), ("B", b & ~a)):
        rest = difference.copy()
        for what, cells in kinds.items():
            wanted, rest = rest & cells, rest & ~cells
            here = [region for region in found if (region.wider, region.what) == (wider, what)]
            assert sum(region.cells for region in here) == wanted.sum(), what
            assert np.array_equal(told(here, shape) * wanted > 0, wanted)
            for region in here:
                alike = told([region], shape) > 0
                assert (
                    not (wanted & alike)
                    .any(axis=(1, 2, 3))[list(set(range(2)) - set(region.batch or (0, 1)))]
                    .any()
                )
        assert not rest.any()
    assert not regions(masks[0], masks[0], layout)


@pytest.mark.parametrize(
    ("a", "b", "meanings"),
    [
        ("causal", "causal & padding", ["B ignores padding key 0 of sample 0, A lets queries 0..6 see it"]),
        ("full", "sliding:6", ["A lets queries 0..5 see 1 to 5 future keys"]),
        ("causal", "causal & window:4", ["A lets query 5 see 1 key of another document"]),
        ("causal", "causal & documents", [
            "A lets queries 3..6 of sample 0 see 3 keys of another document", "A lets queries 4..6 of sample 1 see 4 keys of another document"]),
        ("~(~causal | blocks:1)", "causal", ["A hides queries 0..6 from themselves, B does not"]),
    ],
)  # fmt: skip
def test_differences_in_a_sentence(a, b, meanings):
    layout = Layout(2, 6, 6, real=REAL if "padding" in b else None, documents=DOCUMENTS)
    found = regions(build(parse(a), layout), build(parse(b), layout), layout)
    assert [region.meaning for region in found] == meanings


def test_one_query_is_hidden_from_itself():
    layout = Layout(1, 4, 4)
    whole = build(parse("causal"), layout).dense()
    hidden = whole.copy()
    hidden[2, 2] = False
    (region,) = regions(Mask.from_dense(hidden), Mask.from_dense(whole), layout)
    assert region.meaning == "A hides query 2 from itself, B does not"
    hidden[1, 1] = False
    (region,) = regions(Mask.from_dense(hidden), Mask.from_dense(whole), layout)
    assert region.meaning == "A hides queries 1..3 from themselves, B does not"
