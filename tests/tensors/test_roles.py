"""Names that people and libraries give, and the role each stands for."""

import numpy as np
import pytest

from maskcli.tensors import from_array, from_arrays, role_of, roles_of

SOFT = np.full((2, 4, 6, 6), 1 / 6, np.float32)
STATES = np.random.default_rng(0).standard_normal((2, 4, 6, 8)).astype(np.float32)
IDS = np.arange(12).reshape(2, 6)
KEEP = np.ones((2, 6), np.int64)
FOUR = np.zeros((2, 1, 6, 6), np.float32)
FLAT = np.ones((8, 8), np.float32)


def seen(name, array):
    roled = role_of(from_array(name, array))
    return roled.role, roled.group, roled.kind, roled.layer


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("attentions.0", SOFT, ("weights", "", "self", 0)),
        ("attn_weights", SOFT, ("weights", "", "self", None)),
        ("weights", SOFT, ("weights", "", "self", None)),
        ("weight", SOFT, ("weights", "", "self", None)),
        ("attn_weights_3", SOFT, ("weights", "", "self", 3)),
        ("layer3_attn_weights", SOFT, ("weights", "", "self", 3)),
        ("model.layers.3.self_attn.attn_weights", SOFT, ("weights", "", "self", 3)),
        ("encoder_attentions.0", SOFT, ("weights", "", "encoder", 0)),
        ("cross_attentions.2", SOFT, ("weights", "", "cross", 2)),
        ("decoder_attentions.5", SOFT, ("weights", "", "decoder", 5)),
        ("decoder.layers.0.self_attn.attn_weights", SOFT, ("weights", "", "decoder", 0)),
        ("decoder.layers.1.encoder_attn.attn_weights", SOFT, ("weights", "", "cross", 1)),
        ("decoder.layers.1.multihead_attn.attn_weights", SOFT, ("weights", "", "cross", 1)),
        ("left.attentions.0", SOFT, ("weights", "left", "self", 0)),
        ("step3.attention_mask", KEEP, ("padding_mask", "step3", "self", None)),
        ("steps.3.attention_mask", KEEP, ("padding_mask", "steps.3", "self", None)),
        ("attentions.2.5", SOFT, ("weights", "2", "self", 5)),
        ("inputs.attention_mask", KEEP, ("padding_mask", "", "self", None)),
        ("blocks.7.attn.hook_pattern", SOFT, ("weights", "", "self", 7)),
        ("blocks.7.attn.hook_attn_scores", STATES, ("scores", "", "self", 7)),
        ("scores", STATES, ("scores", "", "self", None)),
        ("attn_mask", FOUR, ("mask", "", "self", None)),
        ("attn_mask", FLAT, ("mask", "", "self", None)),
        ("causal_mask", FLAT, ("mask", "", "self", None)),
        ("attention_mask", FOUR, ("mask", "", "self", None)),
        ("attention_mask", KEEP, ("padding_mask", "", "self", None)),
        ("attention_mask", KEEP.astype(np.float32), ("padding_mask", "", "self", None)),
        ("attention_mask", KEEP[0], ("padding_mask", "", "self", None)),
        ("mask", FLAT.astype(bool), ("mask", "", "self", None)),
        ("mask", KEEP, ("padding_mask", "", "self", None)),
        ("encoder_attention_mask", KEEP, ("padding_mask", "", "encoder", None)),
        ("src_key_padding_mask", KEEP.astype(bool), ("padding_mask", "", "encoder", None)),
        ("memory_key_padding_mask", KEEP.astype(bool), ("padding_mask", "", "cross", None)),
        ("key_padding_mask", KEEP.astype(bool), ("padding_mask", "", "self", None)),
        ("h.0.attn.bias", np.tril(np.ones((1, 1, 6, 6), bool)), ("mask", "", "self", 0)),
        ("q", STATES, ("query", "", "self", None)),
        ("query_states", STATES, ("query", "", "self", None)),
        ("layers.2.key", STATES, ("key", "", "self", 2)),
        ("v", STATES, ("value", "", "self", None)),
        ("attn_output", STATES, ("output", "", "self", None)),
        ("self_attn", STATES[0], ("output", "", "self", None)),
        ("self_attn", SOFT[0], ("weights", "", "self", None)),
        ("input_ids", IDS, ("input_ids", "", "self", None)),
        ("decoder_input_ids", IDS, ("input_ids", "", "decoder", None)),
        ("labels", IDS, ("labels", "", "self", None)),
        ("position_ids", IDS, ("position_ids", "", "self", None)),
        ("cu_seqlens_q", np.array([0, 3, 6], np.int32), ("cu_seqlens", "", "self", None)),
        ("token_type_ids", IDS, ("token_type_ids", "", "self", None)),
        ("seq_idx", IDS, ("segment_ids", "", "self", None)),
    ],
)
def test_names(name, array, expected):
    assert seen(name, array) == expected


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("model.layers.0.self_attn.q_proj.weight", FLAT),
        ("model.layers.0.self_attn.q_proj.bias", FLAT[0]),
        ("self_attn.in_proj_weight", FLAT),
        ("embed_tokens.weight", FLAT),
        ("bert.encoder.layer.0.attention.self.query.weight", FLAT),
        ("h.0.attn.masked_bias", np.array(-1e4, np.float32)),
        ("embeddings.position_ids", IDS),
        ("conv.weight", SOFT),
        ("norm.weight", np.ones(6, np.float32)),
        ("hidden_states.3", STATES[0]),
        ("logits", STATES[0]),
        ("q_proj", FLAT),
        ("special_tokens_mask", KEEP),
        ("image_mask", KEEP),
        ("labels", STATES),
        ("step", np.array(3)),
        ("names", np.array(["a"])),
        ("unknown", np.full((2, 2, 3), np.nan, np.float32)),
        ("unknown", np.zeros((0, 2, 3), np.float32)),
    ],
)
def test_what_plays_no_part(name, array):
    roled = role_of(from_array(name, array))
    assert roled.role is None
    assert roled.why


@pytest.mark.parametrize(
    ("array", "role", "why"),
    [
        (SOFT, "weights", "values"),
        (SOFT.astype(np.float16), "weights", "values"),
        (np.where(np.tri(6, dtype=bool), 0, -np.inf)[None].astype(np.float32), "mask", "values"),
        (
            np.where(np.tri(6, dtype=bool), 0, np.finfo(np.float32).min)[None].astype(np.float32),
            "mask",
            "values",
        ),
        (np.where(np.tri(6, dtype=bool), STATES[:, :, :, :6], -np.inf), "scores", "values"),
        (np.tri(6)[None], "mask", "values"),
        (np.tri(6, dtype=np.int64)[None], "mask", "values"),
        (np.tri(6, dtype=bool), "mask", "shape"),
        (np.tri(2, 6, dtype=bool), "padding_mask", "shape"),
        (np.tri(2, 6, dtype=np.int64), "padding_mask", "values"),
    ],
)
def test_values_speak_when_the_name_does_not(array, role, why):
    roled = role_of(from_array("thing", array))
    assert (roled.role, roled.why) == (role, why)


def test_weights_below_zero_are_weights_by_name():
    assert role_of(from_array("attn_weights", STATES)).role == "weights"


def test_roles_keep_the_order_of_the_file():
    file = from_arrays({"labels": IDS, "attentions.0": SOFT, "x": STATES})
    assert [roled.role for roled in roles_of(file)] == ["labels", "weights", None]
