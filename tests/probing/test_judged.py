"""Models as people write them: what is outside of their attention modules, and how they are called."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import maskcli
from maskcli.diagnostics.probed import report_of
from maskcli.probing.plan import Plan
from maskcli.probing.probe import measure
from maskcli.probing.subject import subject_of
from tests.probing.probed import said

VOCAB, WIDTH = 40, 16
MASKED = -1e30


def loud(model, inputs=None, **options):
    return said(maskcli.probe(model, inputs, **options))


def causal(size):
    return torch.ones(size, size, dtype=torch.bool).tril()


class Attention(nn.Module):
    def __init__(self, sees=causal):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.sees = sees

    def forward(self, x, real=None):
        scores = self.q(x) @ self.k(x).mT
        if self.sees is not None:
            scores = scores.masked_fill(~self.sees(x.shape[1]), MASKED)
        if real is not None:
            scores = scores.masked_fill(~real[:, None].bool(), MASKED)
        return scores.softmax(-1) @ self.v(x)


class Causal(nn.Module):
    """A convolution of the last three tokens."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3)

    def forward(self, x):
        return self.conv(F.pad(x.mT, (2, 0))).mT


class Decoder(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(WIDTH, VOCAB)

    def states(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        return x

    def forward(self, ids):
        return self.head(self.states(ids))


class Convolved(nn.Module):
    """Attention, and a convolution of its outputs within it."""

    def __init__(self, sees):
        super().__init__()
        self.core, self.conv = Attention(sees), Causal()

    def forward(self, x):
        scores = self.core.q(x) @ self.core.k(x).mT
        hidden = ~self.core.sees(x.shape[1])
        return self.conv(scores.masked_fill(hidden, MASKED).softmax(-1) @ self.core.v(x))


def test_what_is_around_a_mixer_is_measured_with_it():
    assert loud(Decoder(Convolved(causal)).eval(), expect="causal") == []
    found = loud(Decoder(Convolved(lambda size: causal(size).mT)).eval(), expect="causal")
    assert ("MSK601", ("layers.0",)) in found


class Long(nn.Module):
    """A convolution as long as the text, by FFT of some size."""

    def __init__(self, times):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(WIDTH, 64) * torch.exp(-torch.arange(64) / 10))
        self.times = times

    def forward(self, x):
        size = x.shape[1] * self.times
        product = torch.fft.rfft(x.mT, n=size) * torch.fft.rfft(self.filter[:, : x.shape[1]], n=size)
        return torch.fft.irfft(product, n=size)[..., : x.shape[1]].mT


@pytest.mark.parametrize("length", [24, 64])
def test_rounding_of_a_transform_is_no_sight(length):
    torch.manual_seed(0)
    assert loud(Decoder(Long(2)).eval(), expect="causal", length=length) == []
    assert loud(Decoder(Long(1)).eval(), expect="causal", length=length) == [("MSK601", ("layers.0",))]


class Context:
    sees = None


class OfContext(Attention):
    def forward(self, x):
        self.sees = Context.sees
        return super().forward(x)


class SetsContext(Decoder):
    def forward(self, ids):
        Context.sees = self.sees
        answer = super().forward(ids)
        Context.sees = None
        return answer


@pytest.mark.parametrize(("ahead", "codes"), [(0, []), (1, ["MSK601"])])
def test_a_mask_that_is_no_argument_is_told_by_whole_runs(ahead, codes):
    model = SetsContext(OfContext(), OfContext()).eval()
    model.sees = lambda size: torch.ones(size, size, dtype=torch.bool).tril(ahead)
    report = maskcli.probe(model, expect="causal")
    assert [code for code, _ in said(report)] == codes
    assert any("layers.0 answers otherwise by itself" in each for each in report.behaviour.unmeasured)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x):
        return self.norm(x.mT).mT


def test_buffers_are_what_they_were():
    model = Decoder(Attention(), Normed())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert ("MSK605", ("layers.1.norm",)) in loud(model, expect="causal")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.long
def test_what_holds_a_model_is_looked_through():
    for sees, found in ((causal, []), (None, [("MSK601", ("layers.0",))])):
        model = Decoder(Attention(sees)).eval()
        assert loud(nn.DataParallel(model), expect="causal") == found
        assert loud(torch.compile(model, backend="eager"), expect="causal") == found
        inside = Decoder(torch.compile(Attention(sees), backend="eager")).eval()
        assert [code for code, _ in loud(inside, expect="causal")] == [code for code, _ in found]


class Starred(Decoder):
    def forward(self, *ids):
        return super().forward(ids[0])


class Placed(Decoder):
    def forward(self, ids, /, scale):
        return super().forward(ids) * scale


def test_arguments_may_only_have_a_place():
    ids = torch.arange(24).reshape(2, 12)
    for sees, found in ((causal, []), (None, [("MSK601", ("layers.0",))])):
        assert loud(Starred(Attention(sees)).eval(), expect="causal") == found
        assert loud(Placed(Attention(sees)).eval(), {"ids": ids, "scale": 2.0}, expect="causal") == found


