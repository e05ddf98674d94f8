"""The tensors of a file as witnesses of the input: its padding, its positions, its documents.

A mask under test is none of them: one that forgot its padding would otherwise pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from maskcli.arrays import Array, Real
from maskcli.errors import MaskcliError
from maskcli.meant.facts import Declared
from maskcli.meant.places import Places, whole
from maskcli.scene.documents import Documents, between, numbered, of_lengths, started
from maskcli.scene.named import named_rows
from maskcli.scene.saved_mask import padding_convention, read_padding
from maskcli.scene.tokens import jumps, real_tokens, restarts
from maskcli.tensors import Roled
from maskcli.tensors.axes import token_rows
from maskcli.tensors.roles import Step

# Which kinds of tensors speak for the keys of each kind of attention, best first.
_KEYS = {
    "self": ("self",),
    "decoder": ("decoder", "self"),
    "encoder": ("encoder", "self"),
    "cross": ("encoder", "cross", "self"),
}
# The sides whose queries a text has.
_TEXT = ("self", "decoder")


@dataclass(frozen=True)
class Padding:
    """Which tokens are real, bool [B, K], and what says so."""

    real: Real
    source: str

    def fitting(self, batch: int, length: int) -> Padding | None:
        """The same for `batch` items of `length` tokens; None when it speaks of something else."""
        if self.real.shape[1] != length or len(self.real) not in (1, batch):
            return None
        return Padding(np.broadcast_to(self.real, (batch, length)), self.source)

    def at_step(self, step: Step, batch: int, keys: int) -> Padding:
        """What is said of a prompt, as generate grows it: a real token for each that was added.

        Of a text saved whole the tokens up to this step are meant, of a cache that dropped its oldest keys
        the last. Beams are copies of a sample, one after the other.
        """
        whole = self.real.shape[1] > step.prompt
        behind = ((0, 0), (0, step.added))
        real = self.real if whole else np.pad(self.real, behind, constant_values=True)
        real = real[:, : step.text][:, -keys:]
        beams, left = divmod(batch, len(real))
        return Padding(real if left else real.repeat(beams, axis=0), self.source)


class Witnesses:
    """The tensors of one group of a file (`left.`, `step3.`, …), and what they tell."""

    def __init__(self, tensors: tuple[Roled, ...], group: str, declared: Declared) -> None:
        self.tensors, self.group, self.declared = tensors, group, declared
        self._placed: dict[tuple[str | None, str, int | None], list[Roled]] = {}
        for each in tensors:
            self._placed.setdefault((each.role, each.kind, each.layer), []).append(each)
        self._paddings: dict[tuple[str, ...], Padding | None] = {}
        self._turned: set[tuple[str, ...]] = set()
        steps = (each.step for each in tensors if each.group == group)
        self.step = next((step for step in steps if step is not None), None)

    @cached_property
    def encoder_decoder(self) -> bool:
        """Whether some tensor belongs to an encoder beside a decoder."""
        maps = any(roled.role == "weights" and roled.kind in ("encoder", "cross") for roled in self.tensors)
        inputs = [roled for roled in self.tensors if roled.role in ("input_ids", "padding_mask")]
        return maps or any(roled.kind == "decoder" for roled in inputs)

    def find(self, role: str, kinds: Iterable[str], layer: int | None = None) -> Roled | None:
        """The tensor of a role: of this group before common ones, of this layer before those of all."""
        return next(iter(self.find_all(role, kinds, layer)), None)

    def find_all(self, role: str, kinds: Iterable[str], layer: int | None = None) -> list[Roled]:
        """The tensors of a role on the first of these sides that has some, the best first."""

        def distance(roled: Roled) -> tuple[bool, bool, bool]:
            return roled.group != self.group, roled.layer is None, are_slots(roled)

        layers = dict.fromkeys((layer, None))
        for kind in kinds:
            near = [each for number in layers for each in self._placed.get((role, kind, number), ())]
            if near:
                return sorted(near, key=distance)
        return []

    def kinds(self, kind: str) -> tuple[str, ...]:
        """Which kinds of padding masks and ids speak for the keys of this kind of attention."""
        if kind == "decoder" and self.encoder_decoder:
            return ("decoder",)
        if kind == "self" and self.encoder_decoder:
            return ("decoder", "self")
        return _KEYS[kind]

    def padding(self, kind: str) -> Padding | None:
        """Which keys of this kind of attention are real: by the padding mask, else by ids and pad id."""
        kinds = self.kinds(kind)
        if kinds not in self._paddings:
            self._paddings[kinds] = self._read_padding(kinds)
        return self._paddings[kinds]

    def _read_padding(self, kinds: tuple[str, ...]) -> Padding | None:
        from_ids = self._padding_of_ids(kinds)
        mask = self.find("padding_mask", kinds)
        real = read_padding(mask, self.declared.convention) if mask else None
        if mask is None or real is None:
            return from_ids
        if from_ids is not None and _is_inverse(real, from_ids.real):
            return from_ids
        return Padding(real, mask.tensor.name)

    def is_guess(self, kind: str) -> bool:
        """Whether the polarity of the padding mask was taken from what most of its values are."""
        kinds = self.kinds(kind)
        said, mask = self.padding(kind), self.find("padding_mask", kinds)
        if said is None or mask is None or said.source != mask.tensor.name or kinds in self._turned:
            return False
        guessed = mask.tensor.dtype == "bool" and padding_convention(mask.tensor)[1] == "values"
        by_ids = self._padding_of_ids(kinds)
        told = by_ids is not None and np.array_equal(by_ids.real, said.real)
        return guessed and not told and self.declared.convention is None

    def turn_padding(self, kind: str) -> None:
        """Read the padding mask in the other polarity from now on."""
        kinds, said = self.kinds(kind), self.padding(kind)
        if said is not None:
            self._turned.add(kinds)
            self._paddings[kinds] = Padding(~said.real, said.source)

    def _padding_of_ids(self, kinds: tuple[str, ...]) -> Padding | None:
        ids = self.find("input_ids", kinds)
        rows = token_rows(ids.tensor) if ids and self.declared.pad_id is not None else None
        if ids is None or rows is None:
            return None
        real = real_tokens(rows, self.declared, decoder=ids.kind == "decoder")
        if real is None:
            return None
        return Padding(real, f"{ids.tensor.name} and pad id {self.declared.pad_id}")

    @cached_property
    def positions(self) -> Array | None:
        """The position ids [B, L] of the text that attends to itself; None when they are not saved."""
        return self._rows("position_ids")

    @cached_property
    def slots(self) -> bool:
        """Whether the positions are places in a cache, which count the padding."""
        roled = self.find("position_ids", _TEXT)
        return roled is not None and are_slots(roled)

    def consecutive_positions(self, batch: int, queries: int) -> Array | None:
        """Position ids [b, Q] of these queries, when they count up by one in every item; b is 1 or B."""
        rows = self.positions
        if rows is None or rows.shape[1] != queries or len(rows) not in (1, batch):
            return None
        return rows if (np.diff(rows, axis=1) == 1).all() else None

    @cached_property
    def declared_positions(self) -> tuple[Array | None, str]:
        """Where each query stands, as declared, and who declares it."""
        return self._declared(self.declared.positions)

    @cached_property
    def key_positions(self) -> tuple[Array | None, str]:
        """Where each key stands, as declared or saved, and who says so."""
        rows, source = self._declared(self.declared.key_positions)
        if rows is not None:
            return rows, source
        roled = self.find("key_positions", _TEXT)
        return (token_rows(roled.tensor), roled.tensor.name) if roled else (None, "")

    def _declared(self, places: Places | None) -> tuple[Array | None, str]:
        """Declared positions; a name is that of a tensor beside the others."""
        if places is None or places.name is None:
            return (None, "") if places is None else (places.rows, places.source)
        named = [each.tensor for each in self.tensors if each.tensor.name == places.name]
        rows = token_rows(named[0]) if named else None
        if rows is None:
            raise MaskcliError(
                f"{places.source} is {places.name!r}, and there is no such tensor of positions; write them "
                "as 0,1,6,7 or 0:4,28:32, or name a tensor of the file or FILE:TENSOR"
            )
        return whole(rows, f"{places.source} {places.name!r}"), places.source

    @cached_property
    def lengths(self) -> Array | None:
        """How many tokens each item has in its cache, int [n], as a vector of lengths says."""
        rows = self._rows("lengths")
        return None if rows is None else rows.ravel()

    @cached_property
    def lengths_name(self) -> str:
        """The tensor of lengths."""
        roled = self.find("lengths", _TEXT)
        return "" if roled is None else roled.tensor.name

    @property
    def lengths_before(self) -> bool:
        """Whether lengths by their name may be those before the queries' own tokens were put in."""
        return bool(re.search(r"cache|past|context", self.lengths_name.lower()))

    @cached_property
    def block_table(self) -> Array | None:
        """The blocks of each item in a paged cache, int [B, n]."""
        return self._rows("block_tables")

    @cached_property
    def block_size(self) -> int | None:
        """How many slots a block of a paged cache has."""
        roled = self.find("block_size", _TEXT)
        if roled is None or math.prod(roled.tensor.shape) != 1:
            return None
        return max(int(roled.tensor.read().ravel()[0]), 1)

    def documents(self, batch: int, keys: int, *, positions: bool = True) -> Documents | None:
        """The packed document of each key: by segment ids, a padding mask that numbers texts, lengths,
        position ids, cu_seqlens or where documents start; of `positions` False, by all but those.
        """
        fits = ((1, keys), (batch, keys))
        by_borders = partial(self._borders, keys, positions)
        for role, told in (
            ("segment_ids", self._segments),
            ("padding_mask", self._numbers),
            ("lengths", partial(self._lengths, batch, keys)),
            ("position_ids", self._restarts),
            ("cu_seqlens", by_borders),
            ("document_starts", partial(self._started, keys)),
        ):
            roled = self.find(role, _TEXT) if positions or role != "position_ids" else None
            rows = told(roled) if roled else None
            if roled is not None and rows is not None:
                return Documents(rows, roled.tensor.name) if rows.shape in fits else None
        return None

    def _segments(self, roled: Roled) -> Array | None:
        return token_rows(roled.tensor)

    def _numbers(self, roled: Roled) -> Array | None:
        values = token_rows(roled.tensor)
        return None if values is None else numbered(values)

    def _lengths(self, batch: int, keys: int, roled: Roled) -> Array | None:
        lengths, said = token_rows(roled.tensor), self.padding("self")
        real = said.fitting(batch, keys) if said else None
        return None if lengths is None else of_lengths(lengths, batch, keys, real.real if real else None)

    def _restarts(self, roled: Roled) -> Array | None:
        positions = token_rows(roled.tensor)
        if positions is None:
            return None
        said = self.padding("self")
        fitting = said.fitting(*positions.shape) if said else None
        real = fitting.real if fitting else None
        return None if jumps(positions, real) else restarts(positions, real)

    def _borders(self, keys: int, positions: bool, roled: Roled) -> Array | None:
        borders = token_rows(roled.tensor)
        if borders is None or (positions and self.positions is not None):
            # Positions tell nothing of texts only where tokens were taken out of their order.
            return None
        return between(borders, keys)

    def _started(self, keys: int, roled: Roled) -> Array | None:
        starts = token_rows(roled.tensor)
        return None if starts is None else started(starts, keys)

    def named(self, name: str) -> Array:
        """The rows [b, L] of a tensor that a spec names."""
        return named_rows(name, self.tensors)

    def _rows(self, role: str) -> Array | None:
        roled = self.find(role, _TEXT)
        return token_rows(roled.tensor) if roled else None


def token_length(tensors: Iterable[Roled]) -> int | None:
    """How many tokens the ids, padding masks or masks of a file have; None where they do not agree."""
    lengths = {
        roled.tensor.shape[-1]
        for roled in tensors
        if roled.role in ("input_ids", "padding_mask", "mask") and roled.tensor.shape
    }
    return lengths.pop() if len(lengths) == 1 else None


def are_slots(roled: Roled) -> bool:
    """Whether positions are places in a cache, which count the padding, and no positions of tokens."""
    return roled.role == "position_ids" and roled.tensor.name.lower().endswith("cache_position")


def _is_inverse(real: Real, other: Real) -> bool:
    return real.shape == other.shape and not other.all() and bool((real == ~other).all())
