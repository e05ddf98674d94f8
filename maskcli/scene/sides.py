"""The tokens of each side of a batch: what a file says of them, as far as it has one shape."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np

from maskcli.arrays import Array
from maskcli.scene.documents import Documents
from maskcli.scene.saved_mask import read_padding
from maskcli.scene.tokens import Tokens, several
from maskcli.scene.witnesses import Witnesses, are_slots
from maskcli.tensors import Roled
from maskcli.tensors.axes import token_rows

# What is said of every token, in the order in which one gives its shape to the others.
TOKEN_ROLES = ("input_ids", "labels", "padding_mask", "position_ids", "token_type_ids", "loss_mask")
# What the loss needs of each token: of another length than the ids, it belongs to nothing.
OF_LOSS = ("labels", "loss_mask")
# No number of a token is as large, nor does it fit int64.
FAR = 2.0**63
# The argument of Hugging Face's losses for labels that the data has moved.
MOVED = "shift_labels"


def token_sets(witnesses: Witnesses) -> Iterable[Tokens]:
    """The ids, padding mask, labels and positions of each side, as far as they have one shape [B, L]."""
    sides = ("encoder", "decoder") if witnesses.encoder_decoder else ("self", "encoder", "decoder")
    for side in sides:
        saved = {role: found for role in TOKEN_ROLES if (found := _of_side(witnesses, role, side))}
        read = {role: _rows(witnesses, role, roled) for role, roled in saved.items()}
        rows = {role: values for role, values in read.items() if values is not None}
        if rows:
            names = {role: roled[0].tensor.name for role, roled in saved.items()}
            yield from _tokens(witnesses, side, rows, names)


def _tokens(
    witnesses: Witnesses, side: str, rows: dict[str, Array], names: dict[str, str]
) -> Iterable[Tokens]:
    """The tokens of one side; labels of another text than the ids stand alone, as in a seq2seq model."""
    batch, length = next(rows[role] for role in TOKEN_ROLES if role in rows).shape
    fit = {role: values for role, values in rows.items() if values.shape == (batch, length)}
    positions = rows.get("position_ids")
    if positions is not None and positions.shape == (1, length):
        fit["position_ids"] = np.broadcast_to(positions, (batch, length))

    named = {role: names[role] for role in fit}
    told = None if side == "encoder" else witnesses.documents(batch, length)
    apart = None if side == "encoder" else witnesses.documents(batch, length, positions=False)
    documents, declared = (_over_batch(each, (batch, length)) for each in (told, apart))
    named |= {"documents": told.source} if told and documents is not None else {}
    named |= {"declared_documents": apart.source} if apart and declared is not None else {}
    moved, prompts = _moved(witnesses, side, fit), _prompt_lengths(witnesses, batch)
    yield Tokens(
        side,
        named | {role: roled.tensor.name for role, roled, _ in (moved, prompts) if roled is not None},
        ids=fit.get("input_ids"),
        real=fit.get("padding_mask"),
        labels=fit.get("labels"),
        positions=fit.get("position_ids"),
        token_types=fit.get("token_type_ids"),
        counted=fit.get("loss_mask"),
        documents=documents,
        declared_documents=declared,
        moved_labels=moved[2],
        prompt_lengths=prompts[2],
        unlike={names[role]: rows[role] for role in OF_LOSS if role in rows and role not in fit},
    )
    if "labels" in rows and "labels" not in fit:
        beside = rows.get("loss_mask")
        alike = beside is not None and beside.shape == rows["labels"].shape
        roles = OF_LOSS if alike else ("labels",)
        yield Tokens(
            side,
            {role: names[role] for role in roles},
            labels=rows["labels"],
            counted=beside if alike else None,
        )


def _over_batch(told: Documents | None, shape: tuple[int, int]) -> Array | None:
    """Documents [B, L] where some row holds several."""
    return np.broadcast_to(told.rows, shape) if told is not None and several(told.rows) else None


def _of_side(witnesses: Witnesses, role: str, side: str) -> list[Roled]:
    """The tensors of a role on one side, the best first; several only of loss masks, which all count.

    What names no side is the encoder's, but labels the decoder's.
    """
    plain = "decoder" if role in OF_LOSS else "encoder"
    both = witnesses.encoder_decoder and side == plain
    found = witnesses.find_all(role, (side, "self") if both else (side,))
    found = [roled for roled in found if not are_slots(roled)]
    if role == "labels":
        found.sort(key=lambda roled: roled.tensor.name.endswith(MOVED))
    return found if role == "loss_mask" else found[:1]


def _rows(witnesses: Witnesses, role: str, roled: list[Roled]) -> Array | None:
    if role == "padding_mask":
        return read_padding(roled[0], witnesses.declared.convention)
    if role == "labels":
        return _whole(token_rows(roled[0].tensor))
    if role != "loss_mask":
        return token_rows(roled[0].tensor)
    rows = [values for each in roled if (values := token_rows(each.tensor)) is not None]
    alike = [values != 0 for values in rows if values.shape == rows[0].shape]
    return reduce(np.logical_and, alike) if alike else None


def _whole(rows: Array | None) -> Array | None:
    """Labels as integers; None for floats that are no whole numbers."""
    if rows is None or rows.dtype.kind in "iu":
        return rows
    whole = (np.abs(rows) < FAR).all() and (rows == np.floor(rows)).all()
    return rows.astype(np.int64) if whole else None


def _moved(witnesses: Witnesses, side: str, fit: dict[str, Array]) -> tuple[str, Roled | None, Array | None]:
    """Labels that the data moved, beside those that it did not."""
    labels = witnesses.find_all("labels", (side, "self"))
    moved = [roled for roled in labels if roled.tensor.name.endswith(MOVED)]
    rows = _whole(token_rows(moved[0].tensor)) if moved and len(labels) > len(moved) else None
    alike = rows is not None and "labels" in fit and rows.shape == fit["labels"].shape
    return MOVED, moved[0] if alike else None, rows if alike else None


def _prompt_lengths(witnesses: Witnesses, batch: int) -> tuple[str, Roled | None, Array | None]:
    """How many tokens the prompt of each row has, int [B]."""
    found = witnesses.find_all("prompt_lengths", ("self", "decoder"))
    rows = token_rows(found[0].tensor) if found else None
    alike = rows is not None and rows.size == batch
    return "prompt_lengths", found[0] if alike else None, rows.ravel() if rows is not None and alike else None
