"""Which keys a saved mask lets each query see: diagonals that are off by one, pasts that are not counted, wrong windows."""

import numpy as np
import pytest
import torch

import maskcli
from maskcli.diagnostics.rules.alignment import _is_staircase
from maskcli.masks.layout import Layout
from maskcli.masks.spec import build, parse
from tests.diagnostics.attention import DTYPES, layers, loud, padding, report, the

KINDS = ["bool", "int64", *DTYPES]
kinds = pytest.mark.parametrize("kind", KINDS)
SIDES = [None, "left", "right"]
# batch, queries, keys; past is the difference.
SQUARES = [(1, 6, 6), (3, 12, 12), (2, 70, 70)]


def grid(queries, keys, past=None):
    past = keys - queries if past is None else past
    return np.arange(queries)[:, None] + past, np.arange(keys)


def real_of(batch, keys, side):
    return np.ones((batch, keys), bool) if side is None else padding((batch, 1, keys, keys), side)


def saved(keep, kind, batch=1):
    keep = np.broadcast_to(keep, (batch, 1, *keep.shape[-2:]))
    if kind in ("bool", "int64"):
        return torch.from_numpy(keep.copy()).to(getattr(torch, kind))
    return torch.from_numpy(np.where(keep, 0, torch.finfo(DTYPES[kind]).min)).to(DTYPES[kind])


def padded(real):
    return {"attention_mask": torch.from_numpy(real.astype(np.int64))}


def inside(runs, length):
    flags = np.zeros(length, bool)
    for start, stop in runs:
        flags[start:stop] = True
    return flags


# MSK109


