"""Fuzz maskcli: hostile inputs, made from real ones, against what no input may do and against independent oracles.

    python -m tests.fuzz --minutes 3                     every target in turn
    python -m tests.fuzz --target reader --cases 100000
    python -m tests.fuzz --target cli --seed 7 --only 1234    one case again
    python -m tests.fuzz --target reader --guided        where atheris is installed: choices that reach new code

Everything runs in this process. The exit code is 1 when a case failed; each is printed with what runs it again.
"""

import argparse
import collections
import importlib
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.source import BYTES, Source, seeded

# Each target: the file it is in. It takes choices and an empty folder, and returns what went wrong, a sentence each.
TARGETS = {
    "reader": "readers",
    "dumps": "dumps",
    "cli": "command_lines",
    "masks": "masks",
    "audit": "sets",
    "turns": "sets",
    "page": "pages",
    "probe": "servers",
}
# Where folders of cases cost the least.
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# Failures of one kind that are printed.
MOST = 3


def main():
    options = _options()
    os.environ["HF_HUB_OFFLINE"] = "1"
    names = [options.target] if options.target else list(TARGETS)
    seconds = options.minutes * 60 / len(names) if options.minutes else None
    importlib.import_module("tests.fuzz.process").prepare()
    if options.guided:
        _guided(names[0], seconds)

    failed = 0
    for name in names:
        failed += _run(name, options, seconds)
    sys.exit(1 if failed else 0)


def _options():
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="for all targets together")
    parser.add_argument("--cases", type=int, help="of each target")
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--only", type=int, help="run this case again and print what it does")
    parser.add_argument("--guided", action="store_true", help="let atheris choose")
    options = parser.parse_args()
    if options.guided and not options.target:
        parser.error("--guided takes one --target")
    if options.minutes is None and options.cases is None and options.only is None:
        options.minutes = 1.0
    return options


def _run(name, options, seconds):
    """How many cases of a target failed."""
    target = _target(name)
    tally = Tally(name, options.seed)
    if options.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            tally.add(options.only, _tried(target, seeded(options.seed, options.only), Path(folder)))
        return tally.failed

    numbers = itertools.count(options.first)
    for number in itertools.islice(numbers, options.cases):
        if seconds and time.monotonic() - tally.began > seconds:
            break
        tally.add(number, _case(target, seeded(options.seed, number), number))
    tally.close()
    return tally.failed


def _target(name):
    return getattr(importlib.import_module(f"tests.fuzz.{TARGETS[name]}"), name)


def _case(target, source, number):
    """What went wrong in a case, in a folder of its own that is gone afterwards."""
    from tests.fuzz.process import STREAMS

    with tempfile.TemporaryDirectory(prefix="fuzz", dir=QUICK) as folder:
        STREAMS.remember(number)
        return _tried(target, source, Path(folder))


def _tried(target, source, folder):
    home = os.getcwd()
    os.chdir(folder)
    try:
        return target(source, folder)
    finally:
        os.chdir(home)


class Tally:
    """Cases that ran, and those that failed, by what they did."""

    def __init__(self, name, seed):
        self.name, self.seed = name, seed
        self.began = time.monotonic()
        self.cases = self.failed = 0
        self.kinds = collections.Counter()

    def add(self, number, faults):
        self.cases += 1
        self.failed += bool(faults)
        for fault in faults:
            kind = "".join(letter for letter in fault if not letter.isdigit())[:60]
            self.kinds[kind] += 1
            if self.kinds[kind] <= MOST:
                again = f"python -m tests.fuzz --target {self.name} --seed {self.seed} --only {number}"
                print(f"{fault!a}\n  {again}", flush=True)

    def close(self):
        from tests.fuzz.process import CODES

        seconds = time.monotonic() - self.began
        codes = ", ".join(f"{count:,} with {code}" for code, count in sorted(CODES.items()))
        CODES.clear()
        done = f"{self.name}: {self.cases:,} cases, failures: {self.failed:,}"
        print(f"{done} ({seconds:.0f} s, seed {self.seed}; runs that ended {codes})", flush=True)


def _guided(name, seconds):
    """Let atheris mutate the choices: those that reach code which none reached before are kept and mutated again."""
    import atheris

    with atheris.instrument_imports(include=["maskcli"]):
        for command in ("audit", "convert", "diagnose", "diff", "inspect", "show"):
            importlib.import_module(f"maskcli.cli.{command}")
        target = _target(name)
    tally = Tally(name, "guided")

    def once(block):
        faults = _case(target, Source(block), tally.cases)
        if faults:
            kept = Path(tempfile.gettempdir()) / f"fuzz-{name}-{tally.cases}.choices"
            kept.write_bytes(block)
            faults = [f"{fault} ({kept})" for fault in faults]
        tally.add(tally.cases, faults)
        if seconds and time.monotonic() - tally.began > seconds:
            tally.close()
            # atheris never returns.
            os._exit(1 if tally.failed else 0)

    atheris.Setup([sys.argv[0], f"-max_len={BYTES}", "-len_control=0", "-verbosity=0"], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
