"""MSK223: biases by positions that the weights have, lack, or have with the wrong sign; by transformers' own models."""

import functools
import json

import numpy as np
import pytest
import torch
from transformers import BloomConfig, FalconConfig, MptConfig, T5Config
from transformers.models.bloom import modeling_bloom as bloom
from transformers.models.falcon import modeling_falcon as falcon
from transformers.models.mpt import modeling_mpt as mpt
from transformers.models.t5.modeling_t5 import T5Attention

from maskcli.diagnostics.rules.biases import _sizes
from maskcli.meant.alibi import alibi_slopes
from maskcli.meant.model_config import config_of, read_config
from tests.diagnostics.attention import DTYPES, SIDES, causal, loud, padding, report, softmax, the

LENGTH, HEADS, WIDTH = 48, 4, 64
IDS = {"vocab_size": 99, "hidden_size": WIDTH}
CONFIGS = {
    "bloom": BloomConfig(**IDS, n_head=HEADS, n_layer=2),
    "mpt": MptConfig(vocab_size=99, d_model=WIDTH, n_heads=HEADS, n_layers=2, max_seq_len=64),
    "falcon": FalconConfig(**IDS, num_attention_heads=HEADS, num_hidden_layers=2, alibi=True),
}
MODELS = {"bloom": bloom.BloomForCausalLM, "mpt": mpt.MptForCausalLM, "falcon": falcon.FalconForCausalLM}
BUILDERS = {
    "bloom": (bloom, "build_alibi_tensor"),
    "mpt": (mpt, "build_mpt_alibi_tensor"),
    "falcon": (falcon, "build_alibi_tensor"),
}
SICK = {"applied": 1.0, "missing": 0.0, "reversed": -1.0}
dtypes = pytest.mark.parametrize("dtype", list(DTYPES))
sides = pytest.mark.parametrize("side", SIDES)


def fused(name, module):
    """The linear layers that make queries, keys and values of a model, in the order of its layers."""
    leaf = {"bloom": "query_key_value", "mpt": "Wqkv", "falcon": "query_key_value"}[name]
    return [each for path, each in module.named_modules() if path.endswith(leaf)]


def apart(name, joined):
    """Queries and keys [B, H, L, D] of what such a layer gives: split by head in Bloom, and not in MPT."""
    batch, length, _ = joined.shape
    if name == "bloom":
        q, k, _ = joined.view(batch, length, HEADS, 3, -1).unbind(3)
    elif name == "mpt":
        q, k, _ = (part.view(batch, length, HEADS, -1) for part in joined.chunk(3, dim=2))
    else:
        shared = joined.view(batch, length, HEADS + 2, -1)
        q, k = shared[:, :, :-2], shared[:, :, [-2]]
    return q.transpose(1, 2), k.transpose(1, 2)


@functools.cache
def run_of(name, state, dtype, side):
    """Weights, queries and keys of a real model in which the bias is applied, missing or reversed."""
    torch.manual_seed(0)
    config = CONFIGS[name]
    config._attn_implementation = "eager"
    model = MODELS[name](config).to(DTYPES[dtype]).eval()
    room, builder = BUILDERS[name]
    right = getattr(room, builder)
    kept = []
    hooks = [layer.register_forward_hook(lambda _, __, out: kept.append(out)) for layer in fused(name, model)]
    real = torch.from_numpy(padding((2, HEADS, LENGTH, LENGTH), side))
    try:
        setattr(room, builder, lambda *args, **more: right(*args, **more) * SICK[state])
        with torch.no_grad():
            ids = torch.randint(5, 99, (2, LENGTH)).masked_fill(~real, 0)
            out = model(ids, attention_mask=real.long(), output_attentions=True, use_cache=False)
    finally:
        setattr(room, builder, right)
        for hook in hooks:
            hook.remove()
    arrays = {"attention_mask": real.long()}
    states = {}
    for layer, (weights, joined) in enumerate(zip(out.attentions, kept, strict=True)):
        arrays[f"attentions.{layer}"] = weights
        states[f"query.{layer}"], states[f"key.{layer}"] = apart(name, joined)
    return arrays, states


