import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from maskcli.masks.kinds import KINDS
from maskcli.masks.layout import Layout
from maskcli.masks.spec import Named, PerDocument, build, parse
from tests.masks import oracle
from tests.masks.strategies import kinds, layouts, operand

NUMBERS = {
    "dilated": [(4, 2)],
    "documents": [(), (3,)],
    "prefix": [(3,), (2, 5)],
    "prefix-lm": [(3,), (2, 5)],
    "global": [(3,), (2, 5)],
    "window": [(3,), (2, 1), (-1, 2), (1, -1), (-1, -1)],
    "chunked": [(3,), (3, 0), (3, 2), (2, 6)],
    "same": [(), (1,), (0, 2)],
    "spans": [(), (1,), (1, 2)],
    "keys": [(0, 2), (4, 6, 1, 2), (2, 5, 4, 40)],
    "rows": [(0, 2), (1, 2, 3, 9)],
    "tree": [(-1,), (-1, 0, 0, 1, 1), (-1, 0, 1), (-1, -1, 0, 1)],
    "block-diffusion": [(1,), (4,), (2, 4), (3, 5)],
}


def whole(mask):
    return np.array([[mask.dense(b, h) for h in range(mask.shape[1])] for b in range(mask.shape[0])])


@given(st.data())
def test_every_kind_equals_the_oracle_cell_by_cell(data):
    layout = data.draw(layouts())
    spec = data.draw(kinds(layout))
    mask = build(spec, layout)
    assert np.array_equal(whole(mask), oracle.dense(spec.name, spec.numbers, layout))


@given(st.data())
def test_kinds_inside_documents_equal_the_oracle(data):
    """Documents in one piece each; chunks count from each document's first real token."""
    layout = data.draw(layouts())
    end = layout.past + layout.queries
    layout = dataclasses.replace(layout, documents=np.sort(layout.documents, axis=1), cross=True)
    outside = {"documents", "cross", "same", "spans", "tree"}
    name = data.draw(st.sampled_from([name for name in KINDS if name not in outside]))
    spec = data.draw(operand(name))
    spec = Named(name, spec.numbers[:1]) if KINDS[name].reads == "sizes" else spec
    mask = build(PerDocument(spec), layout)
    assert end <= layout.keys
    assert np.array_equal(whole(mask), oracle.per_document(spec.name, spec.numbers, layout))


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("queries", "past"), [(9, 0), (4, 5), (1, 8)])
def test_no_kind_escapes_the_oracle(name, side, queries, past):
    real = np.ones((2, 9), bool)
    real[1, slice(0, 3) if side == "left" else slice(6, 9)] = False
    layout = Layout(
        2, queries, 9, 1, past, real, np.array([[0] * 4 + [1] * 5, [0] * 2 + [1] * 7]), cross=True,
        tensors=lambda name: np.array([[0, 1, 1, 0, 1, 1, 1, 0, 0], [-1, -1, 2, 2, 2, 1, 1, 1, 2]]),
    )  # fmt: skip
    for numbers in NUMBERS.get(name, [(3,)] if KINDS[name].numbers else [()]):
        tensor = "labels" if KINDS[name].reads == "labels" else None
        mask = build(Named(name, numbers, tensor), layout)
        assert np.array_equal(whole(mask), oracle.dense(name, numbers, layout))


ORDERS = {
    "ring buffer": [8, 9, 10, 3, 4, 5, 6, 7],
    "zigzag": [0, 1, 14, 15, 4, 5, 10, 11],
    "striped": [3, 7, 11, 15, 19, 23, 27, 31],
    "paged": [12, 13, -1, -1, 0, 1, 2, 3],
    "evicted": [0, 1, 7, 9, 30, 31, 32, 33],
    "draft tree": [5, 6, 6, 7, 7, 7, 8, 8],
    "backwards": [7, 6, 5, 4, 3, 2, 1, 0],
    "empty": [-1] * 8,
}


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("same", [True, False])
def test_every_kind_equals_the_oracle_whatever_order_its_keys_stand_in(name, order, same):
    at = np.array([ORDERS[order], ORDERS["zigzag"]])[: 1 if same else 2]
    if order == "empty" and name == "documents":
        at[:] = ORDERS["zigzag"]
    queries = np.stack([row[[5, 1, 4]] for row in at])
    real = np.array([[True] * 8, [False, True, True, True, True, True, False, True]])
    texts = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [2, 2, 2, 1, 1, 1, 0, 0]])
    labels = np.array([[0, 1, 1, 1, 2, 1, 1, -1], [1, 1, 0, 0, 1, 1, 2, 2]])
    layout = Layout(
        2, 3, 8, 1, 0, real, texts, cross=True, queries_at=queries, keys_at=at, tensors=lambda name: labels
    )
    for numbers in NUMBERS.get(name, [(3,)] if KINDS[name].numbers else [()]):
        if name == "tree" and len(numbers) > 3:
            continue
        spec = Named(name, numbers, "labels" if KINDS[name].reads == "labels" else None)
        assert np.array_equal(whole(build(spec, layout)), oracle.anywhere(name, numbers, layout))


