"""Tasks spread over processes, of this machine or of a Dask cluster: results in their order, as they come."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from maskcli.errors import MaskcliError
from maskcli.measure.passes import THREADS, threads

# Tasks handed out for each process: one to work on and one to go on with. More would pile up results behind a
# slow task.
AHEAD = 2

# Seconds between looks at whether a result can still come.
WAIT = 1.0
NO_MORE = "--jobs: no more processes or threads can be started here ({}); pass 1, or raise ulimit -u"

Task = TypeVar("Task")
Result = TypeVar("Result")
Handed = TypeVar("Handed")
Work = Callable[[Task], Result]


class Workers(NamedTuple):
    """Who works: so many processes of this machine, or the workers of the Dask scheduler at an address."""

    jobs: int = 1
    dask: str | None = None

    @property
    def are_others(self) -> bool:
        """Whether there are others than this process."""
        return self.jobs > 1 or self.dask is not None


def spread(
    make: Callable[[], Work[Task, Result]],
    tasks: Sequence[Task],
    workers: Workers,
    killed: Work[Task, Result],
) -> Generator[Result, None, None]:
    """The result of each task, in the order of tasks and as they come; few are held at a time.

    `make` makes what does a task, once in each process; it and the tasks are pickled. A process that is
    killed loses its tasks alone, which are done again; one that keeps being killed by a task has as its
    result what `killed` says of it. Close the iterator when it is left early: that ends the processes at
    once. Raises MaskcliError where a scheduler cannot be used, and what tasks raise.
    """
    if workers.dask is not None:
        from maskcli.inputs.cluster import over_dask

        yield from over_dask(pickle.dumps(make), tasks, workers.dask, killed)
    elif workers.jobs > 1:
        yield from _over_processes(pickle.dumps(make), tasks, workers.jobs, killed)
    else:
        yield from map(make(), tasks)


def work_on(recipe: bytes, task: Any) -> Any:
    """Do a task in another process, by what was pickled for it."""
    return _made(recipe)(task)


@lru_cache(maxsize=1)
def _made(recipe: bytes) -> Callable[[Any], Any]:
    """What does tasks, made once."""
    work: Callable[[Any], Any] = pickle.loads(recipe)()
    return work


def in_order(submit: Callable[[Task], Handed], tasks: Sequence[Task], ahead: int) -> Iterator[Handed]:
    """What was handed out for each task, in order, so many tasks ahead of the next result."""
    pending: deque[Handed] = deque()
    for task in tasks:
        pending.append(submit(task))
        if len(pending) == ahead:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _over_processes(
    recipe: bytes, tasks: Sequence[Task], jobs: int, killed: Work[Task, Result]
) -> Iterator[Result]:
    """Results from processes of this machine."""
    done = 0
    while done < len(tasks):
        try:
            for result in _pool(partial(work_on, recipe), tasks[done:], jobs):
                done += 1
                yield result
        except BrokenExecutor:
            # A process was killed. If it was the next task's own fault, that one alone comes to the same end.
            yield _alone(recipe, tasks[done], killed)
            done += 1


def _alone(recipe: bytes, task: Task, killed: Work[Task, Result]) -> Result:
    """Do a task in a process of its own, whose death is the task's fault."""
    result: Result
    try:
        (result,) = _pool(partial(work_on, recipe), [task], 1)
    except BrokenExecutor:
        _check_start()
        return killed(task)
    return result


def _check_start() -> None:
    """Raise MaskcliError where processes end before they do anything, for whatever task."""
    try:
        list(_pool(abs, [0], 1))
    except BrokenExecutor as error:
        raise MaskcliError(NO_MORE.format("they end as they begin")) from error


def _pool(work: Callable[[Any], Any], tasks: Sequence[Any], jobs: int) -> Iterator[Any]:
    """Results from a pool of processes, which end with the iterator, at once when it is left early."""
    # One task needs neither.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    share = max(1, THREADS // jobs)
    program = contextlib.nullcontext() if b"__main__" in pickle.dumps(work) else _Unseen()
    with _startable():
        pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (share,))

    def submit(task: Any) -> Future[Any]:
        with _uninterrupted(), _startable(), program:
            return pool.submit(work, task)

    try:
        with _ended_threads() as ended:
            for pending in in_order(submit, tasks, AHEAD * jobs):
                yield _result(pending, ended)
        pool.shutdown()
    except BaseException:
        for child in multiprocessing.active_children():
            child.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise


@contextlib.contextmanager
def _startable() -> Iterator[None]:
    """A sentence where no process, or no thread that looks after it, can be started."""
    try:
        yield
    except BrokenExecutor:
        raise
    except (RuntimeError, OSError) as error:
        raise MaskcliError(NO_MORE.format(getattr(error, "strerror", None) or error)) from error


@contextlib.contextmanager
def _ended_threads() -> Iterator[list[str]]:
    """What ends threads of this process meanwhile, as it is noted: nobody else would say it."""
    before, ended = threading.excepthook, list[str]()
    threading.excepthook = lambda told: ended.append(str(told.exc_value))
    try:
        yield ended
    finally:
        threading.excepthook = before


def _result(pending: Future[Any], ended: list[str]) -> Any:
    """A result once it is there; it never is when the thread that fetches it has ended."""
    while not wait([pending], WAIT).done:
        if ended:
            raise MaskcliError(NO_MORE.format(ended[0]))
    return pending.result()


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


class _Unseen:
    """Processes that start here do not run the caller's program again, which may start some or be no file."""

    def __enter__(self) -> None:
        self._program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")

    def __exit__(self, *_: object) -> None:
        sys.modules["__main__"] = self._program


def _start(share: int) -> None:
    """Make a new process ready: its share of the cores, and its parent's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where no thread can be started, it ends with its last task.
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=_follow, daemon=True).start()
    threads.set(share)


def _follow() -> None:
    """End this process when its parent has ended, however that happened."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
