"""Rule on token types and the padding mask, swapped: MSK407."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rule import for_each, rule, sides
from maskcli.diagnostics.rules.hits import found_keys
from maskcli.padding import is_solid
from maskcli.scene.scene import Scene
from maskcli.scene.tokens import Tokens


@rule("MSK407", "swapped-token-types", "error", needs=("padding_mask", ("token_type_ids", "input_ids")))
@for_each(sides)
def swapped_token_types(tokens: Tokens, scene: Scene) -> Found | Undecided | None:
    """The attention mask and the token types are swapped: the mask is 0 on the whole first sentence.

    The model then reads the second sentence alone, and of a single sentence nothing. Both are 0 and 1 in the
    same shape, so nothing complains.

    In code: `model(input_ids, token_type_ids, attention_mask)` where the attention mask comes first.

    Fix: pass both by name: `model(input_ids, attention_mask=…, token_type_ids=…)`, or `model(**encoded)`.
    """
    real, types = tokens.real, tokens.token_types
    if real is None or real[:, 0].all() or not _in_front(real).any() or not is_solid(real):
        return None
    if types is not None and tokens.ids is None and (types == 1).all():
        return Undecided("input_ids: token types that are all 1 do not tell padding from a first sentence")
    if types is not None:
        hidden, other = _kept_by_types(types, real, tokens.ids), tokens.name("token_type_ids")
        likewise = f"; {other!r} is 1 on both, as a mask is"
    elif tokens.ids is not None:
        hidden, other = _first_sentence(tokens.ids, real, scene.declared.pad_id), tokens.name("input_ids")
        likewise = ""
    else:
        return None
    if hidden is None:
        return None

    name = tokens.name("padding_mask")
    return found_keys(
        (name, other),
        hidden,
        f"{name!r} is 0 on {{hidden_tokens}} tokens of the first sentence ({{}}) and 1 on the second, as "
        f"token types are{likewise}",
        "swap them back: pass attention_mask and token_type_ids by name",
        hidden_tokens=int(hidden.sum()),
    )


def _kept_by_types(types: Array, real: Array, ids: Array | None) -> Array | None:
    """What token types that look like a mask keep in front of what the mask keeps, bool [B, L]; None when
    they are types.

    They do when they are 1 on an edge run of every row that begins before the mask's and ends with it.
    """
    ones, rows = types == 1, real.any(axis=1)
    hidden: Array = ones & _in_front(real)
    edges = (np.diff(ones, axis=1).sum(axis=1) <= 1).all() and (ones | (types == 0)).all()
    begins = np.any(hidden, axis=1)[rows].all() and not (real & ~ones).any()
    ends = (_last(ones) == _last(real))[rows].all()
    if not (edges and begins and ends):
        return None
    # One id over and over is padding, of which the types say nothing.
    if ids is not None and all(
        len(np.unique(row[front])) < 2 for row, front in zip(ids, hidden, strict=True)
    ):
        return None
    return hidden


def _first_sentence(ids: Array, real: Array, pad_id: int | None) -> Array | None:
    """What the mask hides in front, bool [B, L], when that is a sentence; None when it is something else.

    A sentence begins alike in every row ([CLS]), ends as what the mask keeps does ([SEP]), and is no padding.
    """
    hidden = np.zeros(real.shape, bool)
    begins = set()
    for row in np.flatnonzero(real.any(axis=1)):
        stop, last = int(real[row].argmax()), ids[row, _last(real)[row]]
        start = _padding_in_front(ids[row], stop, pad_id)
        front = ids[row, start:stop]
        if len(np.unique(front)) < 3 or front[-1] != last or pad_id in front:
            return None
        begins.add(int(front[0]))
        hidden[row, start:stop] = True
    return hidden if len(begins) == 1 else None


def _padding_in_front(ids: Array, stop: int, pad_id: int | None) -> int:
    """Where text begins among the first `stop` ids: a leading run of one id is padding."""
    if stop < 2 or ids[0] not in (ids[1], pad_id):
        return 0
    pad = ids[0] if pad_id is None else pad_id
    return int((ids[:stop] != pad).argmax())


def _in_front(real: Array) -> Array:
    """Tokens before the first that the mask keeps, in rows where it keeps some."""
    front: Array = ~np.logical_or.accumulate(real, axis=1) & np.any(real, axis=1)[:, None]
    return front


def _last(flags: Array) -> Array:
    """The last True of each row."""
    last: Array = flags.shape[1] - 1 - flags[:, ::-1].argmax(axis=1)
    return last
