"""Row numbers of findings, one a line, as scripts read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from maskcli.arrays import Array
from maskcli.auditing.results import Audited
from maskcli.report.terminal import clean, output, write

# Numbers that become text at a time.
BLOCK = 65_536


def write_rows(sets: Sequence[Audited], several: bool, path: str | None) -> None:
    """All rows with a finding, each once; of `several` files each line begins with its file and a tab."""
    with output(path) as stream:
        for audited in sets:
            write(_lines(audited, several), stream)


def _lines(audited: Audited, several: bool) -> Iterator[str]:
    for file, numbers in _rows(audited).items():
        before = f"{clean(file)}\t" if several else ""
        for at in range(0, len(numbers), BLOCK):
            yield "".join(f"{before}{number}\n" for number in numbers[at : at + BLOCK].tolist())


def _rows(audited: Audited) -> dict[str, Array]:
    """The rows of all findings by file."""
    files: dict[str, list[Array]] = {}
    for told in audited.findings:
        for file, numbers in told.where.items():
            files.setdefault(file, []).append(numbers)
    return {file: np.unique(np.concatenate(numbers)) for file, numbers in files.items()}
