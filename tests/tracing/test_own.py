"""A program under trace stays its own: what it wraps, records, warns of and starts."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import maskcli
from maskcli.tracing.results import Options
from maskcli.tracing.trace import Trace
from tests.cli.running import ROOT, run
from tests.tracing.test_watch import IDS, REAL, Net, fused, loud, matmul, unmasked


@pytest.mark.parametrize(
    ("room", "name", "call"),
    [
        (functional, "softmax", lambda: nn.Softmax(-1)(torch.randn(2, 3, 3))),
        (functional, "cross_entropy", lambda: nn.CrossEntropyLoss()(torch.randn(2, 3), torch.tensor([1, 2]))),
        (functional, "scaled_dot_product_attention", lambda: Net(fused)(IDS, REAL)),
        (functional, "embedding", lambda: nn.Embedding(9, 4)(torch.tensor([[1, 2]]))),
        (
            functional,
            "multi_head_attention_forward",
            lambda: nn.MultiheadAttention(8, 2)(*[torch.randn(3, 1, 8)] * 3),
        ),
        (torch.Tensor, "softmax", lambda: torch.randn(2, 3, 3).softmax(-1)),
        (torch, "matmul", lambda: torch.matmul(torch.randn(2, 3, 3), torch.randn(2, 3, 3))),
    ],
)
def test_a_function_that_the_program_wraps_runs_its_wrapper_once(monkeypatch, room, name, call):
    original, ran = getattr(room, name), []

    def wrapper(*args, **kwargs):
        ran.append(name)
        return original(*args, **kwargs)

    def count():
        ran.clear()
        call()
        return len(ran)

    monkeypatch.setattr(room, name, wrapper)
    alone = count()
    with maskcli.trace():
        watched = count()
    assert alone == watched == 1


def operators(graph):
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def exported(net):
    return operators(torch.export.export(net, (IDS, REAL)).graph)


class Plain(nn.Module):
    def forward(self, x):
        return (x @ x.transpose(1, 2)).softmax(-1) @ x


def fx_traced(net):
    return operators(torch.fx.symbolic_trace(Plain()).graph)


def jit_traced(net):
    return str(torch.jit.trace(net, (IDS, REAL)).inlined_graph).count("aten::")


def made_fx(net):
    from torch.fx.experimental.proxy_tensor import make_fx

    return operators(make_fx(net)(IDS, REAL).graph)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("record", [exported, fx_traced, jit_traced, made_fx])
def test_what_records_a_program_records_nothing_of_the_trace(record):
    net = Net(matmul).eval()
    before = record(net)
    with maskcli.trace() as traced:
        during = record(net)
        assert traced.report.calls == 0
        net(IDS, REAL)
    assert before == during
    assert any("ran unwatched" in each for each in traced.report.changed)
    assert traced.report.calls == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_scripted_stays_what_it_is():
    def attend(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softmax(x, dim=-1)

    with maskcli.trace():
        scripted = torch.jit.script(attend)
    x = torch.randn(2, 3)
    assert torch.equal(scripted(x), x.softmax(-1))


class Warning_(nn.Module):
    def forward(self, x):
        warnings.warn("of a module", UserWarning, stacklevel=1)
        return x


def warned():
    x = torch.randn(3, 3, 3)
    Warning_()(x)
    functional.softmax(x[0])
    functional.softmax(x[0])
    return x.T.shape


def told(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        run()
    return [(str(each.message)[:30], each.filename, each.lineno) for each in caught]


def test_warnings_point_at_the_programs_line():
    torch.set_warn_always(True)
    globals().pop("__warningregistry__", None)
    before = told(warned)
    globals().pop("__warningregistry__", None)
    with maskcli.trace():
        after = told(warned)
    torch.set_warn_always(False)
    assert len(before) == 4
    assert before == after
    assert all(file == __file__ or "torch" in file for _, file, _ in after)


def test_modes_and_types_of_the_program_see_what_they_would():
    from torch.overrides import TorchFunctionMode

    class Counting(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names.append(getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    def run(net):
        with Counting() as counting:
            out = net(IDS, REAL)
        return counting.names, out

    net = Net(matmul)
    names, before = run(net)
    with maskcli.trace(pad_id=0) as traced:
        again, after = run(net)
    assert names == again
    assert torch.equal(before, after)
    assert (traced.report.calls, loud(traced)) == (2, [])


def attend(queue=None):
    # A fork has none of the threads that torch has started before, and would wait for them.
    torch.set_num_threads(1)
    Net(matmul, unmasked)(IDS, REAL)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("start", "count"), [("fork", 2), ("spawn", 1)])
def test_child_processes_are_followed(start, count):
    context = multiprocessing.get_context(start)
    path = os.environ.get("PYTHONPATH")
    with maskcli.trace() as traced:
        children = [context.Process(target=attend) for _ in range(count)]
        for child in children:
            child.start()
        for child in children:
            child.join()
    assert os.environ.get("PYTHONPATH") == path
    report = traced.report
    assert (report.calls, report.processes, report.lost) == (2 * count, 1 + count, 0)
    (finding,) = [each for each in report.findings if each.code == "MSK202"]
    assert finding.traced.modules == ("layers.1",)
    assert finding.traced.calls == count


PROGRAM = """
import torch
from torch import nn
class Attention(nn.Module):
    def forward(self, x):
        return (x @ x.mT).softmax(-1) @ x
