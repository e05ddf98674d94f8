"""Masks as arguments that need no tensor: of flash-attn, FlexAttention, xFormers and JAX, and SDPA's flag."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from maskcli.errors import MaskcliError
from maskcli.masks.conditions import document_condition
from maskcli.masks.kinds import KINDS, Numbers, document_ids
from maskcli.masks.layout import Layout
from maskcli.masks.leaves import arguments_of
from maskcli.masks.name import Name
from maskcli.masks.packed import positions_in
from maskcli.masks.runs import runs_of
from maskcli.masks.spec import Joined, Named, Not, PerDocument, Spec, conjuncts, kinds_in, parse


@dataclass(frozen=True)
class Arguments:
    """Arguments for a library: as values, and as a line of code; `why` says why there are none."""

    to: str
    spec: str
    arguments: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    why: str | None = None


class Call(NamedTuple):
    """Arguments as values, and the code that passes them."""

    arguments: dict[str, Any]
    code: str


class Parts(NamedTuple):
    """A conjunction taken apart: how far queries look, and the lengths of what is set apart in each item.

    `window` is how many keys are seen before and behind a query, for bands of a size; -1 is no limit.
    """

    layout: Layout
    band: str = "full"
    window: tuple[int, int] | None = None
    lengths: tuple[Numbers, ...] | None = None

    @property
    def open_sided(self) -> bool:
        """Whether a window has no limit on one side."""
        return self.window is not None and min(self.window) < 0

    @property
    def square(self) -> bool:
        """Whether there are as many keys as queries."""
        return self.layout.queries == self.layout.keys

    @property
    def flat(self) -> list[int]:
        """The lengths of all items in a row."""
        return [length for row in self.lengths or () for length in row]

    @property
    def note(self) -> str:
        """What to do to the tensors before such a call."""
        return "# q, k and v without their padding tokens\n" if self.layout.real is not None else ""


def arguments(name: Name, to: str) -> Arguments:
    """What `to` needs to make this mask, or why it cannot."""
    call = _call(name, to)
    if isinstance(call, str):
        return Arguments(to, name.spec, why=call)
    return Arguments(to, name.spec, call.arguments, call.code)


def causal_flag(name: Name) -> bool:
    """Whether SDPA's is_causal=True (k <= q, from the first key) is this mask, so that it needs no tensor."""
    from_first = name.spec == "causal-top-left" or (name.spec == "causal" and name.layout.past == 0)
    return name.exact and from_first


def _call(name: Name, to: str) -> Call | str:
    if not name.exact:
        nearest = f"the nearest, {name.spec}, is wrong in {name.wrong:,} cells"
        return f"no short name rebuilds this mask ({nearest})"
    spec, form = parse(name.spec), TARGETS[to]
    if form.of_spec is not None:
        return form.of_spec(spec, name.layout)

    terms = [term for term in conjuncts(spec) if isinstance(term, Named)]
    if len(terms) < len(conjuncts(spec)):
        return f"{to} has no arguments for a union or complement of masks; use flex, or a dense mask"
    parts = _taken_apart(terms, name.layout)
    if isinstance(parts, str):
        return f"{to} has no argument for {parts}; use flex, or a dense mask"
    assert form.of_parts is not None
    return form.of_parts(parts)


# Taking a conjunction apart


def _taken_apart(terms: Sequence[Named], layout: Layout) -> Parts | str:
    """The band and the sets of a conjunction; in words, what has no place in them."""
    parts = Parts(layout)
    for term in terms:
        more = _with(parts, term)
        if isinstance(more, str):
            return more
        parts = more
    if any(term.name == "padding" for term in terms):
        return _with_padding(parts)
    return parts


def _with(parts: Parts, term: Named) -> Parts | str:
    if term.name in ("full", "padding"):
        return parts
    if term.name in BANDS:
        if parts.band != "full":
            return f"{parts.band} together with {term.name}"
        return parts._replace(band=term.name, window=WINDOWS.get(term.name, _no_window)(*term.numbers))
    whole_chunks = term.name == "chunked" and len(term.numbers) > 1
    if term.name not in SETS or whole_chunks:
        return term.name

    if parts.lengths is not None:
        return f"{term.name} together with another set of blocks"
    if term.name == "chunked":
        # Blocks of its own and causal, unless padding shifts them or another band cuts them.
        if parts.layout.real is not None or parts.band not in ("full", "causal"):
            return term.name
        parts = parts._replace(band="causal")
    lengths = SETS[term.name](parts.layout.keys, term.numbers)
    return parts._replace(lengths=(tuple(length for length in lengths if length),))


def _with_padding(parts: Parts) -> Parts | str:
    """The real tokens of each item as its only set."""
    assert parts.layout.real is not None
    runs = [runs_of(row) for row in parts.layout.real]
    if any(len(row) != 1 for row in runs):
        return "padding with holes"
    if parts.lengths is not None:
        return "documents together with padding"
    return parts._replace(lengths=tuple((stop - start,) for ((start, stop),) in runs))


