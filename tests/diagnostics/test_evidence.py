"""The passes over the data against float64 arithmetic on the whole array, for all types, layouts and values."""

import contextlib
import dataclasses
import itertools
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcli.masks import kinds
from maskcli.masks.mask import Mask
from maskcli.measure import passes as evidence
from maskcli.measure import questions, spans
from maskcli.measure import row_sums as rowsums
from maskcli.measure.spans import MAX_SPANS, _apart
from maskcli.tensors import from_array, open_tensors

DTYPES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
# Sums are made in float32, those of float64 in float64.
PRECISION = {"float64": 1e-14}
SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 1e-40, -1e-40, 3e-8, 6e-5, 1e30, -3.0, 1.0]


# The plain implementation


def plain_measure(values, probes):
    """Sums, largest and smallest of rows [B, H, Q, K] float64, and the sums outside of boolean masks [B, H, Q, K]."""
    with np.errstate(invalid="ignore"):
        mass = {name: np.where(keep, 0.0, values).sum(axis=3) for name, keep in probes.items()}
        return values.sum(axis=3), values.max(axis=3), values.min(axis=3), mass


def plain_support(values):
    support = np.zeros(values.shape[:3], int)
    for at in np.ndindex(support.shape):
        row = values[at]
        if row.max() > 0 and set(row.tolist()) <= {0.0, row.max()}:
            support[at] = (row == row.max()).sum()
    return support


def plain_last_key(values):
    last = None
    for at in np.ndindex(values.shape[:3]):
        row = values[at]
        if not (row == row[0]).all():
            weighed = [key for key, value in enumerate(row) if value != 0 and not np.isnan(value)]
            last = max([last if last is not None else -1, *weighed]) if weighed else last
    return last


# What they are tried on


def softmax(rng, shape, keep):
    scores = np.where(keep, rng.normal(size=shape) * 3, -1e9)
    weights = np.exp(scores - scores.max(axis=3, keepdims=True))
    return weights / weights.sum(axis=3, keepdims=True)


