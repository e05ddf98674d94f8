"""A look into weights: numbers with marks where they should be 0, and the names of their tokens."""

import re

import numpy as np

from tests.cli.running import DATA, refused, run

SICK, WELL = DATA / "minilm_attn_nomask.safetensors", DATA / "minilm_attn.safetensors"
PART = ("--sample", "0", "--rows", "0:4", "--keys", "10:14")


def lines_of(*arguments, **settings):
    return run("inspect", *arguments, check=0, **settings).stdout.splitlines()


def test_what_should_be_0_is_marked():
    *_, first, second, third, fourth, told = lines_of(f"{SICK}:attentions.0", *PART)
    marks = [[word.endswith("!") for word in line.split()[1:]] for line in (first, second, third, fourth)]
    assert np.array_equal(marks, [[False, False, True, True]] * 4)
    assert told == "! should be 0: what the file or --expect says forbids it"
    assert not any("!" in line for line in lines_of(f"{WELL}:attentions.0", *PART))
    painted = run("inspect", f"{SICK}:attentions.0", *PART, FORCE_COLOR="1").stdout
    assert re.search(r"\x1b\[1;31m +0\.0429!", painted)


def test_tokens_have_names_where_a_tokenizer_is_named(tmp_path):
    text = lines_of(f"{SICK}:attentions.0", *PART, "-t", tokenizer(tmp_path))
    heads, names = text[-7:-5]
    assert [heads.index(number) + len(number) for number in heads.split()] == [
        found.end() for found in re.finditer(r"\S+", names)
    ]
    assert text[-5].split()[:2] == ["0", "t101"]
    assert max(map(len, lines_of(f"{SICK}:attentions.0", "--rows", "0:4", COLUMNS="60"))) <= 60


def tokenizer(folder):
    """A tokenizer whose tokens are called by their ids."""
    from tokenizers import Tokenizer, models

    vocabulary = {f"t{number}": number for number in range(30522)}
    path = folder / "tokenizer.json"
    Tokenizer(models.WordLevel(vocabulary, "t100")).save(str(path))
    return path


def test_the_command_of_a_finding_shows_what_should_be(tmp_path):
    name = str(tokenizer(tmp_path))
    text = run("diagnose", WELL, "--expect", "causal", "-t", name, check=1).stdout
    command = re.search(r"see: +maskcli (inspect .*)", text)[1]
    assert command.endswith(f" -t {name} --expect causal")
    *_, told = run(*command.split(), check=0, COLUMNS="300").stdout.splitlines()
    assert told.startswith("! should be 0")
    refusal = refused("inspect", WELL, "--expect", "causal")
    assert "--expect is what weights of a part, a picture or a page should be" in refusal
