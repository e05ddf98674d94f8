"""Every number of a pass over a tensor against numpy on the whole of it, however small its chunks are."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcli.masks.mask import Mask
from maskcli.measure import passes, sample, spans
from maskcli.measure.passes import each_chunk, measure, read_chunks
from maskcli.measure.questions import (
    bad_cells,
    column_mass,
    first_bad,
    first_sums,
    last_key,
    nan_rows,
    query_sums,
    row_chunks,
    uniform_rows,
)
from maskcli.measure.survey import survey
from maskcli.tensors import from_arrays

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64]
VALUES = [0.0, 0.0, 0.25, 0.5, 1.0, 2.0]
ODD = [-1.0, -0.5, np.nan, np.inf, -np.inf]
BROKEN = (np.isnan, np.isposinf, np.isneginf)


@st.composite
def tensors(draw, odd=True, dtypes=DTYPES):
    """A tensor [B, H, Q, K], the same as float64, and the cells that a chunk of it may hold."""
    shape = draw(st.tuples(*(st.integers(1, size) for size in (2, 3, 5, 6))))
    dtype = draw(st.sampled_from(dtypes))
    some = VALUES + (ODD if odd and dtype.is_floating_point and draw(st.booleans()) else [])
    seed = draw(st.integers(0, 2**32 - 1))
    dense = np.random.default_rng(seed).choice(some, size=shape)
    if draw(st.booleans()):
        dense[:, :, :, draw(st.integers(0, shape[3] - 1)) :] = 0
    made = torch.from_numpy(dense).to(dtype)
    tensor = from_arrays({"t": made}).tensors[0]
    return tensor, made.double().numpy(), draw(st.integers(1, 40))


@st.composite
def with_masks(draw):
    tensor, dense, cells = draw(tensors())
    masks = {}
    for name in ("a", "b", "c")[: draw(st.integers(0, 3))]:
        stored = tuple(draw(st.sampled_from([1, size])) for size in dense.shape[:3])
        seed = draw(st.integers(0, 2**32 - 1))
        keep = np.random.default_rng(seed).random((*stored, dense.shape[3])) < draw(
            st.sampled_from([0.2, 0.5, 0.8])
        )
        held = Mask.from_dense(keep)
        masks[name] = Mask(dense.shape, held.stored, held.pointer, held.starts, held.stops), keep
    if masks and draw(st.booleans()):
        masks["like a"] = masks["a"]
    return tensor, dense, cells, masks


def chunks_of(cells, rows=128):
    return mock.patch.multiple(passes, CHUNK_CELLS=cells, BLOCK_ROWS=rows)


def equal(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@given(with_masks(), st.sampled_from([1, 2, 128]), st.sampled_from([1, 2, 32]), st.sampled_from([1, 2]))
def test_one_pass_measures_what_numpy_does(drawn, rows, most_spans, threads):
    tensor, dense, cells, masks = drawn
    token = passes.threads.set(threads)
    try:
        with chunks_of(cells, rows), mock.patch.object(spans, "MAX_SPANS", most_spans):
            found = measure(tensor, dense.shape, {name: mask for name, (mask, _) in masks.items()})
    finally:
        passes.threads.reset(token)
    with np.errstate(invalid="ignore"):
        equal(found.total, dense.sum(axis=3))
        equal(found.high, dense.max(axis=3))
        equal(found.low, dense.min(axis=3))
        assert found.mass.keys() == masks.keys()
        for name, (_, keep) in masks.items():
            equal(found.mass[name], np.where(keep, 0, dense).sum(axis=3))


@given(with_masks(), st.sampled_from([1, 2, 32]))
def test_spans_tell_every_cell_that_a_mask_ignores(drawn, most_spans):
    _, dense, _, masks = drawn
    batch, heads, queries, keys = dense.shape
    low, high = queries // 2, queries
    for item, head in np.ndindex(batch, heads):
        with mock.patch.object(spans, "MAX_SPANS", most_spans):
            cut = spans.spans(
                {name: mask for name, (mask, _) in masks.items()}, keys, item, head, (low, high)
            )
        assert [span.start for span in cut] == [0, *(span.stop for span in cut[:-1])]
        assert cut[-1].stop == keys
        for name, (_, keep) in masks.items():
            told = np.zeros((high - low, keys))
            for span in cut:
                told[:, span.start : span.stop] += name in span.outside
                for names, start, stop, cells in span.mixed:
                    told[:, start:stop] += cells if name in names else 0
            assert np.array_equal(told, ~np.broadcast_to(keep, dense.shape)[item, head, low:high])


@given(tensors(), st.integers(0, 8), st.booleans())
def test_a_survey_lists_what_numpy_finds(drawn, most, sums):
    tensor, dense, cells = drawn
    with chunks_of(cells):
        found = survey(tensor, most, sums=sums)
    finite = dense[np.isfinite(dense)]
    distinct = tuple(np.unique(finite).tolist())
    assert found.distinct == (distinct if len(distinct) <= most else None)
    assert (found.low, found.high) == ((finite.min(), finite.max()) if finite.size else (np.inf, -np.inf))
    nan, plus, minus = (int(kind(dense).sum()) for kind in BROKEN)
    assert (found.nan, found.plus_inf, found.minus_inf) == (nan, plus, minus)
    if not sums or not np.isfinite(dense).any(axis=3).any():
        assert found.sums is None or sums
    elif np.isfinite(dense).all():
        assert found.sums == pytest.approx((dense.sum(axis=3).min(), dense.sum(axis=3).max()))


def test_sums_of_a_survey_are_those_of_whole_chunks_that_are_finite():
    values = np.array([[0.5, 0.5], [np.nan, 1.0], [0.25, 0.5], [1.0, 1.0]], np.float32)
    tensor = from_arrays({"t": values}).tensors[0]
    with chunks_of(2):
        assert survey(tensor, 4, sums=True).sums == (0.75, 2.0)
        assert survey(tensor, 4).sums is None
    assert survey(tensor, 4, sums=True).sums is None


@given(tensors(), st.integers(1, 6), st.integers(1, 80), st.data())
def test_a_sample_holds_whole_rows(drawn, rows, cells, data):
    tensor, dense, _ = drawn
    batch, heads, queries, keys = dense.shape
    real = np.array(data.draw(st.lists(st.booleans(), min_size=batch * queries, max_size=batch * queries)))
    real = real.reshape(batch, 1, queries)
    with mock.patch.multiple(sample, ROWS=rows, CELLS=cells, SMALL=data.draw(st.sampled_from([0, 2**16]))):
        found = sample.sample(tensor, dense.shape, real)
    some = np.flatnonzero(real.any(axis=(0, 1)))
    assert {*found.queries} <= {*(some if some.size else range(queries))}
    assert 1 <= found.queries.size <= rows
    assert found.values.size <= max(cells, keys)
    assert (found.items, found.heads) <= (batch, heads)
    equal(found.values, dense[: found.items, : found.heads, found.queries])
    wide = np.arange(batch * heads * queries).reshape(batch, heads, queries)
    for each in (wide, wide[:1], wide[:, :1], wide[:, :, :1]):
        wanted = np.broadcast_to(each, wide.shape)[: found.items, : found.heads, found.queries]
        assert np.array_equal(found.of(np.broadcast_to(each, (batch, heads, each.shape[2]))), wanted)
    keep = dense > 0.3
    assert np.array_equal(
        found.allowed(Mask.from_dense(keep)), keep[: found.items, : found.heads, found.queries]
    )


@pytest.mark.parametrize("queries", [1, 2, 3])
@pytest.mark.parametrize("small", [0, 2**16])
def test_a_sample_of_few_rows(queries, small):
    dense = np.arange(2 * queries * 4, dtype=np.float32).reshape(1, 2, queries, 4)
    tensor, real = from_arrays({"t": dense}).tensors[0], np.ones((1, 1, queries), bool)
    with mock.patch.object(sample, "SMALL", small):
        found = sample.sample(tensor, dense.shape, real)
    assert np.array_equal(found.values, dense)
    rows = np.arange(2 * queries).reshape(1, 2, queries)
    assert np.array_equal(found.of(rows), rows)


def test_a_sample_is_as_large_as_it_may_be():
    dense = np.arange(2 * 3 * 8 * 4, dtype=np.float32).reshape(2, 3, 8, 4)
    tensor, real = from_arrays({"t": dense}).tensors[0], np.ones((2, 1, 8), bool)
    for cells, size in ((10**6, (2, 3, 8)), (2 * 3 * 4 * 4, (2, 3, 4)), (2 * 3 * 4, (2, 3, 1)), (2 * 4, (2, 1, 1)), (4, (1, 1, 1)), (1, (1, 1, 1))):  # fmt: skip
        with mock.patch.object(sample, "CELLS", cells):
            found = sample.sample(tensor, dense.shape, real)
        assert found.values.shape[:3] == size, cells
    assert sample.sample(tensor, dense.shape, real).queries.tolist() == list(range(8))
    with mock.patch.object(sample, "ROWS", 3):
        assert sample.sample(tensor, dense.shape, real).queries.tolist() == [0, 4, 7]


@given(tensors())
def test_small_questions_are_answered_as_numpy_does(drawn):
    tensor, dense, cells = drawn
    shape = dense.shape
    queries, keys = shape[2:]
    with chunks_of(cells):
        assert np.array_equal(nan_rows(tensor, shape), np.isnan(dense).sum(axis=3))
        assert np.array_equal(
            np.concatenate([values for _, values in row_chunks(tensor)]),
            dense.reshape(-1, keys),
            equal_nan=True,
        )
        broken = np.argwhere(np.isnan(dense))
        assert first_bad(tensor, np.isnan) == (tuple(broken[0].tolist()) if len(broken) else None)
        assert np.array_equal(bad_cells(tensor, np.isnan), np.isnan(dense).any(axis=3))
        if not np.isinf(dense).any():
            flagged = (dense > 0.3).sum(axis=3) % 2 == 0
            wanted = np.where(flagged[..., None], np.nan_to_num(dense), 0).sum(axis=2)
            equal(column_mass(tensor, shape, flagged), wanted)
        with np.errstate(invalid="ignore"):
            equal(list(query_sums(tensor, shape)), dense.sum(axis=2).reshape(-1, keys))
            over_heads, over_batch = first_sums(tensor, shape)
            shown = over_heads.shape[1]
            equal(over_heads, dense[:, :, :shown].sum(axis=1))
            equal(over_batch, dense[:, :, :shown].sum(axis=0))
        assert 1 <= shown <= queries


@given(tensors(odd=False))
def test_rows_that_share_one_weight_and_the_last_key_of_others(drawn):
    tensor, dense, cells = drawn
    high = dense.max(axis=3)
    equal_ = dense == high[..., None]
    uniform = (equal_ | (dense == 0)).all(axis=3) & (high > 0)
    told = dense.max(axis=3) != dense.min(axis=3)
    weighed = np.flatnonzero(((dense != 0) & told[..., None]).any(axis=(0, 1, 2)))
    with chunks_of(cells):
        found = uniform_rows(tensor, dense.shape, measure(tensor, dense.shape, {}).high)
        assert np.array_equal(found, np.where(uniform, equal_.sum(axis=3), 0))
        assert last_key(tensor, dense.shape) == (int(weighed[-1]) if weighed.size else None)


@settings(max_examples=30)
@given(tensors(), st.sampled_from([1, 3]), st.booleans())
def test_every_row_is_in_one_chunk(drawn, rows, backwards):
    tensor, dense, cells = drawn
    with chunks_of(cells, rows):
        read = [(chunk.place, chunk.values.copy()) for chunk in read_chunks(tensor, dense.shape, backwards)]
        worked = np.zeros(dense.shape[:3], int)

        def work(chunk):
            worked[chunk.place] += 1

        each_chunk(tensor, dense.shape, work)
    seen = np.zeros(dense.shape[:3], int)
    for place, values in read:
        seen[place] += 1
        assert np.array_equal(values, dense[place], equal_nan=True)
        assert values.size <= max(cells, dense.shape[3])
    assert (seen == 1).all()
    assert (worked == 1).all()
    starts = [place[0] * 1000 + place[2].start for place, _ in read]
    assert starts == sorted(starts, reverse=backwards)
