"""Windows that a configuration names for no layer in particular: dropped only where no layer keeps one."""

from __future__ import annotations

from maskcli.diagnostics.finding import Finding
from maskcli.tensors import Kind
from maskcli.tracing.facts import Facts

# Rules on what is seen beyond a window.
BEYOND = frozenset({"MSK111", "MSK204", "MSK213"})


class Windows:
    """Who names windows that some layer was seen to keep: its other layers may be global ones."""

    def __init__(self) -> None:
        self._kept: set[str] = set()

    def note(self, findings: list[Finding], facts: Facts, kind: Kind, keys: int) -> None:
        """A call over so many keys was checked."""
        config, plain = facts.windows, facts.plain
        if config is None or plain is None or plain.each or kind not in ("self", "decoder"):
            return
        # Any other error may be in the way of telling.
        if keys > plain.keys and not any(finding.code in BEYOND for finding in findings):
            self._kept.add(config.source)

    def stands(self, finding: Finding) -> bool:
        """Whether a finding stands: false for a window that only some layers have."""
        by_kept = any(source in text for source in self._kept for text in finding.known)
        return finding.code not in BEYOND or not by_kept
