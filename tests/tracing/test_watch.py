"""What a trace sees of a program that is written by hand or with torch's own layers, and that it changes nothing."""

import gc
import math
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

import maskcli

REAL = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
IDS = torch.tensor([[5, 6, 7, 8, 0, 0], [9, 8, 7, 6, 5, 4]])
LOWER = torch.ones(6, 6, dtype=torch.bool).tril()


def loud(traced):
    return sorted({finding.code for finding in traced.findings if finding.severity != "note"})


def masked_fill(scores, keep):
    return scores.masked_fill(~keep, -math.inf)


def in_place(scores, keep):
    return scores.masked_fill_(keep == 0, torch.finfo(scores.dtype).min)


def where(scores, keep):
    return torch.where(keep, scores, torch.tensor(-1e9))


def where_turned(scores, keep):
    return torch.where(~keep, -math.inf, scores)


def additive(scores, keep):
    return scores + torch.zeros(keep.shape).masked_fill(~keep, -math.inf)


def added_in_place(scores, keep):
    scores += torch.zeros(keep.shape).masked_fill(~keep, torch.finfo(scores.dtype).min)
    return scores


def unmasked(scores, keep):
    return scores


def added_bool(scores, keep):
    return scores + keep


def added_binary(scores, keep):
    return scores + keep.float()


def weak(scores, keep):
    return scores.masked_fill(~keep, -1e-9)


def matmul(q, k, v, keep, mask):
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    return functional.dropout(torch.softmax(mask(scores, keep), dim=-1), 0.1, False) @ v


def einsum(q, k, v, keep, mask):
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhqk,bhkd->bhqd", mask(scores, keep).softmax(-1), v)


def flat(q, k, v, keep, mask):
    """[B * H, Q, K], with a softmax module."""
    batch, heads = q.shape[:2]
    q, k, v = (each.flatten(0, 1) for each in (q, k, v))
    scores = mask(torch.bmm(q, k.mT).view(batch, heads, 6, 6), keep).view(-1, 6, 6)
    return torch.bmm(nn.Softmax(dim=-1)(scores), v).unflatten(0, (batch, heads))


def fused(q, k, v, keep, mask):
    if mask is unmasked:
        return functional.scaled_dot_product_attention(q, k, v)
    if mask in (added_bool, added_binary):
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=keep.float())
    if mask is weak:
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.zeros(keep.shape).masked_fill(~keep, -1e-9)
        )
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)


class Attention(nn.Module):
    def __init__(self, how, mask):
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.how, self.mask = how, mask

    def forward(self, x, keep):
        q, k, v = (each.unflatten(-1, (2, 8)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        return self.out(self.how(q, k, v, keep, self.mask).transpose(1, 2).flatten(2))


class Net(nn.Module):
    """A decoder; its second layer is the one under test."""

    def __init__(self, how, mask=masked_fill):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)
        self.layers = nn.ModuleList([Attention(matmul, masked_fill), Attention(how, mask)])

    def forward(self, ids, attention_mask):
        x = self.tokens(ids)
        keep = attention_mask.bool()[:, None, None, :] & LOWER
        for layer in self.layers:
            x = x + layer(x, keep)
        return self.head(x)


HEALTHY = [masked_fill, in_place, where, where_turned, additive, added_in_place]


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("how", "mask"),
    [(how, mask) for how in (matmul, einsum, flat) for mask in HEALTHY] + [(fused, masked_fill)],
)
def test_hand_written_attention_is_seen_and_silent(how, mask):
    net = Net(how, mask)
    before = net(IDS, REAL)
    with maskcli.trace(expect="causal", pad_id=0) as traced:
        after = net(IDS, REAL)
    assert torch.equal(before, after)
    assert traced.report.checked == ("layers.0", "layers.1")
    assert loud(traced) == []
    assert traced.report.unfit == {}


@pytest.mark.combinations
@pytest.mark.parametrize("how", [matmul, einsum, flat, fused])
@pytest.mark.parametrize(
    ("mask", "code"),
    [(unmasked, "MSK202"), (added_bool, "MSK103"), (added_binary, "MSK103"), (weak, "MSK104")],
)
def test_what_masks_nothing_is_found_in_its_layer(how, mask, code):
    net = Net(how, mask)
    with maskcli.trace() as traced:
        net(IDS, REAL)
    found = [finding for finding in traced.findings if finding.code == code and finding.severity == "error"]
    assert [finding.traced.modules for finding in found] == [("layers.1",)]
    assert not [
        finding
        for finding in traced.findings
        if finding.severity == "error" and finding.traced.modules != ("layers.1",)
    ]


