"""Names of masks that real code builds: transformers models, transformers' and torch's own builders, captured as they run."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, StaticCache

from maskcli.masks.layout import Layout
from maskcli.masks.spec import build, parse
from maskcli.scene.describe import describe
from maskcli.tensors import from_arrays, roles_of

LENGTH = 14
COMMON = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "vocab_size": 99, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOW = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}
# Model type, what its configuration adds, and the specs that its layers' masks are expected to have.
MODELS = [
    ("llama", {}, {"causal"}),
    ("qwen2", {}, {"causal"}),
    ("qwen3", {"head_dim": 8}, {"causal"}),
    ("phi", {}, {"causal"}),
    ("phi3", {}, {"causal"}),
    ("stablelm", {}, {"causal"}),
    ("starcoder2", {}, {"causal"}),
    ("cohere", {}, {"causal"}),
    ("granite", {}, {"causal"}),
    ("olmo2", {}, {"causal"}),
    ("gpt_neox", {}, {"causal"}),
    ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, {"causal"}),
    ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}, {"causal"}),
    ("mistral", {"sliding_window": 4}, {"sliding:4"}),
    ("mixtral", {"sliding_window": 4, "num_local_experts": 2}, {"sliding:4"}),
    ("gemma2", {"sliding_window": 4, "head_dim": 8}, {"sliding:4", "causal"}),
    ("gemma3_text", {"sliding_window": 4, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}, {"sliding:4", "causal"}),
    ("gpt_oss", {"sliding_window": 4, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}, {"sliding:4", "causal"}),
    ("llama4_text", {"attention_chunk_size": 5, "head_dim": 8, "num_local_experts": 2, "layer_types": ["chunked_attention", "full_attention"]}, {"chunked:5", "causal"}),
    ("bert", {}, {"full"}),
    ("roberta", {}, {"full"}),
    ("electra", {"embedding_size": 32}, {"full"}),
]  # fmt: skip


def inputs(side):
    ids = torch.full((3, LENGTH), 7)
    mask = torch.ones(3, LENGTH, dtype=torch.int64)
    for item, pads in enumerate((3, 1, 0)):
        if pads:
            mask[item, slice(0, pads) if side == "left" else slice(LENGTH - pads, LENGTH)] = 0
    return ids.masked_fill(mask == 0, 0), mask


def captured(model, **arguments):
    """Every 4-D mask that reaches a module while the model runs."""
    seen = {}

    def hook(module, given, named):
        for value in (*given, *named.values()):
            if (
                isinstance(value, torch.Tensor)
                and value.dim() == 4
                and value.shape[1] == 1
                and value.shape[-2] in (1, arguments["input_ids"].shape[1])
            ):
                seen.setdefault((value.data_ptr(), tuple(value.shape)), value.clone())

    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in model.modules()]
    with torch.no_grad():
        model(**arguments)
    for handle in handles:
        handle.remove()
    return list(seen.values())


def model_of(kind, extra):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**COMMON, **extra})
    maker = AutoModel if kind in ("bert", "roberta", "electra") else AutoModelForCausalLM
    return maker.from_config(config, attn_implementation="eager").eval()


def described(mask, **options):
    return describe(roles_of(from_arrays({"attn_mask": mask}))[0], **options)


def without_padding(spec):
    return " & ".join(part for part in spec.split(" & ") if part != "padding") or "full"


@pytest.mark.combinations
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("kind", "extra", "expected"), MODELS, ids=[model[0] for model in MODELS])
def test_models_masks_are_named_exactly(kind, extra, expected, side):
    ids, mask = inputs(side)
    found = {}
    for tensor in captured(model_of(kind, extra), input_ids=ids, attention_mask=mask):
        each = described(tensor)
        assert each.given.convention == "additive"
        assert each.name.exact, (each.name.spec, each.name.wrong)
        assert build(parse(each.name.spec), each.name.layout) == each.given.keep.broadcast_to(
            each.name.layout.shape
        )
        if each.padding:
            assert [left if side == "left" else right for left, right, _ in each.padding] == [3, 1, 0]
        found[without_padding(each.name.spec)] = each
    assert set(found) == expected


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_decode_steps_with_dynamic_and_static_caches(kind):
    model = model_of(kind, {"sliding_window": 4} if kind == "mistral" else {})
    ids, mask = inputs("left")
    for cache in (
        DynamicCache(config=model.config),
        StaticCache(config=model.config, max_cache_len=LENGTH + 6),
    ):
        with torch.no_grad():
            model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache)
        for tensor in captured(model, input_ids=ids[:, -1:], attention_mask=mask, past_key_values=cache):
            each = described(tensor)
            assert each.name.exact
            assert each.given.keep.keys_per_query.reshape(-1).tolist() == (
                [LENGTH - 3, LENGTH - 1, LENGTH] if kind == "llama" else [4, 4, 4]
            )


def test_torch_and_transformers_builders():
    from torch.nn.attention.bias import causal_lower_right, causal_upper_left
    from torch.nn.attention.flex_attention import create_mask
    from transformers import masking_utils

    square = torch.nn.Transformer.generate_square_subsequent_mask(9)
    assert described(square).name.spec == "causal"
    assert described(causal_lower_right(4, 9)._materialize("cpu")).name.spec == "causal"
    assert described(causal_upper_left(4, 9)._materialize("cpu")).name.spec == "causal-top-left"
    flex = create_mask(lambda b, h, q, k: (q >= k) & (q - k < 3), 1, 1, 12, 12, device="cpu")
    assert described(flex).name.spec == "sliding:3"
    documents = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    packed = create_mask(
        lambda b, h, q, k: (documents[q] == documents[k]) & (q >= k), 1, 1, 10, 10, device="cpu"
    )
    assert described(packed).name.spec == "causal & documents:3,5"
    config = AutoConfig.for_model("llama", **COMMON)
    config._attn_implementation = "eager"
    embeds = torch.zeros(1, 10, 32)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1]])
    own = masking_utils.create_causal_mask(config, embeds, None, None, position_ids=positions)
    assert described(own).name.spec == "causal & documents:3,5"
    prefix = masking_utils.create_causal_mask(
        config, embeds, None, None, or_mask_function=lambda b, h, q, k: k < 4
    )
    assert described(prefix).name.spec == "prefix-lm:4"


def test_masks_written_with_numpy():
    p, k = np.arange(30)[:, None], np.arange(30)
    cases = {
        "window:5": abs(p - k) <= 5,
        "dilated:8,4": (abs(p - k) <= 8) & ((p - k) % 4 == 0),
        "window:3 | global:2": (abs(p - k) <= 3) | (k < 2) | (p < 2),
        "blocks:6": p // 6 == k // 6,
        "prefix-lm:7": (k <= p) | (k < 7),
        "causal & (sliding:6 | prefix:3)": (k <= p) & ((p - k < 6) | (k < 3)),
    }
    for spec, dense in cases.items():
        found = described(np.broadcast_to(dense, (30, 30)).copy()).name
        assert (found.spec, found.exact) == (spec, True)
        assert np.array_equal(
            build(parse(found.spec), Layout(1, 30, 30)).dense(), np.broadcast_to(dense, (30, 30))
        )
    # The first keys for every query of one text are a prefix, which padding could be as well: it is told.
    found = described(np.broadcast_to(k < 7, (30, 30)).copy()).name
    assert (found.spec, found.exact, found.aliases) == ("prefix:7", True, ("padding",))
