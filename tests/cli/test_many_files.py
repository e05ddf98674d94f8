import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from maskcli.diagnostics.diagnose import diagnose
from maskcli.errors import MaskcliError
from maskcli.inputs import files as targets
from maskcli.inputs import spread
from maskcli.inputs.files import expand
from maskcli.inputs.many_files import Checked
from maskcli.inputs.spread import AHEAD
from maskcli.report.files import FORMS, write_files
from maskcli.report.forms import choose
from maskcli.report.progress import Bar
from maskcli.tensors import open_tensors
from tests.cli.running import DATA, ROOT, read, refused, run
from tests.diagnostics.attention import causal, layers, padding
from tests.diagnostics.test_memory import MIB, STATUS, peak

SICK = DATA / "minilm_attn_nomask.safetensors"


def dump(path, leaks=False, length=8):
    shape = (2, 2, length, length)
    real = padding(shape, "right")
    arrays = layers(shape, np.ones(shape, bool) if leaks else np.broadcast_to(real[:, None, None], shape))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({**arrays, "attention_mask": torch.from_numpy(real.astype(np.int64))}, path)
    return path


@pytest.fixture
def mixed(tmp_path):
    """A folder of files that are, in their order: healthy, broken, leaking, without attention, leaking."""
    folder = tmp_path / "dumps"
    dump(folder / "a.safetensors")
    (folder / "b.npy").write_bytes(b"not numpy")
    dump(folder / "c.safetensors", leaks=True)
    np.save(folder / "d.npy", np.zeros((3, 3)))
    dump(folder / "deep" / "e.safetensors", leaks=True)
    (folder / "notes.txt").write_text("not a tensor")
    return folder


def lines(*arguments, **options):
    return [
        json.loads(line)
        for line in run("diagnose", *arguments, "--format", "jsonl", **options).stdout.splitlines()
    ]


def test_a_line_for_each_file_in_order(mixed):
    found = lines(mixed, check=2)
    assert [Path(line["file"]).name for line in found] == [
        "a.safetensors", "b.npy", "c.safetensors", "d.npy", "e.safetensors"
    ]  # fmt: skip
    assert [set(line) for line in found] == [
        {"schema_version", "file", "error"}
        if name in "bd"
        else {"schema_version", "file", "findings", "skipped", "unchecked", "summary"}
        for name in "abcde"
    ]
    assert [[each["code"] for each in found[at]["findings"]] for at in (0, 2, 4)] == [
        [],
        ["MSK202"],
        ["MSK202"],
    ]
    assert found[2]["summary"] == {"error": 1, "warning": 0, "note": 0, "files": 1, "tensors": 3}
    assert "nothing to check in" in found[3]["error"]
    alone = read("diagnose", mixed / "c.safetensors", check=1)
    assert {key: alone[key] for key in ("findings", "skipped", "summary")} == {
        key: found[2][key] for key in ("findings", "skipped", "summary")
    }


def test_bad_files_are_said_on_standard_error_in_every_form(mixed):
    printed = {}
    for form in ("text", "concise", "json", "jsonl"):
        done = run("diagnose", mixed, "--format", form, check=2)
        first, second = done.stderr.splitlines()
        assert first.startswith("maskcli: ")
        assert "b.npy" in first
        assert second.startswith(f"maskcli: nothing to check in {str(mixed / 'd.npy')!r}")
        printed[form] = done.stdout
    assert "\n2 errors in 9 tensors of 3 files\n" in printed["text"]
    assert printed["concise"].endswith("\n2 errors in 9 tensors of 3 files\n")
    assert printed["concise"].count("MSK202") == 2
    whole = json.loads(printed["json"])
    assert [Path(each["file"]).name for each in whole["errors"]] == ["b.npy", "d.npy"]
    assert whole["summary"] == {"error": 2, "warning": 0, "note": 0, "files": 3, "tensors": 9}
    assert "errors" not in read("diagnose", mixed / "a.safetensors", mixed / "c.safetensors", check=1)


def test_exit_codes(mixed):
    good, sick = mixed / "a.safetensors", mixed / "c.safetensors"
    run("diagnose", good, good.parent / "a.safetensors", check=0)
    run("diagnose", good, sick, "--exit-zero", check=0)
    run("diagnose", good, mixed / "b.npy", "--exit-zero", check=2)
    assert "--jobs" in refused("diagnose", good, "--jobs", "0")


def test_where_nothing_could_be_checked_only_json_lines_are_written(mixed):
    bad = (mixed / "b.npy", mixed / "d.npy")
    done = run("diagnose", *bad, "-o", mixed / "out.txt", check=2)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert not (mixed / "out.txt").exists()
    run("diagnose", *bad, "-o", mixed / "out.jsonl", check=2)
    assert ["error" in json.loads(line) for line in (mixed / "out.jsonl").read_text().splitlines()] == [
        True,
        True,
    ]


