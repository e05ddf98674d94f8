"""Exact tests of whole runs: what some tokens may not see changes, and nothing of theirs may change but
rounding.

- X1: the texts of other rows
- X2: what stands in padding
- X4: the tokens that follow
- X5: another packed document

All runs are of one shape, so that what does not depend on a change has the same bits. (X3, that every real
key reaches somebody, is what the masks of layers tell.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Compared
from maskcli.masks.spec import kinds_in
from maskcli.probing.activations import difference, noise_of
from maskcli.probing.plan import ROWS, Plan
from maskcli.probing.runs import Run
from maskcli.probing.subject import Subject
from maskcli.probing.whole import by_token, compared, outputs_of, real_outputs

if TYPE_CHECKING:
    from torch import Tensor


def exact(subject: Subject, plan: Plan, run: Run) -> list[Compared]:
    """The exact tests that a run allows: first several at once, one for each row, and one by one if any
    differs.
    """
    base = outputs_of(subject, run)
    causal = is_causal(subject, plan)
    tests = list(_tests(run, base, causal))
    if subject.real is not None:
        # Padding that is known by its id is padding no more when that is changed.
        return [_changed(subject, run, test, base) for test in tests if test.test != "X2"]
    together = [_changed(subject, run, test, base) for test in _turns(run, base, causal)]
    if all(each.agrees for each in together):
        return together
    return [_changed(subject, run, test, base) for test in tests]


class _Test(NamedTuple):
    """A test: the cells [B, S] of the content to change, and the outputs [B, S] that may not notice.

    `name` says which argument, None for every one of that length.
    """

    test: str
    what: str
    cells: Array
    kept: Array
    name: str | None = None


def _turns(run: Run, base: Tensor, causal: bool) -> Iterator[_Test]:
    """Each row in every part once: all of it changes, or what follows a token, or what stands in padding."""
    size = run.length()
    one_text = len(run.content) == 1 and base.shape[1] == size
    if run.rows < ROWS or not one_text or run.documents is not None:
        yield from _tests(run, base, causal)
        return
    real = real_outputs(run, base)
    for turn, last in enumerate((0, size // 2, size - 2)):
        whole, later, padding = ((turn + step) % ROWS for step in range(ROWS))
        cells = np.zeros((run.rows, size), bool)
        cells[whole] = True
        cells[padding] = ~real[padding]
        kept = real.copy()
        kept[whole] = False
        if causal:
            cells[later, last + 1 :] = True
            kept[later, last + 1 :] = False
        names = "other rows, padding and the tokens that follow" if causal else "other rows and padding"
        yield _Test("X1+X2+X4" if causal else "X1+X2", f"{names} changed", cells, kept)


def _tests(run: Run, base: Tensor, causal: bool) -> Iterator[_Test]:
    """One test after another."""
    rows, length = base.shape[:2]
    real = real_outputs(run, base)
    everything = slice(None)
    if run.rows > 1:
        for row, others in ((slice(0, 1), slice(1, None)), (slice(1, None), slice(0, 1))):
            for name in run.content:
                cells = _flags(run.rows, run.length(name), row, everything)
                kept = _flags(rows, length, others, everything)
                yield _Test("X1", "the texts of other rows changed", cells, kept & real, name)
    if run.real is not None:
        yield _Test("X2", "what stands in padding changed", ~run.real, real)
    if run.documents is not None and by_token(run, base):
        first = run.documents == run.documents.min()
        for cells in (first, ~first):
            yield _Test("X5", "another document changed", cells, ~cells)
    if causal and by_token(run, base):
        yield from _later(run, real)


def _later(run: Run, real: Array) -> Iterator[_Test]:
    """What follows a token changes, for one token after another."""
    name = run.content[-1]
    size = run.length(name)
    everything = slice(None)
    for last in dict.fromkeys((0, size // 2, size - 2)):
        cells = _flags(run.rows, size, everything, slice(last + 1, None))
        kept = _flags(len(real), real.shape[1], everything, slice(0, last + 1))
        yield _Test("X4", f"the tokens behind token {last} changed", cells, kept & real, name)


def is_causal(subject: Subject, plan: Plan) -> bool:
    """Whether nobody may see what follows: by the user's word, else by the configuration."""
    plain = [each for each in plan.declared.expect if each.pattern is None]
    if plain:
        return bool({"causal", "sliding", "chunked"} & kinds_in(plain[-1].spec))
    return subject.is_causal


def _flags(rows: int, length: int, some: slice, tokens: slice) -> Array:
    flags = np.zeros((rows, length), bool)
    flags[some, tokens] = True
    return flags


def _changed(subject: Subject, run: Run, test: _Test, base: Tensor) -> Compared:
    """Change some tokens, and compare the outputs that may not notice."""
    length = test.cells.shape[1]
    names = [test.name] if test.name else [each for each in run.content if run.length(each) == length]
    changed: dict[str, Any] = {}
    for each in names:
        changed |= run.moved(subject, test.cells, each)
    gap = difference(outputs_of(subject, run, changed), base).cpu().numpy()
    return compared(test.test, test.what, run.setting, np.where(test.kept, gap, 0), noise_of(base))
