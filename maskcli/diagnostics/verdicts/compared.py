"""A saved mask beside all else that is known: which cells it shows too much, and which too little."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.verdicts.leaks import leaks
from maskcli.masks.kinds import causal, documents, padding, sliding, window
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Named, build, conjuncts, kinds_in
from maskcli.scene.scene import Expected, Saved
from maskcli.scene.tokens import several

# Kinds of masks that say nothing of how far a query sees.
WHOLE = {"full", "causal", "combined", "padding", "documents"}
# Why a cell should have been hidden.
FUTURE, PADS, OTHERS, BEYOND = "behind the query", "padding", "another document's", "elsewhere"


class Apart(NamedTuple):
    """Cells [b, h, q, K] of real queries that a mask shows though it should not, by reason, and those that it
    hides though it should not.
    """

    too_much: dict[str, Mask]
    too_little: Mask

    @property
    def cells(self) -> Mask:
        """All of them."""
        whole = self.too_little
        for cells in self.too_much.values():
            whole = whole | cells
        return whole


def apart(saved: Saved) -> Apart | None:
    """Where a saved mask contradicts the declaration or the input's padding; None where it does not.

    Wherever its queries may stand, it has to contradict. Weights that were saved with it have the last word:
    where they disobey the mask, it was not applied, and where they see nothing that they should not, what it
    shows too much is hidden by something else.
    """
    keep = saved.given.keep
    as_declared = not _holds_padding(saved) and any(each.mask == keep for each in saved.expected)
    if saved.given.nan or as_declared or not keep.attended:
        return None
    meant = saved.expected or (None,)
    if not all(_against(saved, each, _may_be_real(saved)).cells.attended for each in meant):
        return None
    found = _against(saved, meant[0], _rows(keep.shape, ~_pads(saved)))
    # Of documents that the input tells, and that a mask lets see each other whole, rules on packing speak.
    if _told_documents(saved.layout) and not found.too_little.attended:
        found.too_much.pop(OTHERS, None)
    return _as_weights_tell(saved, found) if found.cells.attended else None


def _against(saved: Saved, expected: Expected | None, real: Mask) -> Apart:
    """The mask against the declared one (None: against the padding alone), in the rows of `real` queries."""
    keep, layout = saved.given.keep, saved.layout if expected is None else expected.layout
    meant = Mask.full(keep.shape) if expected is None else expected.mask
    shown = real & keep
    too_much = dict(_reasons(shown - meant, meant, saved, layout))
    if _holds_padding(saved):
        too_much[PADS] = (shown & meant) - padding(saved.layout)

    none = Mask.from_intervals(keep.shape, 0, 0)
    bound = saved.declared is not None and saved.declared.bound
    if expected is None or bound:
        return Apart(too_much, none)
    # A row without keys is a fault of its own, and what no query sees may be padding where nothing tells.
    filled = _rows(keep.shape, keep.keys_per_query > 0)
    columns = padding(saved.layout) if saved.keys is not None else _seen(shown)
    wanted = real & filled & columns & meant
    right = not any(cells.attended for cells in too_much.values())
    local = right and _for_all_layers(saved) and _is_local(shown & meant, wanted, layout)
    return Apart(too_much, none if local else wanted - keep)


def _for_all_layers(saved: Saved) -> bool:
    """Whether causal or full attention was declared without a word of the layer, and no window."""
    declared = saved.declared
    return declared is not None and not declared.particular and kinds_in(declared.spec) <= WHOLE


def _is_local(shown: Mask, wanted: Mask, layout: Layout) -> bool:
    """Whether a mask hides nothing but what is far from its query: that of a local layer.

    What was declared for all layers leaves open which of them have a window.
    """
    if not (wanted - shown).attended:
        return False
    back = not (wanted - causal(layout)).attended
    low, high = 1, layout.keys
    while low < high:
        middle = (low + high) // 2
        inside = not (shown - _near(layout, middle, back)).attended
        low, high = (low, middle) if inside else (middle + 1, high)
    return low < layout.keys and not ((wanted & _near(layout, low, back)) - shown).attended


def _near(layout: Layout, keys: int, back: bool) -> Mask:
    """So many keys up to the query's own, or as many behind it as well."""
    return sliding(layout, keys) if back else window(layout, keys - 1)


