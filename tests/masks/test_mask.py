import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.arrays import pixel_edges
from maskcli.errors import MaskcliError
from maskcli.masks.layout import Layout
from maskcli.masks.mask import MAX_KEYS, Mask
from maskcli.masks.spec import build, parse
from maskcli.masks.views import _row_groups, blocks, ignored, picture, rows_at
from tests.masks.strategies import dense_masks


def of(array, shape):
    """The mask of a broadcasting boolean array [b, h, q, K], stored as broadly as it is given."""
    stored = Mask.from_dense(array)
    return Mask(shape, stored.stored, stored.pointer, stored.starts, stored.stops)


def whole(mask):
    return np.array([[mask.dense(b, h) for h in range(mask.shape[1])] for b in range(mask.shape[0])])


@given(dense_masks(2))
def test_operators_equal_numpy(drawn):
    shape, (a, b) = drawn
    x, y = of(a, shape), of(b, shape)
    a, b = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
    for mask, expected in [(x, a), (x & y, a & b), (x | y, a | b), (~x, ~a), (x - y, a & ~b), (x ^ y, a ^ b)]:
        assert np.array_equal(whole(mask), expected)
        assert mask == Mask.from_dense(expected)
    assert (x == y) == np.array_equal(a, b)


@given(dense_masks(3))
def test_the_laws_of_the_algebra(drawn):
    shape, arrays = drawn
    x, y, z = (of(array, shape) for array in arrays)
    everything = Mask.full(shape)
    assert x & y == y & x
    assert x | y == y | x
    assert (x & y) & z == x & (y & z)
    assert x & (y | z) == (x & y) | (x & z)
    assert ~(x & y) == ~x | ~y
    assert ~~x == x
    assert x & everything == x
    assert x | everything == everything
    assert (x & ~x).attended == 0
    assert x - y == x & ~y
    assert (x ^ y) ^ y == x
    assert x | (x & y) == x


@given(dense_masks(1))
def test_numbers_equal_numpy(drawn):
    shape, (array,) = drawn
    mask, array = of(array, shape), np.broadcast_to(array, shape)
    assert mask.attended == array.sum()
    assert mask.density == pytest.approx(array.mean())
    assert mask.empty_rows == (~array.any(-1)).sum()
    assert np.array_equal(np.broadcast_to(mask.keys_per_query, shape[:3]), array.sum(-1))
    assert mask.compact() == mask
    varies = [bool((array != array.take([0], axis)).any()) for axis in range(3)]
    assert [n > 1 for n in mask.compact().stored] == varies
    listed = [list(mask.runs(b, h)) for b in range(shape[0]) for h in range(shape[1])]
    assert sum(stop - start for plane in listed for row in plane for start, stop in row) == array.sum()
    assert all(len(plane) == shape[2] for plane in listed)


@given(dense_masks(1), st.integers(1, 5), st.integers(1, 5))
def test_blocks_equal_numpy(drawn, tall, wide):
    shape, (array,) = drawn
    full = partial = empty = 0
    for plane in np.broadcast_to(array, shape).reshape(-1, *shape[2:]):
        for q in range(0, shape[2], tall):
            for k in range(0, shape[3], wide):
                tile = plane[q : q + tall, k : k + wide]
                full, partial, empty = (
                    full + tile.all(),
                    partial + (tile.any() and not tile.all()),
                    empty + (not tile.any()),
                )
    assert blocks(of(array, shape), tall, wide) == (full, partial, empty)


@given(dense_masks(1), st.data())
def test_windows_selections_and_pictures_equal_numpy(drawn, data):
    shape, (array,) = drawn
    mask, array = of(array, shape), np.broadcast_to(array, shape)
    cuts = []
    for size in shape:
        low = data.draw(st.integers(0, size - 1))
        cuts.append(slice(low, data.draw(st.integers(low + 1, size))))
    part = array[tuple(cuts)]
    assert np.array_equal(whole(mask.select(*cuts)), part)
    b, h, rows, keys = cuts
    assert np.array_equal(
        mask.dense(b.start, h.start, (rows.start, rows.stop), (keys.start, keys.stop)),
        array[b.start, h.start, rows, keys],
    )
    places = np.array([[data.draw(st.integers(0, size - 1)) for _ in range(4)] for size in shape[:3]])
    assert np.array_equal(rows_at(mask, *places), array[tuple(places)])
    tall, wide = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    share, cells = picture(mask, tall, wide, b.start, h.start)
    row_edges, key_edges = pixel_edges(shape[2], tall), pixel_edges(shape[3], wide)
    for i, j in np.ndindex(share.shape):
        pixel = array[b.start, h.start, row_edges[i] : row_edges[i + 1], key_edges[j] : key_edges[j + 1]]
        assert cells[i, j] == pixel.size
        assert share[i, j] == pixel.sum() / pixel.size


