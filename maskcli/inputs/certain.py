"""A saved mask that is to be written anew: read for certain, or refused with the reason."""

from __future__ import annotations

from maskcli.arrays import Shape
from maskcli.errors import MaskcliError
from maskcli.masks.conventions import CONVENTIONS, Convention
from maskcli.scene.saved_mask import Given, read_named, shape_of
from maskcli.tensors import TOLD, Roled
from maskcli.tensors.axes import mask_shape

# Values that an error lists.
LISTED_VALUES = 6


def read_certain(
    source: str, saved: Roled, convention: str | None, heads: int | None, past: int | None, to_added: bool
) -> Given:
    """What a saved mask, `source` in errors, lets attend; an error where it reads in two ways.

    A bias can go nowhere but into a mask that is added as well (`to_added`).
    """
    shape = _shape(source, saved, convention, heads)
    given = read_named(saved, shape, convention, past=past)
    if not (to_added and is_bias(given)):
        _check(source, given)
    return given


def is_bias(given: Given) -> bool:
    """Whether a mask adds other values than 0 and one fill, all of them finite or -inf."""
    sound = given.nan is None and not given.plus_inf
    others = given.values is None or bool(set(given.values) - {0.0, given.fill})
    return given.added and sound and others


def _shape(source: str, saved: Roled, convention: str | None, heads: int | None) -> Shape:
    """[b, h, q, K] of one to four axes, [B, K] and [B*H, Q, K] by the convention and the name."""
    sizes = saved.tensor.shape
    told = shape_of(saved) if saved.why == TOLD and heads in (None, saved.heads) else None
    if told is not None:
        return told
    row = CONVENTIONS[convention] if convention else None
    over_keys = len(sizes) == 2 and _is_over_keys(source, saved, row)
    if len(sizes) == 3 and sizes[1] > 1 and row is None:
        raise MaskcliError(
            f"{source!r} has three axes {list(sizes)}, [B, Q, K] or [B*H, Q, K]; "
            "say which with --from (and --heads for mha)"
        )
    folded = len(sizes) == 3 and row is not None and row.folds_heads
    shape = mask_shape(sizes, over_keys=over_keys, heads=_heads(source, sizes, heads) if folded else 1)
    if shape is None:
        raise MaskcliError(f"{source!r} has the shape {list(sizes)}, expected one to four axes")
    return shape


def _is_over_keys(source: str, saved: Roled, row: Convention | None) -> bool:
    """Whether two axes are [B, K] and not [Q, K]: by the convention, or by what the tensor is called."""
    if row is not None and not row.folds_heads:
        return row.over_keys
    role = saved.role if saved.why != "shape" else None
    guessed = role is None or "shape" in saved.why
    if row is not None and guessed:
        raise MaskcliError(
            f"{source!r} has two axes {list(saved.tensor.shape)}, [B, K] (a key_padding_mask) or [Q, K] "
            "(an attn_mask); call the tensor by one of these names, or give it four axes"
        )
    return role == "padding_mask"


def _heads(source: str, sizes: tuple[int, ...], heads: int | None) -> int:
    """How many heads are folded into the first axis of [B*H, Q, K]."""
    if heads is None:
        raise MaskcliError(
            f"{source!r} has the shape {list(sizes)}, [B*H, Q, K] for mha; say how many heads with --heads"
        )
    if sizes[0] % heads:
        raise MaskcliError(
            f"{source!r} has the shape {list(sizes)}, whose first axis is no multiple of --heads {heads}; "
            "pass one that is"
        )
    return heads


def _check(source: str, given: Given) -> None:
    """Refuse what cannot be read for certain, or would lose something."""
    if given.nan is not None:
        raise MaskcliError(
            f"{source!r} holds NaN, first at index {list(given.nan)}; "
            "mend it first (maskcli diagnose says how)"
        )
    if given.reason == "assumed":
        raise MaskcliError(
            f"{source!r} is bool, and True can mean attend or ignore; "
            "say which with --from sdpa or --from mha"
        )
    if given.added:
        _check_added(source, given)
    elif given.values is None:
        raise MaskcliError(f"{source!r} holds many values, expected 0 and 1; nothing is written")
    elif not set(given.values) <= {0, 1}:
        values = ", ".join(map(str, given.values[:LISTED_VALUES]))
        raise MaskcliError(f"{source!r} holds the values {values}, expected 0 and 1; nothing is written")


def _check_added(source: str, given: Given) -> None:
    """Refuse a bias, and zeros that say nothing."""
    others = None if given.values is None else set(given.values) - {0.0, given.fill}
    if others is None or others or given.plus_inf:
        raise MaskcliError(
            f"{source!r} holds other values than 0 and one fill: a bias, which only additive can hold; "
            "nothing is written"
        )
    all_zero = given.values == (0.0,) and not given.minus_inf
    if all_zero and given.reason != "declared":
        raise MaskcliError(
            f"{source!r} is all zeros: everything attends if it is added, nothing if it is binary; "
            "say which with --from"
        )
