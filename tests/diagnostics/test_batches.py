"""Batches of tokens as trainers make them, each as it was reported sick and as it is healthy: one row of a table each."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.diagnostics.attention import loud, report, the

PAD, BOS, EOS = 0, 1, 2
KNOWN = {"pad_id": PAD, "eos_ids": (EOS,), "bos_ids": (BOS,)}
IDS = torch.tensor([[1, 20, 21, 22, 30, 31, 32, 2, 0, 0], [1, 23, 24, 25, 26, 33, 34, 35, 36, 2]])
LEFT = torch.stack([IDS[0].roll(2), IDS[1]])
REAL, LEFT_REAL = (IDS != PAD).long(), (LEFT != PAD).long()
LABELS = torch.where((REAL == 1) & (torch.arange(10) > 3), IDS, -100)
MOVED = torch.cat([LABELS[:, 1:], torch.full((2, 1), -100)], 1)
# Megatron moves labels in the data and leaves none out: a loss mask does.
NEXT = torch.cat([IDS[:, 1:], torch.tensor([[0], [7]])], 1)
COUNTED = torch.where(MOVED == -100, 0.0, 1.0)
ARANGE = torch.arange(10).expand(2, -1)


def batch(ids=IDS, mask=REAL, labels=LABELS, **more):
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels} | more
    return {name: array for name, array in arrays.items() if array is not None}


def megatron(loss_mask=COUNTED, **more):
    return {"tokens": IDS, "labels": NEXT, "loss_mask": loss_mask, "attention_mask": REAL} | more


def preference(chosen_mask=REAL):
    """Pairs whose answers begin with another word."""
    other = [with_value(values, 40, (slice(None), 4)) for values in (IDS, LABELS)]
    sides = {"chosen": batch(mask=chosen_mask), "rejected": batch(other[0], labels=other[1])}
    tensors = {f"{side}_{name}": array for side, arrays in sides.items() for name, array in arrays.items()}
    return tensors | {"prompt_input_ids": IDS[:, :4], "prompt_attention_mask": REAL[:, :4]}


def with_value(array, value, *places):
    changed = array.clone()
    for place in places:
        changed[place] = value
    return changed


def padded_twice(pad):
    """Padded with the model's pad id, then once more by a collator with another."""
    ids = torch.tensor([[1, 20, 21, 22, 30, pad, pad, pad, 0, 0], [1, 23, 24, 25, 26, 33, 34, 35, 36, 2]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


class Case(NamedTuple):
    """A batch as it was reported, the one rule that calls it, the samples it is at, and its healthy twin."""

    seen_in: str
    sick: dict
    code: str
    items: tuple | None
    healthy: dict
    facts: tuple = ({}, KNOWN)


HIDDEN = torch.where(torch.arange(10) < 4, REAL, 0)
CASES = {
    "the mask hides the answer": Case(
        "transformers#13914", batch(mask=HIDDEN), "MSK402", None, batch()
    ),
    "padding asks for the image token": Case(
        "smol-vision#11", batch(labels=torch.where(IDS == PAD, 77, IDS)), "MSK503", (0,),
        batch(labels=torch.where(IDS == PAD, -100, IDS)),
    ),
    "the ends of turns are hidden in a preference pair": Case(
        "trl#884", preference(with_value(REAL, 0, (1, 4))), "MSK402", (1,), preference()
    ),
    "padded twice": Case(
        "InternVL#967", padded_twice(9), "MSK401", (0,),
        padded_twice(9) | {"attention_mask": with_value(REAL, 0, (0, slice(5, 8)))},
        ({"pad_id": 9, "eos_ids": (EOS,)}, {"pad_id": 9}),
    ),
    "labels filled with the pad id": Case(
        "Yi#110", batch(labels=torch.where(REAL == 1, LABELS, PAD)), "MSK503", (0,), batch()
    ),
    "the mask was padded on the other side": Case(
        "tokenizer.padding_side", batch(LEFT, REAL, None), "MSK401", (0,), batch(LEFT, LEFT_REAL, None), (KNOWN,)
    ),
    "the ignore index went into the ids": Case(
        "swapped columns", {"input_ids": LABELS, "attention_mask": REAL}, "MSK508", None, batch(labels=None), ({},)
    ),
    "labels of -1 beside -100": Case(
        "transformers#2418", batch(labels=with_value(LABELS, -1, (0, 0), (1, 2))), "MSK508", None, batch()
    ),
    "the loss mask counts padding": Case(
        "Megatron-LM", megatron(with_value(COUNTED, 1.0, (0, slice(8, 10)))), "MSK503", (0,), megatron()
    ),
    "the loss mask counts nothing": Case("Megatron-LM", megatron(COUNTED * 0), "MSK502", None, megatron()),
    "positions of one byte": Case(
        "measured", {"position_ids": torch.arange(300).to(torch.uint8)[None]}, "MSK408", None,
        {"position_ids": torch.arange(256).to(torch.uint8)[None]},
    ),
    "positions of one byte with a sign": Case(
        "measured", {"position_ids": torch.arange(300).to(torch.int8)[None]}, "MSK408", None,
        {"position_ids": (torch.arange(300) % 128).to(torch.int8)[None]},
    ),
    "borders of another batch": Case(
        "vllm", {"positions": torch.arange(8), "query_start_loc": torch.tensor([0, 5, 9])}, "MSK406", None,
        {"positions": torch.arange(8), "query_start_loc": torch.tensor([0, 5, 8])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_batch_and_its_healthy_twin(name):
    case = CASES[name]
    for facts in case.facts:
        found = report(case.sick, **facts)
        assert loud(found) == [case.code], (name, facts)
        assert the(found, case.code).where.batch == case.items
        assert loud(report(case.healthy, **facts)) == [], (name, facts)


ONE_HOT = torch.eye(12)[torch.randint(12, (2, 10), generator=torch.Generator().manual_seed(0))]
HEALTHY = {
    "classes as one-hot rows": {"one_hot_targets": ONE_HOT, "input_ids": IDS},
    "XLNet's permutations": {
        "perm_mask": (torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(0)) > 0.5).float(),
        "target_mapping": ONE_HOT[..., :10], "input_ids": IDS, "labels": LABELS,
    },
    "labels that the data moved, as Hugging Face's losses take them": {
        "input_ids": IDS, "attention_mask": REAL, "shift_labels": MOVED
    },
    "the same beside those that are not moved": batch(shift_labels=MOVED),
    "Megatron's causal mask, True for ignored": megatron(
        attention_mask=(~torch.tril(torch.ones(10, 10)).bool()).expand(2, 1, -1, -1).contiguous(),
        position_ids=ARANGE,
    ),
    "negative positions for padding on the left (ExLlama)": batch(
        LEFT, LEFT_REAL, None, position_ids=torch.stack([torch.arange(10) - 2, torch.arange(10)])
    ),
    "verl": batch(
        LEFT, LEFT_REAL, None, position_ids=(LEFT_REAL.cumsum(-1) - 1).clamp(min=0),
        prompts=LEFT[:, :5], responses=LEFT[:, 5:], response_mask=LEFT_REAL[:, 5:],
    ),
    "GRPO": {
        "prompt_ids": LEFT[:, :5], "prompt_mask": LEFT_REAL[:, :5],
        "completion_ids": IDS[:, 5:], "completion_mask": REAL[:, 5:],
    },
    "image tokens without labels": batch(
        with_value(IDS, 50, (slice(None), slice(1, 4))), REAL, with_value(LABELS, -100, (slice(None), slice(1, 4)))
    ),
    "ids as nanoGPT keeps them": batch(torch.from_numpy(IDS.numpy().astype(np.uint16)), labels=None),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_batch(name):
    for facts in ({}, KNOWN):
        assert loud(report(HEALTHY[name], **facts)) == []


def test_moved_labels_say_by_their_name_who_moves_them():
    moved = {"input_ids": IDS, "attention_mask": REAL, "shift_labels": MOVED}
    assert report(moved).findings == ()
    copies = report(moved | {"shift_labels": LABELS})
    assert loud(copies) == ["MSK505"]
    assert "same place" in the(copies, "MSK505").message
