"""`diagnose` and `trace`: checks of arrays, files and a running program."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maskcli.api.said import listing_what_is_said
from maskcli.diagnostics.declare import declare
from maskcli.diagnostics.diagnose import Report
from maskcli.errors import MaskcliError
from maskcli.inputs.many_files import first_unfit, judged, report_of
from maskcli.inputs.tasks import Task
from maskcli.meant.facts import Said
from maskcli.tensors import from_arrays, roles_of
from maskcli.tracing.results import Options
from maskcli.tracing.trace import Trace

if TYPE_CHECKING:
    from typing_extensions import Unpack


@listing_what_is_said
def diagnose(arrays: Mapping[str, Any] | str | os.PathLike[str], **said: Unpack[Said]) -> Report:
    """Check arrays by name, or a FILE[:TENSOR], as `maskcli diagnose` checks a file.

    Names say what arrays are: attentions.0, attn_mask, attention_mask, input_ids, labels, … What was meant is
    declared by the keywords below. The report's `findings` come worst first; `skipped` says what could not be
    decided, and for want of what. Raises MaskcliError when nothing among the arrays can be checked.

    >>> import numpy as np
    >>> weights = np.array([[[[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]]])
    >>> [finding.name for finding in diagnose({"attentions.0": weights}, expect="causal").findings]
    ['future-attended']
    """
    meaning = declare(**said)
    if isinstance(arrays, (str, os.PathLike)):
        return report_of(Task(os.fspath(arrays)), meaning)
    file = from_arrays(arrays)
    report = judged(file, roles_of(file), meaning)
    if not report.checked:
        raise MaskcliError(
            f"nothing to check among {', '.join(map(repr, arrays)) or 'no arrays'}{first_unfit(report)}; "
            "call weights attentions.0, masks attn_mask or attention_mask, ids input_ids"
        )
    return report


@listing_what_is_said
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
    meaning = declare(**said)
    return Trace(
        Options(meaning.declared, meaning.token, meaning.codes, every, limit, chosen, save, save_all, measure)
    )
