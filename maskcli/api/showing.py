"""`show`: a mask over the tokens of texts, for a notebook or as a picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.inputs import texts as inputs
from maskcli.inputs.given import Given
from maskcli.inputs.operands import Operand, mask_of, operand
from maskcli.inputs.texts import Shown
from maskcli.masks.mask import Mask
from maskcli.masks.naming import name_of
from maskcli.meant.settling import Origin, check_counts, check_numbers
from maskcli.meant.settling import convention as known
from maskcli.scene.saved_mask import Given as Saved
from maskcli.scene.saved_mask import read_named, shape_of
from maskcli.text import Batch

# What the command line calls a keyword.
OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")


def show(
    mask: Any,
    *texts: str,
    ids: Any = None,
    lengths: Sequence[int] | str | None = None,
    pad_id: int | None = None,
    source: Sequence[str] = (),
    packed: bool = False,
    labels: bool = False,
    tokenizer: str | None = None,
    pad_token: str | None = None,
    padding_side: str | None = None,
    max_length: int | None = None,
    past: int = 0,
    convention: str | None = None,
) -> Shown:
    """A mask over the tokens of texts, of `ids` [B, L] (with `pad_id`), or of rows of so many `lengths`.

    `mask` is a spec, or an array or FILE[:TENSOR], which is read in `convention` and needs no tokens. A
    notebook shows what comes back; `plot()` is its Figure, `mask` holds its runs, `queries` the tokens of its
    rows with their `attention_mask`, `position_ids` and `labels`, -100 on padding. `source` are the texts of
    the keys of a cross mask, `packed` makes the texts documents of one row, `past` keys come before the first
    token. `tokenizer` (a file, a folder or a hub name), `pad_token`, `padding_side` and `max_length` are as
    for `maskcli show`. Raises MaskcliError for what cannot be.

    >>> show("causal & padding", "The cat sat", "Hello").mask.attended
    9
    """
    check_counts(past=past, max_length=max_length)
    if pad_id is not None:
        check_numbers(pad_id, Origin("pad_id"))
    given = Given(
        texts=texts,
        ids=None if ids is None else _in_text(ids),
        lengths=lengths if lengths is None or isinstance(lengths, str) else ",".join(map(str, lengths)),
        pad_id=pad_id,
        source=source,
        packed=packed,
        labels=labels,
        tokenizer=tokenizer,
        pad_token=pad_token,
        side=padding_side,
        max_length=max_length,
    )
    spec = None if isinstance(mask, Mask) else operand(mask)
    if spec is not None and spec.path is None and not given.told():
        raise MaskcliError(
            f"{spec.text!r} needs tokens to lie over; pass texts, ids or lengths, such as "
            f"maskcli.show({spec.text!r}, 'Hello world')"
        )
    with _in_python():
        return _shown(mask, spec, given, past, convention)


def _shown(mask: Any, spec: Operand | None, given: Given, past: int, convention: str | None) -> Shown:
    """A spec over tokens, or a mask that is there, over them or over places alone."""
    if spec is not None and spec.path is None:
        return inputs.show(given, spec.text, past=past, convention=convention)
    tokens = None if given == Given() else inputs.show(given, "full").queries
    if spec is None:
        return of_mask(mask, tokens)
    read, keep = saved(spec, convention)
    return replace(of_mask(keep, tokens), convention=read.convention, dtype=read.tensor.dtype)


@contextmanager
def _in_python() -> Iterator[None]:
    """What is wrong, with keywords in place of options."""
    try:
        yield
    except MaskcliError as error:
        raise MaskcliError(OPTION.sub(lambda found: found[1].replace("-", "_"), str(error))) from None


def of_mask(mask: Mask, batch: Batch | None = None) -> Shown:
    """A mask that is there already, by its name, over tokens or over places alone."""
    _, _, queries, keys = mask.shape
    whole = mask if batch is None else mask.broadcast_to((batch.shape[0], *mask.shape[1:]))
    if whole is None or (batch is not None and batch.shape[1] != queries):
        raise MaskcliError(
            f"a mask {list(mask.shape)} does not fit tokens {list(batch.shape if batch else ())}; "
            "pass as many texts and tokens as it has samples and queries"
        )
    items = whole.shape[0]
    name = name_of(mask)
    return Shown(
        spec=name.spec,
        mask=whole,
        axes="".join(axis for axis, size in zip("bhq", mask.compact().stored, strict=True) if size > 1),
        queries=batch or _places(items, queries),
        source=_places(items, keys) if batch is None and queries != keys else None,
        past=keys - queries if batch else 0,
        convention="sdpa",
        dtype="bool",
        layout=name.layout if name.exact and name.layout.shape == whole.shape else None,
    )


def saved(given: Operand, convention: str | None = None) -> tuple[Saved, Mask]:
    """A saved mask as it is read, and who attends: padding [B, K] has as many queries as keys."""
    roled = mask_of(given)
    shape = None if roled is None else shape_of(roled)
    if roled is None or shape is None:
        raise MaskcliError(f"{given.text!r} is no mask; pass an array [.., Q, K] or [B, K], or FILE[:TENSOR]")
    read = read_named(roled, shape, known(convention) if convention else given.told.convention)
    over_keys = roled.role == "padding_mask" and shape[2] == 1
    rows = shape[3] if over_keys else shape[2]
    keep = read.keep.broadcast_to((shape[0], shape[1], rows, shape[3]))
    assert keep is not None
    return read, keep


def _places(items: int, length: int) -> Batch:
    """Rows of which nothing is known but their length."""
    real = np.ones((items, length), bool)
    return Batch(texts=(None,) * items, ids=None, attention_mask=real, special=~real)


def _in_text(ids: str | Iterable[Iterable[int]]) -> str:
    """Rows of ids as the command line has them."""
    return ids if isinstance(ids, str) else "; ".join(" ".join(str(int(one)) for one in row) for row in ids)
