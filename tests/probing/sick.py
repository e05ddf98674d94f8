"""Models with one bug each, made as people make it, beside the same models without it."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import transformers as hf
from torch import nn
from transformers.masking_utils import sdpa_mask

from tests.probing import plain
from tests.tracing.models import inverted, opened, spoil_mask

SMALL = {
    "vocab_size": plain.VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
CONFIGS = {
    "llama": {},
    "mistral": {"sliding_window": plain.WINDOW},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "gemma3_text": {"sliding_window": plain.WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {},
    "gpt_neox": {"rotary_pct": 0.5},
    "gpt_oss": {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": plain.WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "bloom": {},
    "mamba": {"state_size": 4},
    "bert": {},
    "distilbert": {"hidden_dim": 48},
    "modernbert": {"num_hidden_layers": 3, "local_attention": 8, "global_attn_every_n_layers": 3},
    "t5": {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "decoder_start_token_id": 0},
    "bart": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2,
    },
}  # fmt: skip
ENCODERS, PAIRS = {"bert", "distilbert", "modernbert"}, {"t5", "bart"}


class Bug(NamedTuple):
    """A bug: how to make the model with and without it, what must be said of which module, and the runs that show it."""

    sick: Callable[[], nn.Module]
    healthy: Callable[[], nn.Module]
    code: str | None
    place: str
    options: dict


def ready(model):
    """Seeded weights that are wide enough for attention to be uneven, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in model.parameters():
            if values.ndim >= 2:
                values.normal_(
                    0, 1 / math.sqrt(values.shape[-1]) if values.ndim == 2 else 0.2, generator=generator
                )
    return model.eval()


def library(name, how="sdpa"):
    """A tiny model of transformers."""
    auto = (
        hf.AutoModel
        if name in ENCODERS
        else hf.AutoModelForSeq2SeqLM
        if name in PAIRS
        else hf.AutoModelForCausalLM
    )
    config = hf.AutoConfig.for_model(name, **{**SMALL, **CONFIGS[name]})
    return ready(auto.from_config(config, attn_implementation=how))


def by_hand(mixer, **parts):
    """A decoder or encoder of `tests.probing.plain`."""
    return ready(plain.Model(mixer, **parts))


def attends(mask, fill=None, **parts):
    return by_hand(partial(plain.Attention, mask, fill), **parts)


def encodes(hidden):
    return ready(plain.TorchEncoder(hidden))


def pair(**passed):
    return ready(plain.TorchPair(**passed))


def given(module, **others):
    """Hand a module other arguments by keyword than its caller does."""

    def hook(_, args, kwargs):
        return args, kwargs | others

    module.register_forward_pre_hook(hook, with_kwargs=True)


def mask_forgotten():
    """The padding mask stops in front of the layers."""
    model = library("bert")
    for layer in model.encoder.layer:
        spoil_mask(layer.attention, opened)
    return model


def mask_inverted():
    model = library("bert", "eager")
    for layer in model.encoder.layer:
        spoil_mask(layer.attention, inverted)
    return model


def mask_shuffled():
    """Texts are shuffled, their masks are not."""
    model = library("bert")
    for layer in model.encoder.layer:
        spoil_mask(layer.attention, lambda mask: mask.roll(1, 0))
    return model


def never_causal():
    model = library("llama", "eager")
    for layer in model.model.layers:
        spoil_mask(layer.self_attn, opened)
    return model


def window_of(width):
    """The layers are built from another window than the configuration says."""
    model = library("mistral")
    model.model.config = copy.deepcopy(model.config)
    model.model.config.sliding_window = width
    return model


def own_attention(name, attention):
    """Llama through an attention function of one's own, which is handed the mask of sdpa."""
    hf.AttentionInterface.register(name, attention)
    hf.AttentionMaskInterface.register(name, sdpa_mask)
    return library("llama", name)


def attention(q, k, v, mask, scale, causal):
    out = nn.functional.scaled_dot_product_attention(
        q, k, v, mask, scale=scale, is_causal=causal, enable_gqa=True
    )
    return out.transpose(1, 2), None


def top_left(module, q, k, v, mask, scaling=None, **_):
    """With a cache, causal from its first key on."""
    reads_cache = k.shape[2] > q.shape[2]
    return attention(q, k, v, None if reads_cache else mask, scaling, reads_cache or mask is None)


