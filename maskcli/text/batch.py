"""Batch: the rows of tokens that a mask is built for, and how it is made from texts, ids or lengths alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np

from maskcli.arrays import Array, Real
from maskcli.errors import MaskcliError
from maskcli.padding import edge_padding
from maskcli.text.numbers import parse_ids, parse_lengths
from maskcli.text.rows import document_index, filled, fit, laid_out, padded_width, positions
from maskcli.text.tokenizer import Encoding, Tokenizer, quoted
from maskcli.text.warnings import (
    label_warnings,
    length_warnings,
    pad_id_warnings,
    padding_warnings,
    repeated_edges,
    start_warnings,
    unknown_ids,
)

IGNORE_INDEX = -100


@dataclass(frozen=True, eq=False)
class Batch:
    """Tokens of B rows of length L.

    `texts` B texts (None where there is none; when packed, one for each document). `ids` int64 [B, L], None
    for lengths only. `attention_mask` bool [B, L], True = real. `position_ids` int64 [B, L] as Hugging
    Face's generate counts them: real tokens from 0 (cumsum of the mask - 1, never below 0, so that right
    padding repeats the last position); packed rows restart in each document and have 0 on padding.
    `special` bool [B, L]. `segments` int64 [B, L]: token_type_ids of pairs, or the document of a packed row
    with -1 on padding. `documents` the lengths of packed documents, None unless packed (then B is 1).
    `labels` int64 [B, L]: the ids, -100 on padding. `warnings` one sentence each.
    """

    texts: tuple[str | None, ...]
    ids: Array | None
    attention_mask: Real
    special: Real
    segments: Array | None = None
    documents: tuple[int, ...] | None = None
    labels: Array | None = None
    warnings: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = field(default=None, repr=False)

    @cached_property
    def position_ids(self) -> Array:
        """int64 [B, L], counted along the real tokens."""
        return positions(self.attention_mask, self.documents)

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
    counted: Callable[[int, Array], Real] | None = None,
) -> Batch:
    """Each text (with its second text from `pairs`) as one row, cut to `max_length` and padded.

    `packed` makes one row of all texts, cut to `max_length` as a whole: no label stands on the first token
    of a document, which the end of the one before it would have to foretell. `counted` tells of a text's
    number and ids [L] which of them labels count, bool [L]; all of them by default. A text without tokens is
    a row of padding.
    """
    width = padded_width(padding, max_length)
    limit = None if packed else max_length
    encodings = _encoded(texts, pairs, tokenizer, special_tokens, limit)
    warnings = length_warnings(encodings, tokenizer, max_length) + start_warnings(encodings, tokenizer)
    targets = [_targets(number, encoding, counted, packed) for number, encoding in enumerate(encodings)]
    documents = None
    if packed:
        texts = [text for text, encoding in zip(texts, encodings, strict=True) if len(encoding)]
        encodings = [encoding for encoding in encodings if len(encoding)]
        documents, cut = fit([len(encoding) for encoding in encodings], max_length, "text")
        warnings += cut
        encodings = [_joined(encodings, sum(documents))]

    lengths = [len(encoding) for encoding in encodings]
    mask = laid_out(lengths, width, padding_side or tokenizer.padding_side)
    warnings += padding_warnings(tokenizer, mask)
    row = _joined(encodings)
    ids = filled(mask, row.ids, tokenizer.pad_id or 0)
    type_ids = filled(mask, row.type_ids, tokenizer.pad_type_id)
    segments = document_index(mask, documents)
    if segments is None and (pairs is not None or type_ids[mask].any()):
        segments = type_ids
    if labels:
        warnings += label_warnings(ids, mask, tokenizer, tokenizer.pad_id)
    return Batch(
        texts=tuple(texts[: len(documents)] if documents else texts),
        ids=ids,
        attention_mask=mask,
        special=filled(mask, row.special, 1).astype(bool),
        segments=segments,
        documents=documents,
        labels=np.where(filled(mask, np.concatenate(targets)[: len(row)], 0), ids, IGNORE_INDEX)
        if labels
        else None,
        warnings=tuple(warnings),
        tokenizer=tokenizer,
    )


def _targets(
    number: int, encoding: Encoding, counted: Callable[[int, Array], Real] | None, packed: bool
) -> Real:
    """Which tokens of a text labels count, bool [L]."""
    told: Real = np.ones(len(encoding), bool) if counted is None else counted(number, encoding.ids).copy()
    if packed and number:
        told[:1] = False
    return told


def _encoded(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: Tokenizer,
    special_tokens: bool | None,
    max_length: int | None,
) -> list[Encoding]:
    """Each text with its second one as a sequence; one that is empty has others beside it."""
    if not texts:
        raise MaskcliError("there is no text; pass at least one")
    seconds: Sequence[str | None] = [None] * len(texts) if pairs is None else pairs
    if len(seconds) != len(texts):
        raise MaskcliError(f"there are {len(texts)} texts and {len(seconds)} second texts; pass one for each")
    encodings = [
        tokenizer.encode(text, second, special_tokens, max_length)
        for text, second in zip(texts, seconds, strict=True)
    ]
    if not any(map(len, encodings)):
        raise MaskcliError(
            f"text 0 ({quoted(texts[0])}) has no tokens; pass a text with at least one word, "
            "or let the tokenizer add its special tokens"
        )
    return encodings


def _joined(encodings: Sequence[Encoding], length: int | None = None) -> Encoding:
    """All encodings one after the other, cut to a length."""
    return Encoding(
        ids=np.concatenate([encoding.ids for encoding in encodings])[:length],
        special=np.concatenate([encoding.special for encoding in encodings])[:length],
        type_ids=np.concatenate([encoding.type_ids for encoding in encodings])[:length],
        total=sum(encoding.total for encoding in encodings),
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

    A token is padding where its id is `pad_id` (the tokenizer's, when not given). When that id also ends or
    begins sequences, only runs of it at the edges of a row are padding, without the one eos (bos) that
    belongs to the text. Rows of different lengths are padded.
    """
    parsed = parse_ids(rows)
    if pad_id is None and tokenizer is not None:
        pad_id = tokenizer.pad_id
    lengths = [len(row) for row in parsed]
    _check_pad_id(pad_id, lengths)
    usual_side = tokenizer.padding_side if tokenizer else "right"
    given = laid_out(lengths, None, padding_side or usual_side)
    ids = filled(given, np.asarray(list(chain(*parsed)), dtype=np.int64), pad_id or 0)
    mask = given if pad_id is None else _real(ids, given, pad_id, tokenizer)

    special, warnings = ~mask, repeated_edges(ids) if pad_id is None else []
    if tokenizer is not None:
        special |= np.isin(ids, np.fromiter(tokenizer.special_ids, dtype=np.int64))
        warnings += unknown_ids(ids, tokenizer)
        warnings += pad_id_warnings(tokenizer, pad_id, mask)
        warnings += label_warnings(ids, mask, tokenizer, pad_id) if labels else []
    return Batch(
        texts=(None,) * len(parsed),
        ids=ids,
        attention_mask=mask,
        special=special,
        labels=np.where(mask, ids, IGNORE_INDEX) if labels else None,
        warnings=tuple(warnings),
        tokenizer=tokenizer,
    )


