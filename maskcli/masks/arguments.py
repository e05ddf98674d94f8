"""Masks as the arguments of libraries that need no dense tensor: flash-attn, FlexAttention, xFormers and JAX, and SDPA's flag."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskcli.masks.kinds import Layout
from maskcli.masks.naming import Name
from maskcli.masks.spec import Joined, Named, Not, Spec, parse

TARGETS = ("flash-attn", "flex", "xformers", "jax")


@dataclass(frozen=True)
class Arguments:
    """Arguments for a library: as values, and as a line of code; `why` says why there are none."""

    to: str
    spec: str
    arguments: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    why: str | None = None


@dataclass(frozen=True)
class _Parts:
    """A named mask taken apart: how far queries look, and what is set apart from what."""

    band: str
    size: int
    lengths: tuple[tuple[int, ...], ...] | None


def arguments(name: Name, to: str) -> Arguments:
    """What `to` needs to make this mask, or why it cannot."""
    if not name.exact:
        return Arguments(
            to,
            name.spec,
            why=f"no short name rebuilds this mask (the nearest, {name.spec}, is wrong in {name.wrong:,} cells)",
        )
    spec = parse(name.spec)
    if to == "flex":
        return _flex(name, spec)
    terms = spec.operands if isinstance(spec, Joined) and spec.sign == "&" else (spec,)
    if not all(isinstance(term, Named) for term in terms):
        return Arguments(
            to,
            name.spec,
            why=f"{to} has no arguments for a union or complement of masks; use flex, or a dense mask",
        )
    shape = _taken_apart([term for term in terms if isinstance(term, Named)], name.layout)
    if isinstance(shape, str):
        return Arguments(to, name.spec, why=f"{to} has no argument for {shape}; use flex, or a dense mask")
    return {"flash-attn": _flash, "xformers": _xformers, "jax": _jax}[to](name, shape)


def causal_flag(name: Name) -> bool:
    """Whether SDPA's is_causal=True (k <= q, from the first key) is this mask, so that it needs no tensor."""
    return name.exact and (
        name.spec == "causal-top-left" or (name.spec == "causal" and name.layout.past == 0)
    )


def _taken_apart(terms: list[Named], layout: Layout) -> _Parts | str:
    """The band and the sets of a conjunction; the kind that has no place in them otherwise."""
    band, size, lengths = "full", 0, None
    for term in terms:
        if term.name in ("causal", "sliding", "window", "causal-top-left"):
            if band != "full":
                return f"{band} together with {term.name}"
            band, size = term.name, term.numbers[0] if term.numbers else 0
        elif term.name in ("documents", "blocks", "chunked") and lengths is not None:
            return f"{term.name} together with another set of blocks"
        elif term.name == "documents":
            rest = layout.keys - sum(term.numbers)
            lengths = (tuple(n for n in (*term.numbers, rest) if n),)
        elif term.name == "blocks":
            whole, rest = divmod(layout.keys, term.numbers[0])
            lengths = ((term.numbers[0],) * whole + ((rest,) if rest else ()),)
        elif term.name == "chunked" and layout.real is None and band in ("full", "causal"):
            whole, rest = divmod(layout.keys, term.numbers[0])
            band, lengths = "causal", ((term.numbers[0],) * whole + ((rest,) if rest else ()),)
        elif term.name != "padding" and term.name != "full":
            return str(term.name)
    if any(term.name == "padding" for term in terms):
        assert layout.real is not None
        runs = [np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]]))) for row in layout.real]
        if any(len(row) != 2 for row in runs):
            return "padding with holes"
        if lengths is not None:
            return "documents together with padding"
        return _Parts(band, size, tuple((int(stop - start),) for start, stop in runs))
    return _Parts(band, size, lengths)


def _window(shape: _Parts) -> tuple[int, int] | None:
    return {"sliding": (shape.size - 1, 0), "window": (shape.size, shape.size)}.get(shape.band)


def _cumulative(lengths: tuple[tuple[int, ...], ...]) -> list[int]:
    return [0, *np.cumsum([n for row in lengths for n in row]).tolist()]


def _not_at_the_end(name: Name, shape: _Parts) -> str | None:
    """Why a band cannot be aligned to the last key: queries that do not stand at the end of the keys (a static cache)."""
    layout = name.layout
    if shape.band in ("full", "causal-top-left") or layout.past == layout.keys - layout.queries:
        return None
    return f"it aligns the last query to the last key, and here it stands at key {layout.past + layout.queries - 1} of {layout.keys}"


