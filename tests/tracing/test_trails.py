"""Attention written by hand in all the ways that people mask and sum: seen, its mask and weights known, nothing changed."""

import math

import pytest
import torch
from torch.nn import functional
from torch.nn.functional import softmax

import maskcli
from tests.tracing.test_findings import Recorded
from tests.tracing.test_watch import LOWER, REAL, loud

torch.manual_seed(0)
Q, K, V = torch.randn(3, 2, 2, 6, 8)
KEEP = LOWER[None, None] & REAL.bool()[:, None, None]
ADDED = torch.zeros(KEEP.shape).masked_fill(~KEEP, -1e9)
FILL = torch.tensor(-1e9)


def scores():
    return Q @ K.mT / math.sqrt(8)


def method_where():
    return scores().where(KEEP, FILL).softmax(-1) @ V


def where_by_keyword():
    return torch.where(condition=KEEP, input=scores(), other=FILL).softmax(-1) @ V


def add_by_keyword():
    return torch.add(scores(), other=ADDED).softmax(-1) @ V


def heads_last():
    raw = torch.einsum("bhqd,bhkd->bqkh", Q, K) / math.sqrt(8)
    return torch.einsum("bqkh,bhkd->bhqd", raw.masked_fill(~KEEP.permute(0, 2, 3, 1), -1e9).softmax(2), V)


def keys_first():
    raw = (K @ Q.mT / math.sqrt(8)).masked_fill(~KEEP.mT, -1e9)
    return (V.mT @ raw.softmax(-2)).mT


def permuted():
    raw = scores().permute(0, 2, 3, 1) + ADDED.permute(0, 2, 3, 1)
    return raw.permute(0, 3, 1, 2).softmax(-1) @ V


def chunked():
    kept = KEEP.chunk(2, 2)
    parts = [each.masked_fill(~keep, -1e9) for each, keep in zip(scores().chunk(2, 2), kept, strict=True)]
    return torch.cat(parts, 2).softmax(-1) @ V


def exponentials():
    raw = scores().masked_fill(~KEEP, -1e9)
    e = (raw - raw.max(-1, keepdim=True).values).exp()
    return (e / e.sum(-1, keepdim=True)) @ V


def normalised_late():
    e = scores().masked_fill(~KEEP, -1e9).exp()
    return (e @ V) / e.sum(-1, keepdim=True)


def reciprocal():
    e = scores().masked_fill(~KEEP, -1e9).exp()
    return (e * e.sum(-1, keepdim=True).reciprocal()) @ V


def logarithms():
    return functional.log_softmax(scores() + ADDED, -1).exp() @ V


def talking_heads():
    mixed = torch.einsum("bhqk,hg->bgqk", scores(), torch.eye(2) + 0.1)
    return torch.einsum("bhqk,hg->bgqk", mixed.masked_fill(~KEEP, -1e9).softmax(-1), torch.eye(2)) @ V


def set_item():
    raw = scores()
    raw[~KEEP.expand_as(raw)] = -1e9
    return raw.softmax(-1) @ V


def index_put():
    raw = scores()
    raw.index_put_((~KEEP).expand_as(raw).nonzero(as_tuple=True), FILL)
    return raw.softmax(-1) @ V


def first_gpt():
    kept = KEEP.float()
    return (scores() * kept - 1e10 * (1 - kept)).softmax(-1) @ V


def subtracted():
    return (scores() - 1e10 * (~KEEP).float()).softmax(-1) @ V


def divided():
    return (torch.divide(Q @ K.mT, math.sqrt(8)) + ADDED).softmax(-1) @ V


def baddbmm_of_nothing():
    empty = torch.full((4, 6, 6), math.nan)
    raw = torch.baddbmm(empty, Q.flatten(0, 1), K.flatten(0, 1).mT, beta=0, alpha=8**-0.5)
    return (raw.view(2, 2, 6, 6) + ADDED).softmax(-1) @ V


