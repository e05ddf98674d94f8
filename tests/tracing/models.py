"""Tiny random models, sick in one stated place."""

import torch
import transformers as hf

SMALL = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
DECODERS = {
    "llama": hf.LlamaConfig(**GROUPED),
    "mistral": hf.MistralConfig(**GROUPED, sliding_window=3),
    "qwen2": hf.Qwen2Config(**GROUPED),
    "gemma2": hf.Gemma2Config(**GROUPED, head_dim=8, sliding_window=3),
    "gpt2": hf.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, **IDS),
    "gpt_neo": hf.GPTNeoConfig(
        vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=3,
        max_position_embeddings=64, **IDS,
    ),
    "gpt_neox": hf.GPTNeoXConfig(**SMALL),
    "opt": hf.OPTConfig(
        vocab_size=99, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        word_embed_proj_dim=32, **IDS,
    ),
    "bloom": hf.BloomConfig(vocab_size=99, hidden_size=32, n_layer=2, n_head=4, **IDS),
    "gpt_oss": hf.GptOssConfig(**GROUPED, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=3),
}  # fmt: skip
ENCODERS = {
    "bert": hf.BertConfig(**SMALL),
    "distilbert": hf.DistilBertConfig(
        vocab_size=99,
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=64,
        pad_token_id=1,
    ),
    "modernbert": hf.ModernBertConfig(
        **SMALL,
        cls_token_id=0,
        sep_token_id=2,
        global_attn_every_n_layers=2,
        local_attention=4,
        reference_compile=False,
    ),
}
PAIRS = {
    "t5": hf.T5Config(
        vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=1, pad_token_id=1,
        eos_token_id=2,
    ),
    "bart": hf.BartConfig(
        vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, decoder_start_token_id=2,
        forced_eos_token_id=None, **IDS,
    ),
}  # fmt: skip
# These count positions from the first key, padding or not, unless they are given.
ABSOLUTE = {"gpt2", "gpt_neo"}
# These have no scaled_dot_product_attention of their own.
EAGER_ONLY = {"gemma2", "gpt_neo", "bloom", "gpt_oss"}
ALL = [
    (name, how)
    for name in (*DECODERS, *ENCODERS, *PAIRS)
    for how in (["eager"] if name in EAGER_ONLY else ["eager", "sdpa"])
]


def model(name, how):
    torch.manual_seed(0)
    if name in DECODERS:
        auto, config = hf.AutoModelForCausalLM, DECODERS[name]
    elif name in ENCODERS:
        auto, config = hf.AutoModelForMaskedLM, ENCODERS[name]
    else:
        auto, config = hf.AutoModelForSeq2SeqLM, PAIRS[name]
    made = auto.from_config(config, attn_implementation=how).eval()
    # Random initialisation attends nearly evenly; sharper queries look more like a trained model.
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    return made


def batch(name):
    """Three samples, padded by 2, 3 and 0 tokens (id 1), on the left for decoders and on the right for others."""
    torch.manual_seed(1)
    ids = torch.randint(3, 99, (3, 9))
    kept = torch.ones_like(ids)
    for item, pads in enumerate((2, 3)):
        where = slice(0, pads) if name in DECODERS else slice(-pads, None)
        ids[item, where], kept[item, where] = 1, 0
    # Every text ends as texts do, so that its end is taught.
    ids[torch.arange(3), kept.cumsum(1).argmax(1)] = 2
    inputs = {"input_ids": ids, "attention_mask": kept}
    if name in ABSOLUTE:
        inputs["position_ids"] = (kept.cumsum(1) - 1).clamp(min=0)
    if name not in ENCODERS:
        inputs["labels"] = ids.masked_fill(kept == 0, -100)
    return inputs


def spoil_mask(module, change):
    """Let a module see another mask: every argument of four axes is one."""

    def hook(_, args, kwargs):
        def spoilt(value):
            return change(value) if isinstance(value, torch.Tensor) and value.ndim == 4 else value

        return tuple(map(spoilt, args)), {name: spoilt(value) for name, value in kwargs.items()}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def opened(mask):
    """A mask that hides nothing."""
    return torch.ones_like(mask) if mask.dtype == torch.bool else torch.zeros_like(mask)


def inverted(mask):
    """A mask that hides what it should keep."""
    return ~mask if mask.dtype == torch.bool else torch.where(mask < -1000, 0.0, torch.finfo(mask.dtype).min)
