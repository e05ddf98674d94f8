"""Every command and the API on real input, in an environment without any extra; `.ci/run` runs it with and without.

`python tests/bare.py` prints what commands print, to be compared; with `refused` it holds that what needs an extra says
so. It imports nothing that a bare install has not, and runs the maskcli that is installed.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

DATA = Path(__file__).resolve().parent / "data"
WEIGHTS, SAVED = str(DATA / "minilm_attn.safetensors"), str(DATA / "minilm_mask.pt")
PYTHON = """
import maskcli, numpy as np
mask = maskcli.mask("causal", keys=3)
weights = np.full((2, 1, 3, 3), 1 / 3, np.float32)
print(maskcli.name(mask), maskcli.compare(mask, "full").regions)
print([finding.code for finding in maskcli.diagnose({"attentions.0": weights}, expect="causal").findings])
print(maskcli.convert(mask, "flash-attn"), maskcli.show("causal", "The cat sat"))
print(maskcli.audit([{"input_ids": [3, 4, 2], "labels": [-100, 4, 2]}]))
"""
COMMANDS = (
    ("--version",), ("--help",), ("trace", "--help"), ("probe", "--help"), ("rule", "--all"), ("docs", "masks"),
    ("show", "The cat sat", "Hello"), ("show", "The cat sat", "-t", "tokenizer.json", "--mask", "causal & sliding:2"),
    ("show", "The cat", "-o", "mask.png"), ("show", "The cat", "-o", "mask.safetensors"),
    ("show", "The cat", "--mask", "masks.py:by_numpy"), ("convert", "causal", "--to", "flash-attn"),
    ("inspect", WEIGHTS), ("inspect", SAVED), ("diagnose", SAVED), ("diagnose", WEIGHTS, "--expect", "causal"),
    ("diagnose", WEIGHTS, "--expect", "full", "--format", "json"), ("diff", "causal", "sliding:3", "--lengths", "9"),
    ("diff", "mask.safetensors", "full"), ("audit", "rows.jsonl"), ("audit", "rows.jsonl", "--format", "json"),
)  # fmt: skip
REFUSED = {
    "torch": (
        ("trace", "masks.py"), ("probe", "masks.py:by_torch"), ("show", "The cat", "--mask", "torched.py:by_torch"),
        ("show", "The cat", "-o", "mask.pt"), ("diagnose", "sparse.pt"),
    ),
    "transformers": (("show", "The cat", "-t", "vocabulary"),),
    "tables": (("audit", "rows.parquet"),),
    "remote": (("inspect", "s3://bucket/dump.safetensors"),),
    "dask": (("diagnose", "dumps", "--dask", "tcp://127.0.0.1:1"),),
}  # fmt: skip
ABSENT = ("torch", "transformers", "pyarrow", "s3fs", "distributed")


def inputs(folder):
    """The files that commands name."""
    words = {word: number for number, word in enumerate(("[UNK]", "The", "cat", "sat"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "masks.py").write_text("def by_numpy(b, h, q_idx, kv_idx):\n    return q_idx >= kv_idx\n")
    (folder / "torched.py").write_text("import torch\n")
    with zipfile.ZipFile(folder / "sparse.pt", "w") as archive:
        archive.writestr("sparse/data.pkl", b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n.")
    (folder / "vocabulary").mkdir()
    (folder / "vocabulary" / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    (folder / "rows.parquet").write_bytes(b"PAR1" + bytes(16) + b"PAR1")
    (folder / "dumps").mkdir()
    for name in "ab":
        np.save(folder / "dumps" / f"{name}.npy", np.eye(3, dtype=np.float32)[None, None])
    rows = [
        {"input_ids": [3, 4, 5, 2], "labels": [-100, 4, 5, 2]},
        {"input_ids": [6, 2], "labels": [-100, -100]},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def ran(*arguments):
    """A call of Python in the folder."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def compared():
    """Print what commands and the API print."""
    for arguments in COMMANDS:
        done = ran("-m", "maskcli", *arguments)
        assert done.returncode in (0, 1), done.stderr
        print("$ maskcli", *arguments, f"[{done.returncode}]\n{done.stdout}{done.stderr}")
    done = ran("-c", PYTHON)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def refused():
    """Hold that what needs an extra is refused in a sentence with the line that installs it."""
    assert [name for name in ABSENT if find_spec(name)] == []
    for extra, calls in REFUSED.items():
        for arguments in calls:
            done = ran("-m", "maskcli", *arguments)
            assert (done.returncode, done.stdout) == (2, ""), (arguments, done)
            (line,) = done.stderr.splitlines()
            assert line.startswith("maskcli: "), line
            assert f'; pip install "maskcli[{extra}]"' in line, line
            print(line)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        os.chdir(made)
        inputs(Path(made))
        refused() if sys.argv[1:] == ["refused"] else compared()
