"""The built-in tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from maskcli.text import load_tokenizer
from maskcli.text.builtin import split_words

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat sat.", ["The", "cat", "sat", "."]),
        ("Don't stop!?", ["Don't", "stop", "!", "?"]),
        ("l’été 3.14 snake_case", ["l’été", "3", ".", "14", "snake_case"]),
        ("你好, 世界", ["你", "好", ",", "世", "界"]),
        ("日本語text", ["日", "本", "語", "text"]),
        ("cafe\u0301 au", ["cafe\u0301", "au"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("مرحبا بكم", ["مرحبا", "بكم"]),
        ("👩‍👩‍👧 hi🤦🏽", ["👩‍👩‍👧", "hi", "🤦🏽"]),
        ("<bos>Hi<eos> <pad><pads>", ["<bos>", "Hi", "<eos>", "<pad>", "<", "pads", ">"]),
        ("<eos>\u0301x", ["<eos>", "\u0301", "x"]),
        (" \t\n", []),
    ],
)
def test_words_and_punctuation_are_tokens(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(texts)
def test_tokens_hold_every_visible_character_in_order(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())


def test_words_are_numbered_in_order_of_first_appearance_over_all_texts() -> None:
    tokenizer = load_tokenizer()
    assert tokenizer.encode("the cat saw the dog").ids.tolist() == [3, 4, 5, 3, 6]
    assert tokenizer.encode("dog <eos> bird <pad>").ids.tolist() == [6, 2, 7, 0]
    assert [tokenizer.token(i) for i in range(9)] == [
        "<pad>",
        "<bos>",
        "<eos>",
        "the",
        "cat",
        "saw",
        "dog",
        "bird",
        "#8",
    ]
    assert load_tokenizer("builtin").encode("bird").ids.tolist() == [3]


def test_special_tokens_are_added_only_when_asked_for() -> None:
    tokenizer = load_tokenizer()
    assert (
        tokenizer.encode("a b").ids.tolist()
        == tokenizer.encode("a b", special_tokens=False).ids.tolist()
        == [3, 4]
    )
    encoding = tokenizer.encode("a b", special_tokens=True)
    assert encoding.ids.tolist() == [1, 3, 4, 2]
    assert encoding.special.tolist() == [True, False, False, True]


def test_a_pair_is_told_apart_by_type_ids() -> None:
    encoding = load_tokenizer().encode("a b", "c", special_tokens=True)
    assert encoding.ids.tolist() == [1, 3, 4, 2, 5, 2]
    assert encoding.type_ids.tolist() == [0, 0, 0, 0, 1, 1]


@given(texts, st.none() | texts, st.booleans(), st.integers(3, 12))
def test_truncation_keeps_special_tokens_and_counts_what_it_cut(
    text: str, pair: str | None, special: bool, length: int
) -> None:
    whole = load_tokenizer().encode(text, pair, special)
    cut = load_tokenizer().encode(text, pair, special, length)
    assert len(cut) == min(len(whole), length)
    assert cut.total == len(whole)
    if special:
        assert cut.ids[0] == 1
        assert cut.ids[-1] == 2


def test_truncating_away_a_written_eos_is_noticed() -> None:
    tokenizer = load_tokenizer()
    assert tokenizer.encode("a b <eos>", max_length=2).end_lost
    assert not tokenizer.encode("a b <eos>", max_length=2, special_tokens=True).end_lost
    assert not tokenizer.encode("a b c", max_length=2).end_lost


def test_special_tokens_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(MaskcliError, match=r"no room for the 2 special tokens.*--max-length 3"):
        load_tokenizer().encode("a", special_tokens=True, max_length=1)


def test_text_that_is_not_unicode_is_an_error() -> None:
    with pytest.raises(MaskcliError, match="not UTF-8"):
        load_tokenizer().encode("a\udcff")


def test_another_token_can_pad() -> None:
    assert load_tokenizer(pad_token="eos").pad_id == 2
    assert load_tokenizer(pad_token="<bos>").pad_id == 1
    assert load_tokenizer(pad_token="<bos>").pad_borrowed == "bos"
    assert load_tokenizer(pad_token="pad").pad_borrowed is None
    for wrong in ("unk", "word"):
        with pytest.raises(MaskcliError, match=rf"no token '{wrong}' to pad with.*pad, bos, eos"):
            load_tokenizer(pad_token=wrong)
