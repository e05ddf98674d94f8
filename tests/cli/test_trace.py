"""maskcli trace: the program behaves as under python, and the report says what is wrong with its attention."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from maskcli.tensors import open_tensors
from tests.cli.running import ROOT, read, refused, run, run_traced

MODEL = """
import sys
import torch
from torch.nn import functional

class Attend(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(8, 24)

    def forward(self, x, keep):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)[:, 0]

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.attend = torch.nn.Embedding(9, 8), Attend()

    def forward(self, ids, attention_mask, sick=False):
        return self.attend(self.tokens(ids), None if sick else attention_mask.bool()[:, None, None])

def call(sick):
    torch.manual_seed(0)
    ids = torch.tensor([[3, 4, 5, 0, 0], [5, 4, 3, 6, 7]])
    return Net()(ids, (ids != 0).long(), sick)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def program(folder, text, name="program.py"):
    (folder / name).write_text(text)
    return name


def python(*arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    return done.stdout, done.stderr, done.returncode


def traced(*arguments, cwd, **environment):
    """As `python`, traced, in a new interpreter; `run_traced` forks one that has torch."""
    return python("-m", "maskcli", "trace", *arguments, cwd=cwd, PYTHONPATH=str(ROOT), **environment)


def untraced():
    """The sum of what the sick model answers, on one thread as in a fork: others add up in another order."""
    import torch

    space, threads = {}, torch.get_num_threads()
    exec(MODEL, space)
    torch.set_num_threads(1)
    try:
        return float(space["call"](True).detach().sum())
    finally:
        torch.set_num_threads(threads)


SICK = "import model, sys\nprint('sum', float(model.call(True).detach().sum()))\n"


def test_findings_go_to_standard_error_and_the_exit_code_stays(folder):
    name = program(folder, SICK)
    out, err, code = run_traced(name, cwd=folder)
    assert (out, code) == (f"sum {untraced()}\n", 0)
    assert err.startswith("MSK202 padding-attended  error")
    assert "attend; from step 0 on" in err
    assert "model.py:13" in err


def test_a_terminal_shows_what_was_seen_so_far(folder):
    name = program(folder, SICK)
    out, _, code = run_traced(name, cwd=folder, terminal=True, TERM="xterm", COLUMNS="100")
    live, text = out.split("\r\x1b[Ksum ")
    assert "trace: " in live
    assert "\n" not in live
    assert "\n\x1b[1;31mMSK202 padding-attended" in text.replace("\r\n", "\n")
    assert "trace: " not in text
    assert code == 0


def test_the_report_as_json_and_in_a_file(folder):
    name = program(folder, SICK + "import os\nos.chdir('..')\n")
    _, err, code = run_traced("-o", "report.json", "--save", "kept", "--fail-on", "error", name, cwd=folder)
    assert (err, code) == ("", 1)
    report = json.loads((folder / "report.json").read_text())
    (finding,) = report["findings"]
    assert (finding["code"], finding["module"], finding["modules"], finding["step"]) == (
        "MSK202",
        "attend",
        ["attend"],
        0,
    )
    assert finding["source"] == {"file": str(folder / "model.py"), "line": 13}
    assert finding["where"] == {"batch": [0], "heads": None, "queries": [[0, 3]], "keys": [[3, 5]]}
    assert report["summary"] == {
        "error": 1, "warning": 0, "note": 0, "calls": 1, "checked": 1, "steps": 1, "modules": 1
    }  # fmt: skip
    assert report["changed"] == []
    (saved,) = (folder / "kept").iterdir()
    assert {each.name for each in open_tensors(str(saved)).tensors} >= {
        "attend.weights",
        "attention_mask",
        "ids",
    }
    assert read("diagnose", saved, check=1)["findings"][0]["where"] == finding["where"]
    run("inspect", saved, check=0)
    _, err, code = run_traced(
        "--format", "concise", "--fail-on", "error", "--ignore", "MSK1", name, cwd=folder
    )
    assert code == 1
    assert err.splitlines()[0].startswith(
        f"{folder / 'model.py'}:13: MSK202 padding-attended error: real queries put"
    )


WHO = """
import json, sys
if __name__ == "__main__":
    main = sys.modules["__main__"]
    told = [sys.argv, sys.path[0], __file__, __name__, main.__dict__ is globals(), __package__, __spec__ is None, __doc__]
    print(json.dumps(told))
    sys.exit(int(sys.argv[-1]))
"""


@pytest.mark.long
def test_arguments_path_and_main_are_those_of_python(folder):
    name = program(folder, WHO)
    for arguments in (["--epochs", "3", "--fail-on", "x", "-o", "y", "--help", "7"], ["--", "0"], ["0"]):
        assert traced(name, *arguments, cwd=folder)[::2] == python(name, *arguments, cwd=folder)[::2]
    (folder / "inner").mkdir()
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "__main__.py").write_text(WHO)
    for target in ("program", "inner", "inner.__main__"):
        assert (
            traced("-m", target, "--x", "5", cwd=folder)[::2]
            == python("-m", target, "--x", "5", cwd=folder)[::2]
        )


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nprint('torch' in sys.modules)",
        "import sys\nsys.exit()",
        "import sys\nsys.exit(3)",
        "import sys\nprint('x')\nsys.exit('no way')",
        "raise SystemExit(None)",
        "def f():\n    raise ValueError('no')\nf()",
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
        "x = = 1",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import sys\nsys.stdout.write('no line end')\nsys.stderr.write('told')",
        "import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n1 / 0",
        "import atexit\natexit.register(print, 'bye')\nprint('hello')",
    ],
)
def test_ends_as_under_python(folder, text):
    name = program(folder, text)
    out, err, code = run_traced(name, cwd=folder, torch=False)
    wanted = python(name, cwd=folder)
    assert (out, code) == (wanted[0], wanted[2])
    assert err.startswith(wanted[1])
    assert "maskcli/" not in err


