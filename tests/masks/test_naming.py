import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.name import Name
from maskcli.masks.naming import name_of
from maskcli.masks.spec import build, parse

SPECS = [
    "full", "causal", "sliding:4", "window:3", "prefix:5", "prefix-lm:5", "blocks:4", "chunked:4", "documents:5,3,4",
    "dilated:6,3", "causal & documents:5,3,4", "sliding:4 & documents:5,3,4", "causal & dilated:8,2", "window:3 & documents:5,3,4",
    "global:2", "~causal", "~sliding:3", "window:2 | global:2", "sliding:4 | prefix:1", "causal & (sliding:4 | prefix:2)", "dilated:6,2 | global:1",
]  # fmt: skip


NEW = [
    "window:10,4", "window:3,-1", "window:-1,2", "chunked:4,8", "chunked:4,6", "causal | blocks:5", "block-diffusion:4,12",
    "tree:-1,0,0,1,1", "tree:-1,0,0,1,1,2,5,3", "rows:3:9", "causal & rows:3:9,11:13", "causal & (sliding:4 | keys:0:2,9:11)",
    "per-document:8,9(prefix-lm:3)", "per-document:8,9,3(sliding:3 | global:1)", "causal | documents:3,9", "causal | keys:4:9",
    "sliding:5 | keys:2:4", "blocks:6 | sliding:4",
]  # fmt: skip
# Other texts of masks that have a shorter name.
SAME = {
    "causal & window:10 | window:4": "window:10,4", "block-diffusion:5": "causal | blocks:5", "causal | window:3": "window:-1,3",
    "window:9 & chunked:4,4": "chunked:4,4",
}  # fmt: skip


def rebuilt(name, mask):
    return build(parse(name.spec), name.layout) == mask


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("length", [16, 40])
def test_every_kind_gets_its_own_name_back(spec, length):
    mask = build(parse(spec), Layout(1, length, length))
    name = name_of(mask)
    assert name.exact
    assert rebuilt(name, mask)
    assert len(name.spec) <= len(spec)
    assert set(parse_kinds(name.spec)) == set(parse_kinds(spec)) or len(name.spec) < len(spec)


@pytest.mark.parametrize("spec", NEW)
def test_names_of_unions_trees_chunks_and_documents(spec):
    mask = build(parse(spec), Layout(1, 24, 24))
    assert (name_of(mask).spec, name_of(mask).exact) == (spec, True)


@pytest.mark.parametrize(("text", "name"), SAME.items())
def test_the_shortest_name_of_several(text, name):
    mask = build(parse(text), Layout(1, 24, 24))
    assert (name_of(mask).spec, name_of(mask).exact) == (name, True)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spec", ["causal | blocks:5", "window:6,2", "chunked:4,4", "prefix-lm:3,7,2,5"])
def test_names_of_samples_and_unions_under_padding(spec, side):
    real = padded(side, 24)
    mask = build(parse(f"({spec}) & padding"), Layout(4, 24, 24, real=real))
    name = name_of(mask)
    assert name.exact, (name.spec, name.wrong)
    assert rebuilt(name, mask)


def test_a_tree_behind_a_cache():
    mask = build(parse("tree:-1,0,0,1,1"), Layout(1, 5, 12, past=7))
    assert (name_of(mask).spec, name_of(mask).exact) == ("tree:-1,0,0,1,1", True)


def test_a_few_wrong_cells_are_no_union():
    dense = build(parse("causal"), Layout(1, 64, 64)).dense().copy()
    for cells in ([(5, 40)], [(5, 40), (9, 20), (30, 31)]):
        for cell in cells:
            dense[cell] = True
        name = name_of(Mask.from_dense(dense[None, None]))
        assert (name.spec, name.exact, name.wrong) == ("causal", False, len(cells))


def test_the_first_keys_of_one_text_are_a_prefix_and_of_several_padding():
    rows = np.arange(64) < 9
    assert name_of(Mask.from_dense(np.tile(rows, (64, 1)))).spec == "prefix:9"
    assert name_of(Mask.from_dense(np.tile(rows, (2, 1, 64, 1)))).spec == "padding"
    assert name_of(Mask.from_dense(rows[None, None, None])).spec == "padding"


