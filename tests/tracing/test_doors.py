"""Attention of other libraries: seen at its door, its weights by the kernel itself."""

import math
import sys
import types
from itertools import pairwise

import pytest
import torch
import transformers as hf
from torch import nn
from torch.nn import functional

import maskcli
from maskcli.tensors import open_tensors
from tests.tracing.models import batch, model
from tests.tracing.test_watch import IDS, REAL, loud

pytestmark = pytest.mark.filterwarnings("default")


def attended(q, k, v, allowed, scale=None):
    """[B, L, H, D] in and out, as no operator that is watched computes it: a loop in numpy."""
    q, k, v = (each.detach().double().numpy() for each in (q, k, v))
    groups = q.shape[2] // k.shape[2]
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            scores = q[b, :, h] @ k[b, :, h // groups].T * (scale or q.shape[3] ** -0.5)
            weights = torch.from_numpy(scores).masked_fill(~allowed[b if len(allowed) > 1 else 0], -math.inf)
            weights = weights.numpy()
            weights = math.e ** (weights - weights.max(-1, keepdims=True))
            out[b, :, h] = torch.from_numpy(weights / weights.sum(-1, keepdims=True) @ v[b, :, h // groups])
    return out.float()


def banded(queries, keys, causal, window):
    """flash-attn aligns the last query with the last key; a window holds (left, right) keys beside its own."""
    behind = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)
    left, right = window
    allowed = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        right = 0
    if left >= 0:
        allowed &= behind <= left
    return allowed & (-behind <= right) if right >= 0 else allowed


def flash_attn_func(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
    deterministic=False, return_attn_probs=False,
):  # fmt: skip
    return attended(q, k, v, banded(q.shape[1], k.shape[1], causal, window_size)[None], softmax_scale)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False, block_table=None,
):  # fmt: skip
    out = torch.zeros(*q.shape[:2], v.shape[2])
    for (a, b), (c, d) in zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True):
        out[a:b] = flash_attn_func(
            q[None, a:b], k[None, c:d], v[None, c:d], causal=causal, window_size=window_size
        )[0]
    return out


