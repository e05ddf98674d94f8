"""Check files in order, in this process or in several: a bad file stops none of the others."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import NamedTuple

from maskcli.diagnostics.declare import Meaning, declare
from maskcli.diagnostics.diagnose import Report, diagnose
from maskcli.diagnostics.unchecked import FILE
from maskcli.errors import MaskcliError, is_internal, sentence
from maskcli.inputs.operands import resolver
from maskcli.inputs.tasks import Task, open_roled
from maskcli.meant.facts import Said
from maskcli.measure.passes import THREADS, threads, watcher
from maskcli.tensors import Roled, TensorFile

# Files handed out for each process: one to work on and one to go on with. More would pile up reports behind a
# slow file.
AHEAD = 2
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
    tasks: Sequence[Task], jobs: int, said: Said, meaning: Meaning, advance: Advance | None = None
) -> Generator[Checked, None, None]:
    """What becomes of each file, in order, by `jobs` processes; `advance` is told of bytes that are done.

    `meaning` is what `said` declares. Close the iterator when it is left early: that ends the processes at
    once.
    """
    if jobs == 1:
        for task in tasks:
            yield _watched(task, meaning, advance)
        return
    done = 0
    while done < len(tasks):
        try:
            for checked in _spread(tasks[done:], jobs, said):
                if advance is not None:
                    advance(tasks[done].size)
                done += 1
                yield checked
        except BrokenExecutor:
            # A process was killed. If it was the next file's own fault, that one alone comes to the same end.
            yield _alone(tasks[done], said)
            done += 1


def check_file(task: Task, meaning: Meaning) -> Checked:
    """Check one file; what goes wrong is a sentence (with MASKCLI_DEBUG=1 an internal error is raised)."""
    try:
        return Checked(task.path, report_of(task, meaning))
    except Exception as error:
        if is_internal(error) and os.environ.get("MASKCLI_DEBUG"):
            raise
        return Checked(task.path, None, sentence(error))


def report_of(task: Task, meaning: Meaning) -> Report:
    """The report on one file. Raises MaskcliError when nothing in it can be checked."""
    file, roled = open_roled(task)
    report = judged(file, roled, meaning)
    if not report.checked:
        unread = [each.why for each in report.unchecked if each.what == FILE]
        if unread:
            raise MaskcliError(unread[0] + (f" ({len(unread)} files are so)" if len(unread) > 1 else ""))
        raise MaskcliError(
            f"nothing to check in {task.target!r}: no tensor is attention weights, a mask or "
            f"ids{first_unfit(report)}; name them (attentions.0, attention_mask) or say what they are with "
            "--role weights=FILE:TENSOR"
        )
    return report


def judged(file: TensorFile, roled: tuple[Roled, ...], meaning: Meaning) -> Report:
    """What is found in tensors of known roles, against what was meant."""
    resolve = resolver(meaning.declared.convention)
    return diagnose(file, meaning.declared, roled, resolve, meaning.token, meaning.codes)


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


def _alone(task: Task, said: Said) -> Checked:
    """Check one file in a process of its own, whose death is the file's fault."""
    try:
        (checked,) = _spread([task], 1, said)
    except BrokenExecutor:
        return Checked(
            task.path,
            None,
            "the process that checked it was killed, perhaps for want of memory; pass fewer --jobs",
        )
    return checked


def _spread(tasks: Sequence[Task], jobs: int, said: Said) -> Iterator[Checked]:
    """Check files in processes, in order; they end with the iterator, at once when it is left early."""
    # One file needs neither.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    share = max(1, THREADS // jobs)
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (said, share))
    pending: deque[Future[Checked]] = deque()
    try:
        for task in tasks:
            with _uninterrupted():
                pending.append(pool.submit(_work, task))
            if len(pending) == AHEAD * jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        pool.shutdown()
    except BaseException:
        for child in multiprocessing.active_children():
            child.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that start here leave Ctrl-C to their parent, which gets it when the block has ended."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# What was declared, in a process that checks files for another.
_meaning: Meaning


def _start(said: Said, share: int) -> None:
    """Make a new process ready: what was declared, its share of the cores, and its parent's end."""
    global _meaning
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()
    threads.set(share)
    _meaning = declare(**said)


def _follow() -> None:
    """End this process when its parent has ended, however that happened."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: Task) -> Checked:
    return check_file(task, _meaning)
