"""A model's config.json says what its layers really do; a file that nobody has checked cannot break anything."""

import json

import numpy as np
import pytest
import torch
import transformers

from maskcli.errors import MaskcliError
from maskcli.masks.layout import Layout
from maskcli.masks.spec import build, parse
from maskcli.meant import facts, metadata, settling
from maskcli.meant.model_config import MAX_LAYERS, read_config

SIZES = {
    "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 6, "vocab_size": 99, "intermediate_size": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS = {name: SIZES[name] for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
KV = SIZES | {"num_key_value_heads": 2}
GPT = IDS | {"n_embd": 32, "n_head": 4, "n_layer": 6}
D = IDS | {"d_model": 32, "decoder_start_token_id": 1}
WINDOW = {"sliding_window": 8}
BART = {
    "encoder_layers": 3, "decoder_layers": 5, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
}  # fmt: skip
# The config's class, its options, the task, and whether positions are added to the embeddings.
MODELS = {
    "llama": ("Llama", KV, "CausalLM", False),
    "mistral": ("Mistral", KV | WINDOW, "CausalLM", False),
    "mistral without a window": ("Mistral", KV | {"sliding_window": None}, "CausalLM", False),
    "mixtral": ("Mixtral", KV | WINDOW | {"num_local_experts": 2}, "CausalLM", False),
    "gemma2": ("Gemma2", KV | WINDOW | {"head_dim": 8}, "CausalLM", False),
    "gemma3": ("Gemma3Text", KV | WINDOW | {"head_dim": 8}, "CausalLM", False),
    "qwen2": ("Qwen2", KV | WINDOW, "CausalLM", False),
    "qwen2 sliding": ("Qwen2", KV | WINDOW | {"use_sliding_window": True, "max_window_layers": 2}, "CausalLM", False),
    "qwen3": ("Qwen3", KV | WINDOW | {"head_dim": 8}, "CausalLM", False),
    "qwen3 sliding": (
        "Qwen3", KV | WINDOW | {"use_sliding_window": True, "max_window_layers": 2, "head_dim": 8}, "CausalLM", False,
    ),
    "gpt2": ("GPT2", GPT, "LMHeadModel", True),
    "gpt_neo": (
        "GPTNeo",
        IDS | {"hidden_size": 32, "num_heads": 4, "num_layers": 6, "attention_types": [[["global", "local"], 3]], "window_size": 8},
        "CausalLM", True,
    ),
    "gpt_neox": ("GPTNeoX", SIZES, "CausalLM", False),
    "gptj": ("GPTJ", GPT | {"rotary_dim": 4}, "CausalLM", False),
    "gpt_bigcode": ("GPTBigCode", GPT, "CausalLM", True),
    "llama4": (
        "Llama4Text", KV | {"intermediate_size_mlp": 64, "num_local_experts": 2, "attention_chunk_size": 8, "head_dim": 8},
        "CausalLM", False,
    ),
    "gpt_oss": ("GptOss", KV | WINDOW | {"num_local_experts": 4, "head_dim": 8}, "CausalLM", False),
    "cohere2": ("Cohere2", KV | WINDOW, "CausalLM", False),
    "olmo3": ("Olmo3", KV | WINDOW, "CausalLM", False),
    "phi3": ("Phi3", KV | WINDOW, "CausalLM", False),
    "starcoder2": ("Starcoder2", KV | WINDOW, "CausalLM", False),
    "modernbert": ("ModernBert", SIZES | {"local_attention": 8}, "MaskedLM", False),
    "modernbert decoder": ("ModernBertDecoder", SIZES | {"local_attention": 8}, "CausalLM", False),
    "bert": ("Bert", SIZES, "MaskedLM", True),
    "bert decoder": ("Bert", SIZES | {"is_decoder": True}, "LMHeadModel", True),
    "roberta": ("Roberta", SIZES, "MaskedLM", True),
    "electra": ("Electra", SIZES | {"embedding_size": 32}, "MaskedLM", True),
    "distilbert": ("DistilBert", IDS | {"dim": 32, "n_heads": 4, "n_layers": 6, "hidden_dim": 64}, "MaskedLM", True),
    "bloom": ("Bloom", IDS | {"hidden_size": 32, "n_head": 4, "n_layer": 6}, "CausalLM", None),
    "falcon with alibi": ("Falcon", SIZES | {"alibi": True}, "CausalLM", False),
    "falcon": ("Falcon", SIZES | {"alibi": False}, "CausalLM", False),
    "opt": ("OPT", SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32}, "CausalLM", True),
    "biogpt": ("BioGpt", SIZES, "CausalLM", True),
    "xlnet": ("XLNet", D | {"n_head": 4, "n_layer": 6, "d_inner": 64}, "LMHeadModel", None),
    "t5": ("T5", D | {"num_heads": 4, "num_layers": 3, "num_decoder_layers": 5, "d_kv": 8, "d_ff": 64}, "ForConditionalGeneration", None),
    "bart": ("Bart", D | BART, "ForConditionalGeneration", True),
}  # fmt: skip
# Layers whose mask the config does not tell: two-sided windows, permutations.
UNTOLD = {"modernbert": 6, "xlnet": 6}
LENGTH = 24


