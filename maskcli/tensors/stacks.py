"""Tensors of many layers or steps, as one tensor for each: torch.stack(outputs.attentions), generate's.

What a name cannot tell alone, the other tensors of the file do: how large the batch is, which sizes grow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from maskcli.tensors.part import Held, first_columns, part
from maskcli.tensors.roles import Roled, Step
from maskcli.tensors.tensor import Tensor, TensorFile, find_tensor
from maskcli.tensors.written import role_in

# Roles of tensors that have a map's or a state's four axes in every layer.
LAYERED = ("weights", "scores", "mask", "query", "key", "value", "output")
# Roles whose first axis is the batch, in a tensor of two axes; a row for all is one of a batch of any size.
OF_TOKENS = ("padding_mask", "input_ids", "labels", "token_type_ids")
# Layers times steps that a stack may hold: more is no model.
MAX_PARTS = 65_536
# Rows of the first head that are looked at for keys without weight, and how much more of these must differ
# along one axis than along the other: a few underflow anywhere.
TOLD_BY_ROWS, PLAINLY = 8, 4


class _Axes(NamedTuple):
    """Which axes of a stack count steps and layers; None where there is no such axis."""

    step: int | None
    layer: int | None


def roles_of(file: TensorFile) -> tuple[Roled, ...]:
    """Every tensor of a file with its role, in its order; a stack is as many tensors as it has layers."""
    return arranged(tuple(role_in(file, tensor) for tensor in file.tensors))


def arranged(roled: tuple[Roled, ...]) -> tuple[Roled, ...]:
    """Tensors with their roles, as what they say of each other: stacks in parts, integer keys as layers."""
    keyed = _integers_as_layers(roled)
    names = {each.tensor.name for each in roled}
    parts = [part for each in keyed for part in _unstacked(each, keyed, names)]
    return _in_steps(tuple(parts))


def named_tensor(file: TensorFile, name: str) -> Tensor:
    """The tensor of this name, a part of a stack included; else a MaskcliError that names the nearest."""
    for tensor in file.tensors:
        if tensor.name == name:
            return tensor
    stacks = [tensor for tensor in file.tensors if name.startswith(f"{tensor.name}.")]
    if stacks:
        for roled in roles_of(file):
            if roled.tensor.name == name:
                return roled.tensor
    return find_tensor(file, name)


# Stacks


def _unstacked(roled: Roled, others: tuple[Roled, ...], names: set[str]) -> Iterator[Roled]:
    """The layers of a stack, each under its name; any other tensor as it is."""
    shape = roled.tensor.shape
    many = roled.role in LAYERED and len(shape) > 4 and 0 not in shape
    if not many or _is_of_layers(roled, others):
        yield roled
        return

    axes = _axes(roled, others)
    if isinstance(axes, str):
        yield replace(roled, unfit=axes)
    elif axes is None:
        yield roled
    else:
        parts = list(_parts(roled, axes))
        taken = any(each.tensor.name in names for each in parts)
        both = f"its parts would be called as other tensors of the file are ({roled.tensor.name}.0)"
        yield from [replace(roled, unfit=both)] if taken else parts


def _is_of_layers(roled: Roled, others: tuple[Roled, ...]) -> bool:
    """Whether a tensor is one layer among others, and the number in its name not a run's or a file's."""
    if roled.layer is None:
        return False
    words = roled.tensor.name.rstrip("0123456789")
    peers = (each for each in others if each.role == roled.role and each.layer not in (None, roled.layer))
    return "layer" in words or any(each.tensor.name.rstrip("0123456789") == words for each in peers)


def _parts(roled: Roled, axes: _Axes) -> Iterator[Roled]:
    """One tensor for each step and layer, steps first."""
    tensor = roled.tensor
    steps = range(1) if axes.step is None else range(tensor.shape[axes.step])
    layers = range(1) if axes.layer is None else range(tensor.shape[axes.layer])
    for step in steps:
        for layer in layers:
            index = {axes.step: step, axes.layer: layer}
            held: Held = tuple(index.get(axis) for axis in range(len(tensor.shape)))
            numbers = [layer] if axes.step is None else [step, layer]
            name = ".".join([tensor.name, *map(str, numbers)])
            group = roled.group if axes.step is None else ".".join(filter(None, [roled.group, str(step)]))
            yield replace(roled, tensor=part(tensor, name, held), layer=layer, group=group)


def _axes(roled: Roled, others: tuple[Roled, ...]) -> _Axes | str | None:
    """What the leading axes of a tensor count; None where it may be no stack, a sentence where none fits."""
    shape = roled.tensor.shape
    outer = shape[:-4] if len(shape) == 6 else shape[:1]
    if len(shape) > 6:
        return f"it has {len(shape)} axes; more than [steps, layers, B, H, Q, K] are not read"
    if math.prod(outer) > MAX_PARTS:
        return (
            f"its shape {list(shape)} has more than {MAX_PARTS:,} layers and steps; save fewer in one tensor"
        )

    batch = _batch(roled, others)
    if roled.role == "mask" and not _beside_a_stack(shape, others):
        return None
    if len(shape) == 5 and _in_groups(roled, batch, others):
        return None
    if len(shape) == 6:
        return _six_axes(shape, batch)
    if batch == shape[0] == shape[1] and roled.role == "weights" and _zeros_vary_first(roled.tensor):
        return _Axes(None, 1)
    return _five_axes(shape, batch)


def _zeros_vary_first(tensor: Tensor) -> bool:
    """Whether keys without weight differ along the first axis, not the second: samples, and then layers."""
    first, second = tensor.shape[:2]
    rows = slice(max(0, tensor.shape[3] - TOLD_BY_ROWS), None)
    planes = [[tensor.read((at, to, 0, rows)) == 0 for to in range(second)] for at in range(first)]
    along_first = along_second = 0
    for at, to in np.ndindex(first, second):
        along_first += int((planes[at][to] != planes[0][to]).sum())
        along_second += int((planes[at][to] != planes[at][0]).sum())
    return along_first > PLAINLY * along_second


def _five_axes(shape: tuple[int, ...], batch: int | None) -> _Axes | str:
    """[L, B, H, Q, K], or [B, L, H, Q, K] where only the first axis is as large as the batch."""
    if batch in (None, 1, shape[1]):
        return _Axes(None, 0)
    if batch == shape[0]:
        return _Axes(None, 1)
    return _unlike(shape, batch)


def _six_axes(shape: tuple[int, ...], batch: int | None) -> _Axes | str:
    """[S, L, B, H, Q, K], or layers of [B, G, H/G, Q, K] where the second axis alone is the batch."""
    if batch in (None, 1, shape[2]):
        return _Axes(0, 1)
    if batch == shape[1]:
        return _Axes(None, 0)
    return _unlike(shape, batch)


def _unlike(shape: tuple[int, ...], batch: int | None) -> str:
    return (
        f"which axis of {list(shape)} is the batch cannot be told: the tokens beside it are of {batch} "
        "samples; save [layers, B, H, Q, K], or each layer by itself"
    )


def _batch(roled: Roled, others: tuple[Roled, ...]) -> int | None:
    """How many samples the tensors of tokens have; None when none tells, or they do not agree."""
    near = [each for each in others if each.group in ("", roled.group)]
    told = {
        each.tensor.shape[0]
        for each in near
        if each.role in OF_TOKENS and len(each.tensor.shape) == 2 and _of_side(each, roled)
    }
    told = (told - {1}) or told
    return told.pop() if len(told) == 1 else None


def _of_side(tokens: Roled, roled: Roled) -> bool:
    return roled.kind == "cross" or tokens.kind in ("self", roled.kind)


def _in_groups(roled: Roled, batch: int | None, others: tuple[Roled, ...]) -> bool:
    """Whether five axes are [B, G, H/G, Q, K] of one layer: query and key say so, or a name for one map."""
    items, groups, heads = roled.tensor.shape[:3]
    states = [each.tensor.shape for each in others if each.role in ("query", "key")]
    if any(
        len(state) == 4 and items in state[:1] and {groups, groups * heads} & set(state[1:3])
        for state in states
    ):
        return True
    of_many = roled.tensor.name.lower().rstrip("0123456789_.").endswith("s")
    return batch == items != groups and not of_many


def _beside_a_stack(shape: tuple[int, ...], others: tuple[Roled, ...]) -> bool:
    """Whether a mask has the layers, queries and keys of a stack of weights; others of five axes are none."""
    maps = [each.tensor.shape for each in others if each.role == "weights" and each.layer is None]
    return any(len(peer) == len(shape) and peer[0] == shape[0] and peer[-2:] == shape[-2:] for peer in maps)


# Integer keys


def _integers_as_layers(roled: tuple[Roled, ...]) -> tuple[Roled, ...]:
    """Names that begin with a number, {0: {"attn_weights": …}}: its layer, unless it is a run with layers.

    A run has tokens of its own, or tensors that say their layer themselves.
    """
    numbered = [each for each in roled if each.group.isdigit() and each.tensor.name.startswith(each.group)]
    own_layers = any(each.layer is not None and each.layer != int(each.group) for each in numbered)
    if own_layers or any(each.role in (*OF_TOKENS, "position_ids") for each in numbered):
        return roled
    return tuple(
        replace(each, group="", layer=int(each.group)) if each in numbered else each for each in roled
    )


# Steps


def _in_steps(roled: tuple[Roled, ...]) -> tuple[Roled, ...]:
    """The tensors of generate's steps with how many tokens were added since the first, as sizes show."""
    maps: dict[int, Tensor] = {}
    for each in roled:
        if each.role == "weights" and each.group.isdigit() and each.kind != "cross" and not each.unfit:
            maps.setdefault(int(each.group), each.tensor)
    steps = _steps([maps[step].shape for step in sorted(maps)])
    if not steps:
        return roled

    of_group = {str(number): step for number, step in zip(sorted(maps), steps, strict=True)}
    stepped = (replace(each, step=of_group.get(each.group)) for each in roled)
    return tuple(_prompt_of(each, steps[0].prompt) for each in stepped)


