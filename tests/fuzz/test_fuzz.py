"""The fuzzing harness runs, and can fail: a run that does what none may do is told."""

import json
import subprocess
import sys

import pytest

from tests.cli.running import ROOT
from tests.fuzz.__main__ import TARGETS


def fuzzed(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.long
def test_a_few_cases_of_every_target():
    done = fuzzed("--cases", "12", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in TARGETS:
        assert f"{name}: 12 cases, failures: 0" in done.stdout


SICK = """
import json, sys, time, warnings
from tests.fuzz import process

process.SECONDS = 0.1

def traceback():
    raise ValueError("x")

def internal():
    print("maskcli: internal error (x).", file=sys.stderr)
    return 2

def library():
    warnings.warn("odd", RuntimeWarning)
    return 0

def raw():
    print("\\x1b[31m")
    return 0

def silent():
    return 2

def odd():
    return 7

def slow():
    time.sleep(0.2)
    return 0

def large():
    bytearray(600 * 2**20)
    return 0

runs = (traceback, internal, library, raw, silent, odd, slow, large)
json.dump({run.__name__: process.faults(process.measured(run)) for run in runs}, sys.stdout)
"""
PAGES = """
import json, sys
from maskcli.report.page.html import html
from tests.fuzz.pages import odd

sound = "".join(html({"title": "a", "maps": [{"name": "<b>"}]}))
hostile = [sound, sound.replace("a</title>", "</title><b>"), sound.replace('"a"', "NaN"), sound.replace("u003c", "x")]
hostile += [sound.replace("a</title>", "\x9b</title>"), sound.replace('"a"', '"</script>"'), sound.replace("let ", "var ")]
json.dump([odd(text) for text in hostile], sys.stdout)
"""


def test_what_no_page_may_hold_is_told():
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, cwd=ROOT, check=True)
    sound, markup, nan, broken, raw, ended, script = map(" ".join, json.loads(done.stdout))
    assert not sound
    assert "markup" in markup
    assert "no JSON" in nan
    assert "no JSON" in broken
    assert "raw" in raw
    assert "markup" in ended
    assert "a script" in script


FAULTS = {
    "traceback": "traceback", "internal": "internal error", "library": "on standard error", "raw": "raw '\\x1b'",
    "silent": "without a sentence", "odd": "exit code 7", "slow": "took 0.2 s", "large": "MiB",
}  # fmt: skip


def test_what_no_run_may_do_is_told():
    done = subprocess.run([sys.executable, "-c", SICK], capture_output=True, text=True, cwd=ROOT, check=True)
    told = json.loads(done.stdout)
    assert set(told) == set(FAULTS)
    for name, fault in FAULTS.items():
        assert fault in " ".join(told[name])
