"""What is odd about a batch, a sentence each: texts cut or too long, a borrowed pad token, unknown ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskcli.arrays import Array, Real
from maskcli.errors import MaskcliError
from maskcli.text.numbers import first_of, plural
from maskcli.text.tokenizer import Encoding, Tokenizer, quoted


def length_warnings(encodings: Sequence[Encoding], tokenizer: Tokenizer, max_length: int | None) -> list[str]:
    """Texts that were cut, and texts longer than the model takes."""
    warnings = []
    limit = tokenizer.model_max_length
    for number, encoding in enumerate(encodings):
        length = len(encoding)
        if length < encoding.total:
            end = f", its end token {tokenizer.token(tokenizer.eos_id or 0)} among them"
            warnings.append(
                f"text {number} lost {encoding.total - length} of its {encoding.total} tokens to the "
                f"maximum length {max_length}{end if encoding.end_lost else ''}"
            )
        if limit is not None and length > limit:
            warnings.append(
                f"text {number} has {length} tokens and the model of {quoted(tokenizer.name)} takes at most "
                f"{limit}; cut it with --max-length {limit}"
            )
    return warnings


def start_warnings(encodings: Sequence[Encoding], tokenizer: Tokenizer) -> list[str]:
    """Texts that begin with the beginning token twice."""
    doubled = [number for number, encoding in enumerate(encodings) if doubled_start(encoding, tokenizer)]
    if not doubled:
        return []
    start, texts = tokenizer.token(tokenizer.bos_id or 0), first_of("text", doubled)
    return [
        f"the start token {start} stands twice ({texts}): the text holds it and the tokenizer adds another; "
        "pass --no-special-tokens"
    ]


def doubled_warnings(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[str, ...]:
    """Rendered chats that would begin with the start token twice, were they encoded as other texts are."""
    if not any(doubled_start(tokenizer.encode(text), tokenizer) for text in texts[:1]):
        return ()
    start = tokenizer.token(tokenizer.bos_id or 0)
    return (
        f"template and tokenizer both add {start}: encode rendered text with add_special_tokens=False, as "
        "was done here, or it stands twice",
    )


def doubled_start(encoding: Encoding, tokenizer: Tokenizer) -> bool:
    """Whether a sequence begins with the beginning token twice."""
    start = -1 if tokenizer.bos_id is None else tokenizer.bos_id
    return len(encoding) > 1 and bool((encoding.ids[:2] == start).all())


def padding_warnings(tokenizer: Tokenizer, mask: Real) -> list[str]:
    """The warning of a borrowed pad token, or the error of a missing one, where rows are padded."""
    if mask.all():
        return []
    if tokenizer.pad_id is None:
        counts = mask.sum(axis=1)
        raise MaskcliError(
            f"tokenizer {quoted(tokenizer.name)} has no pad token to bring rows of {counts.min()} to "
            f"{counts.max()} tokens to length {mask.shape[1]}; name one with {_pad_option(tokenizer)}"
        )
    return _borrowed(tokenizer.pad_borrowed, tokenizer, tokenizer.pad_id)


def pad_id_warnings(tokenizer: Tokenizer, pad_id: int | None, mask: Real) -> list[str]:
    """The warning of a pad id that is another token's, where rows are padded."""
    if pad_id is None or mask.all():
        return []
    others = {tokenizer.eos_id: "eos", tokenizer.bos_id: "bos"}
    own = pad_id == tokenizer.pad_id
    return _borrowed(tokenizer.pad_borrowed if own else others.get(pad_id), tokenizer, pad_id)


def _borrowed(role: str | None, tokenizer: Tokenizer, pad_id: int) -> list[str]:
    if role is None:
        return []
    return [
        f"padding is the {role} token {tokenizer.token(pad_id)} (id {pad_id}): "
        f"tell it from a real {role} by the attention mask, never by the id"
    ]


def _pad_option(tokenizer: Tokenizer) -> str:
    """The option that gives this tokenizer a pad token."""
    if tokenizer.eos_id is not None:
        return "--pad-token eos"
    texts = map(tokenizer.token, sorted(tokenizer.special_ids))
    likely = next((text for text in texts if "pad" in text.lower()), None)
    return f"--pad-token {quoted(likely)}" if likely else "--pad-token and a token of its vocabulary"


def label_warnings(ids: Array, mask: Real, tokenizer: Tokenizer, pad_id: int | None) -> list[str]:
    """Real tokens that masking labels by `ids == pad` would have masked too."""
    if pad_id is None or pad_id != tokenizer.eos_id:
        return []
    counts = ((ids == pad_id) & mask).sum(axis=1)
    total = int(counts.sum())
    if not total:
        return []
    rows = np.flatnonzero(counts).tolist()
    return [
        f"the pad token is the eos token ({tokenizer.token(pad_id)}, id {pad_id}): labels masked "
        f"where ids == pad would have lost {total} real eos {plural('token', total)} "
        f"({first_of('sample', rows)}); these labels follow the attention mask"
    ]


def repeated_edges(ids: Array) -> list[str]:
    """A run of one id at the end of a row [B, L], else at its beginning, where nothing tells the padding."""
    for end, rows in (("ends", ids[:, ::-1]), ("begins", ids)):
        alike = rows == rows[:, :1]
        runs = np.where(alike.all(axis=1), ids.shape[1], alike.argmin(axis=1))
        row = int(runs.argmax())
        if runs[row] > 1:
            edge = rows[row, 0]
            return [
                f"sample {row} {end} with the id {edge} {runs[row]} times; "
                f"pass --pad-id {edge} if that is padding"
            ]
    return []


def unknown_ids(ids: Array, tokenizer: Tokenizer) -> list[str]:
    """Ids that the vocabulary does not hold; the built-in tokenizer has no vocabulary of its own."""
    largest = int(ids.max())
    if tokenizer.name == "builtin" or largest < tokenizer.vocab_size:
        return []
    return [
        f"id {largest} is not in the vocabulary of {quoted(tokenizer.name)}, which has "
        f"{tokenizer.vocab_size} tokens"
    ]