def _check_pad_id(pad_id: int | None, lengths: Sequence[int]) -> None:
    """Refuse a pad id that is none, and rows of different lengths without one."""
    if pad_id is not None and pad_id < 0:
        raise MaskcliError(f"the pad id {pad_id} is negative; pass the id of a token, such as --pad-id 0")
    if pad_id is None and len(set(lengths)) > 1:
        raise MaskcliError(
            f"the rows have {min(lengths)} to {max(lengths)} ids and no pad id is known to fill them; pass "
            "--pad-id 0 (or a --tokenizer that has a pad token), or rows of one length"
        )


def _real(ids: Array, given: Real, pad_id: int, tokenizer: Tokenizer | None) -> Real:
    """Real tokens, bool [B, L]: by the pad id; where that also ends or begins texts, by runs at the edges."""
    if tokenizer is None or pad_id not in (tokenizer.bos_id, tokenizer.eos_id):
        plain: Real = (ids != pad_id) & given
        return plain
    real = edge_padding(ids, pad_id, starts=(tokenizer.bos_id,), ends=(tokenizer.eos_id,))
    # A row of nothing but this id is one eos (bos) and padding.
    real[(ids == pad_id).all(axis=1), 0] = True
    return real & given


def batch_from_lengths(
    lengths: str | Sequence[int],
    *,
    padding_side: str | None = None,
    max_length: int | None = None,
    packed: bool = False,
) -> Batch:
    """Rows of so many tokens, without ids: `"5,3,7"` or a list.

    Padded to the longest, or to `max_length` when given; longer rows are cut to it. `packed` makes them
    documents of one row.
    """
    parsed = parse_lengths(lengths)
    width = None if max_length is None else padded_width("max-length", max_length)
    documents, rows = None, parsed
    if packed:
        documents, warnings = fit(parsed, max_length, "document")
        rows = [sum(documents)]
    else:
        limit = max(parsed) if max_length is None else max_length
        rows = [min(length, limit) for length in parsed]
        warnings = [
            f"sample {number} lost {length - limit} of its {length} tokens to the maximum length {limit}"
            for number, length in enumerate(parsed)
            if length > limit
        ]

    mask = laid_out(rows, width, padding_side or "right")
    return Batch(
        texts=(None,) * len(documents or parsed),
        ids=None,
        attention_mask=mask,
        special=~mask,
        segments=document_index(mask, documents),
        documents=documents,
        warnings=tuple(warnings),
    )
