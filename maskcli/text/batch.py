"""Batch: the rows of tokens that a mask is built for, from texts, ids or lengths alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import SupportsIndex

import numpy as np

from maskcli.arrays import Array, Real
from maskcli.errors import MaskcliError
from maskcli.padding import edge_padding
from maskcli.text.tokenizer import Encoding, Tokenizer, quoted

IGNORE_INDEX = -100
# Cells of [B, L]; a row of a million tokens fits 32 times.
MAX_CELLS = 2**25


@dataclass(frozen=True, eq=False)
class Batch:
    """Tokens of B rows of length L.

    `texts` B texts (None where there is none; when packed, one for each document). `ids` int64 [B, L], None for lengths
    only. `attention_mask` bool [B, L], True = real. `position_ids` int64 [B, L] as Hugging Face's generate counts them:
    real tokens from 0 (cumsum of the mask - 1, never below 0, so that right padding repeats the last position); packed
    rows restart in each document and have 0 on padding.
    `special` bool [B, L]. `segments` int64 [B, L]: token_type_ids of pairs, or the document of a packed row with -1 on
    padding. `documents` the lengths of packed documents, None unless packed (then B is 1). `labels` int64 [B, L]: the
    ids, -100 on padding. `warnings` one sentence each.
    """

    texts: tuple[str | None, ...]
    ids: Array | None
    attention_mask: Array
    position_ids: Array
    special: Array
    segments: Array | None = None
    documents: tuple[int, ...] | None = None
    labels: Array | None = None
    warnings: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L)."""
        rows, length = self.attention_mask.shape
        return rows, length

    def token(self, row: int, index: int) -> str:
        """The token's text; without a tokenizer its id, without ids its index, and `<pad>` on padding."""
        if self.ids is not None and self.tokenizer is not None:
            return self.tokenizer.token(int(self.ids[row, index]))
        if not self.attention_mask[row, index]:
            return "<pad>"
        return str(index if self.ids is None else int(self.ids[row, index]))


def batch_from_texts(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    pairs: Sequence[str] | None = None,
    special_tokens: bool | None = None,
    padding: str = "longest",
    max_length: int | None = None,
    padding_side: str | None = None,
    packed: bool = False,
    labels: bool = False,
) -> Batch:
    """Each text (with its second text from `pairs`) as one row, cut to `max_length` and padded.

    `packed` makes one row of all texts, cut to `max_length` as a whole.
    """
    width = _width(padding, max_length)
    side = _side(padding_side or tokenizer.padding_side)
    if not texts:
        raise MaskcliError("there is no text; pass at least one")
    if pairs is not None and len(pairs) != len(texts):
        raise MaskcliError(f"there are {len(texts)} texts and {len(pairs)} second texts; pass one for each")
    seconds: Sequence[str | None] = [None] * len(texts) if pairs is None else pairs
    encodings = [
        tokenizer.encode(text, second, special_tokens, None if packed else max_length)
        for text, second in zip(texts, seconds, strict=True)
    ]
    for number, encoding in enumerate(encodings, 1):
        if not len(encoding):
            raise MaskcliError(
                f"text {number} ({quoted(texts[number - 1])}) has no tokens; pass a text with at least one word, "
                "or let the tokenizer add its special tokens"
            )
    warnings = _length_warnings(encodings, tokenizer, max_length)
    documents = None
    if packed:
        documents, cut = _fit([len(encoding) for encoding in encodings], max_length, "text")
        warnings += cut
        encodings = [_joined(encodings, sum(documents))]
    lengths = [len(encoding) for encoding in encodings]
    mask = _mask(lengths, width, side)
    if not mask.all():
        warnings += _padding_warnings(tokenizer, mask)
    ids = _filled(mask, [encoding.ids for encoding in encodings], tokenizer.pad_id or 0)
    type_ids = _filled(mask, [encoding.type_ids for encoding in encodings], tokenizer.pad_type_id)
    typed = pairs is not None or bool(type_ids[mask].any())
    return Batch(
        texts=tuple(texts[: len(documents)] if documents else texts),
        ids=ids,
        attention_mask=mask,
        position_ids=_positions(mask, documents),
        special=_filled(mask, [encoding.special for encoding in encodings], 1).astype(bool),
        segments=_document_index(mask, documents) if documents else type_ids if typed else None,
        documents=documents,
        labels=np.where(mask, ids, IGNORE_INDEX) if labels else None,
        warnings=tuple(warnings + (_label_warnings(ids, mask, tokenizer) if labels else [])),
        tokenizer=tokenizer,
    )