def test_the_padding_is_known_by_the_ids_alone():
    """The mask that the program makes covers nothing; the pad id tells."""
    net = Net(matmul, unmasked)
    with maskcli.trace(pad_id=0) as traced:
        net(IDS, torch.ones_like(REAL))
    found = {finding.code: finding for finding in traced.findings}
    assert "MSK401" in found
    assert found["MSK401"].tensors == ("attention_mask", "ids")
    assert found["MSK401"].traced.modules == ()


def test_a_softmax_that_is_no_attention_is_left_alone():
    class Router(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.experts = nn.Linear(16, 6), nn.Parameter(torch.randn(6, 16, 16))

        def forward(self, x):
            chosen = self.gate(x).softmax(-1)
            each = torch.einsum("bld,edo->bleo", x, self.experts)
            return (chosen[..., None] * each).sum(-2).log_softmax(-1)

    with maskcli.trace(expect="causal") as traced:
        Router()(torch.randn(2, 6, 16))
    assert traced.report.calls == 0


def encoder(norm_first=False):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.mark.parametrize("training", [True, False])
def test_torchs_encoder(training):
    made, x, pads = encoder().train(training), torch.randn(2, 6, 16), REAL == 0
    state = torch.get_rng_state()
    before = made(x, src_key_padding_mask=pads)
    torch.set_rng_state(state)
    with maskcli.trace(expect="full") as traced:
        after = made(x, src_key_padding_mask=pads)
    assert torch.equal(before, after)
    assert traced.report.checked == ("layers.0.self_attn", "layers.1.self_attn")
    assert loud(traced) == []
    assert traced.report.changed == ()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_encoder_keeps_its_fast_path(nested, norm_first):
    """There padding comes out as zeros, and inside of nothing a mask can be wrong; what is read is projected anew."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    made = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested and not norm_first).eval()
    x, pads = torch.randn(2, 6, 16), REAL == 0
    with torch.no_grad():
        before = made(x, src_key_padding_mask=pads)
        with maskcli.trace(expect="full") as traced:
            after = made(x, src_key_padding_mask=pads)
    assert torch.equal(before, after)
    assert traced.report.checked == ("layers.0.self_attn", "layers.1.self_attn")
    assert (traced.report.unfit, traced.report.changed, loud(traced)) == ({}, (), [])
    if nested and not norm_first:
        assert (after[0, 4:] == 0).all()


@pytest.mark.parametrize("weights", [True, False])
def test_torchs_attention_with_an_inverted_padding_mask(weights):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.tokens, self.attend = nn.Embedding(50, 16), nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, ids, attention_mask, right):
            x = self.tokens(ids)
            mask = attention_mask == 0 if right else attention_mask == 1
            return self.attend(x, x, x, key_padding_mask=mask, need_weights=weights)[0]

    model = Model()
    before = model(IDS, REAL, True)
    with maskcli.trace() as traced:
        after = model(IDS, REAL, True)
    assert torch.equal(before, after)
    assert loud(traced) == []
    with maskcli.trace() as traced:
        model(IDS[:1], REAL[:1], False)
    (finding,) = [finding for finding in traced.findings if finding.severity == "error"]
    assert finding.code in ("MSK102", "MSK201")
    assert finding.traced.modules == ("attend",)
    assert finding.where.keys == ((4, 6),)


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(50, 16)
        self.transformer = nn.Transformer(16, 2, 2, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, src, tgt, tgt_mask=None, memory_padding=None):
        return self.transformer(
            self.tokens(src), self.tokens(tgt), tgt_mask=tgt_mask, src_key_padding_mask=src == 0, tgt_key_padding_mask=tgt == 0,
            memory_key_padding_mask=memory_padding,
        )  # fmt: skip


def test_torchs_encoder_and_decoder():
    model, target = Translator(), IDS.flip(0)
    ahead = ~LOWER
    before = model(IDS, target, ahead, IDS == 0)
    with maskcli.trace(expect="causal", pad_id=0) as traced:
        after = model(IDS, target, ahead, IDS == 0)
    assert torch.equal(before, after)
    assert loud(traced) == []
    assert len(traced.report.checked) == 6
    with maskcli.trace(expect="causal", pad_id=0) as traced:
        model(IDS, target, None, IDS == 0)
    found = [finding for finding in traced.findings if finding.severity == "error"]
    assert [finding.code for finding in found] == ["MSK203"]
    assert found[0].traced.modules == tuple(f"transformer.decoder.layers.{n}.self_attn" for n in (0, 1))
    with maskcli.trace(expect="causal", pad_id=0) as traced:
        model(IDS, target, ahead, None)
    found = [finding for finding in traced.findings if finding.severity == "error"]
    assert [finding.code for finding in found] == ["MSK220"]
    assert found[0].traced.modules == tuple(f"transformer.decoder.layers.{n}.multihead_attn" for n in (0, 1))


def trained(traced, steps=4, pieces=2):
    """Losses and gradients of a loop that gathers gradients over pieces of a batch, with dropout."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(50, 16), encoder(), nn.Linear(16, 50))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    losses = []
    for _ in range(steps):
        for _ in range(pieces):
            out = net(IDS)
            loss = functional.cross_entropy(out.flatten(0, 1), IDS.flatten()) / pieces
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, [parameter.detach().clone() for parameter in net.parameters()]


def test_training_is_bit_for_bit_the_same():
    losses, parameters = trained(None)
    with maskcli.trace() as traced:
        again, traced_parameters = trained(traced)
    assert losses == again
    assert all(map(torch.equal, parameters, traced_parameters))
    assert traced.report.steps == 8
    assert loud(traced) == []


@pytest.mark.long
def test_nothing_of_the_program_is_kept():
    net, kept = Net(matmul), []
    with maskcli.trace() as traced:
        for _ in range(3):
            out = net(IDS, REAL)
            kept.append(weakref.ref(out))
            out.sum().backward()
            del out
        gc.collect()
        assert [each() for each in kept] == [None] * 3
        assert not traced._watch.thread().trails


def test_calls_alike_are_sampled_and_options_narrow_what_is_checked():
    net = Net(fused)
    with maskcli.trace() as traced:
        for _ in range(40):
            net(IDS, REAL)
    assert traced.report.calls == 80
    assert 4 <= traced.report.looked <= 12
    with maskcli.trace(every=5, modules="layers.1") as traced:
        for _ in range(10):
            net(IDS, REAL)
    assert (traced.report.calls, traced.report.looked, traced.report.checked) == (10, 2, ("layers.1",))
    with maskcli.trace(limit=3) as traced:
        for _ in range(10):
            net(IDS, REAL)
    assert traced.report.looked == 3


def test_a_step_of_training_that_knows_as_much_as_the_last_one_is_not_looked_at_again():
    class Trained(Net):
        def forward(self, ids, labels):
            return functional.cross_entropy(super().forward(ids, REAL)[:, :-1].mT, labels[:, 1:])

    net, labels = Trained(fused), IDS.masked_fill(IDS == 0, -100)
    net.layers[0].how = fused
    with maskcli.trace() as traced:
        for _ in range(9):
            net(IDS, labels=labels).backward()
    assert (traced.report.calls, traced.report.looked, loud(traced)) == (18, 2, [])


def test_equal_findings_fold():
    net = Net(matmul, unmasked)
    net.layers[0].mask = unmasked
    with maskcli.trace() as traced:
        for _ in range(5):
            net(IDS, REAL)
    (finding,) = [finding for finding in traced.findings if finding.code == "MSK202"]
    assert finding.traced.modules == ("layers.0", "layers.1")
    assert finding.traced.step == 0


@pytest.mark.parametrize("as_module", [True, False])
def test_every_thread_is_watched(as_module):
    net = Net(fused, unmasked)
    q = torch.randn(2, 2, 6, 8)
    target, args = (net, (IDS, REAL)) if as_module else (functional.scaled_dot_product_attention, (q, q, q))
    with maskcli.trace() as traced:
        threads = [threading.Thread(target=target, args=args) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert traced.report.calls == (6 if as_module else 3)
    assert ("MSK202" in loud(traced)) == as_module


def test_after_the_block_nothing_is_watched_any_more():
    called, compiled = nn.Module.__call__, torch.compile
    with pytest.raises(IndexError), maskcli.trace() as traced:
        Net(fused)(torch.full_like(IDS, 50), REAL)
    with maskcli.trace() as traced:
        Net(fused)(IDS, REAL)
    calls = traced.report.calls
    Net(fused)(IDS, REAL)
    assert traced.report.calls == calls == 2
    assert (nn.Module.__call__, torch.compile) == (called, compiled)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_are_counted_once(reentrant):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Net):
        def forward(self, ids, attention_mask):
            x, keep = self.tokens(ids), attention_mask.bool()[:, None, None, :] & LOWER
            for layer in self.layers:
                x = x + checkpoint(layer, x, keep, use_reentrant=reentrant)
            return self.head(x)

    with maskcli.trace() as traced:
        Checkpointed(fused)(IDS, REAL).sum().backward()
    assert (traced.report.calls, traced.report.steps) == (2, 1)


def test_autocast_in_bfloat16():
    net = Net(fused)
    with torch.autocast("cpu", torch.bfloat16):
        before = net(IDS, REAL)
        with maskcli.trace(expect="causal", pad_id=0) as traced:
            after = net(IDS, REAL)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(before, after)
    assert loud(traced) == []
    assert len(traced.report.checked) == 2
    net.layers[1].mask = unmasked
    with maskcli.trace() as traced, torch.autocast("cpu", torch.bfloat16):
        net(IDS, REAL)
    (finding,) = [finding for finding in traced.findings if finding.severity == "error"]
    assert (finding.code, finding.traced.modules) == ("MSK202", ("layers.1",))
