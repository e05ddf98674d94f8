"""Tensors of a running program, written into a folder, and the command that shows a finding in them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable

from maskcli.diagnostics.finding import Finding
from maskcli.tensors import Roled, source_of, write_tensors
from maskcli.tracing.calls import quietly

# Files that --save-all writes at most; a disk is full sooner than a long run is over.
MAX_SAVED = 10_000


class Folder:
    """Files in the order in which they are written; without a path, and when there are too many, none."""

    def __init__(self, path: str | None) -> None:
        self._path, self._saved = path, 0

    def write(self, tensors: Iterable[Roled], stem: str) -> str | None:
        """Write tensors to a file of their own; its path."""
        if self._path is None or self._saved >= MAX_SAVED:
            return None
        os.makedirs(self._path, exist_ok=True)
        name = re.sub(r"[^\w.-]", "_", stem)[:150]
        path = os.path.join(self._path, f"{self._saved:04d}-{name}.safetensors")
        self._saved += 1
        with quietly():
            write_tensors(path, {roled.tensor.name: source_of(roled.tensor) for roled in tensors})
        return path


def see(finding: Finding, path: str) -> str:
    """The command that shows a finding in a file of its tensors."""
    target = f"{path}:{finding.tensors[0]}" if finding.tensors else path
    spot = finding.places[0] if finding.places else finding.where
    parts = ["maskcli", "inspect", shlex.quote(target)]
    parts += [f"{name} {at[0]}" for name, at in (("--sample", spot.batch), ("--head", spot.heads)) if at]
    ranges = (("--rows", spot.queries), ("--keys", spot.keys))
    parts += [f"{name} {runs[0][0]}:{runs[-1][1]}" for name, runs in ranges if runs]
    return " ".join(parts)
