"""Every decoder of the installed transformers, made small and probed: which masks its layers have, and which they should."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from maskcli.diagnostics.probed import report_of
from maskcli.diagnostics.verdicts.measured import called_by
from maskcli.probing.plan import Plan
from maskcli.probing.probe import measure
from maskcli.probing.subject import subject_of
from tests.benchmarks.shrink import shrunk

PAGE = Path(__file__).parents[2] / "maskcli" / "docs" / "architectures.md"
# Read in the code of the library: what is wrong there, or why a mask is not the usual one.
CHUNKS = "by design: its scan takes no state to begin with, so several tokens behind a cache start from an empty one"
READ = {
    "bamba": "a bug of the library: with a cache and no position_ids, positions start again at 0",
    "cpmant": "by design: padding is told by ids of 0, and on the left alone; attention_mask is not read",
    "deepseek_v4": "a bug of the library: what compresses blocks of tokens takes no mask, so left padding gets into the blocks",
    "falcon_mamba": CHUNKS,
    "gpt_neo": "a bug of the library: local masks are cut at the length of a static cache, not at that of the text in it",
    "inkling_text": "a bug of the library: where queries stand is the static cache's own length, which its update moves on before that is used",
    "jamba": CHUNKS,
    "mamba": CHUNKS,
    "prophetnet": "a bug of the library: the relative positions of the predicting streams are laid out position by position and read stream by stream",
    "recurrent_gemma": "a bug of the library: its recurrent blocks take attention_mask and do not read it, so left padding gets into their states",
    "rwkv": "by design: recurrences that have no mask; the library warns that attention_mask is not used",
}
HEAD = """# Architectures: the masks of every decoder of transformers, measured

Every causal language model of transformers {version}, made small (two layers, or one of each kind; windows of 5 tokens), with
random weights, by `python -m tests.benchmarks sweep`. The masks are those of texts padded on the right, but for the padding;
a verdict also heeds left padding, dynamic and static caches, and whole runs. `~` is the nearest name. Verdicts that are not
"as expected" say what the library's code was then found to do.

| architecture | layers that mix | measured | expected | verdict |
|---|---:|---|---|---|
"""


def sweep(names=()) -> Iterator[str]:
    """The rows of the table, as they come."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    left_out = []
    for config_class in sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING), key=lambda each: each.model_type):
        name = config_class.model_type
        if names and name not in names:
            continue
        try:
            model = small(config_class)
            report = probed(model)
        except Exception as error:
            left_out.append((name, str(error)))
            continue
        yield row(name, report)
    yield from (f"- `{name}`: {short(reason)}" for name, reason in left_out)


def small(config_class):
    """A small random model of a configuration class."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(shrunk(config_class)).eval()
    with torch.no_grad():
        for values in model.parameters():
            if values.ndim == 2:
                values.mul_(3)
    return model


def probed(model):
    """What a probe says of it."""
    return report_of(measure(subject_of(model), Plan(caches=("dynamic", "static"))), type(model).__name__)


def row(name, report):
    """A line of the table."""
    seen = [each for each in report.behaviour.seen if each.setting == "right padding"]
    layers = len({each.module for each in seen})
    codes = dict.fromkeys(each.code for each in report.findings if each.severity != "note")
    verdict = "as expected" if not codes else f"{', '.join(codes)}: {READ.get(name, 'not yet read')}"
    measured = folded(seen, lambda each: bare(str(called_by(each))))
    expected = folded(seen, lambda each: bare(each.expected.spec) if each.expected else "-")
    return f"| {name} | {layers} | {measured} | {expected} | {verdict} |"


def write(lines, names=()):
    """The page of a sweep; with `names` only their rows are new."""
    kept = PAGE.read_text().splitlines() if names else []
    rows = {name_of(line): line for line in [*kept, *lines] if name_of(line)}
    reasons = {name_left_out(line): line for line in [*kept, *lines] if name_left_out(line)}
    told = ["", "Not probed:", "", *(reasons[name] for name in reasons if name not in rows)]
    table = [rows[name] for name in sorted(rows)]
    PAGE.write_text(
        "\n".join([HEAD.format(version=transformers.__version__) + table[0], *table[1:], *told, ""])
    )


def name_of(line):
    """The architecture of a row of the table; nothing for other lines."""
    found = re.match(r"\| ([\w.-]+) \| \d", line)
    return found[1] if found else ""


def name_left_out(line):
    """The architecture that a line says was not probed; nothing for other lines."""
    found = re.match(r"- `([\w.-]+)`: ", line)
    return found[1] if found else ""


def folded(seen, told):
    """What is told of layers, each once."""
    return ", ".join(dict.fromkeys(f"{told(each)}" for each in seen))


def bare(spec):
    """A spec without padding, as a table holds it."""
    return re.sub(r" & padding|padding & ", "", spec).replace("|", "\\|")


def short(text, most=160):
    """A text in one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
