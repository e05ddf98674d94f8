"""The Python API: the jobs on masks and attention, each imported when it is first used.

Arrays may be numpy's, torch tensors on any device, or anything with `__array__`; a file is `FILE[:TENSOR]`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskcli.api.assertion import assert_attention_respects
    from maskcli.api.auditing import audit
    from maskcli.api.checks import diagnose, trace
    from maskcli.api.comparing import Comparison, compare
    from maskcli.api.converting import convert
    from maskcli.api.masks import mask, name
    from maskcli.api.probing import assert_reads_only, probe
    from maskcli.api.showing import show
    from maskcli.auditing.results import Audited
    from maskcli.diagnostics.diagnose import Report
    from maskcli.diagnostics.finding import Finding
    from maskcli.diagnostics.probed import ProbeReport
    from maskcli.errors import MaskcliError
    from maskcli.inputs.texts import Shown
    from maskcli.masks.arguments import Arguments
    from maskcli.masks.mask import Mask
    from maskcli.masks.name import Name
    from maskcli.tracing.results import TraceReport
    from maskcli.tracing.trace import Trace

# Where each name lives: the jobs, and what they return.
HOMES = {
    "assert_attention_respects": "maskcli.api.assertion",
    "assert_reads_only": "maskcli.api.probing",
    "audit": "maskcli.api.auditing",
    "compare": "maskcli.api.comparing",
    "convert": "maskcli.api.converting",
    "diagnose": "maskcli.api.checks",
    "mask": "maskcli.api.masks",
    "name": "maskcli.api.masks",
    "probe": "maskcli.api.probing",
    "show": "maskcli.api.showing",
    "trace": "maskcli.api.checks",
    "Arguments": "maskcli.masks.arguments",
    "Audited": "maskcli.auditing.results",
    "Comparison": "maskcli.api.comparing",
    "Finding": "maskcli.diagnostics.finding",
    "Mask": "maskcli.masks.mask",
    "MaskcliError": "maskcli.errors",
    "Name": "maskcli.masks.naming",
    "ProbeReport": "maskcli.diagnostics.probed",
    "Report": "maskcli.diagnostics.diagnose",
    "Shown": "maskcli.inputs.texts",
    "Trace": "maskcli.tracing.trace",
    "TraceReport": "maskcli.tracing.checker",
}

__all__ = [  # noqa: RUF022 (the jobs first)
    "assert_attention_respects",
    "assert_reads_only",
    "audit",
    "compare",
    "convert",
    "diagnose",
    "mask",
    "name",
    "probe",
    "show",
    "trace",
    "Arguments",
    "Audited",
    "Comparison",
    "Finding",
    "Mask",
    "MaskcliError",
    "Name",
    "ProbeReport",
    "Report",
    "Shown",
    "Trace",
    "TraceReport",
]


def __getattr__(name: str) -> Any:
    """A name of the API, when it is first asked for."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
