"""Counts that a file only claims: what is allocated by them has a ceiling."""

import json
import tracemalloc

import numpy as np
import pytest

from maskcli import convert, diagnose, mask, show
from maskcli.errors import MaskcliError
from maskcli.masks.layout import Layout
from maskcli.masks.spec import build, parse
from maskcli.meant.model_config import MAX_LAYERS, read_config
from maskcli.untrusted import memory_limit
from tests.cli.running import ROOT, refused, run

BLOCKS = [[["global"], 10**9]]


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"is_encoder_decoder": True, "decoder_layers": 10**9},
        {"is_encoder_decoder": True, "num_decoder_layers": 10**9},
        {"layer_types": ["full_attention"] * 100_000},
        {"model_type": "llama4_text", "n_layers": 10**9},
        {"model_type": "gemma2", "sliding_window": 4, "n_layers": 10**9},
        {"model_type": "gpt_neo", "attention_types": BLOCKS * 1000},
        {"model_type": "gpt_neo", "attention_types": [[["local"] * 100_000, 10**9]]},
    ],
    ids=lambda config: "-".join(config),
)
def test_layers_of_a_configuration(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"is_decoder": True, "eos_token_id": [2] * 100_000, **config}))
    with memory_limit(2**25):
        read = read_config(str(path))
    assert len(read.layers) == MAX_LAYERS
    assert set(read.layers) <= {"causal", "sliding:4", "sliding:256"}
    assert read.eos_ids == (2,)


@pytest.mark.parametrize("option", ["--past", "--cache-length"])
def test_keys_of_a_cache(option):
    assert "33554432" in refused("show", "a", option, 2**30)
    assert "more than the 33,554,432" in refused("show", "--lengths", "1,1", option, 2**24 + 2**20)
    run("show", "--lengths", "1", option, 2**20, check=0)


def test_tokens_of_a_batch():
    assert "more than the 8388608 cells" in refused("show", "--lengths", "16777216,1")


@pytest.mark.long
@pytest.mark.parametrize("spec", ["causal & sliding:4", "causal | global:4", "sliding:4 | documents:8388608"])
def test_joined_masks_of_the_longest_batch(spec):
    """Rows are joined a piece at a time: `causal | global:4` took a gigabyte for what stands between."""
    tracemalloc.start()
    try:
        mask = build(parse(spec), Layout(1, 2**23, 2**23))
        assert mask.rows == 2**23
        assert tracemalloc.get_traced_memory()[1] < 500 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("option", "number"), [("--pad-id", 2**64), ("--ignore-index", -(2**64))])
def test_ids_that_no_file_holds(option, number):
    assert option in refused("diagnose", ROOT / "tests/fuzz/corpus/tensors/batch.pt", option, number)


def test_heads_of_a_mask_that_is_written():
    causal = np.tril(np.ones((3, 3), bool))
    both = np.stack([causal, ~causal])[:, None]
    with pytest.raises(MaskcliError, match="2 samples of 1,048,576 heads are more than the 1,048,576 masks"):
        convert(both, "mha", convention="sdpa", heads=2**20)
    sentence = refused("convert", "combined", "--lengths", "6,4", "--to", "mha", "--heads", 2**31 - 1)
    assert "'--heads'" in sentence
    assert "1048576" in sentence


def test_numbers_of_a_spec_are_not_tokens():
    """Nothing tells the length, so one was made up from the number: two for each, of eight bytes."""
    spec = "prefix-lm:999999999"
    assert f"cannot express {spec!r}" in refused("convert", spec, "--to", "flash-attn")
    with memory_limit(2**27):
        assert convert(spec, "jax").why
        assert convert("sliding:999999999", "flash-attn").arguments["window_size"] == [999_999_998, 0]


@pytest.mark.parametrize("odd", [2**64, -(2**64), 1.5, "x"])
@pytest.mark.parametrize("name", ["pad_id", "eos_id", "ignore_index", "past", "vocab_size", "prompt_length"])
def test_numbers_of_python(name, odd):
    """They reached numpy, which said that they are too large for C."""
    tensors = {"input_ids": np.array([[5, 6, 0]]), "attention_mask": np.array([[1, 1, 0]])}
    given = [odd, 2] if name == "eos_id" else odd
    with pytest.raises(MaskcliError, match=f"{str(odd)[:9]}.*where a whole number from"):
        diagnose(tensors, **{name: given})


@pytest.mark.parametrize(
    "called",
    [
        lambda odd: show("causal", "a b", past=odd), lambda odd: show("causal", "a b", max_length=odd),
        lambda odd: show("padding", ids=[[5, 6]], pad_id=odd), lambda odd: convert("causal", "sdpa", keys=odd),
        lambda odd: convert("causal", "sdpa", keys=4, past=odd), lambda odd: mask("causal", keys=4, heads=odd),
        lambda odd: mask("causal", keys=4, queries=odd), lambda odd: mask("causal", keys=4, batch=odd),
    ],
)  # fmt: skip
@pytest.mark.parametrize("odd", [2**64, -(2**64), 1.5, "x"])
def test_sizes_of_python(called, odd):
    with pytest.raises(MaskcliError, match="where a whole number from"):
        called(odd)
