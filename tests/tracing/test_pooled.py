"""A classifier that reads its first token under a causal mask reads nothing of the text: told where gradients prove it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import maskcli
from tests.tracing.families import PAD, WORDS, sharpened, stepped, texts

IDS = texts([14, 9, 12, 11], seed=2)
CLASSES = torch.tensor([0, 1, 1, 0])


class Classifier(nn.Module):
    """Two layers of attention and a class for each text, read at one token of it or at all of them."""

    def __init__(self, causal, reads, layers=2):
        super().__init__()
        torch.manual_seed(0)
        self.causal, self.reads = causal, reads
        self.embed, self.head = nn.Embedding(WORDS, 32, padding_idx=PAD), nn.Linear(32, WORDS)
        self.layers = nn.ModuleList([nn.Linear(32, 96) for _ in range(layers)])

    def forward(self, ids):
        x, length = self.embed(ids), ids.shape[1]
        keep = (ids != PAD)[:, None, None, :]
        if self.causal:
            keep = keep & torch.ones(length, length).tril().bool()
        for layer in self.layers:
            q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in layer(x).chunk(3, -1))
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)
            x = x + mixed.transpose(1, 2).flatten(2)
        return self.head(self.reads(x, ids))


def first(x, ids):
    return x[:, 0]


def last(x, ids):
    return x[torch.arange(len(x)), (ids != PAD).sum(1) - 1]


def mean(x, ids):
    return x.mean(1)


def loud(model, asked, ids=IDS):
    with maskcli.trace() as traced:
        stepped(model, lambda: functional.cross_entropy(model(ids), asked))
    assert traced.report.unfit == {}
    return {each.code: each for each in traced.findings if each.severity != "note"}


def test_the_first_token_under_a_causal_mask_is_told():
    found = loud(sharpened(Classifier(True, first)), CLASSES)
    assert set(found) == {"MSK218"}
    assert "reads what attention made of the first token alone" in found["MSK218"].message


@pytest.mark.parametrize("reads", [last, mean])
def test_other_tokens_of_a_causal_classifier_have_seen_the_text(reads):
    assert loud(sharpened(Classifier(True, reads)), CLASSES) == {}


@pytest.mark.parametrize("layers", [1, 2])
def test_the_first_token_of_an_encoder_sees_all(layers):
    assert loud(sharpened(Classifier(False, first, layers)), CLASSES) == {}


def test_a_language_model_asked_at_its_first_token_alone_is_causal():
    assert loud(sharpened(Classifier(True, first)), IDS[:, 1]) == {}


def test_texts_of_one_token_have_nothing_to_see():
    assert loud(sharpened(Classifier(True, first)), CLASSES, IDS[:, :1]) == {}
