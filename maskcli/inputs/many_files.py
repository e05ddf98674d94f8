"""Check files in order, in this process or in several: a bad file stops none of the others."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from maskcli.diagnostics.declare import Meaning, declare
from maskcli.diagnostics.diagnose import Report, diagnose, scenes_of
from maskcli.diagnostics.finding import Finding
from maskcli.diagnostics.unchecked import FILE
from maskcli.errors import MaskcliError, is_internal, sentence
from maskcli.inputs.nans import nans_in_words
from maskcli.inputs.operands import resolver
from maskcli.inputs.spread import Workers, spread
from maskcli.inputs.tasks import Task, open_roled
from maskcli.masks.spec import write
from maskcli.meant.facts import Said
from maskcli.measure.passes import watcher
from maskcli.scene.scene import Scene
from maskcli.tensors import Roled, TensorFile, shown

# Files for which a further process pays: it starts in the time that many small ones take, and threads share
# the large ones.
WORTH_A_PROCESS = 32

Advance = Callable[[int], None]


class Checked(NamedTuple):
    """What became of a file: its report, or the sentence that says why there is none."""

    file: str
    report: Report | None
    error: str | None = None


def processes(tasks: Sequence[Task], asked: int | None) -> int:
    """How many processes share the files: as many as are asked for, else as pay off."""
    paying = max(1, min(os.cpu_count() or 1, len(tasks) // WORTH_A_PROCESS))
    return min(asked or paying, len(tasks))


def check_files(
    tasks: Sequence[Task], workers: Workers, said: Said, meaning: Meaning, advance: Advance | None = None
) -> Generator[Checked, None, None]:
    """What becomes of each file, in order, by some workers; `advance` is told of bytes that are done.

    `meaning` is what `said` declares. Close the iterator when it is left early: that ends the processes at
    once.
    """
    if not workers.are_others:
        for task in tasks:
            yield _watched(task, meaning, advance)
        return
    with closing(spread(partial(_checker, said), tasks, workers, _killed)) as results:
        for task, checked in zip(tasks, results, strict=True):
            if advance is not None:
                advance(task.size)
            yield checked


def _checker(said: Said) -> Callable[[Task], Checked]:
    """What checks files in another process, by what was declared here."""
    return partial(check_file, meaning=declare(**said))


def _killed(task: Task) -> Checked:
    """What is said of a file that a process did not outlive."""
    why = "the process that checked it was killed, perhaps for want of memory; pass fewer --jobs"
    return Checked(shown(task.path), None, why)


def check_file(task: Task, meaning: Meaning) -> Checked:
    """Check one file; what goes wrong is a sentence (with MASKCLI_DEBUG=1 an internal error is raised)."""
    try:
        return Checked(shown(task.path), report_of(task, meaning))
    except Exception as error:
        if is_internal(error) and os.environ.get("MASKCLI_DEBUG"):
            raise
        return Checked(shown(task.path), None, sentence(error))


def report_of(task: Task, meaning: Meaning) -> Report:
    """The report on one file. Raises MaskcliError when nothing in it can be checked."""
    file, roled = open_roled(task)
    report = judged(file, roled, meaning)
    if not report.checked:
        unread = [each.why for each in report.unchecked if each.what == FILE]
        if unread:
            raise MaskcliError(unread[0] + (f" ({len(unread)} files are so)" if len(unread) > 1 else ""))
        raise MaskcliError(
            f"nothing to check in {shown(task.target)!r}: no tensor is attention weights, a mask or "
            f"ids{first_unfit(report)}{nans_in_words(roled)}; name them (attentions.0, attention_mask) or "
            "say what they are with --role weights=FILE:TENSOR"
        )
    return report


def judged(file: TensorFile, roled: tuple[Roled, ...], meaning: Meaning) -> Report:
    """What is found in tensors of known roles, against what was meant."""
    resolve = resolver(meaning.declared.convention)
    report = diagnose(file, meaning.declared, roled, resolve, meaning.token, meaning.codes)
    weights = {each.tensor.name for each in roled if each.role == "weights"}
    return replace(report, findings=tuple(_looking(each, weights, meaning) for each in report.findings))


def _looking(finding: Finding, weights: Collection[str], meaning: Meaning) -> Finding:
    """A finding whose command shows tokens by their names, and what its weights should be."""
    part = finding.excerpt
    if part is None or part.tensor not in weights or not finding.see.startswith("maskcli inspect"):
        return finding
    see = finding.see
    if meaning.tokenizer is not None and any(each.token for each in (*part.queries, *part.keys)):
        see += f" -t {shlex.quote(meaning.tokenizer)}"
    for each in meaning.declared.expect:
        pattern = f"{each.pattern}=" if each.pattern else ""
        see += f" --expect {shlex.quote(pattern + write(each.spec))}"
    return replace(finding, see=see)


def scenes_again(tasks: Sequence[Task], meaning: Meaning) -> Iterator[Scene]:
    """The scenes of the files that can be checked, for what draws them."""
    for task in tasks:
        with suppress(MaskcliError):
            file, roled = open_roled(task)
            yield from scenes_of(file, meaning.declared, roled, resolver(meaning.declared.convention))


def first_unfit(report: Report) -> str:
    """The first tensor that could not be checked and why, in brackets; nothing when there is none."""
    return "".join(f" ({name}: {reason})" for name, reason in list(report.unfit.items())[:1])


def _watched(task: Task, meaning: Meaning, advance: Advance | None) -> Checked:
    """`check_file`, which tells `advance` of the file's bytes as they are read, all of them in the end."""
    if advance is None:
        return check_file(task, meaning)
    left, lock = task.size, threading.Lock()

    def told(count: int) -> None:
        nonlocal left
        with lock:
            count = min(count, left)
            left -= count
        advance(count)

    watching = watcher.set(told)
    try:
        return check_file(task, meaning)
    finally:
        watcher.reset(watching)
        advance(left)