def config_of(name):
    family, options, task, _ = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**options)
    head = task if task[0].isupper() and task.startswith(("For", "LM")) else f"For{task}"
    config.architectures = [family.removesuffix("Text") + head]
    return config


def supports(config):
    """Which keys each layer of the real model (its decoder, if it has two sides) weighs at all, bool [Q, K]."""
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, config.architectures[0])(config).eval()
    ids = torch.randint(5, 99, (1, LENGTH))
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})
    with torch.no_grad():
        out = model(**inputs, output_attentions=True, use_cache=False)
    maps = out.decoder_attentions if config.is_encoder_decoder else out.attentions
    return [(each[0] > 0).any(0).numpy() for each in maps]


@pytest.mark.combinations
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_layers_do_what_the_config_is_read_to_say(name, tmp_path):
    config = config_of(name)
    config.save_pretrained(tmp_path)
    read = read_config(str(tmp_path))
    assert read_config(str(tmp_path / "config.json")) == read
    real = supports(config)
    assert len(read.layers) == len(real)
    assert read.layers.count(None) == UNTOLD.get(name, 0)
    for spec, seen in zip(read.layers, real, strict=True):
        if spec is not None:
            assert (build(parse(spec), Layout(1, LENGTH, LENGTH)).dense() == seen).all()
    if read.spec is not None and not UNTOLD.get(name):
        # What all layers have in common holds every one of them.
        shared = build(parse(read.spec), Layout(1, LENGTH, LENGTH)).dense()
        assert all((seen <= shared).all() for seen in real)
    assert read.absolute is MODELS[name][3]
    assert (read.pad_id, read.bos_ids, read.eos_ids, read.vocab_size) == (0, (1,), (2,), 99)


@pytest.mark.parametrize(
    "config",
    [
        {
            "model_type": "gemma3n",
            "architectures": ["Gemma3nForConditionalGeneration"],
            "vision_config": {},
            "text_config": KV,
        },
        {
            "model_type": "longformer",
            "architectures": ["LongformerForMaskedLM"],
            "attention_window": [8] * 6,
            **SIZES,
        },
        {
            "model_type": "recurrent_gemma",
            "architectures": ["RecurrentGemmaForCausalLM"],
            "attention_window_size": 8,
            **SIZES,
        },
        {"model_type": "gemma3_text", "use_bidirectional_attention": True, "sliding_window": 8, **SIZES},
        {
            "model_type": "someone_elses",
            "architectures": ["SomeoneForCausalLM"],
            "sliding_window": 8,
            **SIZES,
        },
    ],
    ids=lambda config: config["model_type"],
)
def test_what_cannot_be_told_is_left_open(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert set(read_config(str(tmp_path)).layers) == {None}


def test_ids_of_the_generation_config_count_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7, "vocab_size": 50}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9], "pad_token_id": 3}))
    read = read_config(str(tmp_path))
    assert (read.pad_id, read.eos_ids) == (3, (7, 9))
    declared = facts.Declared(model=read, pad_id=4).with_model()
    assert (declared.pad_id, declared.eos_ids, declared.vocab_size) == (4, (7, 9), 50)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sliding_mask", "sliding:8"),
        ("full_mask", "causal"),
        ("attn_mask", None),
        ("local_mask", "sliding:8"),
    ],
)
def test_the_name_of_a_mask_says_which_layers_it_is_for(name, expected, tmp_path):
    types = ["sliding_attention", "full_attention"]
    config = {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma2",
        "layer_types": types,
        **SIZES,
        **WINDOW,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_config(str(tmp_path))
    assert read.mask(None, name) == expected
    assert [read.mask(layer, name) for layer in (0, 1, 2)] == ["sliding:8", "causal", None]


JUNK = [None, True, -1, 0, 3.5, float("nan"), "", "x", [], [[]], [None], {}, {"a": [1]}, 10**400, "9" * 5000]
FIELDS = (
    "model_type architectures is_decoder is_causal is_encoder_decoder num_hidden_layers sliding_window layer_types attention_types "
    "window_size attention_chunk_size eos_token_id pad_token_id bos_token_id vocab_size text_config vision_config alibi "
    "use_sliding_window position_embedding_type rope_theta decoder_layers use_bidirectional_attention"
).split()


@pytest.mark.combinations
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", ["gpt_neo", "llama", "mistral", "bert"])
def test_no_value_breaks_the_reading(field, kind, tmp_path):
    base = {
        "model_type": kind,
        "architectures": ["LlamaForCausalLM"],
        "sliding_window": 4,
        "num_hidden_layers": 2,
    }
    for value in JUNK:
        (tmp_path / "config.json").write_text(json.dumps(base | {field: value}))
        try:
            read = read_config(str(tmp_path))
        except MaskcliError as error:
            # Python refuses to read numbers of thousands of digits as it does any other broken JSON.
            assert "config.json" in str(error)
            continue
        for spec in {read.spec, *read.layers}:
            assert spec is None or parse(spec)
        assert read.vocab_size is None or read.vocab_size > 0
        assert all(
            isinstance(each, int) and each >= 0 for each in (*read.eos_ids, *read.bos_ids, read.pad_id or 0)
        )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"version https://git-lfs.github.com/spec/v1",
    ],
)
def test_what_is_no_config_is_one_sentence(text, tmp_path):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(MaskcliError, match="is no JSON object"):
        read_config(str(tmp_path))


