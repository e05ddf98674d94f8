"""What labels ask a model for: which of them the loss counts, and how they stand to the ids beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Undecided
from maskcli.diagnostics.fitting import Placed, fit
from maskcli.masks.spec import parse
from maskcli.meant.facts import Declared, Purpose
from maskcli.padding import one_of
from maskcli.scene.scene import Scene, once
from maskcli.scene.sides import MOVED
from maskcli.scene.tokens import Tokens

# The label that torch's cross_entropy leaves out by default, and the one that nanoGPT and others use.
IGNORE_INDEX, OTHER_IGNORE_INDEX = -100, -1
# Fewer agreeing labels may be chance: a masked token that was left as it is, a word that comes again.
ENOUGH = 2
# Where labels have to stand, by who moves them: a model that does takes copies of the ids.
DUE = {"model": 0, "data": 1}

# Loss masks by this name stand at tokens in some trainers, and in others at the labels that ask for them.
EITHER_PLACE = ("loss_mask", "loss_masks")

UNKNOWN_IDS = Undecided("the ids that the labels speak of, in the labels' shape")
OTHER_TEXT = Undecided(
    "labels that are a text of the ids: these fit at no shift, as tags do, or wrong labels"
)


class Reading(NamedTuple):
    """The labels of one side [B, L] beside its ids; where only a loss mask is saved, the ids that it counts.

    `name` is the tensor that says which labels count. `supervised` are labels that the loss counts, `real`
    tokens that are no padding (None: nothing tells), both bool [B, L]. `agree` counts, for each shift at
    which labels[t] is ids[t + shift] nearly everywhere, the labels that show it. `shift` is the one that
    holds; None when the labels are another sequence, or fit at several. `due` is the one that a declaration
    or the labels' name calls for. `astray` are rows [B] that fit elsewhere than the others, or nowhere;
    `placed` says where. With `shown` the set that they are of shows the shift.
    """

    tokens: Tokens
    name: str
    labels: Array
    supervised: Array
    real: Array | None
    agree: dict[int, int]
    shift: int | None
    due: int | None
    astray: Array
    placed: Placed | None = None
    shown: bool = False

    @property
    def ids(self) -> Array:
        """The ids [B, L], which are there when `shift` is known."""
        assert self.tokens.ids is not None
        return self.tokens.ids

    @property
    def same_text(self) -> bool:
        """Whether the labels are the text of the ids, at whatever shift."""
        return self.shown or max(self.agree.values(), default=0) >= ENOUGH

    @property
    def taught(self) -> Array:
        """Tokens that a supervised label asks for, bool [B, L]."""
        return later(self.supervised, self.shift or 0)

    def names(self, *roles: str) -> tuple[str, ...]:
        """The tensors of some roles that are there."""
        return tuple(self.name if role == "labels" else self.tokens.name(role) for role in roles)

    @property
    def in_place(self) -> Reading:
        """The same without the labels of rows that are astray."""
        if not self.astray.any():
            return self
        return self._replace(supervised=self.supervised & ~self.astray[:, None])

    def asks_for(self, ids: tuple[int, ...]) -> Array:
        """Supervised labels that are one of some ids, bool [B, L]."""
        return self.supervised & one_of(self.labels, ids)

    @property
    def no_padding(self) -> Array:
        """Tokens that are no padding, bool [B, L]; all of them when nothing tells."""
        return np.ones(self.labels.shape, bool) if self.real is None else self.real

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
    """The labels of each side that has some, and what loss masks alone count."""
    return tuple(reading for tokens in scene.tokens for reading in _of_side(tokens, scene.declared))


def texts(scene: Scene) -> Iterator[Reading | Undecided]:
    """Labels that are the text of the ids, or what would tell."""
    for reading in readings(scene):
        if reading.tokens.ids is None:
            yield UNKNOWN_IDS
        elif reading.shift is not None:
            yield reading.in_place
        elif len(reading.agree) > 1:
            yield Undecided("--loss-shift (the labels fit the ids at more than one shift)")
        else:
            yield OTHER_TEXT


def trains_on_all(declared: Declared) -> bool:
    """Whether all of every text is meant to be learnt, whoever wrote it."""
    return declared.purpose == Purpose.pretrain.value


def first_dropped(reading: Reading, declared: Declared) -> bool:
    """Whether the loss leaves out the first label, as a decoder does that moves the labels itself."""
    if reading.tokens.kind == "decoder":
        return False
    if reading.due is not None:
        return reading.due == DUE["model"]
    return 0 in reading.agree and 1 not in reading.agree


def is_padding_id(labels: Array, ids: Array, pads: Array, declared: Declared) -> Array:
    """Labels [B, L] on padding that ask for the id of padding: the declared one, else that of most of it."""
    pad = declared.pad_id
    if pad is None and pads.any():
        values, counts = np.unique(ids[pads], return_counts=True)
        pad = int(values[counts.argmax()]) if 2 * counts.max() > counts.sum() else None
    return pads & (labels == pad) if pad is not None else np.zeros(labels.shape, bool)


def prompt_lengths(reading: Reading, declared: Declared) -> Array | None:
    """How many tokens the prompt of each row has, int [B], as saved or declared; None where nothing says."""
    if reading.tokens.prompt_lengths is not None:
        return reading.tokens.prompt_lengths
    length = declared.prompt_length
    return None if length is None else np.full(len(reading.labels), length)


def later(flags: Array, places: int) -> Array:
    """Flags [B, L] moved to the right; what comes in is False."""
    moved = np.zeros_like(flags)
    moved[:, places:] = flags[:, : flags.shape[1] - places]
    return moved


def _of_side(tokens: Tokens, declared: Declared) -> Iterator[Reading]:
    if tokens.labels is not None and tokens.labels.size:
        yield _read(tokens, tokens.name("labels"), tokens.labels, declared)
        if tokens.moved_labels is not None:
            yield _read(tokens, tokens.name(MOVED), tokens.moved_labels, declared)
    elif tokens.labels is None and tokens.counted is not None and tokens.ids is not None and tokens.ids.size:
        yield _counted(tokens, tokens.ids, tokens.counted, declared)


def _read(tokens: Tokens, name: str, labels: Array, declared: Declared) -> Reading:
    supervised = ~ignored_labels(labels, declared) & (labels >= 0)
    if tokens.counted is not None:
        supervised &= tokens.counted != 0
    real = tokens.known_real(declared)
    due = DUE.get(declared.loss_shift or "")
    if due is None and name.endswith(MOVED):
        due = DUE["data"]
    if tokens.ids is None or _is_encoder(declared):
        none = np.zeros(len(labels), bool)
        return Reading(tokens, name, labels, supervised, real, {}, None, due, none)
    shown = _shown_shift(name, declared)
    agree, astray, placed = fit(labels, tokens.ids, supervised, real, due, shown)
    shift = _shift(agree, due) if shown is None else shown
    of_set = shown is not None
    return Reading(tokens, name, labels, supervised, real, agree, shift, due, astray, placed, of_set)


def _counted(tokens: Tokens, ids: Array, counted: Array, declared: Declared) -> Reading:
    """What a loss mask counts where no labels are saved: the ids that it stands at, or those behind them."""
    name, real = tokens.name("loss_mask"), tokens.known_real(declared)
    shift = _shown_shift(name, declared)
    if shift is None:
        shift = int(name.rpartition(".")[2] in EITHER_PLACE and _stops_early(counted, real))
    asked = np.roll(ids, -shift, axis=1)
    supervised = counted != 0
    labels = np.where(supervised, asked, IGNORE_INDEX)
    none = np.zeros(len(ids), bool)
    return Reading(tokens, name, labels, supervised, real, {shift: int(supervised.sum())}, shift, shift, none)


def _stops_early(counted: Array, real: Array | None) -> bool:
    """Whether no row counts its last token, though some count the one before: the label there asks for it."""
    known = np.ones(counted.shape, bool) if real is None else real
    last = known.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    rows = np.arange(len(counted))
    before = counted[rows, np.maximum(last - 1, 0)] != 0
    return bool(before.any() and not (counted[rows, last] != 0).any())


def _shown_shift(name: str, declared: Declared) -> int | None:
    """Where labels by this name stand in the set that a batch is of, as far as that is known."""
    return None if declared.shown is None else declared.shown.shifts.get(name)


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
