"""How masks and maps are put together with what stands beside them."""

from types import SimpleNamespace

import numpy as np
import pytest

from maskcli.masks.conventions import TRUE_ATTENDS
from maskcli.masks.mask import Mask
from maskcli.masks.spec import parse
from maskcli.scene.assemble import _is_open, _of_other_resolution, _over_images, _pasts, _windows
from maskcli.scene.saved_mask import Given
from maskcli.scene.witnesses import Padding


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
