"""diagnose --dask: the report of one process, whatever becomes of the workers; and what cannot be, in one sentence."""

import json
import os
import signal
import sys
import time
from functools import partial

import numpy as np
import pytest

from maskcli.auditing.audit import Asked, audit_table
from maskcli.diagnostics.declare import declare
from maskcli.errors import MaskcliError
from maskcli.inputs import cluster
from maskcli.inputs.many_files import check_files
from maskcli.inputs.spread import Workers, spread
from maskcli.inputs.tasks import tasks_of
from maskcli.tables import open_tables
from tests.cli.running import refused, run
from tests.cli.test_many_files import SICK, dump

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")
# Of a worker's process: what it costs to start one anew is not what is tested.
QUIET = {"dashboard_address": None, "worker_dashboard_address": None, "silence_logs": 50}


@pytest.fixture(scope="module")
def local():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **QUIET) as made,
    ):
        yield made


@pytest.fixture
def folder(tmp_path):
    for at in range(6):
        dump(tmp_path / "dumps" / f"{at}.safetensors", leaks=at % 2 == 1, length=8 + at)
    np.save(tmp_path / "dumps" / "9.npy", np.zeros((3, 3)))
    return tmp_path / "dumps"


@pytest.mark.long
def test_the_command_prints_what_one_process_prints(local, folder):
    plain, spread_out = (
        run("diagnose", folder, SICK, "--format", "jsonl", *more, check=2, fresh=True)
        for more in ((), ("--dask", local.scheduler_address))
    )
    assert spread_out.stdout == plain.stdout
    assert spread_out.stderr == plain.stderr


@pytest.mark.long
def test_a_worker_that_is_lost_changes_nothing(local, folder):
    tasks = tasks_of([str(folder)]) * 4
    alone = list(check_files(tasks, Workers(), {}, declare()))
    with distributed.Client(local) as client:
        process = next(iter(client.run(os.getpid).values()))
    found = []
    for checked in check_files(tasks, Workers(dask=local.scheduler_address), {}, declare()):
        found.append(checked)
        if len(found) == 3:
            os.kill(process, signal.SIGKILL)
    assert len(alone) == 28
    assert found == alone


@pytest.mark.long
def test_an_audit_is_the_same_bit_for_bit(local, tmp_path):
    """Parts of a set are read by workers, of which one is lost; their counts are added in the order of the parts."""
    generator = np.random.default_rng(0)
    for part in range(8):
        with open(tmp_path / f"{part}.jsonl", "w") as file:
            for _ in range(40):
                ids = [int(each) for each in generator.integers(5, 99, generator.integers(4, 30))] + [2]
                labels = [-100, -100, *ids[2:-1], 2 if generator.random() < 0.8 else -100]
                print(json.dumps({"input_ids": ids, "labels": labels}), file=file)
    (table,) = open_tables([str(tmp_path)])
    meaning = declare(eos_id=2, pad_id=0)
    alone = audit_table(table, meaning, Asked(), Workers())
    with distributed.Client(local) as client:
        process = next(iter(client.run(os.getpid).values()))
    told = []

    def advance(size):
        told.append(size)
        if len(told) == 2:
            os.kill(process, signal.SIGKILL)

    assert audit_table(table, meaning, Asked(), Workers(dask=local.scheduler_address), advance) == alone
    assert len(told) == len(table.parts) == 8
    assert alone.findings


def deadly(poison):
    """What does tasks: one of them kills the process."""
    return lambda task: os.kill(os.getpid(), signal.SIGKILL) if task == poison else 2 * task


@pytest.mark.long
def test_a_task_that_kills_its_workers_is_told_and_the_others_are_done(local):
    workers = Workers(dask=local.scheduler_address)
    found = list(spread(partial(deadly, 2), range(5), workers, lambda task: f"{task} was killed"))
    assert found == [0, 2, "2 was killed", 6, 8]


@pytest.mark.long
def test_what_a_task_raises_is_raised_here(local):
    results = spread(partial(refusing, "so"), range(3), Workers(dask=local.scheduler_address), str)
    with pytest.raises(MaskcliError, match="so"):
        list(results)


def refusing(why):
    raise MaskcliError(why)


def test_other_versions_are_refused(local, monkeypatch):
    known = distributed.versions._version_cached
    older = {"maskcli": "0.0.0"}
    monkeypatch.setattr(distributed.versions, "_version_cached", lambda name: older.get(name, known(name)))
    with pytest.raises(
        MaskcliError, match=r"^the Dask worker tcp://\S+ has maskcli .*, and this process 0.0.0"
    ):
        next(spread(partial(deadly, 0), [1], Workers(dask=local.scheduler_address), str))


def test_a_cluster_without_workers_is_told():
    with (
        distributed.LocalCluster(n_workers=0, **QUIET) as empty,
        pytest.raises(MaskcliError, match="has no workers: start some"),
    ):
        next(spread(partial(deadly, 0), [1], Workers(dask=empty.scheduler_address), str))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://127.0.0.1", "nowhere", "http://x"])
def test_a_wrong_address_is_one_sentence(address, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    begun = time.monotonic()
    with pytest.raises(MaskcliError, match="no Dask scheduler answers at "):
        next(spread(partial(deadly, 0), [1], Workers(dask=address), str))
    assert time.monotonic() - begun < 10


def test_a_machine_without_dask_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MaskcliError, match=r'pip install "maskcli\[dask\]"'):
        next(spread(partial(deadly, 0), [1], Workers(dask="tcp://127.0.0.1:1"), str))


@pytest.mark.long
def test_jobs_and_a_cluster_exclude_each_other(folder):
    assert "--jobs and --dask both say" in refused("diagnose", folder, "--dask", "tcp://x:1", "--jobs", "2")
