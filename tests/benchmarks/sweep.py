"""Every decoder of the installed transformers, made small and probed: which masks its layers have, and which they should."""

import re
import time
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
READ = {}


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
            began = time.process_time()
            report = probed(model)
            took = time.process_time() - began
        except Exception as error:
            left_out.append((name, str(error)))
            continue
        yield row(name, report, took)
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


def row(name, report, took):
    """A line of the table."""
    seen = [each for each in report.behaviour.seen if each.setting == "right padding"]
    loud = [each for each in report.findings if each.severity != "note"]
    verdict = READ.get(name) or (
        "as expected"
        if not loud
        else "LOOK " + "; ".join(f"{each.code} {short(each.message)}" for each in loud)
    )
    layers = len({each.module for each in seen})
    return f"| {name} | {layers} | {folded(seen, lambda each: bare(str(called_by(each))))} | {folded(seen, lambda each: bare(each.expected.spec) if each.expected else '-')} | {verdict} | {took:.1f} | {'; '.join(report.behaviour.unmeasured)}"


def folded(seen, told):
    """What is told of layers, each once."""
    return ", ".join(dict.fromkeys(f"{told(each)}" for each in seen))


def bare(spec):
    return re.sub(r" & padding|padding & ", "", spec)


def short(text, most=160):
    """A text in one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
