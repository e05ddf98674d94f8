"""Two bugs of one module are both told, and nothing that follows from one of them is told beside it."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import maskcli
from tests.tracing.families import PAD, WORDS, hugging, sharpened, stepped, texts

# How weights are made wrongly, and what is found of that alone.
MADE = {
    "weak fill": {"MSK104"},
    "added": {"MSK103"},
    "softmax over queries": {"MSK208"},
    "softmax of a softmax": {"MSK212"},
    "softmax over keys": set(),
}
# What is wrong with the mask, and what is found of that.
MASKED = {
    "causal forgotten": {"MSK203"},
    "one too many": {"MSK214"},
    "padding forgotten": {"MSK202"},
    "as it should be": set(),
}


class Attention(nn.Module):
    def __init__(self, *bugs):
        super().__init__()
        self.qkv, self.out, self.bugs = nn.Linear(32, 96), nn.Linear(32, 32), bugs

    def forward(self, x, real):
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out((self.weights(q @ k.mT / math.sqrt(8), real) @ v).transpose(1, 2).flatten(2))

    def weights(self, scores, real):
        keep = self.keep(scores.shape[-1], real)
        if "added" in self.bugs:
            scores = scores + keep.float()
        else:
            fill = -3.0 if "weak fill" in self.bugs else torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~keep, fill)
        weights = scores.softmax(-2 if "softmax over queries" in self.bugs else -1)
        return weights.softmax(-1) if "softmax of a softmax" in self.bugs else weights

    def keep(self, length, real):
        causal = torch.ones(length, length).tril(1 if "one too many" in self.bugs else 0).bool()
        padding = real[:, None, None, :]
        if "causal forgotten" in self.bugs:
            causal = torch.ones_like(causal)
        if "padding forgotten" in self.bugs:
            padding = torch.ones_like(padding)
        if "padding inverted" in self.bugs:
            padding = ~padding
        if "padding on the query axis" in self.bugs:
            padding = real[:, None, :, None]
        keep = causal & padding
        return ~keep if "inverted" in self.bugs else keep


class Model(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(WORDS, 32, padding_idx=PAD), nn.Linear(32, WORDS)
        self.layers = nn.ModuleList([Attention(*bugs) for bugs in layers])

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x, ids != PAD)
        return self.head(x)


def found(*layers, side="left", **options):
    """Codes of errors and warnings, with the modules that have them."""
    model, ids = Model(*layers), texts([14, 9, 11], seed=2, side=side)

    def loss():
        logits = model(ids[:, :-1]).flatten(0, 1)
        return functional.cross_entropy(logits, ids[:, 1:].flatten(), ignore_index=PAD)

    with maskcli.trace(**options) as traced:
        stepped(model, loss)
    assert traced.report.unfit == {}
    loud = (finding for finding in traced.findings if finding.severity != "note")
    # A diagonal that is one off is called so by its mask or by its weights.
    return {finding.code.replace("MSK109", "MSK214"): set(finding.traced.modules) for finding in loud}


@pytest.mark.combinations
@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("made", MADE)
def test_how_weights_are_made_hides_no_bug_of_their_mask(made, masked):
    bugs = made, masked
    assert set(found(bugs, bugs)) == MADE[made] | MASKED[masked]


@pytest.mark.long
@pytest.mark.parametrize("made", MADE)
def test_padding_on_the_right_is_hidden_by_a_causal_mask(made):
    bugs = made, "padding forgotten"
    assert set(found(bugs, bugs, side="right")) == MADE[made]


@pytest.mark.combinations
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("bugs", "codes"),
    [
        (("padding inverted",), {"MSK102"}),
        (("padding inverted", "causal forgotten"), {"MSK102", "MSK203"}),
        (("inverted",), {"MSK201"}),
        (("inverted", "one too many"), {"MSK201", "MSK214"}),
    ],
)
def test_what_is_wrong_with_a_mask_beside_being_inverted_is_told(bugs, codes, side):
    assert set(found(bugs, bugs, side=side)) == codes


def test_a_padding_mask_on_the_query_axis_explains_the_padding_that_is_read_and_not_the_future():
    bugs = "padding on the query axis", "causal forgotten"
    assert set(found(bugs, bugs)) == {"MSK108", "MSK203"}


def test_bugs_of_two_layers_are_told_of_their_own():
    there = found(("one too many",), ("causal forgotten",))
    assert there == {"MSK214": {"layers.0"}, "MSK203": {"layers.1"}}


def test_a_rule_that_is_not_reported_explains_what_follows_from_it():
    assert found(("weak fill",), select=("MSK2",)) == {}
    assert set(found(("softmax of a softmax", "causal forgotten"), select=("MSK203",))) == {"MSK203"}


class Twice(nn.Module):
    """One module that is called for two masks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(WORDS, 32, padding_idx=PAD), nn.Linear(32, WORDS)
        self.attend = nn.Linear(32, 96)

    def forward(self, ids, masks):
        x = self.embed(ids)
        for mask in masks:
            q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.attend(x).chunk(3, -1))
            out = functional.scaled_dot_product_attention(q, k, v, mask)
            x = x + out.transpose(1, 2).flatten(2)
        return self.head(x)


@pytest.mark.parametrize("healthy", [True, False])
def test_one_call_of_a_module_explains_nothing_of_another(healthy):
    model, ids = sharpened(Twice()), texts([20, 20, 20], seed=4)
    above = 0 if healthy else 1
    masks = [torch.ones(19, 19).tril(above).bool(), torch.ones(19, 19).bool()]
    if healthy:
        masks[1] = masks[0]
    with maskcli.trace() as traced:
        stepped(
            model,
            lambda: functional.cross_entropy(model(ids[:, :-1], masks).flatten(0, 1), ids[:, 1:].flatten()),
        )
    codes = {finding.code for finding in traced.findings if finding.severity != "note"}
    assert codes == (set() if healthy else {"MSK109", "MSK203"})


def test_padding_on_the_right_of_prompts_is_told_once():
    model, ids = hugging("llama", "sdpa").eval(), texts([9, 5, 7], seed=1)
    how = {
        "attention_mask": (ids != PAD).long(),
        "max_new_tokens": 3,
        "min_new_tokens": 3,
        "do_sample": False,
    }
    with maskcli.trace() as traced:
        for cache in ({}, {"cache_implementation": "static"}):
            model.generate(ids, **how, **cache)
    assert [finding.code for finding in traced.findings if finding.severity != "note"] == ["MSK403"]