@pytest.mark.long
@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_several_processes_print_what_one_prints(mixed, form):
    one, two = (
        run("diagnose", mixed, SICK, "--format", form, "--jobs", jobs, check=2, fresh=True) for jobs in (1, 2)
    )
    assert one.stdout == two.stdout
    assert one.stderr == two.stderr


@pytest.mark.long
def test_the_order_is_the_files_whatever_ends_first(tmp_path):
    large = dump(tmp_path / "z.safetensors", length=700)
    small = [dump(tmp_path / f"{name}.safetensors") for name in "abc"]
    found = lines(large, *small, "--jobs", "2", check=0, fresh=True)
    assert [line["file"] for line in found] == [str(path) for path in (large, *small)]


def test_a_pattern_has_to_match_in_some_file(mixed):
    renamed = dump(mixed / "f.safetensors")
    save_file({"layer9.attentions": layers((1, 1, 8, 8), causal((1, 1, 8, 8)))["attentions.0"]}, renamed)
    assert "matches no attention map or mask; there are attentions.0" in refused(
        "diagnose", mixed, "--expect", "layer8*=full"
    )
    run("diagnose", mixed, "--expect", "layer9*=causal", check=2)
    assert "does not exist" in refused("diagnose", mixed / "g.npy", "--expect", "layer8*=full")


def test_roles_belong_to_one_file(mixed):
    mask = f"mask={mixed / 'd.npy'}"
    assert "there are several" in refused(
        "diagnose", mixed / "a.safetensors", mixed / "c.safetensors", "--role", mask
    )
    found = lines(mixed / "a.safetensors", mixed / "d.npy", "--role", mask, check=0)
    assert [line["summary"]["tensors"] for line in found] == [3, 1]
    one = lines(f"{mixed / 'a.safetensors'}:attentions.1", check=0)
    assert one[0]["summary"]["tensors"] == 1


@pytest.mark.long
def test_a_process_that_dies_takes_only_its_own_file_along(mixed, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import multiprocessing, os, sys\n"
        "def hook(event, args):\n"
        "    if event == 'open' and str(args[0]).endswith('c.safetensors') and multiprocessing.parent_process(): os._exit(9)\n"
        "sys.addaudithook(hook)\n"
    )
    done = run(
        "diagnose",
        mixed,
        "--jobs",
        "2",
        "--format",
        "jsonl",
        check=2,
        fresh=True,
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["file"]).name[0] for line in found] == list("abcde")
    assert "was killed" in found[2]["error"]
    assert [each["code"] for each in found[4]["findings"]] == ["MSK202"]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are counted in /proc")
@pytest.mark.parametrize("sent", ["to all", "to the parent", "terminate", "kill"])
def test_an_end_from_outside_ends_all_processes_at_once(tmp_path, sent):
    first = dump(tmp_path / "dumps" / "0000.safetensors", leaks=True, length=200)
    for at in range(1, 2000):
        os.link(first, first.with_name(f"{at:04}.safetensors"))
    output = tmp_path / "found.jsonl"
    output.write_text("as it was")
    command = [
        sys.executable,
        "-m",
        "maskcli",
        "diagnose",
        str(first.parent),
        "--jobs",
        "2",
        "-o",
        str(output),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, cwd=ROOT)
    children = wait(lambda: workers(process.pid), 2)
    wait(lambda: [path for path in tmp_path.iterdir() if path.stat().st_size > 10_000 and path.is_file()], 1)
    if sent == "to all":
        os.killpg(process.pid, signal.SIGINT)
    else:
        how = {"to the parent": signal.SIGINT, "terminate": signal.SIGTERM, "kill": signal.SIGKILL}[sent]
        os.kill(process.pid, how)
    _, error = process.communicate(timeout=10)
    assert process.returncode == {"terminate": 143, "kill": -9}.get(sent, 130)
    deadline = time.monotonic() + 5
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(child) for child in children)
    if sent != "kill":
        assert error.decode() == f"maskcli: {'ended by SIGTERM' if sent == 'terminate' else 'interrupted'}.\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["dumps", "found.jsonl"]
    assert output.read_text() == "as it was"


