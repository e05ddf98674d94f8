"""Rules on labels that belong to something else than their ids: MSK514, MSK515 and MSK517."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Where, items_of
from maskcli.diagnostics.fitting import found_in
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.rule import for_each, rule
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.supervision import Reading, ignored_labels, readings
from maskcli.diagnostics.words import few, told_items
from maskcli.meant.facts import Declared
from maskcli.padding import edge_runs
from maskcli.scene.scene import Scene
from maskcli.scene.tokens import Tokens


@rule("MSK514", "labels-of-another-text", "error", needs=TEXT, explained_by=("MSK102", "MSK412", "MSK505"))
@for_each(readings)
def labels_of_another_text(reading: Reading, scene: Scene) -> Found | None:
    """The labels of a row fit its ids at no shift: they are moved by padding, or another row's.

    Every token is then asked for a word that does not come next. The loss falls nevertheless, as far as the
    frequencies of words go, so nothing shows.

    In code: ids padded on the left and labels on the right; labels padded to another length than the ids;
    ids shuffled without their labels.

    Fix: pad and sort ids and labels in one place, and print one row of both side by side.
    """
    astray, placed = reading.astray, reading.placed
    if placed is None or not astray.any():
        return None
    rows, due = np.arange(len(astray)), reading.shift if reading.shift is not None else reading.due or 0
    own = astray & placed.found & (placed.row == rows)
    other = astray & placed.found & ~own
    away = placed.places - due
    told = [
        f"those of {told_items(items_of(own))} stand {_places(away[own])}" if own.any() else "",
        f"those of {told_items(items_of(other))} are another sample's ({few(placed.row[other])})"
        if other.any()
        else "",
        f"those of {told_items(items_of(astray & ~placed.found))} are in no sample's ids"
        if (astray & ~placed.found).any()
        else "",
    ]
    fix = "pad ids and labels on one side and to one length, in one place"
    if not own.any():
        fix = "keep ids and labels of a sample together where samples are sorted, shuffled or put in batches"
    return found_at(
        reading.names("labels", "input_ids"),
        reading.supervised & astray[:, None],
        f"labels fit their ids at no shift: {', '.join(part for part in told if part)}; {{}}",
        fix,
        of_set="labels fit their ids at no shift: {}",
        samples=int(astray.sum()),
        of=len(astray),
        moved_samples=int(own.sum()),
        swapped_samples=int(other.sum()),
    )


def _places(away: Array) -> str:
    """How far labels stand from where they should, in words; ids further on mean labels too early."""
    sizes = few(np.abs(away))
    if (away > 0).all():
        return f"{sizes} places too early"
    return f"{sizes} places too late" if (away < 0).all() else f"{sizes} places off"


class _Unlike(NamedTuple):
    """Labels or a loss mask [B, L] of another length than the ids beside it."""

    tokens: Tokens
    name: str
    rows: Array
    length: int


def _unlike(scene: Scene) -> Iterator[_Unlike]:
    for tokens in scene.tokens:
        if tokens.ids is not None:
            for name, rows in tokens.unlike.items():
                if len(rows) == len(tokens.ids):
                    yield _Unlike(tokens, name, rows, tokens.ids.shape[1])


@rule("MSK515", "label-length", "error", needs=TEXT)
@for_each(_unlike)
def label_length(unlike: _Unlike, scene: Scene) -> Found | None:
    """Labels or a loss mask are of another length than the ids that they belong to.

    A label may then be asked of another token than its own: what is shorter is cut or moved somewhere on the
    way to the loss. A padded batch hides it: a collator fills up on one side.

    In code: `labels = input_ids[:, 1:]` beside the whole ids, ids cut at `max_length` and labels not.

    Fix: make labels and loss mask as long as the ids, and pad them together.
    """
    rows = np.ones(len(unlike.rows), bool)
    if _is_loss_mask(unlike, scene):
        if _is_of_another_tensor(unlike, scene):
            return None
        what = "counts"
    else:
        supervised = ~ignored_labels(unlike.rows, scene.declared) & (unlike.rows >= 0)
        assert unlike.tokens.ids is not None
        rows = found_in(unlike.rows, unlike.tokens.ids, supervised).found
        what = "holds labels of"
    # Labels that are no text of the ids are another sequence, as a translation is.
    if 2 * rows.sum() < len(rows):
        return None
    length = unlike.rows.shape[1]
    return Found(
        (unlike.name, unlike.tokens.name("input_ids")),
        f"{unlike.name!r} {what} {length} tokens a sample, and {unlike.tokens.name('input_ids')!r} has "
        f"{unlike.length}: which token each is for is not said",
        "make them as long as the ids; labels that are not to count hold the ignore index",
        Where(items_of(rows)),
        {"length": length, "ids": unlike.length},
    )


def _is_loss_mask(unlike: _Unlike, scene: Scene) -> bool:
    return any(each.tensor.name == unlike.name and each.role == "loss_mask" for each in scene.tensors)


def _is_of_another_tensor(unlike: _Unlike, scene: Scene) -> bool:
    """Whether something else that is saved has this shape, as the responses of a rollout do."""
    shapes = (each.tensor.shape for each in scene.tensors if each.role != "loss_mask")
    return any(shape == unlike.rows.shape for shape in shapes)


@rule("MSK517", "placeholder-supervised", "error", needs=("labels", ("media_ids", "pad_id")))
@for_each(readings)
def placeholder_supervised(reading: Reading, scene: Scene) -> Found | None:
    """The loss counts ids that stand for an image, a sound or a film, or padding inside of a row.

    They are no words: hundreds of equal ids an image fill the loss, and the model learns to write them.

    In code: `labels = input_ids.clone()` with `-100` on padding alone, in a vision-language model.

    Fix: `labels[labels == image_token_id] = -100`, and the same for padding between texts.
    """
    declared = scene.declared
    placeholders = () if declared.model is None else declared.model.media_ids
    media = reading.asks_for(placeholders) if placeholders else np.zeros(reading.labels.shape, bool)
    inside = _padding_inside(reading, declared)
    wrong = media | inside
    if not wrong.any():
        return None
    of_media, of_padding = "stand for images, sounds or films", "are padding inside of the text"
    what = of_media if media.any() else of_padding
    if media.any() and (inside & ~media).any():
        what += f", or {of_padding}"
    return found_at(
        reading.names("labels"),
        wrong,
        f"{int(wrong.sum())} of {int(reading.supervised.sum())} labels that the loss counts {what} (id "
        "{which}): {}",
        "set them to the ignore index: labels[labels == {first_which}] = -100",
        of_set=f"labels that the loss counts {of_media}, or {of_padding} (id {{which}}): {{}}",
        which=reading.labels[wrong],
        placeholders=int(media.sum()),
        padding_inside=int((inside & ~media).sum()),
    )


def _padding_inside(reading: Reading, declared: Declared) -> Array:
    """Labels [B, L] that ask for padding between words, where it is known not to end or begin texts."""
    pad, inside = declared.pad_id, np.zeros(reading.labels.shape, bool)
    alone = bool(declared.eos_ids) and pad not in (None, *declared.eos_ids, *declared.bos_ids)
    if not alone or reading.shift is None:
        return inside
    asked: Array = reading.in_place.supervised & (reading.labels == pad)
    if not asked.any():
        return inside
    leading, trailing = edge_runs(reading.labels == pad)
    asked &= ~leading & ~trailing
    pads = reading.ids == pad
    first, last = edge_runs(pads)
    between = pads & ~first & ~last
    stop = between.shape[1] - reading.shift
    inside[:, :stop] = asked[:, :stop] & between[:, reading.shift :]
    return inside
