"""Run whole programs and measure them: seconds of wall time and peak memory, in turn, as medians."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MASKCLI = (sys.executable, "-m", "maskcli")
# Installed programs find their modules compiled; what the caller's environment says of that must not slow one side down.
ENVIRONMENT = {
    key: value
    for key, value in os.environ.items()
    if key not in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
}
ENVIRONMENT |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Measured(NamedTuple):
    """Seconds of wall time, MiB of peak memory of the largest process, and seconds of all its processors."""

    seconds: float
    peak: float
    processor: float


def run(command):
    """Run a command to its end. maskcli may exit with 1 (a finding, a difference); anything else has to succeed.

    A child's ru_maxrss begins with what its parent holds, so the process that calls this must stay small: no numpy, no torch.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT
    )
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode not in ((0, 1) if tuple(command[:3]) == MASKCLI else (0,)):
        raise SystemExit(f"{command} failed: {error.decode()[-500:]}")
    return Measured(seconds, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def printed(command):
    """What a command prints."""
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT, check=True
    )
    return done.stdout.decode()


def in_turn(commands, runs):
    """The median of each command over `runs` rounds A B A B ..., after a round that warms up."""
    for command in commands:
        run(command)
    rounds = [[run(command) for command in commands] for _ in range(runs)]
    return [
        Measured(*(statistics.median(values) for values in zip(*each, strict=True)))
        for each in zip(*rounds, strict=True)
    ]
