"""Which tensors belong together: each attention map with its mask, its place, and what was meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from typing import NamedTuple, TypeVar

import numpy as np

from maskcli.arrays import Array, Rows, Shape
from maskcli.masks.kinds import causal, padding
from maskcli.masks.kinds import documents as same_document
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Named, build, conjuncts, write
from maskcli.meant.facts import Declared, Meant
from maskcli.measure.passes import Measured, measure
from maskcli.measure.questions import nan_rows, uniform_rows
from maskcli.measure.sample import Sample, sample
from maskcli.scene.placement import Placement
from maskcli.scene.saved_mask import Given
from maskcli.scene.tokens import Tokens, several
from maskcli.scene.witnesses import Padding
from maskcli.tensors import Tensor
from maskcli.tensors.roles import Roled
from maskcli.tensors.tolerances import sum_tolerances

Answer = TypeVar("Answer")
Asked = TypeVar("Asked")

# Kinds of masks that let a query see its neighbourhood only.
LOCAL = {"sliding", "chunked", "window"}


class Placed:
    """What stands somewhere and was declared to be something: a map of weights, or a saved mask."""

    roled: Roled
    placement: Placement
    declared: Meant | None

    @property
    def past(self) -> int:
        """Keys that come before the first query."""
        return self.placement.past

    @property
    def past_known(self) -> bool:
        """Whether evidence or a declaration gave `past`, and not only the difference of the lengths."""
        return self.placement.past_known

    @property
    def keys(self) -> Padding | None:
        """Which keys are real; None when nothing tells."""
        return self.placement.keys

    @property
    def layout(self) -> Layout:
        """The sizes, past, padding and documents that specs are built over."""
        return self.placement.layout

    @property
    def window(self) -> int | None:
        """The W of a declared `sliding:W`, alone or joined to other masks by &; None when there is none."""
        parts = conjuncts(self.declared.spec) if self.declared else ()
        sizes = [part.numbers[0] for part in parts if isinstance(part, Named) and part.name == "sliding"]
        return min(sizes, default=None)


@dataclass(frozen=True, eq=False)
class Attention(Placed):
    """One map of attention weights [B, H, Q, K] with what belongs to it.

    `declared` is what was meant, `expected` that mask with the input's padding, None without a declaration;
    with `exact`, ignored cells must weigh exactly 0. `parts` are the scores, query, key, value and output of
    the same layer.
    """

    roled: Roled
    placement: Placement
    given: Given | None
    declared: Meant | None
    expected: Mask | None
    exact: bool
    parts: dict[str, Tensor]

    @property
    def shape(self) -> Shape:
        """[B, H, Q, K]."""
        return self.placement.shape

    @property
    def queries(self) -> Padding | None:
        """Which queries are real; None when nothing tells."""
        return self.placement.queries

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
        return sum_tolerances(self.tensor.dtype, self.shape[3])[0]

    @property
    def rounding(self) -> float:
        """How far rounding alone takes the row sums of healthy weights from 1."""
        return sum_tolerances(self.tensor.dtype, self.shape[3])[1]

    @cached_property
    def padding(self) -> Mask | None:
        """Keys that are real, when the input says which and some are not."""
        return None if self.keys is None or self.keys.real.all() else padding(self.layout)

    @cached_property
    def causal(self) -> Mask:
        """k <= p, whatever was meant."""
        return causal(self.layout)

    @cached_property
    def not_ahead(self) -> Mask:
        """k <= p, and what a loss that asks only for later tokens lets a prompt see of itself."""
        spec = self.declared.spec if self.declared is not None and self.declared.bound else None
        prompt = isinstance(spec, Named) and spec.name == "prefix-lm"
        return build(spec, self.layout) if prompt and spec is not None else self.causal

    @cached_property
    def same_document(self) -> Mask | None:
        """Keys of the query's own packed document; None when the input shows no more than one."""
        inside = several(self.placement.documents) and self.layout.inside
        return same_document(self.layout) if inside else None

    @cached_property
    def keep(self) -> Mask | None:
        """What the saved mask lets attend, in this map's shape; None without one that fits."""
        return self.given.keep.broadcast_to(self.shape) if self.given else None

    @cached_property
    def probes(self) -> dict[str, Mask]:
        """What weights are measured against: those known of padding, keep, expected, documents, future."""
        future = None if self.roled.kind == "cross" else self.not_ahead
        masks = {
            "padding": self.padding,
            "keep": self.keep,
            "expected": self.expected,
            "documents": self.same_document,
            "future": future,
        }
        return {name: mask for name, mask in masks.items() if mask is not None}

    @property
    def authority(self) -> str | None:
        """The probe that says what was meant: the declared mask, else the saved one, else the padding."""
        return next((name for name in ("expected", "keep", "padding") if name in self.probes), None)

    @property
    def meant_by(self) -> str:
        """What the authority is, in words."""
        if self.authority == "expected" and self.declared:
            bound, source = self.declared.bound, self.declared.source
            return source if bound else f"{source} {self.spec!r}"
        return f"the mask {self.given.tensor.name!r}" if self.given else "the padding mask"

    @cached_property
    def meant(self) -> Mask | None:
        """What the weights have to obey: what the authority says, and a saved mask with the padding."""
        if self.keep is not None and self.padding is not None and self.authority == "keep":
            return self.keep & self.padding
        return self.probes[self.authority] if self.authority else None

    @cached_property
    def future_expected(self) -> str | None:
        """Why nothing behind a query may be seen; None when nothing says so, and for cross-attention."""
        if self.roled.kind == "cross" or self.authority not in ("expected", "keep"):
            return None
        said = self.probes[self.authority]
        inside = said.attended > 0 and (said - self.not_ahead).attended == 0
        return self.meant_by if inside else None

    def rows(self, values: Array) -> Array:
        """Values that broadcast to [B, H, Q], in that shape."""
        return np.broadcast_to(values, self.shape[:3])

    @cached_property
    def real(self) -> Rows:
        """`real_rows` of every head, bool [B, H, Q]."""
        return self.rows(self.real_rows)

    @cached_property
    def real_rows(self) -> Array:
        """Which query rows are real tokens, bool [B, 1, Q]; all of them when nothing tells."""
        shape = (self.shape[0], 1, self.shape[2])
        if self.queries is not None:
            return np.broadcast_to(self.queries.real[:, None, :], shape)
        if self.keep is not None and self.roled.kind != "cross":
            return np.broadcast_to(~pad_rows(self.keep, self.placement.own), shape)
        return np.ones(shape, bool)

    @cached_property
    def measured(self) -> Measured:
        """The one pass over the weights."""
        return measure(self.tensor, self.shape, self.probes)

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
        """Rows as a fully masked row is left, bool [B, H, Q]: NaN, all zeros, or one weight for every key."""
        zeros = (self.measured.high == 0) & (self.measured.low == 0)
        empty: Array = np.isnan(self.measured.total) | zeros | self.uniform
        return empty

    @cached_property
    def support(self) -> Array:
        """How many keys share a row's weight equally while others weigh 0, int64 [B, H, Q]; else 0.

        One more pass: only a map in which every row may be like that pays for it.
        """
        return uniform_rows(self.tensor, self.shape, self.measured.high)


