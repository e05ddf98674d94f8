"""`convert`: a mask or a spec as another library wants it."""

from __future__ import annotations

import re
from typing import Any, Literal, overload

import numpy as np

from maskcli.api.masks import layout_for, written_spec
from maskcli.api.written import Written
from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.inputs.certain import is_bias, read_certain
from maskcli.inputs.operands import Operand, mask_of, operand, resolver
from maskcli.masks import conventions
from maskcli.masks.arguments import TARGETS, Arguments, arguments, causal_flag
from maskcli.masks.layout import Layout
from maskcli.masks.name import Name
from maskcli.masks.naming import name_of
from maskcli.masks.spec import build, kinds_in, names_files, needs, parse, write
from maskcli.meant.settling import convention as known
from maskcli.measure.survey import survey
from maskcli.scene.saved_mask import MANY_VALUES, Given

ToTensor = Literal["sdpa", "mha", "megatron", "hf", "additive", "binary"]
ToArguments = Literal["flash-attn", "flex", "xformers", "jax"]
# Kinds whose arguments count tokens: they have no meaning without lengths.
COUNTED = {"padding", "combined", "documents", "blocks", "chunked", "same", "spans", "tree"}
# flex says these by arithmetic.
UNCOUNTED_BY_FLEX = {"blocks", "chunked"}
# Bits of precision of each type of floats.
PRECISION = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
# Tokens that stand for any number of them where a spec says nothing of lengths.
ANY_LENGTH = 16
# And how many of them are tried: numbers of a spec may be of any size.
MOST_TRIED = 2**20


@overload
def convert(
    mask: Any,
    to: ToTensor,
    *,
    convention: str | None = None,
    dtype: str | None = None,
    fill: str = "-inf",
    heads: int | None = None,
    past: int | None = None,
    padding: Any = None,
    keys: int | None = None,
) -> Array: ...


@overload
def convert(
    mask: Any,
    to: ToArguments,
    *,
    convention: str | None = None,
    past: int | None = None,
    padding: Any = None,
    keys: int | None = None,
) -> Arguments: ...


def convert(
    mask: Any,
    to: str,
    *,
    convention: str | None = None,
    dtype: str | None = None,
    fill: str = "-inf",
    heads: int | None = None,
    past: int | None = None,
    padding: Any = None,
    keys: int | None = None,
) -> Array | Arguments:
    """A mask as another library wants it: an array for a convention, or the arguments that need no array.

    `mask` is a saved mask (an array, or FILE[:TENSOR], written in `convention`) or a spec, whose size
    `padding` [B, K] or `keys` tell where the result depends on it. `to` is sdpa, mha, megatron, hf, additive
    or binary for an array of `dtype` with `fill` on ignored cells, and flash-attn, flex, xformers or jax for
    `Arguments`: `arguments` by name and a line of `code`, or `why` there are none. `heads` tells those of
    [B*H, Q, K], `past` the keys before the first query. Raises MaskcliError for a mask that the target cannot
    hold, or that can be read in two ways.

    >>> convert("causal & sliding:4", "flash-attn").arguments
    {'causal': True, 'window_size': [3, 0]}
    >>> convert("causal", "additive", keys=2).tolist()
    [[0.0, -inf], [0.0, 0.0]]
    """
    converted = conversion(
        mask,
        to,
        convention=convention,
        dtype=dtype,
        fill=fill,
        heads=heads,
        past=past,
        padding=padding,
        keys=keys,
    )
    return converted if isinstance(converted, Arguments) else converted.array()


def conversion(
    mask: Any,
    to: str,
    *,
    convention: str | None = None,
    dtype: str | None = None,
    fill: str = "-inf",
    heads: int | None = None,
    past: int | None = None,
    padding: Any = None,
    keys: int | None = None,
) -> Written | Arguments:
    """As `convert`, with an array still to be written."""
    check_target(to)
    if to in TARGETS and (dtype is not None or fill != "-inf" or heads is not None):
        raise MaskcliError(f"--to {to} gives arguments and no tensor; leave --dtype, --fill and --heads out")

    given = operand(mask)
    _check_idle(given, to, convention or given.told.convention, fill, heads)
    declared = known(convention) if convention else None
    if given.path is None:
        if to in TARGETS:
            return _arguments_of_spec(given.text, to, past, padding, keys, declared)
        layout = _layout(given.text, past, padding, keys, heads or 1)
        return written_spec(given.text, layout, to, dtype, fill, declared)

    if padding is not None or keys is not None:
        raise MaskcliError(f"{given.text!r} has a size of its own; leave --lengths (padding, keys) out")
    added = to not in TARGETS and conventions.CONVENTIONS[to].added
    past = given.told.past if past is None else past
    saved = _saved(given, declared or given.told.convention, heads, past, added)
    if to in TARGETS:
        return arguments(name_of(saved.keep, past), to)
    return _written(given.text, saved, to, dtype, fill, heads)


def _check_idle(given: Operand, to: str, convention: str | None, fill: str, heads: int | None) -> None:
    """Refuse what would change nothing: a fill that is not written, heads that are not folded, ..."""
    names = (name for name in (to, convention) if name is not None)
    rows = [conventions.CONVENTIONS[name] for name in names if name in conventions.CONVENTIONS]
    if fill != "-inf" and not rows[0].added:
        raise MaskcliError(f"--fill {fill} is for additive masks, and --to {to} writes none; leave it out")
    if heads is not None and not any(row.folds_heads for row in rows):
        raise MaskcliError(
            f"--heads {heads} tells the heads of an mha mask, and none is read or written; leave it out"
        )
    if convention is not None and given.path is None and not names_files(parse(given.text)):
        raise MaskcliError(
            f"--from tells how a saved mask is written, and {given.text!r} is none; leave it out"
        )