def all_slots(module, q, k, v, mask, scaling=None, **_):
    """A single query needs no mask, one thinks, and sees whatever the cache holds."""
    single = q.shape[2] == 1
    return attention(q, k, v, None if single else mask, scaling, mask is None and not single)


def all_ones():
    """A collator that always makes an attention_mask: positions that start again no longer tell documents apart."""
    model = library("llama")

    def hook(_, args, kwargs):
        ids = kwargs["input_ids"]
        length = ids.shape[1] + (
            0 if (past := kwargs.get("past_key_values")) is None else past.get_seq_length()
        )
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = ids.new_ones(len(ids), length)
        return args, kwargs

    model.register_forward_pre_hook(hook, with_kwargs=True)
    return model


def steps_restart():
    """Positions are counted anew in every call."""
    model = library("llama")

    def hook(_, args, kwargs):
        ids = kwargs.get("input_ids")
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        return args, kwargs | {"position_ids": places}

    model.model.register_forward_pre_hook(hook, with_kwargs=True)
    return model


def norm_over_tokens():
    model = library("bert")
    model.encoder.layer[0].output.LayerNorm = plain.SequenceNorm()
    return model


def memory_unmasked():
    model = library("bart")
    given(model.model.decoder, encoder_attention_mask=None)
    return model


def in_training():
    return library("bert").train()


def experts(**kind):
    return by_hand(partial(plain.Attention, plain.causal_padding), feed=partial(plain.Experts, **kind))


CAUSAL, WINDOWED = {"expect": "causal & padding"}, {"expect": f"sliding:{plain.WINDOW} & padding"}
TEXTS = {"expect": "padding"}
decoder = partial(attends, plain.causal_padding)
encoder = partial(attends, plain.padding)
torch_encoder = partial(encodes, lambda mask: mask == 0)

