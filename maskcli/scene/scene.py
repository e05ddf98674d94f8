"""Which tensors belong together: each attention map with its mask, its padding, its inputs, and what was meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from typing import TypeVar

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks.kinds import Layout, causal, padding
from maskcli.masks.kinds import documents as same_document
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Named, conjuncts, kinds_in, write
from maskcli.meant.facts import Declared, Meant
from maskcli.measure.passes import Measured, measure, nan_rows, uniform_rows
from maskcli.measure.sample import Sample, sample
from maskcli.scene.saved_mask import Given
from maskcli.tensors import Tensor
from maskcli.tensors.roles import Roled

Answer = TypeVar("Answer")

# Kinds of masks that let a query see its neighbourhood only.
LOCAL = {"sliding", "chunked", "window"}
# Row sums of healthy weights err by at most 1.1e-6, 3.4e-4 and 2.9e-3 (measured); beyond these a row is not a softmax.
SUM_TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-3, "bfloat16": 1e-2}
SUM_ROUNDING = {"float64": 1e-5, "float32": 1e-5, "float16": 5e-4, "bfloat16": 4e-3}

# Up to here every whole number has a value of its own: 8 and 11 significant bits.
EXACT = {"bfloat16": 2**8, "float16": 2**11}


@dataclass(frozen=True)
class Padding:
    """Which tokens are real, bool [B, K], and what says so."""

    real: Array
    source: str


@dataclass(frozen=True, eq=False)
class Attention:
    """One map of attention weights [B, H, Q, K] with what belongs to it.

    `keys` and `queries` say which tokens are real on either side, None when nothing tells; `misfit` is a padding mask of
    another length than the keys. `declared` is what was meant,
    `expected` that mask with the input's padding; None without a declaration. `documents` [B, K] numbers the packed texts.
    `parts` are the scores, query, key, value and output of the same layer. `past_known` says that evidence or a declaration
    gave `past`, and not only the difference of the lengths.
    """

    roled: Roled
    shape: Shape
    past: int
    past_known: bool
    given: Given | None
    keys: Padding | None
    misfit: Padding | None
    queries: Padding | None
    declared: Meant | None
    expected: Mask | None
    exact: bool
    documents: Array | None
    parts: dict[str, Tensor]

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.roled.tensor.name

    @property
    def tensor(self) -> Tensor:
        """The tensor itself."""
        return self.roled.tensor

    @property
    def spec(self) -> str | None:
        """The declared mask as text."""
        return write(self.declared.spec) if self.declared else None

    @property
    def tolerance(self) -> float:
        """How far a healthy row sum may lie from 1."""
        return SUM_TOLERANCE.get(self.tensor.dtype, 0.1)

    @property
    def rounding(self) -> float:
        """How far rounding alone takes the row sums of healthy weights from 1."""
        return SUM_ROUNDING.get(self.tensor.dtype, 0.05)

    @property
    def window(self) -> int | None:
        """How many keys a query sees at most, itself included, by a sliding window that was declared."""
        return window_of(self.declared)

    @property
    def layout(self) -> Layout:
        """The sizes, past, padding and documents that specs are built over."""
        batch, heads, queries, keys = self.shape
        return Layout(
            batch, queries, keys, heads, self.past, self.keys.real if self.keys else None, self.documents
        )

    @cached_property
    def padding(self) -> Mask | None:
        """Keys that are real, when the input says which and some are not."""
        return None if self.keys is None or self.keys.real.all() else padding(self.layout)

    @cached_property
    def causal(self) -> Mask:
        """k <= p, whatever was meant."""
        return causal(self.layout)

    @cached_property
    def same_document(self) -> Mask | None:
        """Keys of the query's own packed document; None when the input shows no more than one."""
        documents, queries = self.documents, self.past + self.shape[2]
        if documents is None or queries > self.shape[3] or (documents == documents[:, :1]).all():
            return None
        return same_document(self.layout)

    @cached_property
    def keep(self) -> Mask | None:
        """What the saved mask lets attend, in this map's shape; None without one or when its shape does not fit."""
        return self.given.keep.broadcast_to(self.shape) if self.given else None

    @cached_property
    def meant(self) -> Mask | None:
        """What the weights have to obey: the declared mask, else the saved one with the padding, else the padding."""
        if self.expected is not None:
            return self.expected
        if self.keep is None or self.padding is None:
            return self.padding if self.keep is None else self.keep
        return self.keep & self.padding

    @cached_property
    def future_expected(self) -> str | None:
        """Why nothing behind a query may be seen; None when nothing says so, and for cross-attention, which knows no order."""
        if self.roled.kind == "cross":
            return None
        if self.expected is not None:
            inside = self.expected.attended > 0 and (self.expected - self.causal).attended == 0
            return f"{self.declared.source} {self.spec!r}" if inside and self.declared else None
        if self.keep is not None and self.given is not None:
            inside = self.keep.attended > 0 and (self.keep - self.causal).attended == 0
            return f"the mask {self.given.tensor.name!r}" if inside else None
        return None

    @cached_property
    def real_rows(self) -> Array:
        """Which query rows are real tokens, bool [B, 1, Q]; all of them when nothing tells."""
        shape = (self.shape[0], 1, self.shape[2])
        if self.queries is not None:
            return np.broadcast_to(self.queries.real[:, None, :], shape)
        if self.keep is not None:
            return np.broadcast_to(~pad_rows(self.keep, self.past), shape)
        return np.ones(shape, bool)

    @cached_property
    def measured(self) -> Measured:
        """The one pass over the weights."""
        probes = {
            "padding": self.padding,
            "keep": self.keep,
            "expected": self.expected,
            "documents": self.same_document,
        }
        if self.roled.kind != "cross":
            probes["future"] = self.causal
        return measure(
            self.tensor, self.shape, {name: mask for name, mask in probes.items() if mask is not None}
        )

    @property
    def sample(self) -> Sample:
        """A few of the rows, whole."""
        return _sample_of(self)

    @cached_property
    def nan_counts(self) -> Array | None:
        """How many NaN each row holds, int64 [B, H, Q]; None when the map holds none."""
        return nan_rows(self.tensor, self.shape) if np.isnan(self.measured.high).any() else None

    @cached_property
    def uniform(self) -> Array:
        """Rows that weigh every one of the K >= 2 keys bitwise the same, bool [B, H, Q]."""
        measured = self.measured
        uniform: Array = (measured.high == measured.low) & (measured.high > 0) & (self.shape[3] > 1)
        return uniform

    @cached_property
    def looks_empty(self) -> Array:
        """Rows as a fully masked row leaves them, bool [B, H, Q]: NaN, all zeros, or the same weight for every key."""
        zeros = (self.measured.high == 0) & (self.measured.low == 0)
        empty: Array = np.isnan(self.measured.total) | zeros | self.uniform
        return empty

    @cached_property
    def support(self) -> Array:
        """How many keys share a row's weight equally while all others weigh 0, int64 [B, H, Q]; 0 for other rows.

        One more pass: only a map in which every row may be like that pays for it.
        """
        return uniform_rows(self.tensor, self.shape, self.measured.high)


