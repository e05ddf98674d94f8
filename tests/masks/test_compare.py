"""Where two masks differ, against numpy; and edges, counts, runs and items in words."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.masks.compare import regions
from maskcli.masks.conventions import Target
from maskcli.masks.edges import edges_of
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.packed import positions_in
from maskcli.masks.reasons import _distance
from maskcli.masks.spec import build, parse
from maskcli.masks.views import _row_groups
from maskcli.masks.words import counted, first, items_in_words, runs_in_words, span

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


def test_counts_runs_and_items_in_words():
    assert [counted(count, "file") for count in (0, 1, 1200)] == ["0 files", "1 file", "1,200 files"]
    assert first(["a", "b"], 2) == "a, b"
    assert first(["a", "b", "c"], 2) == "a, b …"
    assert [span(4, 5), span(12, 16)] == ["4", "12..16"]
    assert runs_in_words(((4, 5),), "key", "keys") == "key 4"
    assert runs_in_words(((4, 6),), "key", "keys") == "keys 4..6"
    assert runs_in_words(((4, 5), (7, 9)), "key", "keys") == "keys 4, 7..9"
    assert runs_in_words(tuple((at, at + 1) for at in range(0, 10, 2)), "key", "keys") == "keys 0, 2, 4, 6 …"
    assert [items_in_words((2,)), items_in_words((0, 3))] == ["sample 2", "samples 0, 3"]
    assert items_in_words(range(9)) == "samples 0, 1, 2, 3, 4, 5, 6, 7 …"


@pytest.mark.parametrize("past", [0, 3])
def test_one_row_for_all_queries_bounds_the_first_and_the_last(past):
    mask = build(parse("keys:1:3,4:5"), Layout(2, 6, 6 + past, past=past))
    assert mask.compact().stored == (1, 1, 1)
    edges = edges_of(mask.compact(), Layout(2, 6, 6 + past, past=past))
    assert edges.position.tolist() == [past, 5 + past]
    assert (edges.first.tolist(), edges.stop.tolist()) == ([1, 1], [5, 5])
    assert (edges.ahead, edges.behind, edges.last) == (4 - past, 4 + past, 5)


@pytest.mark.parametrize(
    ("spec", "queries", "step"), [("dilated:6,2", 9, 2), ("dilated:9,3", 9, 3), ("dilated:6,2", 2, 2), ("sliding:1", 9, 0), ("window:1", 9, 0), ("causal & blocks:2", 6, 0)]
)  # fmt: skip
def test_the_step_between_attended_keys(spec, queries, step):
    layout = Layout(1, queries, max(queries, 6), past=max(queries, 6) - queries)
    assert edges_of(build(parse(spec), layout), layout).step == step


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


@given(st.integers(0, 2**32 - 1))
def test_positions_in_documents_count_anew(seed):
    rng = np.random.default_rng(seed)
    documents = np.cumsum(rng.random((int(rng.integers(1, 4)), int(rng.integers(1, 9)))) < 0.4, axis=1)
    found = positions_in(documents)
    for row, at in np.ndindex(documents.shape):
        begin = at
        while begin and documents[row, begin - 1] == documents[row, at]:
            begin -= 1
        assert found[row, at] == at - begin


@pytest.mark.parametrize(
    ("shape", "rows", "axes"),
    [((2, 6), 1, "B,K"), ((6, 6), 6, "Q,K"), ((4, 6, 6), 6, "B*H,Q,K"), ((2, 1, 6, 6), 6, "B,H,Q,K")],
)
def test_axes_of_a_written_mask(shape, rows, axes):
    assert Target(shape, [(0, 0)], rows).axes == axes


@pytest.mark.parametrize(
    ("spec", "query", "key", "words"),
    [
        ("sliding:3", 5, 2, "5 - 2 >= 3"), ("window:2", 5, 2, "5 - 2 > 2"), ("window:2,1", 2, 4, "4 - 2 > 1"), ("window:2,-1", 5, 2, "5 - 2 > 2"),
        ("dilated:4,2", 5, 2, "5 - 2 is no multiple of 2"), ("dilated:4,2", 7, 2, "7 - 2 > 4"), ("dilated:3,2", 5, 2, "5 - 2 is no multiple of 2"),
        ("dilated:3,2", 2, 5, "5 - 2 is no multiple of 2"), ("causal", 2, 5, None),
    ],
)  # fmt: skip
def test_why_a_key_is_too_far_away(spec, query, key, words):
    assert _distance(parse(spec), query, key) == words


def test_runs_that_touch_are_one():
    """The union of rows whose runs end where others begin is one stretch, and its complement has no gap there."""
    dense = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]], bool)
    ((union, gaps),) = _row_groups(Mask.from_dense(dense), 3)
    assert list(union.runs(0, 0)) == [[[0, 4], [5, 6]]]
    assert list(gaps.runs(0, 0)) == [[[0, 6]]]


def test_sizes_of_blocks_are_smaller_than_the_text():
    layout = Layout(1, 8, 8)
    assert edges_of(build(parse("blocks:3"), layout), layout)._sizes(np.arange(8), np.arange(8), 8) == []
    assert edges_of(build(parse("blocks:3"), layout), layout)._sizes(np.arange(8), np.arange(8), 6) == [
        (6,),
        (7,),
    ]
