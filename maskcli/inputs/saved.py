"""What a file keeps beside a mask of `show`, so that it is read again with nothing added."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from maskcli.arrays import Array
from maskcli.inputs.texts import Shown, documents_of_keys, real_keys
from maskcli.masks.conventions import CONVENTIONS, FALSE, Target, chunks
from maskcli.tensors import Source, source_from, told_of_mask

NAME = "mask"


def tensors_of(shown: Shown) -> tuple[dict[str, Source], dict[str, str]]:
    """The mask in the shape that its library reads, the tokens on its axes, and the metadata of both."""
    target = target_of(shown)
    values = chunks(shown.mask, target, shown.convention, shown.dtype)
    mask = Source(shown.dtype, target.shape, values)
    beside = {name: source_from(rows.astype(np.int64)) for name, rows in tokens_of(shown).items()}
    return {NAME: mask} | beside, _told(shown, target)


def target_of(shown: Shown) -> Target:
    """The shape of a mask in its convention."""
    row = CONVENTIONS[shown.convention]
    return row.target(shown.mask.stored, shown.mask.shape, shown.axes == "q")


def tokens_of(shown: Shown) -> Mapping[str, Array]:
    """The ids [B, L], the padding and the documents [B, K] of either side, under their usual names."""
    if shown.source is not None:
        sides = {"encoder_": shown.source, "decoder_": shown.queries}
        masks = {f"{side}attention_mask": batch.attention_mask for side, batch in sides.items()}
        ids = {f"{side}input_ids": batch.ids for side, batch in sides.items()}
        return masks | {name: rows for name, rows in ids.items() if rows is not None}

    batch, keys = shown.queries, shown.mask.shape[3]
    documents = documents_of_keys(batch, shown.past, keys)
    types = batch.segments if documents is None else None
    known = {"input_ids": batch.ids, "segment_ids": documents, "token_type_ids": types}
    real = {"attention_mask": real_keys(batch, shown.past, keys)}
    return real | {name: rows for name, rows in known.items() if rows is not None}


def lost_alone(shown: Shown) -> list[str]:
    """What nobody can tell from the mask alone, in words."""
    padded = not all(batch.attention_mask.all() for batch in (shown.queries, shown.source) if batch)
    lost = {
        "its padding": padded,
        "its documents": shown.queries.documents is not None,
        "its past": shown.past > 0,
        "its convention": CONVENTIONS[shown.convention].values is FALSE,
    }
    return [what for what, is_lost in lost.items() if is_lost]


def _told(shown: Shown, target: Target) -> dict[str, str]:
    """The metadata: the spec, the convention, how the axes are to be read, and the past."""
    told = {"maskcli.spec": shown.spec, "maskcli.from": shown.convention}
    if shown.source is None:
        told["maskcli.past"] = str(shown.past)
    return told | told_of_mask(NAME, target.axes, target.heads, cross=shown.source is not None)
