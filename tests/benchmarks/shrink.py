"""Configurations of a library made small by what their numbers are called, each from the defaults of its class."""

import re

VOCAB, WIDTH, HEADS, LAYERS, WINDOW = 96, 32, 4, 2, 5
# The first name that fits says how small a number becomes; None leaves it. Smaller defaults stay.
SMALL = [
    # These choose keys by content, or cut them in texts longer than ours: they see all of a short text.
    (r"index_topk|keep_window_size|indexer_budget", None),
    (r"type_vocab_size|.*audio_vocab_size|num_codebooks", None),
    (r".*vocab_size.*|.*group_vocab", VOCAB),
    (r"max_window_layers|first_k_dense_replace|num_dense_layers|num_kv_shared_layers", 0),
    (r"(num_)?(hidden|encoder|decoder|n)_?layers?|num_(encoder_|decoder_)?layers|n_layers?|num_layers?|depth", LAYERS),
    (r".*(sliding_window|window_size|window_len|chunk_size|sliding_window_size|local_attention|attention_window)", WINDOW),
    (r".*(max_position_embeddings|n_positions|max_seq_len|model_max_length|max_target_positions|max_source_positions)", 64),
    (r"n_ctx|max_len", 64),
    (r".*(kv|key_value|query_groups)_?heads.*|.*num_kv_heads|multi_query_group_num|n_head_kv", 2),
    (r".*(n|num|attention|key|value)_heads?|.*num_.*heads", HEADS),
    (r"(?!qk_).*rotary_dim|d_rel|qk_nope_head_dim", 4),
    (r".*(head_dim|d_head|d_kv|kv_channels|head_size|head_v_dim|head_k_dim)", 8),
    (r".*lora_rank|.*_rank|dt_rank", 8),
    (r"num_experts_per_tok.*|.*topk|top_k.*|moe_k|.*top_k|num_selected_experts", 2),
    (r"n_group|topk_group|num_expert_group|n_groups|mamba_n_?groups|mamba_ngroups", 1),
    (r".*num_.*shared_experts|n_shared_experts", 1),
    (r".*(num|routed|local)_?.*experts", 4),
    (r".*(intermediate|ffn|d_ff|inner|mlp|feed_forward).*(size|dim)|d_ff|dff|ffn_hidden_size|.*_ffn_dim|n_inner", 48),
    (r".*(hidden_size|d_model|n_embd|embed_dim|embedding_size|hidden_dim|emb_dim|proj_dim|width|lru_width|d_embed)", WIDTH),
    (r"dim|.*_hidden_size.*", WIDTH),
    (r".*(d_state|state_size|ssm_state.*)", 4),
    (r"image_size", 16),
    (r"patch_size", 4),
]  # fmt: skip
RULES = [(re.compile(name), size) for name, size in SMALL]
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# What names do not tell: numbers that must fit each other, and what a class has no default for.
MAMBA_HEADS = {"mamba_n_heads": HEADS, "mamba_d_head": 16, "mamba_expand": 2}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}
FIXED = {
    "bamba": {**MAMBA_HEADS, "attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v2": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "dory": {
        "num_hidden_layers": 3,
        "n_input_layers": 1,
        "n_recurrent_layers": 1,
        "n_output_layers": 1,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "dots1": {**ROUTED, "n_group": 1, "topk_group": 1},
    "falcon_h1": {**MAMBA_HEADS, "mamba_d_ssm": 64},
    "granitemoehybrid": {**MAMBA_HEADS, "layer_types": ["linear_attention", "full_attention"]},
    "hrm_text": {"num_hidden_layers": 16, "num_layers_per_stack": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"qk_head_dim": 12},
    "mamba2": {"head_dim": 16},
    "ministral": {
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": WINDOW,
    },
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [8, 24], "axial_pos_shape": [4, 6]},
    "xlstm": {"embedding_dim": WIDTH, "num_heads": 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
        "mamba_dt_rank": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
}
# A list that holds no more kinds than these says what each layer is, not its number.
FEW = 5
SAID_ELSEWHERE = ("label2id", "id2label", "model_type", "transformers_version", "architectures")


def shrunk(config_class, **fixed):
    """A small configuration of a class, with `fixed` values where the names do not tell."""
    said = config_class().to_dict()
    decoder = {"is_decoder": True} if "is_decoder" in said else {}
    return config_class(**{**_shrunk(said), **decoder, **fixed})


def _shrunk(said):
    depth = next((said[name] for name in DEPTHS if isinstance(said.get(name), int)), None)
    kept = _kept(said, depth)
    heads = next(
        (said[name] for name in ("num_attention_heads", "n_head", "num_heads") if name in said), None
    )
    small = {}
    for name, value in said.items():
        if name in SAID_ELSEWHERE:
            continue
        if name in DEPTHS:
            small[name] = len(kept)
        elif "key_value_heads" in name and value == heads:
            small[name] = HEADS
        else:
            small[name] = _value(name, value, depth, kept)
    return {**small, **FIXED.get(said.get("model_type"), {})}


def _kept(said, depth):
    """Which layers of the defaults stay: the first of every kind, and two at least."""
    lists = [
        value
        for value in said.values()
        if isinstance(value, list) and len(value) == depth and len(set(map(str, value))) <= FEW
    ]
    kinds = [str(kind) for kind in zip(*lists, strict=True)]
    first = sorted(kinds.index(kind) for kind in set(kinds))
    return first if len(first) > 1 else [0, 1]


def _value(name, value, depth, kept):
    if isinstance(value, dict) and value and all(key.isdigit() for key in value):
        return {str(new): value[old] for new, layer in enumerate(kept) for old in value if int(old) == layer}
    if isinstance(value, dict):
        return _shrunk(value) if "model_type" in value else value
    if isinstance(value, list) and len(value) == depth:
        return [_value(name, value[layer], None, kept) for layer in kept]
    return _number(name, value) if type(value) is int else value


def _number(name, value):
    if name.endswith(("token_id", "token_index")):
        return value % VOCAB
    for pattern, size in RULES:
        if pattern.fullmatch(name):
            return value if size is None else min(value, size)
    return value
