"""`assert_attention_respects`: masked positions have no weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskcli.api.written import convention_of
from maskcli.arrays import Array, Real, Shape
from maskcli.diagnostics.diagnose import diagnose
from maskcli.errors import MaskcliError
from maskcli.inputs.mask_mods import mask_by
from maskcli.inputs.operands import resolver
from maskcli.masks import conventions
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import build, parse
from maskcli.masks.views import whole
from maskcli.meant.facts import Declared
from maskcli.scene.saved_mask import read_mask
from maskcli.scene.scene import pad_rows
from maskcli.tensors import Tensor, from_array, from_arrays, roles_of
from maskcli.tensors.axes import mask_shape


def assert_attention_respects(
    weights: Any, mask: Any, *, convention: str | None = None, lengths: Sequence[int] | None = None
) -> None:
    """Assert that masked positions receive exactly zero weight: for test suites.

    `weights` are [Q, K], [B, H, Q, K], or [B, Q, K] or [H, Q, K]: batch where the mask or the lengths have as
    many items. `mask` is an array that broadcasts to them, [B, Q, K], a padding mask [B, K], a spec such as
    "causal", a function of the length that returns [N, N], or a FlexAttention mask_mod. An array's
    `convention` is sdpa for bool (True = attend), additive for floats and hf for integers unless it is said.
    With `lengths`, keys from each sample's length on are padding, which is masked as well. NaN counts as
    weight. Rows that the mask leaves no key are padding when their own key is masked for every query: they
    are not looked at. Raises AssertionError, whose message is the finding, and MaskcliError for shapes that
    do not fit.

    >>> import numpy as np
    >>> assert_attention_respects(np.eye(3), "causal")
    """
    attention = from_array("attn_weights", weights)
    told = convention_of(convention) if convention else None
    given = mask if isinstance(mask, str) or callable(mask) else from_array("attn_mask", mask)
    sizes = attention.shape
    if not 2 <= len(sizes) <= 4 or (isinstance(given, Tensor) and not 1 <= len(given.shape) <= 4):
        shape = f"mask {list(given.shape)}" if isinstance(given, Tensor) else "a mask"
        raise MaskcliError(
            f"weights {list(sizes)} and {shape}: expected [.., Q, K] and what broadcasts to it"
        )
    counts = None if lengths is None else np.atleast_1d(np.asarray(lengths))
    values = attention.read().reshape(_shape(sizes, given, told, counts))
    batch, heads, queries, keys = values.shape
    real = None if counts is None else _real(counts, batch, keys)
    layout = Layout(batch, queries, keys, heads, max(keys - queries, 0), real)
    keep = whole(_mask(given, layout, told, sizes))
    if real is not None:
        keep &= real[:, None, None]
    padded = pad_rows(Mask.from_dense(keep), layout.own)
    looked = ~np.broadcast_to(padded, (batch, 1, queries))
    wrong = ~keep & (values != 0) & looked[..., None]
    if wrong.any():
        raise AssertionError(_finding(values, keep, wrong))


def _shape(sizes: tuple[int, ...], given: Any, convention: str | None, counts: Array | None) -> Shape:
    """[B, H, Q, K] of weights. Of three axes the first is the batch where the mask has as many items."""
    if len(sizes) < 4:
        sizes = (1,) * (3 - len(sizes)) + sizes
        first, queries, keys = sizes
        items = None if counts is None else len(counts)
        if isinstance(given, Tensor) and len(given.shape) > 1 and items is None:
            # A square of as many rows as there are items is [Q, K], but where a padding mask is declared.
            of_items = first != queries or (convention and conventions.CONVENTIONS[convention].over_keys)
            rows = len(given.shape) > 2 or (given.shape == (first, keys) and of_items)
            items = given.shape[0] if rows else None
        sizes = (first, 1, queries, keys) if items == first else (1, *sizes)
    return sizes[0], sizes[1], sizes[2], sizes[3]


def _real(counts: Array, batch: int, keys: int) -> Real:
    """Real keys, bool [B, K], of samples of these lengths."""
    whole = counts.dtype.kind in "iu" and bool(((counts >= 0) & (counts <= keys)).all())
    if counts.shape != (batch,) or not whole:
        raise MaskcliError(
            f"lengths={counts.tolist()} does not fit weights of {batch} samples and {keys} keys; "
            f"pass a whole number up to {keys} for each sample"
        )
    return np.arange(keys) < counts[:, None]


def _mask(given: Any, layout: Layout, convention: str | None, sizes: tuple[int, ...]) -> Mask:
    """Who may attend to whom: an array, a spec or a function, over the layout."""
    if isinstance(given, str):
        return build(parse(given), layout, resolver(convention))
    if not isinstance(given, Tensor):
        names = getattr(given, "__globals__", {})
        return mask_by(given, names, getattr(given, "__name__", "the mask"), layout, convention)

    read_as = convention or conventions.usual(given.dtype)
    full = _full_shape(given.shape, layout, conventions.CONVENTIONS[read_as].over_keys)
    keep = read_mask(given, full, read_as, None, None).keep.broadcast_to(layout.shape) if full else None
    if keep is None:
        raise MaskcliError(
            f"a mask of the shape {list(given.shape)} does not broadcast to weights of {list(sizes)}"
        )
    return keep


def _full_shape(given: tuple[int, ...], layout: Layout, over_keys: bool) -> Shape | None:
    """[b, h, q, K] of a mask; three axes begin with the batch where they can, else with heads."""
    batch, heads, queries, keys = layout.shape
    if len(given) == 3 and given[0] not in (1, batch):
        if given[0] == heads:
            return 1, heads, given[1], given[2]
        return mask_shape(given, heads=heads) if given[0] == batch * heads else None
    return mask_shape(given, over_keys=given == (batch, keys) and (over_keys or batch != queries))


def _finding(values: Array, keep: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_]) -> str:
    """The finding that says best what is wrong, and how much of it."""
    file = from_arrays({"attn_weights": values, "attn_mask": keep})
    report = diagnose(file, Declared(exact=True, convention="sdpa"), roles_of(file))
    of_weights = [
        finding
        for finding in report.findings
        if "attn_weights" in finding.tensors and finding.severity != "note"
    ]
    first = [int(at) for at in np.argwhere(wrong)[0]]
    where = f"first [batch, head, query, key] = {first} with {values[tuple(first)]:.4g}"
    cells = f"{int(wrong.sum()):,} masked cells are not 0, {where}"
    return f"{of_weights[0]}\n{cells}" if of_weights else cells
