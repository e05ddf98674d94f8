"""Rules on where tokens stand in their text: MSK404 and MSK408."""

from __future__ import annotations

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.needs import PADDED
from maskcli.diagnostics.rule import for_each, rule, sides
from maskcli.diagnostics.rules.hits import at_keys, key_places
from maskcli.diagnostics.words import told_items
from maskcli.scene.scene import Scene, named
from maskcli.scene.tokens import Tokens, restarts
from maskcli.tensors.tolerances import EXACT, SIGNIFICANT_BITS

# Fewer positions past the exact ones, or fewer that rounding changed, can be a coincidence.
FEWEST, FEWEST_CHANGED = 4, 2
# Types whose numbers begin again within the length of texts, and their bits.
WRAPS = {"uint8": 8, "int8": 8, "int16": 16, "uint16": 16}


@rule(
    "MSK404",
    "left-padding-positions",
    "error",
    needs=(*PADDED, "position_ids"),
    explained_by=("MSK102", "MSK402", "MSK407"),
)
@for_each(sides)
def left_padding_positions(tokens: Tokens, scene: Scene) -> Found | Undecided | None:
    """Position ids count the padding on the left, so a text's first token is not at the first position.

    With learned or sinusoidal positions the model sees other embeddings than in training, and a text gets
    another result in a padded batch than alone. Rotary and relative positions only know distances, and do not
    mind.

    In code: `position_ids = torch.arange(length)` for a batch that is padded on the left.

    Fix: `position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)`.
    """
    real, positions = tokens.known_real(scene.declared), tokens.positions
    if real is None or positions is None:
        return None
    counted = _counts_padding(positions, real)
    if counted is None:
        return Undecided(
            "position_ids of a sample without padding: behind one padding token they can begin at 0 or at 1"
        )
    if not counted.any():
        return None

    first, item = real.argmax(axis=1), int(counted.argmax())
    pads, stands = int(first[item]), int(positions[item, first[item]])
    padding = counted[:, None] & (np.arange(real.shape[1]) < first[:, None])
    where = at_keys(padding)
    severity, harmless = "note", "; harmless for rotary and relative positions, wrong for absolute ones"
    if scene.declared.model is not None and scene.declared.model.absolute is True:
        severity, harmless = "error", ""
    name = tokens.name("position_ids")
    return Found(
        (name, tokens.padding_name),
        f"{name!r} counts the padding on the left of {told_items(where.batch)}: the first real token of "
        f"sample {item}, behind {pads} of padding, stands at position {stands} instead of "
        f"{int(positions[item, 0])}{harmless}",
        "position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)",
        where,
        {"padding": pads, "position": stands},
        severity,
        key_places(padding),
    )


def _counts_padding(positions: Array, real: Array) -> Array | None:
    """The rows [B] whose positions run on from the first padding token to the first real one; None when that
    is open.

    Rows without left padding show where texts begin. Where there are none, two padding tokens that are
    numbered one after the other show that padding is counted; one alone can be a 0 in front of a text that
    begins at 1.
    """
    first = np.where(real.any(axis=1), real.argmax(axis=1), 0)
    length = np.arange(positions.shape[1])
    running = (positions == positions[:, :1] + length) | (length > first[:, None])
    straight: Array = (first > 0) & np.all(running, axis=1) & (positions[:, 0] >= 0)
    begins = np.unique(positions[real[:, 0], 0])
    if len(begins) == 1:
        straight &= positions[:, 0] == begins[0]
        return straight
    certain = (straight & (first > 1)).any()
    return straight if certain or not straight.any() else None


@rule("MSK408", "imprecise-positions", "error", needs=("position_ids",))
@for_each(sides)
def imprecise_positions(tokens: Tokens, scene: Scene) -> Found | Undecided | None:
    """Positions went through bfloat16 or float16, which cannot hold every whole number past 256 or 2048.

    The order of the tokens is lost, and nothing shows on short texts: from there on neighbours share a
    position, and later ones jump by 2, 4, 8; a sum of ones stops growing altogether, and small integers begin
    again.

    In code: `torch.arange(length, dtype=torch.bfloat16)`, `mask.cumsum(-1)` of a mask in bfloat16, or
    `model.to(torch.bfloat16)` on a buffer of positions.

    Fix: count in int64, and compute the angles of rotary positions in float32.
    """
    if tokens.positions is None:
        return None
    name = tokens.name("position_ids")
    dtype = named(scene, name).tensor.dtype
    if dtype in WRAPS:
        return _wrapped(tokens.positions, name, dtype)
    lossy = _lossy(tokens, dtype, scene)
    if lossy is None:
        return None

    kind, flags = lossy
    item = int(flags.any(axis=1).argmax())
    shown = tokens.positions[item, flags[item]][:6]
    if _may_be_padding(tokens, flags, scene) and kind != dtype:
        return Undecided(f"attention_mask (positions stay at {shown[0]:.0f}, over padding or in {kind})")

    verb = "is" if kind == dtype else "was"
    stuck = ""
    if (shown == shown[0]).all():
        stuck = f": they stop growing, as a sum of ones in {kind} does"
        stuck += "" if kind == dtype else " (or were clamped there)"
    return Found(
        (name,),
        f"{name!r} {verb} {kind}, which is exact up to {EXACT[kind]}: from key {int(flags[item].argmax())} "
        f"of sample {item} on the positions are {', '.join(f'{value:.0f}' for value in shown)}{stuck}",
        "count positions in int64 (torch.arange(length), mask.long().cumsum(-1) - 1), and convert to float32 "
        "where angles are computed",
        at_keys(flags),
        {"highest": int(np.nanmax(tokens.positions)), "exact_up_to": EXACT[kind]},
        places=key_places(flags),
    )


