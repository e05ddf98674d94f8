"""The README is held to what the commands really print; so are the pages of `maskcli docs`, see test_docs."""

import re

import pytest

from maskcli.cli import COMMANDS
from tests.documents import (
    CONSOLE,
    PAGES,
    README,
    ROOT,
    SHELL,
    commands,
    example,
    furnished,
    printed,
    run_python,
)

TEXT = README.read_text()


@pytest.fixture(scope="module")
def folder():
    with furnished() as made:
        yield made


@pytest.mark.parametrize("block", list(CONSOLE.finditer(TEXT)), ids=lambda block: block["command"][:40])
def test_outputs_are_real(block, folder):
    assert printed(block["command"], folder) == block["output"]


@pytest.mark.parametrize("block", list(SHELL.finditer(TEXT)), ids=lambda block: block["lines"][:40])
def test_commands_run(block, folder):
    for arguments in commands(block):
        example(arguments, folder)


def test_python_runs(folder, monkeypatch):
    assert run_python(TEXT, folder, monkeypatch)


def test_it_is_short_and_names_every_command_and_page():
    assert len(TEXT.splitlines()) <= 200
    assert all(f"`maskcli {command}`" in TEXT for command in COMMANDS)
    assert all(f"(maskcli/docs/{page.name})" in TEXT for page in PAGES)


def test_the_commands_that_ci_runs_are_the_readmes():
    ci = (ROOT / ".ci" / "run").read_text()
    setup = re.findall(r"^pip install (.+?) && (.*)$", TEXT, re.MULTILINE)
    assert [command for _, command in setup][1] == "pytest"
    assert "README.md" in ci