def parse_kinds(text):
    from maskcli.masks.spec import kinds_in

    return kinds_in(parse(text))


def padded(side, length):
    real = np.ones((4, length), bool)
    real[0, slice(0, 3) if side == "left" else slice(length - 3, length)] = False
    real[1, slice(0, 1) if side == "left" else slice(length - 1, length)] = False
    if side == "holes":
        real[2, 4:6] = False
    return real


@pytest.mark.parametrize("side", ["left", "right", "holes"])
@pytest.mark.parametrize(
    "spec",
    ["causal", "full", "sliding:4", "window:3", "chunked:4", "causal & documents:5,3,4", "prefix-lm:5"],
)
def test_padding_is_told_item_by_item(spec, side):
    real = padded(side, 24)
    mask = build(parse(f"({spec}) & padding"), Layout(4, 24, 24, real=real))
    name = name_of(mask)
    assert name.exact
    assert rebuilt(name, mask)
    if spec in ("causal", "full"):
        assert np.array_equal(name.layout.real, real)


@pytest.mark.parametrize(("queries", "keys"), [(5, 17), (1, 16), (8, 9)])
@pytest.mark.parametrize("spec", ["causal", "sliding:4", "causal-top-left", "full"])
def test_queries_behind_a_cache(spec, queries, keys):
    mask = build(parse(spec), Layout(1, queries, keys, past=keys - queries))
    name = name_of(mask)
    assert name.exact
    assert rebuilt(name, mask)


@st.composite
def specs(draw):
    sizes = st.integers(1, 9)
    kind = st.one_of(
        st.just("causal"), sizes.map("sliding:{}".format), sizes.map("window:{}".format), sizes.map("chunked:{}".format),
        sizes.map("blocks:{}".format), st.lists(sizes, min_size=1, max_size=4).map(lambda n: "documents:" + ",".join(map(str, n))),
    )  # fmt: skip
    return " & ".join(draw(st.lists(kind, min_size=1, max_size=3)))


@given(specs())
@settings(deadline=None)
def test_any_conjunction_is_named_exactly_and_no_longer_than_it_was_written(spec):
    mask = build(parse(spec), Layout(1, 40, 40))
    name = name_of(mask)
    assert name.exact, (spec, name.spec, name.wrong)
    assert rebuilt(name, mask)
    assert len(name.spec) <= len(spec) or "documents" in name.spec


def test_a_mask_with_a_few_wrong_cells_keeps_its_name():
    layout = Layout(1, 24, 24)
    dense = build(parse("sliding:4"), layout).dense().copy()
    dense[10, 20] = True
    dense[15, 14] = False
    name = name_of(Mask.from_dense(dense[None, None]))
    assert (name.spec, name.exact, name.wrong) == ("sliding:4", False, 2)
    assert name.missing.dense()[10, 20]
    assert name.extra.dense()[15, 14]


def test_ambiguity_is_said():
    name = name_of(build(parse("causal"), Layout(1, 12, 12)))
    assert name.spec == "causal"
    assert "sliding:12" in name.aliases


def test_a_mask_of_nothing_and_noise_have_a_nearest_name():
    nothing = name_of(~Mask.full((1, 1, 6, 6)))
    assert (nothing.spec, nothing.exact) == ("prefix:0", True)
    noise = Mask.from_dense(np.random.default_rng(0).random((2, 3, 20, 20)) < 0.5)
    name = name_of(noise)
    assert not name.exact
    assert (build(parse(name.spec), name.layout) ^ noise).attended == name.wrong


def test_of_two_names_as_near_and_as_long_the_first_is_taken():
    """window:1 and window:4 are wrong in as many cells, and specs themselves have no order."""
    rows = ["101110", "101000", "010011", "101110", "111101", "000011"]
    mask = Mask.from_dense(np.array([[cell == "1" for cell in row] for row in rows])[None, None])
    wrong = {
        spec: (build(parse(spec), Layout(1, 6, 6)) ^ mask).attended
        for spec in ("window:1", "window:4", "causal")
    }
    assert wrong["window:1"] == wrong["window:4"] < wrong["causal"]
    name = name_of(mask)
    assert (name.spec, name.exact, name.wrong) == ("window:1", False, wrong["window:1"])