@given(st.data())
def test_every_kind_equals_the_oracle_at_positions_of_any_kind(data):
    layout = data.draw(layouts())
    batch = st.sampled_from([1, layout.batch])
    places = st.lists(st.integers(-1, 20), min_size=layout.keys, max_size=layout.keys)
    at = np.array(data.draw(batch.flatmap(lambda n: st.lists(places, min_size=n, max_size=n))))
    chosen = st.lists(st.integers(0, layout.keys - 1), min_size=layout.queries, max_size=layout.queries)
    queries = at[:, data.draw(chosen)]
    layout = dataclasses.replace(layout, past=0, queries_at=queries, keys_at=at)
    spec = data.draw(kinds(layout))
    assert np.array_equal(whole(build(spec, layout)), oracle.anywhere(spec.name, spec.numbers, layout))


@given(st.data())
def test_queries_told_one_by_one_are_the_same_as_those_behind_a_past(data):
    layout = data.draw(layouts())
    spec = data.draw(kinds(layout))
    at = np.arange(layout.queries)[None] + layout.past
    # A tree goes by the slots of its nodes, which the past tells.
    told = dataclasses.replace(layout, past=layout.past if spec.name == "tree" else 0, queries_at=at)
    assert build(spec, told) == build(spec, layout)
    keys = np.broadcast_to(np.arange(layout.keys), (layout.batch, layout.keys))
    told = dataclasses.replace(told, keys_at=keys)
    assert build(spec, told) == build(spec, layout)


@given(st.data())
def test_documents_are_texts_of_their_own_in_whatever_order_the_queries_stand(data):
    layout = data.draw(layouts())
    layout = dataclasses.replace(layout, documents=np.sort(layout.documents, axis=1))
    order = np.array(data.draw(st.permutations(range(layout.queries))))
    shuffled = dataclasses.replace(layout, queries_at=(order + layout.past)[None])
    spec = PerDocument(parse("causal & (sliding:2 | prefix:1) | blocks:3"))
    assert np.array_equal(whole(build(spec, shuffled)), whole(build(spec, layout))[:, :, order])


def test_keys_in_two_stretches_take_two_runs_a_row():
    rank = np.concatenate([np.arange(2**18), np.arange(3 * 2**18, 2**20)])[None]
    layout = Layout(1, 2**19, 2**19, queries_at=rank, keys_at=rank)
    mask = build(Named("causal"), layout)
    assert mask.starts.size == 2**19
    assert mask.attended == 2**19 * (2**19 + 1) // 2


def test_the_textbook_example():
    ids = np.array([[5, 3, 2, 0, 0], [7, 4, 8, 6, 0]])
    layout = Layout(2, 5, 5, real=ids != 0)
    combined = build(Named("combined"), layout)
    assert combined.dense(0).astype(int).tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0],
    ]  # fmt: skip
    assert (combined.attended, combined.empty_rows, combined.stored) == (12 + 14, 0, (2, 1, 5))


@pytest.mark.parametrize(
    ("name", "numbers", "sentence"),
    [
        ("padding", (), "'padding' needs to know which keys are padding"),
        ("cross", (), "'cross' needs to know the source"),
        ("documents", (), "'documents' needs to know where documents begin"),
        ("documents", (4, 9), "covers 13 tokens, but there are only 6 keys"),
        ("dilated", (10**9, 2), "needs 500,000,000,000 runs of one key"),
    ],
)
def test_a_kind_without_its_facts_is_refused(name, numbers, sentence):
    layout = Layout(1, 6, 6) if name != "dilated" else Layout(1, 10**6, 10**6)
    with pytest.raises(MaskcliError, match=sentence):
        build(Named(name, numbers), layout)


def test_documents_behind_the_last_key_are_refused():
    with pytest.raises(MaskcliError, match="position 8"):
        build(Named("documents"), Layout(1, 4, 6, past=5, documents=np.zeros((1, 6), int)))


@pytest.mark.parametrize("lengths", [(), (1, 1), (3, 2)])
def test_a_query_without_a_token_is_in_no_document(lengths):
    at = np.array([[0, 1, 2, -1]])
    told = Layout(1, 4, 4, documents=np.zeros((1, 4), int), queries_at=at, keys_at=at)
    assert not whole(build(Named("documents", lengths), told))[0, 0, 3].any()