@lru_cache(maxsize=2)
def _sample_of(attention: Attention) -> Sample:
    """Samples are large: only those of the maps looked at last are kept."""
    return sample(attention.tensor, attention.shape, attention.real_rows)


def once(judge: Callable[[Attention], Answer]) -> Callable[[Attention], Answer]:
    """A function of one map that is asked by several rules: its answer is kept with the map, and goes with it."""

    @wraps(judge)
    def kept(attention: Attention) -> Answer:
        known = attention.__dict__.setdefault("_answers", {})
        if judge not in known:
            known[judge] = judge(attention)
        answer: Answer = known[judge]
        return answer

    return kept


@dataclass(frozen=True, eq=False)
class Saved:
    """A saved mask tensor: how it reads, the padding of its keys, what was declared for it, and a map it belongs to.

    `past_known` says that evidence or a declaration gave `past`, and not only the difference of the lengths.
    """

    roled: Roled
    given: Given
    keys: Padding | None
    past: int
    past_known: bool
    declared: Meant | None
    documents: Array | None
    attention: Attention | None

    @property
    def window(self) -> int | None:
        """How many keys a query sees at most, itself included, by a sliding window that was declared."""
        return window_of(self.declared)

    @property
    def layout(self) -> Layout:
        """The sizes, past, padding and documents that specs are built over."""
        batch, heads, queries, keys = self.given.shape
        return Layout(
            batch, queries, keys, heads, self.past, self.keys.real if self.keys else None, self.documents
        )

    @cached_property
    def pad_rows(self) -> Array:
        """Which rows are padding tokens, bool [b, 1, q], by the input's padding or else by the mask itself."""
        queries, keys = self.given.shape[2:]
        if self.keys is not None and queries == 1:
            # One row speaks for every query of a sample, or for the last: padding only where all of it is.
            nothing: Array = ~np.any(self.keys.real, axis=1, keepdims=True)[:, None]
            return nothing
        if self.keys is not None and self.past + queries <= keys:
            pads: Array = ~self.keys.real[:, None, self.past : self.past + queries]
            return pads
        return pad_rows(self.given.keep, self.past)


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a file says of the tokens of one side of a batch [B, L]. None: not saved, or of another shape.

    `names` are the tensors by role; `real` is what the padding mask says, `documents` [B, L] which packed text each token
    belongs to when position ids, segment ids or cu_seqlens show more than one.
    """

    kind: str
    names: dict[str, str]
    ids: Array | None
    real: Array | None
    labels: Array | None
    positions: Array | None
    token_types: Array | None
    documents: Array | None

    def name(self, role: str) -> str:
        """The tensor of a role that is there."""
        return self.names[role]


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything in one file that rules look at. `unfit` says of tensors that were passed over why."""

    file: str
    declared: Declared
    tensors: tuple[Roled, ...]
    attentions: tuple[Attention, ...]
    masks: tuple[Saved, ...]
    tokens: tuple[Tokens, ...]
    unfit: dict[str, str]

    @cached_property
    def has(self) -> set[str]:
        """The tensors and facts that are there, by the names that rules' `needs` use."""
        found: set[str] = {roled.role for roled in self.tensors if roled.role}
        found -= {"weights", "mask"}
        checks = {
            "weights": bool(self.attentions),
            "mask": bool(self.masks),
            "padding": any(a.keys for a in self.attentions) or any(saved.keys for saved in self.masks),
            "expectation": any(a.expected is not None for a in self.attentions),
            "causal expectation": any(a.future_expected for a in self.attentions),
            "convention": self.declared.convention is not None,
            "pad_id": self.declared.pad_id is not None,
            "eos_id": bool(self.declared.eos_ids),
            "prompt_length": self.declared.prompt_length is not None,
            "vocab_size": self.declared.vocab_size is not None,
            "purpose": self.declared.purpose is not None,
            "window": any(
                a.declared and (a.declared.particular or kinds_in(a.declared.spec) & LOCAL)
                for a in self.attentions
            ),
            "mask window": any(saved.window for saved in self.masks),
            "documents": self._packed,
            "past": any(a.past_known and a.past > 0 for a in self.attentions),
            "full expectation": any(
                a.expected is not None and not a.future_expected for a in self.attentions
            ),
            "cross weights": any(a.roled.kind == "cross" for a in self.attentions),
            "source and target padding": any(
                a.roled.kind == "cross" and a.keys and a.queries for a in self.attentions
            ),
        }
        return found | {name for name, true in checks.items() if true}

    @property
    def _packed(self) -> bool:
        """Whether anything shows, or a declared spec says, that several documents share a row."""
        shown = any(t.documents is not None for t in self.tokens) or any(
            _several(saved.documents) for saved in self.masks
        )
        declared = (*(a.declared for a in self.attentions), *(saved.declared for saved in self.masks))
        said = any(each and "documents" in kinds_in(each.spec) for each in declared)
        return shown or said or any(a.same_document for a in self.attentions)


