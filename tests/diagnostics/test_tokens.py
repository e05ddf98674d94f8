"""Ids against the padding mask."""

import numpy as np
import pytest
import torch

from tests.diagnostics.attention import layers, loud, padding, report, the

SHAPE = (3, 2, 12, 12)


def ids(real, pad=0):
    return torch.from_numpy(np.where(real, np.arange(5, 17), pad))


def mask(real):
    return torch.from_numpy(real.astype(np.int64))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0, 3])
def test_padding_that_is_not_masked(side, pad):
    real = padding(SHAPE, side)
    found = report({"input_ids": ids(real, pad), "attention_mask": mask(np.ones_like(real))}, pad_id=pad)
    assert loud(found) == ["MSK401"]
    assert the(found, "MSK401").where.batch == (0, 1)
    assert the(found, "MSK401").evidence["padding_tokens"] == int((~real).sum())


def test_a_training_batch_with_an_all_ones_mask_is_a_note():
    real = padding(SHAPE, "right")
    labels = torch.from_numpy(np.where(real, np.arange(5, 17), -100))
    arrays = {"input_ids": ids(real), "attention_mask": mask(np.ones_like(real)), "labels": labels}
    found = report(arrays | layers(SHAPE, np.tril(np.ones((12, 12), bool))), expect="causal", pad_id=0)
    assert [(f.code, f.severity) for f in found.findings] == [("MSK401", "note")]


@pytest.mark.parametrize("hole", [3, 6])
def test_a_real_token_that_is_masked(hole):
    real = padding(SHAPE, "right")
    holed = real.copy()
    holed[2, hole] = False
    found = report({"input_ids": ids(real), "attention_mask": mask(holed)}, pad_id=0)
    assert loud(found) == ["MSK402"]
    assert (the(found, "MSK402").where.batch, the(found, "MSK402").where.keys) == ((2,), ((hole, hole + 1),))
    assert loud(report({"input_ids": ids(real), "attention_mask": mask(holed)})) == ["MSK402"]


def test_masking_by_id_when_pad_is_eos():
    real = padding(SHAPE, "right")
    numbers = ids(real, 2)
    numbers[2, 5] = 2
    found = report({"input_ids": numbers, "attention_mask": (numbers != 2).long()}, pad_id=2, eos_ids=(2,))
    assert loud(found) == ["MSK402"]
    assert "the pad id" in the(found, "MSK402").message


def test_a_finished_answer_whose_eos_is_the_pad_token():
    numbers = torch.tensor([[5, 6, 7, 2, 2, 2], [5, 6, 7, 8, 9, 2]])
    right = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    assert report({"input_ids": numbers, "attention_mask": right}, pad_id=2, eos_ids=(2,)).findings == ()
