"""The report of diagnose and trace as people read it: each cause once, what would tell more, lines to copy."""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from maskcli import diagnose
from maskcli.diagnostics.diagnose import Summary
from maskcli.report.closing import could_look, hints
from tests.cli.running import DATA, read, run

SICK, HEALTHY = DATA / "minilm_attn_nomask.safetensors", DATA / "minilm_attn.safetensors"
SEES = re.compile(r"^  see:   (.*)$", re.MULTILINE)


def leaking(path, layers=3, samples=2, seed=0):
    """Weights of a softmax that no mask reached, beside padding in the last sample."""
    scores = np.random.default_rng(seed).normal(size=(layers, samples, 2, 8, 8))
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    real = np.ones((samples, 8), np.int64)
    real[-1, 5:] = 0
    maps = {f"attentions.{at}": each.astype(np.float32) for at, each in enumerate(weights)}
    save_file({**maps, "attention_mask": real}, path)
    return path


def test_equal_findings_are_told_once(tmp_path):
    first, second = leaking(tmp_path / "a.safetensors"), leaking(tmp_path / "b.safetensors")
    other = leaking(tmp_path / "c.safetensors", seed=1)
    four = leaking(tmp_path / "d.safetensors", layers=4)
    text = run(
        "diagnose", "a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors", cwd=tmp_path, check=1
    ).stdout
    heads = [line for line in text.splitlines() if line.startswith("MSK")]
    assert heads == [
        "MSK202 padding-attended  error  3 files",
        "MSK202 padding-attended  error  d.safetensors",
    ]
    assert "  files: a.safetensors, b.safetensors; with other numbers c.safetensors\n" in text
    assert "  where: all 3 layers; sample 1; queries 0..5; keys 5..8\n" in text
    assert "  where: all 4 layers; sample 1" in text
    assert text.splitlines()[-2] == "4 errors in 17 tensors of 4 files"
    # For scripts each file has its own.
    found = read("diagnose", first, second, other, four, check=1)["findings"]
    assert [finding["file"] for finding in found] == list(map(str, (first, second, other, four)))


def test_two_places_of_one_file_are_two_findings(tmp_path):
    shape = (1, 1, 8, 8)
    keep = np.tril(np.ones(shape, bool))
    keep[..., 2, :] = keep[..., 5, :] = False
    once, shifted = keep.copy(), keep.copy()
    shifted[..., 3, :] = False
    save_file({"layer0.attn_mask": once, "layer1.attn_mask": shifted}, tmp_path / "a.safetensors")
    found = read("diagnose", tmp_path / "a.safetensors", check=1)["findings"]
    heads = re.findall("^MSK", run("diagnose", tmp_path / "a.safetensors", check=1).stdout, re.MULTILINE)
    assert len(heads) == len(found)


@pytest.mark.parametrize("columns", ["40", "60", "80", "120"])
def test_what_is_to_be_copied_is_one_line(tmp_path, columns):
    path = leaking(tmp_path / "a.safetensors")
    text = run("diagnose", path, COLUMNS=columns, check=1).stdout
    assert SEES.findall(text) == [f"maskcli inspect {path}:attentions.0 --sample 1 --rows 0:5 --keys 5:8"]
    others = [line for line in text.splitlines() if not line.startswith("  see:") and " " in line.strip()]
    assert max(map(len, others)) <= int(columns)
    assert run(*SEES.findall(text)[0].split()[1:], check=0).stdout.splitlines()


def test_the_finding_is_what_is_bright(tmp_path):
    text = run("diagnose", leaking(tmp_path / "a.safetensors"), check=1, FORCE_COLOR="1").stdout
    assert text.startswith("\x1b[1;31mMSK202 padding-attended\x1b[0m")
    assert "\x1b[1mReal queries put" in text
    assert "\x1b[2mPadding then changes" in text
    assert "\x1b[0mPass attention_mask to the model" in text
    assert (
        "\x1b"
        not in run("diagnose", tmp_path / "a.safetensors", check=1, FORCE_COLOR="1", NO_COLOR="1").stdout
    )


def test_nothing_found_is_good_news_only_where_most_could_look(tmp_path):
    few = run("diagnose", HEALTHY, check=0, FORCE_COLOR="1").stdout
    assert few.startswith("\x1b[1mnothing found in 9 tensors of 1 file")
    most = run("diagnose", HEALTHY, "--select", "MSK201,MSK202,MSK203", check=0, FORCE_COLOR="1").stdout
    assert most.startswith("\x1b[1;32mnothing found in 9 tensors of 1 file")
    assert "2 of 3 rules could look, at 6 weights, 1 padding mask" in most


DECLARED = {
    "--expect causal": {"expect": "causal"},
    "--expect full": {"expect": "full"},
    "--pad-id N": {"pad_id": 0},
    "--eos-id N": {"eos_id": 102},
    "--for train": {"purpose": "train"},
    "--prompt-length N": {"prompt_length": 2},
}


def files(folder):
    """Captures, and files with other parts of what rules need."""
    yield from (SICK, HEALTHY, leaking(folder / "padded.safetensors"))
    ids = np.arange(1, 17).reshape(2, 8)
    ids[1, 6:] = 0
    save_file({"input_ids": ids, "labels": ids}, folder / "batch.safetensors")
    save_file(
        {"attn_mask": np.tril(np.ones((2, 1, 8, 8), bool)), "input_ids": ids}, folder / "mask.safetensors"
    )
    yield from (folder / "batch.safetensors", folder / "mask.safetensors")


@pytest.mark.combinations
@pytest.mark.parametrize("option", DECLARED)
def test_hints_say_how_many_more_rules_could_look(tmp_path, option):
    for path in files(tmp_path):
        before = diagnose(path)
        more = diagnose(path, **DECLARED[option]).decided - before.decided
        assert more == before.summary().options.get(option, frozenset()), path


def test_hints_do_not_count_a_rule_twice():
    options = {
        "--expect causal": frozenset({"A", "B"}),
        "--expect full": frozenset({"A", "B", "C"}),
        "-t TOKENIZER": frozenset({"C", "D", "E"}),
        "--pad-id N": frozenset({"D"}),
        "--eos-id N": frozenset({"E", "F"}),
    }
    asked = {("all",): frozenset("ABCDEF")}
    total = Summary(undecided=asked, options=options)
    assert hints(total) == [("--expect full", 3), ("-t TOKENIZER", 2), ("--eos-id N", 1)]
    assert could_look(total) == (
        "0 of 6 rules could look; -v says what the others lack. "
        "try: --expect full (3 more), -t TOKENIZER (2 more), --eos-id N (1 more)"
    )
    assert could_look(Summary(decided=frozenset("AB"))) == "2 of 2 rules could look"


def test_verbose_lists_what_rules_lack():
    brief = run("diagnose", HEALTHY, check=0).stdout
    assert len(brief.splitlines()) == 2
    assert "for want of" not in brief
    for flag in ("-v", "--verbose"):
        whole = run("diagnose", HEALTHY, flag, check=0).stdout
        assert "could not be decided, for want of:\n" in whole
        assert "  --expect causal (or a causal mask): MSK203\n" in whole