def batch_from_ids(
    rows: str | Sequence[Sequence[int]],
    pad_id: int | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    padding_side: str | None = None,
    labels: bool = False,
) -> Batch:
    """Rows of token ids: `"5 3 2 0 0; 7 4 8 6 0"` or lists.

    A token is padding where its id is `pad_id` (the tokenizer's, when not given). When that id also ends or begins
    sequences, only runs of it at the edges of a row are padding, without the one eos (bos) that belongs to the text.
    Rows of different lengths are padded.
    """
    parsed = _parse_rows(rows) if isinstance(rows, str) else [_checked(row, "id") for row in rows]
    if not parsed or not all(map(len, parsed)):
        raise MaskcliError(f"a row of {quoted(rows)} has no ids; write rows such as '5 3 2 0 0; 7 4 8 6 0'")
    if pad_id is None and tokenizer is not None:
        pad_id = tokenizer.pad_id
    if pad_id is not None and pad_id < 0:
        raise MaskcliError(f"the pad id {pad_id} is negative; pass the id of a token, such as --pad-id 0")
    lengths = [len(row) for row in parsed]
    if pad_id is None and len(set(lengths)) > 1:
        raise MaskcliError(
            f"the rows have {min(lengths)} to {max(lengths)} ids and no pad id is known to fill them; pass --pad-id 0 "
            "(or a --tokenizer that has a pad token), or rows of one length"
        )
    side = _side(padding_side or (tokenizer.padding_side if tokenizer else "right"))
    given = _mask(lengths, None, side)
    ids = _filled(given, [np.asarray(row, dtype=np.int64) for row in parsed], pad_id or 0)
    mask = given if pad_id is None else _real(ids, given, pad_id, tokenizer)
    warnings = _unknown_ids(ids, tokenizer) + (
        _label_warnings(ids, mask, tokenizer) if labels and tokenizer else []
    )
    special = np.fromiter(tokenizer.special_ids, dtype=np.int64) if tokenizer else np.empty(0, dtype=np.int64)
    return Batch(
        texts=(None,) * len(parsed),
        ids=ids,
        attention_mask=mask,
        position_ids=_positions(mask, None),
        special=np.isin(ids, special) | ~mask,
        labels=np.where(mask, ids, IGNORE_INDEX) if labels else None,
        warnings=tuple(warnings),
        tokenizer=tokenizer,
    )


def batch_from_lengths(
    lengths: str | Sequence[int],
    *,
    padding_side: str | None = None,
    max_length: int | None = None,
    packed: bool = False,
) -> Batch:
    """Rows of so many tokens, without ids: `"5,3,7"` or a list.

    Padded to the longest, or to `max_length` when given; longer rows are cut to it. `packed` makes them documents of one row.
    """
    parsed = _parse_integers(lengths, "length") if isinstance(lengths, str) else _checked(lengths, "length")
    if not parsed or 0 in parsed:
        raise MaskcliError(f"the lengths {quoted(lengths)} must all be 1 or more; write them such as 5,3,7")
    width = None if max_length is None else _width("max-length", max_length)
    documents: tuple[int, ...] | None = None
    if packed:
        documents, warnings = _fit(parsed, max_length, "document")
        mask = _mask([sum(documents)], width, _side(padding_side or "right"))
    else:
        warnings = [
            f"row {number} lost {length - max_length} of its {length} tokens to the maximum length {max_length}"
            for number, length in enumerate(parsed, 1)
            if max_length is not None and length > max_length
        ]
        cut = parsed if max_length is None else [min(length, max_length) for length in parsed]
        mask = _mask(cut, width, _side(padding_side or "right"))
    return Batch(
        texts=(None,) * (len(documents) if documents else len(parsed)),
        ids=None,
        attention_mask=mask,
        position_ids=_positions(mask, documents),
        special=~mask,
        segments=_document_index(mask, documents) if documents else None,
        documents=documents,
        warnings=tuple(warnings),
    )


# Reading numbers


def _parse_rows(text: str) -> list[list[int]]:
    """Rows between semicolons (or on lines of their own); one at the end is no row."""
    return [_parse_integers(row, "id") for row in re.split(r"[;\n]", text.strip().rstrip(";"))]