def flash_attn_qkvpacked_func(qkv, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
    return _flash(*qkv.unbind(2), causal=causal, window_size=window_size)


def flash_attn_varlen_kvpacked_func(
    q,
    kv,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
):
    cu = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return _varlen(q, *kv.unbind(1), *cu, causal=causal)


# As in the library, none of its functions calls another.
_flash, _varlen = (
    types.FunctionType(f.__code__, {**globals()}, argdefs=f.__defaults__)
    for f in (flash_attn_func, flash_attn_varlen_func)
)


@pytest.fixture
def flash_attn(monkeypatch):
    """A module of flash-attn's functions, with their arguments."""
    made = types.ModuleType("flash_attn")
    for function in (
        flash_attn_func,
        flash_attn_varlen_func,
        flash_attn_qkvpacked_func,
        flash_attn_varlen_kvpacked_func,
    ):
        setattr(made, function.__name__, function)
    monkeypatch.setitem(sys.modules, "flash_attn", made)
    return made


class Flash(nn.Module):
    """A layer over [B, L, H, D] with two heads for a key head."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.qkv, self.how = nn.Embedding(50, 32), nn.Linear(32, 64), how

    def forward(self, ids, **options):
        x = self.qkv(self.tokens(ids))
        q, k, v = (each.unflatten(-1, (-1, 8)) for each in (x[..., :32], x[..., 32:48], x[..., 48:]))
        return self.how(q, k, v, **options)


def calls(folder):
    """The files of calls, in their order, without those of findings."""
    return [path for path in sorted(folder.iterdir()) if "MSK" not in path.name]


def saved(folder, role="weights"):
    (path,) = calls(folder)
    return next(
        torch.from_numpy(each.read()) for each in open_tensors(str(path)).tensors if each.name.endswith(role)
    )


@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"causal": True, "window_size": (2, 0)}, {"window_size": (1, 1)}]
)
def test_flash_attention_tells_its_weights(flash_attn, options, tmp_path):
    net = Flash(lambda *args, **kwargs: flash_attn.flash_attn_func(*args, **kwargs))
    before = net(IDS, **options)
    with maskcli.trace(save=str(tmp_path), save_all=True) as traced:
        after = net(IDS, **options)
    assert torch.equal(before, after)
    assert (traced.report.calls, traced.report.unfit) == (1, {})
    weights = saved(tmp_path)
    allowed = banded(6, 6, options.get("causal", False), options.get("window_size", (-1, -1)))
    assert ((weights > 0) == allowed).all()
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 6), atol=1e-6)
    values = saved(tmp_path, "value").repeat_interleave(2, 1)
    assert torch.allclose((weights @ values).transpose(1, 2), after, atol=1e-6)


def test_flash_attention_that_forgets_the_padding(flash_attn):
    net = Flash(lambda *args, **kwargs: flash_attn.flash_attn_func(*args, **kwargs))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = net

        def forward(self, ids, attention_mask):
            return self.attend(ids)

    with maskcli.trace() as traced:
        Outer()(IDS, REAL)
    assert "MSK202" in loud(traced)
    assert flash_attn.flash_attn_func is flash_attn_func


def test_packed_flash_attention_keeps_documents_apart(flash_attn, tmp_path):
    bounds = torch.tensor([0, 2, 6], dtype=torch.int32)

    def packed(q, k, v, **options):
        kv = torch.stack([k[0], v[0]], 1)
        return flash_attn.flash_attn_varlen_kvpacked_func(q[0], kv, bounds, bounds, 4, 4, causal=True)

    net = Flash(packed)
    before = net(IDS[:1])
    with maskcli.trace(save=str(tmp_path), save_all=True) as traced:
        after = net(IDS[:1])
    assert torch.equal(before, after)
    assert traced.report.unfit == {}
    weights = saved(tmp_path)
    apart = torch.block_diag(torch.ones(2, 2), torch.ones(4, 4)).bool().tril()
    assert weights.shape == (1, 4, 6, 6)
    assert ((weights > 0) == apart).all()


def test_queries_keys_and_values_in_one(flash_attn, tmp_path):
    def packed(q, k, v, **options):
        return flash_attn.flash_attn_qkvpacked_func(torch.stack([q[:, :, :2], k, v], 2), causal=True)

    net = Flash(packed)
    with maskcli.trace(save=str(tmp_path), save_all=True) as traced:
        net(IDS)
    assert (traced.report.calls, traced.report.unfit) == (1, {})
    assert ((saved(tmp_path) > 0) == torch.ones(6, 6).tril().bool()).all()


class Bias:
    """As xformers' biases: no tensor, but it can be made one."""

    def materialize(self, shape, dtype=torch.float32, device="cpu"):
        return torch.zeros(shape).masked_fill(torch.ones(shape[-2:]).triu(1).bool(), -math.inf)


@pytest.mark.parametrize(
    "bias", [None, Bias(), torch.zeros(1, 1, 6, 6).masked_fill(REAL[:1, None, None] == 0, -math.inf)]
)
def test_xformers(monkeypatch, bias, tmp_path):
    def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None):
        shape = (query.shape[0], 1, query.shape[1], key.shape[1])
        made = attn_bias.materialize(shape) if isinstance(attn_bias, Bias) else attn_bias
        allowed = (
            torch.ones(1, *shape[2:]).bool() if made is None else (made == 0)[:, 0].expand(-1, *shape[2:])
        )
        return attended(query, key, value, allowed)

    made = types.ModuleType("xformers.ops")
    made.memory_efficient_attention = memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers.ops", made)
    net = Flash(lambda *args, **kwargs: made.memory_efficient_attention(*args, **kwargs))
    ids = IDS[:1]
    before = net(ids, attn_bias=bias)
    with maskcli.trace(save=str(tmp_path), save_all=True) as traced:
        after = net(ids, attn_bias=bias)
    assert torch.equal(before, after)
    assert (traced.report.calls, traced.report.unfit, loud(traced)) == (1, {}, [])
    weights = saved(tmp_path)
    if bias is not None:
        mask = saved(tmp_path, "attn_bias")
        assert ((weights > 0) == (mask == 0)).all()


