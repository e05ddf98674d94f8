"""Saved masks: in which convention they are, and what they let attend."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.masks.conventions import (
    ADDED,
    CONVENTIONS,
    LOWEST,
    SILENT,
    TOKENS,
    TRUE_ATTENDS,
    TRUE_IGNORES,
    ZERO_ONE,
    attended,
)
from maskcli.masks.kinds import Layout, causal
from maskcli.masks.mask import Mask
from maskcli.measure.passes import measure
from maskcli.measure.questions import column_mass, first_bad, last_key, row_chunks
from maskcli.tensors import Roled, Tensor

# A mask tensor with more distinct values than this is a bias, not a mask.
MANY_VALUES = 16
# Padding masks are small; a file whose "padding mask" is larger than this is not one.
MAX_PADDING_CELLS = 2**28
# Weights that obey a mask put less than rounding outside of it, and those that obey its inverse more than
# half.
OBEYED, DISOBEYED = 1e-6, 0.5
# Rows that are looked at before a pass over all of them is paid for.
FIRST_LOOK = 32
# An additive value below this is a fill, in a padding mask that holds nothing but 0 and one fill.
TINY = 1e-30


@dataclass(frozen=True)
class Given:
    """A saved mask tensor, read: which convention it is in and why, its distinct values, and the cells it lets attend.

    `values` are at most MANY_VALUES sorted distinct finite values, None when there are more. `reason` is one
    of "declared", "name", "values", "shape", "weights", "assumed".
    """

    tensor: Tensor
    shape: Shape
    convention: str
    reason: str
    values: tuple[float, ...] | None
    nan: tuple[int, ...] | None
    minus_inf: bool
    plus_inf: bool
    keep: Mask

    @property
    def added(self) -> bool:
        """Whether it is read as one that is added to the scores."""
        return CONVENTIONS[self.convention].added

    @property
    def is_float(self) -> bool:
        """Whether it is saved as floats, which can be added to the scores."""
        return _is_float(self.tensor.dtype)

    @property
    def fill(self) -> float | None:
        """What an additive mask puts on ignored cells: the lowest of its values."""
        if not self.added:
            return None
        if self.minus_inf:
            return -np.inf
        return self.values[0] if self.values and self.values[0] < 0 else None


def read_mask(
    tensor: Tensor, shape: Shape, declared: str | None, real: Array | None, past: int | None
) -> Given:
    """A mask tensor seen as [B, H, Q, K], read in the declared convention or in the one its values and name call for.

    A bool mask says nothing of its polarity: without a declaration, a name (`key_padding_mask`) or evidence
    in `real` (bool [B, K]) and the diagonal, True is taken for attend, as torch's SDPA does.
    """
    seen, nan, minus_inf, plus_inf = _distinct(tensor)
    convention, reason = _reading(tensor, seen, minus_inf, declared)
    threshold = _threshold(seen, minus_inf)
    keep = _keep(tensor, shape, convention, threshold)
    if reason == "assumed":
        upright, inverted = _speaks_for(keep, real, past), _speaks_for(~keep, real, past)
        if not keep.attended:
            # Read as attend it hides every key from everybody; read as ignore it hides nothing.
            upright, inverted = False, True
        if upright != inverted:
            reason = "shape"
            convention, keep = (TRUE_ATTENDS, keep) if upright else (TRUE_IGNORES, ~keep)
    return Given(tensor, shape, convention, reason, seen, nan, minus_inf, plus_inf, keep)


def read_named(
    roled: Roled, shape: Shape, convention: str | None, real: Array | None = None, past: int | None = None
) -> Given:
    """A saved mask or padding mask, read in the declared convention, else as its name and values say."""
    if roled.role == "padding_mask" and convention is None:
        convention, reason = padding_convention(roled.tensor)
        return dataclasses.replace(read_mask(roled.tensor, shape, convention, real, past), reason=reason)
    return read_mask(roled.tensor, shape, convention, real, past)


def padding_convention(tensor: Tensor) -> tuple[str, str]:
    """How a padding mask [B, K] is written, and what says so: its type, its name, or its values.

    Booleans are True for padding under nn.MultiheadAttention's names, True for real tokens as attention_mask,
    and else what most tokens are is real. Floats are added when one is negative or all are 0 (nothing is
    hidden), else they are 0 and 1.
    """
    if tensor.dtype == "bool":
        if _says_padding(tensor):
            return TRUE_IGNORES, "name"
        if "pad" in tensor.name.rpartition(".")[2]:
            return (TRUE_ATTENDS if np.mean(tensor.read()) > 0.5 else TRUE_IGNORES), "values"
        return TRUE_ATTENDS, "name"
    if tensor.dtype in LOWEST:
        values = tensor.read()
        return (ADDED if (values < 0).any() or not values.any() else ZERO_ONE), "values"
    return TOKENS, "values"


def read_padding(roled: Roled, declared: str | None) -> Array | None:
    """A padding mask as bool [B, K], True = real; None when it is no such thing. `declared` counts where its type allows it."""
    values = small_rows(roled.tensor)
    if values is None:
        return None
    convention = padding_convention(roled.tensor)[0]
    if declared is not None and CONVENTIONS[declared].values.kind == values.dtype.kind:
        convention = declared
    return attended(values, convention, min(float(np.min(values)) / 2, -TINY))


def small_rows(tensor: Tensor) -> Array | None:
    """A small tensor as [B, K]: a vector is one row, and middle axes of size 1 ([B, 1, 1, K]) vanish; else None."""
    shape = tensor.shape
    if (
        not shape
        or any(size != 1 for size in shape[1:-1])
        or np.prod(shape, dtype=object) > MAX_PADDING_CELLS
    ):
        return None
    values: Array = tensor.read()
    return values.reshape(1, -1) if len(shape) == 1 else values.reshape(shape[0], shape[-1])


def _says_padding(tensor: Tensor) -> bool:
    """Whether the name is one of nn.MultiheadAttention's padding masks, where True is padding."""
    leaf = tensor.name.rpartition(".")[2]
    return "key_pad" in leaf or leaf == "kpm"