def wait(look, count):
    deadline = time.monotonic() + 20
    while len(seen := look()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return seen


def workers(parent):
    """The processes that a parent started to check files."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.long
@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc")
def test_memory_does_not_follow_the_number_of_files(tmp_path):
    first = dump(tmp_path / "few" / "0.safetensors", length=1024)
    many = tmp_path / "many"
    many.mkdir()
    for at in range(12):
        os.link(first, many / f"{at}.safetensors")
    assert 12 * first.stat().st_size > 300 * MIB
    assert peak(many, "--jobs", "1") - peak(first.parent, "--jobs", "1") < 24 * MIB


@pytest.mark.parametrize(
    ("form", "flat"), [("text", True), ("concise", True), ("jsonl", True), ("json", False)]
)
def test_what_is_written_is_let_go(form, flat):
    report = diagnose(open_tensors(SICK))

    def copies(count):
        for at in range(count):
            (finding,) = report.findings
            long = dataclasses.replace(finding, file=f"x{at}", message="x" * 10**5)
            yield Checked(f"x{at}", dataclasses.replace(report, findings=(long,)))

    class Nowhere(io.StringIO):
        def write(self, text):
            return len(text)

    def most(count):
        tracemalloc.start()
        write_files(copies(count), choose(FORMS, form, None).write, Nowhere())
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    most(1)
    assert (most(30) - most(3) < 10**6) is flat


def test_no_more_files_are_handed_out_than_processes_can_soon_take():
    """A slow first file must not let the reports of all others pile up behind it."""
    handed = []

    class Pool:
        def __init__(self, *_):
            pass

        def submit(self, _work, task):
            handed.append(task)
            future = Future()
            future.set_result(task)
            return future

        def shutdown(self, **_):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("concurrent.futures.ProcessPoolExecutor", Pool)
        results = spread._pool(abs, range(100), 3)
        assert next(results) == 0
        assert len(handed) == AHEAD * 3
        assert [0, *results] == list(range(100))


def test_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b/x.npy",
        "b/A.PT",
        "a.npz",
        "b.npy",
        ".hidden.npy",
        ".cache/y.npy",
        "b/.z.bin",
        "c/readme.md",
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    Path("b/loop").symlink_to(tmp_path)
    Path("b/dangling.npy").symlink_to("nowhere.npy")
    inside = ["a.npz", "b/A.PT", "b/dangling.npy", "b/x.npy", "b.npy"]
    assert expand(["."]) == [f"./{name}" for name in inside]
    assert expand(["b/"]) == ["b/A.PT", "b/dangling.npy", "b/x.npy"]
    assert expand([".cache"]) == [".cache/y.npy"]
    assert expand(["b/loop"])[0] == "b/loop/a.npz"
    assert expand(["b.npy", "b", "./b.npy", "a.npz", f"{tmp_path}/b/x.npy"]) == [
        "b.npy", "b/A.PT", "b/dangling.npy", "b/x.npy", "a.npz"
    ]  # fmt: skip
    assert expand(["b.npy:w", "b.npy:v", "b.npy:w", "b.npy"]) == ["b.npy:w", "b.npy:v", "b.npy"]
    assert expand(["missing.npy", "c/readme.md"]) == ["missing.npy", "c/readme.md"]
    with pytest.raises(MaskcliError, match="'c' is a folder without files of the types"):
        expand(["a.npz", "c"])


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "d/1/x.npy",
        "d/2/x.npy",
        "d/2/y.pt",
        "d/top.npy",
        "d/.no.npy",
        "d/.no/x.npy",
        "d/2/note.txt",
        "odd[1].npy",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("d/2/loop").symlink_to(tmp_path / "d")
    Path("d/2/again").symlink_to(tmp_path / "d")
    assert expand(["d/*.npy"]) == ["d/top.npy"]
    assert expand(["d/[12]/x.npy"]) == ["d/1/x.npy", "d/2/x.npy"]
    assert expand(["d/**/*.npy"]) == ["d/1/x.npy", "d/2/x.npy", "d/top.npy"]
    assert (
        expand(["d/*"])
        == expand(["d"])
        == expand(["d/**"])
        == ["d/1/x.npy", "d/2/x.npy", "d/2/y.pt", "d/top.npy"]
    )
    assert expand(["d/.n*.npy", "d/.no/*"]) == ["d/.no.npy", "d/.no/x.npy"]
    assert expand([f"{tmp_path}/d/?/y.*"]) == [f"{tmp_path}/d/2/y.pt"]
    assert expand(["odd[1].npy"]) == ["odd[1].npy"]
    assert expand(["d/*/x.npy:w"]) == ["d/1/x.npy:w", "d/2/x.npy:w"]
    for pattern in ("d/*.bin", "e/*.npy", "d/*/*.txt"):
        with pytest.raises(MaskcliError, match="matches no files of the types"):
            expand(["d", pattern])


def test_a_folder_that_cannot_be_listed_is_a_bad_file(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.npy").touch()
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(path) == "a":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(targets.os, "scandir", refusing)
    assert expand([str(tmp_path)]) == [str(tmp_path / "a"), str(tmp_path / "b.npy")]
    monkeypatch.setattr(os, "access", lambda path, mode: os.path.basename(path) != "a")
    with pytest.raises(MaskcliError, match="may not be read by this user"):
        open_tensors(tmp_path / "a")


def test_the_bar_is_gone_while_a_file_is_printed():
    class Shown:
        def __init__(self):
            self.log = []

        def stop(self):
            self.log.append("stop")

        def start(self):
            self.log.append("start")

    bar = Bar(None, Shown())
    for item in bar.while_waiting(["one", "two"]):
        bar.shown.log.append(item)
    assert bar.shown.log == ["stop", "one", "start", "stop", "two", "start"]
    assert list(Bar(None, None).while_waiting([1, 2])) == [1, 2]