@given(dense_masks(1), st.data())
def test_ignored_keys_equal_numpy(drawn, data):
    shape, (array,) = drawn
    low = data.draw(st.integers(0, shape[2] - 1))
    high = data.draw(st.integers(low + 1, shape[2]))
    mask, hidden = of(array, shape), ~np.broadcast_to(array, shape)
    for b, h in np.ndindex(shape[:2]):
        told = np.zeros((high - low, shape[3]), bool)
        for start, stop, who in ignored(mask, (low, high), b, h):
            assert not told[:, start:stop].any()
            told[:, start:stop] = True if who is None else who
        assert np.array_equal(told, hidden[b, h, low:high])


def test_pixel_edges_cover_every_cell_once():
    assert pixel_edges(10, 3).tolist() == [0, 3, 6, 10]
    assert pixel_edges(3, 10).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(0, 1, 3, 4), (2, 0, 3, 4), (2, 1, 0, 4), (2, 1, 3, 0), (0, 0, 0, 0)])
def test_masks_without_cells_are_joined(shape):
    """Of an axis of 0 there are no rows, whichever of the masks stores it."""
    written = Mask.from_dense(np.zeros(shape, bool))
    for other in (Mask.full(shape), ~Mask.full(shape), written):
        for joined in (
            written & other,
            other & written,
            written | other,
            other - written,
            written ^ other,
            ~other,
        ):
            assert joined.attended == 0
            assert joined == written
            assert 0 in shape[:2] or joined.dense().shape == shape[2:]


def test_masks_of_different_shapes_do_not_combine():
    with pytest.raises(MaskcliError, match=r"\[1, 1, 2, 3\] and \[1, 1, 3, 3\]"):
        Mask.full((1, 1, 2, 3)) & Mask.full((1, 1, 3, 3))


@pytest.mark.long
def test_limits_are_stated():
    with pytest.raises(MaskcliError, match="more than the limit of 33,554,432"):
        ~build(parse("window:2"), Layout(1, 2**24 + 16, 2**24 + 16))
    with pytest.raises(MaskcliError, match="2,147,483,646"):
        Mask.full((1, 1, 1, MAX_KEYS + 1))


MILLION = """
import numpy as np
def peak():
    # Not ru_maxrss: a child process inherits that of its parent.
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
from maskcli.masks.layout import Layout
from maskcli.masks.spec import build, parse
from maskcli.masks.views import blocks, picture
n = 2**20
base = peak()
lengths = np.full(2000, n // 2000); lengths[-1] += n - lengths.sum()
documents = np.repeat(np.arange(2000), lengths)[None]
mask = build(parse("causal & sliding:4096 & documents"), Layout(1, n, n, documents=documents))
assert mask.attended == sum(int(c) * (int(c) + 1) // 2 for c in lengths)
assert blocks(mask).total == (n // 128) ** 2
assert picture(mask, 800, 800)[0].shape == (800, 800)
assert (~mask & mask).attended == 0 and mask | ~mask == build(parse("full"), Layout(1, n, n))
real = np.ones((8, n), bool)
for i in range(8):
    real[i, : i * 1000] = False
padded = build(parse("causal & padding"), Layout(8, n, n, real=real))
assert padded.empty_rows == sum(i * 1000 for i in range(8))
print((peak() - base) // 1024)
"""


def test_a_million_tokens_take_bounded_memory():
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=True)
    assert 100 < int(done.stdout) < 400, done.stdout


def test_runs_grow_with_queries_and_never_with_cells():
    sizes = [2**k for k in range(10, 15)]
    held = [build(parse("causal & window:64 | global:4"), Layout(1, n, n)).starts.size for n in sizes]
    assert all(later <= 2 * earlier + 200 for earlier, later in itertools.pairwise(held))


def test_runs_that_touch_are_one():
    """The union of rows whose runs end where others begin is one stretch, and its complement has no gap there."""
    dense = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]], bool)
    ((union, gaps),) = _row_groups(Mask.from_dense(dense), 3)
    assert list(union.runs(0, 0)) == [[[0, 4], [5, 6]]]
    assert list(gaps.runs(0, 0)) == [[[0, 6]]]
