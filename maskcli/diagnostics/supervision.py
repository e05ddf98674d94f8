"""What labels ask a model for: which of them the loss counts, and how they stand to the ids beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Undecided
from maskcli.masks.spec import parse
from maskcli.meant.facts import Declared
from maskcli.scene.scene import Scene, once
from maskcli.scene.tokens import Tokens

# The label that torch's cross_entropy leaves out by default, and the one that nanoGPT and others use.
IGNORE_INDEX, OTHER_IGNORE_INDEX = -100, -1
# Labels are the ids, some places on, when this share of them agrees. Labels made from ids agree to the last
# one; those of a masked language model that keep every id agree at 85 to 89 %, as one token in seven is
# replaced.
SAME_TEXT = 0.95
# How many places on the ids are looked for: not moved, moved once, moved twice.
SHIFTS = (0, 1, 2)
# Fewer agreeing labels may be chance: a masked token that was left as it is, a word that comes again.
ENOUGH = 2
# Where labels have to stand, by who moves them: a model that does takes copies of the ids.
DUE = {"model": 0, "data": 1}

# The argument of Hugging Face's losses for labels that the data has moved.
MOVED = "shift_labels"

UNKNOWN_IDS = Undecided("the ids that the labels speak of, in the labels' shape")


class Reading(NamedTuple):
    """The labels of one side [B, L] beside its ids.

    `supervised` are labels that the loss counts, `real` tokens that are no padding (None: nothing tells),
    both bool [B, L]. `agree` counts, for each shift at which labels[t] is ids[t + shift] nearly everywhere,
    the labels that show it. `shift` is the one that holds; None when the labels are another sequence, or fit
    at several. `due` is the one that a declaration or the labels' name calls for.
    """

    tokens: Tokens
    labels: Array
    supervised: Array
    real: Array | None
    agree: dict[int, int]
    shift: int | None
    due: int | None

    @property
    def ids(self) -> Array:
        """The ids [B, L], which are there when `shift` is known."""
        assert self.tokens.ids is not None
        return self.tokens.ids

    @property
    def same_text(self) -> bool:
        """Whether the labels are the text of the ids, at whatever shift."""
        return max(self.agree.values(), default=0) >= ENOUGH

    @property
    def taught(self) -> Array:
        """Tokens that a supervised label asks for, bool [B, L]."""
        return later(self.supervised, self.shift or 0)

    def names(self, *roles: str) -> tuple[str, ...]:
        """The tensors of some roles that are there."""
        return tuple(self.tokens.name(role) for role in roles)

    def asks_for(self, ids: tuple[int, ...]) -> Array:
        """Supervised labels that are one of some ids, bool [B, L]."""
        return self.supervised & np.isin(self.labels, ids)

    @property
    def first(self) -> Array:
        """Where the text of each row begins, int [B]."""
        if self.real is None:
            return np.zeros(len(self.labels), np.int64)
        begins: Array = self.real.argmax(axis=1)
        return begins


def ignored_labels(labels: Array, declared: Declared) -> Array:
    """Labels that the loss leaves out: the declared ignore index, else -100, or -1 where none is -100."""
    if declared.ignore_index is not None:
        return np.asarray(labels == declared.ignore_index)
    ignored = np.asarray(labels == IGNORE_INDEX)
    return ignored if ignored.any() else np.asarray(labels == OTHER_IGNORE_INDEX)


@once
def readings(scene: Scene) -> tuple[Reading, ...]:
    """The labels of each side that has some."""
    held = [tokens for tokens in scene.tokens if tokens.labels is not None and tokens.labels.size]
    return tuple(_read(tokens, tokens.labels, scene) for tokens in held if tokens.labels is not None)


def texts(scene: Scene) -> Iterator[Reading | Undecided]:
    """Labels that are the text of the ids, or what would tell; those of another sequence are left out."""
    for reading in readings(scene):
        if reading.tokens.ids is None:
            yield UNKNOWN_IDS
        elif reading.shift is not None:
            yield reading
        elif len(reading.agree) > 1:
            yield Undecided("--loss-shift (the labels fit the ids at more than one shift)")


def first_dropped(reading: Reading, declared: Declared) -> bool:
    """Whether the loss leaves out the first label, as a decoder does that moves the labels itself."""
    if reading.tokens.kind == "decoder":
        return False
    if reading.due is not None:
        return reading.due == DUE["model"]
    return 0 in reading.agree and 1 not in reading.agree


def later(flags: Array, places: int) -> Array:
    """Flags [B, L] moved to the right; what comes in is False."""
    moved = np.zeros_like(flags)
    moved[:, places:] = flags[:, : flags.shape[1] - places]
    return moved


def _read(tokens: Tokens, labels: Array, scene: Scene) -> Reading:
    declared = scene.declared
    supervised = ~ignored_labels(labels, declared) & (labels >= 0)
    if tokens.counted is not None:
        supervised &= tokens.counted != 0
    real = tokens.known_real(declared)
    agree: dict[int, int] = {}
    if tokens.ids is not None and not _is_encoder(declared):
        agree = agreement(labels, tokens.ids, supervised, real)
    due = DUE.get(declared.loss_shift or "")
    if due is None and tokens.name("labels").endswith(MOVED):
        due = DUE["data"]
    return Reading(tokens, labels, supervised, real, agree, _shift(agree, due), due)


def agreement(labels: Array, ids: Array, supervised: Array, real: Array | None) -> dict[int, int]:
    """How many supervised labels are the id so many places later, for the shifts at which nearly all are.

    What the last label of a text asks for need not be there: a text ends before padding or, where nothing
    says what is padding, with its run of labels.
    """
    agree = {}
    length = labels.shape[1]
    for shift in SHIFTS[:length]:
        here, there = slice(0, length - shift), slice(shift, length)
        compared = supervised[:, here]
        if shift:
            compared = compared & (supervised if real is None else real)[:, there]
        same = int((compared & (labels[:, here] == ids[:, there])).sum())
        if same and same >= SAME_TEXT * compared.sum():
            agree[shift] = same
    return agree


def _shift(agree: dict[int, int], due: int | None) -> int | None:
    """The declared shift, when the labels fit there, else the only one at which enough of them do."""
    if due in agree:
        return due
    if len(agree) != 1:
        return None
    ((shift, count),) = agree.items()
    return shift if count >= ENOUGH else None


def _is_encoder(declared: Declared) -> bool:
    """Whether self-attention was declared to see everything: an encoder's labels stand at their tokens."""
    meant = declared.meant("", "self", None)
    return meant is not None and meant.spec == parse("full")
