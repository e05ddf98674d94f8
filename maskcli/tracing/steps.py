"""A step of a running program, one call of the outermost module, and what it says of its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.fitting import agreement
from maskcli.meant.facts import FULL, Declared
from maskcli.padding import edge_padding, edge_runs
from maskcli.tensors import Kind, Roled, from_array
from maskcli.tracing.calls import Torch, known_as
from maskcli.tracing.facts import Facts
from maskcli.tracing.seeing import unseen

# Labels stand this many places before the token that they ask for, in a model of the next token.
NEXT = 1
# So many labels that agree are no chance.
TOLD = 4
# What a loss asks for, by what it is called.
ASKS_NEXT, ASKS_MASKED = (
    "{}, which asks each token for the next one,",
    "{}, which asks for masked tokens alone,",
)
# Of a masked language model's labels so many ask for the id of the mask (BERT: 80 %), and most of these stand
# inside of a text, which goes on behind them.
OF_MASK, INSIDE = 0.6, 0.8
# What is said of every token, as [B, L], or as [L, B] by models that have the batch second.
OF_TOKENS = ("input_ids", "labels", "position_ids", "token_type_ids", "segment_ids")


@dataclass(frozen=True, eq=False)
class Loss:
    """Targets of a loss over logits, the target that it ignores, and what it is called."""

    targets: Torch
    ignored: int
    source: str


@dataclass(frozen=True, eq=False)
class _Labels:
    """Labels [B, L] beside ids."""

    ids: Torch
    tensor: Torch
    ignored: int

    @cached_property
    def supervised(self) -> Array:
        """Labels that the loss counts, bool [B, L]."""
        counted: Array = _array(self.tensor) != self.ignored
        return counted

    def shifts(self) -> list[tuple[int, int]]:
        """How many places before the token that they ask for labels stand, and how many show it."""
        agree = agreement(_array(self.tensor), _array(self.ids), self.supervised, None)
        return [(shift, count) for shift, count in agree.items() if count >= TOLD]

    def ask_for_masked(self) -> bool:
        """Whether they count where one id stands that is nowhere else, inside of texts that go on behind it.

        What an answer is asked for at the end of, as of a text that is classified there, is no such id.
        """
        ids, counted = _array(self.ids), self.supervised
        count = int(counted.sum())
        if not TOLD <= count <= counted.size // 2:
            return False
        values, counts = np.unique(ids[counted], return_counts=True)
        masked = ids == values[counts.argmax()]
        # Behind the last id that differs from the end of its row there is nothing but padding.
        text = later_in_row(ids != ids[:, -1:])
        inside = masked & later_in_row(text & ~masked)
        replaced = (_array(self.tensor) != ids)[masked].all()
        mostly = masked.sum() >= OF_MASK * count and inside.sum() >= INSIDE * masked.sum()
        return bool(mostly and replaced and not (masked & ~counted).any())

    def at_most(self, shift: int) -> str:
        """The widest mask under which no label that counts is seen where it is asked for.

        Tokens before the first that is asked for, such as the longest prompt, may see one another.
        """
        asked = np.roll(self.supervised, shift, axis=1)
        asked[:, :shift] = False
        prefix = int(edge_runs(~asked)[0].sum(axis=1).max())
        return f"prefix-lm:{prefix}" if prefix > shift else "causal"


@dataclass(eq=False)
class Step:
    """What was said of the tokens so far, (name, tensor) by role and side.

    `two_sided` says that the model has an encoder and a decoder. `facts` are what its program knows of the
    model; `generating` that a generation is at work. `shown` are weights and masks of its first checked call
    of self-attention; `shift` says how many places before the token that they ask for the labels at the loss
    stand; None without such labels. `turned` says that tokens are [L, B], None as long as nothing tells.
    `real_before` are the tokens that came before in a generation, bool [B, L], True where they are no
    padding; None where none did. `read_whole` says that cross-attention sees all of its source. `classes`
    is a loss with one label for each text, `first_alone` says that no gradient came to any other query.
    """

    number: int
    two_sided: bool
    facts: Facts = field(default_factory=Facts)
    generating: bool = False
    tokens: dict[tuple[str, Kind], tuple[str, Torch]] = field(default_factory=dict)
    looked_up: list[tuple[str, Kind, Torch]] = field(default_factory=list)
    shown: tuple[Roled, ...] = ()
    shift: int | None = None
    aligned: bool = False
    turned: bool | None = None
    real_before: Array | None = None
    read_whole: bool = False
    classes: Loss | None = None
    first_alone: bool = False

    def samples(self, shape: Sequence[int]) -> int | None:
        """How many samples there are where weights have this shape; None when nothing tells."""
        self._turn(shape)
        known = (tensor for _, kind, tensor in self.looked_up if kind != "encoder")
        ids = next(known, self.ids("self", "decoder", "encoder"))
        if ids is not None:
            return int(ids.shape[1 if self.turned else 0])
        paddings = (len(tensor) for (role, _), (_, tensor) in self.tokens.items() if role == "padding_mask")
        return next(paddings, None)

    def _turn(self, shape: Sequence[int]) -> None:
        """Tell whether tokens are [L, B] from weights [.., Q, K]: their leading axes hold the samples."""
        if self.turned is not None:
            return
        first, keys = shape[0], shape[-1]
        for _, _, ids in self.looked_up:
            straight = ids.shape[1] == keys and first % ids.shape[0] == 0
            turned = ids.shape[0] == keys and first % ids.shape[1] == 0
            if straight != turned:
                self.turned = turned
                return

    def decodes(self, samples: int) -> bool:
        """Whether the model is given one token of each of so many samples."""
        shapes = [
            tuple(tensor.shape)
            for (role, kind), (_, tensor) in self.tokens.items()
            if role == "input_ids" and kind != "encoder"
        ]
        return shapes == [(samples, 1)]

    @property
    def generates(self) -> bool:
        """Whether what follows its tokens is to be generated: not where only a source is encoded."""
        encodes = self.two_sided and self.ids("decoder", "self") is None
        return self.generating and not encodes

    def declared(self, options: Declared) -> Declared:
        """What is known of it: what the user declared, else what the program knows."""
        return self.facts.declared(options, self.texts, self.generates)

    def ids(self, *kinds: Kind) -> Torch | None:
        """The token ids of the first of these sides that has some, as the program has them."""
        known = (self.tokens["input_ids", kind][1] for kind in kinds if ("input_ids", kind) in self.tokens)
        return next(known, None)

    def rows(self, kind: Kind) -> Array | None:
        """Those of one side as an array [B, L]."""
        ids = self.ids(kind)
        return None if ids is None else _array(self._straight("input_ids", ids))

    def real_so_far(self) -> Array | None:
        """Which tokens of a generation are real up to the end of this step, bool [B, L]; None for no text."""
        mask, ids = self.tokens.get(("padding_mask", "self")), self.rows("self")
        if mask is not None:
            kept: Array = _array(mask[1]) != 0
            by_ids = self._real_by_ids(ids) if ids is not None and ids.shape == kept.shape else None
            return by_ids if by_ids is not None and np.array_equal(kept, ~by_ids) else kept
        if ids is None:
            return None

        before = self.real_before
        if before is not None and len(before) == len(ids) and ids.shape[1] <= before.shape[1]:
            return np.concatenate([before, np.ones(ids.shape, bool)], axis=1)
        by_ids = self._real_by_ids(ids)
        return np.ones(ids.shape, bool) if by_ids is None else by_ids

    def _real_by_ids(self, ids: Array) -> Array | None:
        """Which tokens are no padding by their ids [B, L]; None where nothing says what padding is."""
        pad = self.facts.pad_id(self.texts)
        return None if pad is None else edge_padding(ids, pad.value)

    @property
    def texts(self) -> tuple[Array, ...]:
        """The ids [B, L] of each side."""
        sides: tuple[Kind, ...] = ("decoder", "self", "encoder")
        return tuple(rows for side in sides if (rows := self.rows(side)) is not None)

    def side(self, kind: Kind) -> Kind:
        """The side that a name speaks of: a model with one side has no encoder to tell from it."""
        if kind == "encoder" and not self.two_sided:
            return "self"
        if kind == "self" and self.two_sided:
            return "encoder"
        return kind

    def note(self, role: str, kind: Kind, name: str, tensor: Torch) -> None:
        """Keep the first that is said of a role; a copy, since the program may use its buffers again."""
        if (role, kind) not in self.tokens:
            with unseen():
                self.tokens[role, kind] = name, tensor.detach().clone()

    def note_ids(self, kind: Kind, name: str, ids: Torch) -> None:
        """Ids were looked up in a table of tokens."""
        self.note("input_ids", kind, name, ids)
        kept = self.ids(kind)
        same = kept is not None and kept.shape == ids.shape
        with unseen():
            known = same and bool((kept == ids).all())
            self.looked_up.append((name, kind, kept if known else ids.detach().clone()))

    def note_loss(self, loss: Loss) -> None:
        """Labels at the loss, as many as tokens or one fewer a sample: they are what counts."""
        candidates = list(self._labelled(loss))
        if not candidates:
            self._note_classes(loss)
            return
        fits = [
            (shift == NEXT, agreeing, shift, labels)
            for labels in candidates
            for shift, agreeing in labels.shifts()
        ]
        none: tuple[bool, int, int | None, _Labels] = (False, 0, None, candidates[0])
        _, _, self.shift, labels = max(fits, key=itemgetter(0, 1), default=none)
        self.tokens["labels", "self"] = "labels", labels.tensor
        self.aligned = True
        if self.shift is not None and self.shift >= NEXT:
            self.facts.at_most = labels.at_most(self.shift), ASKS_NEXT.format(loss.source)
        elif any(labels.ask_for_masked() for labels in candidates):
            self.facts.at_most = FULL, ASKS_MASKED.format(loss.source)

    def _note_classes(self, loss: Loss) -> None:
        """Labels at the loss, one for each text: no tokens of it, as what a model is to go on with."""
        texts = self.rows("self")
        one_each = texts is not None and loss.targets.shape == (len(texts),)
        if texts is not None and one_each and not (texts == _array(loss.targets)[:, None]).all(0).any():
            self.classes = loss

    def note_asked(self, loss: Loss) -> None:
        """A loss by hand: which of its labels count is not known, only whether they are the next tokens."""
        for labels in self._labelled(loss):
            if any(shift == NEXT for shift, _ in labels.shifts()):
                self.facts.at_most = labels.at_most(NEXT), ASKS_NEXT.format(loss.source)

    def note_counted(self, loss: Loss) -> None:
        """A loss by hand, with the labels that it does not count ignored: its gradients have come back.

        What is no text of the ids is none of its labels; where a loss of torch has told them, it is believed.
        """
        if not self.aligned and any(labels.shifts() for labels in self._labelled(loss)):
            self.facts.trains = True
            self.note_loss(loss)

    def recall(self, encoded: Step) -> None:
        """An earlier step has encoded what this one looks at: its tokens are known here too."""
        if self.number != encoded.number and self.two_sided:
            for (role, kind), said in encoded.tokens.items():
                if kind in ("encoder", "self") and role in ("input_ids", "padding_mask"):
                    self.tokens.setdefault((role, "encoder"), said)

    def _labelled(self, loss: Loss) -> Iterator[_Labels]:
        """The labels beside each of the ids that they may belong to, those of the decoder first."""
        for _, _, given in reversed(self.looked_up):
            for turned in (False, True) if self.turned is None else (self.turned,):
                ids = given.T if turned else given
                labels = _shaped(loss, ids, turned)
                if labels is not None:
                    yield _Labels(ids, labels, loss.ignored)

    def roled(self, kind: Kind, padding: Torch | None, keys: int | None = None) -> tuple[Roled, ...]:
        """What is said of the tokens; a module's own padding mask where nothing else tells of that side.

        `keys` is how many a call has that looks at them.
        """
        of_keys = sides(kind)
        said = [
            known_as(role, side, name, self._straight(role, tensor))
            for (role, side), (name, tensor) in self.tokens.items()
            if role != "input_ids" or side not in of_keys or not self._is_short(side, keys)
        ]
        if padding is not None and not any(("padding_mask", side) in self.tokens for side in of_keys):
            said.append(known_as("padding_mask", kind, "key_padding_mask", padding.detach()))
        elif kind == "self" and ("padding_mask", "self") not in self.tokens:
            said.extend(self._cached(keys))
        return tuple(said)

    def _is_short(self, side: Kind, keys: int | None) -> bool:
        """Whether ids are fewer than the keys: they tell nothing of those that were there before."""
        rows = self.rows(side)
        return keys is not None and rows is not None and rows.shape[1] < keys

    def _cached(self, keys: int | None) -> Iterator[Roled]:
        """Which keys of a cache are real, by the tokens that the steps before had."""
        real = None if self.real_before is None else self.real_so_far()
        fits = real is not None and real.shape[1] == keys
        if real is not None and (fits or (self.generating and keys is None)):
            yield known_as("padding_mask", "self", "the tokens so far", from_array("", real.astype(np.int64)))

    def _straight(self, role: str, tensor: Torch) -> Torch:
        """Something said of tokens as [B, L]; labels at the loss are that already."""
        known = role == "labels" and self.aligned
        turned = self.turned and role in OF_TOKENS and tensor.ndim == 2 and not known
        return tensor.T if turned else tensor


def sides(kind: Kind) -> tuple[Kind, Kind]:
    """The sides whose tokens are the keys of this kind of attention."""
    return ("encoder", "cross") if kind == "cross" else (kind, "self")


def _shaped(loss: Loss, ids: Torch, turned: bool) -> Torch | None:
    """Targets in the shape of ids [B, L], where there are as many, or one fewer a sample; else None."""
    batch, length = ids.shape
    targets = loss.targets.reshape(-1)
    count, left = divmod(targets.numel(), batch)
    if left or count < 1 or count not in (length, length - 1):
        return None
    rows = targets.reshape(count, batch).T if turned else targets.reshape(batch, count)
    labels = rows.new_full((batch, length), loss.ignored)
    labels[:, :count] = rows
    return labels


def later_in_row(flags: Array) -> Array:
    """Places [B, L] behind which a flag stands in their row, or on which one does."""
    found: Array = np.flip(np.logical_or.accumulate(np.flip(flags, 1), axis=1), 1)
    return found


def _array(tensor: Torch) -> Array:
    values: Array = tensor.detach().cpu().numpy()
    return values
