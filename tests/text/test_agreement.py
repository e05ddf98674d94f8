"""The light path gives what transformers gives."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskcli.errors import MaskcliError
from maskcli.text import Tokenizer, batch_from_texts, load_tokenizer
from maskcli.text.heavy import load_folder
from maskcli.text.light import load_light

from .conftest import BUILDERS, NASTY, NOT_LIGHT, write_json

every_family = pytest.mark.parametrize("folder", list(BUILDERS), indirect=True)
every_light_family = pytest.mark.parametrize(
    "folder", [n for n in BUILDERS if n not in NOT_LIGHT], indirect=True
)


@cache
def reference(folder: Path) -> Any:
    """What a transformers user has."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def light(folder: Path) -> Tokenizer:
    loaded = load_light(folder / "tokenizer.json", "light", alone=False)
    assert loaded is not None, "the light path did not take a tokenizer that it should"
    return loaded


def expected(
    tokenizer: Any, text: str, pair: str | None, **options: Any
) -> tuple[list[int], list[int], list[bool]]:
    encoded = tokenizer(text, pair, return_token_type_ids=True, return_special_tokens_mask=True, **options)
    always = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    special = [
        bool(flag) or token in always
        for flag, token in zip(encoded["special_tokens_mask"], encoded["input_ids"], strict=True)
    ]
    return encoded["input_ids"], encoded["token_type_ids"], special


@pytest.mark.combinations
@every_light_family
@pytest.mark.parametrize("special_tokens", [None, True, False])
def test_ids_types_and_special_flags_are_those_of_transformers(
    folder: Path, special_tokens: bool | None
) -> None:
    ours, theirs = light(folder), reference(folder)
    for text in NASTY:
        for pair in (None, "the cat"):
            found = ours.encode(text, pair, special_tokens)
            ids, types, special = expected(theirs, text, pair, add_special_tokens=special_tokens is not False)
            assert found.ids.tolist() == ids
            assert found.type_ids.tolist() == types
            assert found.special.tolist() == special


@pytest.mark.combinations
@every_family
@pytest.mark.parametrize("max_length", [4, 9])
def test_truncation_is_that_of_transformers(folder: Path, max_length: int) -> None:
    ours, theirs = load_tokenizer(str(folder)), reference(folder)
    for text in NASTY:
        for pair in (None, "the cat sat on a mat"):
            found = ours.encode(text, pair, max_length=max_length)
            ids, types, special = expected(theirs, text, pair, truncation=True, max_length=max_length)
            assert (found.ids.tolist(), found.type_ids.tolist(), found.special.tolist()) == (
                ids,
                types,
                special,
            )


@pytest.mark.combinations
@every_family
def test_special_tokens_sides_and_lengths_are_those_of_transformers(folder: Path) -> None:
    ours, theirs = load_tokenizer(str(folder)), reference(folder)
    assert (ours.pad_id, ours.bos_id, ours.eos_id) == (
        theirs.pad_token_id,
        theirs.bos_token_id,
        theirs.eos_token_id,
    )
    assert ours.padding_side == theirs.padding_side
    assert ours.vocab_size == len(theirs)
    sane = theirs.model_max_length if theirs.model_max_length < 10**9 else None
    assert ours.model_max_length == sane


@pytest.mark.combinations
@every_family
@pytest.mark.parametrize("side", ["left", "right", None])
def test_batches_are_those_of_transformers(folder: Path, side: str | None) -> None:
    theirs = reference(folder)
    texts = ["the cat", "Hello, world! <pad>", "a"]
    borrowed = theirs.pad_token is None
    role = "eos" if theirs.eos_token else "[g_end]"
    ours = load_tokenizer(str(folder), pad_token=role if borrowed else None)
    batch = batch_from_texts(texts, ours, padding="max-length", max_length=24, padding_side=side)
    wanted = (
        theirs(
            texts,
            padding="max_length",
            max_length=24,
            truncation=True,
            return_token_type_ids=True,
            **({"padding_side": side} if side else {}),
        )
        if not borrowed
        else None
    )
    if wanted is not None:
        assert batch.ids is not None
        assert batch.ids.tolist() == wanted["input_ids"]
        assert batch.attention_mask.astype(int).tolist() == wanted["attention_mask"]
    else:
        rows = theirs(texts)["input_ids"]
        assert batch.ids is not None
        assert [row[mask].tolist() for row, mask in zip(batch.ids, batch.attention_mask, strict=True)] == rows
        assert np.all(batch.ids[~batch.attention_mask] == ours.pad_id)


