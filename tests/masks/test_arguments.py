"""Masks as arguments of libraries: what each is given, as values and as code, or why it cannot be given any."""

import numpy as np
import pytest
import torch

from maskcli import convert
from maskcli.masks.arguments import arguments, causal_flag
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.name import Name
from maskcli.masks.naming import name_of
from maskcli.masks.spec import build, parse

CASES = [
    ("causal", 0), ("causal", 5), ("sliding:4", 0), ("window:3", 0), ("causal & documents:5,3,4", 0), ("sliding:3 & documents:5,3,4", 0),
    ("documents:5,3,4", 0), ("chunked:4", 0), ("prefix-lm:4", 0), ("window:2 | global:2", 0), ("dilated:6,3", 0), ("full", 0),
    ("causal-top-left", 5), ("blocks:4", 0), ("causal & (sliding:4 | prefix:2)", 0),
]  # fmt: skip


def named(spec, past, real=None):
    queries = 12
    layout = Layout(1 if real is None else len(real), queries, queries + past, past=past, real=real)
    mask = build(parse(spec), layout)
    return mask, name_of(mask)


def evaluated(code, shape):
    """The mask that a line of FlexAttention code makes."""
    space = {}
    exec(code, space)
    b, h, q, k = shape
    rows = [
        [
            [
                [bool(space["mask_mod"](i, j, torch.tensor(m), torch.tensor(n))) for n in range(k)]
                for m in range(q)
            ]
            for j in range(h)
        ]
        for i in range(b)
    ]
    return Mask.from_dense(np.array(rows))


@pytest.mark.parametrize(("spec", "past"), CASES)
def test_flex_code_makes_the_same_mask(spec, past):
    mask, name = named(spec, past)
    assert evaluated(arguments(name, "flex").code, mask.shape) == mask


def test_a_cache_that_is_not_full_has_no_aligned_arguments():
    """Queries at positions 4 to 7 of 16 slots: no library that aligns to the last key can say it."""
    mask = build(parse("causal"), Layout(1, 4, 16, past=4))
    name = name_of(mask, past=4)
    assert name.exact
    assert all("aligns the last query" in arguments(name, to).why for to in ("flash-attn", "xformers"))
    assert evaluated(arguments(name, "flex").code, mask.shape) == mask


def test_flex_code_with_padding_that_all_items_share():
    mask = build(parse("padding"), Layout(1, 8, 8, real=np.arange(8)[None] > 2))
    code = arguments(name_of(mask), "flex").code
    assert "real[kv_idx]" in code
    assert evaluated(code, (3, 1, 8, 8)) == Mask.from_dense(np.broadcast_to(np.arange(8) > 2, (3, 1, 8, 8)))


def test_flex_code_with_padding():
    real = np.ones((2, 12), bool)
    real[0, :4] = False
    mask, name = named("chunked:4 & padding", 0, real)
    assert evaluated(arguments(name, "flex").code, mask.shape) == mask


def test_arguments_that_need_no_tensor():
    def of(spec, to, past=0, real=None):
        found = arguments(named(spec, past, real)[1], to)
        return found.arguments if found.why is None else found.why

    right, left = np.ones((2, 12), bool), np.ones((2, 12), bool)
    right[0, 9:] = False
    left[0, :3] = False
    assert of("causal", "flash-attn") == {"causal": True}
    assert of("causal", "flash-attn", past=5) == {"causal": True}
    assert "aligns causal to the last key" in of("causal-top-left", "flash-attn", past=5)
    assert of("sliding:4", "flash-attn") == {"causal": True, "window_size": [3, 0]}
    assert of("window:3", "flash-attn") == {"window_size": [3, 3]}
    packed = of("causal & documents:5,3", "flash-attn")
    assert (packed["cu_seqlens_q"], packed["max_seqlen_q"]) == ([0, 5, 8, 12], 5)
    assert of("causal & padding", "flash-attn", real=right)["cu_seqlens_q"] == [0, 9, 21]
    assert "prefix-lm" in of("prefix-lm:4", "flash-attn")
    assert "union" in of("window:2 | global:2", "xformers")
    assert of("causal", "xformers") == {"attn_bias": "LowerTriangularMask"}
    assert of("causal", "xformers", past=5) == {"attn_bias": "LowerTriangularFromBottomRightMask"}
    assert of("sliding:4", "xformers") == {"window_left": 3, "window_right": 0}
    assert of("causal & documents:5,3", "xformers")["seqlens"] == [5, 3, 4]
    assert of("causal", "jax") == {"is_causal": True}
    assert "aligns is_causal to the first key" in of("causal", "jax", past=5)
    assert of("causal-top-left", "jax", past=5) == {"is_causal": True}
    assert of("sliding:4", "jax") == {"local_window_size": [3, 0]}
    assert of("causal & padding", "jax", real=right) == {"is_causal": True, "key_value_seq_lengths": [9, 12]}
    assert "on the left" in of("causal & padding", "jax", real=left)
    assert causal_flag(named("causal", 0)[1])
    assert not causal_flag(named("causal", 5)[1])


