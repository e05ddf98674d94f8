"""Two masks that are compared: the shape they share, and the padding and documents behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from maskcli.arrays import Array, Real, Shape
from maskcli.errors import MaskcliError
from maskcli.inputs.operands import SHAPES, Operand, mask_of, resolver
from maskcli.masks.conventions import SILENT, is_float
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import build, needs, parse
from maskcli.meant.facts import Declared
from maskcli.meant.places import Places, whole
from maskcli.measure.survey import survey
from maskcli.scene.assemble import layout_of
from maskcli.scene.named import named_rows
from maskcli.scene.saved_mask import MANY_VALUES, read_named, shape_of
from maskcli.tensors import Roled, Tensor


def masks_of(
    pair: Sequence[Operand], declared: Declared, real: Real | None, side: str | None = None
) -> tuple[Mask, Mask, Layout]:
    """Two operands as masks of one shape, and its layout; `real` bool [B, K] outdoes what files tell.

    Where it has fewer keys than the masks, the rest is padding, on the `side` that is said. Padding and
    documents come from tensors beside the masks, never from a mask that is compared.
    """
    said = declared.convention
    for given in pair:
        declared = declared.over(given.told)
    shape = _common_shape(pair, declared, real)
    layout = _layout(pair, shape, declared, None if real is None else _filled(real, shape[3], side))
    a, b = (_mask(given, layout, said or given.told.convention) for given in pair)
    return a, b, layout


def biases_of(pair: Sequence[Operand]) -> tuple[Tensor, Tensor] | None:
    """Two saved masks of one shape that are added to the scores, when one adds more than 0 and a fill."""
    first, second = map(mask_of, pair)
    if first is None or second is None or not (_is_float(first) and _is_float(second)):
        return None
    if not (_is_bias(first) or _is_bias(second)):
        return None
    shapes = (_full_shape(first.tensor.shape), _full_shape(second.tensor.shape))
    if shapes[0] != shapes[1]:
        raise MaskcliError(
            f"{pair[0].text!r} and {pair[1].text!r} add biases of the shapes {list(first.tensor.shape)} and "
            f"{list(second.tensor.shape)}; only biases of one shape can be compared"
        )
    return first.tensor, second.tensor


def adds_values(given: Operand) -> bool:
    """Whether an operand is a saved bias: it adds more than 0 and a fill to the scores."""
    saved = mask_of(given)
    return saved is not None and _is_float(saved) and _is_bias(saved)


def _is_float(roled: Roled) -> bool:
    return is_float(roled.tensor.dtype)


def _is_bias(roled: Roled) -> bool:
    """Whether keys that are attended to get other values than 0."""
    values = survey(roled.tensor, MANY_VALUES).distinct
    if values is None:
        return True
    return bool({value for value in values if value > SILENT} - {0.0, 1.0, *values[:1]})


def _full_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (4 - len(shape)) + shape


def _shape(given: Operand) -> Shape | None:
    """[b, h, q, K] of a saved mask; None for a spec."""
    saved = mask_of(given)
    if saved is None:
        return None
    shape = shape_of(saved)
    if shape is None:
        raise MaskcliError(f"{given.text!r} has the shape {list(saved.tensor.shape)}, expected {SHAPES}")
    return shape


def _common_shape(pair: Sequence[Operand], declared: Declared, real: Real | None) -> Shape:
    """[B, H, Q, K] that both masks broadcast to; padding masks and specs have as many queries as keys."""
    shapes = [shape for shape in map(_shape, pair) if shape is not None]
    if not shapes:
        if real is None:
            raise MaskcliError(
                "two specs have no shape of their own; pass --lengths or --ids, or compare with a file"
            )
        shapes = [(len(real), 1, real.shape[1], real.shape[1])]

    batch, heads, queries, keys = (max(sizes) for sizes in zip(*shapes, strict=True))
    if batch == 1:
        batch = len(real) if real is not None else _samples(pair, keys)
    saved = [mask for mask in map(mask_of, pair) if mask is not None]
    over_keys = all(mask.role == "padding_mask" for mask in saved)
    if queries == 1 and over_keys and declared.past is None:
        queries = keys
    return batch, heads, queries, keys


def _samples(pair: Sequence[Operand], keys: int) -> int:
    """How many samples the padding masks [B, K] beside a mask have, which says the same for all."""
    shapes = [roled.tensor.shape for roled in _witnesses(pair) if roled.role == "padding_mask"]
    return max((shape[0] for shape in shapes if len(shape) == 2 and shape[1] == keys), default=1)


def _witnesses(pair: Sequence[Operand]) -> list[Roled]:
    """The tensors beside the masks in their files."""
    under_test = [mask.tensor for mask in map(mask_of, pair) if mask is not None]
    beside = (roled for given in pair for roled in given.tensors)
    return [roled for roled in beside if all(roled.tensor is not mask for mask in under_test)]


def _layout(pair: Sequence[Operand], shape: Shape, declared: Declared, real: Real | None) -> Layout:
    """The padding and documents that are declared, else told by the files, the first of them that tells."""
    declared = _with_positions(pair, declared)
    cross = any(mask.kind == "cross" for mask in map(mask_of, pair) if mask is not None)
    kind = "cross" if cross else "self"
    layout = layout_of((), declared, shape, kind)
    beside = _witnesses(pair)
    for given in pair:
        if given.path is not None:
            witnesses = tuple(roled for roled in given.tensors if roled in beside)
            told = layout_of(witnesses, declared, shape, kind)
            layout = dataclasses.replace(
                told,
                real=_either(layout.real, told.real),
                documents=_either(layout.documents, told.documents),
                tensors=partial(named_rows, tensors=beside),
                queries_at=_either(layout.queries_at, told.queries_at),
                keys_at=_either(layout.keys_at, told.keys_at),
            )
    if real is None:
        return layout

    if real.shape[1] != shape[3] or len(real) not in (1, shape[0]):
        raise MaskcliError(
            f"--lengths or --ids tell of {list(real.shape)} tokens, but the mask is {list(shape)}; "
            "pass one for each of its items"
        )
    return dataclasses.replace(layout, real=np.broadcast_to(real, (shape[0], shape[3])))


def _filled(real: Real, keys: int, side: str | None) -> Real:
    """Real tokens as those of so many keys: what there is more is padding, on the side where padding is."""
    more = keys - real.shape[1]
    if more <= 0:
        return real
    stands_left = not real[:, 0].all() and bool(real[:, -1].all())
    left = side == "left" or (side is None and stands_left)
    return np.pad(real, [(0, 0), (more, 0) if left else (0, more)])


def _with_positions(pair: Sequence[Operand], declared: Declared) -> Declared:
    """Positions that are declared by the name of a tensor, read from the file that has it."""
    found: dict[str, Any] = {}
    for fact, places in (("positions", declared.positions), ("key_positions", declared.key_positions)):
        for roled in (roled for given in pair for roled in given.tensors):
            if places is not None and roled.tensor.name == places.name:
                rows = whole(np.atleast_2d(roled.tensor.read()), places.source)
                found[fact] = Places(places.source, rows)
    return dataclasses.replace(declared, **found)


def _either(first: Array | None, second: Array | None) -> Array | None:
    return second if first is None else first


def _mask(given: Operand, layout: Layout, convention: str | None) -> Mask:
    """An operand over the layout."""
    saved, shape = mask_of(given), _shape(given)
    if saved is None or shape is None:
        return _built(given.text, layout, convention)
    mask = read_named(saved, shape, convention, layout.real, layout.past).keep.broadcast_to(layout.shape)
    if mask is None:
        raise MaskcliError(
            f"{given.text!r} is a mask {list(shape)}, which does not fit the other's {list(layout.shape)}; "
            "compare masks of one shape"
        )
    return mask


def _built(text: str, layout: Layout, convention: str | None) -> Mask:
    """A spec over the layout."""
    spec = parse(text)
    if "padding" in needs(spec) and layout.real is None:
        raise MaskcliError(
            f"{text!r} needs to know which keys are padding, and no attention_mask or ids in the file tell; "
            "pass --lengths 5,3 with --padding-side, or --ids with --pad-id"
        )
    if "documents" in needs(spec) and layout.documents is None:
        raise MaskcliError(
            f"{text!r} needs to know where documents begin, and no position_ids, segment_ids or cu_seqlens "
            "in the file tell; write their lengths: documents:5,3,7"
        )
    return build(spec, layout, resolver(convention))
