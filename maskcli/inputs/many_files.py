"""Check files, each by itself, in this process or in several: a bad file stops none of the others, and the order stays."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import NamedTuple

from maskcli.diagnostics.declare import Meaning, Said, declare
from maskcli.diagnostics.diagnose import Report, diagnose
from maskcli.errors import MaskcliError, is_internal, sentence
from maskcli.inputs.operands import resolver
from maskcli.measure.passes import THREADS, threads, watcher
from maskcli.tensors import Roled, TensorFile, find_tensor, open_tensors, parse_role, roles_of, split_target

# Files handed out for each process: one to work on and one to go on with. More would pile up reports behind a slow file.
AHEAD = 2
# Files for which a further process pays: it starts in the time that many small ones take, and threads share the large ones.
WORTH_A_PROCESS = 32

Advance = Callable[[int], None]


class Task(NamedTuple):
    """A file to check, `FILE[:TENSOR]`, and what --role says of its tensors, `ROLE=FILE[:TENSOR]` each."""

    target: str
    roles: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The file."""
        return split_target(self.target)[0]

    @property
    def size(self) -> int:
        """Its bytes; 0 where there is no such file."""
        try:
            return os.stat(self.path).st_size
        except (OSError, ValueError):
            return 0


class Checked(NamedTuple):
    """What became of a file: its report, or the sentence that says why there is none."""

    file: str
    report: Report | None
    error: str | None = None


def check_files(
    tasks: Sequence[Task], jobs: int, said: Said, meaning: Meaning, advance: Advance | None = None
) -> Generator[Checked, None, None]:
    """What becomes of each file, in their order, by `jobs` processes; `advance` is told of the bytes that are done.

    `meaning` is what `said` declares. Close the iterator when it is left early: that ends the processes at once.
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
    """Check one file; whatever goes wrong with it is a sentence (with MASKCLI_DEBUG=1 an internal error is raised)."""
    try:
        file, roled = open_roled(task)
        report = diagnose(
            file, meaning.declared, roled, resolver(meaning.declared.convention), meaning.token, meaning.codes
        )
        if not report.checked:
            why = "".join(f" ({name}: {reason})" for name, reason in list(report.unfit.items())[:1])
            raise MaskcliError(
                f"nothing to check in {task.target!r}: no tensor is attention weights, a mask or ids{why}; name them "
                "(attentions.0, attention_mask) or say what they are with --role weights=FILE:TENSOR"
            )
    except Exception as error:
        if is_internal(error) and os.environ.get("MASKCLI_DEBUG"):
            raise
        return Checked(task.path, None, sentence(error))
    return Checked(task.path, report)


def open_roled(task: Task) -> tuple[TensorFile, tuple[Roled, ...]]:
    """A file and the role of every tensor, --role above names; tensors of other files join."""
    path, name = split_target(task.target)
    file = open_tensors(path)
    if name is not None:
        file = dataclasses.replace(file, tensors=(find_tensor(file, name),))
    roled = roles_of(file)
    for text in task.roles:
        role, path, name = parse_role(text)
        source = open_tensors(path)
        if name is None and len(source.tensors) != 1:
            raise MaskcliError(
                f"--role {text!r}: {path!r} has {len(source.tensors)} tensors; say which: {role}={path}:NAME"
            )
        tensor = find_tensor(source, name) if name else source.tensors[0]
        known = [each for each in roled if source.path != file.path or each.tensor.name != tensor.name]
        (found,) = roles_of(dataclasses.replace(source, tensors=(tensor,)))
        roled = (*known, dataclasses.replace(found, role=role, why="--role"))
    return file, roled


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
    """Check files in processes, in order. The processes end with the iterator, at once when it is left early."""
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
    """Make a new process ready: what was declared, its share of the cores, and an end when its parent is gone."""
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
