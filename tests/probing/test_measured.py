"""Masks measured from behaviour equal the masks that models were built with, whatever these are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maskcli.probing.plan import Plan
from maskcli.probing.probe import measure
from maskcli.probing.subject import subject_of

WIDTH, HEADS, VOCABULARY = 16, 2, 40


class Attention(nn.Module):
    """Attention under any mask [S, S], True = attend."""

    def __init__(self, mask, fill=float("-inf")):
        super().__init__()
        self.mask, self.fill = torch.as_tensor(mask), fill
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        heads = self.project(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        scores = heads[0] @ heads[1].transpose(-1, -2) / (WIDTH / HEADS) ** 0.5
        scores = scores + torch.zeros(self.mask.shape).masked_fill(~self.mask, self.fill)
        return self.out((scores.softmax(-1).nan_to_num(0) @ heads[2]).transpose(1, 2).flatten(2))


class Model(nn.Module):
    """Layers of attention with residuals between norms, and a feed-forward part that mixes nothing."""

    def __init__(self, *layers):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.attend = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in layers)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, ids):
        x = self.embed(ids)
        for attend, norm in zip(self.attend, self.norms, strict=True):
            x = x + attend(norm(x))
            x = x + self.feed(x)
        return self.head(x)


def dense(mask):
    """A Mask [B, 1, Q, K] as bool [B, Q, K]."""
    return np.stack([mask.dense(item, 0, (0, mask.shape[2])) for item in range(mask.shape[0])])


def off_diagonal(cells):
    return cells & ~np.eye(*cells.shape[-2:], dtype=bool)


def probed(*layers, length=12, **plan):
    return measure(subject_of(Model(*layers).eval(), VOCABULARY), Plan(length=length, **plan))


@st.composite
def masks(draw, length=12):
    """Any mask; every query sees itself, or nothing at all."""
    bits = draw(st.lists(st.booleans(), min_size=length * length, max_size=length * length))
    mask = np.array(bits).reshape(length, length)
    np.fill_diagonal(mask, mask.any(1))
    return mask


@pytest.mark.long
@settings(max_examples=25, deadline=None)
@given(masks(), masks())
def test_any_mask_is_measured_cell_by_cell(first, second):
    behaviour = probed(Attention(first), Attention(second))
    for seen in behaviour.seen:
        wanted = {"attend.0": first, "attend.1": second}[seen.module]
        assert seen.soft.attended == 0
        assert (off_diagonal(dense(seen.reached)) == off_diagonal(wanted)).all()
    found = {seen.module for seen in behaviour.seen}
    mixing = {f"attend.{at}" for at, mask in enumerate((first, second)) if off_diagonal(mask).any()}
    assert found == mixing == set(behaviour.mixing)


@pytest.mark.long
@settings(max_examples=15, deadline=None)
@given(masks(), masks())
def test_layers_compose_to_the_reach_of_the_model(first, second):
    behaviour = probed(Attention(first), Attention(second))
    if behaviour.reach is not None:
        assert behaviour.reach.more == 0


@pytest.mark.parametrize(("fill", "soft"), [(-4.0, False), (-20.0, False), (-1e4, True), (-1e9, None)])
def test_weak_fills_are_told_by_the_size_of_the_move(fill, soft):
    causal = np.tri(12, dtype=bool)
    (seen,) = probed(Attention(causal, fill)).seen
    beyond = off_diagonal(dense(seen.reached)) & ~causal
    weak = off_diagonal(dense(seen.soft)) & ~causal
    assert beyond.any() == (soft is False)
    assert weak.any() == (soft is True or fill == -20.0)


def test_finding_what_mixes_takes_few_runs():
    causal = np.tri(12, dtype=bool)
    assert probed(*(Attention(causal) for _ in range(8))).forwards <= 15
