"""What a shell is offered behind the cursor, by the protocol that its scripts speak."""

import subprocess
import sys

import numpy as np
import pytest

from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.kinds import KINDS
from tests.cli.running import ROOT, plain_environment, run


def offered(line, cwd=None, shell="bash"):
    """The words that bash is offered for the last word of a line, which it takes apart at colons."""
    words = line.replace(":", "\n:\n").replace("  ", "\n").split("\n")
    asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = run(cwd=cwd, _MASKCLI_COMPLETE=f"complete_{shell}", **asked)
    assert done.stderr == ""
    return [word for word in done.stdout.split("\n") if word]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("maskcli  sho", ["show"]),
        ("maskcli  show  -m  caus", ["causal", "causal-top-left"]),
        ("maskcli  show  -m  'causal & pad", ["causal & padding"]),
        ("maskcli  show  -m  'causal | ~slid", ["causal | ~sliding:"]),
        ("maskcli  diagnose  x  --expect  combi", ["combined"]),
        ("maskcli  show  --from  m", ["mha", "megatron"]),
        ("maskcli  convert  causal  --to  fl", ["flash-attn", "flex"]),
        ("maskcli  rule  inverted-p", ["inverted-polarity"]),
        ("maskcli  diagnose  x  --select  MSK1,MSK202", ["MSK1,MSK202"]),
        ("maskcli  diagnose  x  --ignore  MSK202", ["MSK202"]),
        ("maskcli  docs  mas", ["masks"]),
        ("maskcli  show  --pad-", ["--pad-token", "--pad-id"]),
        ("maskcli  diff  nowhere.npz:a", []),
        ("maskcli  show  -m  '(((caus", ["(((causal", "(((causal-top-left"]),
    ],
)
def test_words(line, words):
    assert offered(line) == words


def test_nothing_heavy_is_imported():
    asked = {"_MASKCLI_COMPLETE": "complete_bash", "COMP_WORDS": "maskcli\nshow\n--pad-", "COMP_CWORD": "2"}
    heavy = {"torch", "transformers", "matplotlib", "tokenizers", "rich", "numpy"}
    told = f"atexit.register(lambda: print(sorted({heavy!r} & {{*sys.modules}})))"
    program = f"import atexit, sys; {told}; from maskcli.cli import _run; _run()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**plain_environment(), **asked},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "--pad-token" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_kind_and_convention():
    assert {each.rstrip(":") for each in offered("maskcli  show  -m  ")} == set(KINDS)
    assert offered("maskcli  show  --to  ") == list(CONVENTIONS)


def test_tensors_of_a_file(tmp_path):
    np.savez(tmp_path / "a.npz", mask=np.ones(2), attention_mask=np.ones(2), attentions=np.ones(2))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    assert offered("maskcli  inspect  a.npz:att", tmp_path) == ["attention_mask", "attentions"]
    assert offered("maskcli  inspect  torn.npz:att", tmp_path) == []
    for command in ("diff", "convert", "diff  causal", "diff  a.npz:mask"):
        assert offered(f"maskcli  {command}  a.npz:att", tmp_path) == ["attention_mask", "attentions"]
    # The shell's last word is the colon itself.
    asked = {"COMP_WORDS": "maskcli\ndiff\na.npz\n:", "COMP_CWORD": "3", "_MASKCLI_COMPLETE": "complete_bash"}
    assert run(cwd=tmp_path, **asked).stdout.split() == ["mask", "attention_mask", "attentions"]
    for command in ("inspect", "diff", "convert", "diff causal"):
        asked = {"_MASKCLI_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"maskcli {command} a.npz:mas"}
        assert "a.npz\\\\:mask" in run(cwd=tmp_path, **asked).stdout