def _steps(shapes: list[tuple[int, ...]]) -> list[Step]:
    """The prompt and the tokens added to it at each of several maps; none where they are no growing text.

    A cache grows by the queries of each step, in chunks at first, or keeps its size (a static or a sliding
    one); without a cache every step reads the whole text.
    """
    alike = len({shape[:2] for shape in shapes}) == 1 and all(len(shape) == 4 for shape in shapes)
    if len(shapes) < 2 or not alike:
        return []
    if all(_follows(before, after) for before, after in pairwise(shapes)):
        return _growing(shapes)
    return _decoding(shapes) if all(shape[2] == 1 for shape in shapes[1:]) else []


def _growing(shapes: list[tuple[int, ...]]) -> list[Step]:
    """Steps that see the whole text: the prompt is what the first one read, or all that came in chunks."""
    chunks = [keys for *_, queries, keys in shapes if 1 < queries < keys]
    prompt = chunks[-1] if chunks else shapes[0][3]
    return [Step(prompt, max(keys - prompt, 0), keys) for *_, keys in shapes]


def _decoding(shapes: list[tuple[int, ...]]) -> list[Step]:
    """Steps of one token over a cache that does not grow with each."""
    *_, queries, keys = shapes[0]
    prompt = keys if shapes[1][3] > keys else queries
    return [Step(prompt, added, prompt + added) for added in range(len(shapes))]


def _follows(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether a map has the keys of the one before and its own queries, or both read all of a longer text."""
    grown = after[3] - before[3]
    whole = before[2] == before[3] and after[2] == after[3]
    return grown == after[2] or (whole and grown > 0)


def _prompt_of(roled: Roled, width: int) -> Roled:
    """generate's `sequences`, of which the prompt alone stands beside the prompt's mask."""
    tensor = roled.tensor
    longer = len(tensor.shape) == 2 and tensor.shape[1] > width
    if roled.role != "input_ids" or not tensor.name.endswith("sequences") or not longer:
        return roled
    return replace(roled, tensor=first_columns(tensor, width))
