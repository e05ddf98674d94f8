"""Every kind, operator and view of masks is linear in the runs, and a million tokens are shown in bounded memory.

Peak memory is measured at doubling lengths, where a quadratic step would grow fourfold. Nothing is timed.
"""

import collections
import itertools
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from maskcli.masks import views
from maskcli.masks.compare import regions
from maskcli.masks.kinds import KINDS
from maskcli.masks.layout import Layout
from maskcli.masks.naming import name_of
from maskcli.masks.spec import build, parse
from tests.cli.running import ROOT

LENGTHS = [2**12, 2**13, 2**14]
# Twice, and room for what rounds up.
GROWTH = 2.6
# What does not grow at all may still vary by small objects.
SLACK = 2**16
NUMBERS = {
    "prefix": ":1000", "prefix-lm": ":1000", "window": ":100", "sliding": ":100", "blocks": ":64", "chunked": ":64",
    "dilated": ":40,4", "global": ":16", "same": ":segments", "spans": ":segments=1,3", "keys": ":5:70,100:200", "rows": ":5:70",
    "tree": ":-1,0,0,1,1,2,5", "block-diffusion": ":64",
}  # fmt: skip
SPECS = [
    "causal & padding & sliding:100",
    "causal & (global:16 | sliding:64) & padding",
    "causal & documents",
    "~documents",
    "per-document(prefix-lm:20 | sliding:9) & window:200,-1",
]
# Each works on a mask, and on another of the same shape and the layout of both where it takes them.
OPERATORS = {
    "and": lambda mask, other, _: mask & other,
    "or": lambda mask, other, _: mask | other,
    "minus": lambda mask, other, _: mask - other,
    "xor": lambda mask, other, _: mask ^ other,
    "not": lambda mask, *_: ~mask,
    "equal": lambda mask, *_: mask == mask.select(),
    "select": lambda mask, *_: mask.select(rows=slice(1, None), keys=slice(3, None)),
    "expand": lambda mask, *_: mask.expand((2, 1, mask.shape[2])),
    "compact": lambda mask, *_: mask.expand((2, 1, mask.shape[2])).compact(),
    "intervals": lambda mask, *_: mask.intervals(),
    "keys_per_query": lambda mask, *_: mask.keys_per_query,
    "numbers": lambda mask, *_: (mask.attended, mask.density, mask.empty_rows),
    "seen": lambda mask, *_: mask.seen,
    "blocks": lambda mask, *_: views.blocks(mask),
    "picture": lambda mask, *_: views.picture(mask, 200, 200),
    "dense": lambda mask, *_: mask.dense(rows=(100, 164), keys=(0, 200)),
    "ignored": lambda mask, *_: views.ignored(mask, (100, 164)),
    "runs": lambda mask, *_: collections.deque(mask.runs(), maxlen=0),
    "name_of": lambda mask, *_: name_of(mask),
    "regions": regions,
}


MIB = 2**20
STATUS = Path("/proc/self/status")
# VmHWM, since ru_maxrss of a child counts what its parent held when it was forked.
CHILD = f"""
import sys
from maskcli.cli import _run
code = _run()
peak = next(line.split()[1] for line in open({str(STATUS)!r}) if line.startswith("VmHWM"))
sys.stderr.write(f"{{code}} {{peak}}")
"""


def layout(length, documents=64):
    """Two packed and left-padded rows; the number of documents and the padding stay the same at every length."""
    real = np.ones((2, length), bool)
    real[:, :7], real[0, :9] = False, False
    ids = np.broadcast_to(np.arange(length) * documents // length, (2, length))
    return Layout(2, length, length, 1, 0, real, ids, cross=True, tensors=lambda name: ids)


def operands(spec, length):
    """The mask of a spec, one to combine it with, and their layout."""
    over = layout(length)
    return build(parse(spec), over), build(parse("causal & padding & (prefix:50 | sliding:200)"), over), over


def memory(work):
    """Peak memory of `work` in bytes."""
    work()  # What is made once, such as caches, is not its own.
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def grows(work_at):
    """Whether the peak memory of the work at some length more than follows it: more than GROWTH for twice the length."""
    peaks = [memory(work_at(length)) for length in LENGTHS]
    return any(large > GROWTH * small + SLACK for small, large in itertools.pairwise(peaks))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_linear(kind):
    spec = parse(kind + NUMBERS.get(kind, ""))

    def work(length):
        over = layout(length)
        return lambda: build(spec, over)

    assert not grows(work)


@pytest.mark.combinations
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_and_views_are_linear(name, spec):
    def work(length):
        given = operands(spec, length)
        return lambda: OPERATORS[name](*given)

    assert not grows(work)


def test_quadratic_work_is_noticed():
    small = {length: build(parse("causal"), layout(length // 16)) for length in LENGTHS}
    assert grows(lambda length: small[length].dense)


def child(*arguments):
    """Standard output and the peak memory in bytes of a command, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)], capture_output=True, check=True, cwd=ROOT
    )
    code, kilobytes = done.stderr.split()
    assert code == b"0"
    return done.stdout, int(kilobytes) * 1024


DOCUMENTS = (
    "--packed",
    "-m",
    "causal & sliding:4096 & documents",
    "--lengths",
    ",".join(["524"] * 1999 + ["1100"]),
)
SEQUENCES = (
    "-m",
    "causal & padding",
    "--lengths",
    ",".join(str(2**20 - 100_000 * item) for item in range(8)),
)


@pytest.mark.long
@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("options", [DOCUMENTS, SEQUENCES], ids=["documents", "sequences"])
@pytest.mark.parametrize("picture", [False, True], ids=["table", "picture"])
def test_a_million_tokens_are_shown_below_400_mib(options, picture, tmp_path):
    path = tmp_path / "mask.png"
    printed, peak = child("show", *options, *(("-o", path) if picture else ()))
    assert peak < 400 * MIB
    if picture:
        assert path.stat().st_size > 1000
    else:
        assert b"[1, 1, 1048576, 1048576]" in printed or b"[8, 1, 1048576, 1048576]" in printed


@pytest.mark.long
@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc")
def test_json_streams(tmp_path):
    """The text of a long mask is many times larger than what writing it takes beyond a short one's."""
    path = tmp_path / "mask.json"
    _, short = child("show", "-m", "causal", "--lengths", 8, "-o", path)
    _, long = child("show", "-m", "causal", "--lengths", 2**19, "-o", path)
    assert path.read_bytes().count(b"[[0, ") >= 2**19
    assert long - short < path.stat().st_size / 2
    assert long < 200 * MIB
