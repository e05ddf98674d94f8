"""Faults of the machine: an output is the old one or a whole new one, and what went wrong is one sentence."""

import functools
import json
import operator
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcli import signals
from maskcli.errors import MaskcliError
from maskcli.inputs.spread import Workers, spread
from maskcli.measure import passes
from maskcli.measure.passes import each_chunk
from maskcli.report.terminal import csv_line
from maskcli.tensors import files_of, from_array, open_tensors, replacing, torch_file
from maskcli.tensors.descriptors import MOST_OPEN
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
@pytest.mark.parametrize(("command", "form"), WRITERS, ids=named)
def test_a_folder_that_may_not_be_written_keeps_what_it_has(tmp_path, command, form):
    target = tmp_path / f"mask.{form}"
    target.write_bytes(OLD)
    tmp_path.chmod(0o555)
    sentence = refused(*command, "-o", target, fault={"ordinary": True})
    tmp_path.chmod(0o755)
    assert f"'{target}' cannot be written, this user may not write to '{tmp_path}'" in sentence
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(target.name, OLD)]


def test_a_file_that_may_not_be_read_stops_no_other(tmp_path):
    for name in "abc":
        np.save(tmp_path / f"{name}_mask.npy", np.tril(np.ones((4, 4), bool)))
    (tmp_path / "b_mask.npy").chmod(0)
    done = run("diagnose", tmp_path, fault={"ordinary": True}, check=2)
    assert done.stderr.endswith(
        "b_mask.npy' may not be read by this user; change its permissions (chmod +r) or copy it.\n"
    )
    assert done.stdout.startswith("nothing found in 2 tensors of 2 files")


def test_a_folder_that_takes_no_files():
    assert "'/proc/mask.json' cannot be written, its folder takes no new files" in refused(
        *SHOW, "-o", "/proc/mask.json"
    )


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
    sentence = {
        signal.SIGINT: "interrupted",
        signal.SIGTERM: "ended by SIGTERM",
        signal.SIGHUP: "ended by SIGHUP",
    }
    assert done.stderr.strip() in ("", f"maskcli: {sentence.get(end)}."), moment
    assert done.stderr or done.returncode != 128 + end, moment


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


