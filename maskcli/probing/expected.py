"""The mask that a layer should have: what the user expects, else what the model's configuration says."""

from __future__ import annotations

import re
from dataclasses import replace

from maskcli.diagnostics.behaviour import Expected, Keys
from maskcli.masks.layout import Layout
from maskcli.masks.spec import Named, Spec, build, conjuncts, joined, kinds_in, parse, write
from maskcli.meant.facts import Declared
from maskcli.probing.subject import Subject

# How people call modules that attend; all else that mixes positions may see less than the mask allows.
ATTENTION = re.compile(r"att|mha(?![a-z])", re.IGNORECASE)


def attends(path: str, kind: str) -> bool:
    """Whether a module that mixes positions is attention, by its name or its class."""
    return bool(ATTENTION.search(path.rpartition(".")[2]) or ATTENTION.search(kind))


def expected_of(
    subject: Subject, declared: Declared, path: str, attention: bool, keys: Keys, layout: Layout
) -> Expected | None:
    """The expected mask of a call over a layout; None where nobody says one.

    Of what is no `attention` it is the most that may be seen.
    """
    found = _spec(subject, declared, path, attention, keys)
    if found is None:
        return None
    spec, told, whole = found
    full = _with_tokens(spec, layout)
    return Expected(write(full), told, build(full, layout), whole)


def _spec(
    subject: Subject, declared: Declared, path: str, whole: bool, keys: Keys
) -> tuple[Spec, str, bool] | None:
    """The spec, who says it, and whether all of it is to be seen."""
    role = _role(subject, path, keys)
    layer = _layer(path)
    meant = replace(declared, model=None, at_most=None).meant(path, role, layer)
    if meant is not None:
        return meant.spec, meant.source, whole or meant.particular
    if role in ("encoder", "cross"):
        return parse("full"), "its place in the model", whole
    config = subject.config
    if config is None or config.spec is None:
        return _at_most(declared)
    own = config.mask(layer, path)
    if own is None:
        return parse(config.spec), config.source, False
    return parse(own), config.source, whole


def _at_most(declared: Declared) -> tuple[Spec, str, bool] | None:
    """What may be seen at most, where only that is known, as by a loss that asks for the next token."""
    if declared.at_most is None:
        return None
    spec, source = declared.at_most
    return parse(spec), source.rstrip(","), False


def _role(subject: Subject, path: str, keys: Keys) -> str:
    """Which attention a layer is, as declarations tell them apart."""
    if keys == "cross":
        return "cross"
    if not subject.encodes:
        return "self"
    return "encoder" if re.search(r"(^|\.)encoder(\.|$)", path) else "decoder"


def _layer(path: str) -> int | None:
    """The number of the layer in a path: the first number that stands alone."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", path)
    return int(found[1]) if found else None


def _with_tokens(spec: Spec, layout: Layout) -> Spec:
    """The spec and, where the batch has them, its padding and its documents."""
    kinds = kinds_in(spec)
    terms = list(conjuncts(spec))
    if layout.documents is not None and "documents" not in kinds:
        terms.append(Named("documents"))
    if layout.real is not None and "padding" not in kinds:
        terms.append(Named("padding"))
    # A call whose keys are no tokens, or not all of them, has nothing to hide padding by.
    untold = {Named("full")} | ({Named("padding")} if layout.real is None else set())
    terms = [term for term in terms if term not in untold]
    return joined(terms or [Named("full")])