def _reasons(cells: Mask, meant: Mask, saved: Saved, layout: Layout) -> Iterator[tuple[str, Mask]]:
    """Cells outside of the declared mask, by what is wrong with them."""
    back = causal(layout)
    if saved.roled.kind != "cross" and not (meant - back).attended:
        yield FUTURE, cells - back
        cells = cells & back
    across = _other_document(saved, layout)
    if across is not None and not (meant & across).attended:
        yield OTHERS, cells & across
        cells = cells - across
    yield BEYOND, cells


def _other_document(saved: Saved, layout: Layout) -> Mask | None:
    """Keys of other documents than the query's, as declared by lengths or as the input tells; else None."""
    parts = conjuncts(saved.declared.spec) if saved.declared else ()
    said = [part for part in parts if isinstance(part, Named) and part.name == "documents" and part.numbers]
    told = _told_documents(layout)
    if not layout.inside or not (said or told):
        return None
    return ~(documents(layout) if told else build(said[0], layout))


def _told_documents(layout: Layout) -> bool:
    """Whether the input tells several documents."""
    texts = layout.documents
    return texts is not None and len(texts) in (1, layout.batch) and several(texts)


def _holds_padding(saved: Saved) -> bool:
    """Whether the mask itself has to hide the padding that the input shows.

    A mask over queries and keys alone, or one beside a padding mask, can be one of two. One row for all
    queries says nothing of what a causal mask hides as well.
    """
    if saved.keys is None or saved.keys.real.all() or len(saved.given.tensor.shape) < 3:
        return False
    named = "pad id" in saved.keys.source
    if len(saved.given.tensor.shape) == 3 and not named:
        return False
    if saved.given.shape[2] > 1 or saved.roled.kind in ("cross", "encoder"):
        return True
    real = saved.keys.real
    behind = bool((real[:, :-1] >= real[:, 1:]).all())
    return not behind


def _as_weights_tell(saved: Saved, found: Apart) -> Apart | None:
    """What is left of a contradiction beside the weights of the maps that the mask belongs to."""
    if not saved.users:
        return found
    if any(leaks(user, "keep").any() for user in saved.users):
        return None
    too_much = {
        why: cells
        for why, cells in found.too_much.items()
        if any(leaks(user, "padding" if why is PADS else "expected").any() for user in saved.users)
    }
    left = Apart(too_much, found.too_little)
    return left if left.cells.attended else None


def _pads(saved: Saved) -> Array:
    """Which rows of the mask as stored are padding, bool [b, 1, q], for all that each row is for."""
    pads, stored = saved.pad_rows, saved.given.keep.stored
    shared = tuple(axis for axis in (0, 2) if stored[axis] == 1)
    both: Array = np.all(pads, axis=shared, keepdims=True)
    return both


def _may_be_real(saved: Saved) -> Mask:
    """Every cell in the row of a query that can be no padding.

    Where nothing tells the padding, a row that sees all may have been a padding query's, which some libraries
    open so that it is not empty: no other row sees its key.
    """
    keep = saved.given.keep
    pads = np.broadcast_to(_pads(saved), (keep.stored[0], 1, keep.stored[2]))
    if saved.keys is None and saved.roled.kind != "cross":
        pads = pads | _opened(keep, saved.placement.own)
    return _rows(keep.shape, ~pads)


def _opened(keep: Mask, own: Array) -> Array:
    """Rows [b, 1, q] that see every key, and whose own key no other row sees; none when all are like that."""
    opened: Array = np.all(keep.keys_per_query == keep.shape[3], axis=1, keepdims=True)
    if opened.all() or not opened.any() or keep.stored[2] == 1:
        return np.zeros_like(opened)
    rest = np.any((keep & _rows(keep.shape, ~opened)).seen, axis=1)
    items = np.broadcast_to(own, (len(rest), own.shape[1]))
    seen = np.take_along_axis(rest, np.maximum(items, 0), axis=1) & (items >= 0)
    alone: Array = opened & ~seen[:, None]
    return alone


def _rows(shape: tuple[int, int, int, int], rows: Array) -> Mask:
    """Every cell of some rows [b, h, q]."""
    return Mask.from_intervals(shape, np.zeros(1, np.int64), np.where(rows, shape[3], 0))


def _seen(cells: Mask) -> Mask:
    """The columns that some row sees."""
    columns = Mask.from_dense(np.any(cells.seen, axis=1)[:, None, None, :]).broadcast_to(cells.shape)
    assert columns is not None
    return columns
