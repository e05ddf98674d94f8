"""Models of the installed transformers, made small: bugs of the library are found, and what is healthy there is not accused.

Bugs are those of one version, as the page `architectures` tells them.
"""

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.prophetnet import modeling_prophetnet

import maskcli
from tests.benchmarks.sweep import small
from tests.probing.sick import library

CLASSES = {each.model_type: each for each in MODEL_FOR_CAUSAL_LM_MAPPING}
READ = pytest.mark.skipif(
    not transformers.__version__.startswith("5.24."), reason="read in transformers 5.24"
)
# What is said of which modules, with a dynamic and a static cache.
BUGS = {
    "gpt_neo": {"MSK603": ("transformer.h.1.attn.attention",), "MSK608": ("transformer.h.1.attn.attention",)},
    "inkling_text": {"MSK607": ()},
    "recurrent_gemma": {"MSK602": tuple(f"model.layers.{at}.temporal_block.rg_lru" for at in range(2))},
}
# Decoders that were bidirectional in transformers 5.17, and models whose code is unusual and right: layers that are counted two
# ways, positions that are counted from ids, scores that are not scaled.
CAUSAL = ["roformer", "big_bird", "rembert", "megatron-bert", "doge"]
UNUSUAL = ["dory", "roberta", "gemma4_text"]


def probed(name):
    return maskcli.probe(small(CLASSES[name]), cache="dynamic,static")


def loud(report):
    return {each.code: each.tensors for each in report.findings if each.severity != "note"}


@pytest.mark.long
@READ
@pytest.mark.parametrize("name", BUGS)
def test_bugs_of_the_library_are_found(name):
    assert loud(probed(name)) == BUGS[name]


@pytest.mark.long
@READ
def test_streams_of_prophetnet_that_read_each_other_s_positions(monkeypatch):
    assert loud(maskcli.probe(small(CLASSES["prophetnet"]), only="batch,masks")) == {"MSK601": ()}
    attention = modeling_prophetnet.ProphetNetNgramSelfAttention
    monkeypatch.setattr(attention, "get_predict_relative_pos_embeddings", by_stream)
    assert loud(maskcli.probe(small(CLASSES["prophetnet"]), only="batch,masks")) == {}


def by_stream(self, hidden_states, attn_weights, position_ids, predict_relative_position_buckets):
    """ProphetNet's relative positions [B, streams, H, S, keys], each stream's at its own positions."""
    scores = self.relative_pos_embeddings(hidden_states).unflatten(
        -1, (self.num_buckets, self.num_attn_heads)
    )
    buckets = predict_relative_position_buckets[:, None, None].expand(*attn_weights.shape).long()
    return torch.gather(scores.permute(0, 2, 4, 1, 3), -1, buckets)


@pytest.mark.long
@pytest.mark.parametrize("name", CAUSAL)
def test_decoders_that_once_saw_the_future_are_causal(name):
    report = probed(name)
    assert loud(report) == {}
    assert {called.removesuffix(" & padding") for called in names(report)} == {"causal"}


def names(report):
    """What the masks of padded texts are called."""
    from maskcli.diagnostics.verdicts.measured import called_by

    return {called_by(each).spec for each in report.behaviour.seen if "padding" in each.setting}


@pytest.mark.long
@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_and_right_is_not_accused(name):
    assert loud(probed(name)) == {}


def test_an_encoder_has_no_empty_slots():
    report = maskcli.probe(library("bert"), cache="static")
    assert loud(report) == {}
    assert "encoder" in " ".join(report.behaviour.unmeasured)
