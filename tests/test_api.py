"""The Python API: masks, checks of arrays and the assertion, on numpy arrays, torch tensors and whatever has __array__."""

import doctest
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import maskcli
import maskcli.api.assertion
import maskcli.api.checks
import maskcli.api.comparing
import maskcli.api.converting
import maskcli.api.masks
import maskcli.masks.words
from maskcli.diagnostics.plain import plain
from maskcli.meant.facts import FACTS, Said
from tests.cli.running import DATA


class Arraylike:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


KINDS = [np.asarray, torch.as_tensor, Arraylike]


def test_the_names():
    assert set(maskcli.__all__) <= set(dir(maskcli))
    jobs = {name for name in maskcli.__all__ if name[0].islower()}
    for name in jobs:
        assert ">>> " in getattr(maskcli, name).__doc__
    results = {"Finding", "Mask", "MaskcliError", "Report", "Trace"}
    assert set(maskcli.__all__) == jobs | results | {"__version__"}
    assert all(isinstance(getattr(maskcli, name), type) for name in results)
    for name in maskcli.api.__all__:
        assert getattr(maskcli.api, name)
    with pytest.raises(AttributeError, match="no attribute 'masks_'"):
        maskcli.masks_  # noqa: B018


@pytest.mark.parametrize(
    "module",
    [
        maskcli.api.assertion,
        maskcli.api.checks,
        maskcli.api.comparing,
        maskcli.api.converting,
        maskcli.api.masks,
        maskcli.masks.words,
    ],
)
def test_examples_are_real(module):
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


def test_every_fact_can_be_said_in_python():
    said = {fact.name for fact in FACTS.values()}
    assert set(Said.__annotations__) == said | {"tokenizer", "template", "turn", "select", "ignore"}


@pytest.mark.parametrize("kind", KINDS)
def test_names_comparisons_and_conversions(kind, tmp_path):
    lower = np.tril(np.ones((6, 6), bool))
    real = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], bool)
    both = lower & real[:, None, None]
    named = maskcli.name(kind(both))
    assert (named.spec, named.exact, named.padding) == ("causal & padding", True, ((2, 0, 0), (0, 0, 0)))
    np.save(tmp_path / "m.npy", both)
    assert maskcli.name(str(tmp_path / "m.npy")).spec == named.spec
    with pytest.raises(maskcli.MaskcliError, match="is its own name"):
        maskcli.name("causal")

    assert maskcli.compare(kind(both), str(tmp_path / "m.npy")).equal
    assert maskcli.compare(kind(both), "causal & padding", padding=kind(real)).equal
    compared = maskcli.compare(kind(both), "causal", padding=kind(real))
    assert (compared.cells, [region.what for region in compared.regions]) == (11, ["padding"])
    weights = maskcli.compare(f"{DATA / 'minilm_attn.safetensors'}", f"{DATA / 'minilm_attn.safetensors'}")
    assert weights.masks is None
    assert weights.equal
    assert len(weights.tensors) == 6

    added = maskcli.convert(kind(both), "additive", convention="sdpa")
    assert np.array_equal(added == 0, both)
    assert np.array_equal(maskcli.convert("causal & padding", "mha", padding=kind(real)), ~both[:, 0])
    assert maskcli.convert(kind(lower), "flash-attn", convention="sdpa").arguments == {"causal": True}
    with pytest.raises(maskcli.MaskcliError, match="True can mean attend or ignore"):
        maskcli.convert(kind(np.ones((4, 4), bool)), "additive")


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
    file = str(DATA / "minilm_attn_nomask.safetensors")
    assert [finding.code for finding in maskcli.diagnose(file).findings] == ["MSK202"]
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


def create_causal_mask(length):
    """As courses write it: True is what a query must not see."""
    return torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)


def mask_mod(b, h, q_idx, kv_idx):
    return kv_idx <= q_idx