def _flash(name: Name, shape: _Parts) -> Arguments:
    """flash-attn >= 2.1: causal is aligned to the last key, windows are inclusive on both sides."""
    if (why := _not_at_the_end(name, shape)) is not None:
        return Arguments("flash-attn", name.spec, why=why)
    if shape.band == "causal-top-left":
        return Arguments(
            "flash-attn",
            name.spec,
            why="flash-attn aligns causal to the last key since 2.1, and this mask to the first",
        )
    found: dict[str, Any] = {}
    if shape.band in ("causal", "sliding"):
        found["causal"] = True
    if (window := _window(shape)) is not None:
        found["window_size"] = list(window)
    call = "flash_attn_func"
    if shape.lengths is not None:
        if name.layout.queries != name.layout.keys:
            return Arguments(
                "flash-attn",
                name.spec,
                why="packed or padded keys of another length than the queries need cu_seqlens of both sides; pass those of your batch",
            )
        cumulative = _cumulative(shape.lengths)
        longest = max(n for row in shape.lengths for n in row)
        found |= {
            "cu_seqlens_q": cumulative,
            "cu_seqlens_k": cumulative,
            "max_seqlen_q": longest,
            "max_seqlen_k": longest,
        }
        call = "flash_attn_varlen_func"
    shown = ", ".join(f"{key}={_code(key, value)}" for key, value in found.items())
    note = "# q, k and v without their padding tokens\n" if name.layout.real is not None else ""
    return Arguments("flash-attn", name.spec, found, f"{note}{call}(q, k, v{', ' if shown else ''}{shown})")


def _code(key: str, value: Any) -> str:
    if key.startswith("cu_seqlens"):
        return f'torch.tensor({value}, dtype=torch.int32, device="cuda")'
    return str(tuple(value) if key == "window_size" else value)


def _xformers(name: Name, shape: _Parts) -> Arguments:
    """xFormers: a bias class for each band; sequences of their own are a block diagonal."""
    if (why := _not_at_the_end(name, shape)) is not None:
        return Arguments("xformers", name.spec, why=why)
    square = name.layout.queries == name.layout.keys
    if shape.lengths is not None:
        if not square:
            return Arguments(
                "xformers",
                name.spec,
                why="packed or padded keys of another length than the queries need both seqlens; pass those of your batch",
            )
        seqlens = [n for row in shape.lengths for n in row]
        made = {
            "causal": ".make_causal()",
            "causal-top-left": ".make_causal()",
            "sliding": f".make_local_attention({shape.size})",
            "full": "",
        }
        if shape.band not in made:
            return Arguments(
                "xformers",
                name.spec,
                why=f"xformers has no block-diagonal bias with {shape.band}; use flex, or a dense mask",
            )
        note = "# q, k and v without their padding tokens\n" if name.layout.real is not None else ""
        code = (
            f"{note}xformers.ops.fmha.attn_bias.BlockDiagonalMask.from_seqlens({seqlens}){made[shape.band]}"
        )
        return Arguments(
            "xformers", name.spec, {"seqlens": seqlens, "band": shape.band, "size": shape.size or None}, code
        )
    window = _window(shape)
    if window is not None:
        left, right = window
        code = f"xformers.ops.fmha.attn_bias.LocalAttentionFromBottomRightMask(window_left={left}, window_right={right})"
        return Arguments("xformers", name.spec, {"window_left": left, "window_right": right}, code)
    if shape.band == "full":
        return Arguments("xformers", name.spec, {"attn_bias": None}, "None")
    top_left = shape.band == "causal-top-left" or name.layout.past == 0
    bias = "LowerTriangularMask" if top_left else "LowerTriangularFromBottomRightMask"
    return Arguments("xformers", name.spec, {"attn_bias": bias}, f"xformers.ops.fmha.attn_bias.{bias}()")


