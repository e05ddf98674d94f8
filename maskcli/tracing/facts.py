"""What a running program holds of its model and its batch: facts that nobody has to be asked for.

Each is kept with who told it. The mask under test tells nothing of its own input.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.catalogue import named
from maskcli.meant.facts import Declared, Purpose
from maskcli.meant.model_config import Config, config_of
from maskcli.meant.plain_config import Plain, plain_config
from maskcli.padding import edge_runs

# Tokens that padding nobody has told of must have, in so many rows, for its id to be believed.
PAD_TOKENS, PAD_ROWS = 4, 2
# Words of a rule's needs, and the facts that meet them.
_OF_NEEDS = {
    "padding": "pad id",
    "pad_id": "pad id",
    "eos_id": "eos id",
    "purpose": "purpose",
    "expectation": "mask",
    "causal expectation": "mask",
    "full expectation": "mask",
    "window": "mask",
    "mask window": "mask",
}


class Told(NamedTuple):
    """A fact, and who told it."""

    value: int
    source: str


@dataclass(eq=False)
class Facts:
    """What is known of one model so far.

    `config` is what its configuration says, `plain` the same of one of the program's own; `ignored` the label
    that its loss leaves out; `vocabularies` the sizes of its tables of tokens; `pads` are ids that something
    calls padding, best witness first; `at_most` is the mask beyond which nothing may be seen, and who says
    so; `trains` that a loss was computed.
    """

    config: Config | None = None
    plain: Plain | None = None
    ignored: int | None = None
    vocabularies: set[int] = field(default_factory=set)
    pads: dict[int, str] = field(default_factory=dict)
    at_most: tuple[str, str] | None = None
    trains: bool = False

    @property
    def windows(self) -> Config | None:
        """The program's own configuration, where it has windows and the loss says that they look back."""
        looks_back = self.at_most is not None and self.at_most[0] == "causal"
        if self.plain is None or not self.plain.layers or not looks_back:
            return None
        return dataclasses.replace(self.plain.config, layers=self.plain.layers)

    def pad(self, id_: int | None, source: str) -> None:
        """Something says what the pad id is."""
        if id_ is not None and id_ >= 0:
            self.pads.setdefault(id_, source)

    def join(self, other: Facts) -> None:
        """What is known of a part, such as a table of tokens, is known here."""
        self.vocabularies |= other.vocabularies
        self.at_most = self.at_most or other.at_most
        self.trains |= other.trains
        for id_, source in other.pads.items():
            self.pad(id_, source)

    def signature(self) -> tuple[object, ...]:
        """What is known by now: calls that are alike are alike only under the same facts."""
        return tuple(self.pads), self.at_most is not None

    def pad_id(self, texts: Sequence[Array]) -> Told | None:
        """The pad id of texts [B, L]: of those told the first that stands at an edge, else the first told.

        Where nothing is told, an id that fills the edges of several rows is taken for one.
        """
        told = [Told(*pad) for pad in self.pads.items()]
        at_edges = (pad for pad in told if any(_pads(ids, pad.value) for ids in texts))
        known = next(at_edges, None) or next(iter(told), None)
        if known is not None:
            return known
        guessed = (_guessed(ids) for ids in texts)
        return next((pad for pad in guessed if pad is not None), None)

    def declared(self, options: Declared, texts: Sequence[Array], generates: bool) -> Declared:
        """The facts, where the user declared nothing else; `generates` whether a step is for what follows."""
        pad = self.pad_id(texts)
        known = Declared(
            pad_id=pad.value if pad is not None else None,
            model=self.windows or self.config,
            ignore_index=self.ignored,
            purpose=self._purpose(generates),
            at_most=self.at_most,
        )
        return options.over(known)

    def _purpose(self, generates: bool) -> str | None:
        if generates:
            return Purpose.generate.value
        return Purpose.train.value if self.trains else None

    def known_for(
        self, code: str, options: Declared, texts: Sequence[Array], generates: bool
    ) -> tuple[str, ...]:
        """The facts that a rule used beside what the user declared, each with who told it."""
        groups = named(code).needs
        wanted = {_OF_NEEDS[word] for group in groups for word in group if word in _OF_NEEDS}
        told = dict(self._told(options, texts, generates))
        return tuple(text for what, text in told.items() if what in wanted)

    def _told(self, options: Declared, texts: Sequence[Array], generates: bool) -> Iterator[tuple[str, str]]:
        pad = self.pad_id(texts)
        if pad is not None and options.pad_id is None:
            yield "pad id", f"pad id {pad.value}: {pad.source}"
        config = self.config
        if config is not None and config.eos_ids and not options.eos_ids:
            yield "eos id", f"eos id {config.eos_ids[0]}: {config.source}"
        if generates and options.purpose is None:
            yield "purpose", "generation: generate() is at work"
        if options.expect or options.model is not None:
            return
        if self.windows is not None:
            yield "mask", f"what may be seen: {self.windows.source}"
        elif config is not None and config.spec is not None:
            yield "mask", f"what may be seen: {config.source}"
        elif self.at_most is not None:
            yield "mask", f"what may be seen: {self.at_most[1].rstrip(',')}"


def of_model(model: Any, two_sided: bool) -> Facts:
    """What a model says by itself: its configuration, as a folder's config.json would, or one of its own.

    One side of an encoder and a decoder has the configuration of both, which tells nothing of its mask.
    """
    facts, name = Facts(), type(model).__name__
    said = _as_dict(getattr(model, "config", None))
    if said is None:
        facts.plain = plain_config(model)
        facts.config = None if facts.plain is None else facts.plain.config
        if facts.config is not None:
            facts.pad(facts.config.pad_id, f"pad id of {facts.config.source}")
        return facts
    generation = _as_dict(getattr(model, "generation_config", None)) or {}
    if not said.get("architectures"):
        said = {**said, "architectures": [name]}
    config = config_of(said, generation, name, f"{name}.config")
    one_of_two = said.get("is_encoder_decoder") is True and not two_sided
    facts.config = dataclasses.replace(config, spec=None, layers=()) if one_of_two else config
    facts.pad(facts.config.pad_id, f"pad_token_id of {facts.config.source}")
    return facts


def _as_dict(config: Any) -> dict[str, Any] | None:
    """A configuration as its own library writes it down; None for anything else."""
    to_dict = getattr(config, "to_dict", None)
    said = to_dict() if callable(to_dict) else None
    return said if isinstance(said, dict) else None


def generating() -> bool:
    """Whether a function called `generate` is at work further out."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "generate":
            return True
        frame = frame.f_back
    return False


def _pads(ids: Array, pad: int) -> bool:
    return bool((ids[:, [0, -1]] == pad).any())


def _guessed(ids: Array) -> Told | None:
    """An id that fills an edge of several rows [B, L], longer in one than in another, and is nowhere else."""
    for at in (-1, 0):
        values, counts = np.unique(ids[:, at], return_counts=True)
        id_ = int(values[counts.argmax()])
        is_id = ids == id_
        run = edge_runs(is_id)[0 if at == 0 else 1]
        lengths = run.sum(axis=1)
        ragged = len(set(lengths.tolist())) > 1 and bool((lengths == 0).any() or (lengths > 1).all())
        enough = lengths.sum() >= PAD_TOKENS and (lengths > 1).sum() >= PAD_ROWS
        if ragged and enough and (is_id == run).all():
            return Told(id_, f"it fills the {'end' if at else 'beginning'} of several rows")
    return None