def _blocks(keys: int, numbers: Numbers) -> Numbers:
    whole, rest = divmod(keys, numbers[0])
    return (numbers[0],) * whole + (rest,)


def _documents(keys: int, numbers: Numbers) -> Numbers:
    return (*numbers, keys - sum(numbers))


def _no_window() -> None:
    return None


BANDS = ("causal", "causal-top-left", "sliding", "window")
# How many keys are seen before and behind a query, from a band's numbers.
WINDOWS: dict[str, Callable[..., tuple[int, int] | None]] = {
    "sliding": lambda size: (size - 1, 0),
    "window": lambda left, right=None: (left, left if right is None else right),
}
# The lengths of what a kind sets apart, from how many keys there are and its numbers.
SETS: dict[str, Callable[[int, Numbers], Numbers]] = {
    "documents": _documents,
    "blocks": _blocks,
    "chunked": _blocks,
}


# The libraries


def _not_at_the_end(parts: Parts) -> str | None:
    """Why a band cannot be aligned to the last key: queries not at the end of the keys (a static cache)."""
    layout = parts.layout
    if parts.band in ("full", "causal-top-left") or layout.past == layout.keys - layout.queries:
        return None
    last = layout.past + layout.queries - 1
    return f"it aligns the last query to the last key, and here it stands at key {last} of {layout.keys}"


def _flash(parts: Parts) -> Call | str:
    """flash-attn >= 2.1: causal is aligned to the last key, windows are inclusive on both sides."""
    why = _not_at_the_end(parts)
    if why is not None:
        return why
    if parts.band == "causal-top-left":
        return "flash-attn aligns causal to the last key since 2.1, and this mask to the first"

    given: dict[str, Any] = {"causal": True} if parts.band in ("causal", "sliding") else {}
    if parts.window is not None:
        given["window_size"] = list(parts.window)
    if parts.lengths is None:
        return Call(given, parts.note + _code("flash_attn_func", given))
    if not parts.square:
        return (
            "packed or padded keys of another length than the queries need cu_seqlens of both sides; "
            "pass those of your batch"
        )
    cumulative, longest = [0, *np.cumsum(parts.flat).tolist()], max(parts.flat)
    given |= {"cu_seqlens_q": cumulative, "cu_seqlens_k": cumulative}
    given |= {"max_seqlen_q": longest, "max_seqlen_k": longest}
    return Call(given, parts.note + _code("flash_attn_varlen_func", given))


def _xformers(parts: Parts) -> Call | str:
    """xFormers: a bias class for each band; sequences of their own are a block diagonal."""
    why = _not_at_the_end(parts)
    if why is not None:
        return why
    if parts.lengths is not None:
        return _block_diagonal(parts)
    if parts.open_sided:
        return OPEN_SIDED.format("xformers")
    if parts.window is not None:
        left, right = parts.window
        bias = f"LocalAttentionFromBottomRightMask(window_left={left}, window_right={right})"
        return Call({"window_left": left, "window_right": right}, BIAS + bias)
    if parts.band == "full":
        return Call({"attn_bias": None}, "None")

    from_first = parts.band == "causal-top-left" or parts.layout.past == 0
    bias = "LowerTriangularMask" if from_first else "LowerTriangularFromBottomRightMask"
    return Call({"attn_bias": bias}, f"{BIAS}{bias}()")


def _block_diagonal(parts: Parts) -> Call | str:
    if not parts.square:
        return (
            "packed or padded keys of another length than the queries need both seqlens; "
            "pass those of your batch"
        )
    size = parts.window[0] + 1 if parts.window else 0
    made = {
        "full": "",
        "causal": ".make_causal()",
        "causal-top-left": ".make_causal()",
        "sliding": f".make_local_attention({size})",
    }
    if parts.band not in made:
        return f"xformers has no block-diagonal bias with {parts.band}; use flex, or a dense mask"
    given = {"seqlens": parts.flat, "band": parts.band, "size": size or None}
    code = f"{BIAS}BlockDiagonalMask.from_seqlens({parts.flat}){made[parts.band]}"
    return Call(given, parts.note + code)


def _jax(parts: Parts) -> Call | str:
    """jax.nn.dot_product_attention: causal is aligned to the first key, lengths count from the first."""
    past, real = parts.layout.past, parts.layout.real
    given: dict[str, Any] = {}
    if parts.band == "causal" and past:
        return "JAX aligns is_causal to the first key, and this mask to the last; pass a dense mask"
    if parts.band in ("causal", "causal-top-left"):
        given["is_causal"] = True
    if parts.window is not None:
        if past:
            return "JAX counts windows from the first key, and this mask from the last; pass a dense mask"
        if parts.open_sided:
            return OPEN_SIDED.format("JAX")
        given["local_window_size"] = list(parts.window)
    if parts.lengths is not None:
        if real is None:
            return "JAX has no argument for packed documents; pass a dense mask"
        if not real[:, 0].all():
            return (
                "JAX's sequence lengths count from the first token, and this padding is on the left; "
                "pass a dense mask"
            )
        given["key_value_seq_lengths"] = parts.flat
    return Call(given, _code("jax.nn.dot_product_attention", given))


