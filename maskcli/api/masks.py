"""`mask`: a spec to an array. `name`: an array or a file to its spec."""

from __future__ import annotations

from typing import Any

from maskcli.api.written import Written, convention_of
from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.inputs.operands import mask_of, operand, resolver
from maskcli.masks import conventions
from maskcli.masks.layout import Layout
from maskcli.masks.name import Name
from maskcli.masks.spec import Spec, axes, build, needs, parse
from maskcli.meant.settling import check_counts
from maskcli.meant.settling import convention as known
from maskcli.scene.describe import describe
from maskcli.scene.named import named_rows
from maskcli.tensors import from_array


def mask(
    spec: str,
    *,
    queries: int | None = None,
    keys: int | None = None,
    batch: int = 1,
    heads: int = 1,
    past: int | None = None,
    padding: Any = None,
    documents: Any = None,
    convention: str = "sdpa",
    dtype: str | None = None,
    fill: str = "-inf",
) -> Array:
    """The mask that a spec such as "causal & padding" describes, as an array in a library's convention.

    `padding` [B, K] (1 or True is a real token) and `documents` [B, K] (a number for each packed document)
    give batch and keys; else say `keys`, and `queries` where there are fewer: `past` keys then come before
    the first (keys - queries unless said otherwise). The result broadcasts to [B, H, Q, K]: `sdpa` is bool
    with True = attend, `additive` 0 and `fill` ("-inf", "min" or a number) in `dtype`, `mha` bool with True =
    ignore in the shapes that nn.MultiheadAttention takes, `hf` [B, K]. bfloat16, which numpy has not, comes
    as the float32 of equal value. Raises MaskcliError for what cannot be.

    >>> mask("causal & padding", padding=[[0, 1, 1]]).astype(int).tolist()
    [[[[0, 0, 0], [0, 1, 0], [0, 1, 1]]]]
    """
    parsed = parse(spec)
    layout = layout_for(
        parsed,
        queries=queries,
        keys=keys,
        batch=batch,
        heads=heads,
        past=past,
        padding=padding,
        documents=documents,
    )
    return written_spec(spec, layout, convention_of(convention), dtype, fill).array()


def name(mask: Any, *, convention: str | None = None, past: int | None = None) -> Name:
    """What a mask is called: the shortest spec that rebuilds it, or the nearest one.

    `mask` is an array that broadcasts to [B, H, Q, K], a padding mask [B, K], or the FILE[:TENSOR] of one.
    The name has the `spec`, whether it is `exact` (else `wrong` cells differ, those of `missing` and
    `extra`), the `padding` tokens of each item, and `aliases`, which mean the same at this length.
    `convention` is how the values are written, `past` how many keys come before the first query. Raises
    MaskcliError for what is no mask.

    >>> import numpy as np
    >>> name(np.tril(np.ones((6, 6), bool))).spec
    'causal'
    """
    given = operand(mask)
    saved = mask_of(given)
    if saved is None:
        raise MaskcliError(f"{given.text!r} is a spec, which is its own name; pass an array or FILE[:TENSOR]")
    told = known(convention) if convention else given.told.convention
    called = describe(saved, told, given.told.past if past is None else past).name
    if called is None:
        raise MaskcliError(
            f"{given.text!r} of shape {list(saved.tensor.shape)} is no mask; pass [.., Q, K] or [B, K]"
        )
    return called


def layout_for(
    spec: Spec,
    *,
    queries: int | None = None,
    keys: int | None = None,
    batch: int = 1,
    heads: int = 1,
    past: int | None = None,
    padding: Any = None,
    documents: Any = None,
    ask: str = "pass keys=N, or padding or documents [B, K]",
) -> Layout:
    """The sizes that a spec is built over, as `mask` explains them; `ask` tells what to pass without any."""
    check_counts(queries=queries, keys=keys, batch=batch, heads=heads, past=past)
    real, labels = _rows(padding, "padding"), _rows(documents, "documents")
    known = labels if real is None else real
    if known is not None:
        batch, keys = known.shape
    elif keys is None:
        keys = queries
    if keys is None:
        raise MaskcliError(f"how large is the mask to be? {ask}")

    if queries is None:
        queries = keys - (past or 0)
    return Layout(
        batch=batch,
        queries=queries,
        keys=keys,
        heads=heads,
        past=max(keys - queries, 0) if past is None else past,
        real=None if real is None else real != 0,
        documents=labels,
        cross="source" in needs(spec),
        tensors=lambda name: named_rows(name, ()),
    )


def written_spec(
    spec: str, layout: Layout, convention: str, dtype: str | None, fill: str, saved_as: str | None = None
) -> Written:
    """A spec over a layout in a convention; the saved masks in it are read as `saved_as`."""
    parsed = parse(spec)
    kind = conventions.dtype_of(convention, dtype)
    built = build(parsed, layout, resolver(saved_as)).compact()
    conventions.fitting(built.stored, convention, spec)
    one_for_all = "b" not in axes(parsed)
    return Written(
        name="mask",
        mask=built,
        target=conventions.CONVENTIONS[convention].target(built.stored, layout.shape, one_for_all),
        convention=convention,
        dtype=kind,
        fill=conventions.fill_of(convention, fill, kind),
    )


def _rows(values: Any, what: str) -> Array | None:
    """An array [B, K] that a caller gave; one axis is one row."""
    if values is None:
        return None
    array = from_array(what, values).read()
    if array.ndim not in (1, 2):
        raise MaskcliError(f"{what} has the shape {list(array.shape)}, expected [B, K]")
    return array.reshape(-1, array.shape[-1])
