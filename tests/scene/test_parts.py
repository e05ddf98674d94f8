"""Small parts of a scene, each against the same question asked of numpy or by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from maskcli.masks.conventions import TRUE_ATTENDS
from maskcli.masks.kinds import causal
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import build, parse
from maskcli.meant.facts import Declared
from maskcli.scene.assemble import _is_open, _of_other_resolution, _over_images, _pasts, _windows
from maskcli.scene.by_weights import last_weighed, left_padding, skips_the_first, weighs
from maskcli.scene.forbidden import forbidden
from maskcli.scene.layouts import in_usual_order
from maskcli.scene.named import MOST_LABELS, held, labels_among, named_rows
from maskcli.scene.placement import _over_the_cache
from maskcli.scene.saved_mask import Given
from maskcli.scene.scene import pad_rows
from maskcli.scene.sides import token_sets
from maskcli.scene.tokens import restarts, several
from maskcli.scene.witnesses import Padding, Witnesses
from maskcli.tensors import from_array, from_arrays, roles_of


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


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_empty_rows_whose_own_key_nobody_sees_are_padding(seed, one):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, size=4))
    batch, _, queries, keys = shape
    dense = rng.random(shape) < 0.4
    dense &= rng.random((batch, 1, queries, 1)) < 0.6
    dense &= rng.random((batch, 1, 1, keys)) < 0.7
    own = rng.integers(-1, keys, size=(1 if one else batch, queries))
    found = pad_rows(Mask.from_dense(dense), own)
    for item, query in np.ndindex(batch, queries):
        key = own[0 if one else item, query]
        seen = dense[item, :, :, key if key >= 0 else keys - 1].any()
        empty = not dense[item, :, query].any()
        assert np.broadcast_to(found, (batch, 1, queries))[item, 0, query] == (empty and not seen)


@given(st.integers(0, 2**32 - 1))
def test_what_last_queries_weigh(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(1, 5, size=4))
    batch, _, _, keys = shape
    dense = rng.choice([0.0, 0.0, 0.5, 1.0], size=shape).astype(np.float32)
    tensor = from_array("attentions.0", dense)
    key = rng.integers(0, keys, size=batch)
    wanted = [bool((dense[item, :, -1, key[item]] > 0).any()) for item in range(batch)]
    assert weighs(tensor, shape, key).tolist() == wanted
    none = all(not dense[item, :, -1, : key[item]].any() for item in range(batch))
    assert skips_the_first(tensor, shape, key) == none
    told = dense.max(-1) != dense.min(-1)
    weighed = np.flatnonzero((dense * told[..., None]).any(axis=(0, 1, 2)))
    assert last_weighed(tensor, shape) == (weighed[-1] if weighed.size else keys - 1)


@pytest.mark.parametrize("left", [(0, 0), (2, 0), (3, 1), (2, 2)])
def test_leading_rows_that_fall_through_are_padding(left):
    """Their finite fill lets them read what is forbidden; nobody behind them reads their keys."""
    real = np.arange(8) >= np.array(left)[:, None]
    keep = np.tril(np.ones((8, 8), bool)) & real[:, None, None] & np.ones((2, 3, 8, 8), bool)
    weights = np.where(keep, 1.0, 0.0) * np.arange(1, 9)
    for item, count in enumerate(left):
        weights[item, :, :count] = np.where(np.arange(8) >= count, np.arange(1, 9), 0)
    weights /= weights.sum(-1, keepdims=True)
    found = left_padding(from_array("w", weights), weights.shape, causal(Layout(2, 8, 8, 3)))
    assert (found is None) == (not any(left))
    if any(left):
        assert np.array_equal(found, real)
        # One that a later row does read is none.
        weights[0, 0, 7, 0] = 0.5
        found = left_padding(from_array("w", weights), weights.shape, causal(Layout(2, 8, 8, 3)))
        assert found is None or found[0].all()


@pytest.mark.parametrize(
    ("windows", "items", "fits"), [(2, 6, True), (3, 6, True), (4, 6, False), (6, 6, False), (1, 6, False)]
)
def test_masks_of_windows_are_those_of_every_image(windows, items, fits):
    dense = np.random.default_rng(0).random((windows, 1, 4, 4)) < 0.5
    keep = Mask.from_dense(dense)
    given_ = Given(None, keep.shape, TRUE_ATTENDS, "name", None, None, False, False, keep)
    found = _over_images(given_, (items, 2, 4, 4))
    assert (found is not given_) == fits
    if fits:
        for item in range(items):
            assert np.array_equal(found.keep.dense(item, 0), dense[item % windows, 0])
    assert _over_images(given_, (items, 2, 4, 5)) is given_


@pytest.mark.parametrize(
    ("queries", "keys", "past", "told", "kinds", "pasts"),
    [
        (2, 8, 6, False, ("causal",), [6, 0, 5, 7]), (2, 8, 6, False, ("documents",), [6, 0, 5]), (2, 8, 3, False, ("causal",), [3, 0, 6, 5, 7]),
        (2, 8, 6, True, ("causal",), [6]), (8, 8, 0, False, ("causal",), [0]), (2, 8, 6, False, ("tree",), [6]),
    ],
)  # fmt: skip
def test_where_queries_of_a_saved_mask_may_stand(queries, keys, past, told, kinds, pasts):
    placement = SimpleNamespace(shape=(1, 1, queries, keys), past=past, past_known=told, queries_at=None)
    assert list(_pasts(placement, kinds)) == pasts
    placement = SimpleNamespace(
        shape=(1, 1, queries, keys), past=past, past_known=False, queries_at=np.zeros((1, 1))
    )
    assert list(_pasts(placement, kinds)) == [past]


@pytest.mark.parametrize(
    ("spec", "facts", "is_open"),
    [
        ("causal", {}, False), ("causal & padding", {}, True), ("causal & padding", {"keys": True}, False), ("documents", {}, True),
        ("documents", {"documents": np.zeros((2, 4), int)}, False), ("documents", {"documents": np.zeros((1, 4), int)}, False),
        ("documents", {"documents": np.zeros((3, 4), int)}, True), ("documents", {"documents": np.zeros((2, 4), int), "inside": False}, True),
        ("causal", {"inside": False}, False), ("chunked:2", {"beginning": False}, True), ("chunked:2", {}, False), ("causal", {"beginning": False}, False),
        ("sliding:2", {"scattered": True}, True), ("padding", {"keys": True, "scattered": True}, False),
    ],
)  # fmt: skip
def test_specs_that_need_a_fact_which_nothing_tells(spec, facts, is_open):
    placement = SimpleNamespace(
        shape=(2, 1, 2, 4),
        documents=facts.get("documents"),
        keys=facts.get("keys"),
        beginning_known=facts.get("beginning", True),
        layout=SimpleNamespace(inside=facts.get("inside", True)),
        scattered=SimpleNamespace(jumping=True) if facts.get("scattered") else None,
    )
    assert _is_open(parse(spec), placement) is is_open


@pytest.mark.parametrize(("said", "used", "added"), [(6, 6, 2), (7, 7, 1), (8, 8, 0), (6, 7, 0)])
def test_padding_of_the_filled_part_of_a_static_cache(said, used, added):
    weights = np.where(np.arange(8) < used, np.arange(1, 9.0), 0)[None, None, None] * np.ones((2, 1, 1, 1))
    padding = Padding(np.ones((2, said), bool), "attention_mask")
    found = _over_the_cache(padding, weights.shape, from_array("w", weights / weights.sum(-1, keepdims=True)))
    assert found.real.shape == (2, said + added)
    assert found.real.sum() == 2 * said


def test_windows_of_a_spec():
    assert _windows(parse("sliding:4 & padding & sliding:6")) == [4, 6]
    assert _windows(parse("causal | sliding:4")) == []


def test_a_padding_mask_at_another_resolution():
    def map_(queries, keys, length, kind="self"):
        misfit = None if length is None else Padding(np.ones((1, length), bool), "attention_mask")
        return SimpleNamespace(
            roled=SimpleNamespace(kind=kind),
            shape=(1, 1, queries, keys),
            placement=SimpleNamespace(misfit=misfit),
        )

    assert list(_of_other_resolution((map_(8, 8, 40), map_(4, 4, 40)))) == ["attention_mask"]
    assert (
        "covers 40 positions, and the maps have 8 keys"
        in _of_other_resolution((map_(8, 8, 40),))["attention_mask"]
    )
    # One of the maps has as many keys, none is square, or all are a decoder's.
    for maps in (
        (map_(8, 8, 40), map_(40, 40, None)),
        (map_(8, 8, 8),),
        (map_(1, 8, 40),),
        (map_(8, 8, 40, "decoder"),),
        (),
    ):
        assert _of_other_resolution(maps) == {}


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


@pytest.mark.parametrize("declared", [None, "causal & sliding:2", "full", "window:1 | global:1"])
@pytest.mark.parametrize("cross", [False, True])
def test_every_forbidden_cell_has_one_reason(declared, cross):
    real = np.array([[0, 1, 1, 1, 1, 1]], bool)
    layout = Layout(1, 6, 6, real=real, documents=np.array([[0, 0, 0, 1, 1, 1]]), cross=cross)
    allowed = build(parse("causal & padding & documents & window:3"), layout)
    found = forbidden(allowed, layout, None if declared is None else parse(declared), "the mask")
    cells = np.sum([reason.forbids.dense().astype(int) for reason in found], axis=0)
    assert np.array_equal(cells, (~allowed.dense()).astype(int))
    kinds = {reason.kind for reason in found}
    assert "padding" in kinds
    assert ("document" in kinds) == (declared is None)
    assert ("future" in kinds) == (not cross if declared is None else declared == "causal & sliding:2")
    assert [reason.operand for reason in found if reason.kind == "other"] in ([], ["the mask"])


def test_what_a_file_says_has_no_reason_of_its_own():
    layout = Layout(1, 6, 6)
    found = forbidden(causal(layout), layout, parse("saved.npz:mask & sliding:2"), "the mask")
    assert [reason.kind for reason in found] == ["future"]


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
