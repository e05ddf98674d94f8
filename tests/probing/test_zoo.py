"""Masks measured over the zoo, beside what each architecture is by its papers: every layer, every cell.

A plain pytest takes a share of the architectures, as the zoo of diagnose does.
"""

import re

import numpy as np
import pytest
import torch

from maskcli.probing.plan import Plan
from maskcli.probing.probe import measure
from maskcli.probing.subject import subject_of
from tests.diagnostics import zoo

# Who sees whom, by how far the key is from the query and by the place of both among the real tokens.
WINDOW = zoo.WINDOW


def full(query, key):
    return query == query


def causal(query, key):
    return key <= query


def sliding(query, key, width=WINDOW):
    return (key <= query) & (query - key < width)


def chunked(query, key):
    return (key <= query) & (query // WINDOW == key // WINDOW)


def near(query, key):
    return abs(query - key) <= 4


def short(query, key):
    return sliding(query, key, 3)


# The layers of an architecture, in turn; those of all others are alike.
LAYERS = {
    "gpt_neo": [causal, sliding],
    "mistral": [sliding],
    "mixtral": [sliding],
    "phi3": [sliding],
    "qwen2": [sliding, causal],
    "gemma2": [sliding, causal],
    "gemma3_text": [sliding, causal],
    "cohere2": [sliding, causal],
    "gpt_oss": [sliding, causal],
    "llama4_text": [chunked, causal],
    "lfm2": [causal, short],
    "modernbert": [full, near],
}
DECODERS = [
    "gpt2", "gpt_neo", "gptj", "gpt_neox", "bloom", "opt", "falcon", "llama", "mistral", "mixtral", "qwen2", "qwen3_moe", "gemma2",
    "gemma3_text", "phi3", "cohere2", "gpt_oss", "llama4_text", "deepseek_v3", "lfm2",
]  # fmt: skip
ENCODERS, PAIRS = ["bert", "distilbert", "modernbert"], ["t5", "bart"]
ALL = {
    **dict.fromkeys(DECODERS, "decoder"),
    **dict.fromkeys(ENCODERS, "encoder"),
    **dict.fromkeys(PAIRS, "pair"),
}
SIXTEEN = ["llama", "gemma3_text", "bert", "t5"]
PADS = ("none", "left", "right")


def rule_of(name, seen):
    """What a layer is."""
    if seen.keys == "cross" or (
        ALL[name] == "pair" and "encoder." in seen.module.replace("model.encoder", "encoder")[:8]
    ):
        return full
    layers = LAYERS.get(name, [full if ALL[name] == "encoder" else causal])
    return layers[int(re.search(r"\d+", seen.module)[0]) % len(layers)]


def real_of(seen, item):
    """Which keys are real, and which queries."""
    queries, keys = seen.reached.shape[2:]
    given = seen.layout.real
    real = np.ones(keys, bool) if given is None else np.asarray(given)[item]
    return real if seen.keys != "cross" else np.ones(queries, bool), real


def cells(name, seen, item):
    """The measured mask of a text and the true one, where the query is real and not the key itself."""
    queries, keys = real_of(seen, item)
    measured = seen.reached.dense(item) | seen.soft.dense(item)
    places = keys.cumsum() - 1
    asks = np.arange(len(queries)) if seen.keys == "cross" else places
    true = rule_of(name, seen)(asks[:, None], places[None, :]) & keys
    told = np.broadcast_to(queries[:, None], true.shape)
    if seen.keys == "self":
        told = told & ~np.eye(len(queries), dtype=bool)
    return measured[told], true[told]


def implementations(name):
    """The kernels of an architecture."""
    built = zoo.model(ALL[name], name)
    return ["eager", "sdpa"] if built._supports_sdpa else ["eager"]


def probed(name, how, dtype=torch.float32):
    if how == "sdpa" and not zoo.model(ALL[name], name)._supports_sdpa:
        pytest.skip("has no scaled_dot_product_attention of its own")
    model = zoo.model(ALL[name], name, dtype, True, how)
    return measure(subject_of(model, zoo.VOCAB), Plan(pads=PADS, caches=(), length=18))


def wrong(name, found):
    """Where a layer saw what it should not, and where it did not see what it should."""
    sets = [(seen, *cells(name, seen, item)) for seen in found.seen for item in range(seen.reached.shape[0])]
    more = [
        (seen.module, seen.setting, int((got & ~true).sum()))
        for seen, got, true in sets
        if (got & ~true).any()
    ]
    fewer = [
        (seen.module, seen.setting, int((true & ~got).sum()))
        for seen, got, true in sets
        if (true & ~got).any()
    ]
    return more, fewer


def modules(name):
    """How many modules of an architecture mix positions."""
    layers = zoo.model(ALL[name], name).config.num_hidden_layers
    return 3 * layers if ALL[name] == "pair" else layers


@pytest.mark.combinations
@pytest.mark.parametrize("how", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ALL)
def test_every_cell_of_every_layer(name, how):
    found = probed(name, how)
    assert (wrong(name, found), found.unmeasured) == (([], []), ())
    assert len(found.mixing) == modules(name)
    assert len(found.seen) == modules(name) * len(PADS)


@pytest.mark.parametrize("name", SIXTEEN)
def test_no_wrong_cell_in_bfloat16(name):
    found = probed(name, "sdpa", torch.bfloat16)
    more, _ = wrong(name, found)
    assert (more, len(found.mixing)) == ([], modules(name))