def _parse_integers(text: str, what: str) -> list[int]:
    """Integers between spaces or commas."""
    return _checked([_integer(word, what) for word in text.replace(",", " ").split()], what)


def _integer(word: str, what: str) -> int:
    """A decimal integer of at most 19 digits."""
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", word):
        raise MaskcliError(
            f"the {what} {quoted(word)} is not a whole number; write {what}s such as 5 3 7 or 5,3,7"
        )
    return int(word)


def _checked(values: Iterable[object], what: str) -> list[int]:
    """The values as Python integers of 0 or more."""
    numbers = []
    for value in values:
        if not isinstance(value, SupportsIndex) or not 0 <= value.__index__() < 2**63:
            raise MaskcliError(
                f"the {what} {quoted(value)} is out of range; {what}s are whole numbers from 0 to 2**63 - 1"
            )
        numbers.append(value.__index__())
    return numbers


# Laying out rows


def _width(padding: str, max_length: int | None) -> int | None:
    """The length that rows are padded to, None for the longest row's."""
    if max_length is not None and max_length < 1:
        raise MaskcliError(f"a maximum length of {max_length} leaves no tokens; pass --max-length 1 or more")
    kind = padding.replace("_", "-")
    if kind not in ("longest", "max-length"):
        raise MaskcliError(
            f"there is no padding {quoted(padding)}; pass --padding longest or --padding max-length"
        )
    if kind == "longest":
        return None
    if max_length is None:
        raise MaskcliError(
            "--padding max-length needs to know how long; pass --max-length too, such as --max-length 128"
        )
    return max_length


def _side(side: str) -> str:
    """`left` or `right`."""
    if side not in ("left", "right"):
        raise MaskcliError(
            f"there is no padding side {quoted(side)}; pass --padding-side left or --padding-side right"
        )
    return side


def _mask(lengths: Sequence[int], width: int | None, side: str) -> Array:
    """bool [B, L], True on the real tokens of rows with these lengths."""
    size = max(lengths) if width is None else width
    if len(lengths) * size > MAX_CELLS:
        raise MaskcliError(
            f"{len(lengths)} x {size} tokens are more than the {MAX_CELLS} cells that a batch may have; "
            "pass fewer or shorter rows, or a smaller --max-length"
        )
    columns = np.arange(size)
    column = np.asarray(lengths, dtype=np.int64)[:, None]
    real: Array = columns < column if side == "right" else columns >= size - column
    return real


def _filled(mask: Array, rows: Sequence[Array], fill: int) -> Array:
    """The rows laid out where the mask is True, `fill` elsewhere; int64 [B, L]."""
    cells = np.full(mask.shape, fill, dtype=np.int64)
    cells[mask] = np.concatenate(rows)
    return cells


def _positions(mask: Array, documents: tuple[int, ...] | None) -> Array:
    """int64 [B, L]: real tokens counted from 0, in each document anew."""
    positions: Array = np.maximum(np.cumsum(mask, axis=1, dtype=np.int64) - 1, 0)
    if documents:
        positions[mask] -= np.repeat(np.cumsum((0, *documents[:-1])), documents)
        positions[~mask] = 0
    return positions


def _document_index(mask: Array, documents: tuple[int, ...]) -> Array:
    """int64 [1, L]: the document of each token, -1 on padding."""
    return _filled(mask, [np.repeat(np.arange(len(documents)), documents)], -1)


def _fit(lengths: Sequence[int], max_length: int | None, what: str) -> tuple[tuple[int, ...], list[str]]:
    """The lengths of documents that share a row of at most `max_length` tokens, and what each lost."""
    ends = np.cumsum(lengths, dtype=np.int64)
    room = int(ends[-1]) if max_length is None else min(max_length, int(ends[-1]))
    kept = [max(0, min(length, room - int(end) + length)) for length, end in zip(lengths, ends, strict=True)]
    warnings = [
        f"{what} {number} lost {length - left} of its {length} tokens, its end among them: the packed row ends at {room}"
        for number, (length, left) in enumerate(zip(lengths, kept, strict=True), 1)
        if left < length
    ]
    return tuple(left for left in kept if left), warnings


def _joined(encodings: Sequence[Encoding], length: int) -> Encoding:
    """All encodings one after the other, cut to a length."""
    ids, special, type_ids = (
        np.concatenate([getattr(encoding, name) for encoding in encodings])[:length]
        for name in ("ids", "special", "type_ids")
    )
    return Encoding(ids, special, type_ids, length)