def declared(name):
    whole = CONFIGS[name].to_dict() | {"architectures": [MODELS[name].__name__]}
    return config_of(json.loads(json.dumps(whole, default=str)), {}, "config.json", "--model")


@pytest.mark.combinations
@dtypes
@sides
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("state", SICK)
@pytest.mark.parametrize("saved", ["with q and k", "weights alone"])
def test_alibi_of_real_models(name, state, dtype, side, saved):
    arrays, states = run_of(name, state, dtype, side)
    found = report(arrays | (states if saved == "with q and k" else {}), model=declared(name))
    assert loud(found) == ([] if state == "applied" else ["MSK223"])
    assert "MSK223" not in {each.code for each in found.skipped}
    if state != "applied":
        one = the(found, "MSK223")
        assert one.tensors == ("attentions.0", "attentions.1")
        # With a padding mask, transformers adds the bias of Falcon twice.
        times = 2 if name == "falcon" else 1
        assert one.evidence["slope"] == pytest.approx(times * SICK[state], abs=0.05)
        assert ("is missing" if state == "missing" else "wrong sign") in one.message


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 20, 40, 112])
def test_slopes_are_those_of_the_libraries(heads):
    ones = torch.ones(1, 2, dtype=torch.int64)
    of_bloom = bloom.build_alibi_tensor(ones, heads, torch.float32).reshape(heads, 2)[:, 1]
    assert alibi_slopes({"model_type": "bloom", "n_head": heads}) == pytest.approx(
        of_bloom.tolist(), rel=1e-5
    )
    of_mpt = mpt.build_mpt_alibi_tensor(heads, 2).reshape(heads, 2)
    read = alibi_slopes({"model_type": "mpt", "n_heads": heads, "attn_config": {"alibi": True}})
    assert read == pytest.approx((of_mpt[:, 1] - of_mpt[:, 0]).tolist(), rel=1e-5)
    of_falcon = falcon.build_alibi_tensor(ones, heads, torch.float32).reshape(heads, 2)[:, 1] / 8
    said = {"model_type": "falcon", "alibi": True, "num_attention_heads": heads, "hidden_size": 64 * heads}
    assert alibi_slopes(said) == pytest.approx(of_falcon.tolist(), rel=1e-2)


@pytest.mark.parametrize(
    "said",
    [
        {"model_type": "llama"},
        {"model_type": "falcon", "alibi": False, "hidden_size": 64},
        {"model_type": "falcon", "alibi": True},
        {"model_type": "mpt", "attn_config": {"alibi": False}},
        {"model_type": "mpt", "attn_config": {"alibi": True, "alibi_bias_max": 16}},
        {"model_type": "baichuan", "hidden_size": 4096},
        {"model_type": "jais", "position_embedding_type": "learned"},
        {"model_type": "bloom", "num_attention_heads": 10**9},
        {"model_type": "bloom", "num_attention_heads": True},
    ],
)
def test_other_models_have_no_slopes(said):
    assert alibi_slopes({"num_attention_heads": 8} | said) is None


@pytest.mark.parametrize(
    "said",
    [
        {"model_type": "baichuan", "hidden_size": 5120},
        {"model_type": "jais", "position_embedding_type": "alibi"},
        {"model_type": "RefinedWeb", "alibi": True, "hidden_size": 8},
    ],
)
def test_models_outside_of_transformers_have_the_slopes_of_the_paper(said):
    assert alibi_slopes({"num_attention_heads": 8} | said) == tuple(2.0**-n for n in range(1, 9))


# Biases that were saved


SHAPE = (2, HEADS, 40, 40)


