"""Reasons, beside an oracle that asks each cell of each operand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.masks.layout import Layout
from maskcli.masks.reasons import KINDS, _distance, because, by_kind, reasons
from maskcli.masks.spec import Joined, Named, Not, build, parse
from tests.masks import oracle
from tests.masks.strategies import kinds, layouts

WORDS = {
    "causal": "future", "causal-top-left": "future", "prefix-lm": "future", "padding": "padding",
    "cross": "padding", "documents": "document", "sliding": "window", "window": "window", "blocks": "window",
    "chunked": "window", "dilated": "window", "global": "window",
}  # fmt: skip
PLACES = np.array(["padding", "document", "future", "window", "other", ""])


def ranks(spec, layout):
    """For each cell the place of its reason in PLACES; the last is for cells that are allowed."""
    if isinstance(spec, Joined):
        parts = np.array([ranks(operand, layout) for operand in spec.operands])
        free = (parts == 5).any(0) if spec.sign == "|" else (parts == 5).all(0)
        return np.where(free, 5, parts.min(0))
    if isinstance(spec, Not):
        return of_leaf(ranks(spec.operand, layout) == 5, "other", layout)
    if spec.name == "combined":
        return ranks(Joined("&", (Named("causal"), Named("padding"))), layout)
    return of_leaf(~oracle.dense(spec.name, spec.numbers, layout), WORDS.get(spec.name, "other"), layout)


def of_leaf(forbidden, word, layout):
    later = np.array([[k > q + layout.past for k in range(layout.keys)] for q in range(layout.queries)])
    found = np.where(forbidden, list(PLACES).index(word), 5)
    if word in ("window", "other") and forbidden[..., later].all():
        found[forbidden & later] = 2
    return found


@st.composite
def cases(draw):
    layout = draw(layouts(longest=7))
    leaf = kinds(layout)
    spec = draw(
        st.recursive(
            leaf,
            lambda inner: st.one_of(
                inner.map(Not),
                st.tuples(st.sampled_from("&|"), st.lists(inner, min_size=2, max_size=3)).map(
                    lambda each: Joined(each[0], tuple(each[1]))
                ),
            ),
            max_leaves=4,
        )
    )
    return spec, layout


def dense(mask):
    return np.asarray(mask)


@given(cases())
def test_every_forbidden_cell_has_the_first_reason_that_holds(case):
    spec, layout = case
    found = reasons(spec, layout)
    masks = [dense(each.forbids) for each in found]
    assert np.array_equal(
        sum(map(np.uint8, masks), np.zeros(layout.shape, np.uint8)), ~dense(build(spec, layout))
    )
    for each, cells in zip(found, masks, strict=True):
        assert cells.any()
        assert not (cells & dense(build(parse(each.operand), layout))).any()
    expected = PLACES[ranks(spec, layout)]
    for kind in KINDS:
        cells = by_kind(found).get(kind)
        assert np.array_equal(
            expected == kind, np.zeros(layout.shape, bool) if cells is None else dense(cells)
        ), kind


@given(cases(), st.data())
def test_every_cell_has_a_sentence(case, data):
    spec, layout = case
    query, key = data.draw(st.integers(0, layout.queries - 1)), data.draw(st.integers(0, layout.keys - 1))
    said = because(spec, layout, query, key).text
    assert said.endswith(" it") == bool(dense(build(spec, layout))[0, 0, query, key])


@pytest.mark.parametrize(
    "inner", ["causal", "sliding:2", "causal & padding & window:1", "blocks:2 | keys:0:1"]
)
def test_documents_by_themselves(inner):
    lengths = (3, 1, 4)
    real = np.array([[1] * 8, [0, 1, 1, 1, 1, 1, 0, 0]], bool)
    expected = np.full((2, 1, 8, 8), 1)
    for item in range(2):
        at = 0
        for length in lengths:
            own = slice(at, at + length)
            expected[item, 0, own, own] = ranks(
                parse(inner), Layout(1, length, length, real=real[item : item + 1, own])
            )
            at += length
    found = by_kind(reasons(parse(f"per-document:3,1,4({inner})"), Layout(2, 8, 8, real=real)))
    for at, kind in enumerate(KINDS):
        cells = dense(found[kind]) if kind in found else np.zeros(expected.shape, bool)
        assert np.array_equal(cells, expected == at), kind


def test_slots_without_a_token_are_padding_inside_documents():
    at = np.array([[0, 1, -1, 2, 3]])
    spec = parse("per-document:2,2(causal)")
    layout = Layout(1, 4, 5, queries_at=np.arange(4)[None], keys_at=at)
    found = by_kind(reasons(spec, layout))
    assert dense(found["padding"])[0, 0].tolist() == [[False, False, True, False, False]] * 4


def test_slots_without_a_token_are_padding():
    at = np.array([[2, 3, -1, 0, 1]])
    found = by_kind(reasons(parse("causal"), Layout(1, 1, 5, queries_at=np.array([[2]]), keys_at=at)))
    assert dense(found["padding"]).ravel().tolist() == [False, False, True, False, False]
    assert dense(found["future"]).ravel().tolist() == [False, True, False, False, False]


REAL = np.array([[1, 1, 1, 1, 1, 1, 0, 0]], bool)
DOCUMENTS = np.array([[0, 0, 0, 1, 1, 1, 1, 1]])
LAYOUT = Layout(1, 8, 8, real=REAL, documents=DOCUMENTS)


@pytest.mark.parametrize(
    ("spec", "query", "key", "sentence"),
    [
        ("causal & sliding:2", 4, 2, "outside sliding:2 (4 - 2 >= 2)"),
        ("causal & window:1", 4, 2, "outside window:1 (4 - 2 > 1)"),
        ("window:3,1", 1, 5, "outside window:3,1 (5 - 1 > 1)"),
        ("dilated:4,2", 4, 3, "outside dilated:4,2 (4 - 3 is no multiple of 2)"),
        ("dilated:4,2", 1, 7, "outside dilated:4,2 (7 - 1 > 4)"),
        ("causal & padding", 3, 6, "key 6 is padding"),
        ("causal & padding", 3, 5, "key 5 stands after query 3"),
        ("documents & causal", 4, 1, "query 4 is in document 1, key 1 in document 0"),
        ("per-document(causal)", 4, 1, "query 4 is in document 1, key 1 in document 0"),
        ("per-document(causal & sliding:2)", 5, 3, "outside per-document(sliding:2) (5 - 3 >= 2)"),
        ("chunked:4", 5, 2, "outside chunked:4 (query 5 sees keys 4..6 there)"),
        ("keys:0:2", 5, 2, "outside keys:0:2 (query 5 sees keys 0..2 there)"),
        ("rows:0:2", 5, 2, "outside rows:0:2 (query 5 sees no key there)"),
        ("~causal", 5, 2, "forbidden by ~causal"),
        ("causal & (sliding:2 | global:1)", 5, 2, "forbidden by sliding:2 | global:1"),
        ("causal & (sliding:2 | global:1)", 5, 0, "causal and global:1 allow it"),
        ("combined", 5, 0, "causal and padding allow it"),
        ("full", 5, 0, "full allows it"),
    ],
)  # fmt: skip
def test_the_sentence(spec, query, key, sentence):
    assert because(parse(spec), LAYOUT, query, key).text == sentence


def test_positions_are_told_where_they_are_not_the_numbers():
    assert (
        because(parse("causal"), Layout(1, 2, 6, past=3), 1, 5).text
        == "key 5 stands after query 1 (positions 5 and 4)"
    )
    assert because(parse("sliding:2"), Layout(1, 2, 6, past=3), 1, 2).text == "outside sliding:2 (4 - 2 >= 2)"
    queries, keys = np.array([[0, -1]]), np.array([[0, -1]])
    told = Layout(1, 2, 2, queries_at=queries, keys_at=keys)
    assert because(parse("causal"), told, 0, 1).text == "key 1 holds no token"
    assert because(parse("causal"), told, 1, 0).text == "query 1 holds no token"


def test_a_million_tokens():
    long = Layout(1, 10**6, 10**6)
    assert because(parse("causal & sliding:4096"), long, 900_000, 10).text.startswith(
        "outside sliding:4096 (900000 - 10"
    )
    assert by_kind(reasons(parse("causal & sliding:4096"), long))["window"].attended > 10**11


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
