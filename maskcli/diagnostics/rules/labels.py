"""Rules on which labels the loss counts, and where they stand: MSK502, MSK503, MSK505 and MSK508."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Contrary, Found, Undecided, Where, items_of
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.rule import for_each, rule
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.rules.packed_texts import texts_without
from maskcli.diagnostics.supervision import (
    Reading,
    first_dropped,
    ignored_labels,
    is_padding_id,
    later,
    readings,
)
from maskcli.diagnostics.words import whole
from maskcli.meant.facts import Declared
from maskcli.padding import edge_runs, lone_edges, one_of
from maskcli.scene.scene import Scene, named
from maskcli.scene.sides import MOVED

# Masked language models ask for 15 % of the tokens, seldom for 40 %; labels on more than half are of every
# token.
FEW = 0.5
# Labels that have to agree before a shift is called wrong: that three words come again by chance at one
# distance is rare.
ACCUSED = 3
# Words that a masked language model has to guess, and how many of them its mask stands for (BERT: 80 %).
MASKED, OF_MASK = 4, 0.6


@rule("MSK502", "nothing-supervised", "error", needs=("labels",))
def nothing_supervised(scene: Scene) -> Iterator[Found | Contrary]:
    """A sample or packed text has no label that counts; or masked words have some, and those seen too.

    Such a sample teaches nothing; when all of a batch are like that the loss is 0 / 0, which is NaN. A
    decoder drops the first label (there is no token before it), so a label at index 0 alone does not count.

    In code: a response template that never matches, so every label stays -100; an answer that truncation cut
    off.

    Fix: print one sample's ids and labels side by side, correct the template, or raise the maximum length.
    """
    for reading in readings(scene):
        without = list(_samples_without(reading, scene.declared))
        yield from without
        unmasked = None if any(isinstance(each, Found) for each in without) else _unmasked_supervised(reading)
        yield from (each for each in (unmasked, texts_without(reading)) if each is not None)


def _samples_without(reading: Reading, declared: Declared) -> Iterator[Found | Contrary]:
    """Samples without a label that counts; of words to be guessed a sample need not have any."""
    begin = int(first_dropped(reading, declared))
    empty = ~np.any(reading.supervised[:, begin:], axis=1)
    if reading.real is not None:
        empty &= np.any(reading.real, axis=1)
    if not empty.all():
        sparse = _is_sparse(reading)
        yield Contrary(clears=sparse)
        if sparse:
            return
    if not empty.any():
        return

    first = int(reading.supervised[empty, :begin].sum())
    dropped = f", but for {first} at index 0, which the shift of a decoder drops" if first else ""
    where = Where(items_of(empty))
    beside = (
        ("loss_mask",) if reading.tokens.labels is not None and reading.tokens.counted is not None else ()
    )
    yield Found(
        reading.names("labels", *beside),
        f"no label of {{items}} counts: all {reading.labels.shape[1]} are ignored{dropped}",
        "compare ids and labels of one such sample: the template that marks the answer, or the maximum "
        "length, is wrong",
        where,
        {"samples": int(empty.sum()), "of": len(empty), "labels_at_index_0": first},
        "error" if empty.all() else "warning",
        of_set="no label counts in {items}",
        of_all=bool(empty.all()),
        of_some="warning",
    )


def _unmasked_supervised(reading: Reading) -> Found | None:
    """Labels of a masked language model on words that it sees, where most labels are.

    The id that stands where labels differ from ids, at most of these places and nowhere else, is the mask's.
    """
    ids, supervised = reading.tokens.ids, reading.supervised
    if ids is None or reading.tokens.labels is None or reading.tokens.kind == "decoder":
        return None
    if supervised.sum() - reading.agree.get(0, 0) < MASKED or max(reading.agree, default=0):
        return None
    real = np.ones(ids.shape, bool) if reading.real is None else reading.real
    seen = supervised & (reading.labels == ids) & real
    replaced = supervised & (reading.labels != ids) & real
    if replaced.sum() < MASKED or seen.sum() <= FEW * supervised.sum():
        return None
    values, counts = np.unique(ids[replaced], return_counts=True)
    mask = values[counts.argmax()]
    if counts.max() < OF_MASK * counts.sum() or (seen & (ids == mask)).any():
        return None
    return replace(
        found_at(
            reading.names("labels", "input_ids"),
            seen,
            f"{{unmasked}} of {int(supervised.sum())} labels that the loss counts lie on words that are "
            f"not masked (id {mask} masks {int(counts.max())}), which the model only has to copy: {{}}",
            "set them to the ignore index: labels[~masked] = -100",
            of_set="labels that the loss counts lie on words that are not masked, which are copies: {}",
            unmasked=int(seen.sum()),
            masked=int(replaced.sum()),
        ),
        severity="warning",
    )


@rule(
    "MSK503",
    "padding-supervised",
    "error",
    needs=("labels", ("padding_mask", "pad_id")),
    explained_by=("MSK102", "MSK402"),
)
@for_each(readings)
def padding_supervised(reading: Reading, scene: Scene) -> Found | Undecided | None:
    """Labels on padding are not the ignore index.

    The loss then counts padding like text: it looks better than it is, and the model learns to write padding.

    In code: `labels = input_ids.clone()` without `labels[attention_mask == 0] = -100`.

    Fix: set the labels of padding to -100, or to whatever ignore_index the loss has (pass it as
    --ignore-index).
    """
    wrong, declared = _padding_in_labels(reading, scene.declared), scene.declared
    if reading.real is None and not wrong.any():
        return Undecided("attention_mask (or input_ids with --pad-id)")
    if reading.real is not None:
        wrong = wrong | _supervised_padding(reading, reading.real, declared)
        wrong = wrong | _asked_behind(reading, reading.real, declared)
    if not wrong.any():
        return None
    count, supervised = int(wrong.sum()), int(reading.supervised.sum())
    fix = "turn the mask around if 1 stands for padding in it; else no label is on the text"
    if (reading.supervised & ~wrong).any():
        fix = "set them to the ignore index: labels[attention_mask == 0] = -100"
    told_by = "input_ids" if reading.tokens.real is None else "padding_mask"
    return found_at(
        reading.names("labels", *((told_by,) if told_by in reading.tokens.names else ())),
        wrong,
        "{labels_on_padding} of {supervised} labels that the loss counts lie on padding: {}, with label "
        "{which}",
        fix,
        of_set="labels that the loss counts lie on padding: {}, with label {which}",
        which=reading.labels[wrong],
        labels_on_padding=count,
        supervised=supervised,
    )


@rule("MSK505", "shifted-labels", "error", needs=TEXT)
@for_each(readings)
def shifted_labels(reading: Reading, scene: Scene) -> Found | Undecided | None:
    """The labels are moved against the ids by another number of places than the loss expects.

    Labels that the data has moved already then ask for the token after the next, as Hugging Face models move
    the labels themselves. Where nobody moves them, each token is asked for itself and the model learns to
    copy.

    In code: `labels = input_ids[:, 1:]` given to a model that computes `loss(logits[:, :-1], labels[:, 1:])`.

    Fix: give such a model labels that are a copy of the ids, or compute the loss outside of it; say which
    with --loss-shift.
    """
    due = reading.due
    right = {due or 0}
    if reading.tokens.kind == "decoder":
        # The ids of an encoder-decoder's decoder are its labels, moved one place to the right: nobody moves
        # them again.
        right.add(1)
    if right & reading.agree.keys() or max(reading.agree.values(), default=0) < ACCUSED:
        return None
    if len(reading.agree) > 1:
        return Undecided("a batch with less repetition (the labels fit the ids at more than one shift)")

    ((moved, agreeing),) = reading.agree.items()
    spot, effect, fix = _SHIFTED[moved, due]
    return Found(
        reading.names("labels", "input_ids"),
        f"the labels are the ids {spot} ({{agreeing_labels}} labels agree): {effect}",
        fix,
        evidence={"places": moved, "agreeing_labels": agreeing},
        severity="note" if (moved, due) == (1, None) else None,
    )


_TWICE = (
    "two places later",
    "no token is asked for the next one, whether the loss moves them once more or not",
    "move the labels in one place only: in the data or in the model",
)
# What labels so many places on mean when they are due elsewhere: where they are, what follows, and the fix.
_SHIFTED = {
    (0, 1): (
        "at the same place",
        "nobody moves them (--loss-shift data), so each token is asked for itself and the model learns to "
        "copy",
        "move the labels one place (labels[t] = ids[t + 1]), or let the model do it",
    ),
    (1, 0): (
        "one place later",
        "the model moves them once more (--loss-shift model), so each token is asked for the one after the "
        "next",
        "pass a copy of the ids as labels",
    ),
    (1, None): (
        "one place later",
        "right when the loss does not move them; one that does asks for the token after the next",
        "with a model that moves them, as Hugging Face's do, pass a copy of the ids; else declare "
        "--loss-shift data",
    ),
    (2, None): _TWICE,
    (2, 0): _TWICE,
    (2, 1): _TWICE,
}


class _Column(NamedTuple):
    """Labels or ids [B, L] and their tensor."""

    name: str
    values: Array
    labels: bool


def _columns(scene: Scene) -> Iterator[_Column]:
    for tokens in scene.tokens:
        if tokens.labels is not None:
            yield _Column(tokens.name("labels"), tokens.labels, True)
        if tokens.moved_labels is not None:
            yield _Column(tokens.name(MOVED), tokens.moved_labels, True)
        if tokens.ids is not None:
            yield _Column(tokens.name("input_ids"), tokens.ids, False)


@rule("MSK508", "invalid-label", "error", needs=(("labels", "input_ids"),))
def invalid_label(scene: Scene) -> Iterator[Found]:
    """A label or an id is not one of the vocabulary, nor the ignore index.

    On a GPU the lookup stops with a device-side assert far from the cause; elsewhere it may wrap around and
    read another token.

    In code: labels padded with -1 for a loss whose ignore_index is -100, tokens added without
    `resize_token_embeddings`.

    Fix: use the loss's ignore index for labels to leave out, and a vocabulary that holds every id.
    """
    for column in _columns(scene):
        found = _of_no_token(column, scene.declared)
        if found is not None:
            yield found
        elif named(scene, column.name).tensor.dtype.startswith(("float", "bfloat")):
            yield _as_floats(column, named(scene, column.name).tensor.dtype)


def _as_floats(column: _Column, dtype: str) -> Found:
    """A note on whole numbers in a type for others."""
    return Found(
        (column.name,),
        f"{column.name!r} is {dtype}, and all of it are whole numbers: it is read as ids",
        "save and pass ids and labels as int64; floats of few bits cannot hold all of them",
        evidence={"highest": int(column.values.max(initial=0))},
        severity="note",
    )


def _of_no_token(column: _Column, declared: Declared) -> Found | None:
    size, wrong = declared.vocab_size, (column.values < 0) | ~np.isfinite(column.values)
    if size is not None:
        wrong = wrong | (column.values >= size)
    if column.labels:
        wrong = wrong & ~ignored_labels(column.values, declared)
    if not wrong.any():
        return None

    bad = column.values[wrong]
    vocabulary = f"; the vocabulary has {size}" if size is not None else ""
    fix = "use ids from 0 up to the vocabulary's size; resize the embeddings after adding tokens"
    if column.labels and bad.min() < 0:
        fix = (
            "use the ignore index of the loss for labels to leave out (declare it with --ignore-index when "
            "it is not -100)"
        )
    return found_at(
        (column.name,),
        wrong,
        f"{column.name!r} holds {{values}} value(s) that no token has: {{which}}, at {{}}{vocabulary}",
        fix,
        which=bad,
        values=bad.size,
        lowest=whole(bad.min()),
        highest=whole(bad.max()),
    )


def _is_sparse(reading: Reading) -> bool:
    """Whether labels stand on few tokens and differ from them, as a masked language model's do."""
    if reading.tokens.ids is None or reading.same_text:
        return False
    tokens = reading.labels.size if reading.real is None else int(reading.real.sum())
    return bool(0 < reading.supervised.sum() < FEW * tokens)