@st.composite
def maps(draw, specials=True):
    """Values [B, H, Q, K] in float64: softmax weights under a causal mask, sparse numbers, or noise; some of them special."""
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 12)),
        draw(st.integers(1, 40)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    keep = np.arange(shape[3]) <= np.arange(shape[2])[:, None] + max(shape[3] - shape[2], 0)
    kind = draw(st.sampled_from(["weights", "sparse", "noise", "uniform"]))
    values = {
        "weights": lambda: softmax(rng, shape, keep),
        "sparse": lambda: rng.random(shape) * (rng.random(shape) < 0.2),
        "noise": lambda: rng.normal(size=shape),
        "uniform": lambda: np.where(keep & (rng.random(shape[:3]) < 0.7)[..., None], 0.25, 0.0),
    }[kind]()
    for _ in range(draw(st.integers(0, 4)) if specials else 0):
        values[tuple(int(rng.integers(size)) for size in shape)] = draw(st.sampled_from(SPECIAL))
    return values


@st.composite
def masks(draw, shape):
    """A mask of any kind, with the axes along which it does not vary stored once."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batch, heads, queries, keys = shape
    if draw(st.booleans()):
        stored = [size if draw(st.booleans()) else 1 for size in shape[:3]]
        return Mask.from_dense(
            rng.random((*stored, keys)) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]))
        ).broadcast_to(shape)
    real = np.arange(keys) >= rng.integers(0, keys, size=(batch, 1))
    documents = np.cumsum(rng.random((batch, keys)) < 0.2, axis=1)
    layout = kinds.Layout(batch, queries, keys, heads, max(keys - queries, 0), real, documents)
    made = {
        "causal": lambda: kinds.causal(layout),
        "top-left": lambda: kinds.causal_top_left(layout),
        "sliding": lambda: kinds.sliding(layout, int(rng.integers(1, keys + 1))),
        "padding": lambda: kinds.padding(layout),
        "causal & padding": lambda: kinds.causal(layout) & kinds.padding(layout),
        "all but the diagonal": lambda: ~(kinds.causal(layout) & ~kinds.causal(moved(layout))),
        "documents": lambda: kinds.documents(layout) if queries <= keys else Mask.full(shape),
        "full": lambda: Mask.full(shape),
    }[draw(st.sampled_from(["causal", "top-left", "sliding", "padding", "causal & padding", "all but the diagonal", "documents", "full"]))]  # fmt: skip
    mask = made().broadcast_to(shape)
    return ~mask if draw(st.booleans()) else mask


def moved(layout):
    """The same layout with queries that stand one place further left."""
    return dataclasses.replace(layout, past=layout.past - 1)


def dense(mask):
    batch, heads, queries, keys = mask.shape
    planes = [[mask.dense(b, h) for h in range(heads)] for b in range(batch)]
    return np.array(planes).reshape(batch, heads, queries, keys)


def stored(values, dtype):
    """A torch tensor of a type, and what its elements are in float64."""
    tensor = torch.from_numpy(values).to(getattr(torch, dtype))
    return tensor, tensor.to(torch.float64).numpy()


@contextlib.contextmanager
def cut(cells, rows, borders, exact):
    """Passes that cut even small tensors into chunks, blocks, spans and partial sums."""
    with (
        mock.patch.object(evidence, "CHUNK_CELLS", cells),
        mock.patch.object(evidence, "BLOCK_ROWS", rows),
        mock.patch.object(spans, "MAX_SPANS", borders),
        mock.patch.object(rowsums, "EXACT_KEYS", exact),
    ):
        yield


CUTS = st.tuples(st.sampled_from([7, 64, 300, 2**20]), st.sampled_from([1, 3, 128]), st.sampled_from([1, 3, 32]), st.sampled_from([5, 4096]))  # fmt: skip


def agree(found, right, magnitude, dtype):
    """Equal but for the rounding of a sum over numbers of this magnitude; NaN and infinity where they belong."""
    assert found.shape == right.shape
    finite = np.isfinite(right)
    np.testing.assert_array_equal(found[~finite], right[~finite])
    room = PRECISION.get(dtype, 4e-7) * magnitude + (0 if dtype == "float64" else 1e-45)
    assert (np.abs(found[finite].astype(np.float64) - right[finite]) <= room[finite]).all()


# measure


@pytest.mark.long
@given(st.data(), maps(), st.sampled_from(DTYPES), CUTS)
@settings(max_examples=400, deadline=None)
def test_measure_is_plain_arithmetic(data, values, dtype, cuts):
    tensor, right = stored(values, dtype)
    probes = {f"probe {n}": data.draw(masks(values.shape)) for n in range(data.draw(st.integers(0, 4)))}
    if probes:
        probes["again"] = ~~probes["probe 0"]
    with cut(*cuts):
        found = evidence.measure(from_array("weights", tensor), values.shape, probes)
    total, high, low, mass = plain_measure(right, {name: dense(mask) for name, mask in probes.items()})
    magnitude = np.nansum(np.where(np.isfinite(right), np.abs(right), 0), axis=3)
    agree(found.total, total, magnitude, dtype)
    np.testing.assert_array_equal(found.high, high)
    np.testing.assert_array_equal(found.low, low)
    assert found.mass.keys() == mass.keys()
    for name, each in mass.items():
        agree(found.mass[name], each, magnitude, dtype)
        assert (found.mass[name][each == 0] == 0).all(), "what is nothing is exactly nothing"
    assert {found.total.dtype, found.high.dtype, found.low.dtype} == {
        np.dtype("float64" if dtype == "float64" else "float32")
    }


@pytest.mark.combinations
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pads", [0, 37])
def test_measure_of_large_causal_maps(dtype, pads):
    """At the sizes that are in use: several chunks, spans of nothing but zeros, uniform rows of padding."""
    shape = (2, 3, 700, 700)
    real = np.arange(700) >= np.array([[pads], [0]])
    layout = kinds.Layout(2, 700, 700, 3, 0, real)
    causal, padding = kinds.causal(layout), kinds.padding(layout)
    both = causal & padding
    tensor, right = stored(softmax(np.random.default_rng(0), shape, dense(both.broadcast_to(shape))), dtype)
    probes = {"future": causal, "padding": padding, "expected": both, "window": kinds.sliding(layout, 50)}
    found = evidence.measure(from_array("weights", tensor), shape, probes)
    total, high, low, mass = plain_measure(right, {name: dense(mask) for name, mask in probes.items()})
    agree(found.total, total, total, dtype)
    np.testing.assert_array_equal(found.high, high)
    np.testing.assert_array_equal(found.low, low)
    for name in probes:
        agree(found.mass[name], mass[name], total, dtype)
    # Padding rows look at the future, and no others do.
    assert (found.mass["future"] > 0).sum() == 3 * pads


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_sums_stay_exact_over_very_long_rows(dtype):
    tensor, right = stored(np.random.default_rng(1).random((1, 1, 2, 1_000_003)) / 5e5, dtype)
    found = evidence.measure(from_array("weights", tensor), right.shape, {})
    np.testing.assert_allclose(found.total, right.sum(axis=3), rtol=1e-6)


def test_the_smallest_numbers_count():
    """Numbers below the normal range of their type, alone in a row."""
    for dtype, tiny in (
        ("float16", 2.0**-24),
        ("bfloat16", 2.0**-133),
        ("float32", 2.0**-149),
        ("float8_e5m2", 2.0**-16),
    ):
        tensor, right = stored(np.full((1, 1, 2, 9), tiny), dtype)
        found = evidence.measure(from_array("weights", tensor), right.shape, {})
        np.testing.assert_array_equal(found.total, right.sum(axis=3))
        np.testing.assert_array_equal(found.low, right[..., 0])
        assert right.min() > 0


# Layouts

LAYOUTS = {
    "contiguous": lambda array: array.copy(),
    "transposed": lambda array: array.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3),
    "keys first": lambda array: array.transpose(3, 2, 1, 0).copy().transpose(3, 2, 1, 0),
    "strided": lambda array: np.repeat(array, 2, axis=3)[..., ::2],
    "reversed": lambda array: array[:, :, ::-1].copy()[:, :, ::-1],
    "other byte order": lambda array: array.astype(array.dtype.newbyteorder(">")),
}


@pytest.mark.combinations
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8"])
@pytest.mark.parametrize("sign", [1, -1])
def test_measure_of_arrays_that_lie_in_any_order(layout, dtype, sign):
    values = np.random.default_rng(2).integers(0, 9, size=(2, 3, 11, 17)) * (1 if dtype == "uint8" else sign)
    array = LAYOUTS[layout](values.astype(dtype))
    mask = Mask.from_dense(np.tri(11, 17, dtype=bool)).broadcast_to(array.shape)
    with cut(60, 3, 32, 4096):
        found = evidence.measure(from_array("weights", array), array.shape, {"future": mask})
    total, high, low, mass = plain_measure(values.astype(np.float64), {"future": dense(mask)})
    for each, right in (
        (found.total, total),
        (found.high, high),
        (found.low, low),
        (found.mass["future"], mass["future"]),
    ):
        np.testing.assert_array_equal(each, right)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", ">f4"])
def test_measure_of_npy_files(tmp_path, order, dtype):
    values = np.random.default_rng(3).normal(size=(2, 3, 11, 17)).astype(dtype)
    np.save(tmp_path / "weights.npy", np.asarray(values, order=order))
    (tensor,) = open_tensors(tmp_path / "weights.npy").tensors
    with cut(60, 3, 32, 4096):
        found = evidence.measure(tensor, values.shape, {})
    total, high, low, _ = plain_measure(values.astype(np.float64), {})
    np.testing.assert_allclose(found.total, total, atol=1e-5)
    np.testing.assert_array_equal(found.high, high)
    np.testing.assert_array_equal(found.low, low)


# Spans


@given(st.data(), st.sampled_from([1, 3, 32]))
@settings(max_examples=200, deadline=None)
def test_spans_tell_every_cell_of_every_mask(data, most):
    shape = (2, 2, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40)))
    probes = {f"probe {n}": data.draw(masks(shape)) for n in range(data.draw(st.integers(0, 3)))}
    rows = (data.draw(st.integers(0, shape[2] - 1)), shape[2])
    with mock.patch.object(spans, "MAX_SPANS", most):
        found = spans.spans(probes, shape[3], 1, 1, rows)
    assert [span.start for span in found] == [0, *(span.stop for span in found[:-1])]
    assert found[-1].stop == shape[3]
    assert len(found) <= most
    for name, mask in probes.items():
        ignored = np.zeros((rows[1] - rows[0], shape[3]), np.float32)
        for span in found:
            if name in span.outside:
                ignored[:, span.start : span.stop] = 1
            for names, start, stop, cells in span.mixed:
                assert span.start <= start < stop <= span.stop
                if name in names:
                    ignored[:, start:stop] += cells
        np.testing.assert_array_equal(ignored, ~mask.dense(1, 1, rows))


def test_spans_are_remembered_as_far_as_there_is_room():
    shape = (1, 2, 512, 512)
    layout = kinds.Layout(1, 512, 512, 2)
    weights = from_array("weights", np.random.default_rng(0).random(shape, np.float32))
    for mask in (kinds.causal(layout), kinds.dilated(layout, 510, 2), kinds.causal(layout)):
        with mock.patch.object(evidence, "PLAN_CELLS", 2**17):
            found = evidence.measure(weights, shape, {"probe": mask})
            plan = evidence._LAST.get()
            assert (
                sum(mixed.cells.size for each in plan.kept.values() for span in each for mixed in span.mixed)
                <= 2**17
            )
            with mock.patch.object(
                evidence, "spans", side_effect=AssertionError if len(plan.kept) == 4 else evidence.spans
            ):
                again = evidence.measure(weights, shape, {"probe": ~~mask})
        np.testing.assert_array_equal(found.mass["probe"], again.mass["probe"])
        right = np.where(dense(mask), 0, weights.read()).sum(axis=3)
        np.testing.assert_allclose(found.mass["probe"], right, rtol=1e-5)


def test_a_thread_that_fails_ends_the_pass():
    shape = (1, 64, 128, 512)
    tensor = from_array("weights", np.zeros(shape, np.float32))
    seen = []

    def work(chunk):
        seen.append(chunk)
        raise IndexError("a fault of the work itself")

    with pytest.raises(IndexError, match="itself"):
        evidence.each_chunk(tensor, shape, work)
    assert len(seen) <= evidence.threads.get()


def test_equal_masks_are_added_up_once():
    shape = (1, 1, 8, 8)
    layout = kinds.Layout(1, 8, 8, 1)
    probes = {"one": kinds.causal(layout), "two": ~~kinds.causal(layout), "three": Mask.full(shape)}
    found = evidence.measure(from_array("weights", np.ones(shape, np.float32)), shape, probes)
    assert found.mass["one"] is found.mass["two"]
    assert found.mass["one"] is not found.mass["three"]


# The other passes


@given(maps(), st.sampled_from(DTYPES), CUTS)
@settings(max_examples=150, deadline=None)
def test_nan_rows_counts_them(values, dtype, cuts):
    tensor, right = stored(values, dtype)
    with cut(*cuts):
        found = questions.nan_rows(from_array("weights", tensor), values.shape)
    np.testing.assert_array_equal(found, np.isnan(right).sum(axis=3))


@given(maps(), st.sampled_from(DTYPES), CUTS)
@settings(max_examples=150, deadline=None)
def test_uniform_rows_counts_the_keys_that_share_a_row(values, dtype, cuts):
    tensor, right = stored(values, dtype)
    with cut(*cuts), np.errstate(invalid="ignore"):
        lazy = from_array("weights", tensor)
        found = questions.uniform_rows(lazy, values.shape, evidence.measure(lazy, values.shape, {}).high)
    np.testing.assert_array_equal(found, plain_support(right))


@given(st.data(), maps(), st.sampled_from(DTYPES), CUTS)
@settings(max_examples=150, deadline=None)
def test_column_mass_adds_up_flagged_rows(data, values, dtype, cuts):
    tensor, right = stored(np.where(np.isinf(values), 0, values), dtype)
    rows = np.random.default_rng(data.draw(st.integers(0, 99))).random(values.shape[:3]) < 0.6
    with cut(*cuts):
        found = questions.column_mass(from_array("weights", tensor), values.shape, rows)
        found = found.sum(axis=1)
    kept = np.nan_to_num(np.where(np.isfinite(right), right, 0)) * rows[..., None]
    if np.isfinite(right[~np.isnan(right)]).all():
        assert (np.abs(found - kept.sum(axis=(1, 2))) <= 1e-12 * np.abs(kept).sum(axis=(1, 2))).all()


@given(maps(specials=False), st.sampled_from(DTYPES), CUTS)
@settings(max_examples=150, deadline=None)
def test_axis_sums_are_those_of_each_axis(values, dtype, cuts):
    tensor, right = stored(values, dtype)
    with cut(*cuts):
        weights = from_array("weights", tensor)
        queries = np.array(list(questions.query_sums(weights, values.shape)))
        heads, batch = questions.first_sums(weights, values.shape)
    np.testing.assert_allclose(queries.reshape(right.sum(axis=2).shape), right.sum(axis=2), atol=1e-5)
    shown = heads.shape[1]
    assert 1 <= shown <= values.shape[2]
    np.testing.assert_allclose(heads, right[:, :, :shown].sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(batch, right[:, :, :shown].sum(axis=0), atol=1e-5)


@given(maps(), st.sampled_from(DTYPES), CUTS)
@settings(max_examples=200, deadline=None)
def test_last_key_is_the_last_one_weighed_by_a_row_that_is_not_uniform(values, dtype, cuts):
    tensor, right = stored(values, dtype)
    with cut(*cuts):
        assert questions.last_key(from_array("weights", tensor), values.shape) == plain_last_key(right)


def test_last_key_reads_no_more_than_it_must():
    shape = (2, 3, 50, 60)
    lazy = from_array("weights", np.random.default_rng(0).random(shape, np.float32))
    read = []
    with (
        cut(60 * 10, 3, 32, 4096),
        mock.patch.object(type(lazy), "rows", lambda self, *at: read.append(at[:2]) or _rows(self, *at)),
    ):
        assert questions.last_key(lazy, shape) == 59
    assert sum(stop - start for start, stop in read) <= 10


_rows = type(from_array("", np.zeros(1))).rows


def test_chunks_cover_every_row_once():
    for shape in itertools.product([1, 3], [1, 4], [1, 7, 40], [1, 64]):
        with cut(500, 3, 32, 4096):
            seen = np.zeros(shape[:3], int)
            for batch, heads, rows in evidence.chunks(shape):
                seen[batch, slice(*heads), slice(*rows)] += 1
        assert (seen == 1).all()


def test_what_does_not_vary_is_held_once():
    """Memory for what is measured stays small where most of it is 0 or the same in every head."""
    shape = (2, 6, 64, 64)
    layout = kinds.Layout(2, 64, 64, 6)
    weights = softmax(np.random.default_rng(0), shape, np.tri(64, dtype=bool))
    found = evidence.measure(
        from_array("weights", weights.astype(np.float32)), shape, {"future": kinds.causal(layout)}
    )
    assert found.mass["future"].shape == shape[:3]
    assert found.mass["future"].strides == (0, 0, 0)
    assert found.total.strides != (0, 0, 0)


@given(st.sets(st.integers(1, 4000), min_size=1, max_size=200))
def test_spans_are_few_and_wide_enough(inside):
    borders = inside | {0}
    found = _apart(borders)
    assert found == sorted(set(found))
    assert set(found) <= borders
    assert (found[0], found[-1]) == (0, max(borders))
    assert len(found) <= MAX_SPANS + 1
    few = len(borders) <= MAX_SPANS + 1
    assert not few or found == sorted(borders)
    assert few or min(np.diff(found)) >= -(-max(borders) // MAX_SPANS)
