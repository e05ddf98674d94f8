"""Losses that are written by hand: what their logits are asked for, and which of that counts.

Of each row of logits one number is picked, by gather, take_along_dim or an index, by its place among all of
them (index_select, take), or all are weighed by a row that is 1 at the label (einsum, too). Which labels
count tells the gradient that comes back to what was picked: 0 where the program masked it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maskcli.tracing.calls import Torch, quietly

# What labels are called that no loss counts.
IGNORED = -100
# Gradients of labels that count alike differ by less than this share: those of rewards do not.
ALIKE = 1e-3
# How far rounding takes the sum of a row of targets from 1.
WHOLE = 1e-3

# The labels [..] that a function asks logits [.., V] for, by its arguments and the sizes of vocabularies.
Asks = Callable[..., Torch | None]


def by_gather(
    vocabularies: set[int], logits: Torch, dim: Any, index: Torch, *_: Any, **__: Any
) -> Torch | None:
    """Labels of `gather(logits, dim, index)`."""
    last = dim in (-1, logits.ndim - 1) and logits.shape[-1] in vocabularies
    picks_one = index.ndim == logits.ndim and index.shape[-1] == 1
    return index.detach()[..., 0] if last and picks_one else None


def by_take(
    vocabularies: set[int], logits: Torch, indices: Torch, dim: int | None = None, *_: Any, **__: Any
) -> Torch | None:
    """Labels of `take_along_dim(logits, indices, dim)`."""
    return by_gather(vocabularies, logits, dim, indices)


def by_index(vocabularies: set[int], logits: Torch, index: Any, *_: Any, **__: Any) -> Torch | None:
    """Labels of `logits[rows, labels]`, with an index for each axis; those of the rows are in order."""
    if type(index) is not tuple or logits.shape[-1:] == () or logits.shape[-1] not in vocabularies:
        return None
    labels = index[-1]
    if len(index) != logits.ndim or getattr(labels, "dtype", None) not in _whole_numbers():
        return None
    return labels.detach() if labels.numel() * logits.shape[-1] == logits.numel() else None


def by_place(
    vocabularies: set[int], logits: Torch, dim: Any, index: Torch | None = None, *_: Any, **__: Any
) -> Torch | None:
    """Labels of `index_select(logits, 0, places)` and `take(logits, places)`, one in each row of logits."""
    import torch

    places = dim if index is None else index
    if not isinstance(places, torch.Tensor) or logits.ndim != 1 or places.ndim != 1:
        return None
    rows = places.numel()
    width, left = divmod(logits.numel(), max(rows, 1))
    if left or width not in vocabularies:
        return None
    with quietly():
        labels = places.detach() - torch.arange(rows, device=places.device) * width
        inside = bool(((labels >= 0) & (labels < width)).all())
    return labels if inside else None


def by_einsum(vocabularies: set[int], equation: Any, *operands: Any, **_: Any) -> Torch | None:
    """Labels of `einsum("blv,blv->bl", logits, targets)`, or of all of its sums."""
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    if not isinstance(equation, str) or len(given) != 2:
        return None
    asked, *sums = equation.replace(" ", "").split("->")
    first, *others = asked.split(",")
    kept = sums[0] if sums else None
    of_rows = kept in (first[:-1], "") and others == [first] and first != ""
    return by_weighing(vocabularies, *given) if of_rows else None


def by_weighing(vocabularies: set[int], first: Any, second: Any, *_: Any, **__: Any) -> Torch | None:
    """Labels of `logits * targets`, whose rows are distributions that no gradient comes through."""
    shape = getattr(first, "shape", None)
    if not shape or shape[-1] not in vocabularies or shape != getattr(second, "shape", None):
        return None
    if first.requires_grad == second.requires_grad:
        return None
    return labels_of((second if first.requires_grad else first).detach())


def labels_of(targets: Torch) -> Torch | None:
    """The label of each row [.., V] of targets; rows of zeros are ignored, and None is no row of targets."""
    with quietly():
        sums = targets.sum(-1, dtype=targets.dtype if targets.is_floating_point() else None)
        empty = sums == 0
        whole = ((sums - 1).abs() <= WHOLE) | empty
        if not bool(whole.all()) or bool((targets < 0).any()) or bool(empty.all()):
            return None
        # Integers and booleans of 0 and 1 have a largest one as well.
        return targets.to(sums.dtype).argmax(-1).masked_fill(empty, IGNORED)


def counted(labels: Torch, gradient: Torch) -> Torch | None:
    """The labels [..], ignored where no gradient came back for them; None where gradients say no such thing.

    `gradient` [.., 1], [..] or [.., V] came to what was picked or weighed. Labels that count do so alike in
    every row, or all of them do: rewards and clipped ratios are 0 where they like.
    """
    with quietly():
        rows = labels if labels.ndim > 1 else labels[None]
        sizes = gradient.reshape(*rows.shape, -1)[..., 0]
        asked = rows != IGNORED
        sizes = sizes.masked_fill(~asked, 0)
        counts = sizes != 0
        alike = sizes.abs() >= (1 - ALIKE) * sizes.abs().amax(-1, keepdim=True)
        even = (alike | ~counts).all() & ((sizes >= 0).all() | (sizes <= 0).all())
        if not bool(counts.any(-1).all()) or not bool(even | (counts == asked).all()):
            return None
        return rows.masked_fill(~counts, IGNORED).reshape(labels.shape)


def _whole_numbers() -> tuple[Any, ...]:
    import torch

    return torch.int64, torch.int32