def test_files_that_cannot_be_a_config(tmp_path):
    with pytest.raises(MaskcliError, match="cannot be read"):
        read_config(str(tmp_path))
    with pytest.raises(MaskcliError, match="cannot be read"):
        read_config(str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_bytes(b"{}" + b" " * 2**24)
    with pytest.raises(MaskcliError, match="at most 16 MiB"):
        read_config(str(tmp_path))


def test_a_number_of_layers_that_nobody_has_is_cut(tmp_path):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 10**12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert len(read_config(str(tmp_path)).layers) == MAX_LAYERS
    config = {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "num_layers": 2,
        "window_size": 4,
    }
    for groups in ([[["global", "local"], 10**12]], [[["local"], 10**12]] * 50):
        (tmp_path / "config.json").write_text(json.dumps(config | {"attention_types": groups}))
        assert len(read_config(str(tmp_path)).layers) <= MAX_LAYERS


# What a file declares of itself

SAID = {
    "expect": "causal & sliding:4; enc*=full", "exact": "true", "pad_id": "3", "eos_id": "2, 7", "from": "mha", "past": "5",
    "for": "generate", "prompt_length": "6", "vocab_size": "99", "ignore_index": "-1", "loss_shift": "data",
}  # fmt: skip


def test_metadata_declares_what_the_options_do():
    declared = metadata.from_metadata(
        {f"maskcli.{key}": value for key, value in SAID.items()} | {"format": "pt", "pad_id": "x"}, "a"
    )
    assert declared == facts.Declared(
        expect=(settling.expectation("causal & sliding:4"), settling.expectation("enc*=full")),
        exact=True, pad_id=3, eos_ids=(2, 7), convention="mha", past=5, purpose="generate", prompt_length=6, vocab_size=99,
        ignore_index=-1, loss_shift="data",
    )  # fmt: skip
    assert metadata.from_metadata({}, "a") == facts.Declared()
    # Options win where they say something.
    assert facts.Declared(pad_id=8, past=0).over(declared).past == 0
    assert facts.Declared(pad_id=8).over(declared).eos_ids == (2, 7)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expect", "causl"), ("expect", "a.npy"), ("expect", "mod.py:f"), ("expect", "x=" + "(" * 99), ("expect", "cross"),
        ("pad_id", "-1"), ("pad_id", "1.5"), ("pad_id", ""), ("pad_id", "9" * 5000), ("pad_id", "٣"), ("eos_id", "2,x"),
        ("from", "sdp"), ("past", "many"), ("for", "fun"), ("prompt_length", "-3"), ("vocab_size", "1e5"),
        ("ignore_index", "--1"), ("loss_shift", "left"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_meant(key, value):
    with pytest.raises(MaskcliError) as caught:
        metadata.from_metadata({f"maskcli.{key}": value}, "dump.safetensors")
    assert str(caught.value)
    if key != "expect":
        assert f"maskcli.{key}" in str(caught.value)
        assert "dump.safetensors" in str(caught.value)


def test_the_support_of_a_model_can_tell():
    """The oracle sees the difference between a window of 8 and one of 9."""
    seen = supports(config_of("mistral"))[0]
    assert not np.array_equal(build(parse("sliding:9"), Layout(1, LENGTH, LENGTH)).dense(), seen)
