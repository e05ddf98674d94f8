"""`diagnose`, `trace` and `assert_attention_respects`: checks of arrays, files and a running program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskcli.api.written import convention_of
from maskcli.arrays import Array, Shape
from maskcli.diagnostics.declare import declare
from maskcli.diagnostics.diagnose import Report
from maskcli.diagnostics.diagnose import diagnose as _diagnose
from maskcli.errors import MaskcliError
from maskcli.inputs.many_files import first_unfit, judged, report_of
from maskcli.inputs.tasks import Task
from maskcli.masks import conventions
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.meant.facts import Declared, Said
from maskcli.scene.saved_mask import read_mask
from maskcli.scene.scene import pad_rows
from maskcli.tensors import Tensor, from_array, from_arrays, roles_of
from maskcli.tensors.axes import mask_shape
from maskcli.tracing.results import Options
from maskcli.tracing.trace import Trace

if TYPE_CHECKING:
    from typing_extensions import Unpack


def diagnose(arrays: Mapping[str, Any] | str, **said: Unpack[Said]) -> Report:
    """Check arrays by name, or a FILE[:TENSOR], as `maskcli diagnose` checks a file.

    Names say what arrays are: attentions.0, attn_mask, attention_mask, input_ids, labels, … What was meant is
    declared as in `maskcli.meant.facts.Said`. The report's `findings` come worst first; `skipped` says what
    could not be decided, and for want of what. Raises MaskcliError when nothing among the arrays can be
    checked.

    >>> import numpy as np
    >>> weights = np.array([[[[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]]])
    >>> [finding.name for finding in diagnose({"attentions.0": weights}, expect="causal").findings]
    ['future-attended']
    """
    meaning = declare(**said)
    if isinstance(arrays, str):
        return report_of(Task(arrays), meaning)
    file = from_arrays(arrays)
    report = judged(file, roles_of(file), meaning)
    if not report.checked:
        raise MaskcliError(
            f"nothing to check among {', '.join(map(repr, arrays)) or 'no arrays'}{first_unfit(report)}; "
            "call weights attentions.0, masks attn_mask or attention_mask, ids input_ids"
        )
    return report


def trace(
    *,
    every: int = 1,
    limit: int | None = None,
    modules: str | Sequence[str] = (),
    save: str | None = None,
    save_all: bool = False,
    measure: bool = False,
    **said: Unpack[Said],
) -> Trace:
    """Check every attention call made inside a `with` block.

    `traced.findings` holds what was found so far, worst first, and `traced.report` all of it. Every
    `every`-th step (call of the outermost module) is checked, `limit` calls at most, in modules whose path
    matches one of `modules` (shell globs). `save` is a folder for the tensors of each finding, with
    `save_all` for those of every call. With `measure` the masks of the models that were called are measured
    at the end, from what they do (see `maskcli.probe`). What was meant is declared as for `diagnose`.
    Results stay what they are. Raises MaskcliError for what cannot be declared.

    >>> import torch
    >>> q = torch.eye(4, 8)[None, None]
    >>> with trace(expect="causal") as traced:
    ...     _ = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    >>> [finding.name for finding in traced.findings]
    ['future-attended']
    """
    if every < 1 or (limit is not None and limit < 1):
        raise MaskcliError(f"every={every} and limit={limit}: pass whole numbers from 1 on")
    if save_all and save is None:
        raise MaskcliError("save_all=True needs a folder to write to; pass save=DIR")
    chosen = (modules,) if isinstance(modules, str) else tuple(modules)
    return Trace(Options(*declare(**said), every, limit, chosen, save, save_all, measure))


def assert_attention_respects(weights: Any, mask: Any, *, convention: str | None = None) -> None:
    """Assert that masked positions receive exactly zero weight: for test suites.

    `weights` are [.., Q, K]. `mask` broadcasts to them, or is a padding mask [B, K]; its `convention` is sdpa
    for bool (True = attend), additive for floats and hf for integers unless it is said. NaN counts as weight.
    Rows that the mask leaves no key are padding when their own key is masked for every query: they are not
    looked at. Raises AssertionError, whose message is the finding, and MaskcliError for shapes that do not
    fit.

    >>> import numpy as np
    >>> assert_attention_respects(np.eye(3), np.tril(np.ones((3, 3), bool)))
    """
    given = from_array("attn_mask", mask)
    attention = from_array("attn_weights", weights)
    sizes = attention.shape
    if not 2 <= len(sizes) <= 4 or not 1 <= len(given.shape) <= 4:
        raise MaskcliError(
            f"weights {list(sizes)} and mask {list(given.shape)}: "
            "expected [.., Q, K] and what broadcasts to it"
        )
    values = attention.read()[(None,) * (4 - len(sizes))]
    batch, heads, queries, keys = values.shape
    keep = _keep(
        given,
        (batch, heads, queries, keys),
        convention_of(convention) if convention else conventions.usual(given.dtype),
    )
    layout = Layout(batch, queries, keys, heads, max(keys - queries, 0))
    padded = pad_rows(Mask.from_dense(keep), layout.own)
    looked = ~np.broadcast_to(padded, (batch, 1, queries))
    wrong = ~keep & (values != 0) & looked[..., None]
    if wrong.any():
        raise AssertionError(_finding(values, keep, wrong))


def _finding(values: Array, keep: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_]) -> str:
    """The finding that says best what is wrong, and how much of it."""
    file = from_arrays({"attn_weights": values, "attn_mask": keep})
    report = _diagnose(file, Declared(exact=True, convention="sdpa"), roles_of(file))
    of_weights = [
        finding
        for finding in report.findings
        if "attn_weights" in finding.tensors and finding.severity != "note"
    ]
    first = [int(at) for at in np.argwhere(wrong)[0]]
    where = f"first [batch, head, query, key] = {first} with {values[tuple(first)]:.4g}"
    cells = f"{int(wrong.sum()):,} masked cells are not 0, {where}"
    return f"{of_weights[0]}\n{cells}" if of_weights else cells


def _keep(given: Tensor, shape: Shape, convention: str) -> npt.NDArray[np.bool_]:
    """What a mask lets attend, bool [B, H, Q, K]."""
    batch, heads, queries, keys = shape
    hides_keys = conventions.CONVENTIONS[convention].over_keys or batch != queries
    full = mask_shape(given.shape, over_keys=given.shape == (batch, keys) and hides_keys)
    assert full is not None
    keep = read_mask(given, full, convention, None, None).keep.broadcast_to(shape)
    if keep is None:
        raise MaskcliError(
            f"a mask of the shape {list(given.shape)} does not broadcast to weights of {list(shape)}"
        )
    whole = keep.expand(keep.shape[:3])
    dense = [[whole.dense(item, head, (0, queries)) for head in range(heads)] for item in range(batch)]
    return np.array(dense, bool).reshape(shape)
