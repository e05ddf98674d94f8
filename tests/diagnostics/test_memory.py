"""The memory that diagnose takes, in a process of its own, does not follow the size of the file."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.attention_files import WRITERS, heads
from tests.cli.running import ROOT

STATUS = Path("/proc/self/status")
MIB = 2**20
# VmHWM, since ru_maxrss of a child counts what its parent held when it was forked.
CHILD = f"""
import sys
from maskcli.cli import _run
sys.argv = ["maskcli", "diagnose", *sys.argv[1:]]
code = _run()
peak = next(line.split()[1] for line in open({str(STATUS)!r}) if line.startswith("VmHWM"))
sys.stderr.write(f"{{code}} {{peak}}")
"""

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc")


def peak(path, *options):
    """Peak memory in bytes of diagnosing a file of healthy attention."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path, *options], capture_output=True, text=True, check=True, cwd=ROOT
    )
    code, kilobytes = done.stderr.split()
    assert code == "0", done.stdout
    return int(kilobytes) * 1024


@pytest.fixture
def write(tmp_path):
    """Write layers of attention to a file of a format; the files are gone when the test ends."""
    paths = []

    def written(maps, real, layers, dtype, form="safetensors"):
        paths.append(tmp_path / f"layers{layers}.{form}")
        WRITERS[form](paths[-1], maps, real, layers, dtype)
        return paths[-1]

    yield written
    for path in paths:
        path.unlink()


def test_diagnosing_512_mib_takes_less_than_200_and_half_of_it_no_less(write):
    maps, real = heads(1024, "float16")
    layers = 512 * MIB // maps.nbytes
    half, whole = write(maps, real, layers // 2, "float16"), write(maps, real, layers, "float16")
    assert whole.stat().st_size > 512 * MIB
    small, large = peak(half, "--expect", "causal"), peak(whole, "--expect", "causal")
    assert large < 200 * MIB
    assert large - small < 24 * MIB


@pytest.mark.long
def test_a_tensor_larger_than_the_ceiling_is_never_held(write):
    """One tensor of 512 MiB in a .npy: nothing of its size is ever in memory."""
    maps, real = heads(1024, "float32")
    path = write(maps, real, 2**29 // maps.nbytes, "float32", "npy")
    assert path.stat().st_size > 2**29
    assert peak(path, "--role", f"weights={path}", "--expect", "causal", "--exit-zero") < 200 * MIB
    Path(f"{path}.attention_mask.npy").unlink()


@pytest.mark.long
def test_rows_that_are_short_and_many_leave_little_behind(write):
    """What stays in memory for each row of a healthy map is its sum, its largest weight, and some flags."""
    maps, real = heads(128, "float16")
    few, many = write(maps, real, 16, "float16"), write(maps, real, 272, "float16")
    rows = (272 - 16) * maps[..., 0].size
    assert (peak(many, "--expect", "causal") - peak(few, "--expect", "causal")) / rows < 40
