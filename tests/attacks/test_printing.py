"""Names and texts that would steer a terminal: no command prints one raw, wherever it was given."""

import io
import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.running import run

# A title, a cleared screen by C0 and by C1, a right-to-left override, nothing of no width, a line of its own.
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b2J\u202etxt\u200b\u2028x"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def steering(text):
    """What a terminal would obey, but for colours."""
    return {letter for letter in COLOURS.sub("", text) if not letter.isprintable() and letter not in "\n\t"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("hostile")
    causal = np.tril(np.ones((1, 1, 4, 4), np.float32))
    weights = causal / causal.sum(axis=-1, keepdims=True)
    np.save(made / f"{HOSTILE}.npy", causal[0, 0] > 0)
    told = {HOSTILE: HOSTILE, "maskcli.expect": HOSTILE}
    save_file({f"attentions.0{HOSTILE}": weights * 3}, made / f"{HOSTILE}.safetensors")
    save_file({"attentions.0": weights, f"mask{HOSTILE}": causal}, made / "told.safetensors", metadata=told)
    (made / f"{HOSTILE}.txt").write_text(f"one\n\n{HOSTILE}\n")
    (made / f"{HOSTILE}.jsonl").write_text(json.dumps({"input_ids": [1, 2], HOSTILE: [1]}) + "\n")
    (made / f"{HOSTILE}.py").write_text(f"raise SystemExit({HOSTILE!a})\n")
    (made / f"{HOSTILE}.json").write_text("{")
    return made


@pytest.mark.combinations
@pytest.mark.parametrize(
    "arguments",
    [
        ("show", f"--{HOSTILE}"),
        ("show", HOSTILE),
        ("show", HOSTILE, "--format", "text"),
        ("show", HOSTILE, "--format", "csv"),
        ("show", HOSTILE, "--format", "json"),
        ("show", "--file", f"{HOSTILE}.txt", "--packed"),
        ("show", "--file", HOSTILE),
        ("show", "a b c d", "-m", f"./{HOSTILE}.npy"),
        ("show", "a b c d", "-m", f"./{HOSTILE}.npy", "--format", "json"),
        ("show", "a b c", "-m", f"causal & {HOSTILE}"),
        ("show", "a b", "-m", f"same:{HOSTILE}"),
        ("show", "a", "--to", HOSTILE),
        ("show", "a", "--dtype", HOSTILE),
        ("show", "a", "--format", HOSTILE),
        ("show", "a", "-o", f"x.{HOSTILE}"),
        ("show", "a", "--heads", HOSTILE),
        ("show", "a", "--pad-token", HOSTILE),
        ("show", "a", "-t", HOSTILE),
        ("show", "a", "-t", f"{HOSTILE}.json"),
        ("show", "--ids", HOSTILE),
        ("show", "--lengths", HOSTILE),
        ("show", HOSTILE, "--chat", "-t", HOSTILE),
        ("diagnose", f"{HOSTILE}.safetensors"),
        ("diagnose", f"{HOSTILE}.safetensors", "--format", "concise"),
        ("diagnose", f"{HOSTILE}.safetensors", "--format", "json"),
        ("diagnose", "told.safetensors"),
        ("diagnose", HOSTILE),
        ("diagnose", f"told.safetensors:{HOSTILE}"),
        ("diagnose", "told.safetensors", "--expect", HOSTILE),
        ("diagnose", "told.safetensors", "--role", f"weights={HOSTILE}"),
        ("diagnose", "told.safetensors", "--model", f"{HOSTILE}.json"),
        ("diagnose", "told.safetensors", "--positions", HOSTILE),
        ("inspect", f"{HOSTILE}.safetensors", "told.safetensors"),
        ("inspect", f"told.safetensors:mask{HOSTILE}"),
        ("inspect", f"told.safetensors:{HOSTILE}"),
        ("diff", f"./{HOSTILE}.npy", "full"),
        ("diff", HOSTILE, "full", "--lengths", "3"),
        ("diff", f"{HOSTILE}.safetensors", "told.safetensors"),
        ("convert", f"./{HOSTILE}.npy", "--to", "hf"),
        ("convert", HOSTILE, "--to", HOSTILE),
        ("audit", f"{HOSTILE}.jsonl"),
        ("audit", f"{HOSTILE}.jsonl", "--format", "json"),
        ("audit", HOSTILE),
        ("rule", HOSTILE),
        ("docs", HOSTILE),
        ("trace", f"{HOSTILE}.py"),
        ("probe", HOSTILE),
    ],
    ids=ascii,
)
def test_no_name_reaches_a_terminal_raw(arguments, folder):
    for colour in ({}, {"FORCE_COLOR": "1", "COLUMNS": "60"}):
        done = run(*arguments, cwd=folder, torch=arguments[0] == "probe", **colour)
        # What a program prints itself is its own.
        said = done.stderr if arguments[0] != "trace" else ""
        assert not steering(done.stdout + said)
        assert "internal error" not in done.stderr


def test_what_forgets_to_clean_steers_no_terminal_either(monkeypatch):
    from rich.table import Table

    from maskcli.report.terminal import console, guarded

    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    for forced in ("0", "1"):
        monkeypatch.setenv("FORCE_COLOR", forced)
        written = io.StringIO()
        door = guarded(written)
        door.write(f"{HOSTILE}\n")
        console(door).print(table, HOSTILE, style="red")
        assert written.getvalue().count("title") == 4
        assert not steering(written.getvalue())


def test_numbers_that_json_has_not_are_texts():
    from maskcli.report.terminal import json_text

    value = {"a": [1.5, float("inf"), {"b": -float("inf")}], "c": (float("nan"), None, True)}
    assert json.loads(json_text(value)) == {"a": [1.5, "inf", {"b": "-inf"}], "c": ["nan", None, True]}


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "a", "-m"),
        ("show", "--ids"),
        ("show", "--file"),
        ("diagnose",),
        ("rule",),
        ("show", "a", "--to"),
    ],
    ids=" ".join,
)
def test_a_sentence_never_quotes_all_of_a_long_word(arguments):
    done = run(*arguments, "x" * 100_000, check=2)
    assert len(done.stderr) < 2100
