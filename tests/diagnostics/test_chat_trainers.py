"""Chats as trainers make batches of them: nothing is said of what they count, and a fault put in is called by its rule."""

from functools import cache

import numpy as np
import pytest
import torch

from maskcli.text.turns import learn
from tests.diagnostics.attention import loud, report
from tests.text.chats import TEMPLATES, chat

IGNORE = -100
TALKS = (
    (("user", "How are you?"), ("assistant", "Fine, thank you."), ("user", "Sure?"), ("assistant", "Yes, quite so.")),
    (("system", "Be brief."), ("user", "Who are you?"), ("assistant", "A model that writes short answers.")),
    (("user", "Hi"), ("assistant", "Hello, what may I do for you today?")),
    (("user", "Two and two?"), ("assistant", "Four."), ("user", "And three?"), ("assistant", "Seven in all.")),
)  # fmt: skip
MARKED = TEMPLATES["chatml"][0].replace(
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n",
)


@pytest.fixture(scope="module")
def made(small_gpt2):
    from transformers import AutoTokenizer

    one = chat(AutoTokenizer.from_pretrained(small_gpt2), MARKED)
    one.reference.pad_token = one.reference.eos_token
    return one


@pytest.fixture(scope="module")
def facts(made):
    end = made.reference.eos_token_id
    return {"chat": learn(made.tokenizer), "eos_ids": (end,), "pad_id": end}