@lru_cache(maxsize=2)
def _sample_of(attention: Attention) -> Sample:
    """Samples are large: only those of the maps looked at last are kept."""
    return sample(attention.tensor, attention.shape, attention.real_rows)


def once(judge: Callable[[Asked], Answer]) -> Callable[[Asked], Answer]:
    """A function of one map or scene that several rules ask: its answer is kept with it, and goes with it."""

    @wraps(judge)
    def kept(about: Asked) -> Answer:
        known = about.__dict__.setdefault("_answers", {})
        if judge not in known:
            known[judge] = judge(about)
        answer: Answer = known[judge]
        return answer

    return kept


class Expected(NamedTuple):
    """A declared mask without the input's padding, and the layout that it was built over."""

    mask: Mask
    layout: Layout


@dataclass(frozen=True, eq=False)
class Saved(Placed):
    """A saved mask: how it reads, where it stands, what was declared for it, and the maps it belongs to.

    `expected` is the declared mask in each of the places where the queries may stand; empty without a
    declaration that speaks of this mask, or without the facts that it needs.
    """

    roled: Roled
    given: Given
    placement: Placement
    declared: Meant | None
    users: tuple[Attention, ...]
    expected: tuple[Expected, ...]

    @property
    def attention(self) -> Attention | None:
        """The first map that it belongs to."""
        return self.users[0] if self.users else None

    @property
    def documents(self) -> Array | None:
        """Which packed document each key belongs to."""
        return self.placement.documents

    @cached_property
    def pad_rows(self) -> Array:
        """Which rows are padding tokens, bool [b, 1, q], by the input's padding, else by the mask itself."""
        if self.roled.kind == "cross":
            # The keys are another text's: what is hidden of them says nothing of the queries.
            target = self.placement.queries
            none = np.zeros((1, 1, self.given.shape[2]), bool)
            return none if target is None else ~target.real[:, None, :]
        if self.keys is not None and self.given.shape[2] == 1:
            # One row speaks for every query of a sample, or for the last: padding only where all of it is.
            nothing: Array = ~np.any(self.keys.real, axis=1, keepdims=True)[:, None]
            return nothing
        if self.placement.queries is not None:
            pads: Array = ~self.placement.queries.real[:, None]
            return pads
        return pad_rows(self.given.keep, self.placement.own)


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything in one file that rules look at. `unfit` says of tensors that were passed over why.

    `rejected` are the tokens that the scene of a chosen text is compared with.
    """

    file: str
    declared: Declared
    tensors: tuple[Roled, ...]
    attentions: tuple[Attention, ...]
    masks: tuple[Saved, ...]
    tokens: tuple[Tokens, ...]
    unfit: dict[str, str]
    rejected: tuple[Tokens, ...] = ()

    @cached_property
    def roles(self) -> frozenset[str | None]:
        """The roles that its tensors play."""
        return frozenset(roled.role for roled in self.tensors)


def named(scene: Scene, name: str) -> Roled:
    """The tensor of this name, which is there."""
    return next(roled for roled in scene.tensors if roled.tensor.name == name)


def pad_rows(keep: Mask, own: Array) -> Array:
    """Rows that a mask shows to be padding, bool [b, 1, q]: empty, and no query sees their `own` key."""
    empty: Array = np.all(keep.keys_per_query == 0, axis=1, keepdims=True)
    if not empty.any():
        return empty
    seen = np.any(keep.seen, axis=1, keepdims=True)
    # One behind the last key is as if it were there.
    own = np.where(own < 0, keep.shape[3] - 1, own)[:, None, : empty.shape[2]]
    items = (max(len(own), len(seen)), 1)
    seen, own = (np.broadcast_to(each, (*items, each.shape[2])) for each in (seen, own))
    hidden: Array = empty & ~np.take_along_axis(seen, own, axis=2)
    return hidden