class LastOnly(Decoder):
    def forward(self, ids):
        return self.head(self.states(ids)[:, [-1]])


def test_the_last_token_alone_may_be_answered():
    assert loud(LastOnly(Attention()).eval(), expect="causal") == []
    assert loud(LastOnly(Attention(None)).eval(), expect="causal") == [("MSK601", ("layers.0",))]


class Pooled(nn.Module):
    """One vector for each text."""

    def __init__(self, pool):
        super().__init__()
        self.embed, self.attention = nn.Embedding(VOCAB, WIDTH), Attention(None)
        self.pool = pool

    def forward(self, input_ids, attention_mask=None):
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = self.embed(input_ids)
        return self.pool(x + self.attention(x, real), real[..., None])


POOLS = {
    "mean of tokens": (lambda x, real: (x * real).sum(1) / real.sum(1), []),
    "mean of padding as well": (lambda x, real: x.mean(1), [("MSK602", ())]),
    "largest of padding as well": (lambda x, real: x.amax(1), [("MSK602", ())]),
    "one number": (lambda x, real: (x * real).sum((1, 2)) / real.sum((1, 2)), []),
    "one number of padding as well": (lambda x, real: x.mean((1, 2)), [("MSK602", ())]),
    "the first, which is padding on the left": (lambda x, real: x[:, 0], []),
    "over the rows": (lambda x, real: ((x * real).sum(1) / real.sum(1)).softmax(0), [("MSK605", ())]),
    "a number for each token": (lambda x, real: x[..., 0], []),
}


@pytest.mark.parametrize("name", POOLS)
def test_texts_may_be_answered_as_a_whole(name):
    pool, found = POOLS[name]
    assert loud(Pooled(pool).eval(), expect="full") == found


def test_a_place_that_is_read_of_every_text_is_told_by_the_side():
    model = Pooled(lambda x, real: x[:, -1]).eval()
    report = maskcli.probe(model, expect="full")
    told = "with right padding the answer for a text is read from its padding, with left padding it is not"
    assert (said(report), report.behaviour.notes) == ([], (told,))
    assert loud(model, expect="full", pad="right") == [("MSK602", ())]


class Tutorial(nn.Module):
    """Ids [S, B], as torch's encoder takes them by default."""

    def __init__(self, ahead):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 32), 2)
        self.ahead = ahead

    def forward(self, src):
        hidden = ~torch.ones(len(src), len(src), dtype=torch.bool).tril(self.ahead)
        return self.head(self.encoder(self.embed(src), mask=hidden))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.parametrize(("ahead", "codes"), [(0, []), (1, ["MSK601"])])
def test_the_sequence_may_come_first(ahead, codes):
    ids = torch.arange(36).reshape(12, 3)
    report = maskcli.probe(Tutorial(ahead).eval(), {"src": ids}, expect="causal")
    assert [code for code, _ in said(report)] == codes
    assert any("[S, B]" in note for note in report.behaviour.notes)


class Pair(nn.Module):
    def __init__(self, batch_first, hides):
        super().__init__()
        self.pair = nn.Transformer(WIDTH, 2, 1, 1, 32, batch_first=batch_first)
        self.hides = hides

    def forward(self, src, tgt, src_key_padding_mask):
        size = tgt.shape[1 if self.pair.batch_first else 0]
        return self.pair(
            src,
            tgt,
            tgt_mask=~causal(size),
            src_key_padding_mask=src_key_padding_mask,
            memory_key_padding_mask=src_key_padding_mask if self.hides else None,
        )


@pytest.mark.combinations
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("size", [9, 12])
@pytest.mark.parametrize("hides", [True, False])
def test_padding_of_a_source_is_that_of_its_readers(batch_first, size, hides):
    generator = torch.Generator().manual_seed(5)
    src, tgt = (torch.randn(3, length, WIDTH, generator=generator) for length in (12, size))
    given = {"src": src, "tgt": tgt}
    if not batch_first:
        given = {name: value.transpose(0, 1) for name, value in given.items()}
    given["src_key_padding_mask"] = torch.arange(12) >= torch.tensor([12, 8, 4])[:, None]
    found = loud(Pair(batch_first, hides).eval(), given, expect=["*=full", "*decoder*self_attn=causal"])
    assert [code for code, _ in found] == ([] if hides else ["MSK610"])


class KnowsPadding(Pooled):
    def forward(self, input_ids):
        return super().forward(input_ids, input_ids != 0)


def test_padding_that_a_model_knows_by_its_id_stays_padding():
    ids = torch.arange(3, 39).reshape(3, 12)
    ids[1, 8:] = 0
    model = KnowsPadding(lambda x, real: (x * real).sum(1) / real.sum(1)).eval()
    subject = replace(subject_of(model, {"input_ids": ids}), real=(ids != 0).numpy())
    assert said(report_of(measure(subject, Plan()), "model")) == []
