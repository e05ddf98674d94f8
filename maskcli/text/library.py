"""What both tokenizer libraries share: a Tokenizer made of what they do, cutting, and their refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.text.tokenizer import ROLES, Encode, EncodeMany, Encoding, Tokenizer, no_room, quoted
from maskcli.untrusted import nothing_said

# transformers writes 1e30 for "no limit".
_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Settings:
    """What a tokenizer's files say beside the vocabulary: role tokens, sides, the model's length."""

    tokens: Mapping[str, str]
    padding_side: str = "right"
    truncation_side: str = "right"
    model_max_length: object = None
    pad_type_id: int = 0


class Lists(NamedTuple):
    """One sequence as a library encodes it; `special` is 1 on the tokens that it added."""

    ids: list[int]
    special: list[int]
    type_ids: list[int]


class Library(NamedTuple):
    """What a library does.

    `lists` encodes (text, pair, add special tokens, maximum length), `many` (texts, add special tokens);
    `reserved` counts the special tokens that it adds to one text or to a pair; the others are those of
    Tokenizer.
    """

    lists: Callable[[str, str | None, bool, int | None], Lists]
    many: Callable[[Sequence[str], bool], list[list[int]]]
    reserved: Callable[[bool], int]
    text_of: Callable[[int], str | None]
    id_of: Callable[[str], int | None]
    size: Callable[[], int]


def tokenizer_of(name: str, library: Library, settings: Settings, always_special: Iterable[int]) -> Tokenizer:
    """A Tokenizer of what a library does; role tokens and the ids `always_special` are special."""
    ids = {role: library.id_of(settings.tokens[role]) for role in ROLES if role in settings.tokens}
    roles = {role: number for role, number in ids.items() if number is not None}
    special_ids = frozenset(roles.values()) | frozenset(always_special)
    return Tokenizer(
        name=name,
        roles=roles,
        special_ids=special_ids,
        encoder=_encoder(name, library, special_ids, roles.get("eos")),
        encoder_of_many=_encoder_of_many(name, library),
        text_of=library.text_of,
        id_of=library.id_of,
        size=library.size,
        padding_side=settings.padding_side,
        model_max_length=_sane_length(settings.model_max_length),
        pad_type_id=settings.pad_type_id,
    )


def _encoder(name: str, library: Library, special_ids: frozenset[int], eos: int | None) -> Encode:
    """The encode function: the whole, and once more with truncation where it is too long."""
    always = np.fromiter(special_ids, dtype=np.int64)

    def encoding(lists: Lists, total: int, end_lost: bool = False) -> Encoding:
        ids = np.asarray(lists.ids, dtype=np.int64)
        special = np.asarray(lists.special, dtype=bool) | np.isin(ids, always)
        return Encoding(ids, special, np.asarray(lists.type_ids, dtype=np.int64), total, end_lost)

    def encode(text: str, pair: str | None, special_tokens: bool | None, max_length: int | None) -> Encoding:
        add = special_tokens is not False
        with refusals(name):
            whole = library.lists(text, pair, add, None)
            total = len(whole.ids)
            if max_length is None or total <= max_length:
                return encoding(whole, total)
            reserved = library.reserved(pair is not None) if add else 0
            if max_length < reserved:
                raise no_room(max_length, reserved)
            cut = library.lists(text, pair, add, max_length)
            ended = eos is not None and whole.ids[-1] == eos
            return encoding(cut, total, end_lost=ended and cut.ids[-1:] != [eos])

    return encode


def _encoder_of_many(name: str, library: Library) -> EncodeMany:
    """The encode function for many texts."""

    def encode(texts: Sequence[str], special_tokens: bool | None) -> list[list[int]]:
        with refusals(name):
            return library.many(texts, special_tokens is not False)

    return encode


def readable(token: str, byte_level: bool) -> str:
    """A vocabulary entry as text: every space is `▁`; bytes that are no whole character are written `\\xe4`.

    Byte-level vocabularies spell each byte as one printable character (`Ġ` is the space).
    """
    if byte_level and all(character in _BYTE_OF for character in token):
        token = bytes(_BYTE_OF[character] for character in token).decode("utf-8", "backslashreplace")
    return token.replace(" ", "▁")


def _sane_length(value: object) -> int | None:
    """A model's maximum length, None for those that stand for "no limit"."""
    return int(value) if isinstance(value, (int, float)) and 0 < value < _NO_LIMIT else None


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Turn whatever a tokenizer library throws, a panic of its Rust code included, into one sentence."""
    try:
        with nothing_said():
            yield
    except MaskcliError:
        raise
    except BaseException as error:
        # A pyo3 panic is a BaseException of a type that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise MaskcliError(
            f"tokenizer {quoted(name)} failed ({reason(error)}); save it again with save_pretrained or "
            "pass another"
        ) from error


def reason(error: BaseException) -> str:
    """What a library said, on one line and without a full stop."""
    said = " ".join(str(error).split()) or type(error).__name__
    return (said if len(said) <= 200 else f"{said[:197]}...").rstrip(".")


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte: itself in printable Latin-1, else one from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    moved = {chr(256 + index): byte for index, byte in enumerate(rest)}
    return {chr(byte): byte for byte in printable} | moved


_BYTE_OF = _byte_alphabet()