def products(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    q, k = (rng.normal(size=(*SHAPE[:3], 16)) for _ in range(2))
    return q, k, scale * q @ k.transpose(0, 1, 3, 2) / 4


def slopes():
    made = bloom.build_alibi_tensor(torch.ones(2, SHAPE[3], dtype=torch.int64), HEADS, torch.float32)
    return made.reshape(2, HEADS, 1, SHAPE[3]).numpy()


def buckets():
    """T5's own relative bias [1, H, Q, K], as large as trained ones are."""
    torch.manual_seed(0)
    config = T5Config(d_model=16, d_kv=4, num_heads=HEADS, num_layers=1, is_decoder=True)
    attention = T5Attention(config, has_relative_attention_bias=True)
    with torch.no_grad():
        attention.relative_attention_bias.weight.normal_(0, 3)
        return attention.compute_bias(SHAPE[2], SHAPE[3]).numpy()


BIASES = {"alibi": slopes, "t5": buckets}
FORMS = {
    "tensor": lambda bias: {"position_bias": bias},
    "blocks": lambda bias: {"alibi": bias.reshape(-1, *bias.shape[2:])},
    "mask": lambda bias: {"attn_mask": np.where(causal(SHAPE), bias, -np.inf)},
}


def to(arrays, dtype):
    return {name: torch.from_numpy(np.array(values)).to(DTYPES[dtype]) for name, values in arrays.items()}


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("state", SICK)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("beside", ["q and k", "scores", "nothing"])
def test_saved_biases(kind, form, state, dtype, beside):
    bias = BIASES[kind]()
    q, k, scores = products(scale=0.1 if beside == "nothing" else 1.0)
    weights = softmax(np.where(causal(SHAPE), scores + SICK[state] * bias, -1e30))
    saved = {"q and k": {"query.0": q, "key.0": k}, "scores": {"scores.0": scores}, "nothing": {}}[beside]
    found = report(to({"attentions.0": weights} | FORMS[form](bias) | saved, dtype), expect="causal")
    # Scores without the bias look like those that hold it when the bias was not applied.
    open_ = state == "missing" and beside == "scores"
    if open_ and not loud(found):
        assert "MSK223" in {each.code for each in found.skipped}
        return
    assert loud(found) == ([] if state == "applied" else ["MSK223"])


@dtypes
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_large_scores_hide_a_small_bias(dtype, scale):
    _, _, scores = products(scale=scale)
    weights = softmax(np.where(causal(SHAPE), scores, -1e30))
    found = report(to({"attentions.0": weights, "alibi": 0.1 * slopes()}, dtype), expect="causal")
    assert loud(found) == []
    (skipped,) = [each for each in found.skipped if each.code == "MSK223"]
    assert "query and key" in skipped.needs[0]


@dtypes
def test_scores_that_hold_the_bias_already(dtype):
    _, _, scores = products()
    held = scores + slopes()
    weights = softmax(np.where(causal(SHAPE), held, -1e30))
    found = report(to({"attentions.0": weights, "scores.0": held, "alibi": slopes()}, dtype), expect="causal")
    assert loud(found) == []


@dtypes
def test_a_model_without_bias_is_not_asked(dtype, tmp_path):
    _, _, scores = products()
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_attention_heads": HEADS}
        )
    )
    arrays = to({"attentions.0": softmax(np.where(causal(SHAPE), scores, -1e30))}, dtype)
    found = report(arrays, model=read_config(str(tmp_path)))
    assert loud(found) == []
    assert [each.needs for each in found.skipped if each.code == "MSK223"] == [
        ("a saved bias, or --model with ALiBi",)
    ]


@pytest.mark.parametrize(
    ("saved", "sizes"),
    [
        ((1, 9), (1, 1, 1, 9)), ((8, 9), (1, 1, 8, 9)), ((3, 1, 9), (1, 3, 1, 9)), ((3, 8, 9), (1, 3, 8, 9)), ((1, 8, 9), (1, 1, 8, 9)),
        ((6, 8, 9), (2, 3, 8, 9)), ((6, 1, 9), (2, 3, 1, 9)), ((2, 3, 8, 9), (2, 3, 8, 9)), ((1, 3, 8, 9), (1, 3, 8, 9)),
        ((2, 1, 1, 9), (2, 1, 1, 9)), ((9,), None), ((1, 2, 3, 8, 9), None), ((3, 8, 8), None), ((7, 9), None), ((2, 8, 9), None),
        ((4, 8, 9), None), ((3, 3, 8, 9), None), ((2, 2, 8, 9), None), ((2, 3, 7, 9), None), ((1, 3, 1, 1), None),
    ],
)  # fmt: skip
def test_biases_of_all_sizes(saved, sizes):
    """Two samples, three heads, eight queries, nine keys: [H, Q, K] and [B*H, Q, K] are told apart."""
    assert _sizes(saved, (2, 3, 8, 9)) == sizes
