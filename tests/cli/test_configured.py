"""Defaults in pyproject.toml: found, checked, and overruled by the command line."""

import json

import pytest

from tests.cli.running import DATA, read, refused, run

HEALTHY, SICK = DATA / "minilm_attn.safetensors", DATA / "minilm_attn_nomask.safetensors"


@pytest.fixture
def repository(tmp_path):
    """A repository, with a folder in it; what stands above it counts for nothing."""
    (tmp_path / "pyproject.toml").write_text("[tool.maskcli.diagnose]\nexpect = 'nonsense('\n")
    root = tmp_path / "repository"
    (root / ".git").mkdir(parents=True)
    (root / "inner" / "deep").mkdir(parents=True)
    return root


def configure(root, text):
    (root / "pyproject.toml").write_text(f"[project]\nname = 'x'\n{text}")


def codes(*arguments, cwd, check=1):
    return {finding["code"] for finding in read("diagnose", *arguments, cwd=cwd, check=check)["findings"]}


def test_options_have_defaults_of_the_repository(repository):
    assert codes(HEALTHY, cwd=repository, check=0) == set()
    configure(repository, "[tool.maskcli.diagnose]\nexpect = 'causal'\n")
    for folder in (repository, repository / "inner", repository / "inner" / "deep"):
        assert codes(HEALTHY, cwd=folder) == {"MSK203"}
    # A nearer file without a table of maskcli is passed over, one with a table wins.
    configure(repository / "inner", "")
    assert codes(HEALTHY, cwd=repository / "inner" / "deep") == {"MSK203"}
    configure(repository / "inner", "[tool.maskcli.audit]\neos-id = 2\n")
    assert codes(HEALTHY, cwd=repository / "inner" / "deep", check=0) == set()


def test_the_command_line_wins(repository):
    configure(
        repository, "[tool.maskcli.diagnose]\nexpect = ['causal']\nselect = ['MSK203']\nfail-on = 'never'\n"
    )
    assert codes(HEALTHY, cwd=repository, check=0) == {"MSK203"}
    assert codes(HEALTHY, "--expect", "full", cwd=repository, check=0) == set()
    assert codes(HEALTHY, "--fail-on", "error", cwd=repository) == {"MSK203"}
    assert codes(SICK, "--select", "MSK202", cwd=repository, check=0) == {"MSK202"}


def test_values_of_every_kind(repository):
    configure(
        repository,
        "[tool.maskcli.diagnose]\npad_id = 0\nexact = true\njobs = 1\nformat = 'json'\n"
        "[tool.maskcli.diff]\nquiet = true\n",
    )
    found = json.loads(run("diagnose", SICK, cwd=repository, check=1).stdout)
    assert "MSK401" not in {skip["code"] for skip in found["skipped"]}
    assert run("diff", f"{SICK}:attention_mask", "full", cwd=repository, check=1).stdout == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tool.maskcli.diagnose]\nexpct = 'causal'\n", "tool.maskcli.diagnose has 'expct', which is no option; did you mean 'expect'?"),
        ("[tool.maskcli.diagnos]\nexpect = 'causal'\n", "tool.maskcli has 'diagnos', which is no command; did you mean 'diagnose'?"),
        ("[tool.maskcli.diagnose]\njobs = 'many'\n", "tool.maskcli.diagnose.jobs is 'many', and a whole number was expected."),
        ("[tool.maskcli.diagnose]\njobs = true\n", "tool.maskcli.diagnose.jobs is True, and a whole number was expected."),
        ("[tool.maskcli.diagnose]\njobs = 0\n", "tool.maskcli.diagnose.jobs: "),
        ("[tool.maskcli.diagnose]\nexact = 1\n", "tool.maskcli.diagnose.exact is 1, and true or false was expected."),
        ("[tool.maskcli.diagnose]\nexpect = [1]\n", "tool.maskcli.diagnose.expect is 1, and text or a list of them was expected."),
        ("[tool.maskcli.diagnose]\nformat = 'jsn'\n", "tool.maskcli.diagnose.format: 'jsn' is not one of"),
        ("[tool.maskcli.diagnose]\nfail-on = 'fatal'\n", "tool.maskcli.diagnose.fail-on: "),
        ("[tool]\nmaskcli = 3\n", "tool.maskcli is no table"),
        ("[tool.maskcli]\ndiagnose = 3\n", "tool.maskcli.diagnose is no table"),
        ("[tool.maskcli.diagnose\n", "'pyproject.toml' is not valid TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_it_is_one_sentence(repository, text, told):
    configure(repository, text)
    sentence = refused("diagnose", HEALTHY, cwd=repository)
    assert "'pyproject.toml'" in sentence
    assert told in sentence


def test_a_file_that_does_not_name_it_is_nobodys_business(repository):
    (repository / "pyproject.toml").write_text("this is no TOML [[[")
    assert codes(HEALTHY, cwd=repository, check=0) == set()


def test_without_a_repository_only_this_folder_counts(tmp_path):
    configure(tmp_path, "[tool.maskcli.diagnose]\nexpect = 'causal'\n")
    (tmp_path / "inner").mkdir()
    assert codes(HEALTHY, cwd=tmp_path) == {"MSK203"}
    assert codes(HEALTHY, cwd=tmp_path / "inner", check=0) == set()