def _several(documents: Array | None) -> bool:
    return documents is not None and bool((documents != documents[:, :1]).any())


def window_of(declared: Meant | None) -> int | None:
    """The W of a declared `sliding:W`, alone or joined to other masks by &; None when there is none."""
    found = (
        [part for part in conjuncts(declared.spec) if isinstance(part, Named) and part.name == "sliding"]
        if declared
        else []
    )
    return min(part.numbers[0] for part in found) if found else None


def pad_rows(keep: Mask, past: int) -> Array:
    """Rows that the mask itself shows to be padding, bool [b, 1, q]: empty, and their own key is seen by no query."""
    empty: Array = np.all(keep.keys_per_query == 0, axis=1, keepdims=True)
    if not empty.any():
        return empty
    seen = np.any(keep.seen, axis=1, keepdims=True)
    own = np.minimum(np.arange(empty.shape[2]) + past, keep.shape[3] - 1)
    hidden: Array = empty & ~seen[:, :, own]
    return hidden


def edge_padding(ids: Array, pad_id: int, starts: tuple[int, ...] = (), ends: tuple[int, ...] = ()) -> Array:
    """Which tokens are real, bool [B, L]: all but the leading and trailing runs of the pad id.

    When the pad token also ends texts (is one of `ends`), the first of a trailing run is the real end; when it also begins
    them (`starts`), the last of a leading run is the real beginning.
    """
    real = np.ones(ids.shape, bool)
    for row, kept in zip(ids == pad_id, real, strict=True):
        others = np.flatnonzero(~row)
        if not others.size:
            kept[:] = False
            continue
        kept[: max(others[0] - (pad_id in starts), 0)] = False
        kept[others[-1] + 1 + (pad_id in ends) :] = False
    return real


def real_tokens(ids: Array, declared: Declared) -> Array | None:
    """Which tokens the ids show to be real, bool [B, L]; None when the pad id is not known."""
    return (
        None
        if declared.pad_id is None
        else edge_padding(ids, declared.pad_id, declared.bos_ids, declared.eos_ids)
    )


def restarts(positions: Array, real: Array | None) -> Array:
    """Which packed document each token belongs to, int [B, L]: positions that fall, or stay at their lowest, begin one.

    Padding begins none: it goes with the document before it. Past 256 equal neighbours are the rounding of bfloat16.
    """
    kept = np.ones(positions.shape, bool) if real is None else np.broadcast_to(real, positions.shape)
    lowest = np.where(kept, positions.astype(np.float64), np.inf).min(axis=1, keepdims=True)
    begins = np.zeros(positions.shape, bool)
    step = np.diff(positions, axis=1)
    stays = (step == 0) & (positions[:, 1:] == lowest) & (lowest < EXACT["bfloat16"])
    begins[:, 1:] = ((step < 0) | stays) & kept[:, 1:] & kept[:, :-1]
    return np.cumsum(begins, axis=1)