@pytest.mark.long
def test_a_program_that_calls_with_jobs_is_not_run_again(tmp_path):
    """Processes import the main program: one without a guard started more of them, and one from a pipe is no file."""
    rows = json.dumps({"input_ids": [5, 6, 2], "labels": [-100, 6, 2]}) + "\n"
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(rows * 9)
    program = "print('run')\nimport maskcli\nprint(len(maskcli.audit('.', jobs=2).findings))\n"
    (tmp_path / "plain.py").write_text(program)
    for arguments, text in ((["plain.py"], None), (["-"], program)):
        done = subprocess.run(
            [sys.executable, *arguments], input=text, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert (done.stdout.splitlines()[0], done.stdout.count("run"), done.stderr) == ("run", 1, "")


def test_processes_that_end_as_they_begin_are_a_sentence(monkeypatch):
    """Each task started two of them, which ended at once, and was said to have killed them."""
    monkeypatch.setattr("maskcli.inputs.spread._start", os._exit)
    with pytest.raises(MaskcliError, match="they end as they begin"):
        list(spread(functools.partial(functools.partial, operator.neg), range(10_000), Workers(2), str))


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_user_who_may_start_no_more_processes(tmp_path, most):
    for name in "ab":
        np.save(tmp_path / f"{name}_mask.npy", np.tril(np.ones((4, 4), bool)))
    fault = {"processes": most}
    sentence = refused("diagnose", tmp_path, "--jobs", 2, fault=fault)
    assert "no more processes or threads can be started here" in sentence
    assert run("diagnose", tmp_path, fault=fault, check=0).stdout == run("diagnose", tmp_path, check=0).stdout


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


def test_more_files_than_may_be_open(tmp_path):
    files = [tmp_path / f"{number}.npy" for number in range(80)]
    for file in files:
        np.save(file, np.tril(np.ones((4, 4), bool)))
    few = {"limits": {"NOFILE": 64}}
    assert run("inspect", *files, fault=few, check=0).stdout.count("causal") == len(files)
    run("inspect", *files, "-o", tmp_path / "page.html", fault=few, check=0)
    assert "nothing found in 80 tensors" in run("diagnose", tmp_path, fault=few).stdout


def many(folder):
    """Files that are open one after the other, more than may be open at a time."""
    for number in range(MOST_OPEN + 1):
        np.save(folder / f"{number}.npy", np.full((2, 2), number, np.float32))
        yield open_tensors(folder / f"{number}.npy")


def test_a_file_that_rests_is_read_again_and_no_other_in_its_place(tmp_path):
    first, second, *_ = files = list(many(tmp_path))
    assert [float(file.tensors[0].read()[0, 0]) for file in files] == list(range(len(files)))
    np.save(tmp_path / "new.npy", np.ones((2, 2), np.float32))
    os.replace(tmp_path / "new.npy", tmp_path / "0.npy")
    with pytest.raises(MaskcliError, match="was replaced while it was read"):
        first.tensors[0].read()
    assert float(second.tensors[0].read()[0, 0]) == 1


def test_a_file_that_shrinks_or_grows_while_it_is_read(tmp_path):
    path = tmp_path / "weights.npy"
    np.save(path, np.ones((64, 64), np.float32))
    whole = path.read_bytes()
    (tensor,) = open_tensors(path).tensors
    path.write_bytes(whole[:-8])
    with pytest.raises(MaskcliError, match="became shorter while it was read"):
        tensor.read()
    path.write_bytes(whole + b"more")
    assert (tensor.read() == 1).all()


def test_two_writers_of_one_output_leave_the_last_one_whole(tmp_path):
    target = tmp_path / "mask.json"
    with replacing(target) as first, replacing(target) as second:
        Path(first).write_text("first")
        Path(second).write_text("second")
        assert not target.exists()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mask.json", "first")]


def test_a_file_may_be_written_over_what_it_was_made_of(tmp_path):
    path = tmp_path / "mask.npy"
    np.save(path, np.tril(np.ones((5, 5), bool)))
    run("convert", path, "--to", "additive", "-o", path, check=0)
    assert np.load(path).dtype == np.float32
    assert "its folder" in refused(*SHOW, "-o", path / "mask.json")
    assert [each.name for each in tmp_path.iterdir()] == ["mask.npy"]


@pytest.mark.parametrize(
    "command", [("diagnose",), ("inspect",), ("audit",), ("show", "--file"), ("diff", "causal")], ids=named
)
def test_a_pipe_and_a_device_are_no_inputs(tmp_path, command):
    pipe = tmp_path / "pipe.npy"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        assert "pass" in refused(*command, path)


def test_without_a_home_and_a_language(tmp_path):
    bare = {
        "HOME": "/dev/null",
        "TMPDIR": "/dev/null",
        "XDG_CACHE_HOME": "/dev/null",
        "XDG_CONFIG_HOME": "/dev/null",
    }
    done = run("show", "caf\u00e9", "-o", tmp_path / "mask.json", LC_ALL="C", **bare, check=0)
    assert done.stderr == ""
    done = run("show", "caf\u00e9 \u732b", fresh=True, LC_ALL="C", PYTHONIOENCODING="ascii", check=0, **bare)
    assert "caf\\xe9" in done.stdout


def test_a_gigabyte_of_addresses_is_enough(tmp_path):
    for command in ((*SHOW, "-o", tmp_path / "mask.json"), ("inspect", SICK)):
        run(*command, fault={"limits": {"AS": 2**30}}, check=0)


def test_a_folder_that_is_gone_is_no_reason_to_end(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    program = f"import os; os.rmdir({str(gone)!r}); from maskcli.cli.configured import _candidates; print(_candidates())"
    done = subprocess.run([sys.executable, "-c", program], cwd=gone, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stdout == "[]\n"


def test_a_large_archive_that_torch_alone_can_follow_is_not_mapped(tmp_path, monkeypatch):
    """What is mapped ends the process by a signal when it shrinks."""
    path, base = tmp_path / "dump.pt", torch.arange(100.0)
    saved = {"windows": base.as_strided((10, 4), (2, 1)), "part": base[5:9], "turned": torch.rand(4, 5).T}
    saved |= {
        "half": torch.rand(3, 4).bfloat16(),
        "one": torch.rand(1, 4).expand(3, 4),
        "none": torch.empty(0, 3),
    }
    torch.save(saved | {"sparse": torch.eye(3).to_sparse()}, path)
    monkeypatch.setattr(torch_file, "MAX_LOADED", 100)
    monkeypatch.setattr(torch_file, "from_torch", None)
    *tensors, sparse = open_tensors(path).tensors
    for tensor in tensors:
        assert np.array_equal(tensor.read().astype(np.float32), saved[tensor.name].float().numpy())
    with pytest.raises(MaskcliError, match="is sparse_coo"):
        sparse.read()

    windows, *_ = open_tensors(path).tensors
    os.truncate(path, 1000)
    with pytest.raises(MaskcliError, match="became shorter while it was read"):
        windows.read()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["quantized", "nested", "negative"])
def test_a_large_archive_that_torch_reads_whole_is_refused(tmp_path, monkeypatch, kind):
    path = tmp_path / "dump.pt"
    odd = {
        "quantized": lambda: torch.quantize_per_tensor(torch.rand(3, 3), 0.1, 0, torch.quint8),
        "nested": lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]),
        "negative": lambda: torch.rand(2).to(torch.complex64).conj().imag,
    }
    torch.save({"odd": odd[kind](), "plain": torch.ones(2)}, path)
    assert open_tensors(path).tensors[1].read().tolist() == [1, 1]
    monkeypatch.setattr(torch_file, "MAX_LOADED", 100)
    with pytest.raises(MaskcliError, match="tensors that torch reads into memory alone"):
        open_tensors(path)


