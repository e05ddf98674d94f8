"""Labels and positions of packed texts: MSK410, MSK516, and texts without labels, for MSK502."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.needs import TEXT
from maskcli.diagnostics.rule import for_each, rule, sides
from maskcli.diagnostics.rules.hits import found_at
from maskcli.diagnostics.supervision import Reading, later, texts
from maskcli.scene.scene import Scene
from maskcli.scene.tokens import Tokens
from maskcli.tensors.tolerances import EXACT

# Fewer tokens at one position may be one decoded token a row, or a chunk of a few.
STILL = 4
# Shorter texts are what is left of one that was cut, or padding.
SHORTEST = 4
# Borders of queries alone: servers continue texts whose first tokens are in a cache, at any position.
OF_QUERIES = ("query_start_loc", "qo_indptr")


@rule("MSK410", "documents-positions", "error", needs=("position_ids",), explained_by=("MSK406", "MSK408"))
@for_each(sides)
def documents_positions(tokens: Tokens, scene: Scene) -> Found | None:
    """Positions run through packed texts, or stand still.

    The second text of a row then begins at the position where the first ended, which no text alone does;
    models that find packed texts by their positions find one long text. Positions that stand still tell no
    word from the next.

    In code: `torch.arange(total)` for a packed row, `attention_mask` passed as `position_ids`.

    Fix: begin each text at 0: `torch.cat([torch.arange(length) for length in lengths])`.
    """
    positions = tokens.positions
    if positions is None or positions.shape[1] < 2:
        return None
    known = tokens.known_real(scene.declared)
    real = np.ones(positions.shape, bool) if known is None else known
    still = _standing_still(tokens, positions, real, told=known is not None)
    name = tokens.name("position_ids")
    if still.any():
        return found_at(
            (name,),
            still,
            f"{name!r} stands still, at position {{at}}, over {{}}",
            "leave position_ids out, or count: torch.arange(length) for each text",
            at=positions[still],
            tokens=int(still.sum()),
        )

    documents = tokens.declared_documents
    if documents is None or tokens.name("declared_documents").rpartition(".")[2] in OF_QUERIES:
        return None
    runs = _borders(documents, real)
    runs[:, 1:] &= np.diff(positions, axis=1) == 1
    if not runs.any():
        return None
    return found_at(
        (name, tokens.name("declared_documents")),
        runs,
        f"{name!r} runs on where {tokens.name('declared_documents')!r} begins another text, at {{}}",
        "begin each text at 0: torch.cat([torch.arange(length) for length in lengths])",
        texts=int(runs.sum()),
    )


def _standing_still(tokens: Tokens, positions: Array, real: Array, *, told: bool) -> Array:
    """Real tokens [B, L] of rows whose tokens all share one position that every type can hold."""
    low = np.where(real, positions, np.inf).min(axis=1)
    high = np.where(real, positions, -np.inf).max(axis=1)
    rows = (low == high) & (low < EXACT["bfloat16"]) & (real.sum(axis=1) >= STILL)
    if not told and tokens.ids is not None:
        # One id over and over is padding.
        rows &= tokens.ids.min(axis=1) < tokens.ids.max(axis=1)
    elif not told:
        rows &= rows.all()
    flags: Array = real & rows[:, None]
    return flags


def _borders(documents: Array, real: Array) -> Array:
    """First tokens [B, L] of texts that another stands right before."""
    borders = np.zeros(documents.shape, bool)
    borders[:, 1:] = (np.diff(documents, axis=1) != 0) & real[:, 1:] & real[:, :-1]
    return borders


@rule(
    "MSK516",
    "label-across-documents",
    "error",
    needs=(*TEXT, "packing"),
    explained_by=("MSK410", "MSK503", "MSK505"),
)
@for_each(texts)
def label_across_documents(text: Reading, scene: Scene) -> Found | None:
    """The first token of a packed text is asked of the last token of the text before it.

    Nothing in one text tells how the next begins, so the model learns to begin a text by chance behind
    another, instead of to end.

    In code: `labels = input_ids.clone()` for a packed row, where the model moves the labels.

    Fix: `labels[position_ids == 0] = -100` where the model moves them; where the data does, ignore the last
    label of each text.
    """
    documents = text.tokens.documents
    if documents is None or text.tokens.kind == "encoder":
        return None
    real = np.ones(documents.shape, bool) if text.real is None else text.real
    wrong = _borders(documents, real) & _is_asked_for(text) & _behind_a_text(text.tokens)
    if not wrong.any():
        return None
    return found_at(
        text.names("labels", "documents"),
        wrong,
        "{labels} labels ask the last token of a packed text for the first of the next: {}",
        "before labels are moved, ignore that of each text's first token: labels[position_ids == 0] = -100",
        labels=int(wrong.sum()),
    )


def texts_without(reading: Reading) -> Found | None:
    """Packed texts without a label that counts, beside others of their rows that have some.

    The last text of a row may be cut before its answer.
    """
    documents = reading.tokens.documents
    if documents is None or reading.shift is None or reading.tokens.kind == "encoder":
        return None
    real, taught = reading.no_padding, reading.taught
    begins = np.ones(documents.shape, bool)
    begins[:, 1:] = np.diff(documents, axis=1) != 0
    # Texts are numbered over all rows.
    text: Array = np.cumsum(begins).reshape(begins.shape) - 1
    count = int(begins.sum())
    size = np.bincount(text[real], minlength=count)
    counted = np.bincount(text[taught & ~begins], minlength=count)
    last = documents.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
    without = (size >= SHORTEST) & (counted == 0)
    without[text[np.arange(len(text)), last]] = False
    some = np.any(reading.in_place.supervised, axis=1)
    wrong: Array = without[text] & real & some[:, None]
    if not wrong.any():
        return None
    found = found_at(
        reading.names("labels", "documents"),
        wrong,
        "{texts} packed texts have no label that counts, beside others of their rows: {}",
        "compare ids and labels of one such text: its answer was not found, or packing lost its labels",
        texts=int((wrong & begins).sum()),
    )
    return replace(found, severity="warning")


def _is_asked_for(text: Reading) -> Array:
    """Tokens [B, L] that a supervised label is the id of."""
    shift, length = text.shift or 0, text.labels.shape[1]
    same = np.zeros(text.labels.shape, bool)
    same[:, shift:] = text.labels[:, : length - shift] == text.ids[:, shift:]
    return text.taught & same


def _behind_a_text(tokens: Tokens) -> Array:
    """Tokens [B, L] right behind one that goes on from the token before it: padding stays where it is.

    Everywhere where positions are not what tells the texts.
    """
    shape = tokens.documents.shape if tokens.documents is not None else (0, 0)
    if tokens.positions is None or tokens.name("documents") != tokens.names.get("position_ids"):
        return np.ones(shape, bool)
    goes_on = np.zeros(shape, bool)
    goes_on[:, 1:] = np.diff(tokens.positions, axis=1) == 1
    return later(goes_on, 1)
