"""A causal mask in an encoder is told where the program shows that it is one: a decoder reads it, or masked tokens are asked for."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import maskcli
from tests.tracing.families import EOS, PAD, WORDS, Seq2Seq, sharpened, stepped, texts

pytestmark = pytest.mark.filterwarnings("default")
MASK = 3


def loud(program, *arguments, **options):
    """The findings at error and warning, as codes with their modules."""
    with maskcli.trace() as traced:
        program(*arguments, **options)
    assert traced.report.unfit == {}
    return {each.code: each.traced.modules for each in traced.findings if each.severity != "note"}


def translation(encoder_is_causal, streams=False):
    """nn.Transformer; a source that is streamed is read step by step, by an encoder that is causal."""
    model = sharpened(Seq2Seq())
    src, tgt = texts([9, 5, 7], seed=1).T, texts([6, 10, 8], seed=2).T
    count = len(tgt) - 1
    ahead = torch.ones(count, count).triu(1).bool()
    src_mask = torch.ones(9, 9).triu(1).bool() if encoder_is_causal else None
    pads = (src == PAD).T
    if streams:
        model.transformer.decoder.layers[0].register_forward_pre_hook(_reads_step_by_step, with_kwargs=True)
        model.transformer.decoder.layers[1].register_forward_pre_hook(_reads_step_by_step, with_kwargs=True)

    def loss():
        logits = model(src, tgt[:-1], src_mask, ahead, pads, (tgt[:-1] == PAD).T, pads)
        return functional.cross_entropy(logits.flatten(0, 1), tgt[1:].flatten(), ignore_index=PAD)

    stepped(model, loss)


def _reads_step_by_step(layer, args, kwargs):
    return args, {**kwargs, "memory_mask": torch.ones(9, 9).triu(3).bool()}


def test_an_encoder_that_a_decoder_reads_sees_its_whole_text():
    assert loud(translation, encoder_is_causal=False) == {}
    found = loud(translation, encoder_is_causal=True)
    assert set(found) == {"MSK218"}
    assert all(".encoder." in module for module in found["MSK218"])


def test_an_encoder_of_a_source_that_is_streamed_may_be_causal():
    assert loud(translation, encoder_is_causal=True, streams=True) == {}


class Model(nn.Module):
    def __init__(self, causal):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(WORDS, 32, padding_idx=PAD), nn.Linear(32, WORDS)
        self.layers, self.causal = nn.ModuleList([nn.Linear(32, 96) for _ in range(2)]), causal

    def forward(self, ids):
        x, length = self.embed(ids), ids.shape[1]
        keep = (ids != PAD)[:, None, None, :]
        if self.causal:
            keep = keep & torch.ones(length, length).tril().bool()
        for layer in self.layers:
            q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in layer(x).chunk(3, -1))
            weights = (q @ k.mT / math.sqrt(8)).masked_fill(~keep, -1e9).softmax(-1)
            x = x + (weights @ v).transpose(1, 2).flatten(2)
        return self.head(x)


def asked(causal, ids, labels):
    model = sharpened(Model(causal))
    stepped(model, lambda: functional.cross_entropy(model(ids).flatten(0, 1), labels.flatten()))


def masked_language(replaced):
    """Ids with a mask at some of their tokens, and labels there; `replaced` is the share that is no mask."""
    ids = texts([20, 14, 17], seed=2)
    ids[ids == MASK] = MASK + 1
    torch.manual_seed(9)
    chosen = (torch.rand(ids.shape) < 0.25) & (ids > EOS)
    kept = chosen & (torch.rand(ids.shape) < replaced)
    return ids.masked_fill(chosen & ~kept, MASK), ids.masked_fill(~chosen, -100)


@pytest.mark.parametrize("replaced", [0.0, 0.2])
def test_a_loss_that_asks_for_masked_tokens_says_that_attention_sees_both_ways(replaced):
    ids, labels = masked_language(replaced)
    assert loud(asked, False, ids, labels) == {}
    assert set(loud(asked, True, ids, labels)) == {"MSK218"}


def classified_at_the_end():
    """A label at the last token of each text, which is the same in all of them."""
    ids = texts([20, 14, 17, 12], seed=2)
    return ids, torch.where(ids == EOS, ids.flip(1), -100).masked_fill(ids != EOS, -100).clamp(max=WORDS - 1)


def copied_behind():
    """What was read is asked for at blanks behind it."""
    ids = texts([10, 10, 10, 10], seed=2)
    blanks = torch.full((4, 5), MASK)
    ids[ids == MASK] = MASK + 1
    return torch.cat([ids, blanks], 1), torch.cat([torch.full_like(ids, -100), ids[:, 2:7]], 1)


def tagged():
    """A tag for every token."""
    ids = texts([14, 14, 14], seed=2)
    return ids, ids % 5


@pytest.mark.parametrize("made", [classified_at_the_end, copied_behind, tagged])
def test_other_losses_say_nothing_of_what_may_be_seen(made):
    ids, labels = made()
    assert (labels != -100).sum() >= 4
    assert "MSK218" not in loud(asked, True, ids, labels)