def by_weights(given: Given, weights: Tensor, shape: Shape) -> Given:
    """A bool mask whose polarity nothing else tells, turned around when the weights obey its inverse and not itself."""
    keep = given.keep.broadcast_to(shape)
    if given.reason != "assumed" or keep is None or _obeyed(keep, weights):
        return given
    mass = measure(weights, shape, {"keep": keep, "inverse": ~keep}).mass
    rows = np.broadcast_to((keep.keys_per_query > 0) & (keep.keys_per_query < shape[3]), shape[:3])
    if not rows.any() or not np.isfinite(mass["keep"][rows]).any():
        return given
    if np.nanmean(mass["inverse"][rows]) < OBEYED and np.nanmean(mass["keep"][rows]) > DISOBEYED:
        return dataclasses.replace(given, convention=TRUE_IGNORES, reason="weights", keep=~given.keep)
    return given


def _obeyed(keep: Mask, weights: Tensor) -> bool:
    """Whether some rows, evenly chosen, tell already that it is not the inverse of a mask that the weights obey."""
    batch, heads, queries, _ = keep.shape
    inside = []
    for row in np.unique(np.linspace(0, batch * heads * queries - 1, FIRST_LOOK).astype(int)).tolist():
        item, head, query = row // (heads * queries), row // queries % heads, row % queries
        seen = keep.dense(item, head, (query, query + 1))[0]
        values = weights.rows(row, row + 1)[0]
        if seen.any() and not seen.all() and not np.isnan(values).any():
            inside.append(float(values[seen].sum()))
    return bool(inside and np.mean(inside) > DISOBEYED)


def fills_only(weights: Tensor, shape: Shape, keys: int) -> bool:
    """Whether no row but exactly uniform ones weighs any key from `keys` on: the empty slots of a static cache."""
    last = last_key(weights, shape)
    return last is not None and last < keys