def ellipsis():
    raw = torch.einsum("...qd,...kd->...qk", Q, K) / math.sqrt(8)
    return torch.einsum("...qk,...kd->...qd", raw.masked_fill(~KEEP, -1e9).softmax(-1), V)


def length_before_heads():
    q, k, v = (each.transpose(1, 2) for each in (Q, K, V))
    raw = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(8)
    weights = raw.masked_fill(~KEEP, -1e9).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).transpose(1, 2)


def imported_before():
    return softmax(scores() + ADDED, dim=-1) @ V


def capped():
    return (torch.tanh(scores() / 5) * 5 + ADDED).softmax(-1) @ V


def positions_gathered():
    relative = (torch.arange(6)[:, None] - torch.arange(6) + 6).expand(2, 2, 6, 6)
    raw = scores() + (Q @ torch.ones(2, 2, 12, 8).mT).gather(-1, relative)
    return raw.masked_fill(~KEEP, torch.finfo(raw.dtype).min).softmax(-1) @ V


WAYS = [
    method_where, where_by_keyword, add_by_keyword, heads_last, keys_first, permuted, chunked, exponentials, normalised_late,
    reciprocal, logarithms, talking_heads, set_item, index_put, first_gpt, subtracted, divided, baddbmm_of_nothing, ellipsis,
    length_before_heads, imported_before, capped, positions_gathered,
]  # fmt: skip


class Shown(Recorded):
    """A trace that keeps what the rules were given of each call."""

    def __init__(self, **options):
        super().__init__(**options)
        self.shown, checker = [], type(self._checker)
        whole = checker._diagnose

        def diagnose(this, tensors, declared, rules):
            self.shown.append({each.role: torch.from_numpy(each.tensor.read()) for each in tensors})
            return whole(this, tensors, declared, rules)

        self._checker._diagnose = diagnose.__get__(self._checker)


@pytest.mark.combinations
@pytest.mark.parametrize("attend", WAYS)
def test_every_way_is_followed_and_its_mask_is_known(attend):
    before = attend()
    with Shown() as traced:
        after = attend()
    assert torch.equal(before, after)
    assert (traced.report.calls, traced.report.unfit, traced.report.missed, loud(traced)) == (1, {}, (), [])
    (shown,) = traced.shown
    assert shown["weights"].shape == (2, 2, 6, 6)
    assert ((shown["mask"] > -1000).expand(2, 2, 6, 6) == KEEP).all()
    assert (shown["weights"].masked_fill(KEEP, 0) == 0).all()
    out = (shown["weights"] @ V).reshape(after.shape)
    assert torch.allclose(out, after, atol=1e-5)


def test_a_mask_that_baddbmm_leaves_out_is_none():
    with Shown() as traced:
        raw = torch.baddbmm(torch.full((4, 6, 6), -1e9), Q.flatten(0, 1), K.flatten(0, 1).mT, beta=0)
        torch.bmm(raw.softmax(-1), V.flatten(0, 1))
    assert "mask" not in traced.shown[0]


def test_a_softmax_of_a_softmax_is_called_so():
    with maskcli.trace() as traced:
        softmax(softmax(scores() + ADDED, -1), -1) @ V
    assert loud(traced) == ["MSK212"]


def test_weights_that_meet_no_values_are_counted():
    with maskcli.trace() as traced:
        for _ in range(3):
            ((scores() + ADDED).softmax(-1)[..., None] * V[:, :, None]).sum(-2)
    assert traced.report.calls == 0
    assert traced.report.missed == (("", (6, 6), 3),)


def test_a_linear_layer_and_a_router_are_no_attention():
    with maskcli.trace() as traced:
        x = torch.randn(2, 6, 16)
        chosen = (x @ torch.randn(16, 4)).softmax(-1)
        (chosen[..., None] * x[:, :, None]).sum(-2)
    assert (traced.report.calls, traced.report.missed) == (0, ())