LOWER = np.tri(4, dtype=bool)
REAL = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]])
BOTH = LOWER & (REAL[:, None] == 1)
# Masks of three samples of four tokens, and which cells they hide.
OPERANDS = {
    "[B, Q, K]": ({"mask": BOTH}, BOTH),
    "[B, 1, K]": ({"mask": REAL[:, None]}, REAL[:, None] == 1),
    "[B, 1, 1, K]": ({"mask": REAL[:, None, None]}, REAL[:, None] == 1),
    "[B, K]": ({"mask": REAL}, REAL[:, None] == 1),
    "[Q, K]": ({"mask": LOWER}, LOWER),
    "additive [Q, K]": ({"mask": np.where(LOWER, 0, -np.inf)}, LOWER),
    "a spec": ({"mask": "causal"}, LOWER),
    "a spec with lengths": ({"mask": "causal", "lengths": [2, 4, 3]}, BOTH),
    "padding of lengths": ({"mask": "padding", "lengths": torch.tensor([2, 4, 3])}, REAL[:, None] == 1),
    "[Q, K] with lengths": ({"mask": LOWER, "lengths": [2, 4, 3]}, BOTH),
    "a function of the length": ({"mask": create_causal_mask}, LOWER),
    "a mask_mod": ({"mask": mask_mod}, LOWER),
}


@pytest.mark.parametrize("heads", [None, 1, 2])
@pytest.mark.parametrize(("said", "keep"), OPERANDS.values(), ids=OPERANDS)
def test_the_assertion_takes_masks_as_people_have_them(said, keep, heads):
    """Of weights [B, Q, K], and of [B, H, Q, K] where three axes of a mask begin with the batch."""
    keep = np.broadcast_to(keep, (3, 4, 4))
    weights = keep / keep.sum(axis=-1, keepdims=True)
    wrong = weights.copy()
    item, query, key = np.argwhere(~keep)[-1]
    wrong[item, query, key] = 0.25
    if heads:
        weights, wrong = (each[:, None].repeat(heads, axis=1) for each in (weights, wrong))
    maskcli.assert_attention_respects(weights, **said)
    # Weights of three axes have heads where nothing tells that they have samples.
    place = rf"\[({item}, 0|0, {item}), {query}, {key}\]"
    with pytest.raises(AssertionError, match=f"{heads or 1} masked cells are not 0, first .* = {place}"):
        maskcli.assert_attention_respects(wrong, **said)


def test_three_axes_are_the_batch_where_they_can_be_and_heads_elsewhere():
    """With as many heads as samples a mask of three axes is of the samples."""
    for heads in (3, 5):
        weights = (BOTH / BOTH.sum(axis=-1, keepdims=True))[:, None].repeat(heads, axis=1)
        maskcli.assert_attention_respects(weights, BOTH)
        maskcli.assert_attention_respects(weights, BOTH.repeat(heads, axis=0))
    of_heads = BOTH[[0, 0, 0, 2, 2]]
    weights = np.broadcast_to(of_heads / of_heads.sum(axis=-1, keepdims=True), (3, 5, 4, 4))
    maskcli.assert_attention_respects(weights, of_heads)
    maskcli.assert_attention_respects(weights[0], of_heads[None])
    maskcli.assert_attention_respects(weights[0], LOWER)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"mask": "padding"}, "'padding' needs to know"),
        ({"mask": "casual"}, "did you mean 'causal'"),
        ({"mask": "causal", "lengths": [2, 4]}, r"lengths=\[2, 4\] does not fit weights of 1 samples and 4 keys"),
        ({"mask": "causal", "lengths": [2, 9, 1]}, "a whole number up to 4"),
        ({"mask": "causal", "lengths": [0.5, 1, 1]}, "a whole number up to 4"),
        ({"mask": lambda n: np.ones((n, 3), bool)}, r"returns the shape \[4, 3\] for the length 4, expected \[4, 4\]"),
        ({"mask": lambda n: n / 0}, "'<lambda>' fails: ZeroDivisionError"),
        ({"mask": np.ones((2, 4, 4), bool)}, "does not broadcast"),
    ],
)  # fmt: skip
def test_the_assertion_refuses_what_does_not_fit(said, sentence):
    with pytest.raises(maskcli.MaskcliError, match=sentence):
        maskcli.assert_attention_respects(BOTH / 4, **said)