def left_padding(weights: Tensor, shape: Shape, allowed: Mask) -> Array | None:
    """Which tokens are real, bool [B, K], where the weights alone show leading ones to be padding; None where they show none.

    A fully masked row whose fill is finite falls through to keys that `allowed` forbids: to real ones when
    those have a weaker fill (-1e4 beside finfo.min), to a few levels of weight in float16. Leading rows that
    all do so in all heads are padding when no row behind them looks at their keys or at any forbidden one. An
    inverted mask leaves only one such row.
    """
    batch, heads, queries, keys = shape
    # Only where the first row falls through is the rest worth a pass.
    first = np.array([weights.rows(row, row + 1)[0] for row in range(0, batch * heads * queries, queries)])
    hidden = ~allowed.select(rows=slice(0, 1)).seen
    falls = np.any((first.reshape(batch, heads, keys) > 0) & hidden, axis=2)
    if not np.all(falls, axis=1).any():
        return None
    through = measure(weights, shape, {"forbidden": allowed}).mass["forbidden"] > 0
    whole = np.all(through, axis=1)
    leading = np.where(np.all(whole, axis=1), queries, np.argmin(whole, axis=1))
    behind = np.arange(queries) >= leading[:, None]
    mass = column_mass(weights, shape, np.broadcast_to(behind[:, None], through.shape))
    front = np.arange(keys) < leading[:, None]
    obeyed = (
        ~(through & behind[:, None]).any(axis=(1, 2)) & ~(mass * front).any(axis=1) & (leading < queries - 1)
    )
    real: Array = ~(front & obeyed[:, None])
    return None if real.all() else real


def last_weighed(weights: Tensor, shape: Shape) -> int:
    """The last key that a row weighs; exactly uniform rows (fully masked ones) do not count. K - 1 when there is none."""
    last = last_key(weights, shape)
    return shape[3] - 1 if last is None else last


def _distinct(tensor: Tensor) -> tuple[tuple[float, ...] | None, tuple[int, ...] | None, bool, bool]:
    """Distinct finite values (None: many), the first NaN, and whether -inf and +inf occur. Booleans are not read for this."""
    if tensor.dtype == "bool":
        return (False, True), None, False, False
    known: set[float] = set()
    nan = False
    many = minus = plus = False
    for _, values in row_chunks(tensor):
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                nan = nan or bool(np.isnan(values).any())
                minus, plus = minus or bool((values == -np.inf).any()), plus or bool((values == np.inf).any())
                values = values[finite]
        rest = values.ravel()
        for value in known:
            rest = rest[rest != value]
        while rest.size and not many:
            value = rest[0].item()
            known.add(value)
            many = len(known) > MANY_VALUES
            rest = rest[rest != value]
    first = first_bad(tensor, np.isnan) if nan else None
    return (None if many else tuple(sorted(known))), first, minus, plus


def _reading(
    tensor: Tensor, seen: tuple[float, ...] | None, minus_inf: bool, declared: str | None
) -> tuple[str, str]:
    if declared is not None:
        return declared, "declared"
    if tensor.dtype == "bool":
        return (TRUE_IGNORES, "name") if _says_padding(tensor) else (TRUE_ATTENDS, "assumed")
    if _is_float(tensor.dtype):
        binary = seen is not None and not minus_inf and set(seen) <= {0.0, 1.0} and 1.0 in seen
        return (ZERO_ONE if binary else ADDED), "values"
    return TOKENS, "values"


def _is_float(dtype: str) -> bool:
    return dtype in LOWEST or dtype.startswith("float8")


def _threshold(seen: tuple[float, ...] | None, minus_inf: bool) -> float:
    """Additive values above this attend. A mask of 0 and one weak fill is still split between the two, as it was meant."""
    if seen is not None and not minus_inf and len(seen) == 2 and seen[1] == 0.0:
        return seen[0] / 2
    return SILENT


def _keep(tensor: Tensor, shape: Shape, convention: str, threshold: float) -> Mask:
    return Mask.from_dense_rows(
        shape, (attended(values, convention, threshold) for _, values in row_chunks(tensor))
    )


def _speaks_for(keep: Mask, real: Array | None, past: int | None) -> bool:
    """Whether a reading of a bool mask makes sense by itself: it hides exactly the padding, or everything behind a query."""
    if real is not None and not real.all() and keep.shape[1:3] == (1, 1) and keep.shape[::3] == real.shape:
        return keep == Mask.from_dense(real[:, None, None, :])
    queries, keys = keep.shape[2:]
    if queries < 2 or not keep.attended:
        return False
    layout = Layout(
        keep.shape[0], queries, keys, keep.shape[1], max(keys - queries, 0) if past is None else past
    )
    return (keep - causal(layout)).attended == 0
