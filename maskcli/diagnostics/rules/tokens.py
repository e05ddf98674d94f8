"""Rules on token ids and the padding mask: MSK401 and MSK402."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from maskcli.diagnostics.finding import Found, Where, items_of, runs_of
from maskcli.diagnostics.rules.common import told, told_items
from maskcli.diagnostics.scene import Scene, edge_padding, real_tokens
from maskcli.diagnostics.supervision import ignored_labels

Array = npt.NDArray[Any]


def padding_not_masked(scene: Scene) -> Iterator[Found]:
    """The attention mask is 1 over padding tokens.

    The model then reads padding like text. Under right padding with a causal mask and ignored labels no real token ever sees
    it (a note); in an encoder, or under left padding, it changes every result.

    In code: `attention_mask=torch.ones_like(input_ids)`, or calling the model without an attention_mask.

    Fix: take the attention_mask that the tokenizer returns.
    """
    for tokens in scene.tokens:
        real = None if tokens.ids is None else real_tokens(tokens.ids, scene.declared)
        if tokens.real is None or real is None:
            continue
        pads, name = ~real, tokens.name("padding_mask")
        open_pads = pads & tokens.real
        if not open_pads.any() or _inverse(tokens.real, pads):
            continue
        items = np.any(open_pads, axis=1)
        right = not open_pads[:, 0].any()
        causal = any(a.future_expected for a in scene.attentions)
        unread = tokens.labels is not None and bool(ignored_labels(tokens.labels, scene.declared)[open_pads].all())
        where = Where(items_of(items), None, None, runs_of(np.any(open_pads[items], axis=0)))
        yield Found(
            (name, tokens.name("input_ids")),
            f"{name!r} is 1 over padding (id {scene.declared.pad_id}): {told(where.keys, 'key', 'keys')} of {told_items(where.batch)}",
            "pass the attention_mask that the tokenizer returns, or build it as ids != pad_id",
            where,
            {"padding_tokens": int(open_pads.sum()), "pad_id": int(scene.declared.pad_id or 0)},
            "note" if right and causal and unread else None,
        )


def real_token_masked(scene: Scene) -> Iterator[Found]:
    """The attention mask hides tokens that are not padding, or has holes inside a sequence.

    Hidden words are missing from everything the model computes. It mostly comes from masking by id when the pad token is also
    the end token: every real end of text inside the sequence vanishes with the padding.

    In code: `attention_mask = (input_ids != tokenizer.pad_token_id)` with `pad_token = eos_token`.

    Fix: take the attention_mask from the tokenizer, or mask only the leading or trailing run of padding.
    """
    pad_id = scene.declared.pad_id
    for tokens in scene.tokens:
        if tokens.real is None or tokens.ids is None:
            continue
        name = tokens.name("padding_mask")
        hidden = ~tokens.real & _inside(tokens.real)
        if pad_id is not None:
            pads = ~edge_padding(tokens.ids, pad_id, scene.declared.bos_ids, scene.declared.eos_ids)
            if _inverse(tokens.real, pads):
                continue
            # Of an edge run of pad == eos, either the first or none is real: both ways are in use.
            edge = ~edge_padding(tokens.ids, pad_id)
            hidden = hidden | (~tokens.real & ~edge)
        if not hidden.any():
            continue
        items = np.any(hidden, axis=1)
        ids = np.unique(tokens.ids[hidden])
        where = Where(items_of(items), None, None, runs_of(np.any(hidden[items], axis=0)))
        same = len(ids) == 1
        yield Found(
            (name, tokens.name("input_ids")),
            f"{name!r} hides {int(hidden.sum())} token(s) that are not padding: {told(where.keys, 'key', 'keys')} of "
            f"{told_items(where.batch)}"
            + (f", all with id {ids[0]}" + (", the pad id" if ids[0] == pad_id else "") if same else ""),
            "take the attention_mask from the tokenizer instead of comparing ids with the pad id",
            where,
            {"hidden_tokens": int(hidden.sum())},
        )


def _inside(real: Array) -> Array:
    """Positions between the first and the last kept token of each row."""
    after = np.maximum.accumulate(real, axis=1)
    before = np.maximum.accumulate(real[:, ::-1], axis=1)[:, ::-1]
    inside: Array = after & before
    return inside


def _inverse(real: Array, pads: Array) -> bool:
    return bool(pads.any() and (real == pads)[np.any(pads, axis=1)].all())