OPEN_SIDED = "{}'s windows have a limit on both sides; write the number of keys in place of -1"
# Stands for the query's key position while a condition is made.
POSITION = "<p>"
BIAS = "xformers.ops.fmha.attn_bias."
# How lists are written in code, by the argument that takes them.
WRITTEN = {
    "cu_seqlens_q": 'torch.tensor({}, dtype=torch.int32, device="cuda")',
    "cu_seqlens_k": 'torch.tensor({}, dtype=torch.int32, device="cuda")',
    "key_value_seq_lengths": "jnp.array({})",
    "window_size": "({0[0]}, {0[1]})",
    "local_window_size": "({0[0]}, {0[1]})",
}


def _code(function: str, given: dict[str, Any]) -> str:
    shown = [f"{key}={WRITTEN.get(key, '{}').format(value)}" for key, value in given.items()]
    return f"{function}({', '.join(['q, k, v', *shown])})"


def _flex(spec: Spec, layout: Layout) -> Call:
    """FlexAttention: the spec as the expression of a mask_mod, and the tensors that it reads."""
    tensors: dict[str, Any] = {}
    absolute = f"(q_idx + {layout.past})" if layout.past else "q_idx"
    condition = _condition(spec, layout, tensors).replace(POSITION, absolute)
    lines = ["import torch"]
    lines += [f"{key} = torch.tensor({value})" for key, value in tensors.items()]
    lines += ["def mask_mod(b, h, q_idx, kv_idx):", f"    return {condition}"]
    return Call({"tensors": tensors, "mask_mod": condition}, "\n".join(lines))


def _condition(spec: Spec, layout: Layout, tensors: dict[str, Any]) -> str:
    """The condition of a spec over q_idx and kv_idx; the tensors that it reads are added to `tensors`."""
    if isinstance(spec, Not):
        return f"~({_condition(spec.operand, layout, tensors)})"
    if isinstance(spec, PerDocument):
        return _condition_per_document(spec, layout, tensors)
    if isinstance(spec, Joined):
        operands = [_condition(operand, layout, tensors) for operand in spec.operands]
        return f" {spec.sign} ".join(f"({operand})" for operand in operands)

    assert isinstance(spec, Named)
    kind = KINDS[spec.name]
    condition = kind.flex
    if isinstance(condition, str):
        numbers = dict(zip(kind.numbers, spec.numbers, strict=False))
        return condition.format(p=POSITION, **numbers)

    condition, read = condition(layout, *arguments_of(spec, layout))
    for name, values in read.items():
        # Two operands can read tensors of one name: the second is numbered.
        own = _unused(name, values, tensors)
        condition = re.sub(rf"\b{name}\[", f"{own}[", condition)
        tensors[own] = values
    return condition.format(p=POSITION)


def _unused(name: str, values: Any, tensors: dict[str, Any]) -> str:
    """The name for a tensor: its own, or with a number where another holds it already."""
    own, number = name, 2
    while own in tensors and tensors[own] != values:
        own, number = f"{name}_{number}", number + 1
    return own


def _condition_per_document(spec: PerDocument, layout: Layout, tensors: dict[str, Any]) -> str:
    """The operand over positions that count anew in each document, and nothing across documents."""
    ids = document_ids(layout, *spec.lengths)
    same, read = document_condition(ids)
    tensors |= read
    tensors["position"] = positions_in(ids).tolist() if len(ids) > 1 else positions_in(ids)[0].tolist()
    padded_left = layout.real is not None and not layout.real[:, 0].all()
    if padded_left and "chunked" in kinds_in(spec.operand):
        raise MaskcliError("flex has no condition for chunks inside documents behind left padding")
    whole = dataclasses.replace(layout, documents=None)
    inner = _condition(spec.operand, whole, tensors)
    item = "b, " if len(ids) > 1 else ""
    # What indexes a tensor stays a key; everything else is a position.
    inner = re.sub(rf"(?:{re.escape(POSITION)})(?!\])", f"position[{item}{POSITION}]", inner)
    inner = re.sub(r"\bkv_idx\b(?!\])", f"position[{item}kv_idx]", inner)
    inner = re.sub(r"\bq_idx\b(?!\])", f"torch.minimum(position[{item}{POSITION}], q_idx)", inner)
    return f"({same.format(p=POSITION)}) & ({inner})"


class Form(NamedTuple):
    """How a library is given a mask: of the parts of a conjunction, or of any spec."""

    of_parts: Callable[[Parts], Call | str] | None = None
    of_spec: Callable[[Spec, Layout], Call | str] | None = None


TARGETS = {
    "flash-attn": Form(_flash),
    "flex": Form(of_spec=_flex),
    "xformers": Form(_xformers),
    "jax": Form(_jax),
}