@pytest.mark.parametrize("job", [maskcli.diagnose, maskcli.trace, maskcli.audit])
def test_help_lists_what_can_be_said(job):
    text = inspect.getdoc(job)
    for name in Said.__annotations__:
        assert f"\n  {name}: " in text
        assert inspect.signature(job).parameters[name].default is None
    assert not any(each.kind is each.VAR_KEYWORD for each in inspect.signature(job).parameters.values())


def test_paths_are_files():
    file = DATA / "minilm_attn_nomask.safetensors"
    assert isinstance(file, Path)
    assert maskcli.diagnose(file) == maskcli.diagnose(str(file))
    assert maskcli.compare(file, file).equal


def test_a_report_is_printed_as_text():
    """A line for each finding, and one that counts."""
    even = np.full((1, 1, 4, 4), 0.25) + np.eye(4) / 10
    even /= even.sum(axis=-1, keepdims=True)
    causal = np.tril(even) / np.tril(even).sum(axis=-1, keepdims=True)
    report = maskcli.diagnose({"attentions.0": even}, expect="causal")
    assert str(report) == f"{report.findings[0]}\n1 error in 1 tensor"
    assert str(report).startswith("MSK203 future-attended error: ")
    healthy = maskcli.diagnose({"attentions.0": causal}, expect="causal")
    assert str(healthy) == f"nothing found in 1 tensor, by {len(healthy.decided)} rules"
    assert str(maskcli.diagnose(DATA / "minilm_attn_nomask.safetensors")).endswith("of 1 file")

    rows = [{"input_ids": [5, 6, 7, 8, 2], "labels": [-100, -100, 7, 8, -100]}] * 3
    lines = str(maskcli.audit(rows, eos_id=2, pad_id=0)).splitlines()
    assert lines[0].startswith("MSK506 label-border warning (3 of 3 rows): ")
    assert lines[1:] == ["1 warning in 3 rows"]

    q = torch.eye(4, 8)[None, None]
    with maskcli.trace(expect="causal") as traced:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    lines = str(traced).splitlines()
    assert lines[0].startswith("MSK203 future-attended error: ")
    assert lines[1:] == ["1 error in 1 checked of 1 attention call (1 module, 0 steps)"]
    with maskcli.trace() as idle:
        pass
    assert str(idle) == "nothing was checked: no attention call was seen"


def test_what_a_message_quotes_reaches_no_terminal_raw():
    assert plain(["MSK101 \x1b[2J", "a\u202eb"], "2 errors\n") == "MSK101 \\x1b[2J\na\\u202eb\n2 errors\\n"


def test_what_shows_a_place_of_arrays_is_python():
    rng = np.random.default_rng(0)
    layers = rng.random((2, 1, 3, 5, 5))
    layers /= layers.sum(axis=-1, keepdims=True)
    for arrays, see in (
        ({"attentions.0": layers[0]}, "arrays['attentions.0'][:, :, 0:4, 1:5]"),
        ({"attentions.0": layers[0, 0]}, "arrays['attentions.0'][:, 0:4, 1:5]"),
        ({"attentions": layers}, "arrays['attentions'][0][:, :, 0:4, 1:5]"),
        ({"attentions": list(layers)}, "arrays['attentions'][0][:, :, 0:4, 1:5]"),
    ):
        (finding,) = maskcli.diagnose(arrays, expect="causal").findings
        assert finding.see == see
        assert np.shares_memory(eval(see, {"arrays": arrays}), layers[0, :, :, :4, 1:])
    ids = np.array([[1, 2, 3, 4], [1, 2, 0, 0]])
    batch = {"input_ids": ids, "labels": ids.copy()}
    padded = next(each for each in maskcli.diagnose(batch, pad_id=0).findings if each.code == "MSK503")
    assert eval(padded.see, {"arrays": batch}).tolist() == [[0, 0]]
