"""Batches of the collators that people train with, as they come: nothing is said of them; of a fault put in, its rule alone."""

import numpy as np
import pytest
import torch
import transformers as hf

from maskcli.meant.model_config import config_of
from tests.diagnostics.attention import loud, report
from tests.diagnostics.test_labels import tokenizers  # noqa: F401

IGNORE = -100
PAD, BOS, EOS, WORDS = 0, 1, 2, 40
KNOWN = {"pad_id": PAD, "eos_ids": (EOS,), "bos_ids": (BOS,), "vocab_size": WORDS}
ROWS = [[1, 20, 21, 22, 30, 31, 32, 2], [1, 23, 24, 33, 2], [1, 25, 26, 27, 28, 34, 35, 36, 37, 2]]
ANSWERS = [{"input_ids": row, "labels": [IGNORE] * 3 + row[3:]} for row in ROWS]
SIZES = {"vocab_size": WORDS, "d_model": 8, "decoder_start_token_id": PAD}
T5 = hf.T5Config(**SIZES, d_kv=4, d_ff=8, num_layers=1, num_heads=2, pad_token_id=PAD, eos_token_id=EOS)
BART = hf.BartConfig(
    **SIZES | {"decoder_start_token_id": EOS}, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
)  # fmt: skip
MODELS = {"t5": hf.T5ForConditionalGeneration, "bart": hf.BartForConditionalGeneration}


def tensors(batch):
    return {name: array for name, array in batch.items() if hasattr(array, "shape")}


def declared(config):
    return KNOWN | {
        "model": config_of(
            config.to_dict() | {"decoder_start_token_id": config.decoder_start_token_id}, {}, "c", "--model"
        )
    }


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("config", [T5, BART], ids=["t5", "bart"])
def test_pairs_of_texts(tokenizers, config, side, with_model):  # noqa: F811
    tokenizer = tokenizers["<pad>"]
    tokenizer.padding_side = side
    model = MODELS[config.model_type](config) if with_model else None
    start = [] if config is T5 else [BOS]
    pairs = [
        {"input_ids": row, "attention_mask": [1] * len(row), "labels": [*start, *row[-2:0:-1], EOS]}
        for row in ROWS
    ]
    made = tensors(hf.DataCollatorForSeq2Seq(tokenizer, model=model)(pairs))
    assert ("decoder_input_ids" in made) == with_model
    for facts in ({}, KNOWN, declared(config)):
        assert loud(report(made, **facts)) == []

    padded = made | {"labels": torch.where(made["labels"] == IGNORE, PAD, made["labels"])}
    assert loud(report(padded, **declared(config))) == ["MSK503"]
    if with_model:
        unmoved = torch.where(made["labels"] == IGNORE, PAD, made["labels"])
        assert loud(report(made | {"decoder_input_ids": unmoved}, **declared(config))) == ["MSK412"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_tokens(tokenizers, side):  # noqa: F811
    tokenizer = tokenizers["<pad>"]
    tokenizer.padding_side = side
    tokenizer.mask_token = "<unk>"
    torch.manual_seed(0)
    collate = hf.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ROWS]
    for _ in range(20):
        made = tensors(collate(rows))
        for facts in ({}, KNOWN, {"pad_id": PAD}):
            # A sample whose tokens all stay as they are asks for nothing.
            assert set(loud(report(made, **facts))) <= (
                {"MSK502"} if not (made["labels"] != IGNORE).any() else set()
            )


@pytest.mark.parametrize("side", ["left", "right"])
def test_tags_and_choices(tokenizers, side):  # noqa: F811
    tokenizer = tokenizers["<pad>"]
    tokenizer.padding_side = side
    tagged = [
        {
            "input_ids": row,
            "attention_mask": [1] * len(row),
            "labels": [IGNORE, *([0, 3, 0] * 5)[: len(row) - 2], IGNORE],
        }
        for row in ROWS
    ]
    choices = [
        {"input_ids": [row, row[::-1]], "attention_mask": [[1] * len(row)] * 2, "labels": 1} for row in ROWS
    ]
    for made in (
        hf.DataCollatorForTokenClassification(tokenizer)(tagged),
        hf.DataCollatorForMultipleChoice(tokenizer)(choices),
    ):
        for facts in ({}, KNOWN):
            assert loud(report(tensors(made), **facts)) == []


@pytest.mark.parametrize("kernel", [True, False])
def test_texts_flattened_into_one_row(kernel):
    flatten = hf.DataCollatorWithFlattening(
        return_tensors="pt", return_flash_attn_kwargs=kernel, return_seq_idx=kernel
    )
    made = tensors(flatten([{"input_ids": row} for row in ROWS]))
    for facts in ({}, KNOWN):
        assert loud(report(made, **facts)) == []
        assert loud(report(made | {"labels": made["input_ids"]}, **facts)) == ["MSK516"]
        running = torch.arange(made["input_ids"].shape[1])[None]
        assert loud(report(made | {"position_ids": running}, **facts)) == (["MSK410"] if kernel else [])


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("rows", [ANSWERS, [{"input_ids": row} for row in ROWS]], ids=["answers", "texts"])
@pytest.mark.parametrize("pad", [PAD, EOS])
def test_batches_of_trl(pad, rows, free):
    sft = pytest.importorskip("trl.trainer.sft_trainer", exc_type=ImportError)
    made = tensors(sft.DataCollatorForLanguageModeling(pad_token_id=pad, padding_free=free)(rows))
    for facts in ({}, KNOWN | {"pad_id": pad}):
        assert loud(report(made, **facts)) == []
    if free:
        assert loud(report(made | {"labels": made["input_ids"]})) == ["MSK516"]
    if pad == EOS and not free:
        by_id = torch.where(made["input_ids"] == EOS, IGNORE, made["labels"])
        assert loud(report(made | {"labels": by_id}, **KNOWN | {"pad_id": pad})) == ["MSK501"]


def test_pairs_of_answers_of_trl():
    dpo = pytest.importorskip("trl.trainer.dpo_trainer", exc_type=ImportError)
    pairs = [
        {"prompt_ids": row[:3], "chosen_ids": row[3:], "rejected_ids": [*row[-2:2:-1], EOS]} for row in ROWS
    ]
    made = tensors(dpo.DataCollatorForPreference(pad_token_id=PAD)(pairs))
    assert "completion_mask" in made
    for facts in ({}, KNOWN):
        assert loud(report(made, **facts)) == []
        late = made | {"completion_mask": made["completion_mask"].roll(3, 1)}
        assert loud(report(late, **facts)) == ["MSK503"]
        assert loud(report(made | {"completion_mask": made["completion_mask"] * 0}, **facts)) == ["MSK502"]


def test_batches_of_a_rollout():
    """verl's: prompts padded on the left, responses on the right, and a mask of these alone."""
    left, right = np.zeros((3, 6), int), np.zeros((3, 6), int)
    for row, (prompt, answer) in enumerate((row[:3], row[3:]) for row in ROWS):
        left[row, 6 - len(prompt) :], right[row, : len(answer[:6])] = prompt, answer[:6]
    ids = np.concatenate([left, right], 1)
    real = (ids != PAD).astype(int)
    made = {
        "input_ids": ids, "attention_mask": real, "position_ids": np.maximum(real.cumsum(1) - 1, 0),
        "prompts": left, "responses": right, "response_mask": (right != PAD).astype(int),
    }  # fmt: skip
    for facts in ({}, KNOWN):
        assert loud(report(made, **facts)) == []