def test_folders_may_be_deep(tmp_path):
    here, deep = os.getcwd(), 1200
    os.chdir(tmp_path)
    for _ in range(deep):
        os.mkdir("d")
        os.chdir("d")
    Path("mask.npy").write_bytes(b"")
    (found,) = files_of(str(tmp_path), lambda name: name.endswith(".npy"), "")
    # What removes folders of tests goes no deeper than Python calls itself.
    Path("mask.npy").unlink()
    for _ in range(deep):
        os.chdir("..")
        os.rmdir("d")
    os.chdir(here)
    assert found.count("/d") == deep


@pytest.mark.parametrize("formula", ["=1+1", "\uff1d1", "\u200b=1", "\u2060\uff0b1", "\n@a", "\xa0-1"])
def test_no_spreadsheet_runs_a_text(formula):
    assert csv_line([formula, "a=1", -5]).lstrip('"').startswith("'")
    assert csv_line(["a=1", -5, "\u732b", ""]) == "a=1,-5,\u732b,\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train.jsonl", ["audit", "train.jsonl", "--format", "jsonl"]),
        ("texts.json", ["show", "--file", "texts.json", "--format", "json"]),
        ("mask.npy", ["inspect", "mask.npy:mask", "--format", "text"]),
        ("mask.npy", ["diagnose", "mask.npy", "--format", "json"]),
        ("mask.npy", ["diff", "causal", "mask.npy"]),
    ],
)
def test_no_report_is_written_over_what_is_read(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"whole")
    (tmp_path / "link").symlink_to(name)
    for output in (name, "link", tmp_path / name):
        assert "would be written over; pass -o another file" in refused(*words, "-o", output, cwd=tmp_path)
    assert (tmp_path / name).read_bytes() == b"whole"
