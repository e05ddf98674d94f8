"""FlexAttention under trace: its mask_mod is the mask."""

import math

import pytest
import torch
from torch import nn

import maskcli
from tests.tracing.test_watch import IDS, REAL, loud

pytestmark = pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile", "ignore::DeprecationWarning"
)
flex = pytest.importorskip("torch.nn.attention.flex_attention")


class Flexible(nn.Module):
    def __init__(self, compiled=False):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.qkv = nn.Embedding(50, 32), nn.Linear(32, 64)
        # FlexAttention has no gradients on the CPU.
        self.requires_grad_(False)
        self.attend = torch.compile(flex.flex_attention) if compiled else flex.flex_attention

    def forward(self, ids, attention_mask, mask_mod, score_mod=None):
        x = self.qkv(self.tokens(ids))
        q = x[..., :32].unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = (each.unflatten(-1, (2, 8)).transpose(1, 2) for each in x[..., 32:].chunk(2, -1))
        size = ids.shape[1]
        mask = (
            None
            if mask_mod is None
            else flex.create_block_mask(mask_mod, len(ids), None, size, size, device="cpu")
        )
        return self.attend(q, k, v, score_mod=score_mod, block_mask=mask, enable_gqa=True)


def causal(b, h, q, k):
    return q >= k


def padded(b, h, q, k):
    return (q >= k) & (REAL[b, k] == 1)


def near(score, b, h, q, k):
    return score - 0.3 * (h + 1) * (q - k).abs()


def recomputed(model, score_mod):
    """W V by hand, cell by cell."""
    x = model.qkv(model.tokens(IDS))
    q, k, v = (
        each.unflatten(-1, (-1, 8)).transpose(1, 2) for each in (x[..., :32], x[..., 32:48], x[..., 48:])
    )
    k, v = (each.repeat_interleave(2, 1) for each in (k, v))
    scores = q @ k.mT / math.sqrt(8)
    out = torch.full_like(scores, -math.inf)
    for b in range(2):
        for h in range(4):
            for i in range(6):
                for j in range(i + 1):
                    if REAL[b, j]:
                        out[b, h, i, j] = scores[b, h, i, j] - (
                            0.3 * (h + 1) * abs(i - j) if score_mod else 0
                        )
    return out.softmax(-1), out.softmax(-1) @ v


@pytest.mark.long
@pytest.mark.parametrize("score_mod", [None, near])
def test_a_healthy_flex_attention_is_silent_and_its_weights_are_the_kernels(score_mod, tmp_path):
    model = Flexible()
    before = model(IDS, REAL, padded, score_mod)
    with maskcli.trace(expect="causal", pad_id=0, save=str(tmp_path), save_all=True) as traced:
        after = model(IDS, REAL, padded, score_mod)
    assert torch.equal(before, after)
    assert loud(traced) == []
    assert traced.report.unfit == {}
    assert (traced.report.calls, traced.report.changed) == (1, ())
    weights, out = recomputed(model, score_mod)
    assert torch.allclose(out, after, atol=1e-5)
    from maskcli.tensors import open_tensors

    saved = {
        each.name.rpartition(".")[2]: each.read()
        for each in open_tensors(str(next(tmp_path.iterdir()))).tensors
    }
    assert torch.allclose(torch.from_numpy(saved["weights"]), weights, atol=1e-6)
    i, j = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    assert (torch.from_numpy(saved["block_mask"])[:, 0] == ((i >= j) & (REAL[:, None] == 1))).all()


def test_a_mask_mod_that_forgets_the_padding_or_the_future():
    with maskcli.trace() as traced:
        Flexible()(IDS, REAL.flip(1), causal)
    assert loud(traced) == ["MSK202"]
    with maskcli.trace(expect="causal") as traced:
        Flexible()(IDS, REAL, None)
    assert loud(traced) == ["MSK202", "MSK203"]


@pytest.mark.long
def test_a_compiled_flex_attention_runs_eagerly():
    with maskcli.trace() as traced:
        Flexible(compiled=True)(IDS, REAL.flip(1), causal)
    assert "compiled regions ran eagerly" in traced.report.changed
    assert "MSK202" in loud(traced)