def _supervised_padding(reading: Reading, real: Array, declared: Declared) -> Array:
    """Labels [B, L] on padding at the edges of rows that the loss counts."""
    supervised = reading.in_place.supervised
    if not (supervised & ~real).any():
        return np.zeros(real.shape, bool)
    leading, trailing = edge_runs(~real)
    pads = leading | trailing
    wrong: Array = pads & supervised
    if reading.tokens.real is None and declared.pad_id in declared.eos_ids:
        wrong &= ~lone_edges(pads)
    end = trailing & ~later(trailing, 1)
    begin = leading & ~later(leading[:, ::-1], 1)[:, ::-1]
    if reading.shift is None:
        one, ids = _one_label_each(reading, pads)[:, None], reading.tokens.ids
        if ids is not None:
            asked = is_padding_id(reading.labels, ids, pads, declared)
            one = one | (asked & ~((begin | end) & (reading.labels == ids)))
        return wrong & one
    if reading.shift:
        # The label on the last padding before a text asks for the text's first token.
        wrong[:, : -reading.shift] &= pads[:, reading.shift :]
        return wrong
    # When padding and the end (or beginning) of a text share an id, one token of the run is real: by its id,
    # where that is known; else nothing is said as long as no other token of a run is supervised.
    wrong &= ~(end & one_of(reading.labels, declared.eos_ids))
    wrong &= ~(begin & one_of(reading.labels, declared.bos_ids))
    doubtful = np.zeros_like(wrong)
    if not declared.eos_ids:
        doubtful |= end
    if not declared.bos_ids and reading.tokens.real is None:
        doubtful |= begin
    return wrong if (wrong & ~doubtful).any() else np.zeros_like(wrong)


