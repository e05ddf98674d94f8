"""Tiny random models of many architectures, run as people run them, with what people save: attention maps, ids and masks."""

import inspect
import re
import tempfile
from functools import cache
from typing import NamedTuple

import torch
import transformers

from maskcli.meant.model_config import read_config

PAD, BOS, EOS, VOCAB = 0, 1, 2, 100
LENGTH, PADS, STEPS, CACHE, WINDOW = 12, (5, 0, 2), 3, 20, 5
TARGET, TARGET_PADS = 8, (0, 3, 1)
# Standard deviation of the attention parameters of a model that has something to say: heads from sharp to flat.
TRAINED = 0.24

COMMON = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
}  # fmt: skip
SMALL_HEADS = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SLIDING = {"sliding_window": WINDOW}
MIXED = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, **SLIDING}
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "head_dim": 4,
    "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip

DECODERS = {
    "gpt2": {},
    "gpt_neo": {"num_hidden_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": WINDOW},
    "gptj": {"rotary_dim": 4},
    "gpt_neox": {},
    "gpt_bigcode": {},
    "openai-gpt": {},
    "bloom": {},
    "mpt": {},
    "falcon": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "llama": {},
    "mistral": SLIDING,
    "mixtral": {**SLIDING, **EXPERTS},
    "qwen2": {**MIXED, "use_sliding_window": True},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": SMALL_HEADS,
    "qwen3_moe": {**SMALL_HEADS, **EXPERTS},
    "gemma": SMALL_HEADS,
    "gemma2": {**SMALL_HEADS, **MIXED},
    "gemma3_text": {**SMALL_HEADS, **MIXED},
    "phi": {},
    "phi3": SLIDING,
    "phimoe": {**SLIDING, **EXPERTS},
    "cohere": {},
    "cohere2": MIXED,
    "olmo": {},
    "olmo2": {},
    "olmo3": MIXED,
    "olmoe": EXPERTS,
    "stablelm": {},
    "starcoder2": SLIDING,
    "granite": {},
    "granitemoe": EXPERTS,
    "gpt_oss": {**SMALL_HEADS, **EXPERTS, **MIXED},
    "llama4_text": {
        **SMALL_HEADS, **EXPERTS, "num_hidden_layers": 4, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 48,
        "layer_types": ["chunked_attention", "full_attention"] * 2,
    },
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "biogpt": {},
    "xglm": {"ffn_dim": 48},
    "codegen": {"rotary_dim": 4},
    "minimax": {**SMALL_HEADS, **EXPERTS},
    "smollm3": {},
    "glm": SMALL_HEADS,
    "glm4": SMALL_HEADS,
    "nemotron": {},
    "persimmon": {},
    "exaone4": {**MIXED, **SMALL_HEADS},
    "arcee": {},
    "modernbert-decoder": {"num_hidden_layers": 4, "local_attention": WINDOW, "layer_types": MIXED["layer_types"]},
    "ctrl": {"dff": 48},
    "diffllama": {},
    "lfm2": {"layer_types": ["full_attention", "conv"]},
    "bert": {"is_decoder": True},
    "roberta": {"is_decoder": True},
}  # fmt: skip
ENCODERS = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "distilbert": {"hidden_dim": 48},
    "electra": {},
    "albert": {},
    "deberta": {"pos_att_type": ["p2c", "c2p"], "relative_attention": True},
    "deberta-v2": {"pos_att_type": ["p2c", "c2p"], "relative_attention": True},
    "mpnet": {},
    "modernbert": {"num_hidden_layers": 4, "local_attention": 8, "global_attn_every_n_layers": 2},
    "longformer": {"attention_window": [8, 8]},
    "funnel": {
        "architectures": ["FunnelModel"],
        "num_hidden_layers": None,
        "block_sizes": [1, 1],
        "d_model": 32,
        "n_head": 4,
        "d_head": 8,
        "d_inner": 48,
    },
    "big_bird": {"attention_type": "original_full"},
    "convbert": {},
    "squeezebert": {"embedding_size": 32},
    "megatron-bert": {},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roformer": {},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32, "embedding_size": 32},
    "esm": {"position_embedding_type": "rotary"},
    "nomic_bert": {},
    "eurobert": {},
    "fnet": {},
}
TWO_SIDES = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "decoder_start_token_id": EOS,
}  # fmt: skip
T5 = {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "decoder_start_token_id": PAD}
PAIRS = {
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "switch_transformers": {**T5, "num_experts": 2},
    "bart": TWO_SIDES,
    "mbart": TWO_SIDES,
    "pegasus": TWO_SIDES,
    "marian": TWO_SIDES,
    "plbart": TWO_SIDES,
    "m2m_100": TWO_SIDES,
    "blenderbot": TWO_SIDES,
    "blenderbot-small": TWO_SIDES,
    "led": {**TWO_SIDES, "attention_window": [8, 8]},
}  # fmt: skip
IMAGES = {
    "vit": {"image_size": 16, "patch_size": 4},
    "deit": {"image_size": 16, "patch_size": 4},
    "beit": {"image_size": 16, "patch_size": 4},
    "dinov2": {"image_size": 16, "patch_size": 4, "mlp_ratio": 2},
    "swin": {"num_hidden_layers": None, "num_attention_heads": None, "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
}  # fmt: skip


class Batch(NamedTuple):
    """Ids [B, L], which are real (1) and not (0), and positions that do not count the padding."""

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


def batch(side, length=LENGTH, pads=PADS, seed=0):
    """Three texts of one length: padded left or right to it, or with nothing to pad ("none")."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (len(pads), length), generator=generator)
    mask = torch.ones_like(ids)
    for item, count in enumerate(pads if side != "none" else [0] * len(pads)):
        mask[item, slice(0, count) if side == "left" else slice(length - count, length)] = 0
    return Batch(torch.where(mask == 1, ids, PAD), mask, (mask.cumsum(1) - 1).clamp(min=0))


@cache
def model(task, name, dtype=torch.float32, trained=True, how="eager"):
    """A tiny model, in eager mode unless told; `trained` draws its attention parameters wide, so that heads are not nearly uniform."""
    table, kind = {
        "decoder": (DECODERS, transformers.AutoModelForCausalLM),
        "encoder": (ENCODERS, transformers.AutoModel),
        "pair": (PAIRS, transformers.AutoModelForSeq2SeqLM),
        "image": (IMAGES, transformers.AutoModel),
    }[task]
    said = {key: value for key, value in {**COMMON, **table[name]}.items() if value is not None}
    if task == "image":
        said = {
            key: value
            for key, value in said.items()
            if "token" not in key and key not in ("vocab_size", "max_position_embeddings")
        }
    torch.manual_seed(0)
    built = (
        kind.from_config(transformers.AutoConfig.for_model(name, **said), attn_implementation=how)
        .eval()
        .to(dtype)
    )
    for parameter, values in built.named_parameters():
        if trained and values.ndim >= 2 and re.search("att", parameter, re.IGNORECASE):
            values.data.normal_(0, TRAINED)
    return built


@cache
def config(task, name):
    """What maskcli reads from the folder that the model's config is saved to, as save_pretrained would."""
    built = model(task, name)
    built.config.architectures = [type(built).__name__]
    with tempfile.TemporaryDirectory() as folder:
        built.config.save_pretrained(folder)
        return read_config(folder)


def named(maps, prefix="attentions"):
    """Maps as `attentions.0`, `attentions.1`, …: what torch.save makes of the tuple; layers without a map are left out."""
    return {
        f"{prefix}.{layer}": each.detach().clone()
        for layer, each in enumerate(maps or ())
        if each is not None
    }


def options(task, name, given):
    """Positions for the models that take them: what generate() passes under left padding."""
    takes = inspect.signature(model(task, name).forward).parameters
    return {"position_ids": given.positions + begin(name)} if "position_ids" in takes else {}


def begin(name):
    """The position of a first token: fairseq's models count from behind the padding id on."""
    return PAD + 1 if "roberta" in name else 0


@cache
def forward(task, name, side, dtype=torch.float32, trained=True):
    """One forward pass over a padded batch, and what is saved of it."""
    given = batch(side)
    extra, quiet = {}, {}
    if task == "decoder":
        extra = options(task, name, given)
    if task == "pair":
        target = batch("right" if side == "right" else "none", TARGET, TARGET_PADS, 1)
        target.ids[:, 0] = model(task, name, dtype, trained).config.decoder_start_token_id
        extra = {"decoder_input_ids": target.ids, "decoder_attention_mask": target.mask}
        quiet = {"use_cache": False}
    with torch.no_grad():
        out = model(task, name, dtype, trained)(
            input_ids=given.ids, attention_mask=given.mask, output_attentions=True, **extra, **quiet
        )
    saved = {"input_ids": given.ids, "attention_mask": given.mask, **extra}
    for kind in ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions"):
        if task == "pair" or kind == "attentions":
            saved |= named(out.get(kind), kind)
    return saved


@cache
def generation(name, side, static=False, dtype=torch.float32):
    """A prefill and some decode steps with a cache: one dump for each call of the model."""
    built, given = model("decoder", name, dtype), batch(side)
    cache = (
        transformers.StaticCache(config=built.config, max_cache_len=CACHE)
        if static
        else transformers.DynamicCache(config=built.config)
    )
    ids, mask, positions = given
    positions = positions + begin(name)
    dumps = []
    for step in range(STEPS + 1):
        extra = {"position_ids": positions} if options("decoder", name, given) else {}
        with torch.no_grad():
            out = built(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                output_attentions=True,
                **extra,
            )
        dumps.append({"input_ids": ids, "attention_mask": mask, **extra, **named(out.attentions)})
        ids = torch.full((len(ids), 1), 7 + step)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
    return dumps


@cache
def images(name, dtype=torch.float32):
    """The maps of a vision model over two random pictures."""
    built = model("image", name, dtype)
    pictures = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        return named(built(pixel_values=pictures, output_attentions=True).attentions)