# An oracle: which keys a library lets each query see, from what its documentation says of its arguments.


def seen(to, given, queries, keys):
    """Bool [queries, keys], of the tokens of all items in a row where there are lengths."""
    q, k = np.arange(queries)[:, None], np.arange(keys)
    band, lengths = READERS[to](given, q, k, keys - queries)
    if lengths is None:
        return band
    text = np.repeat(np.arange(len(lengths)), lengths)
    return band & (text[:, None] == text)


def flash(given, q, k, late):
    """flash-attn >= 2.1: the last query stands at the last key; windows hold their ends, -1 is no limit."""
    left, right = given.get("window_size", (-1, -1))
    ends = [given.get(f"cu_seqlens_{side}") for side in "qk"]
    assert ends[0] == ends[1]
    assert (ends[0] is None) or given["max_seqlen_q"] == given["max_seqlen_k"] == max(np.diff(ends[0]))
    band = (k <= q + late) if given.get("causal") else np.ones((len(q), len(k)), bool)
    band = band & ((left < 0) | (k >= q + late - left)) & ((right < 0) | (k <= q + late + right))
    return band, None if ends[0] is None else np.diff(ends[0])


def xformers(given, q, k, late):
    """Bias classes by their names; blocks are square, so either end may be theirs."""
    if "seqlens" in given:
        size = given["size"] or len(k)
        band = {
            "full": k == k,
            "causal": k <= q,
            "causal-top-left": k <= q,
            "sliding": (k <= q) & (k > q - size),
        }
        return band[given["band"]] & (q == q), given["seqlens"]
    if "window_left" in given:
        return (k >= q + late - given["window_left"]) & (k <= q + late + given["window_right"]), None
    biases = {
        None: k == k,
        "LowerTriangularMask": k <= q,
        "LowerTriangularFromBottomRightMask": k <= q + late,
    }
    return biases[given["attn_bias"]] & (q == q), None


def jax(given, q, k, late):
    """jax.nn.dot_product_attention: everything counts from the first key."""
    left, right = given.get("local_window_size", (len(k), len(k)))
    band = (k <= q) if given.get("is_causal") else np.ones((len(q), len(k)), bool)
    return band & (k >= q - left) & (k <= q + right), given.get("key_value_seq_lengths")


READERS = {"flash-attn": flash, "xformers": xformers, "jax": jax}
FREE = [
    "full", "causal", "causal-top-left", "sliding:4", "sliding:1", "window:3", "window:2,5", "window:3,-1", "window:-1,2",
    "documents:5,3", "causal & documents:5,3", "sliding:3 & documents:5,3", "window:2 & documents:5,3",
    "causal-top-left & documents:5,3", "chunked:4", "chunked:5", "blocks:4", "blocks:5", "causal & blocks:5",
]  # fmt: skip


@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("to", READERS)
@pytest.mark.parametrize("spec", FREE)
def test_what_a_library_is_given_makes_the_mask(spec, to, past):
    layout = Layout(1, 12, 12 + past, past=past)
    found = arguments(Name(spec, True, layout, (), None, None), to)
    if found.why is None:
        assert np.array_equal(seen(to, found.arguments, 12, 12 + past), build(parse(spec), layout).dense())
        assert found.code.count("(") == found.code.count(")")
    assert (found.why is None) == (spec in EXPRESSIBLE[to, past]), found.why


# Everything but what stands here.
EXPRESSIBLE = {
    ("flash-attn", 0): [spec for spec in FREE if "top-left" not in spec],
    ("flash-attn", 5): ["full", "causal", "sliding:4", "sliding:1", "window:3", "window:2,5", "window:3,-1", "window:-1,2"],
    ("xformers", 0): [spec for spec in FREE if "-1" not in spec and "window:2 &" not in spec],
    ("xformers", 5): ["full", "causal", "causal-top-left", "sliding:4", "sliding:1", "window:3", "window:2,5"],
    ("jax", 0): ["full", "causal", "causal-top-left", "sliding:4", "sliding:1", "window:3", "window:2,5"],
    ("jax", 5): ["full", "causal-top-left"],
}  # fmt: skip


