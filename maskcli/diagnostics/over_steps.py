"""One cause in many steps of generate is one finding, which says in which steps it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import Rule
from maskcli.scene.scene import Scene
from maskcli.tensors import Roled

GROWS = (
    "the first step is right: look at what is passed with each new token, where the mask has to grow by a one"
)


class Told(NamedTuple):
    """What a rule found, and in which scene."""

    rule: Rule[Scene]
    found: Found
    scene: Scene


class _Maps(NamedTuple):
    """The steps and the layers of the tensors of a finding, and whether each step adds one token."""

    steps: tuple[int, ...]
    layers: frozenset[tuple[str, int | None]]
    decoding: bool


def over_steps(told: Iterable[Told], roled: Iterable[Roled]) -> list[Told]:
    """Findings, those of equal cause in several steps as one; what scenes say of shared tensors once."""
    of_step = {each.tensor.name: each for each in roled if each.role == "weights" and _is_of_step(each)}
    first = min((int(each.group) for each in of_step.values()), default=0)
    kept: list[tuple[Told, _Maps | None]] = []
    for each in told:
        maps = _maps(each.found, of_step)
        at = next(
            (at for at, (earlier, known) in enumerate(kept) if _is_same(earlier, known, each, maps)), None
        )
        if at is None:
            kept.append((each, maps))
        else:
            kept[at] = _joined(*kept[at], each, maps)
    return [each if maps is None else _in_words(each, maps, first) for each, maps in kept]


def _is_of_step(roled: Roled) -> bool:
    """Whether a name counts steps before layers, `attentions.STEP.LAYER`; numbers in front are texts."""
    return roled.group.isdigit() and not roled.tensor.name.startswith(roled.group)


def _maps(found: Found, of_step: dict[str, Roled]) -> _Maps | None:
    """Where the maps of a finding stand; None when it is not of steps."""
    maps = [of_step[name] for name in found.tensors if name in of_step]
    if not maps:
        return None
    layers = frozenset((each.kind, each.layer) for each in maps)
    steps = tuple(sorted({int(each.group) for each in maps}))
    return _Maps(steps, layers, all(each.tensor.shape[-2] == 1 for each in maps))


def _is_same(earlier: Told, known: _Maps | None, later: Told, maps: _Maps | None) -> bool:
    """Whether two findings are one: equal in all, or of one rule, samples, and a layer in other steps."""
    if earlier.rule is not later.rule:
        return False
    if known is None or maps is None:
        return known is maps and earlier.found == later.found
    first, second = earlier.found, later.found
    alike = first.severity == second.severity and first.where.batch == second.where.batch
    return alike and bool(known.layers & maps.layers) and not set(known.steps) & set(maps.steps)


def _joined(earlier: Told, known: _Maps | None, later: Told, maps: _Maps | None) -> tuple[Told, _Maps | None]:
    if known is None or maps is None:
        return earlier, known
    more = tuple(name for name in later.found.tensors if name not in earlier.found.tensors)
    found = replace(earlier.found, tensors=earlier.found.tensors + more)
    steps = tuple(sorted({*known.steps, *maps.steps}))
    both = _Maps(steps, known.layers | maps.layers, known.decoding and maps.decoding)
    return earlier._replace(found=found), both


def _in_words(told: Told, maps: _Maps, first: int) -> Told:
    """The finding with the steps that show it; when the first does not, that is where to look."""
    found = told.found
    named = _steps(maps.steps)
    evidence = {**found.evidence, "steps": named}
    if first not in maps.steps:
        where = f"decoding only (steps {named})" if maps.decoding else f"steps {named} only"
        message = f"in {where}, not in the first pass: {found.message}"
        fix = f"{found.fix}; {GROWS}" if maps.decoding else found.fix
        return told._replace(found=replace(found, message=message, fix=fix, evidence=evidence))
    if len(maps.steps) > 1:
        message = f"{found.message}; so in steps {named}"
        return told._replace(found=replace(found, message=message, evidence=evidence))
    return told


def _steps(steps: Sequence[int]) -> str:
    """Step numbers, neighbours together: "1 to 4, 7"."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and step == parts[-1][1] + 1:
            parts[-1][1] = step
        else:
            parts.append([step, step])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in parts)
