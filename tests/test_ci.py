"""The recipes of the page on CI, run as far as a test can: YAML that parses, its commands, its Python."""

import shlex

import pytest
import torch
import yaml

from tests.cli.running import ROOT, run
from tests.documents import FOLDER, PYTHON, furnished, trainer_of
from tests.test_pytest_plugin import outcome, project

pytest_plugins = ["pytester"]
__all__ = ["project"]

PAGE = (FOLDER / "ci.md").read_text()
GOLDEN, FIRST_BATCH, FIRST_STEP = PYTHON.findall(PAGE)
HOOKS, WORKFLOW = (yaml.safe_load(part.partition("```")[0]) for part in PAGE.split("```yaml\n")[1:])
FAILURE, *_ = (part.partition("```")[0] for part in PAGE.split("```text\n")[1:])


@pytest.fixture(scope="module")
def folder():
    with furnished() as made:
        run("show", "--lengths", "8", "--mask", "causal", "-o", "golden.json", cwd=made, check=0)
        yield made


def code_of(command, folder):
    program, *arguments = shlex.split(command)
    assert program == "maskcli"
    return run(*arguments, cwd=folder).returncode


def test_the_hook_holds_the_mask(folder):
    (hook,) = HOOKS["repos"][0]["hooks"]
    assert HOOKS["repos"][0]["repo"] == "local"
    assert {"id", "name", "entry", "language"} <= set(hook)
    assert code_of(hook["entry"], folder) == 0
    changed = folder / "changed"
    changed.mkdir()
    (changed / "golden.json").symlink_to(folder / "golden.json")
    masks = (folder / "masks.py").read_text()
    (changed / "masks.py").write_text(masks.replace("bool))", "bool), 1)"))
    assert code_of(hook["entry"], changed) == 1


def test_the_hooks_of_the_repository_are_commands_and_are_named():
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    for hook in hooks:
        assert {"id", "name", "entry", "language"} <= set(hook)
        program, command = hook["entry"].split()
        assert hook["id"] == f"{program}-{command}"
        assert "Usage" in run(command, "--help", check=0).stdout
        assert f"`{hook['id']}`" in PAGE


def test_the_workflow_runs(folder):
    steps = WORKFLOW["jobs"]["masks"]["steps"]
    commands = [step["run"] for step in steps if step.get("run", "").startswith("maskcli")]
    assert [code_of(command, folder) for command in commands] == [0, 0, 0]
    assert all(set(step) <= {"uses", "with", "run"} for step in steps)


def test_the_golden_mask_of_the_page(project):
    project.makepyfile(test_page=GOLDEN)
    outcome(project, "--maskcli-update").assert_outcomes(passed=1)
    outcome(project).assert_outcomes(passed=1)
    project.makepyfile(test_page=GOLDEN.replace("causal & padding", "causal"))
    failed = outcome(project)
    first, *rest = FAILURE.splitlines()
    failed.stdout.fnmatch_lines([f"*{first.rpartition(' ')[0]} *golden/batch.json"])
    printed = [line.removeprefix("E").strip() for line in failed.outlines]
    assert set(map(str.strip, rest)) <= set(printed)


def trained(folder, **changed):
    """A Trainer that was given the recipe's callback, and ran."""
    space = {"trainer": trainer_of(folder, **changed)}
    exec(compile(FIRST_STEP, "the page", "exec"), space)
    return space["trainer"]


@pytest.mark.long
def test_trainers_first_batch_and_step_are_checked(tmp_path, capsys):
    trainer = trained(tmp_path)
    assert trainer.state.global_step == 2
    assert "nothing found in 2 checked of 2 attention calls (2 modules, 1 step)" in capsys.readouterr().out

    trainer = trained(tmp_path, labels=torch.clone)
    assert trainer.state.global_step == 1
    assert "MSK503 padding-supervised error" in capsys.readouterr().out
    exec(FIRST_BATCH, {"trainer": trainer})
    assert "MSK503 padding-supervised error" in capsys.readouterr().out