@pytest.mark.combinations
@kinds
@pytest.mark.parametrize(("batch", "queries", "keys"), SQUARES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("step", [-1, 1])
@pytest.mark.parametrize("expect", ["causal", None])
def test_a_diagonal_that_is_off_by_one(kind, batch, queries, keys, side, step, expect):
    p, k = grid(queries, keys)
    real = real_of(batch, keys, side)
    keep = (k <= p + step) & real[:, None, None]
    arrays = {"attn_mask": saved(keep, kind, batch)}
    for given in ({}, padded(real)) if side != "right" or step < 0 else (padded(real),):
        found = report(arrays | given, expect=expect or ())
        assert loud(found) == ["MSK109"]
        assert the(found, "MSK109").evidence == {"diagonal": step}
    # Padding that another mask takes care of.
    found = report({"attn_mask": saved(k <= p + step, kind)} | padded(real), expect=expect or ())
    assert loud(found) == ["MSK109"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("step", [-1, 1])
@pytest.mark.parametrize("unmasked", [True, False])
def test_padding_queries_may_see_anything(side, step, unmasked):
    p, k = grid(12, 12)
    real = real_of(3, 12, side)
    for shift, expected in ((step, ["MSK109"]), (0, [])):
        keep = np.broadcast_to((k <= p + shift) & real[:, None, None], (3, 1, 12, 12)).copy()
        keep[~real[:, None]] = unmasked
        assert loud(report({"attn_mask": saved(keep, "float32", 3)} | padded(real))) == expected


@pytest.mark.parametrize("step", [-1, 1])
def test_the_diagonal_of_packed_texts(step):
    label = np.repeat([0, 1, 2], [5, 4, 3])
    p, k = grid(12, 12)
    positions = {"position_ids": torch.from_numpy(np.concatenate([np.arange(n) for n in (5, 4, 3)]))[None]}
    same = label[:, None] == label
    for expect in ((), "causal & documents", "causal & documents:5,4,3"):
        assert loud(
            report({"attn_mask": saved((k <= p + step) & same, "bool")} | positions, expect=expect)
        ) == ["MSK109"]
        assert report({"attn_mask": saved((k <= p) & same, "bool")} | positions, expect=expect).findings == ()


@pytest.mark.parametrize("lower", [0, 1])
@pytest.mark.parametrize("step", [-1, 1])
def test_the_diagonal_of_a_window(step, lower):
    p, k = grid(30, 30)
    keep = (k <= p + step) & (k > p - 6 + lower * step)
    assert loud(report({"attn_mask": saved(keep, "bool")}, expect="sliding:6", convention="sdpa")) == [
        "MSK109"
    ]


@pytest.mark.parametrize("past", [1, 5])
@pytest.mark.parametrize("step", [-1, 1])
def test_the_diagonal_behind_a_cache(past, step):
    p, k = grid(7, 7 + past)
    arrays = {"attn_mask": saved(k <= p + step, "float32")}
    found = report(arrays, expect="causal", past=past)
    # One key of past left out is a missing diagonal as well: the past says which it is.
    assert loud(found) == (["MSK110"] if (past, step) == (1, -1) else ["MSK109"])
    # Without word of the past, the cache may as well have one slot less or more.
    assert loud(report(arrays, expect="causal")) == []


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("seen", [0, 1, 2])
def test_a_missing_diagonal_is_told_where_a_query_is_left_without_a_key(seen, given):
    """Behind a cache of 3 and so much padding that the first new query sees `seen` keys; nothing is declared."""
    p, k = grid(9, 12)
    real = np.ones((2, 12), bool)
    real[0, : 3 - seen] = False
    keep = (k <= p - 1) & real[:, None, None]
    arrays = {"attn_mask": saved(keep, "bool", 2)} | (padded(real) if given else {})
    assert loud(report(arrays, past=3)) == (["MSK109"] if seen == 0 else [])


def test_cross_attention_has_no_diagonal():
    """What it hides is told where a query is left without a key, and called nothing."""
    p, k = grid(9, 9)
    assert loud(report({"cross_attn_mask": saved(k <= p - 1, "bool")})) == ["MSK101"]
    assert loud(report({"cross_attn_mask": saved(k <= p + 1, "bool")})) == []
    assert loud(report({"attn_mask": saved(k <= p + 1, "bool")})) == ["MSK109"]


@pytest.mark.parametrize("past", [0, 1, 2])
def test_first_rows_that_fall_through_to_the_future_are_padding_only_without_a_cache(past):
    """Keys of a cache were read before, so that the first new query is no padding, whatever its row looks like."""
    p, k = grid(8, 8 + past)
    falls = p - past < 2
    maps = layers((1, 2, 8, 8 + past), np.where(falls, k >= 4, (k >= 2) & (k <= p)), fill=-np.inf)
    assert loud(report(maps, expect="causal")) == (["MSK203"] if past else [])
    healthy = layers((1, 2, 8, 8 + past), k <= p, fill=-np.inf)
    assert loud(report(healthy, expect="causal")) == []


def test_the_shifted_mask_explains_what_it_does_to_the_weights():
    p, k = grid(12, 12)
    for step, fill in ((-1, -np.inf), (-1, -1e30), (1, -1e30)):
        keep = k <= p + step
        maps = layers((2, 3, 12, 12), keep, fill=fill)
        assert loud(report({"attn_mask": saved(keep, "float32")} | maps, expect="causal")) == ["MSK109"]


@kinds
def test_a_slot_in_front_or_behind_makes_a_strict_mask_whole(kind):
    p, k = grid(8, 8)
    strict = k < p
    for slot in (
        np.concatenate([np.ones((8, 1), bool), strict], 1),
        np.concatenate([strict, np.ones((8, 1), bool)], 1),
    ):
        assert loud(report({"attn_mask": saved(slot, kind)})) == []
    kept = strict.copy()
    kept[0, 0] = True
    assert loud(report({"attn_mask": saved(kept, kind)})) == []


@pytest.mark.combinations
@kinds
@pytest.mark.parametrize(
    "keep",
    [
        lambda p, k: k <= p,
        lambda p, k: (k <= p) | (k < 2),
        lambda p, k: (k <= p) | (k < 6),
        lambda p, k: abs(p - k) <= 1,
        lambda p, k: (p // 2 == k // 2) | (k <= p),
        lambda p, k: p // 3 == k // 3,
        lambda p, k: np.ones_like(p - k, bool),
        lambda p, k: (k <= p + 1) & (k > p - 4),
        lambda p, k: p != k,
        lambda p, k: k >= p,
    ],
)
def test_other_patterns_have_no_diagonal_to_shift(kind, keep):
    for queries in (6, 8, 12):
        p, k = grid(queries, queries)
        mask = saved(np.broadcast_to(keep(p, k), (queries, queries)), kind)
        found = report({"attn_mask": mask}, convention="sdpa" if kind == "bool" else None)
        assert {"MSK109", "MSK110", "MSK111"} & set(loud(found)) == set()
        assert {"MSK109", "MSK110"} & set(loud(report({"attn_mask": mask}, expect="full"))) == set()


# MSK110


@pytest.mark.combinations
@kinds
@pytest.mark.parametrize(
    ("batch", "queries", "past"), [(1, 1, 9), (3, 1, 1), (2, 4, 1), (1, 5, 12), (3, 40, 3)]
)
@pytest.mark.parametrize("told", ["option", "padding", "positions"])
@pytest.mark.parametrize("heads", [1, 2])
def test_a_causal_mask_that_forgets_the_cache(kind, batch, queries, past, told, heads):
    keys = past + queries
    p, k = grid(queries, keys, 0)
    mask = saved(k <= p, kind, batch)
    declared = {"past": past} if told == "option" else {}
    given = padded(np.ones((batch, keys), bool)) if told == "padding" else {}
    if told == "positions":
        given = {"position_ids": torch.from_numpy(np.tile(np.arange(past, keys), (batch, 1)))}
    for extra in ({}, layers((batch, heads, queries, keys), k <= p)):
        found = report({"attn_mask": mask} | given | extra, **declared)
        assert "MSK110" in loud(found)
        assert set(loud(found)) <= {"MSK110", "MSK215"}
        finding = the(found, "MSK110")
        assert finding.evidence == {"past": past}
        missing = (k <= p + past) & (k > p)
        assert (inside(finding.where.keys, keys) == missing.any(0)).all()
        assert finding.where.queries == ((0, queries),)
    right = {"attn_mask": saved(k <= p + past, kind, batch)} | given
    assert report(right, **declared).findings == ()
    assert report(right, expect="causal", **declared).findings == ()
    wrong = {"attn_mask": mask} | given
    assert loud(report(wrong, expect="causal", **declared)) == ["MSK110"]
    assert loud(report(wrong, expect="causal-top-left", **declared)) == []


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_forgotten_cache_under_padding(side, masked):
    queries, keys = 6, 14
    real = np.ones((3, keys), bool)
    real[0, slice(0, 3) if side == "left" else slice(12, 14)] = False
    p, k = grid(queries, keys, 0)
    keep = np.broadcast_to((k <= p) & (real[:, None, None] | (not masked)), (3, 1, queries, keys))
    found = report({"attn_mask": saved(keep, "float32", 3)} | padded(real))
    assert loud(found) == ["MSK110"]
    whole = np.broadcast_to((k <= p + 8) & real[:, None, None], (3, 1, queries, keys))
    assert loud(report({"attn_mask": saved(whole, "float32", 3)} | padded(real))) == []


@kinds
def test_the_prefill_of_a_static_cache(kind):
    p, k = grid(6, 20, 0)
    prefill = {"attn_mask": saved(k <= p, kind, 2)}
    slots = np.tile(np.arange(20) < 6, (2, 1))
    for given in ({}, padded(slots), padded(np.ones((2, 6), bool)), {"position_ids": torch.arange(6)[None]}):
        assert report(prefill | given).findings == ()
        assert report(prefill | given | layers((2, 2, 6, 20), k <= p)).findings == ()
    assert report(prefill, past=0, expect="causal").findings == ()


# MSK111


def wrong(p, k, w):
    """Each way to have the window wrong."""
    return {
        "one more": (k <= p) & (p - k <= w),
        "one less": (k <= p) & (p - k < w - 1),
        "both sides": abs(p - k) <= w,
        "both sides, without its edge": abs(p - k) < w,
        "none": k <= p,
        "twice": (k <= p) & (p - k < 2 * w),
    }


@pytest.mark.combinations
@pytest.mark.parametrize("kind", ["bool", "float32", "bfloat16"])
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "window"), [(1, 12, 12, 4), (3, 40, 40, 7), (2, 5, 30, 6), (1, 1, 20, 4)]
)
@pytest.mark.parametrize("spec", ["sliding:{}", "causal & sliding:{}"])
def test_windows_that_are_not_the_declared_one(kind, batch, queries, keys, window, spec):
    p, k = grid(queries, keys)
    right = (k <= p) & (p - k < window)
    expect, convention = spec.format(window), "sdpa" if kind == "bool" else None
    assert report({"attn_mask": saved(right, kind, batch)}, expect=expect).findings == ()
    for keep in wrong(p, k, window).values():
        if (keep == right).all():
            continue
        # A key that a single query does not see may be padding, unless something says that it is none.
        given = padded(np.ones((batch, keys), bool)) if queries == 1 else {}
        found = report({"attn_mask": saved(keep, kind, batch)} | given, expect=expect, convention=convention)
        assert loud(found) == ["MSK111"]
        finding = the(found, "MSK111")
        assert finding.evidence == {"window": window, "keys_seen": int(keep.sum(-1).max())}
        assert (inside(finding.where.queries, queries) == (keep != right).any(1)).all()
        assert (inside(finding.where.keys, keys) == (keep != right).any(0)).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("way", ["one more", "both sides", "none"])
def test_windows_under_padding(side, known, way):
    p, k = grid(24, 24)
    real = real_of(3, 24, side)
    given = padded(real) if known else {}
    for keep, expected in ((wrong(p, k, 5)[way], ["MSK111"]), ((k <= p) & (p - k < 5), [])):
        cells = np.broadcast_to(keep & real[:, None, None], (3, 1, 24, 24)).copy()
        if known:
            cells[~real[:, None]] = True
        assert loud(report({"attn_mask": saved(cells, "float32", 3)} | given, expect="sliding:5")) == expected


def test_a_window_that_nothing_shows():
    p, k = grid(8, 8)
    found = report({"attn_mask": saved(k <= p, "float32")}, expect="sliding:8")
    assert found.findings == ()
    (skip,) = [skip for skip in found.skipped if skip.code == "MSK111"]
    assert "more than 8 keys" in skip.needs[0]
    # The short cache of a sliding layer holds only what its queries may see.
    full = torch.zeros(2, 1, 1, 4)
    assert report({"attn_mask": full}, expect="sliding:4").findings == ()


def test_each_mask_is_held_to_its_own_declaration():
    p, k = grid(12, 12)
    local, near = saved((k <= p) & (p - k < 4), "bool"), saved((k <= p) & (p - k < 5), "bool")
    whole = saved(k <= p, "bool")
    specs = ["causal", "*sliding_mask=sliding:4"]
    assert report({"sliding_mask": local, "full_mask": whole}, expect=specs).findings == ()
    found = report({"sliding_mask": near, "full_mask": whole}, expect=specs)
    assert the(found, "MSK111").tensors == ("sliding_mask",)
    # A mask of maps that are all meant alike is meant as they are; of maps that differ it can be either's.
    maps = layers((1, 2, 12, 12), (k <= p) & (p - k < 5))
    found = report({"attn_mask": near} | maps, expect=["causal", "attentions.*=sliding:4"])
    assert loud(found) == ["MSK111"]
    maps["attentions.1"] = layers((1, 2, 12, 12), k <= p)["attentions.1"]
    maps["attentions.0"] = layers((1, 2, 12, 12), (k <= p) & (p - k < 4))["attentions.0"]
    for mask in (local, whole):
        assert "MSK111" not in loud(
            report({"attn_mask": mask} | maps, expect=["sliding:4", "attentions.1=causal"])
        )


def test_equal_windows_of_many_layers_are_one_finding():
    p, k = grid(12, 12)
    masks = {f"layers.{n}.attn_mask": saved((k <= p) & (p - k <= 4), "bool") for n in range(5)}
    assert len(the(report(masks, expect="sliding:4"), "MSK111").tensors) == 5


def test_a_mask_over_cells_that_are_no_window_is_not_guessed_at():
    cells = np.tril(np.random.default_rng(0).random((12, 12)) < 0.5) | np.eye(12, dtype=bool)
    assert "MSK111" not in loud(report({"attn_mask": saved(cells, "bool")}, expect="sliding:4"))


@pytest.mark.parametrize("expect", ["causal & sliding:4", "combined & sliding:4", "sliding:4 & padding"])
@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ("sliding:5", "MSK111", "'sliding:5"), ("causal", "MSK111", "'causal"), ("sliding:7", "MSK111", "'sliding:7"),
        ("window:4", "MSK111", "'window:4"), ("window:3", "MSK111", "'window:3"), ("window:6", "MSK114", "forbids"),
    ],
)  # fmt: skip
def test_another_window_is_told_however_what_looks_back_was_declared(expect, spec, code, words):
    keep = np.broadcast_to(build(parse(spec), Layout(1, 16, 16)).dense(), (2, 1, 16, 16)).copy()
    tensors = {"mask": keep, "attention_mask": np.ones((2, 16), int)}
    (found,) = maskcli.diagnose(tensors, expect=expect, convention="sdpa").findings
    assert found.code == code
    assert words in found.message


@pytest.mark.parametrize(
    ("spec", "queries", "keys", "is_one"),
    [
        ("causal", 6, 6, True), ("causal", 4, 7, True), ("sliding:2", 6, 6, True), ("sliding:2", 3, 8, True), ("full", 6, 6, False),
        ("window:1", 6, 6, False), ("prefix:1", 6, 6, False), ("causal & ~sliding:1", 6, 6, False), ("causal", 7, 4, False),
    ],
)  # fmt: skip
def test_a_staircase_sees_itself_and_nothing_behind_it(spec, queries, keys, is_one):
    mask = build(parse(spec), Layout(1, queries, keys, past=max(keys - queries, 0)))
    assert _is_staircase(mask) == is_one