def test_a_failing_program_is_still_reported_and_its_traceback_is_its_own(folder):
    name = program(folder, "import model\nmodel.call(True)\nmodel.Net()(None, None)\n")
    out, err, code = run_traced("--fail-on", "never", name, cwd=folder)
    assert (out, code) == ("", 1)
    assert "maskcli/" not in err
    assert err.startswith(
        f'Traceback (most recent call last):\n  File "{folder / name}", line 3, in <module>\n'
    )
    assert "MSK202" in err


@pytest.mark.long
def test_an_interrupt_still_reports(folder):
    name = program(
        folder, "import model, time\nmodel.call(True)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "maskcli", "trace", name], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "KeyboardInterrupt" in err
    assert "MSK202" in err


@pytest.mark.long
def test_processes_that_the_program_starts_are_traced(folder):
    text = """
import model, multiprocessing, sys, torch

def work(sick):
    return float(model.call(sick).detach().sum())

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, at):
        model.call(True)
        return torch.tensor([3, 4, 5])

if __name__ == "__main__":
    for how in ("fork", "spawn"):
        with multiprocessing.get_context(how).Pool(1) as pool:
            print(pool.map(work, [True, True]))
    print(len(list(torch.utils.data.DataLoader(Data(), 2, num_workers=2))))
    model.call(False)
"""
    out, err, code = traced(program(folder, text), cwd=folder, OMP_NUM_THREADS="1")
    sums = [untraced()] * 2
    assert (out, code) == (f"{sums}\n{sums}\n2\n", 0)
    # A forked and a new worker of a pool, which are ended by a signal, and two that load data.
    assert err.startswith("attention was followed in 4 child processes\nMSK202 ")
    assert "of 9 attention calls (1 module" in err


@pytest.mark.long
def test_a_forked_child_that_ends_like_its_parent_reports_nothing(folder):
    name = program(
        folder, "import os\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\nprint('end', flush=True)\n"
    )
    out, err, code = traced(name, cwd=folder)
    assert (out, code) == ("end\nend\n", 0)
    assert err == "nothing was checked: no attention call was seen\n"


@pytest.mark.long
def test_compiled_models_run_eagerly_and_the_report_says_so(folder):
    text = "import model, torch\nnet = torch.compile(model.Net())\nids = torch.tensor([[3, 4, 0, 0]])\nnet(ids, (ids != 0).long(), True)\n"
    _, err, code = run_traced(program(folder, text), cwd=folder)
    assert code == 0
    assert "MSK202" in err
    assert "  in:    attend;" in err
    assert "tracing changed: compiled regions ran eagerly" in err


def test_what_cannot_be_run_or_asked_for(folder):
    assert "there is no Python file 'none.py'" in refused("trace", "none.py")
    assert "there is no such module" in refused("trace", "-m", "nothing_of_this_name")
    assert "--save-all needs a folder" in refused("trace", "--save-all", "x.py")
    assert "the program's" in refused("trace", "-o", "-", "x.py")
    assert ".xyz" in refused("trace", "-o", "a.xyz", "x.py")
    name = program(folder, "print('x')")
    done = run("trace", "--fail-on", "error", folder / name)
    assert done.returncode == 2
    assert done.stdout == "x\n"
    assert "made no attention call" in done.stderr


def test_a_pattern_that_matches_nothing_is_told(folder):
    _, err, _ = run_traced("--expect", "*.layers.9*=causal", program(folder, SICK), cwd=folder)
    assert "--expect *.layers.9*: it matches no attention call" in err