def test_a_name_of_the_longest_document_that_no_other_can_have_is_no_name():
    cells = build(parse("block-diffusion:2,4"), Layout(1, 9, 9)).dense(0).copy()
    cells[8, 8] = True
    name = name_of(Mask.from_dense(cells[None, None]))
    assert not name.exact
    assert (build(parse(name.spec), name.layout) ^ Mask.from_dense(cells[None, None])).attended == name.wrong


@pytest.mark.parametrize("length", range(3, 7))
def test_prefixes_of_every_size(length):
    """From the first token alone, which is a causal mask, to all of them."""
    named = [
        name_of(build(parse(f"prefix-lm:{size + 1}"), Layout(1, length, length))).spec
        for size in range(length)
    ]
    assert named == ["causal", *(f"prefix-lm:{size}" for size in range(2, length)), "full"]


TYPES = np.array([[0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 2, 2], [0, 0, 0, 1, 1, 0, 2, 2, 2, 0, 0, 0]])
BY_LABELS = [
    "causal | spans:types=1", "causal | same:types", "causal & same:types", "sliding:4 | spans:types=1",
    "sliding:5 & same:types", "same:types", "(causal | spans:types=1) & window:6,-1",
]  # fmt: skip


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("spec", BY_LABELS)
def test_masks_by_labels_of_their_tokens_are_named_by_them(spec, side):
    real = np.ones((2, 12), bool)
    if side is not None:
        real[0, : 3 if side == "left" else 9] = False
        real[0] ^= side == "right"
    told = Layout(2, 12, 12, real=None if side is None else real, tensors={"types": TYPES}.__getitem__)
    mask = build(parse(spec if side is None else f"({spec}) & padding"), told)
    name = name_of(mask, labels={"types": TYPES, "other": TYPES[:, ::-1]})
    assert name.exact
    assert rebuilt(name, mask)
    assert "types" in name.spec
    assert ("padding" in name.spec) == (side is not None)


def test_labels_of_other_sizes_name_nothing():
    told = Layout(2, 12, 12, tensors={"types": TYPES}.__getitem__)
    mask = build(parse("causal | spans:types=1"), told)
    for rows in (TYPES[:, :11], TYPES[[0, 1, 0]]):
        assert "types" not in name_of(mask, labels={"types": rows}).spec


@pytest.mark.parametrize(
    "spec", ["chunked:3", "chunked:5", "chunked:6 & padding", "causal & padding", "chunked:4,1 & padding"]
)
@pytest.mark.parametrize("past", [0, 3])
def test_a_name_says_of_padding_what_it_needs(spec, past):
    """Chunks are counted from the first real token: a name without padding is true of a mask without it."""
    for left in range(1, 6):
        real = np.arange(8 + past)[None] >= left
        mask = build(parse(spec), Layout(1, 8, 8 + past, past=past, real=real))
        name = name_of(mask, past)
        bare = Layout(1, 8, 8 + past, past=past)
        assert not name.exact or "padding" in name.spec or build(parse(name.spec), bare) == mask
        assert name.exact or "padding" not in spec


@pytest.mark.parametrize(
    ("row", "padding"),
    [
        ([1, 1, 1, 1, 1], (0, 0, 0)),
        ([0, 0, 1, 1, 1], (2, 0, 0)),
        ([1, 1, 0, 0, 0], (0, 3, 0)),
        ([0, 1, 0, 0, 1], (1, 0, 2)),
        ([0, 1, 0, 1, 0], (1, 1, 1)),
        ([0, 0, 0, 0, 0], (0, 5, 0)),
    ],
)
def test_padding_of_a_name_is_counted_left_right_and_in_holes(row, padding):
    layout = Layout(1, 5, 5, real=np.array([row], bool))
    assert Name("causal & padding", True, layout, ()).padding == (padding,)
    assert Name("causal", True, layout, ()).padding == ()