@pytest.mark.parametrize("to", READERS)
@pytest.mark.parametrize("spec", ["padding", "causal & padding", "sliding:3 & padding"])
def test_padding_is_cut_away(spec, to):
    """Tokens of all items in a row, without padding: what each library then sees."""
    for lengths, left in (((9, 12, 4), False), ((9, 12, 4), True), ((12, 12, 12), False)):
        real = np.arange(12) < np.array(lengths)[:, None]
        layout = Layout(3, 12, 12, real=real[:, ::-1] if left else real)
        found = arguments(Name(spec, True, layout, (), None, None), to)
        if to == "jax":
            assert ("on the left" in (found.why or "")) == left
            assert left or found.arguments["key_value_seq_lengths"] == list(lengths)
            continue
        tokens = sum(lengths)
        expected = np.zeros((tokens, tokens), bool)
        at = 0
        for length in lengths:
            part = build(parse(spec.replace("padding", "full")), Layout(1, length, length))
            expected[at : at + length, at : at + length] = part.dense()
            at += length
        assert np.array_equal(seen(to, found.arguments, tokens, tokens), expected)
        assert found.code.startswith("# q, k and v without their padding tokens\n")


WORDS = [
    ("causal-top-left", "flash-attn", 5, "aligns causal to the last key since 2.1"),
    ("documents:5,3", "flash-attn", 5, "need cu_seqlens of both sides"),
    ("documents:5,3", "xformers", 5, "need both seqlens"),
    ("window:3,-1", "xformers", 0, "xformers's windows have a limit on both sides"),
    ("window:3,-1", "jax", 0, "JAX's windows have a limit on both sides"),
    ("window:2 & documents:5,3", "xformers", 0, "no block-diagonal bias with window"),
    ("causal", "jax", 5, "JAX aligns is_causal to the first key"),
    ("sliding:4", "jax", 5, "JAX counts windows from the first key"),
    ("causal & documents:5,3", "jax", 0, "JAX has no argument for packed documents"),
    ("chunked:4,8", "flash-attn", 0, "no argument for chunked;"),
    ("documents:5 & blocks:4", "flash-attn", 0, "blocks together with another set of blocks"),
    ("sliding:2 & chunked:4", "flash-attn", 0, "no argument for chunked;"),
    ("causal & window:2,3", "xformers", 0, "causal together with window"),
    ("causal | global:2", "jax", 0, "a union or complement of masks"),
    ("~causal", "jax", 0, "a union or complement of masks"),
    ("prefix-lm:3", "xformers", 0, "no argument for prefix-lm;"),
]


@pytest.mark.parametrize(("spec", "to", "past", "words"), WORDS)
def test_what_has_no_arguments_says_why(spec, to, past, words):
    layout = Layout(1, 12, 12 + past, past=past)
    assert words in arguments(Name(spec, True, layout, (), None, None), to).why


def test_padding_that_is_no_one_stretch_has_no_arguments():
    real = np.ones((2, 12), bool)
    real[0, 3:5] = False
    layout = Layout(2, 12, 12, real=real)
    why = arguments(Name("causal & padding", True, layout, (), None, None), "flash-attn").why
    assert "padding with holes" in why
    real[0] = np.arange(12) < 9
    for spec, word in (
        ("documents:5,3 & padding", "documents together with padding"),
        ("chunked:4 & padding", "chunked"),
    ):
        assert word in arguments(Name(spec, True, layout, (), None, None), "flash-attn").why


def test_code_as_it_is_written():
    def code(spec, to, **options):
        return convert(spec, to, keys=12, **options).code

    ends = 'torch.tensor([0, 5, 8, 12], dtype=torch.int32, device="cuda")'
    assert code("causal", "flash-attn") == "flash_attn_func(q, k, v, causal=True)"
    assert code("causal & documents:5,3", "flash-attn") == (
        f"flash_attn_varlen_func(q, k, v, causal=True, cu_seqlens_q={ends}, cu_seqlens_k={ends}, "
        "max_seqlen_q=5, max_seqlen_k=5)"
    )
    biases = "xformers.ops.fmha.attn_bias"
    assert code("full", "xformers") == "None"
    assert code("causal", "xformers") == f"{biases}.LowerTriangularMask()"
    assert (
        code("window:2,5", "xformers")
        == f"{biases}.LocalAttentionFromBottomRightMask(window_left=2, window_right=5)"
    )
    blocks = f"{biases}.BlockDiagonalMask.from_seqlens([5, 3, 4])"
    assert code("documents:5,3", "xformers") == blocks
    assert code("causal & documents:5,3", "xformers") == f"{blocks}.make_causal()"
    assert code("sliding:3 & documents:5,3", "xformers") == f"{blocks}.make_local_attention(3)"
    assert code("sliding:4", "jax") == "jax.nn.dot_product_attention(q, k, v, local_window_size=(3, 0))"


def test_the_flag_of_sdpa():
    """is_causal=True is k <= q from the first key: no mask of a cache, and nothing that is not exactly causal."""

    def flag(spec, past, exact=True):
        return causal_flag(Name(spec, exact, Layout(1, 4, 4 + past, past=past), (), None, None))

    assert flag("causal", 0)
    assert flag("causal-top-left", 0)
    assert flag("causal-top-left", 5)
    assert not flag("causal", 5)
    assert not flag("causal", 0, exact=False)
    assert not flag("sliding:4", 0)
