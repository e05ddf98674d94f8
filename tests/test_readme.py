"""The README is held to what the commands really print. `python -m tests.test_readme` writes their output into it."""

import re
import shlex
from pathlib import Path

import pytest

from maskcli.diagnostics.catalogue import in_code_order
from maskcli.masks.kinds import KINDS
from tests.cli.running import ROOT, run

README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n\$ maskcli (?P<command>[^\n]*)\n(?P<output>.*?)```\n", re.DOTALL)
RULES = re.compile(r"<!-- rules -->\n(?:\n\|.*?\n\n)?", re.DOTALL)


def printed(command):
    done = run(*shlex.split(command), cwd=ROOT, COLUMNS="100")
    assert done.returncode in (0, 1)
    assert done.stderr == ""
    return done.stdout


def table():
    rows = [f"| {rule.code} | {rule.name} | {rule.severity} | {rule.summary} |" for rule in in_code_order()]
    return (
        "<!-- rules -->\n\n"
        + "\n".join(["| code | name | severity | what it means |", "|---|---|---|---|", *rows])
        + "\n\n"
    )


@pytest.mark.parametrize(
    "block", list(BLOCK.finditer(README.read_text())), ids=lambda block: block["command"][:40]
)
def test_outputs_are_real(block):
    assert printed(block["command"]) == block["output"]


def test_the_table_of_rules_is_the_catalogue():
    assert table() in README.read_text()


def test_every_kind_and_command_is_described():
    text = README.read_text()
    assert all(f"`{name}" in text for name in KINDS)
    assert all(
        f"maskcli {command}" in text for command in ("show", "diagnose", "rule", "inspect", "diff", "convert")
    )


def test_the_commands_that_ci_runs_are_the_readmes():
    ci = (ROOT / ".ci" / "run").read_text()
    commands = re.findall(r"^pip install (.+?) && (.*)$", README.read_text(), re.MULTILINE)
    assert [command for _, command in commands][1] == "pytest"
    assert "README.md" in ci


def update():
    """Write what the commands print into the README."""
    text = BLOCK.sub(
        lambda block: f"```console\n$ maskcli {block['command']}\n{printed(block['command'])}```\n",
        README.read_text(),
    )
    Path(README).write_text(RULES.sub(lambda _: table(), text))


if __name__ == "__main__":
    update()