@cache
def rows(made):
    """Ids of each conversation and what is counted of it, as transformers tells both."""
    talks = [[{"role": role, "content": content} for role, content in talk] for talk in TALKS]
    told = (
        made.reference.apply_chat_template(
            talk, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        for talk in talks
    )
    return [(each["input_ids"], each["assistant_masks"]) for each in told]


def tensors(batch):
    return {name: array for name, array in batch.items() if hasattr(array, "shape")}


def labelled(made):
    return [
        {
            "input_ids": ids,
            "labels": [number if counts else IGNORE for number, counts in zip(ids, mask, strict=True)],
        }
        for ids, mask in rows(made)
    ]


def everything(batch):
    """The same batch, with all real tokens counted."""
    real = batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(batch["input_ids"])
    return batch | {"labels": torch.where(real.bool(), batch["input_ids"], IGNORE)}


@pytest.mark.parametrize("padding_free", [False, True])
def test_trl_sft(made, facts, padding_free):
    sft = pytest.importorskip("trl.trainer.sft_trainer")
    collate = sft.DataCollatorForLanguageModeling(
        pad_token_id=made.reference.pad_token_id, padding_free=padding_free
    )
    batch = tensors(collate(labelled(made)))
    assert loud(report(batch, **facts)) == []
    assert "MSK509" in loud(report(everything(batch), **facts))


@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
def test_trl_packing(made, facts, strategy):
    sft, packing = pytest.importorskip("trl.trainer.sft_trainer"), pytest.importorskip("trl.data_utils")
    datasets = pytest.importorskip("datasets")
    packed = packing.pack_dataset(datasets.Dataset.from_list(labelled(made) * 3), 64, strategy)
    collate = sft.DataCollatorForLanguageModeling(
        pad_token_id=made.reference.pad_token_id, padding_free=strategy == "bfd"
    )
    batch = tensors(collate([packed[at] for at in range(len(packed))]))
    assert loud(report(batch, **facts)) == []
    assert "MSK509" in loud(report(everything(batch), **facts))


@pytest.mark.parametrize("side", ["left", "right"])
def test_transformers_seq2seq_collator(made, facts, side):
    import transformers

    made.reference.padding_side = side
    batch = tensors(transformers.DataCollatorForSeq2Seq(made.reference)(labelled(made)))
    made.reference.padding_side = "right"
    assert loud(report(batch, **facts)) == []
    assert loud(report(everything(batch), **facts)) == ["MSK509"]
    (end,) = facts["chat"].end_ids()
    unended = batch | {"labels": torch.where(batch["input_ids"] == end, IGNORE, batch["labels"])}
    assert loud(report(unended, **facts)) == ["MSK511"]


def test_transformers_language_modeling_with_the_ends_as_padding(made, facts):
    """It ignores labels by the id of padding, and counts all else."""
    import transformers

    collate = transformers.DataCollatorForLanguageModeling(made.reference, mlm=False)
    batch = tensors(collate([{"input_ids": ids} for ids, _ in rows(made)]))
    assert loud(report(batch, **facts)) == ["MSK509"]
    assert loud(report(batch, **facts | {"purpose": "pretrain"})) == []


def test_transformers_flattening(made, facts):
    import transformers

    collate = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    batch = tensors(collate(labelled(made)))
    assert loud(report(batch, **facts)) == []


def padded(made, width=None):
    """Ids, real tokens and what is counted, [B, L] each, padded on the right."""
    told = rows(made)
    width = width or max(len(ids) for ids, _ in told)
    ids = np.full((len(told), width), made.reference.pad_token_id)
    real, counted = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
    for row, (numbers, mask) in enumerate(told):
        ids[row, : len(numbers)], real[row, : len(numbers)], counted[row, : len(numbers)] = (
            numbers,
            True,
            mask,
        )
    return ids, real, counted


def test_llama_factory(made, facts):
    """Packed to one length under a mask of ones; labels tell answers."""
    ids, _, counted = padded(made, 72)
    batch = {"input_ids": ids, "labels": np.where(counted, ids, IGNORE), "attention_mask": np.ones_like(ids)}
    packed = {name: array[:2].reshape(1, -1) for name, array in batch.items()}
    for healthy in (batch, packed):
        assert loud(report(healthy, **facts)) == []
        sick = healthy | {
            "labels": np.where(np.isin(healthy["input_ids"], facts["pad_id"]), IGNORE, healthy["input_ids"])
        }
        assert "MSK509" in loud(report(sick, **facts))


def test_megatron(made, facts):
    """Labels are the next ids; a loss mask stands at the labels that count."""
    ids, real, counted = padded(made, 60)
    batch = {
        "tokens": ids[:, :-1], "labels": ids[:, 1:], "loss_mask": counted[:, 1:].astype(np.float32),
        "attention_mask": real[:, :-1].astype(int), "position_ids": np.arange(59)[None].repeat(len(ids), 0),
    }  # fmt: skip
    assert loud(report(batch, **facts)) == []
    assert loud(report(batch | {"loss_mask": real[:, 1:].astype(np.float32)}, **facts)) == ["MSK509"]


def test_verl(made, facts):
    """Prompts padded on the left, responses on the right, and a mask of the responses."""
    told = [(ids, mask) for ids, mask in rows(made) if mask == sorted(mask)]
    prompts, answers = (
        [ids[: mask.index(1)] for ids, mask in told],
        [ids[mask.index(1) :] for ids, mask in told],
    )
    left, right = max(map(len, prompts)), max(map(len, answers)) + 2
    ids = np.full((len(told), left + right), made.reference.pad_token_id)
    real = np.zeros(ids.shape, bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        at = slice(left - len(prompt), left + len(answer))
        ids[row, at], real[row, at] = [*prompt, *answer], True
    mask = real & (np.arange(left + right) >= left)
    batch = {"input_ids": ids, "attention_mask": real.astype(int), "loss_mask": mask.astype(int)}
    assert loud(report(batch, **facts)) == []
    late = np.zeros_like(mask)
    late[:, 3:] = mask[:, :-3]
    assert "MSK510" in loud(report(batch | {"loss_mask": (late & real).astype(int)}, **facts))


def test_masks_that_say_nothing(made, facts):
    ids, real, counted = padded(made)
    batch = {"input_ids": ids, "attention_mask": real.astype(int), "assistant_masks": counted.astype(int)}
    assert loud(report(batch, **facts)) == []
    assert loud(report(batch | {"assistant_masks": real.astype(int)}, **facts)) == ["MSK509"]
    assert loud(report(batch | {"assistant_masks": np.zeros_like(ids)}, **facts)) == ["MSK502"]


def test_a_completion_mask_that_is_late(made, facts):
    """By fourteen tokens, which the prompt lost: the answer has no beginning."""
    talk = [
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": " ".join(map(str, range(20)))},
    ]
    ids = np.asarray(made.reference.apply_chat_template(talk, tokenize=True, return_dict=True)["input_ids"])[
        None
    ]
    counted = facts["chat"].split(ids).answers()
    late = counted.copy()
    late[0, np.flatnonzero(counted[0])[:14]] = False
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    assert loud(report(batch | {"completion_mask": late.astype(int)}, **facts)) == ["MSK510"]
    assert loud(report(batch | {"completion_mask": counted.astype(int)}, **facts)) == []


@pytest.mark.parametrize("lost", [2, 5])
def test_prompts_of_another_length_in_each_row(made, facts, lost):
    """One length for all prompts counts the prompts of some, and loses the answers of others."""
    ids, real, counted = padded(made)
    begin = np.arange(ids.shape[1]) >= int(np.median(counted.argmax(axis=1))) - lost
    labels = np.where(real & begin, ids, IGNORE)
    assert "MSK509" in loud(
        report({"input_ids": ids, "attention_mask": real.astype(int), "labels": labels}, **facts)
    )
