"""maskcli inspects and debugs attention masks.

`mask` builds a mask from a spec and `name` finds the spec of a mask, `show` shows one over the tokens of
texts, `compare` tells where two masks differ, `convert` writes one for another library, `diagnose` checks
arrays, `audit` checks training sets, `trace` checks the attention calls of a running program, `probe`
measures whom the layers of a model see, and `assert_attention_respects` and `assert_reads_only` are for test
suites. `Report`, `Finding`, `Mask` and `Trace` are what these return, for annotations. All are imported when
they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from maskcli.api import (
        Finding,
        Mask,
        Report,
        Trace,
        assert_attention_respects,
        assert_reads_only,
        audit,
        compare,
        convert,
        diagnose,
        mask,
        name,
        probe,
        show,
        trace,
    )
    from maskcli.errors import MaskcliError

__all__ = [
    "Finding",
    "Mask",
    "MaskcliError",
    "Report",
    "Trace",
    "__version__",
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
]


def __getattr__(name: str) -> Any:
    """A name of the API, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from maskcli import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
