"""What rules ask of whole maps, each against a loop over the cells of dense weights."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.diagnostics.rules.sums import (
    FEW,
    _ends_in_channels,
    _has_signs,
    _heads_are_mixed,
    _invalid,
    _zeros,
)
from maskcli.diagnostics.rules.weight_patterns import ROWS, _narrower, _never_ahead, _strict, _top_left
from maskcli.meant import settling
from maskcli.meant.facts import Declared
from maskcli.scene.assemble import build_scenes
from maskcli.tensors import from_arrays, roles_of

seeds = given(st.integers(0, 2**32 - 1))


def attention_of(weights, expect=None, **facts):
    declared = facts.pop("declared", {})
    file = from_arrays({"attentions.0": weights} | facts)
    expected = () if expect is None else (settling.expectation(expect),)
    (scene,) = build_scenes(file.path, roles_of(file), Declared(expect=expected, **declared))
    (attention,) = scene.attentions
    return attention


def weights_over(keep, rng):
    """Rows that sum to 1 over kept keys, no two weights alike; those without a key are 0."""
    drawn = np.where(keep, rng.uniform(0.2, 1.0, keep.shape), 0)
    total = drawn.sum(-1, keepdims=True)
    return np.divide(drawn, total, out=np.zeros_like(drawn), where=total > 0).astype(np.float32)


@seeds
def test_rows_that_reach_less_far_back(seed):
    rng = np.random.default_rng(seed)
    length, width, left = int(rng.integers(6, 14)), int(rng.integers(1, 8)), int(rng.integers(0, 3))
    query, key = np.arange(length)[:, None], np.arange(length)
    real = np.arange(length) >= np.array([left, 0])[:, None]
    keep = (key <= query) & (key > query - width) & real[:, None, None] & np.ones((2, 2, 1, 1), bool)
    if rng.random() < 0.4:
        keep[0, 1, -1, int(rng.integers(0, length))] ^= True
    declared = int(rng.integers(2, 9))
    attention = attention_of(
        weights_over(keep, rng), f"causal & sliding:{declared}", attention_mask=real.astype(int)
    )
    seen, rows = _narrower(attention)

    held = keep & np.broadcast_to(real[:, None, :, None], keep.shape)
    reach = np.where(held, query - key + 1, 0).max(axis=3)
    assert seen == max(reach.max(), 0)
    behind = reach.max(axis=(0, 1))
    far = [at for at in range(length) if at - left + 1 > seen and real[:, at].any()]
    told = 0 < seen < declared and len(far) >= ROWS and all(behind[at] == seen for at in far)
    wanted = np.broadcast_to(real[:, None] & (np.arange(length) + 1 > seen), keep.shape[:3])
    outside = (keep & (key <= query - seen) | keep & (key > query))[wanted].any()
    assert (rows is not None) == (told and wanted.any() and not outside)
    assert rows is None or np.array_equal(rows, wanted)


@seeds
def test_rows_that_never_look_ahead(seed):
    rng = np.random.default_rng(seed)
    length, left = int(rng.integers(2, 9)), int(rng.integers(0, 2))
    query, key = np.arange(length)[:, None], np.arange(length)
    real = np.arange(length) >= np.array([left, 0])[:, None]
    keep = (key <= query) & real[:, None, None] & np.ones((2, 2, 1, 1), bool)
    if rng.random() < 0.4:
        keep[1, 0, int(rng.integers(0, length)), int(rng.integers(0, length))] = True
    attention = attention_of(weights_over(keep, rng), "full", attention_mask=real.astype(int))
    found = _never_ahead(attention)
    ahead = np.broadcast_to(real[:, None, :, None] & real[:, None, None] & (key > query), keep.shape)
    rows = ahead.any(axis=3) & keep.any(axis=3)
    looks = (keep & (key > query))[rows].any()
    assert (found is not None) == (length >= ROWS and rows.any() and not looks)
    assert found is None or np.array_equal(found, rows)


@seeds
def test_rows_that_see_from_the_top_left(seed):
    rng = np.random.default_rng(seed)
    queries, past = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    query, key = np.arange(queries)[:, None], np.arange(queries + past)
    # As many heads as no size has keys: axes are not in doubt.
    keep = (key <= query) & np.ones((2, 11, 1, 1), bool)
    if rng.random() < 0.4:
        keep[1, 1, -1, int(rng.integers(0, queries + past))] = True
    attention = attention_of(weights_over(keep, rng), declared={"past": past})
    found = _top_left(attention)
    outside = (keep & (key > query)).any()
    assert (found is not None) == (not outside)
    assert found is None or found.all()
    assert _top_left(attention_of(weights_over(keep, rng), declared={"past": 0})) is None


@seeds
def test_rows_without_their_diagonal(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(2, 10))
    query, key = np.arange(length)[:, None], np.arange(length)
    keep = (key < query) & np.ones((2, 2, 1, 1), bool)
    changed = rng.random() < 0.5
    at = int(rng.integers(0, length)), int(rng.integers(0, length))
    if changed:
        keep[1, 0, at[0], at[1]] = True
    found = _strict(attention_of(weights_over(keep, rng)))
    # A first row that reads what is behind it alone has fallen through.
    healthy = changed and at[1] >= at[0] and not (at[0] == 0 < at[1])
    assert (found is not None) == (length >= ROWS and not healthy)
    assert found is None or found.all()


@seeds
def test_samples_of_zeros(seed):
    rng = np.random.default_rng(seed)
    length, batch = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    keep = np.tril(np.ones((length, length), bool)) & np.ones((batch, 2, 1, 1), bool)
    empty = rng.random(batch) < 0.5
    weights = np.where(empty[:, None, None, None], 0, weights_over(keep, rng)).astype(np.float32)
    real = np.ones((batch, length), int)
    assert np.array_equal(_zeros(attention_of(weights)), np.broadcast_to(empty.all(), keep.shape[:3]))
    found = _zeros(attention_of(weights, attention_mask=real))
    assert np.array_equal(found, np.broadcast_to(empty[:, None, None], keep.shape[:3]))


@seeds
def test_signs_mixed_heads_and_what_is_no_weight(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(2, 9))
    plain = weights_over(np.ones((2, 2, length, length), bool), rng)
    signs = rng.choice([-1.0, 1.0], size=plain.shape).astype(np.float32)
    rows = 4 * length
    assert _has_signs(attention_of(plain * signs)) == (rows >= FEW)
    assert not _has_signs(attention_of(plain * signs * 1.1))
    assert np.array_equal(_invalid(attention_of(plain * signs)), ((plain * signs) < 0).any(axis=3))
    # The rows of each head sum to one number, of which one head's may be 0.
    mixed = plain * np.array([0.4, 1.7], np.float32)[:, None, None]
    mixed[:, 1] -= np.float32(1.7 / length)
    assert _heads_are_mixed(attention_of(mixed)) == (2 * length >= FEW)
    mixed[0, 0, 0] *= 1.5
    assert not _heads_are_mixed(attention_of(mixed))
    # Sums of 0 alone are those of centred scores.
    assert not _heads_are_mixed(attention_of(plain - plain.mean(-1, keepdims=True)))


@pytest.mark.parametrize(
    ("shapes", "ends"),
    [
        ([(1, 2, 8, 4), (1, 2, 6, 4)], True), ([(1, 2, 8, 4), (1, 2, 6, 6)], False), ([(1, 2, 8, 4)], False), ([(1, 2, 8, 4), (1, 2, 8, 4)], False),
        ([(1, 2, 3, 4), (1, 2, 4, 4)], False), ([(1, 2, 3, 4), (1, 2, 5, 4)], True),
    ],
)  # fmt: skip
def test_maps_that_end_in_channels(shapes, ends):
    """All in one size, whatever the number of queries, of which some are more."""
    tensors = [SimpleNamespace(role="weights", tensor=SimpleNamespace(shape=shape)) for shape in shapes]
    scene = SimpleNamespace(
        tensors=[*tensors, SimpleNamespace(role="mask", tensor=SimpleNamespace(shape=(9, 9)))]
    )
    assert _ends_in_channels(SimpleNamespace(shape=shapes[0]), scene) is ends
