"""Kinds of masks as conditions of a FlexAttention mask_mod, over q_idx, kv_idx and {p}, the position of q.

Before a closing bracket, {p}] and kv_idx] are indices into a tensor: keys, wherever positions begin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.arrays import Array
from maskcli.masks.labels import groups, labels_of, stretches
from maskcli.masks.patterns import tree_ancestors, tree_begins

if TYPE_CHECKING:
    from maskcli.masks.layout import Layout

# The condition of a mask_mod, and the tensors that it reads.
Condition = tuple[str, dict[str, Any]]


def real(layout: Layout) -> Condition:
    """Key k is a real token."""
    assert layout.real is not None
    if len(layout.real) == 1:
        # One row is the same for every batch item, however many there will be.
        return "real[kv_idx]", {"real": layout.real[0].tolist()}
    return "real[b, kv_idx]", {"real": layout.real.tolist()}


def combined(layout: Layout) -> Condition:
    """Key k is a real token, and not behind the query."""
    condition, tensors = real(layout)
    return f"{condition} & (kv_idx <= {{p}})", tensors


def prefix(_: Layout, *sizes: int) -> Condition:
    """k < N."""
    size, tensors = _size(sizes)
    return f"kv_idx < {size}", tensors


def prefix_lm(_: Layout, *sizes: int) -> Condition:
    """k < N or k <= p."""
    size, tensors = _size(sizes)
    return f"(kv_idx < {size}) | (kv_idx <= {{p}})", tensors


def global_(_: Layout, *sizes: int) -> Condition:
    """k < N or p < N."""
    size, tensors = _size(sizes)
    return f"(kv_idx < {size}) | ({{p}} < {size})", tensors


def _size(sizes: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """A number as it is, or one for each sample as a tensor."""
    if len(sizes) == 1:
        return str(sizes[0]), {}
    # The name says what it holds: two masks with different sizes need different tensors.
    name = "size_" + "_".join(map(str, sizes))
    return f"{name}[b]", {name: list(sizes)}


def window(_: Layout, left: int, right: int | None = None) -> Condition:
    """At most so many keys before the query and behind it."""
    if right is None and left >= 0:
        return f"({{p}} - kv_idx).abs() <= {left}", {}
    right = left if right is None else right
    terms = [f"({{p}} - kv_idx <= {left})"] * (left >= 0) + [f"(kv_idx - {{p}} <= {right})"] * (right >= 0)
    return " & ".join(terms) or "kv_idx >= 0", {}


def chunked(layout: Layout, size: int, before: int | None = None) -> Condition:
    """The query's chunk, causal; with a number, the whole chunk and so many keys before it."""
    if before is not None:
        first = f"{{p}} // {size} * {size}"
        return f"(kv_idx >= {first} - {before}) & (kv_idx < {first} + {size})", {}
    if layout.real is None:
        return f"(kv_idx <= {{p}}) & ({{p}} // {size} == kv_idx // {size})", {}
    left = "left[b]" if len(layout.real) > 1 else "left[0]"
    condition = f"(kv_idx <= {{p}}) & (({{p}} - {left}) // {size} == (kv_idx - {left}) // {size})"
    return condition, {"left": layout.real.argmax(axis=1).tolist()}


def documents(layout: Layout, *lengths: int) -> Condition:
    """The same packed document."""
    whole = (*lengths, layout.keys - sum(lengths))
    if not lengths:
        assert layout.documents is not None
        return document_condition(layout.documents)
    return document_condition(np.repeat(np.arange(len(whole)), whole)[None])


def document_condition(ids: Array) -> Condition:
    """The same number of a document, int [b, K]."""
    return _equal("document", ids)


def same(layout: Layout, tensor: str, *chosen: int) -> Condition:
    """The same label of 0 or more."""
    return _alike("label", groups(labels_of(layout, tensor), chosen))


def spans(layout: Layout, tensor: str, *chosen: int) -> Condition:
    """The same stretch of labels."""
    return _alike("stretch", stretches(labels_of(layout, tensor), chosen))


def _alike(name: str, labels: Array) -> Condition:
    condition, tensors = _equal(name, labels)
    own = condition.partition(" == ")[0]
    return f"({condition}) & ({own} >= 0)", tensors


def _equal(name: str, labels: Array) -> Condition:
    if len(labels) == 1:
        return f"{name}[{{p}}] == {name}[kv_idx]", {name: labels[0].tolist()}
    return f"{name}[b, {{p}}] == {name}[b, kv_idx]", {name: labels.tolist()}


def tree(layout: Layout, *parents: int) -> Condition:
    """Ancestors in the draft tree, and all before it."""
    root = tree_begins(layout, parents)
    inside = f"(kv_idx >= {root}) & ({{p}} >= {root})"
    # Behind the ends of the tree the index is held inside; those cells are decided by the other terms.
    last = len(parents) - 1
    of_query, of_key = (f"({at} - {root}).clamp(0, {last})" for at in ("{p}", "kv_idx"))
    ancestor = f"(ancestor[{of_query}, {of_key}] == 1)"
    before = f"(kv_idx < {root}) | ({{p}} < {root})"
    condition = f"(kv_idx <= {{p}}) & ({before} | (({inside}) & {ancestor}))"
    return condition, {"ancestor": tree_ancestors(parents)}


def keys(_: Layout, *borders: int) -> Condition:
    """k lies in one of the ranges."""
    return _within("kv_idx", borders), {}


def rows(_: Layout, *borders: int) -> Condition:
    """q lies in one of the ranges."""
    return _within("q_idx", borders), {}


def _within(index: str, borders: tuple[int, ...]) -> str:
    ranges = zip(borders[::2], borders[1::2], strict=True)
    return " | ".join(f"(({index} >= {start}) & ({index} < {stop}))" for start, stop in ranges)


def block_diffusion(_: Layout, size: int, noised: int | None = None) -> Condition:
    """Blocks up to the query's; with a number, noised tokens before clean ones."""
    if noised is None:
        return f"kv_idx // {size} <= {{p}} // {size}", {}
    key = f"(kv_idx - {noised}) // {size}"
    own = f"({{p}} < {noised}) & (kv_idx < {noised}) & ({{p}} // {size} == kv_idx // {size})"
    earlier = f"({{p}} < {noised}) & (kv_idx >= {noised}) & ({key} < {{p}} // {size})"
    clean = f"({{p}} >= {noised}) & (kv_idx >= {noised}) & ({key} <= ({{p}} - {noised}) // {size})"
    return f"({own}) | ({earlier}) | ({clean})", {}
