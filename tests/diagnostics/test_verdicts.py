"""A verdict on a map: its kind, what it says besides, and what was meant in one stated order."""

import numpy as np
import pytest

from maskcli.diagnostics.verdicts.judge import judge
from maskcli.diagnostics.verdicts.verdict import Inverted, Kind
from maskcli.meant import facts, settling
from maskcli.scene.assemble import build_scenes
from maskcli.tensors import from_arrays
from maskcli.tensors.stacks import roles_of
from maskcli.tensors.tolerances import has_digits, tolerances
from tests.diagnostics.attention import causal, padding, weights

SHAPE = (3, 4, 12, 12)
REAL = padding(SHAPE, "right")
KEEP = causal(SHAPE) & REAL[:, None, None]


def attention_of(arrays, **declared):
    file = from_arrays(arrays, "dump.safetensors")
    (scene,) = build_scenes(file.path, roles_of(file), facts.Declared(**declared), None)
    (attention,) = scene.attentions
    return attention


PADS = {"attention_mask": REAL.astype(np.int64)}
MASK = {"attn_mask": np.broadcast_to(KEEP, (3, 1, 12, 12)).copy()}
CAUSAL = {"expect": (settling.expectation("causal"),)}


@pytest.mark.parametrize(
    ("arrays", "declared", "authority"),
    [({}, {}, None), (PADS, {}, "padding"), (PADS | MASK, {}, "keep"), (PADS | MASK, CAUSAL, "expected")],
)
def test_what_was_meant_is_declared_else_saved_else_the_padding(arrays, declared, authority):
    attention = attention_of({"attentions.0": weights(SHAPE, KEEP)} | arrays, **declared)
    assert attention.authority == authority
    assert (attention.meant is None) == (authority is None)
    assert judge(attention) == []


def test_a_verdict_says_its_kind_and_what_belongs_to_it():
    inverse = {"attentions.0": weights(SHAPE, ~REAL[:, None, None])}
    (verdict,) = judge(attention_of(inverse | PADS))
    assert verdict.kind is Kind.INVERTED
    assert isinstance(verdict.extra, Inverted)
    assert verdict.extra.what == "the padding mask"
    assert verdict.extra.violation > 0.99 > 0.01 > verdict.extra.inverse_violation


def test_leaks_are_told_by_where_they_go():
    said = PADS | {"attn_mask": np.broadcast_to(causal(SHAPE), (3, 1, 12, 12)).copy()}
    everything = {"attentions.0": weights(SHAPE, np.ones(SHAPE, bool))}
    assert {verdict.kind for verdict in judge(attention_of(everything | PADS))} == {Kind.PADDING}
    kinds = {verdict.kind for verdict in judge(attention_of(everything | said, **CAUSAL))}
    assert kinds == {Kind.NOT_APPLIED}
    only_future = {"attentions.0": weights(SHAPE, np.broadcast_to(REAL[:, None, None], SHAPE))}
    assert {verdict.kind for verdict in judge(attention_of(only_future | said))} == {Kind.FUTURE}


def test_fewer_bits_are_never_held_to_more():
    finest, *coarser = (tolerances(dtype) for dtype in ("float64", "float32", "float16", "bfloat16"))
    for column, least in enumerate(finest):
        assert [each[column] for each in coarser] == sorted(each[column] for each in coarser)
        assert least <= coarser[0][column]
    assert tolerances("int64").cells == tolerances("float8_e5m2").cells == 0
    assert [has_digits(dtype) for dtype in ("float64", "float32", "float16", "bfloat16")] == [
        True,
        True,
        False,
        False,
    ]