def _jax(name: Name, shape: _Parts) -> Arguments:
    """jax.nn.dot_product_attention: causal is aligned to the first key, lengths count from the first token."""
    found: dict[str, Any] = {}
    if shape.band == "causal" and name.layout.past:
        return Arguments(
            "jax",
            name.spec,
            why="JAX aligns is_causal to the first key, and this mask to the last; pass a dense mask",
        )
    if shape.band in ("causal", "causal-top-left"):
        found["is_causal"] = True
    if (window := _window(shape)) is not None:
        if name.layout.past:
            return Arguments(
                "jax",
                name.spec,
                why="JAX counts windows from the first key, and this mask from the last; pass a dense mask",
            )
        found["local_window_size"] = list(window)
    if shape.lengths is not None:
        real = name.layout.real
        if real is None:
            return Arguments(
                "jax", name.spec, why="JAX has no argument for packed documents; pass a dense mask"
            )
        if not real[:, 0].all():
            return Arguments(
                "jax",
                name.spec,
                why="JAX's sequence lengths count from the first token, and this padding is on the left; pass a dense mask",
            )
        found["key_value_seq_lengths"] = [n for row in shape.lengths for n in row]
    shown = ", ".join(f"{key}={_jax_code(key, value)}" for key, value in found.items())
    return Arguments(
        "jax", name.spec, found, f"jax.nn.dot_product_attention(q, k, v{', ' if shown else ''}{shown})"
    )


def _jax_code(key: str, value: Any) -> str:
    if key == "key_value_seq_lengths":
        return f"jnp.array({value})"
    return str(tuple(value) if key == "local_window_size" else value)


def _flex(name: Name, spec: Spec) -> Arguments:
    """FlexAttention: the spec as the expression of a mask_mod, and the tensors that it reads."""
    tensors: dict[str, Any] = {}
    body = _expression(spec, name.layout, tensors)
    lines = ["import torch"]
    lines += [f"{key} = torch.tensor({value})" for key, value in tensors.items()]
    # P_ stands for the query's key position.
    body = body.replace("P_", f"(q_idx + {name.layout.past})" if name.layout.past else "q_idx")
    lines += ["def mask_mod(b, h, q_idx, kv_idx):", f"    return {body}"]
    return Arguments("flex", name.spec, {"tensors": tensors, "mask_mod": body}, "\n".join(lines))


def _expression(spec: Spec, layout: Layout, tensors: dict[str, Any]) -> str:
    """The condition of a spec over q_idx, kv_idx and P_, which stands for the query's key position."""
    if isinstance(spec, Not):
        return f"~({_expression(spec.operand, layout, tensors)})"
    if isinstance(spec, Joined):
        return f" {spec.sign} ".join(
            f"({_expression(operand, layout, tensors)})" for operand in spec.operands
        )
    assert isinstance(spec, Named)
    n = spec.numbers
    if spec.name == "documents":
        lengths = (*n, layout.keys - sum(n))
        tensors["document"] = np.repeat(np.arange(len(lengths)), lengths).tolist()
        return "document[P_] == document[kv_idx]"
    if spec.name in ("padding", "chunked", "combined") and layout.real is not None:
        if spec.name == "chunked":
            tensors["left"] = layout.real.argmax(axis=1).tolist()
            left = "left[b]" if len(layout.real) > 1 else "left[0]"
            return f"(kv_idx <= P_) & ((P_ - {left}) // {n[0]} == (kv_idx - {left}) // {n[0]})"
        # One row is the same for every batch item, however many there will be.
        one = len(layout.real) == 1
        tensors["real"] = layout.real[0].tolist() if one else layout.real.tolist()
        return ("real[kv_idx]" if one else "real[b, kv_idx]") + (
            " & (kv_idx <= P_)" if spec.name == "combined" else ""
        )
    return {
        "full": "kv_idx >= 0",
        "causal": "kv_idx <= P_",
        "causal-top-left": "kv_idx <= q_idx",
        "prefix": "kv_idx < {0}",
        "prefix-lm": "(kv_idx < {0}) | (kv_idx <= P_)",
        "window": "(P_ - kv_idx).abs() <= {0}",
        "sliding": "(kv_idx <= P_) & (P_ - kv_idx < {0})",
        "blocks": "P_ // {0} == kv_idx // {0}",
        "chunked": "(kv_idx <= P_) & (P_ // {0} == kv_idx // {0})",
        "dilated": "((P_ - kv_idx).abs() <= {0}) & ((P_ - kv_idx) % {1} == 0)",
        "global": "(kv_idx < {0}) | (P_ < {0})",
    }[spec.name].format(*n)
