"""The built-in tokenizer: words and punctuation as tokens, no download."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import numpy as np

from maskcli.text.tokenizer import Encoding, Tokenizer, no_room

PAD, BOS, EOS = 0, 1, 2
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")

# Scripts written without spaces, where a character is the natural unit: Han, Hiragana, Katakana.
_CHARACTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(
    rf"<(?:pad|bos|eos)>|[{_CHARACTERS}]|(?:(?![{_CHARACTERS}])\w)+(?:['’](?:(?![{_CHARACTERS}])\w)+)*|\S"
)
_JOINER = "\u200d"


def builtin_tokenizer() -> Tokenizer:
    """A fresh built-in tokenizer: `<pad>` 0, `<bos>` 1, `<eos>` 2, then every word as it first appears.

    It adds bos and eos only when asked to, so that people see the words they wrote.
    """
    words = list(SPECIAL_TOKENS)
    index = {word: number for number, word in enumerate(words)}

    def ids_of(text: str) -> list[int]:
        ids = []
        for word in split_words(text):
            number = index.setdefault(word, len(words))
            if number == len(words):
                words.append(word)
            ids.append(number)
        return ids

    def encode(text: str, pair: str | None, special_tokens: bool | None, max_length: int | None) -> Encoding:
        first, second = ids_of(text), [] if pair is None else ids_of(pair)
        reserved = (2 if pair is None else 3) if special_tokens else 0
        total = len(first) + len(second) + reserved
        ended = bool((second if pair is not None else first)[-1:] == [EOS]) and not special_tokens
        if max_length is not None and total > max_length:
            if max_length < reserved:
                raise no_room(max_length, reserved)
            first, second = _shorten(first, second, max_length - reserved)
        if special_tokens:
            first = [BOS, *first, EOS]
            second = second if pair is None else [*second, EOS]
        ids = np.asarray(first + second, dtype=np.int64)
        type_ids = np.repeat(np.asarray([0, 1], dtype=np.int64), [len(first), len(second)])
        lost = ended and len(ids) < total
        return Encoding(ids, ids <= EOS, type_ids, total, lost)

    return Tokenizer(
        name="builtin",
        roles={"pad": PAD, "bos": BOS, "eos": EOS},
        special_ids=frozenset((PAD, BOS, EOS)),
        encoder=encode,
        text_of=lambda token_id: words[token_id] if token_id < len(words) else None,
        id_of=index.get,
        size=lambda: len(words),
    )


def split_words(text: str) -> list[str]:
    """Words, punctuation marks and CJK characters; combining marks and joined emoji stay together."""
    if text.isascii():
        return _TOKEN.findall(text)
    return list(_glued(text))


def _glued(text: str) -> Iterator[str]:
    """The tokens, with every mark put back onto the character that it modifies."""
    token, end = "", -1
    for match in _TOKEN.finditer(text):
        piece = match.group()
        if token and match.start() == end and token not in SPECIAL_TOKENS and _belongs(token, piece):
            token += piece
        else:
            if token:
                yield token
            token = piece
        end = match.end()
    if token:
        yield token


def _belongs(token: str, piece: str) -> bool:
    """Whether the piece continues the token that stands directly before it."""
    if piece in SPECIAL_TOKENS:
        return False
    if _extends(piece[0]) or token[-1] == _JOINER:
        return True
    return unicodedata.category(token[-1])[0] == "M" and token[0].isalnum() and piece[0].isalnum()


def _extends(character: str) -> bool:
    """Whether the character modifies the one before it: a mark, a joiner, an emoji skin tone."""
    return (
        unicodedata.category(character)[0] == "M"
        or character == _JOINER
        or "\U0001f3fb" <= character <= "\U0001f3ff"
    )


def _shorten(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut ends until both fit, the longer one first, as the tokenizer libraries do."""
    if not second:
        return first[:room], second
    short = min(len(first), len(second))
    if room >= 2 * short:
        keep = room - short
        return (first[:keep], second) if len(first) > len(second) else (first, second[:keep])
    half = room // 2
    # An odd token goes to the longer text; equal texts give it to the second.
    if len(first) > len(second):
        return first[: room - half], second[:half]
    return first[:half], second[: room - half]
