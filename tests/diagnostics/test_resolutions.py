"""Masks that do not simply lie over the keys: of one image for many, of other lengths, of another resolution."""

import numpy as np
import pytest
import torch
import transformers

from tests.diagnostics.attention import DTYPES, layers, loud, report, the, weights

BATCH, HEADS = 2, 4


def swin(images, shifted=True):
    """Weights [B*nW, H, N, N] and the mask [nW, N, N] of a shifted layer of a real Swin."""
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2],
        num_heads=[2],
        window_size=4,
        attn_implementation="eager",
    )
    model = transformers.SwinModel(config).eval()
    blocks, masks, maps = model.encoder.layers[0].blocks, [], []
    made = blocks[1].get_attn_mask
    blocks[1].get_attn_mask = lambda *a, **k: masks.append(made(*a, **k)) or masks[-1]
    for block in blocks:
        block.attention.register_forward_hook(lambda module, given, out: maps.append(out[1]))
    with torch.no_grad():
        model(torch.randn(images, 3, 32, 32), output_attentions=True)
    return {"attentions.1": maps[1 if shifted else 0], "attn_mask.1": masks[0]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("images", [1, 2, 3])
def test_a_swin_mask_repeats_over_images(images, dtype):
    def cast(saved):
        return {name: each.to(DTYPES[dtype]) for name, each in saved.items()}

    assert loud(report(cast(swin(images)))) == []
    found = report(cast(swin(images, shifted=False)))
    assert loud(found) == ["MSK204"]
    assert the(found, "MSK204").where.batch is not None


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("length", [24, 23])
@pytest.mark.parametrize("left", [0, 3])
def test_cached_keys_that_a_mask_counts_twice(length, left, dtype):
    real = np.ones((BATCH, 12), bool)
    real[0, :left] = False
    maps = layers((BATCH, HEADS, 1, 12), real[:, None, None], dtype)
    twice = np.concatenate([real[:, : length - 12], real], axis=1).astype(np.int64)
    assert loud(report(maps | {"attention_mask": torch.from_numpy(twice)})) == ["MSK113"]
    assert loud(report(maps | {"attention_mask": torch.from_numpy(real.astype(np.int64))})) == []
    # A sliding layer has dropped what its mask still counts.
    window = maps | {"attention_mask": torch.ones(BATCH, length, dtype=torch.int64)}
    if not left:
        assert loud(report(window, "sliding:12")) == []
        assert loud(report(window | {"position_ids": torch.full((BATCH, 1), length - 1)})) == []


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_a_short_cache_keeps_the_last_keys(dtype):
    real = np.ones((BATCH, 20), bool)
    real[0, :1] = real[1, :14] = False
    mask = {"attention_mask": torch.from_numpy(real.astype(np.int64))}
    right = layers((BATCH, HEADS, 1, 8), real[:, -8:][:, None, None], dtype)
    assert loud(report(right | mask, "sliding:8")) == []
    everything = layers((BATCH, HEADS, 1, 8), np.ones((1, 8), bool), dtype)
    assert loud(report(everything | mask, "sliding:8")) == ["MSK202"]
    first = real[:, :8].copy()
    first[1, 0] = True
    assert loud(report(layers((BATCH, HEADS, 1, 8), first[:, None, None], dtype) | mask, "sliding:8")) == [
        "MSK202"
    ]


def test_a_real_sliding_cache_under_left_padding():
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.MistralForCausalLM(config).eval()
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[1, :3] = 0
    made = model.generate(
        torch.randint(3, 50, (2, 6)), attention_mask=mask, max_new_tokens=12, do_sample=False,
        output_attentions=True, return_dict_in_generate=True, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    whole = torch.ones(2, 17, dtype=torch.int64)
    whole[:, :6] = mask
    for step, grown in ((3, whole[:, :9]), (11, whole)):
        maps = {f"attentions.{n}": each for n, each in enumerate(made.attentions[step])}
        assert loud(report(maps | {"attention_mask": grown}, "sliding:8")) == []


def test_a_real_audio_mask_is_of_another_resolution():
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, conv_dim=(16, 16),
        conv_stride=(4, 2), conv_kernel=(4, 2), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer", attn_implementation="eager",
    )  # fmt: skip
    model = transformers.Wav2Vec2Model(config).eval()
    mask = torch.ones(2, 160, dtype=torch.int64)
    mask[1, 96:] = 0
    with torch.no_grad():
        maps = model(torch.randn(2, 160), attention_mask=mask, output_attentions=True).attentions
    saved = {f"attentions.{n}": each for n, each in enumerate(maps)} | {"attention_mask": mask}
    found = report(saved, "full")
    assert loud(found) == []
    assert "160 positions, and the maps have 20 keys" in found.unfit["attention_mask"]


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("target", ["decoder_attention_mask", "decoder_input_ids", None])
def test_a_source_of_padding_leaves_real_targets_nothing(target, dtype):
    source = np.ones((2, 8), np.int64)
    source[1] = 0
    keep = (source != 0)[:, None, None]
    saved = {"encoder_attention_mask": torch.from_numpy(source)}
    if target is not None:
        saved[target] = torch.ones(2, 6, dtype=torch.int64)
    maps = {"cross_attentions.0": weights((2, 4, 6, 8), keep, dtype)}
    mask = {"cross_attn_mask": torch.from_numpy(np.broadcast_to(keep, (2, 1, 6, 8)).copy())}
    assert loud(report(saved | mask)) == ["MSK101"]
    assert loud(report(saved | maps | mask)) == ["MSK205"]
    assert loud(report(saved | maps)) == ["MSK205"]


def test_real_static_caches_and_assistants_whatever_is_saved_beside():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    model, assistant = (transformers.LlamaForCausalLM(config).eval() for _ in range(2))
    say = {"do_sample": False, "output_attentions": True, "return_dict_in_generate": True, "pad_token_id": 0}
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[1, :3] = 0
    made = model.generate(
        torch.randint(3, 50, (2, 6)), attention_mask=mask, cache_implementation="static", disable_compile=True,
        max_new_tokens=5, eos_token_id=None, **say,
    )  # fmt: skip
    for step, maps in enumerate(made.attentions):
        queries = maps[0].shape[2]
        whole = torch.cat([mask, torch.ones(2, step, dtype=torch.int64)], 1)
        positions = (whole.cumsum(-1) - 1).clamp(min=0)[:, -queries:]
        slots = torch.arange(whole.shape[1] - queries, whole.shape[1])
        saved = {f"attentions.{n}": each for n, each in enumerate(maps)}
        for facts in (
            {"attention_mask": whole},
            {"position_ids": positions},
            {"attention_mask": whole, "position_ids": positions},
            {"attention_mask": whole, "cache_position": slots},
        ):
            assert loud(report(saved | facts, "causal")) == []

    made = model.generate(
        torch.randint(3, 50, (1, 6)), assistant_model=assistant, max_new_tokens=8, eos_token_id=None, **say
    )
    for maps in made.attentions:
        assert loud(report({f"attentions.{n}": each for n, each in enumerate(maps)}, "causal")) == []
