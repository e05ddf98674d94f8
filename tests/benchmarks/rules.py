"""What every rule finds of its own bug, what healthy models are accused of, and how long looking takes."""

import time
import warnings
from collections import Counter

import torch

from maskcli.diagnostics.diagnose import diagnose
from maskcli.meant.facts import Declared
from maskcli.tensors import open_tensors
from tests.cli.running import DATA
from tests.diagnostics import zoo
from tests.diagnostics.attention import loud, report
from tests.diagnostics.corpus import sick
from tests.diagnostics.test_zoo import ALL, IDS, MAPS, MASKS, SIDES, SIXTEEN, WITHOUT_CACHE, part

# SqueezeBERT returns scores for weights, which is rightly said; FNet has no maps.
UNUSUAL = {"squeezebert", "fnet"}


def table():
    """Lines of Markdown: a row for every rule, then a line for what is healthy, for the real captures, and for the time."""
    # Models this small only wait for each other's threads.
    torch.set_num_threads(1)
    start = time.perf_counter()
    yield from recall()
    middle = time.perf_counter()
    yield from ("", accusations(), "", captures())
    yield from (
        "",
        f"Sick cases {middle - start:.0f} s, healthy models with running them {time.perf_counter() - middle:.0f} s.",
    )


def recall():
    """A row for every rule: its cases, those it was found in, and what else was reported at error or warning."""
    cases, found, beside = Counter(), Counter(), {}
    for code, _, case in sick():
        codes = loud(report(case.arrays, **case.declared))
        cases[code] += 1
        found[code] += code in codes
        beside.setdefault(code, Counter()).update(set(codes) - {code})
    yield "| rule | cases | found | reported beside it |\n|---|---:|---:|---|"
    for code, others in beside.items():
        listed = ", ".join(f"{other} ({times})" for other, times in sorted(others.items()))
        yield f"| {code} | {cases[code]} | {found[code]} | {listed or 'nothing'} |"
    yield f"| {len(cases)} rules | {cases.total()} | {found.total()} | {sum(others.total() for others in beside.values())} |"


def accusations():
    """How many healthy dumps were looked at, how many attention maps that is, and what was reported at error or warning."""
    dumps, maps, models, alarms = 0, 0, set(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label, dump, declared in healthy():
            found = report(dump, **declared)
            dumps += 1
            maps += sum("attentions" in name for name in dump)
            models.add(label.split()[0])
            alarms += [f"{label}: {code}" for code in loud(found)]
    told = f" ({'; '.join(alarms[:10])})" if alarms else ""
    return f"Healthy: {dumps:,} dumps of {len(models)} architectures, {maps:,} tensors of weights: {len(alarms)} false alarms{told}."


def healthy():
    """(label, dump, declared): models of the zoo as they are run, with what their users save and declare."""
    for task, names, meant in (
        ("decoder", zoo.DECODERS, "causal"),
        ("pair", zoo.PAIRS, "causal"),
        ("encoder", zoo.ENCODERS, "full"),
    ):
        for name in names:
            if name in UNUSUAL:
                continue
            model = {"model": zoo.config(task, name)}
            for side in SIDES:
                dump = zoo.forward(task, name, side)
                yield from said(f"{name} {side}", dump, meant, model)
            yield f"{name} untrained", zoo.forward(task, name, "left", trained=False), model
            for dtype in SIXTEEN.values():
                yield (
                    f"{name} {dtype}",
                    zoo.forward(task, name, "left" if task == "decoder" else "right", dtype),
                    model,
                )
            if task == "decoder" and name not in WITHOUT_CACHE:
                for step, dump in enumerate(zoo.generation(name, "left")):
                    yield f"{name} call {step}", dump, {**model, "pad_id": zoo.PAD, "purpose": "generate"}
    for name in zoo.IMAGES:
        yield from said(name, zoo.images(name), "full", {"model": zoo.config("image", name)})


def said(label, dump, meant, model):
    """A dump with all that people may save of it and say about it."""
    for what, declared in (
        (ALL, {}), (ALL, {"expect": meant, "pad_id": zoo.PAD}), (MASKS, {**model, "exact": True}),
        (MAPS, {"expect": meant}), (IDS, model),
    ):  # fmt: skip
        yield f"{label} {what}", part(dump, what), declared


def captures():
    """What is said of a real model's saved attention, with its padding mask applied and without."""
    codes = {
        what: sorted({each.code for each in diagnose(open_tensors(DATA / name), Declared(pad_id=0)).findings if each.severity != "note"})
        for what, name in (("healthy", "minilm_attn.safetensors"), ("its mask left out", "minilm_attn_nomask.safetensors"))
    }  # fmt: skip
    return (
        f"MiniLM, {'; '.join(what + ': ' + (', '.join(each) or 'nothing') for what, each in codes.items())}."
    )
