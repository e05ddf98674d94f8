"""flash_attn_with_kvcache: caches in slots or pages, filled to lengths of their own."""

import sys
import types

import pytest
import torch
from torch import nn

import maskcli
from tests.tracing.test_doors import attended, banded, saved

SIZE, PAGE = 16, 4


def flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None, cache_batch_idx=None,
    cache_leftpad=None, block_table=None, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    rotary_interleaved=True, alibi_slopes=None, num_splits=0, return_softmax_lse=False,
):  # fmt: skip
    """What the library's documentation says: new keys are written behind those that are there, then all are seen."""
    out = torch.zeros_like(q)
    for item in range(len(q)):
        length = int(cache_seqlens[item]) if hasattr(cache_seqlens, "shape") else cache_seqlens
        places = [(item, slot) for slot in range(k_cache.shape[1])]
        if block_table is not None:
            places = [(int(page), slot) for page in block_table[item] for slot in range(k_cache.shape[1])]
        if k is not None:
            for at in range(k.shape[1]):
                k_cache[places[length + at]], v_cache[places[length + at]] = k[item, at], v[item, at]
            length += k.shape[1]
        keys, values = (
            torch.stack([cache[at] for at in places[:length]])[None] for cache in (k_cache, v_cache)
        )
        allowed = banded(q.shape[1], length, causal, window_size)[None]
        out[item] = attended(q[item : item + 1], keys, values, allowed, softmax_scale)[0]
    return out


@pytest.fixture
def flash_attn(monkeypatch):
    made = types.ModuleType("flash_attn")
    made.flash_attn_with_kvcache = flash_attn_with_kvcache
    monkeypatch.setitem(sys.modules, "flash_attn", made)
    return made


class Decoder(nn.Module):
    def __init__(self, flash_attn, paged):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.qkv, self.paged = nn.Embedding(50, 32), nn.Linear(32, 64), paged
        self.flash = flash_attn
        shape = (2 * SIZE // PAGE, PAGE) if paged else (2, SIZE)
        self.caches = [torch.zeros(*shape, 2, 8) for _ in range(2)]
        # Pages of the two texts lie between one another.
        self.table = torch.arange(2 * SIZE // PAGE, dtype=torch.int32).view(-1, 2).T if paged else None

    def forward(self, ids, lengths, **options):
        x = self.qkv(self.tokens(ids))
        q, k, v = (each.unflatten(-1, (-1, 8)) for each in (x[..., :32], x[..., 32:48], x[..., 48:]))
        given = {"k": k, "v": v, "cache_seqlens": lengths, "block_table": self.table, "causal": True}
        return self.flash.flash_attn_with_kvcache(q, *self.caches, **{**given, **options})


def run(flash_attn, paged, **options):
    """A prompt of 6 tokens, then one by one; what was returned, and the caches."""
    torch.manual_seed(1)
    net, lengths = Decoder(flash_attn, paged).eval(), torch.tensor([0, 0], dtype=torch.int32)
    prompt = torch.randint(1, 50, (2, 6))
    outs = [net(prompt, lengths, **options)]
    for step in range(6, 9):
        ids, lengths = torch.randint(1, 50, (2, 1)), torch.tensor([step, step], dtype=torch.int32)
        outs += [net(ids, lengths, **options)]
    return outs, [cache.clone() for cache in net.caches]


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("options", [{}, {"window_size": (2, 0)}])
def test_a_healthy_cache_is_silent_and_left_as_it_is(flash_attn, paged, options):
    with torch.no_grad():
        before, caches = run(flash_attn, paged, **options)
        with maskcli.trace() as traced:
            after, left = run(flash_attn, paged, **options)
    assert all(torch.equal(one, other) for one, other in zip(before + caches, after + left, strict=True))
    assert (traced.report.calls, traced.report.unfit) == (4, {})
    assert [finding.code for finding in traced.findings if finding.severity != "note"] == []


@pytest.mark.combinations
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("lengths", [[3, 3], [5, 2]])
@pytest.mark.parametrize("options", [{}, {"window_size": (1, 0)}, {"causal": False}])
def test_its_weights_are_those_of_the_cache_in_order(flash_attn, paged, lengths, options, tmp_path):
    net = Decoder(flash_attn, paged)
    for cache in net.caches:
        torch.nn.init.normal_(cache)
    with torch.no_grad(), maskcli.trace(save=str(tmp_path), save_all=True) as traced:
        out = net(torch.randint(1, 50, (2, 2)), torch.tensor(lengths, dtype=torch.int32), **options)
    assert traced.report.unfit == {}
    weights, values = saved(tmp_path), saved(tmp_path, "value").repeat_interleave(2, 1)
    assert weights.shape == (2, 4, 2, max(lengths) + 2)
    assert torch.allclose((weights @ values).transpose(1, 2), out, atol=1e-6)
    for item, length in enumerate(lengths):
        allowed = banded(2, length + 2, options.get("causal", True), options.get("window_size", (-1, -1)))
        assert ((weights[item, :, :, : length + 2] > 0) == allowed).all()
        assert (weights[item, :, :, length + 2 :] == 0).all()


def test_a_prompt_that_sees_ahead_is_told_where_causal_is_declared(flash_attn):
    with torch.no_grad(), maskcli.trace(expect="causal") as traced:
        run(flash_attn, True, causal=False)
    assert [finding.code for finding in traced.findings if finding.severity != "note"] == ["MSK203"]
