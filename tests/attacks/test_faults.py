"""Faults of the machine: an output is the old one or a whole new one, and what went wrong is one sentence."""

import functools
import operator
import os
import random
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from maskcli.errors import MaskcliError
from maskcli.inputs.spread import Workers, spread
from maskcli.measure import passes
from maskcli.measure.passes import each_chunk
from maskcli.tensors import from_array
from tests.cli.running import DATA, ROOT, refused, run

OLD = b"what was here before"
SICK = DATA / "minilm_attn_nomask.safetensors"
SHOW = ("show", "--lengths", "40")
DIAGNOSE = ("diagnose", SICK, "--exit-zero")
DIFF = ("diff", "causal", "full", "--lengths", "40")
LOOK = ("inspect", f"{SICK}:attentions.0")
# Each form, by the code that writes it.
WRITERS = [
    (SHOW, "json"), (SHOW, "pt"), (DIAGNOSE, "pdf"), (SHOW, "npy"), (DIFF, "md"), (LOOK, "png"), (SHOW, "npz"), (SHOW, "csv"),
    (SHOW, "pdf"), (SHOW, "safetensors"), (DIAGNOSE, "json"), (DIFF, "pdf"), (SHOW, "html"), (LOOK, "json"), (LOOK, "pdf"),
    (SHOW, "txt"), (DIAGNOSE, "jsonl"), (SHOW, "svg"), (DIAGNOSE, "xml"), (DIAGNOSE, "html"),
]  # fmt: skip
ENDS = [signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP]
# A writer that ends, by a signal, in the middle of its work.
KILLED = """
import os, signal, sys
from maskcli.tensors.atomic import replacing
with replacing(sys.argv[1]) as path:
    open(path, "w").write("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def named(value):
    return value if isinstance(value, str) else getattr(value, "name", None) or value[0]


def killed_while_writing(path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -9


def test_the_next_writer_sweeps_what_a_killed_one_left(tmp_path):
    target = tmp_path / "mask.json"
    target.write_bytes(OLD)
    killed_while_writing(target)
    (left,) = set(tmp_path.iterdir()) - {target}
    assert left.name.startswith(".mask.")
    assert target.read_bytes() == OLD

    run("show", "--lengths", "3", "-o", tmp_path / "other.json", check=0)
    assert left.exists(), "it is of another output"
    # Of a writer that lives, this process.
    living = left.with_name(
        ".".join([*left.name.split(".")[:3], str(os.getpid()), *left.name.split(".")[4:]])
    )
    living.write_text("half")

    run("show", "--lengths", "3", "-o", target, check=0)
    assert {path.name for path in tmp_path.iterdir()} == {"mask.json", "other.json", living.name}


@pytest.mark.combinations
@pytest.mark.parametrize(("command", "form"), WRITERS, ids=named)
def test_a_full_disk_leaves_the_old_file(tmp_path, command, form):
    target = tmp_path / f"mask.{form}"
    target.write_bytes(OLD)
    sentence = refused(*command, "-o", target, fault={"limits": {"FSIZE": 16}})
    assert f"'{target}' cannot be written, it would be larger than a file may be here" in sentence
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(target.name, OLD)]


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("command", "form", "end"),
    [(*WRITERS[at % len(WRITERS)], ENDS[at % 4]) for at in range(0, 3 * len(WRITERS), 3)],
    ids=named,
)
def test_a_signal_at_any_moment_leaves_the_old_or_the_new_file(tmp_path, command, form, end):
    target = tmp_path / f"mask.{form}"
    run(*command, "-o", target)
    size = target.stat().st_size
    target.write_bytes(OLD)
    moment = random.uniform(0.02, 0.3)
    done = run(*command, "-o", target, fault={"ended": [end, moment]})
    whole = target.stat().st_size > 0.9 * size
    # Before and after it is at work, it dies as any other.
    codes = {-end} if end == signal.SIGKILL else {128 + end, -end}
    assert done.returncode in codes | ({0, 1} if whole else set()), (moment, done.stderr)
    assert whole or target.read_bytes() == OLD, moment
    assert end == signal.SIGKILL or list(tmp_path.iterdir()) == [target]
    assert done.stderr.strip() in ("", "maskcli: interrupted."), moment


WORDS = {
    "full": ({"led": [[1, "/dev/full"]]}, 2, "the disk is full; free some space.\n"),
    "broken": ({"broken": [1]}, 141, ""),
}


@pytest.mark.parametrize("fault", WORDS)
@pytest.mark.parametrize(
    "command", [("--version",), ("show", "--help"), SHOW, ("diagnose", SICK, "--format", "jsonl")], ids=named
)
def test_standard_output_that_takes_nothing(command, fault):
    suffered, code, ending = WORDS[fault]
    done = run(*command, fault=suffered, check=code)
    assert done.stderr.endswith(ending)
    assert done.stderr.count("\n") == ending.count("\n")


@pytest.mark.parametrize("fault", [{"led": [[2, "/dev/full"]]}, {"broken": [2]}, {"closed": [2]}], ids=str)
def test_standard_error_that_takes_nothing_leaves_the_exit_code(fault):
    assert run("rule", "MSK999", fault=fault, check=2).stdout == ""
    assert run(*SHOW, "--format", "json", fault=fault, check=0).stdout.startswith("{")


def test_standard_streams_may_be_closed(tmp_path):
    closed = {"closed": [0, 1, 2]}
    run(*SHOW, "-o", tmp_path / "mask.json", fault=closed, check=0)
    assert run(*SHOW, "-o", "-", "--format", "json", check=0).stdout == (tmp_path / "mask.json").read_text()
    assert "standard output is closed" in refused(*SHOW, fault={"closed": [1]})
    assert "standard input is closed" in refused("show", "-", fault={"closed": [0]})


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_is_cut_short_on_its_way_is_said(tmp_path, unbuffered):
    """Without a buffer Python writes what fits and says nothing of the rest."""
    import resource

    command = [sys.executable, "-m", "maskcli", *SHOW, "--format", "json"]
    with open(tmp_path / "cut.json", "wb") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.PIPE, cwd=ROOT, check=False, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("maskcli: standard output cannot be written")
    assert done.stderr.count("\n") == 1


def test_a_pipe_may_be_named_as_a_descriptor():
    whole = run(*SHOW, "--format", "json", check=0).stdout
    assert run(*SHOW, "--format", "json", "-o", "/dev/fd/1", check=0).stdout == whole


HOSTILE = b"text.usetex: True\nbackend: nonsense\nsavefig.dpi: no\n\xff\xfe"


def test_no_settings_of_a_folder_change_a_picture(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    run("show", "a b", "-o", tmp_path / "plain.svg", check=0)
    (folder / "matplotlibrc").write_bytes(HOSTILE)
    settings = {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(folder / "matplotlibrc")}
    done = run("show", "a b", "-o", tmp_path / "other.svg", cwd=folder, **settings, check=0)
    assert done.stderr == ""
    plain, other = ((tmp_path / name).stat().st_size for name in ("plain.svg", "other.svg"))
    assert abs(plain - other) < 100


def test_a_signal_that_a_library_swallows_ends_the_run(monkeypatch, tmp_path):
    """C code makes errors of its own of what a signal raises, or goes on."""
    from maskcli import signals
    from maskcli.tensors import replacing

    monkeypatch.setattr(signals, "_CAME", [signal.SIGTERM])
    with pytest.raises(SystemExit) as stop, replacing(tmp_path / "mask.json"):
        pass
    assert stop.value.code == 143
    assert not list(tmp_path.iterdir())


class Threads:
    """Threads of which so many can be started."""

    def __init__(self, most):
        self.left, self.start = most, threading.Thread.start

    def __call__(self, thread):
        if not self.left:
            raise RuntimeError("can't start new thread")
        self.left -= 1
        self.start(thread)


@pytest.mark.parametrize("most", [0, 1])
def test_jobs_without_threads_are_a_sentence(monkeypatch, most):
    """With one, what looks after the processes starts, and what hands them their tasks does not."""
    threads = Threads(most)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: threads(thread))
    negated = functools.partial(functools.partial, operator.neg)
    with pytest.raises(MaskcliError, match="no more processes or threads can be started here"):
        list(spread(negated, [1, 2, 3], Workers(2), str))


@pytest.mark.parametrize("most", [0, 1])
def test_a_pass_takes_the_threads_that_it_gets(monkeypatch, most):
    limited = Threads(most)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: limited(thread))
    monkeypatch.setattr(passes, "CHUNK_CELLS", 8)
    token = passes.threads.set(4)
    seen = []
    each_chunk(
        from_array("weights", np.ones((1, 1, 16, 4))),
        (1, 1, 16, 4),
        lambda chunk: seen.append(chunk.values.sum()),
    )
    passes.threads.reset(token)
    assert sum(seen) == 64
