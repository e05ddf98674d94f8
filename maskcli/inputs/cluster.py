"""Tasks on a Dask cluster: workers on this machine or on others, which a scheduler's address names."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from maskcli.errors import MaskcliError
from maskcli.extras import needing
from maskcli.inputs.spread import AHEAD, in_order, work_on
from maskcli.measure.passes import THREADS, threads

# Seconds in which a scheduler answers.
PATIENCE = 10
# Seconds between two looks at whether there are workers left.
LOOK = 5
# What has to be the same on both sides, and how much of its version: results are pickled.
SAME = {"python": 2, "maskcli": 3, "numpy": 1, "distributed": 3}

Task = TypeVar("Task")
Result = TypeVar("Result")


class _Pending(NamedTuple):
    """A task and its result to come."""

    task: Any
    future: Any


def over_dask(
    recipe: bytes, tasks: Sequence[Task], address: str, killed: Callable[[Task], Result]
) -> Iterator[Result]:
    """Results from the workers of a cluster, as `maskcli.inputs.spread.spread` gives them.

    What a worker that is lost had to do goes to the others; a task is `killed` when it has cost as many
    workers as the scheduler allows (`distributed.scheduler.allowed-failures`). Raises MaskcliError where
    nothing answers at the address, workers differ in their versions, or none is left.
    """
    with needing("distributed", "a Dask cluster"):
        from distributed import KilledWorker

    with _connected(address) as client:
        slots = sum(_checked(client, address).values())

        def submit(task: Task) -> _Pending:
            return _Pending(task, client.submit(_work_on, recipe, [task], pure=False))

        for task, future in in_order(submit, tasks, AHEAD * slots):
            try:
                yield _awaited(client, future, address)
            except KilledWorker:
                yield killed(task)


def _work_on(recipe: bytes, task: list[Any]) -> Any:
    """Do a task on a worker, which shares the cores of its machine among its threads."""
    from distributed import get_worker

    threads.set(max(1, THREADS // get_worker().state.nthreads))
    return work_on(recipe, task[0])


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """A client of a scheduler; what the library says of its own is left out."""
    from distributed import Client

    with _quietly():
        try:
            # A client that cannot connect complains on its own, much later.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, _reached(address)).result()
            with warnings.catch_warnings():
                # Of versions that differ, which are looked at anyway.
                warnings.simplefilter("ignore")
                client = Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError, TypeError, asyncio.TimeoutError) as error:
            raise MaskcliError(
                f"no Dask scheduler answers at {address!r}: start one (dask scheduler), and pass its "
                "address, such as tcp://10.0.0.1:8786"
            ) from error
        try:
            yield client
        finally:
            with suppress(asyncio.TimeoutError):
                client.close(timeout=1)


async def _reached(address: str) -> None:
    """Something that speaks as Dask does answers at an address; OSError or ValueError when not."""
    from distributed.comm import connect

    comm = await connect(address, timeout=PATIENCE)
    await comm.close()


@contextmanager
def _quietly() -> Iterator[None]:
    """What is lost is told in a result or a sentence, and not a second time by the library."""
    log = logging.getLogger("distributed")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _checked(client: Any, address: str) -> Mapping[str, int]:
    """How many tasks each worker does at a time; all of them have the versions of this process."""
    told = client.get_versions(packages=["maskcli"])
    mine = told["client"]["packages"]
    for worker, theirs in told["workers"].items():
        for name, parts in SAME.items():
            here, there = mine.get(name), theirs["packages"].get(name)
            if _short(here, parts) != _short(there, parts):
                raise MaskcliError(
                    f"the Dask worker {worker} has {name} {there or 'not at all'}, and this process {here}: "
                    "install the same on both"
                )
    slots: Mapping[str, int] = client.nthreads()
    if not slots:
        raise _without_workers(address)
    return slots


def _short(version: str | None, parts: int) -> tuple[str, ...]:
    """The first parts of a version."""
    return tuple((version or "").split(".")[:parts])


def _awaited(client: Any, future: Any, address: str) -> Any:
    """A result, as long as there are workers to wait for."""
    from distributed.comm import CommClosedError

    try:
        while True:
            try:
                return future.result(timeout=LOOK)
            except asyncio.TimeoutError:
                if not client.nthreads():
                    raise _without_workers(address) from None
    except (asyncio.CancelledError, CommClosedError) as error:
        raise MaskcliError(f"the Dask scheduler at {address!r} has ended: start it, and run again") from error


def _without_workers(address: str) -> MaskcliError:
    return MaskcliError(
        f"the Dask scheduler at {address!r} has no workers: start some (dask worker {address})"
    )