def _wrapped(positions: Array, name: str, dtype: str) -> Found | None:
    """Positions that fall from the highest number of a small type to its lowest."""
    falls = np.zeros(positions.shape, bool)
    falls[:, 1:] = np.diff(positions, axis=1) == 1 - 2 ** WRAPS[dtype]
    behind = np.logical_or.accumulate(falls, axis=1)
    if not falls.any():
        return None
    item, at = (int(index) for index in np.argwhere(falls)[0])
    highest = int(positions[item, at - 1])
    return Found(
        (name,),
        f"{name!r} is {dtype}, which ends at {highest}: from key {at} of sample {item} on the positions "
        f"begin again at {int(positions[item, at])}",
        "count positions in int64 (torch.arange(length))",
        at_keys(behind),
        {"highest": highest, "exact_up_to": highest},
        places=key_places(behind),
    )


def _may_be_padding(tokens: Tokens, flags: Array, scene: Scene) -> bool:
    """Whether flagged positions [B, L] that do not grow can be those of padding behind a text."""
    assert tokens.positions is not None
    if tokens.known_real(scene.declared) is not None:
        return False
    alike = (tokens.positions, tokens.ids)
    one_each = all(rows is None or _one_value_each(rows, flags) for rows in alike)
    # Texts of a batch that all end at one place are no coincidence.
    return one_each and (len(flags) == 1 or bool((flags != flags[0]).any()))


def _one_value_each(rows: Array, flags: Array) -> bool:
    """Whether the flagged part of each row holds one value."""
    return all(len(np.unique(row[part])) < 2 for row, part in zip(rows, flags, strict=True))


def _lossy(tokens: Tokens, dtype: str, scene: Scene) -> tuple[str, Array] | None:
    """Which type rounded the positions and where [B, L]; None when none did, or they are no whole numbers."""
    positions = tokens.positions
    assert positions is not None
    whole = np.isfinite(positions).all() and (positions == np.floor(positions)).all()
    if not whole or (positions < 0).any():
        return None
    if dtype in EXACT and (positions > EXACT[dtype]).any():
        past = np.any(positions > EXACT[dtype], axis=1)
        return dtype, (positions >= EXACT[dtype]) & past[:, None]

    known = tokens.known_real(scene.declared)
    real = np.ones(positions.shape, bool) if known is None else known
    texts = restarts(positions, known)
    inside = (np.diff(texts, axis=1) == 0) & real[:, 1:] & real[:, :-1]
    # A text whose numbers rise by one was not rounded.
    odd = np.flatnonzero(np.any(inside & (np.diff(positions, axis=1) != 1), axis=1))
    for kind in (dtype,) if dtype in EXACT else SIGNIFICANT_BITS:
        rounded = np.zeros(positions.shape, bool)
        for row in odd:
            rounded[row] = _rounded_texts(positions[row], texts[row], real[row], kind)
        if rounded.any():
            return kind, rounded
    return None


def _rounded_texts(row: Array, texts: Array, real: Array, kind: str) -> Array:
    """Positions [L] of real tokens past the exact ones, of texts whose numbers a type rounded or added up."""
    flags = np.zeros(row.shape, bool)
    bits = SIGNIFICANT_BITS[kind]
    if row.max(initial=0) < EXACT[kind] - 1:
        return flags
    for text in np.unique(texts):
        at = np.flatnonzero((texts == text) & real)
        values = row[at].astype(np.float64)
        past = values >= EXACT[kind]
        if past.sum() < FEWEST or not _is_rounded_run(values, bits):
            past = _lost_count(values, bits)
        flags[at] = past
    return flags


def _lost_count(values: Array, bits: int) -> Array:
    """Which values [n] follow a run of about 2^bits that counts by one, and are numbers of so many bits only.

    So a sum of ones comes out in a type of so many bits: it stops growing, or is rounded as a whole. What was
    added to it or taken from it in another type may move all by one or two.
    """
    lost = np.zeros(len(values), bool)
    irregular = np.flatnonzero(np.diff(values) != 1)
    counted = int(irregular[0]) + 1 if irregular.size else len(values)
    rest = values[counted:]
    if abs(counted - 2**bits) > 2 or len(rest) < FEWEST or rest.min() < 2**bits - 3:
        return lost
    lost[counted:] = any((_rounded(rest + moved, bits) == rest + moved).all() for moved in range(-2, 3))
    return lost


def _is_rounded_run(values: Array, bits: int) -> bool:
    """Whether values are s, s + 1, s + 2, … rounded to `bits` significant bits, with some repeated and some
    changed.

    The first change gives s: there the whole numbers pass the middle between two values that exist.
    """
    changes = np.flatnonzero(np.diff(values))
    if not changes.size or changes.size == len(values) - 1:
        return False
    at = int(changes[0])
    middle = np.floor((values[at] + values[at + 1]) / 2)
    for last in (middle, middle - 1):
        true = last - at + np.arange(len(values))
        if true[0] >= 0 and (_rounded(true, bits) == values).all():
            return bool((true != values).sum() >= FEWEST_CHANGED)
    return False


def _rounded(values: Array, bits: int) -> Array:
    """Whole numbers as a float of so many significant bits holds them: the nearest, of two the even one."""
    spacing = 2.0 ** np.maximum(np.floor(np.log2(np.maximum(values, 1))) - bits + 1, 0)
    nearest: Array = np.rint(values / spacing) * spacing
    return nearest
