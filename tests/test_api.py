"""The Python API: masks, checks of arrays and the assertion, on numpy arrays, torch tensors and whatever has __array__."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maskcli


class Arraylike:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


KINDS = [np.asarray, torch.as_tensor, Arraylike]


def test_the_names():
    assert set(maskcli.__all__) <= set(dir(maskcli))
    for name in ("assert_attention_respects", "diagnose", "mask", "trace"):
        assert getattr(maskcli, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'masks_'"):
        maskcli.masks_  # noqa: B018


@pytest.mark.parametrize("kind", KINDS)
def test_masks_from_specs(kind):
    padding = np.array([[0, 1, 1], [1, 1, 1]])
    i, j = np.mgrid[:3, :3]
    both = (j <= i) & (padding[:, None, None] == 1)
    assert (maskcli.mask("causal & padding", padding=kind(padding)) == both).all()
    assert (
        maskcli.mask("causal & padding", padding=kind(padding), convention="mha", heads=2)
        == ~both.repeat(2, 1).reshape(4, 3, 3)
    ).all()
    assert (maskcli.mask("padding", padding=kind(padding), convention="hf") == padding).all()
    assert (maskcli.mask("documents", documents=kind([[0, 0, 1]])) == ((i < 2) == (j < 2))).all()
    half = maskcli.mask("causal", keys=3, convention="additive", dtype="float16", fill="min")
    assert half.dtype == np.float16
    assert (half == np.where(j <= i, 0, -65504)).all()
    assert maskcli.mask("causal", queries=2, keys=5).tolist() == [[True] * 4 + [False], [True] * 5]
    assert maskcli.mask("causal", keys=5, past=3).shape == (2, 5)


def test_masks_that_cannot_be():
    for arguments in (
        {},
        {"keys": 3, "convention": "other"},
        {"keys": 3, "convention": "hf"},
        {"padding": np.zeros((1, 1, 3))},
    ):
        with pytest.raises(maskcli.MaskcliError):
            maskcli.mask("causal", **arguments)
    with pytest.raises(maskcli.MaskcliError):
        maskcli.mask("documents", keys=4)


@pytest.mark.parametrize("kind", KINDS)
def test_diagnose_arrays(kind):
    i, j = np.mgrid[:6, :6]
    rng = np.random.default_rng(0)
    weights = rng.random((1, 2, 6, 6), np.float32)
    weights /= weights.sum(-1, keepdims=True)
    report = maskcli.diagnose({"attentions.0": kind(weights)}, expect="causal")
    assert [finding.code for finding in report.findings] == ["MSK203"]
    weights *= j <= i
    weights /= weights.sum(-1, keepdims=True)
    assert maskcli.diagnose({"attentions.0": kind(weights)}, expect=["causal"], exact=True).findings == ()
    assert maskcli.diagnose({"attentions.0": kind(weights)}, expect="full", select=["MSK1"]).findings == ()
    with pytest.raises(maskcli.MaskcliError, match="nothing to check among 'x'"):
        maskcli.diagnose({"x": kind(np.zeros(3))})
    with pytest.raises(maskcli.MaskcliError, match="purpose"):
        maskcli.diagnose({"attentions.0": kind(weights)}, purpose="sell")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_the_assertion_fails_exactly_when_a_masked_cell_is_not_zero(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    batch, heads, queries, keys = (data.draw(st.integers(1, 4)) for _ in range(4))
    keep = rng.random((batch, 1, queries, keys)) < 0.6
    keep[..., 0] = True
    weights = rng.random((batch, heads, queries, keys)).astype(np.float32) * keep
    weights /= weights.sum(-1, keepdims=True)
    # The smallest number that float32 holds, far below any tolerance; and NaN, which is no zero.
    stray = data.draw(st.sampled_from([0.0, 1e-45, 0.3, np.nan]))
    at = tuple(data.draw(st.integers(0, size - 1)) for size in weights.shape)
    masked = not np.broadcast_to(keep, weights.shape)[at]
    if masked:
        weights[at] = stray
    mask = data.draw(
        st.sampled_from(
            [keep, np.where(keep, 0, -np.inf), np.where(keep, 0, -3e38).astype(np.float32), keep.astype(int)]
        )
    )
    kind = data.draw(st.sampled_from(KINDS))
    if masked and stray != 0:
        with pytest.raises(AssertionError, match="1 masked cells are not 0"):
            maskcli.assert_attention_respects(kind(weights), kind(mask))
    else:
        maskcli.assert_attention_respects(kind(weights), kind(mask))


def test_the_assertion_speaks_in_findings_and_knows_conventions():
    lower = np.tril(np.ones((4, 4), bool))
    even = torch.full((2, 2, 4, 4), 0.25) + torch.rand(2, 2, 4, 4) / 10
    with pytest.raises(
        AssertionError, match=r"MSK20\d .* error: .*\n24 masked cells are not 0, first .* = \[0, 0, 0, 1\]"
    ):
        maskcli.assert_attention_respects(even, lower)
    causal = torch.tril(even)
    maskcli.assert_attention_respects(causal, lower)
    maskcli.assert_attention_respects(causal, ~lower, convention="mha")
    with pytest.raises(AssertionError):
        maskcli.assert_attention_respects(causal, ~lower)
    padding = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    with pytest.raises(AssertionError):
        maskcli.assert_attention_respects(causal, padding)
    # The first query is padding and has no key: whatever its row holds is nobody's business.
    rows = causal * padding[:, None, None]
    rows[0, :, 0] = torch.nan
    maskcli.assert_attention_respects(rows, torch.from_numpy(lower) & (padding[:, None, None] == 1))
    with pytest.raises(maskcli.MaskcliError, match="does not broadcast"):
        maskcli.assert_attention_respects(even, np.ones((3, 4), bool))