Attention()(torch.randn(2, 6, 8))
"""


@pytest.mark.long
def test_a_python_program_that_is_started_is_followed(tmp_path):
    (tmp_path / "child.py").write_text(PROGRAM)
    with maskcli.trace() as traced:
        subprocess.run([sys.executable, tmp_path / "child.py"], check=True)
        subprocess.run(
            [sys.executable, "-c", "import sys; print(sys.path[:3])"], check=True, capture_output=True
        )
    assert (traced.report.calls, traced.report.processes) == (1, 2)


SERVED = """
import multiprocessing, sys
import maskcli

def attend():
    import torch
    class Attention(torch.nn.Module):
        def forward(self, x):
            return (x @ x.mT).softmax(-1) @ x
    Attention()(torch.randn(2, 6, 8))

def started(context):
    child = context.Process(target=attend)
    child.start()
    child.join()
    assert child.exitcode == 0

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"] if "preload" in sys.argv else [])
    if "older" in sys.argv:
        started(context)
    with maskcli.trace() as traced:
        import torch
        started(context)
    report = traced.report
    print(report.calls, report.processes, report.lost, report.unfollowed)
    started(context)
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("fresh", "1 2 0 ()\n"),
        ("preload", "1 2 0 ()\n"),
        ("older", "0 1 0 ('the forkserver that makes them is older than the trace',)\n"),
    ],
)
def test_children_of_a_forkserver_are_followed_unless_it_is_older(tmp_path, how, told):
    (tmp_path / "served.py").write_text(SERVED)
    command = [sys.executable, "served.py", how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr) == (told, "")


@pytest.mark.long
def test_a_traced_program_may_use_a_forkserver(tmp_path):
    program = SERVED.replace("    with maskcli.trace() as traced:\n", "    if True:\n").split("    report =")[
        0
    ]
    (tmp_path / "train.py").write_text(program)
    command = [sys.executable, "-m", "maskcli", "trace", "train.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0
    assert done.stderr.startswith("attention was followed in 1 child process\n")


@pytest.mark.long
def test_what_cannot_be_handed_to_a_new_process_is_said():
    context = multiprocessing.get_context("spawn")
    with Trace(Options(token=lambda token: str(token))) as traced:
        child = context.Process(target=attend)
        child.start()
        child.join()
    assert traced.report.unfollowed == ("what is declared in this process cannot be handed to a new one",)


@pytest.mark.long
def test_a_child_that_is_killed_is_said_to_be_lost(tmp_path):
    (tmp_path / "child.py").write_text(PROGRAM + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n")
    with maskcli.trace() as traced:
        subprocess.run([sys.executable, tmp_path / "child.py"], check=False)
    assert (traced.report.calls, traced.report.lost) == (0, 1)


def test_loader_workers_are_left_in_peace():
    data = torch.utils.data.TensorDataset(torch.arange(8.0))
    with maskcli.trace() as traced:
        batches = [batch[0].tolist() for batch in torch.utils.data.DataLoader(data, 4, num_workers=1)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (traced.report.processes, traced.report.lost) == (1, 0)


def traced(tmp_path, program, *options):
    (tmp_path / "train.py").write_text(textwrap.dedent(program))
    return run("trace", *options, "train.py", cwd=tmp_path, torch=True, COLUMNS="200")


def test_a_program_may_clear_its_path(tmp_path):
    done = traced(tmp_path, "import torch, sys; sys.path.clear(); print('done')")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr == "nothing was checked: no attention call was seen\n"


def test_what_was_not_followed_and_not_seen_is_said_first(tmp_path):
    program = """
    import torch
    from torch import nn

    class Mixed(nn.Module):
        def forward(self, x):
            weights = (x @ x.mT).softmax(-1)
            return (weights[..., None] * x[:, None]).sum(-2)

    class LinearAttention(nn.Module):
        def forward(self, x):
            return x @ (x.mT @ x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.linear = Mixed(), LinearAttention()
            self.head = nn.Linear(8, 8)

        def forward(self, x):
            return self.head(self.linear(self.mix(x)))

    Model()(torch.randn(2, 12, 8))
    """
    done = traced(tmp_path, program)
    assert done.returncode == 0
    assert done.stderr.splitlines()[:3] == [
        "not followed to values: 1 softmax over [12, 12] (mix)",
        "no attention was seen in modules that look like it: linear (LinearAttention)",
        "nothing was checked: no attention call was seen",
    ]
    assert traced(tmp_path, program, "--fail-on", "error").returncode == 2


def test_attention_outside_of_modules_has_whole_names(tmp_path):
    program = """
    import torch
    x = torch.randn(1, 2, 6, 8)
    torch.nn.functional.scaled_dot_product_attention(x, x, x).sum()
    torch.nn.functional.scaled_dot_product_attention(x * float("nan"), x, x)
    """
    done = traced(tmp_path, program)
    assert "MSK3" in done.stderr
    assert " .value" not in done.stderr
    assert "'." not in done.stderr
