"""The Python API: masks from specs, checks of arrays, the trace of a running program, and an assertion for test suites.

Arrays may be numpy's, torch tensors on any device, or anything with `__array__`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskcli.arrays import Array
from maskcli.diagnostics.declare import Said, declare
from maskcli.diagnostics.diagnose import Report
from maskcli.diagnostics.diagnose import diagnose as _diagnose
from maskcli.diagnostics.finding import Finding
from maskcli.errors import MaskcliError
from maskcli.inputs.operands import resolver
from maskcli.masks import conventions
from maskcli.masks.kinds import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import axes, build, needs, parse
from maskcli.meant.facts import Declared
from maskcli.scene.saved_mask import read_mask
from maskcli.scene.scene import pad_rows
from maskcli.tensors import Tensor, from_array, from_arrays, roles_of
from maskcli.tracing.checker import Options, TraceReport
from maskcli.tracing.trace import Trace

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Finding",
    "MaskcliError",
    "Report",
    "Trace",
    "TraceReport",
    "assert_attention_respects",
    "diagnose",
    "mask",
    "trace",
]


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

    `padding` [B, K] (1 or True is a real token) and `documents` [B, K] (a number for each packed document) give batch and keys;
    else say `keys`, and `queries` where there are fewer: `past` keys then come before the first (keys - queries unless said
    otherwise). The result broadcasts to [B, H, Q, K]: `sdpa` is bool with True = attend, `additive` 0 and `fill` ("-inf",
    "min" or a number) in `dtype`, `mha` bool with True = ignore in the shapes that nn.MultiheadAttention takes, `hf` [B, K].
    bfloat16, which numpy has not, comes as the float32 of equal value. Raises MaskcliError for what cannot be.
    """
    parsed = parse(spec)
    real, labels = _rows(padding, "padding"), _rows(documents, "documents")
    known = real if real is not None else labels
    keys = known.shape[1] if known is not None else keys if keys is not None else queries
    if keys is None:
        raise MaskcliError(f"how large is {spec!r} to be? pass keys=N, or padding or documents [B, K]")
    queries = keys - (past or 0) if queries is None else queries
    past = max(keys - queries, 0) if past is None else past
    batch = len(known) if known is not None else batch
    convention = _convention(convention)
    kind = conventions.dtype_of(convention, dtype)
    layout = Layout(
        batch,
        queries,
        keys,
        heads,
        past,
        None if real is None else real != 0,
        labels,
        cross="source" in needs(parsed),
    )
    built = build(parsed, layout, resolver()).compact()
    conventions.fitting(built.stored, convention, spec)
    one_for_all = "b" not in axes(parsed)
    target = conventions.CONVENTIONS[convention].target(built.stored, layout.shape, one_for_all)
    value = conventions.fill_of(convention, fill, kind)
    return np.concatenate(list(conventions.chunks(built, target, convention, kind, value))).reshape(
        target.shape
    )


def diagnose(arrays: Mapping[str, Any], **said: Unpack[Said]) -> Report:
    """Check arrays by name (attentions.0, attn_mask, attention_mask, input_ids, labels, …), as `maskcli diagnose` checks a file.

    What was meant is declared as in `maskcli.diagnostics.declare.Said`: diagnose(arrays, expect="causal", pad_id=0). The
    report's `findings` come worst first; `skipped` says what could not be decided, and for want of what. Raises MaskcliError
    when nothing among the arrays can be checked.
    """
    declared, token, codes = declare(**said)
    file = from_arrays(arrays)
    report = _diagnose(file, declared, roles_of(file), resolver(declared.convention), token, codes)
    if not report.checked:
        why = "".join(f" ({name}: {reason})" for name, reason in list(report.unfit.items())[:1])
        raise MaskcliError(
            f"nothing to check among {', '.join(map(repr, arrays)) or 'no arrays'}{why}; call weights attentions.0, masks attn_mask "
            "or attention_mask, ids input_ids"
        )
    return report


