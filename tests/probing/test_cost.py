"""What a probe costs: few runs to find the layers, and the memory of a run and of what the layers are given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import maskcli
from tests.cli.running import ROOT
from tests.probing.sick import library

STATUS = Path("/proc/self/status")
# Sizes at which states and masks are much larger than all else.
ROWS, LENGTH, WIDTH, LAYERS = 3, 192, 512, 5
# What is freed goes back to the system at once, and the peak is that of what is held.
EXACT = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
# In a process of its own: how much more memory a probe takes at its peak than one run did.
CHILD = f"""
import torch, transformers, maskcli
transformers.logging.set_verbosity_error()
def peak():
    return 1024 * int(next(line.split()[1] for line in open({str(STATUS)!r}) if line.startswith("VmHWM")))
sizes = dict(vocab_size=96, hidden_size={WIDTH}, intermediate_size={2 * WIDTH}, num_hidden_layers={LAYERS},
             num_attention_heads=4, num_key_value_heads=4, sliding_window={LENGTH // 2}, max_position_embeddings=4096)
model = transformers.AutoModelForCausalLM.from_config(transformers.MistralConfig(**sizes)).eval()
ids = torch.randint(3, 90, ({ROWS}, {LENGTH}))
maskcli.probe(model, length=12, only="masks", pad="none")
with torch.no_grad():
    model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
before = peak()
report = maskcli.probe(model, length={LENGTH}, only="masks", pad="none")
assert report.findings == ()
print(peak() - before)
"""


@pytest.mark.long
@pytest.mark.parametrize("name", ["llama", "mixtral", "bert", "bart", "t5"])
def test_layers_are_found_in_fifteen_runs(name):
    assert maskcli.probe(library(name, "eager"), only="masks").behaviour.forwards <= 15


@pytest.mark.long
@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc")
def test_long_texts_take_the_memory_of_what_layers_are_given():
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, **EXACT},
    )  # fmt: skip
    states = torch.finfo(torch.float32).bits // 8 * ROWS * LENGTH * WIDTH
    mask = ROWS * LENGTH * LENGTH
    # Each layer's states, its answer and one mask are kept; other states and a replay need room for one layer alone.
    assert int(done.stdout.split()[-1]) < (2 * LAYERS + 3) * states + mask
