"""A fork of the server is as good as a new interpreter: the same bytes and codes, and nothing of one call reaches the next."""

import os
import re

import pytest
import torch

from tests.cli.running import DATA, forked, run, started

SICK = DATA / "minilm_attn_nomask.safetensors"


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["show", "--help"], {"COLUMNS": "60"}),
        (["show", "The cat", "Hello"], {"FORCE_COLOR": "1"}),
        (["show", "-", "--format", "json"], {"stdin": "猫 one\ntwo\n" * 3}),
        (["show", "--lengths", "30000", "-m", "causal", "--format", "text"], {}),
        (["show", "--lengths", "3", "--max"], {}),
        (["diagnose", str(SICK), "--format", "json"], {}),
        (["diagnose", "minilm_attn.safetensors", "minilm_attn_nomask.safetensors"], {"cwd": DATA}),
        (["diagnose", str(SICK), "--expect", "casual"], {}),
        (["trace", "-m", "maskcli", "show", "--bogus"], {}),
    ],
)
def test_a_fork_prints_what_a_new_interpreter_prints(arguments, options):
    fork, new = (run(*arguments, fresh=fresh, **options) for fresh in (False, True))
    assert (fork.returncode, fork.stdout, fork.stderr) == (new.returncode, new.stdout, new.stderr)
    assert fork.stdout or fork.stderr


@pytest.mark.long
def test_a_fork_that_finds_torch_imported_writes_the_same_file(tmp_path):
    command = ["show", "--lengths", "5,3", "--to", "additive", "--dtype", "bfloat16", "-o"]
    run(*command, tmp_path / "fork.pt", check=0)
    run(*command, tmp_path / "new.pt", fresh=True, check=0)
    fork, new = (torch.load(tmp_path / name, weights_only=True) for name in ("fork.pt", "new.pt"))
    assert fork.keys() == new.keys() >= {"mask"}
    assert torch.equal(fork["mask"], new["mask"])


STATE = """
import gc, json, os, signal, sys, threading
handlers = [str(signal.getsignal(number)) for number in sorted(signal.valid_signals()) if number not in (signal.SIGTERM, signal.SIGHUP)]
kinds = [(type(each).__name__, each.encoding, each.line_buffering, each.isatty(), each.fileno()) for each in (sys.stdin, sys.stdout)]
print(json.dumps([
    sys.argv, sys.path[0], os.getcwd(), dict(os.environ), gc.get_threshold(), handlers, kinds, threading.active_count(),
    sorted(int(name) for name in os.listdir("/proc/self/fd"))[:3], "torch" in sys.modules, sys.stdin.read(), __name__, __file__,
]))
"""


def both(folder, text, *arguments):
    """What a traced program does in a fork and in a new interpreter, with an environment of its own."""
    (folder / "program.py").write_text(text)
    environment = {**os.environ, "COLOUR": "red"}
    call = (["trace", "program.py", *arguments], b"given", str(folder), environment)
    return [way(*call) for way in (forked, started)]


def test_a_program_finds_the_state_of_a_new_interpreter(tmp_path):
    fork, new = both(tmp_path, STATE, "--x", "1")
    # Reports of child processes are left in a folder of a name of its own.
    states = [re.sub(r"maskcli-trace-\w+", "maskcli-trace", each.stdout) for each in (fork, new)]
    assert (states[0], fork.returncode) == (states[1], 0)
    assert '"COLOUR": "red"' in fork.stdout
    assert '"given"' in fork.stdout


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", -9),
        ("import os\nos._exit(7)", 7),
        ("import atexit, sys\natexit.register(print, 'bye')\nsys.exit(3)", 3),
        (
            "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
            0,
        ),
        ("raise ValueError('no')", 1),
        ("import os, sys\nos.environ['NO'] = '1'\nos.chdir('/')\nimport json\ndel json.dumps", 0),
    ],
)
def test_a_program_ends_as_in_a_new_interpreter(tmp_path, text, code):
    fork, new = both(tmp_path, text)
    assert (fork.returncode, fork.stdout, fork.stderr) == (new.returncode, new.stdout, new.stderr)
    assert fork.returncode == code
    # Whatever it did to itself, the next one is whole.
    assert run("--version", check=0).stdout.startswith("maskcli ")


def test_what_an_interpreter_reads_when_it_starts_needs_a_new_one():
    with pytest.raises(AssertionError, match="fresh=True"):
        run("--version", PYTHONUTF8="0")
