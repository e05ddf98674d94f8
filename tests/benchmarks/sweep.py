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
# Read in the code of the library: why a mask is not the usual one, or what is wrong.
CHUNKS = "by design: several tokens behind a cache start from an empty state, as its scan takes none"
IDS = "by design: positions are counted from ids that are not the padding's, so ids under padding move them"
READ = {
    "bamba": "a bug of the library: with a cache and no position_ids, positions start again at 0",
    "camembert": IDS,
    "cpmant": "by design: both ways within a prompt of its own",
    "data2vec-text": IDS,
    "dory": "a false alarm: its configuration counts attention and MLP as layers, and so layers are expected by wrong numbers",
    "falcon_mamba": CHUNKS,
    "gemma4_text": "a false alarm: its full layers do not scale scores, so small weights round to 0 and some keys look unseen",
    "gpt_neo": "a bug of the library: with a static cache, local layers see the whole past and empty slots",
    "jamba": CHUNKS,
    "mamba": CHUNKS,
    "prophetnet": "a bug of the library: the streams that predict read other positions",
    "roberta": IDS,
    "roberta-prelayernorm": IDS,
    "xlm-roberta": IDS,
    "xlm-roberta-xl": IDS,
    "xmod": IDS,
}
HEAD = """# Architectures: the masks of every decoder of transformers, measured

Every causal language model of transformers {version}, made small (two layers, or one of each kind; windows of 5 tokens), with
random weights, by `python -m tests.benchmarks sweep`. The masks are those of texts padded on the right, but for the padding;
a verdict also heeds left padding, dynamic and static caches, and whole runs. `~` is the nearest name. Verdicts that are not
"as expected" were looked into in the library's code where they say why; "not yet read" waits for that.

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


def write(lines):
    """The page of a sweep."""
    rows = [line for line in lines if line.startswith("|")]
    reasons = [line for line in lines if line.startswith("-")]
    told = ["", "Not probed:", "", *reasons] if reasons else []
    PAGE.write_text(
        "\n".join([HEAD.format(version=transformers.__version__) + rows[0], *rows[1:], *told, ""])
    )


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