def test_torchs_varlen_attention(monkeypatch, tmp_path):
    varlen = pytest.importorskip("torch.nn.attention.varlen")

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
        return flash_attn_varlen_func(
            query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size
        )

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    bounds = torch.tensor([0, 2, 6], dtype=torch.int32)
    net = Flash(
        lambda q, k, v: varlen.varlen_attn(q[0], k[0], v[0], bounds, bounds, 4, 4, window_size=(-1, 0))
    )
    with maskcli.trace(save=str(tmp_path), save_all=True) as traced:
        net(IDS[:1])
    assert (traced.report.calls, traced.report.unfit) == (1, {})
    apart = torch.block_diag(torch.ones(2, 2), torch.ones(4, 4)).bool().tril()
    assert ((saved(tmp_path) > 0) == apart).all()


def opaque(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **options):
    """An attention function of a user's own, whose inside nothing sees."""
    q, k, v = (each.detach().double() for each in (query, key, value))
    groups = q.shape[1] // k.shape[1]
    with torch._C.DisableTorchFunction():
        k, v = (each.repeat_interleave(groups, 1) for each in (k, v))
        scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = scores if attention_mask is None else scores + attention_mask
        return (scores.softmax(-1) @ v).float().transpose(1, 2).contiguous(), None


@pytest.fixture
def registered():
    hf.AttentionInterface.register("opaque", opaque)
    hf.masking_utils.AttentionMaskInterface.register("opaque", hf.masking_utils.eager_mask)
    yield
    hf.AttentionInterface._global_mapping.pop("opaque")
    hf.masking_utils.AttentionMaskInterface._global_mapping.pop("opaque")


@pytest.mark.combinations
@pytest.mark.parametrize("how", ["sdpa", "opaque"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "gpt2", "gpt_neox", "opt"])
def test_weights_are_those_of_eager_attention(name, how, registered, tmp_path):
    """Against the weights that the model itself gives out when it computes eagerly."""
    inputs = batch(name)
    expected = model(name, "eager")(**inputs, output_attentions=True).attentions
    made = model(name, how)
    before = made(**inputs).logits
    with maskcli.trace(pad_id=1, save=str(tmp_path), save_all=True) as traced:
        after = made(**inputs).logits
    assert torch.equal(before, after)
    assert (traced.report.calls, traced.report.unfit, loud(traced)) == (2, {}, [])
    for path, theirs in zip(calls(tmp_path), expected, strict=True):
        tensors = {each.name.rpartition(".")[2]: each.read() for each in open_tensors(str(path)).tensors}
        real = inputs["attention_mask"].bool()[:, None, :, None].expand_as(theirs)
        ours = torch.from_numpy(tensors["weights"])
        assert (ours - theirs)[real].abs().max() < 1e-6
        assert ((ours == 0) == (theirs == 0))[real].all()


def test_a_registered_function_that_drops_the_mask_is_found(registered, monkeypatch):
    def dropping(module, query, key, value, attention_mask, **options):
        return opaque(module, query, key, value, None, **options)

    monkeypatch.setitem(hf.AttentionInterface._global_mapping, "opaque", dropping)
    with maskcli.trace(pad_id=1) as traced:
        model("llama", "opaque")(**batch("llama"))
    assert {"MSK204"} & set(loud(traced)) or {"MSK202", "MSK203"} <= set(loud(traced))


@pytest.mark.parametrize("operator", ["packet", "overload"])
def test_torchs_operators_below_sdpa(operator):
    q, k, v = torch.randn(3, 2, 2, 6, 8)
    function = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    function = function if operator == "packet" else function.default
    mask = torch.zeros(2, 1, 6, 6).masked_fill(REAL[:, None, None] == 0, -math.inf)
    with maskcli.trace() as traced:
        out = function(q, k, v, attn_mask=mask)[0]
    assert torch.equal(out, functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert (traced.report.calls, traced.report.unfit, loud(traced)) == (1, {}, [])