def _real(ids: Array, given: Real, pad_id: int, tokenizer: Tokenizer | None) -> Real:
    """bool [B, L]: False on padding, by the pad id or, where it also ends or begins texts, by its runs at the edges."""
    if tokenizer is None or pad_id not in (tokenizer.bos_id, tokenizer.eos_id):
        plain: Real = (ids != pad_id) & given
        return plain
    real = edge_padding(ids, pad_id, starts=(tokenizer.bos_id,), ends=(tokenizer.eos_id,))
    # A row of nothing but this id is one eos (bos) and padding.
    real[(ids == pad_id).all(axis=1), 0] = True
    return real & given


# Warnings


def _length_warnings(
    encodings: Sequence[Encoding], tokenizer: Tokenizer, max_length: int | None
) -> list[str]:
    """Texts that were cut, and texts longer than the model takes."""
    warnings = []
    for number, encoding in enumerate(encodings, 1):
        lost = encoding.total - len(encoding)
        if lost:
            end = (
                f", its end token {tokenizer.token(tokenizer.eos_id or 0)} among them"
                if encoding.end_lost
                else ""
            )
            warnings.append(
                f"text {number} lost {lost} of its {encoding.total} tokens to the maximum length {max_length}{end}"
            )
        limit = tokenizer.model_max_length
        if limit is not None and len(encoding) > limit:
            warnings.append(
                f"text {number} has {len(encoding)} tokens and the model of {quoted(tokenizer.name)} takes at most "
                f"{limit}; cut it with --max-length {limit}"
            )
    return warnings


def _padding_warnings(tokenizer: Tokenizer, mask: Array) -> list[str]:
    """The warning of a borrowed pad token, or the error of a missing one."""
    if tokenizer.pad_id is None:
        counts = mask.sum(axis=1)
        raise MaskcliError(
            f"tokenizer {quoted(tokenizer.name)} has no pad token to bring rows of {counts.min()} to {counts.max()} tokens "
            f"to length {mask.shape[1]}; name one with {_pad_option(tokenizer)}"
        )
    if tokenizer.pad_borrowed is None:
        return []
    role = tokenizer.pad_borrowed
    return [
        f"padding is the {role} token {tokenizer.pad_token} (id {tokenizer.pad_id}): "
        f"tell it from a real {role} by the attention mask, never by the id"
    ]


def _pad_option(tokenizer: Tokenizer) -> str:
    """The option that gives this tokenizer a pad token."""
    if tokenizer.eos_id is not None:
        return "--pad-token eos"
    texts = {token_id: tokenizer.token(token_id) for token_id in sorted(tokenizer.special_ids)}
    likely = next((text for text in texts.values() if "pad" in text.lower()), None)
    return f"--pad-token {quoted(likely)}" if likely else "--pad-token and a token of its vocabulary"


def _label_warnings(ids: Array, mask: Array, tokenizer: Tokenizer) -> list[str]:
    """Real tokens that masking labels by `ids == pad` would have masked too."""
    if tokenizer.pad_id is None or tokenizer.pad_id != tokenizer.eos_id:
        return []
    counts = ((ids == tokenizer.pad_id) & mask).sum(axis=1)
    rows = [str(row + 1) for row in np.flatnonzero(counts)[:5]]
    start = f"the pad token is the eos token ({tokenizer.pad_token}, id {tokenizer.pad_id}): "
    if not rows:
        return []
    more = ", ..." if np.count_nonzero(counts) > 5 else ""
    total = int(counts.sum())
    return [
        f"{start}labels masked where ids == pad would have lost {total} real eos token{'s' if total > 1 else ''} "
        f"(row{'s' if len(rows) > 1 else ''} {', '.join(rows)}{more}); these labels follow the attention mask"
    ]


def _unknown_ids(ids: Array, tokenizer: Tokenizer | None) -> list[str]:
    """Ids that the vocabulary does not hold; the built-in tokenizer has no vocabulary of its own."""
    if tokenizer is None or tokenizer.name == "builtin":
        return []
    largest = int(ids.max())
    if largest < tokenizer.vocab_size:
        return []
    return [
        f"id {largest} is not in the vocabulary of {quoted(tokenizer.name)}, which has {tokenizer.vocab_size} tokens"
    ]
