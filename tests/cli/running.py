"""Run maskcli as its users do: a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"


def run(*arguments, stdin=None, cwd=None, check=None, **environment):
    """The finished process; nothing of the caller's terminal settings reaches it."""
    inherited = {
        k: v
        for k, v in os.environ.items()
        if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM", "GITHUB_ACTIONS")
    }
    done = subprocess.run(
        [sys.executable, "-m", "maskcli", *map(str, arguments)], input=stdin, capture_output=True, text=True, encoding="utf-8",
        cwd=cwd, env={**inherited, "HF_HUB_OFFLINE": "1", **environment}, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    if check is not None:
        assert done.returncode == check, done.stderr or done.stdout
    return done


def read(*arguments, check=0, **options):
    """The JSON that a command prints; NaN and Infinity are not JSON."""

    def refuse(name):
        raise AssertionError(name)

    return json.loads(
        run(*arguments, "--format", "json", check=check, **options).stdout, parse_constant=refuse
    )


def refused(*arguments, **options):
    """The one sentence on standard error of a command that exits with 2 and prints nothing."""
    done = run(*arguments, check=2, **options)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("maskcli: ")
    assert lines[0].endswith((".", "?"))
    return lines[0]