# Leave the key out of the configuration; None is written as null.
ABSENT = object()
VARIANTS: list[dict[str, object]] = [
    {},
    {"tokenizer_class": ABSENT},
    {"pad_token": ABSENT, "eos_token": ABSENT, "unk_token": ABSENT},
    {"unk_token": None},
    {"cls_token": None, "sep_token": None, "eos_token": None},
    {"tokenizer_class": "PreTrainedTokenizerFast"},
    {"tokenizer_class": "PreTrainedTokenizer", "pad_token": "<new pad>", "eos_token": "<new eos>"},
    {
        "tokenizer_class": "TokenizersBackend",
        "pad_token": {"content": "cat", "lstrip": True, "__type": "AddedToken"},
    },
    {"tokenizer_class": "LlamaTokenizerFast"},
    {"tokenizer_class": "NoSuchTokenizerFast"},
    {"tokenizer_class": "GPT2TokenizerFast"},
    {"pad_token": "<new pad>"},
    {"pad_token": "the"},
    {"pad_token": None},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_prefix_space": True},
    {"do_lower_case": False},
    {"strip_accents": False, "tokenize_chinese_chars": False},
    {"padding_side": "left", "truncation_side": "left", "model_max_length": 17},
    {"split_special_tokens": True},
    {"additional_special_tokens": ["<new>"]},
    {"extra_special_tokens": {"image_token": "<new image>"}},
    {"image_token": "<new image>"},
    {"clean_up_tokenization_spaces": True, "legacy": False, "use_fast": False},
    {
        "added_tokens_decoder": {
            "2": {
                "content": "cat",
                "lstrip": True,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
                "special": True,
            }
        }
    },
    {"added_tokens_decoder": {}},
]
MODELS = [None, "llama", "bert", "qwen2", "mistral"]


@pytest.mark.combinations
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("folder", ["bert", "qwen", "roberta", "unigram", "pgn"], indirect=True)
def test_whatever_the_configuration_says_the_result_is_that_of_transformers(
    folder: Path, model: str | None, tmp_path: Path
) -> None:
    """A configuration that the light path cannot honour has to go to transformers, not come out different."""
    original = folder / "tokenizer_config.json"
    config = json.loads(original.read_text()) if original.exists() else {}
    if model:
        write_json(tmp_path / "config.json", {"model_type": model})
    shutil.copy(folder / "tokenizer.json", tmp_path)
    texts = [text for text in NASTY if len(text) < 200]
    for variant in VARIANTS:
        merged = config | variant
        write_json(
            tmp_path / "tokenizer_config.json",
            {key: value for key, value in merged.items() if value is not ABSENT},
        )
        try:
            theirs = reference.__wrapped__(tmp_path)
        except Exception:
            continue
        ours = load_tokenizer(str(tmp_path))
        for text in texts:
            try:
                found = ours.encode(text, max_length=30)
            except MaskcliError:
                with pytest.raises(Exception, match=r"."):
                    theirs(text)
                continue
            wanted = expected(theirs, text, None, truncation=True, max_length=30)
            assert (found.ids.tolist(), found.type_ids.tolist(), found.special.tolist()) == wanted, variant
        assert (ours.pad_id, ours.eos_id, ours.padding_side) == (
            theirs.pad_token_id,
            theirs.eos_token_id,
            theirs.padding_side,
        ), variant
        assert ours.vocab_size == len(theirs), variant


@pytest.mark.combinations
@every_light_family
def test_both_paths_show_the_same_tokens(folder: Path) -> None:
    ours, slow = light(folder), load_folder(folder, "slow")
    for text in NASTY:
        ids = ours.encode(text).ids.tolist()
        assert [ours.token(i) for i in ids] == [slow.token(i) for i in ids]


@pytest.mark.parametrize("folder", NOT_LIGHT, indirect=True)
def test_a_class_that_rebuilds_its_pipeline_is_left_to_transformers(folder: Path) -> None:
    assert load_light(folder / "tokenizer.json", "light", alone=False) is None
