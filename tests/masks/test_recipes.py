"""What the room is built for: a new kind of mask, or a new convention, is one row, and everything else follows."""

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

import maskcli
from maskcli.errors import MaskcliError
from maskcli.masks.arguments import arguments
from maskcli.masks.conventions import (
    ADDED,
    CONVENTIONS,
    TOKENS,
    TRUE_ATTENDS,
    Convention,
    Values,
    checked_fill,
    usual,
)
from maskcli.masks.kinds import KINDS, Fit, Kind
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.naming import name_of
from maskcli.masks.spec import axes, build, parse, write


def stripes(layout, size):
    """k % N == p % N."""
    equal = np.arange(layout.keys) % size == layout.positions.reshape(-1, 1) % size
    return Mask.from_dense(np.broadcast_to(equal, layout.shape))


ROW = Kind(
    stripes,
    ("N",),
    "q",
    "kv_idx % {N} == {p} % {N}",
    Fit(11, lambda edges: [(edges.step,)], lambda edges: edges.step > 1),
    lowest=1,
)


@pytest.fixture(autouse=True)
def _row(monkeypatch):
    monkeypatch.setitem(KINDS, "stripes", ROW)


def oracle(size, queries, keys, past):
    return np.array([[k % size == (q + past) % size for k in range(keys)] for q in range(queries)])


def test_its_specs_are_read_and_written():
    assert write(parse("CAUSAL & Stripes:3")) == "causal & stripes:3"
    assert axes(parse("stripes:3")) == "q"
    with pytest.raises(MaskcliError, match="stripes needs a size: stripes:4"):
        parse("stripes")
    with pytest.raises(MaskcliError, match="at least 1"):
        parse("stripes:0")
    with pytest.raises(MaskcliError, match="did you mean 'stripes'"):
        parse("stripe:3")


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(("queries", "keys", "past"), [(12, 12, 0), (5, 12, 7), (1, 9, 8)])
def test_its_masks_are_what_an_oracle_says(size, queries, keys, past):
    layout = Layout(1, queries, keys, past=past)
    expected = oracle(size, queries, keys, past)
    assert np.array_equal(build(parse(f"stripes:{size}"), layout).dense(), expected)
    assert np.array_equal(
        build(parse(f"~stripes:{size} | prefix:2"), layout).dense()[:, 2:], ~expected[:, 2:]
    )


@pytest.mark.parametrize("past", [0, 6])
def test_dense_masks_of_it_are_named(past):
    dense = oracle(3, 12, 12 + past, past)
    name = name_of(Mask.from_dense(dense))
    assert (name.spec, name.exact) == ("stripes:3", True)
    below = dense & (np.arange(12 + past) <= np.arange(12)[:, None] + past)
    assert name_of(Mask.from_dense(below)).spec == "causal & stripes:3"


@pytest.mark.parametrize("past", [0, 6])
def test_flex_attention_gets_its_condition(past):
    dense = oracle(3, 12, 12 + past, past)
    name = name_of(Mask.from_dense(dense))
    scope = {}
    exec(arguments(name, "flex").code, scope)
    made = create_mask(scope["mask_mod"], 1, 1, *dense.shape, device="cpu")
    assert torch.equal(made[0, 0], torch.from_numpy(dense))
    assert arguments(name, "jax").why == "jax has no argument for stripes; use flex, or a dense mask"


def test_a_convention_is_one_row(monkeypatch):
    """Bytes of 7 for attend and 9 for ignore, [b, h, q, K]."""
    sevens = Values(
        "7",
        "9",
        lambda values, _: values == 7,
        lambda attend, dtype, _: np.where(attend, 7, 9).astype(dtype),
        dtypes=("uint8",),
    )
    row = Convention("uint8", sevens, CONVENTIONS["megatron"].target, "nobody")
    monkeypatch.setitem(CONVENTIONS, "sevens", row)
    mask = maskcli.mask("causal", keys=3, convention="sevens")
    assert (mask.dtype, mask.tolist()) == (np.uint8, [[7, 9, 9], [7, 7, 9], [7, 7, 7]])
    maskcli.assert_attention_respects(np.tril(np.ones((3, 3))), mask, convention="sevens")
    with pytest.raises(AssertionError, match="masked cells are not 0"):
        maskcli.assert_attention_respects(np.ones((3, 3)), mask, convention="sevens")
    with pytest.raises(MaskcliError, match="sevens masks are uint8, not float32"):
        maskcli.mask("causal", keys=3, convention="sevens", dtype="float32")


@pytest.mark.parametrize("fill", ["nan", "inf", "0", "-1", "x", "-1e39"])
def test_a_fill_that_silences_no_key_or_overflows_is_refused(fill):
    with pytest.raises(MaskcliError, match=f"--fill '?{fill}"):
        checked_fill(fill, "float32")


def test_the_convention_that_a_type_calls_for():
    wanted = {
        "bool": TRUE_ATTENDS,
        "int64": TOKENS,
        "uint8": TOKENS,
        "float16": ADDED,
        "float8_e4m3fn": ADDED,
    }
    assert {dtype: usual(dtype) for dtype in wanted} == wanted
