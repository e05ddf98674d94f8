"""Padding beside the keys that nn.MultiheadAttention adds: one that is learned, and one of zeros."""

import pytest
import torch
from torch import nn

import maskcli
from tests.tracing.families import WORDS, texts

ADDED = [{"add_bias_kv": True}, {"add_zero_attn": True}, {"add_bias_kv": True, "add_zero_attn": True}]
IDS = texts([12, 9, 6])
MADE = {
    "healthy": lambda ids: ids == 0,
    "healthy, added": lambda ids: torch.zeros(ids.shape).masked_fill(ids == 0, -torch.inf),
    "forgotten": lambda ids: None,
    "inverted": lambda ids: ids != 0,
    "inverted, added": lambda ids: torch.zeros(ids.shape).masked_fill(ids != 0, -torch.inf),
}
NAMED = {
    "healthy": set(),
    "healthy, added": set(),
    "forgotten": {"MSK202"},
    "inverted": {"MSK102"},
    "inverted, added": {"MSK102"},
}


class Encoder(nn.Module):
    """Attention of texts to themselves, whose mask is made inside."""

    def __init__(self, made, asked, **added):
        super().__init__()
        torch.manual_seed(0)
        self.made, self.asked = made, asked
        self.embed, self.places = nn.Embedding(WORDS, 32, padding_idx=0), nn.Embedding(32, 32)
        self.attn = nn.MultiheadAttention(32, 4, batch_first=True, **added)

    def forward(self, ids, causal=None):
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1]))
        padding = MADE[self.made](ids)
        return self.attn(x, x, x, key_padding_mask=padding, attn_mask=causal, need_weights=self.asked)[0]


class Decoder(nn.Module):
    def __init__(self, **added):
        super().__init__()
        self.embed = nn.Embedding(WORDS, 32, padding_idx=0)
        self.cross = nn.MultiheadAttention(32, 4, batch_first=True, **added)

    def forward(self, tgt, memory, padding):
        return self.cross(self.embed(tgt), memory, memory, key_padding_mask=padding)[0]


class Reader(nn.Module):
    """Attention of a text to another one, of its own length."""

    def __init__(self, made, **added):
        super().__init__()
        torch.manual_seed(0)
        self.made, self.decoder = made, Decoder(**added)
        self.encoder = nn.Sequential(nn.Embedding(WORDS, 32, padding_idx=0), nn.LayerNorm(32))

    def forward(self, src, tgt):
        return self.decoder(tgt, self.encoder(src), MADE[self.made](src))


def codes(model, *given):
    before = model(*given)
    with maskcli.trace() as traced:
        during = model(*given)
    assert torch.equal(before.nan_to_num(7.0), during.nan_to_num(7.0))
    assert traced.report.looked == 1
    assert not traced.report.unfit
    return {finding.code for finding in traced.findings if finding.severity != "note"}


@pytest.mark.combinations
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("added", ADDED, ids=" and ".join)
@pytest.mark.parametrize("made", MADE)
def test_padding_is_told_of_the_tokens_keys(made, added, asked):
    assert codes(Encoder(made, asked, **added), IDS) == NAMED[made]


@pytest.mark.parametrize("made", ["healthy", "forgotten", "inverted"])
def test_a_text_that_is_all_padding_still_sees_the_added_key(made):
    empty = torch.cat([IDS, torch.zeros_like(IDS[:1])])
    assert codes(Encoder(made, False, add_bias_kv=True), empty) == NAMED[made]


@pytest.mark.parametrize("made", ["healthy", "forgotten"])
def test_padding_on_the_left_under_a_causal_mask(made):
    causal = torch.ones(12, 12).triu(1).bool()
    model = Encoder(made, False, add_zero_attn=True)
    assert codes(model, texts([12, 9, 6], "left"), causal) == NAMED[made]


@pytest.mark.combinations
@pytest.mark.parametrize("added", [{}, *ADDED], ids=" and ".join)
@pytest.mark.parametrize(
    ("made", "named"), [("healthy", set()), ("forgotten", {"MSK220"}), ("inverted", {"MSK102"})]
)
def test_padding_of_another_text(made, named, added):
    assert codes(Reader(made, **added), IDS, texts([7, 7, 7], seed=5)) - {"MSK301"} == named
