"""A probe of a model of the tests, and what is said of it."""

import torch

from maskcli.diagnostics.declare import declare
from maskcli.diagnostics.probed import report_of
from maskcli.probing.plan import Plan
from maskcli.probing.probe import measure
from maskcli.probing.subject import subject_of
from tests.probing import plain

LENGTH = 24


def report(model, expect=None, caches=(), device="cpu", **plan):
    """Probe a model on a device."""
    model = model.to(device)
    given = pair_of_texts(device) if isinstance(model, plain.TorchPair) else plain.VOCAB
    declared = declare(expect=expect).declared
    return report_of(
        measure(subject_of(model, given), Plan(declared=declared, caches=caches, **plan)), "model"
    )


def pair_of_texts(device):
    """Sources of three lengths, padded on the right, and targets."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, plain.VOCAB, (3, LENGTH), generator=generator)
    real = torch.arange(LENGTH) < torch.tensor([LENGTH, 16, 8])[:, None]
    target = torch.randint(3, plain.VOCAB, (3, LENGTH - 3), generator=generator)
    made = {
        "input_ids": torch.where(real, ids, 0),
        "decoder_input_ids": target,
        "attention_mask": real.long(),
    }
    return {name: values.to(device) for name, values in made.items()}


def said(report):
    """Which rules speak of which modules, but for notes."""
    return [(each.code, each.tensors) for each in report.findings if each.severity != "note"]
