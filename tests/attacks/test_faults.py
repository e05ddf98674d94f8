"""Faults of the machine: an output is the old one or a whole new one, and what went wrong is one sentence."""

import os
import subprocess
import sys

import pytest

from tests.cli.running import ROOT, run

OLD = b"what was here before"
FORMS = ("png", "svg", "pdf", "json", "csv", "txt", "safetensors", "npy", "npz", "html")
# A writer that ends, by a signal, in the middle of its work.
KILLED = """
import os, signal, sys
from maskcli.tensors.atomic import replacing
with replacing(sys.argv[1]) as path:
    open(path, "w").write("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
# Every file that the process writes is cut, as on a full disk; without bytecode, for Python keeps what is cut.
FULL = """
import resource, signal, sys
sys.dont_write_bytecode = True
from maskcli.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
main()
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


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
@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_the_old_file(tmp_path, form):
    target = tmp_path / f"mask.{form}"
    target.write_bytes(OLD)
    command = [sys.executable, "-c", FULL, "show", "--lengths", "40", "-o", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("maskcli: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(target.name, OLD)]