def _asked_behind(reading: Reading, real: Array, declared: Declared) -> Array:
    """Moved labels [B, L] on the last words of texts that ask for the padding behind them."""
    pad, none = declared.pad_id, np.zeros(real.shape, bool)
    if not reading.shift or not declared.eos_ids or pad in (None, *declared.eos_ids, *declared.bos_ids):
        return none
    asked: Array = real & reading.in_place.supervised & (reading.labels == pad)
    if asked.any():
        behind = np.ones(real.shape, bool)
        behind[:, : -reading.shift] = ~real[:, reading.shift :]
        asked &= behind
    return asked


def _padding_in_labels(reading: Reading, declared: Declared) -> Array:
    """Supervised labels [B, L] of the pad id behind the end of another text, or before one, as T5's have."""
    labels, pad = reading.labels, declared.pad_id
    none = np.zeros(labels.shape, bool)
    another = reading.tokens.ids is None or reading.tokens.kind == "decoder" or not reading.agree
    if pad is None or pad in (*declared.eos_ids, *declared.bos_ids) or not another:
        return none
    leading, trailing = edge_runs(labels == pad)
    # An end in front of the run, or at the end of the row: it is a text's padding, and no tag of the same id.
    ends = one_of(labels, declared.eos_ids)
    behind = np.any(ends & later(trailing[:, ::-1], 1)[:, ::-1], axis=1)
    wrong: Array = (trailing & behind[:, None]) | (leading & ends[:, -1:])
    return wrong & reading.in_place.supervised


def _one_label_each(reading: Reading, pads: Array) -> Array:
    """Rows [B] with the same supervised label on all their padding, two or more tokens of it.

    Labels that nothing ties to the tokens may be another text, with a padding of its own; that is no text.
    """
    last = np.where(pads, reading.labels, reading.labels.min()).max(axis=1, keepdims=True)
    one = ~pads | (reading.supervised & (reading.labels == last))
    rows: Array = np.all(one, axis=1) & (pads.sum(axis=1) > 1)
    return rows