def check_target(to: str) -> None:
    """Refuse what no mask can be converted to."""
    conventions.check_known(to, "--to ", (*conventions.CONVENTIONS, *TARGETS))


def without_tensor(converted: Written, past: int | None) -> str | None:
    """The argument that says the same as a converted mask and needs no tensor."""
    if converted.bias is not None:
        return None
    flag = conventions.CONVENTIONS[converted.convention].causal_flag
    return flag if flag is not None and causal_flag(name_of(converted.mask, past)) else None


def _saved(given: Operand, convention: str | None, heads: int | None, past: int | None, added: bool) -> Given:
    saved = mask_of(given)
    assert saved is not None
    return read_certain(given.text, saved, convention, heads, past, added)


def _written(source: str, saved: Given, to: str, dtype: str | None, fill: str, heads: int | None) -> Written:
    """A saved mask in another convention."""
    row, sizes = conventions.CONVENTIONS[to], saved.tensor.shape
    kind = conventions.dtype_of(to, dtype)
    filled = conventions.fill_of(to, fill, kind)
    if 0 in saved.shape:
        raise MaskcliError(
            f"{source!r} has the shape {list(sizes)}, without any element; there is nothing to convert"
        )
    if row.added and is_bias(saved):
        return _written_bias(source, saved, to, kind, filled)
    stored = row.stored(saved.keep)
    conventions.fitting(stored, to, source)
    differs = stored[0] > 1 and stored[1] == 1 and stored[2] > 1
    if row.folds_heads and heads is None and differs:
        raise MaskcliError(
            "nn.MultiheadAttention takes [B*H, Q, K] for a mask that differs between items; "
            "say how many with --heads"
        )
    batch, own_heads, queries, keys = saved.shape
    wide = heads or own_heads
    if own_heads not in (1, wide):
        raise MaskcliError(f"{source!r} has {own_heads} heads, not --heads {wide}")
    return Written(
        name=saved.tensor.name or "mask",
        mask=saved.keep,
        target=row.target(stored, (batch, wide, queries, keys), len(sizes) == 2),
        convention=to,
        dtype=kind,
        fill=filled,
    )


def _written_bias(source: str, saved: Given, to: str, kind: str, fill: float) -> Written:
    """A bias in another type, in its own shape."""
    tensor = saved.tensor
    high = survey(tensor, MANY_VALUES).high
    if high > -conventions.LOWEST[kind]:
        raise MaskcliError(
            f"{source!r} adds up to {high:.5g}, more than {kind} holds ({-conventions.LOWEST[kind]:.5g}); "
            "pass --dtype bfloat16 or float32"
        )
    target = conventions.Target(tensor.shape, [], 0)
    return Written(tensor.name or "mask", saved.keep, target, to, kind, fill, tensor)


def lost(converted: Written) -> str | None:
    """What a bias loses in the type and with the fill that it is written in; None when nothing."""
    bias = converted.bias
    if bias is None:
        return None
    seen, parts = survey(bias, MANY_VALUES), []
    low = -np.inf if seen.minus_inf else seen.low
    if low <= conventions.SILENT and low != converted.fill:
        parts.append(f"ignored cells, {low:.6g}, are written as {converted.fill:.6g}")
        if converted.fill == -np.inf and converted.mask.empty_rows:
            parts.append("rows that ignore every key will be NaN, which --fill min avoids")
    if PRECISION[converted.dtype] < PRECISION.get(bias.dtype, 0):
        parts.append(f"values are rounded to the {PRECISION[converted.dtype]} bits of {converted.dtype}")
    return "; ".join(parts) or None


def _layout(text: str, past: int | None, padding: Any, keys: int | None, heads: int) -> Layout:
    """The sizes of a spec: real tokens, and the keys that come before them."""
    ask = f"{text!r} has no size of its own: pass --lengths 5,3 (in Python padding [B, K], or keys)"
    return layout_for(parse(text), past=past, padding=padding, keys=keys, heads=heads, ask=ask)


def _arguments_of_spec(
    text: str, to: str, past: int | None, padding: Any, keys: int | None, convention: str | None
) -> Arguments:
    """The arguments of a spec as it is written, else of the shortest spec that means the same."""
    spec = parse(text)
    counted = kinds_in(spec) & (COUNTED - UNCOUNTED_BY_FLEX if to == "flex" else COUNTED)
    sized = padding is not None or keys is not None
    if not sized and (counted or names_files(spec) or "source" in needs(spec)):
        what = ", ".join(sorted(counted)) or "this mask"
        raise MaskcliError(
            f"the arguments of {text!r} count tokens ({what}); "
            "pass --lengths 5,3 (in Python padding [B, K], or keys)"
        )
    if not sized:
        keys = (past or 0) + 2 * _largest_number(text) + ANY_LENGTH
    layout = _layout(text, past, padding, keys, 1)
    if not names_files(spec):
        literal = arguments(Name(write(spec), True, layout, ()), to)
        if literal.why is None or layout.keys > MOST_TRIED:
            return literal
    return arguments(name_of(build(spec, layout, resolver(convention)), past), to)


def _largest_number(text: str) -> int:
    """The largest number of a spec: over many more tokens, no two of its kinds are the same by chance."""
    return max(map(int, re.findall(r"\d+", text)), default=0)