def trace(
    *,
    every: int = 1,
    limit: int | None = None,
    modules: str | Sequence[str] = (),
    save: str | None = None,
    save_all: bool = False,
    **said: Unpack[Said],
) -> Trace:
    """Check every attention call made inside a `with` block: `with maskcli.trace(expect="causal") as traced: model(ids)`.

    `traced.findings` holds what was found so far, worst first, and `traced.report` all of it. Every `every`-th step (call of
    the outermost module) is checked, `limit` calls at most, in modules whose path matches one of `modules` (shell globs).
    `save` is a folder for the tensors of each finding, with `save_all` for those of every call. Results stay what they are.
    """
    declared, token, codes = declare(**said)
    if every < 1 or (limit is not None and limit < 1):
        raise MaskcliError(f"every={every} and limit={limit}: pass whole numbers from 1 on")
    if save_all and save is None:
        raise MaskcliError("save_all=True needs a folder to write to; pass save=DIR")
    chosen = (modules,) if isinstance(modules, str) else tuple(modules)
    return Trace(Options(declared, token, codes, every, limit, chosen, save, save_all))


def assert_attention_respects(weights: Any, mask: Any, *, convention: str | None = None) -> None:
    """Assert that masked positions receive exactly zero weight: for test suites.

    `weights` are [.., Q, K]. `mask` broadcasts to them, or is a padding mask [B, K]; its `convention` is sdpa for bool (True =
    attend), additive for floats and hf for integers unless it is said. NaN counts as weight. Rows that the mask leaves no
    key are padding when their own key is masked for every query: they are not looked at. Raises AssertionError, whose message
    is the finding.
    """
    given = from_array("attn_mask", mask)
    map_ = from_array("attn_weights", weights)
    said = _convention(convention) if convention else conventions.usual(given.dtype)
    if len(map_.shape) < 2 or not 1 <= len(given.shape) <= 4 or len(map_.shape) > 4:
        raise MaskcliError(
            f"weights {list(map_.shape)} and mask {list(given.shape)}: expected [.., Q, K] and what broadcasts to it"
        )
    shape = (1,) * (4 - len(map_.shape)) + map_.shape
    values = map_.read().reshape(shape)
    keep = _keep(given, values.shape, said)
    looked = ~(
        np.broadcast_to(pad_rows(Mask.from_dense(keep), max(shape[3] - shape[2], 0)), (shape[0], 1, shape[2]))
    )
    wrong = ~keep & (values != 0) & looked[..., None]
    if not wrong.any():
        return
    raise AssertionError(_finding(values, keep, wrong))


def _finding(values: Array, keep: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_]) -> str:
    """The finding that says best what is wrong, and how much of it."""
    arrays = {"attn_weights": values, "attn_mask": keep}
    file = from_arrays(arrays)
    report = _diagnose(file, Declared(exact=True, convention="sdpa"), roles_of(file))
    of_weights = [
        finding
        for finding in report.findings
        if "attn_weights" in finding.tensors and finding.severity != "note"
    ]
    first = [int(at) for at in np.argwhere(wrong)[0]]
    cells = f"{int(wrong.sum()):,} masked cells are not 0, first [batch, head, query, key] = {first} with {values[tuple(first)]:.4g}"
    return f"{of_weights[0]}\n{cells}" if of_weights else cells


def _keep(given: Tensor, shape: tuple[int, ...], convention: str) -> npt.NDArray[np.bool_]:
    """What a mask lets attend, bool [B, H, Q, K]."""
    size = given.shape
    batch, _, queries, keys = shape
    padding = (
        len(size) == 2
        and size == (batch, keys)
        and (conventions.CONVENTIONS[convention].over_keys or batch != queries)
    )
    full = (
        (batch, 1, 1, keys)
        if padding
        else (size[0], 1, *size[1:])
        if len(size) == 3
        else (1,) * (4 - len(size)) + size
    )
    keep = read_mask(given, full, convention, None, None).keep.broadcast_to(shape)  # type: ignore[arg-type]
    if keep is None:
        raise MaskcliError(f"a mask of the shape {list(size)} does not broadcast to weights of {list(shape)}")
    whole = keep.expand(keep.shape[:3])
    dense = [[whole.dense(b, h, (0, queries)) for h in range(shape[1])] for b in range(batch)]
    return np.array(dense, bool).reshape(shape)


def _convention(name: str) -> str:
    if name not in conventions.CONVENTIONS:
        raise MaskcliError(
            f"{name!r} is not a convention; choose one of {', '.join(conventions.CONVENTIONS)}"
        )
    return name


def _rows(values: Any, what: str) -> Array | None:
    """An array [B, K] that a caller gave; one axis is one row."""
    if values is None:
        return None
    array = from_array(what, values).read()
    if array.ndim not in (1, 2):
        raise MaskcliError(f"{what} has the shape {list(array.shape)}, expected [B, K]")
    return array.reshape(-1, array.shape[-1])
