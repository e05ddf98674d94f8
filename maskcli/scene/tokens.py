"""The tokens of a batch: what a file says of each, and what follows from ids and positions alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from maskcli.arrays import Array, Real
from maskcli.meant.facts import Declared
from maskcli.padding import edge_padding
from maskcli.tensors.tolerances import EXACT


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a file says of the tokens of one side of a batch [B, L]. None: not saved, or of another shape.

    `names` are the tensors by role; `real` is what the padding mask says, `documents` [B, L] which packed
    text each token belongs to when position ids, segment ids or cu_seqlens show more than one. `counted` is
    0 where a loss mask leaves a label out; `moved_labels` are those that the data moved, beside others.
    `declared_documents` are told by something else than positions, `prompt_lengths` [B] the prompt of each
    row. `unlike` are labels and loss masks of another length than the ids, by name.
    """

    kind: str
    names: dict[str, str]
    ids: Array | None = None
    real: Array | None = None
    labels: Array | None = None
    positions: Array | None = None
    token_types: Array | None = None
    counted: Array | None = None
    documents: Array | None = None
    declared_documents: Array | None = None
    moved_labels: Array | None = None
    prompt_lengths: Array | None = None
    unlike: dict[str, Array] = field(default_factory=dict)

    def name(self, role: str) -> str:
        """The tensor of a role that is there."""
        return self.names[role]

    def real_by_ids(self, declared: Declared) -> Real | None:
        """Which tokens the ids show to be real, bool [B, L]; None without ids or a pad id."""
        if self.ids is None:
            return None
        # Many rules ask.
        told = self.__dict__.setdefault("_real_by_ids", {})
        facts = declared.pad_id, declared.bos_ids, declared.eos_ids
        if facts not in told:
            told[facts] = real_tokens(self.ids, declared, decoder=self.kind == "decoder")
        real: Real | None = told[facts]
        return real

    def known_real(self, declared: Declared) -> Real | None:
        """Which tokens the padding mask, else the ids, show to be real, bool [B, L]."""
        return self.real_by_ids(declared) if self.real is None else self.real

    @property
    def padding_name(self) -> str:
        """The tensor that says which tokens are real."""
        return self.name("input_ids" if self.real is None else "padding_mask")


def real_tokens(ids: Array, declared: Declared, *, decoder: bool) -> Real | None:
    """Which tokens the ids show to be real, bool [B, L]; None when the pad id is not known.

    What a decoder of an encoder-decoder reads may begin with it: T5's start is its padding.
    """
    pad = declared.pad_id
    if pad is None:
        return None
    starts = (*declared.bos_ids, pad) if decoder else declared.bos_ids
    return edge_padding(ids, pad, starts, declared.eos_ids)


def restarts(positions: Array, real: Array | None) -> Array:
    """Packed documents, int [B, L]: positions that fall, or stay at their lowest, begin one.

    Padding begins none: it goes with the document before it. Past 256 equal neighbours are the rounding of
    bfloat16.
    """
    kept = np.ones(positions.shape, bool) if real is None else np.broadcast_to(real, positions.shape)
    lowest = np.where(kept, positions.astype(np.float64), np.inf).min(axis=1, keepdims=True)

    step = np.diff(positions, axis=1)
    stays = (step == 0) & (positions[:, 1:] == lowest) & (lowest < EXACT["bfloat16"])
    begins = np.zeros(positions.shape, bool)
    begins[:, 1:] = ((step < 0) | stays) & kept[:, 1:] & kept[:, :-1]
    return np.cumsum(begins, axis=1)


def jumps(rows: Array, real: Real | None = None) -> bool:
    """Whether positions [b, L] are those of tokens taken out of their order, and no packed documents.

    No two tokens of a row share a position, and some step leads neither one further nor back to the first.
    """
    kept = np.ones(rows.shape, bool) if real is None else np.resize(real, rows.shape)
    for item in np.flatnonzero(_irregular(rows, kept)):
        tokens = rows[item][kept[item]]
        steps = np.diff(tokens)
        begins = (steps < 0) & (tokens[1:] == tokens.min(initial=0))
        if len(np.unique(tokens)) == tokens.size and ((steps != 1) & ~begins).any():
            return True
    return False


def _irregular(rows: Array, kept: Real) -> Array:
    """Rows of positions [b, L] with a step among kept tokens that leads neither one further nor to the first,
    or with padding inside.
    """
    inside = kept[:, 1:] & kept[:, :-1]
    first = np.where(kept, rows, np.inf).min(axis=1, initial=np.inf)[:, None]
    step = np.diff(rows, axis=1)
    odd = inside & (step != 1) & ~((step < 0) & (rows[:, 1:] == first))
    texts = (np.diff(kept.astype(np.int8), axis=1, prepend=0) > 0).sum(axis=1)
    irregular: Array = np.any(odd, axis=1) | (texts > 1)
    return irregular


def several(documents: Array | None) -> bool:
    """Whether some row [K] holds more than one packed document."""
    return documents is not None and bool((documents != documents[:, :1]).any())
