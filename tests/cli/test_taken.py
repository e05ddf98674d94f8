"""What is given and would change nothing, or something else than was meant, is said: never taken in silence."""

import json

import numpy as np
import pytest

from tests.cli.running import DATA, refused, run

SICK = str(DATA / "minilm_attn_nomask.safetensors")


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "mask.npy", np.tril(np.ones((3, 3), bool)))
    (tmp_path / "notes.txt").write_text("one two\n")
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"input_ids": [1, 2, 3], "labels": [1, 2, 3], "x": [0, 0, 1]}) + "\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["The", "cat", "sat"], "these are 3 texts of one word each; did you mean one text in quotes: 'The cat sat'?"),
        (["notes.txt"], "'notes.txt' was taken as a text, and is a file; did you mean --file notes.txt?"),
        (["mask.npy"], "did you mean the mask in this file (-m mask.npy), or maskcli inspect mask.npy?"),
        (["mask.npy:mask"], "(-m mask.npy:mask), or maskcli inspect mask.npy?"),
        (["causal & sliding:4"], "reads as a mask; did you mean -m 'causal & sliding:4'?"),
        (["--ids", "5 3 0 0 0 0; 7 4 8 6 0 0"], "sample 0 ends with the id 0 4 times; pass --pad-id 0 if that is padding"),
        (["--ids", "9 9 5; 4 3 2"], "sample 0 begins with the id 9 2 times; pass --pad-id 9 if that is padding"),
    ],
)  # fmt: skip
def test_what_was_probably_meant(arguments, sentence, folder):
    done = run("show", *arguments, cwd=folder, check=0)
    assert f"maskcli: warning: {' '.join(done.stderr.split()[2:])}" == done.stderr.rstrip()
    assert sentence in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["The cat sat", "Hello", "there"], ["Hello", "World"], ["full"], ["nowhere.txt"],
        ["--ids", "5 3 2 0; 7 4 8 6"], ["--ids", "5 3 0 0", "--pad-id", "0"],
    ],
)  # fmt: skip
def test_what_was_meant_as_it_stands(arguments, folder):
    assert run("show", *arguments, cwd=folder, check=0).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "a", "-m", "causal", "--mask", "padding"], "--mask was given 2 times and takes one value; join masks by &"),
        (["show", "--lengths", "3", "--lengths", "4"], "--lengths was given 2 times and takes one value; leave one out"),
        (["show", "a", "--special-tokens", "--no-special-tokens"], "--special-tokens was given 2 times"),
        (["trace", "--every", "2", "--every", "3", "program.py"], "--every was given 2 times"),
        (["show", "a", "-"], "- reads standard input, and stands here beside other texts"),
        (["show", "a", "-m", ""], "the mask spec is empty"),
        (["show", "a", "--heads", "4"], "--heads is for a saved mask or a function"),
        (["show", "a", "--from", "mha"], "--from is for a saved mask or a function"),
        (["convert", "causal", "--to", "sdpa", "--fill", "min", "--lengths", "3", "-o", "x.npy"], "--fill min is for additive masks"),
        (["convert", "causal", "--to", "sdpa", "--heads", "3", "--lengths", "3", "-o", "x.npy"], "--heads 3 tells the heads of an mha mask"),
        (["convert", "causal", "--to", "sdpa", "--from", "mha", "--lengths", "3", "-o", "x.npy"], "'causal' is none"),
        (["convert", "mask.npy", "--from", "sdpa", "--to", "additive", "--padding-side", "left", "-o", "x.npy"], "pass --lengths 5,3 too"),
        (["diff", "mask.npy", "causal", "--padding-side", "left"], "pass --lengths 5,3 too"),
        (["diff", "mask.npy", "causal", "--ids", "5 3 0"], "pass --pad-id too"),
        (["diff", "mask.npy", "causal", "--tolerance", "0.1"], "leave --tolerance out"),
        (["diff", SICK, SICK, "--lengths", "3"], "padding changes nothing where weights are compared"),
        (["diagnose", SICK, "--expect", "causal", "--expect", "full"], "--expect names 2 masks for the same tensors, 'causal' and 'full'"),
        (["diagnose", SICK, "--select", "MSK2", "--ignore", "MSK2"], "leave no rule to check"),
        (["audit", "rows.jsonl", "--full"], "--full is for rows that are shown"),
        (["audit", "rows.jsonl", "--column", "labels=labels", "--column", "labels=x"], "'labels' and 'x' are both said to be labels"),
        (["audit", "rows.jsonl", "--column", "labels=x", "--column", "loss_mask=x"], "two roles"),
        (["audit", "rows.jsonl", "--tools", "x"], "--tools is for rows that a tokenizer renders"),
        (["audit", "rows.jsonl", "--max-length", "2"], "--max-length is for rows that a tokenizer renders"),
        (["audit", "rows.jsonl", "--dtype", "uint16", "--eos-id", "2"], "leave --dtype out"),
    ],
)  # fmt: skip
def test_nothing_is_taken_in_silence(arguments, sentence, folder):
    before = sorted(folder.iterdir())
    assert sentence in refused(*arguments, cwd=folder)
    assert sorted(folder.iterdir()) == before
