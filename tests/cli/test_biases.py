"""Biases that are added to the scores: compared by value, and written in other types with a word on what is lost."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

import maskcli
from maskcli.errors import MaskcliError
from tests.cli.running import run

KEYS, HEADS = 16, 4
CAUSAL = torch.full((KEYS, KEYS), float("-inf")).triu(1)


def alibi(factor=1.0):
    """Bloom's own slopes under a causal mask, [2, H, Q, K]."""
    slopes = build_alibi_tensor(torch.ones(2, KEYS, dtype=torch.int64), HEADS, torch.float32)
    return slopes.reshape(2, HEADS, 1, KEYS) * factor + CAUSAL


def buckets(seed):
    """T5's own relative bias [1, H, Q, K], with the embeddings of a seed."""
    torch.manual_seed(seed)
    config = T5Config(d_model=16, d_kv=4, num_heads=HEADS, num_layers=1, is_decoder=True)
    attention = T5Attention(config, has_relative_attention_bias=True)
    with torch.no_grad():
        return attention.compute_bias(KEYS, KEYS) + CAUSAL


@pytest.fixture
def saved(tmp_path):
    def save(name, mask):
        save_file({"attn_mask": mask.contiguous()}, tmp_path / f"{name}.safetensors")
        return str(tmp_path / f"{name}.safetensors")

    return save


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("one", "other"), [(alibi(), alibi(2.0)), (alibi(), alibi(-1.0)), (buckets(0), buckets(1))]
)
def test_other_slopes_and_buckets_are_a_difference(one, other, dtype, saved):
    a, b = saved("a", one.to(dtype)), saved("b", other.to(dtype))
    done = run("diff", a, b, check=1)
    assert "in what is added to the scores, by" in done.stdout
    assert "both let the same keys be seen" in done.stdout
    told = json.loads(run("diff", a, b, "--format", "json", check=1).stdout)
    assert not told["equal"]
    assert told["regions"] == []
    difference = (one.to(dtype).double() - other.to(dtype).double()).nan_to_num(0).abs()
    assert told["biases"]["largest"] == pytest.approx(difference.max().item())
    assert difference[tuple(told["biases"]["index"])] == difference.max()


@pytest.mark.parametrize("bias", [alibi(), buckets(0)])
def test_the_same_bias_in_other_types_and_with_other_fills_is_equal(bias, saved):
    a = saved("a", bias)
    for name, dtype in (("h", torch.float16), ("b", torch.bfloat16)):
        assert "add the same values" in run("diff", a, saved(name, bias.to(dtype))).stdout
    filled = torch.where(bias == float("-inf"), torch.finfo(torch.float32).min, bias)
    assert "add the same values" in run("diff", a, saved("f", filled)).stdout


def test_values_that_are_not_compared_are_said(saved):
    done = run("diff", saved("a", alibi()), "causal")
    assert "only who attends is compared" in done.stdout
    assert "only who attends" not in run("diff", saved("m", CAUSAL), "causal").stdout
    # A mask without a bias is another bias than one with values.
    assert (
        "values differ"
        in run("diff", saved("a", alibi()), saved("z", 0 * alibi().nan_to_num(0) + CAUSAL), check=1).stdout
    )


def test_who_attends_and_values_are_told_apart(saved):
    other = alibi()
    other[1, 2, 9, 3] = float("-inf")
    other[0, 1, 5, 4] += 1
    comparison = maskcli.compare(saved("a", alibi()), saved("b", other))
    assert (comparison.cells, sum(region.cells for region in comparison.regions)) == (2, 1)
    assert comparison.biases.difference.place == (0, 1, 5, 4)


@pytest.mark.parametrize("fill", ["-inf", "min"])
@pytest.mark.parametrize(("name", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_a_bias_is_written_in_another_type_and_what_is_lost_is_said(name, dtype, fill, saved, tmp_path):
    lowest = torch.finfo(torch.float32).min
    bias = torch.where(alibi() == float("-inf"), lowest, alibi())
    out = tmp_path / "out.safetensors"
    done = run(
        "convert", saved("a", bias), "--to", "additive", "--dtype", name, "--fill", fill, "-o", str(out)
    )
    bits = {"float16": "11 bits", "bfloat16": "8 bits"}[name]
    assert "ignored cells, -3.40282e+38, are written as" in done.stderr
    assert f"rounded to the {bits} of {name}" in done.stderr
    expected = torch.where(bias == lowest, float("-inf") if fill == "-inf" else torch.finfo(dtype).min, bias)
    (written,) = load_file(out).values()
    assert torch.equal(written, expected.to(dtype))


def test_nothing_lost_is_nothing_said(saved, tmp_path):
    out = tmp_path / "out.npy"
    done = run("convert", saved("a", alibi().half()), "--to", "additive", "-o", str(out))
    assert done.stderr == ""
    assert np.array_equal(np.load(out), alibi().half().float().numpy())


def test_rows_that_would_become_nan_are_said(saved, tmp_path):
    bias = alibi().clamp_min(torch.finfo(torch.float32).min)
    bias[0, :, 3] = torch.finfo(torch.float32).min
    done = run("convert", saved("a", bias), "--to", "additive", "-o", str(tmp_path / "o.npy"))
    assert "--fill min avoids" in done.stderr


def test_a_bias_that_a_type_or_a_convention_cannot_hold_is_refused():
    high = alibi().numpy()
    high[0, 0, 3, 1] = 1e5
    with pytest.raises(MaskcliError, match="more than float16 holds"):
        maskcli.convert(high, "additive", dtype="float16")
    with pytest.raises(MaskcliError, match="only additive can hold"):
        maskcli.convert(high, "sdpa")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("lengths", ["9", "9,12"])
def test_lengths_are_filled_up_to_the_keys_of_the_file(side, lengths, tmp_path):
    items = [int(length) for length in lengths.split(",")]
    keys = np.arange(64)
    rows = [keys < n if side == "right" else keys >= 64 - n for n in items]
    np.save(tmp_path / "m.npy", np.broadcast_to(np.stack(rows)[:, None, None], (len(items), 1, 64, 64)))
    options = ("--lengths", lengths, "--padding-side", side, "--from", "sdpa")
    assert "equal" in run("diff", str(tmp_path / "m.npy"), "padding", *options).stdout
    wrong = "left" if side == "right" else "right"
    run(
        "diff",
        str(tmp_path / "m.npy"),
        "padding",
        "--lengths",
        lengths,
        "--padding-side",
        wrong,
        "--from",
        "sdpa",
        check=1,
    )


def test_sizes_of_samples_and_tensors_beside_a_mask_are_compared(saved, tmp_path):
    p, k = np.arange(KEYS)[:, None], np.arange(KEYS)
    mask = torch.from_numpy(np.stack([(k <= p) | (k < size) for size in (4, 7)])[:, None])
    save_file({"attn_mask": mask, "prefix_lengths": torch.tensor([4, 7])}, tmp_path / "p.safetensors")
    file = f"{tmp_path}/p.safetensors:attn_mask"
    for spec in (
        "prefix-lm:4,7",
        "prefix-lm:prefix_lengths",
        f"prefix-lm:{tmp_path}/p.safetensors:prefix_lengths",
    ):
        assert "equal" in run("diff", file, spec).stdout
    run("diff", file, "prefix-lm:4", check=1)
    assert "one for each sample" in run("diff", file, "prefix-lm:4,7,2", check=2).stderr
