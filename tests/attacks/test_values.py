"""Tensors of any role that are empty, or hold infinities and NaN: findings or a sentence, and no warning."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcli.diagnostics.declare import declare
from maskcli.errors import MaskcliError
from maskcli.inputs.many_files import judged
from maskcli.scene.describe import describe
from maskcli.tensors import TensorFile, from_array, roles_of
from tests.cli.running import run

MAPS = ("attentions.0", "attentions.1", "scores.0", "attention_mask", "mask", "position_bias", "query.0")
TOKENS = (
    *(
        "input_ids",
        "labels",
        "position_ids",
        "segment_ids",
        "token_type_ids",
        "cache_position",
        "padding_mask",
    ),
    *("loss_mask", "cu_seqlens", "chosen_input_ids", "rejected_input_ids", "decoder_attention_mask"),
)
SAID = ({}, {"expect": "causal", "pad_id": 0}, {"pad_id": 0, "eos_ids": [2], "vocab_size": 5}, {"past": 1})
ODD = (np.inf, -np.inf, np.nan, 3e38, -1.0, 0.0, 7.0)


@st.composite
def tensors(draw):
    """A few tensors by name, with odd values in some places and no elements in some."""
    sizes = draw(st.sampled_from([(1, 1, 4, 4), (2, 2, 3, 3), (1, 2, 3, 5)]))
    named = {}
    for name in draw(st.lists(st.sampled_from(MAPS + TOKENS), min_size=1, max_size=4, unique=True)):
        whole = sizes if name in MAPS else (sizes[0], sizes[3])
        shape = tuple(0 if draw(st.integers(0, 12)) == 0 else size for size in whole)
        values = (
            np.tril(np.ones(shape)) if draw(st.booleans()) else np.broadcast_to(np.arange(shape[-1]), shape)
        )
        values = values.astype(draw(st.sampled_from(["float32", "float64", "float16", "int64", "bool"])))
        if values.size and values.dtype.kind == "f":
            places = st.tuples(st.integers(0, values.size - 1), st.sampled_from(ODD))
            with np.errstate(over="ignore"):
                for place, value in draw(st.lists(places, max_size=3)):
                    values.flat[place] = value
        named[name] = values
    return named


@settings(max_examples=60, deadline=None)
@given(tensors(), st.sampled_from(SAID))
def test_any_values_in_any_role(named, said):
    file = TensorFile("x", tuple(from_array(name, values) for name, values in named.items()))
    roled = tuple(roles_of(file))
    for each in roled:
        describe(each)
    try:
        str(judged(file, roled, declare(**said)))
    except MaskcliError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_id_that_is_no_number_is_a_finding(value):
    ids = np.array([[1.0, value, 2.0]])
    file = TensorFile("x", (from_array("input_ids", ids),))
    (found,) = [
        each for each in judged(file, tuple(roles_of(file)), declare()).findings if each.code == "MSK508"
    ]
    assert found.where.queries == ((1, 2),)
    assert str(float(value)) in found.message


def test_a_mask_of_nan_alone_is_compared(tmp_path):
    np.save(tmp_path / "mask.npy", np.full((3, 3), np.nan, np.float32))
    done = run("diff", "causal", tmp_path / "mask.npy", check=1)
    assert "6 of 9 cells" in done.stdout


REAL = np.arange(8) < np.array([[5], [8]])
TEXTS = np.arange(8)[None].repeat(2, axis=0) // 4
MAP = (
    np.tril(np.ones((8, 8), np.float32))
    / np.arange(1, 9, dtype=np.float32)[:, None]
    * np.ones((2, 2, 1, 1), np.float32)
)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        # A mask over keys beside texts, of whose tokens it has no row.
        ({"attn_mask": np.ones((2, 1, 1, 8), bool), "segment_ids": TEXTS, "attention_mask": REAL.astype(int)}, {}),
        # A mask over other keys, or other samples, than its map's.
        ({"attentions.0": MAP, "attn_mask": np.tril(np.ones((2, 1, 8, 16), bool)), "segment_ids": TEXTS}, {"expect": "full"}),
        ({"attentions.0": MAP[:, :, -1:], "attn_mask": np.arange(8) < np.full((5, 1, 1, 1), 6), "segment_ids": TEXTS}, {"past": 7}),
        # Keys that stand elsewhere in each sample.
        ({"attentions.0": MAP, "position_ids": np.stack([np.arange(8)[::-1], np.roll(np.arange(8), 3)])}, {"expect": "sliding:4"}),
        # Values and keys of no head.
        ({"attentions.0": MAP, "value": np.zeros((2, 0, 8, 4), np.float32), "attn_output": np.zeros((2, 2, 8, 4), np.float32)}, {}),
        ({"attentions.0": MAP, "query": np.ones((2, 2, 8, 4), np.float32), "key": np.zeros((2, 0, 8, 4), np.float32)}, {}),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_each_other(named, said):
    file = TensorFile("x", tuple(from_array(name, values) for name, values in named.items()))
    str(judged(file, tuple(roles_of(file)), declare(**said)))