BUGS = {
    "padding forgotten, encoder": Bug(partial(encodes, lambda mask: None), torch_encoder, "MSK602", "encoder.layers.0.self_attn", TEXTS),
    "padding forgotten, bert": Bug(mask_forgotten, partial(library, "bert"), "MSK602", "encoder.layer.0.attention.self", {}),
    "padding forgotten, decoder": Bug(partial(attends, plain.causal), decoder, "MSK602", "blocks.0.mixer", {**CAUSAL, "pads": ("left",)}),
    "padding inverted, torch": Bug(partial(encodes, lambda mask: mask.bool()), torch_encoder, "MSK602", "encoder.layers.0.self_attn", TEXTS),
    "padding inverted, bert": Bug(mask_inverted, partial(library, "bert", "eager"), "MSK602", "encoder.layer.0.attention.self", {}),
    "one token ahead": Bug(partial(attends, plain.one_ahead), decoder, "MSK601", "blocks.0.mixer", CAUSAL),
    "never causal, llama": Bug(never_causal, partial(library, "llama", "eager"), "MSK601", "model.layers.0.self_attn", {}),
    "never causal, nn.Transformer": Bug(partial(pair, target=False), pair, "MSK601", "body.decoder.layers.0.self_attn", {"expect": "*decoder.layers.*.self_attn=causal"}),
    "convolution of both sides": Bug(partial(by_hand, partial(plain.Convolution, 1)), partial(by_hand, partial(plain.Convolution, 2)), "MSK601", "blocks.0.mixer", CAUSAL),
    "causal from the left with a cache": Bug(partial(own_attention, "top_left", top_left), partial(library, "llama"), "MSK611", "model.layers.0.self_attn", {"pads": ("none",), "caches": ("dynamic",)}),
    "causal from the left with a cache, by hand": Bug(partial(attends, plain.from_the_left), decoder, "MSK611", "blocks.0.mixer", {**CAUSAL, "caches": ("dynamic",)}),
    "window of one more": Bug(partial(attends, plain.one_more), partial(attends, plain.sliding), "MSK603", "blocks.0.mixer", WINDOWED),
    "window of one more, mistral": Bug(partial(window_of, plain.WINDOW + 1), partial(window_of, plain.WINDOW), "MSK603", "model.layers.0.self_attn", {}),
    "window dropped": Bug(partial(window_of, None), partial(window_of, plain.WINDOW), "MSK603", "model.layers.0.self_attn", {}),
    "documents leak": Bug(all_ones, partial(library, "llama"), "MSK604", "model.layers.0.self_attn", {"documents": (7, 9, 8)}),
    "positions count the padding": Bug(partial(decoder, positions=plain.with_padding), decoder, "MSK606", "", {**CAUSAL, "pads": ("left",)}),
    "norm over tokens": Bug(norm_over_tokens, partial(library, "bert"), "MSK602", "encoder.layer.0.output.LayerNorm", {}),
    "mask of another text": Bug(mask_shuffled, partial(library, "bert"), "MSK602", "encoder.layer.0.attention.self", {}),
    "mask of another text, by hand": Bug(partial(attends, plain.of_another), encoder, "MSK602", "blocks.0.mixer", TEXTS),
    "positions restart": Bug(steps_restart, partial(library, "llama"), "MSK607", "", {"caches": ("dynamic",)}),
    "positions restart, by hand": Bug(partial(decoder, positions=plain.restarted), decoder, "MSK607", "", {**CAUSAL, "caches": ("dynamic",)}),
    "positions from one where padded": Bug(partial(decoder, positions=plain.from_one), decoder, "MSK606", "", CAUSAL),
    "norm over the batch": Bug(partial(encoder, norm=plain.BatchNorm), encoder, "MSK605", "blocks.0.n2.bn", TEXTS),
    "empty slots": Bug(partial(own_attention, "all_slots", all_slots), partial(library, "llama"), "MSK608", "model.layers.0.self_attn", {"pads": ("none",), "caches": ("static",)}),
    "source padding, bart": Bug(memory_unmasked, partial(library, "bart"), "MSK610", "model.decoder.layers.0.encoder_attn", {}),
    "source padding, nn.Transformer": Bug(partial(pair, memory=False), pair, "MSK610", "body.decoder.layers.0.multihead_attn", {}),
    "summaries of one's own block": Bug(partial(by_hand, partial(plain.Summaries, True)), partial(by_hand, partial(plain.Summaries, False)), "MSK601", "blocks.0.mixer", CAUSAL),
    "experts choose": Bug(partial(experts, experts_choose=True), experts, "MSK605", "blocks.0.mlp", CAUSAL),
    "capacity of experts": Bug(partial(experts, capacity=1), experts, "MSK605", "blocks.0.mlp", CAUSAL),
    "fill of -20": Bug(partial(attends, plain.causal_padding, -20.0), partial(attends, plain.causal_padding, -1e9), "MSK609", "blocks.0.mixer", CAUSAL),
    "fill of -1e4": Bug(partial(attends, plain.causal_padding, -1e4), partial(attends, plain.causal_padding, -math.inf), "MSK609", "blocks.0.mixer", {**CAUSAL, "pads": ("right",)}),
    "dropout in training": Bug(in_training, partial(library, "bert"), None, "", {}),
    "dropout forever": Bug(partial(decoder, dropout=0.1), decoder, None, "", CAUSAL),
}  # fmt: skip
# Right padding in a causal decoder hides nothing that causal does not, and is harmless without a mask.
HARMLESS = {"padding forgotten, right": (partial(attends, plain.causal), {**CAUSAL, "pads": ("right",)})}
HEALTHY = {
    "by hand": (decoder, {**CAUSAL, "caches": ("dynamic",)}),
    "by hand, encoder": (encoder, TEXTS),
    "by hand, experts": (experts, CAUSAL),
    "by hand, window": (partial(attends, plain.sliding), WINDOWED),
    "by hand, alibi": (partial(by_hand, partial(plain.Attention, plain.causal_padding, torch.finfo().min, True)), CAUSAL),
    "by hand, recurrence": (partial(by_hand, plain.Recurrence), CAUSAL),
    "by hand, convolution": (partial(by_hand, partial(plain.Convolution, 2)), CAUSAL),
    "torch's encoder": (torch_encoder, TEXTS),
    "torch's pair": (pair, {}),
    "torch's GRU": (lambda: ready(plain.Alone()), {"expect": "causal", "pads": ("none",)}),
    **{name: (partial(library, name), {"caches": ("dynamic", "static")}) for name in ("llama", "mistral", "gemma3_text", "gpt_neox")},
    **{name: (partial(library, name, "eager"), {"caches": ("dynamic",)}) for name in ("mixtral", "gpt_oss", "bloom", "gpt2")},
    "mamba": (partial(library, "mamba", "eager"), {}),
    **{name: (partial(library, name), {}) for name in ("bert", "distilbert", "modernbert", "t5", "bart")},
}  # fmt: skip
