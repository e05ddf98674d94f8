"""Rules on where tokens stand, in their text and among packed texts: MSK404, MSK405, MSK406 and MSK408."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided, Where, items_of
from maskcli.diagnostics.needs import PADDED
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.common import told, told_items
from maskcli.masks.kinds import Layout, documents
from maskcli.masks.mask import runs_of
from maskcli.masks.spec import kinds_in
from maskcli.measure.passes import measure
from maskcli.scene.scene import Attention, Saved, Scene
from maskcli.scene.tokens import Tokens, real_tokens, restarts
from maskcli.tensors.axes import token_rows
from maskcli.tensors.roles import Roled
from maskcli.tensors.tolerances import EXACT, SIGNIFICANT_BITS

# Weights past a document's border that are more than rounding: those of isolated documents are exactly 0.
CROSSES = 1e-3
# Fewer positions past the exact ones, or fewer that rounding changed, can be a coincidence.
FEWEST, FEWEST_CHANGED = 4, 2


@rule(
    "MSK404",
    "left-padding-positions",
    "error",
    needs=(*PADDED, "position_ids"),
    explained_by=("MSK102", "MSK407"),
)
def left_padding_positions(scene: Scene) -> Iterator[Found | Undecided]:
    """Position ids count the padding on the left, so a text's first token does not stand at the first position.

    With learned or sinusoidal positions the model sees other embeddings than in training, and a text gets another result in
    a padded batch than alone. Rotary and relative positions only know distances, and do not mind.

    In code: `position_ids = torch.arange(length)` for a batch that is padded on the left.

    Fix: `position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)`.
    """
    for tokens in scene.tokens:
        real = (
            tokens.real
            if tokens.real is not None or tokens.ids is None
            else real_tokens(tokens.ids, scene.declared)
        )
        if real is None or tokens.positions is None:
            continue
        counted = _counts_padding(tokens.positions, real)
        if counted is None:
            yield Undecided(
                "position_ids of a sample without padding: behind one padding token they can begin at 0 or at 1"
            )
        elif counted.any():
            first = real.argmax(axis=1)
            item = int(counted.argmax())
            at, stands = int(first[item]), int(tokens.positions[item, first[item]])
            pads = np.arange(real.shape[1]) < first[:, None]
            where = Where(items_of(counted), None, None, runs_of(np.any(pads & counted[:, None], axis=0)))
            absolute = scene.declared.model is not None and scene.declared.model.absolute is True
            name = tokens.name("position_ids")
            yield Found(
                (name, tokens.name("padding_mask" if tokens.real is not None else "input_ids")),
                f"{name!r} counts the padding on the left of {told_items(where.batch)}: the first real token of sample {item}, behind "
                f"{at} of padding, stands at position {stands} instead of {int(tokens.positions[item, 0])}"
                + (
                    ""
                    if absolute
                    else "; harmless for rotary and relative positions, wrong for absolute ones"
                ),
                "position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)",
                where,
                {"padding": at, "position": stands},
                None if absolute else "note",
            )


def _counts_padding(positions: Array, real: Array) -> Array | None:
    """The rows [B] whose positions run on from the first padding token to the first real one; None when that is open.

    Rows without left padding show where texts begin. Where there are none, two padding tokens that are numbered one after
    the other show that padding is counted; one alone can be a 0 in front of a text that begins at 1.
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


@rule("MSK405", "packed-without-block-mask", "error", needs=("position_ids", ("mask", "padding_mask")))
def packed_without_block_mask(scene: Scene) -> Iterator[Found]:
    """Texts are packed into one row, and the mask lets them see each other.

    Positions that begin again say that a row holds several texts. A mask over keys alone cannot keep them apart, and Hugging
    Face models look for packed texts only when no attention_mask is given: one of all ones turns that off. Some recipes pack
    like this on purpose; then nothing is wrong.

    In code: `model(input_ids, position_ids=position_ids, attention_mask=torch.ones_like(input_ids))`.

    Fix: leave attention_mask out, or pass a block-diagonal mask; `--expect "causal & documents"` makes this an error.
    """
    expected = any("documents" in kinds_in(each.spec) for each in scene.declared.expect)
    for tokens in scene.tokens:
        packed = None if tokens.positions is None or tokens.kind == "encoder" else _packed(tokens)
        if packed is None or _isolated(scene, packed):
            continue
        masks = [saved for saved in scene.masks if saved.roled.kind != "cross" and _covers(saved, packed)]
        leaks = [
            (saved.given.tensor.name, rows) for saved in masks if (rows := _crossing(saved, packed)).any()
        ]
        if not masks and tokens.real is not None and not _numbers_texts(scene, tokens):
            leaks = [(tokens.name("padding_mask"), tokens.real & (packed > 0))]
        for name, rows in leaks:
            items = np.any(rows, axis=1)
            if not items.any():
                continue
            item = int(items.argmax())
            where = Where(items_of(items), None, runs_of(np.any(rows, axis=0)), None)
            yield Found(
                (name, tokens.name("position_ids")),
                f"{tokens.name('position_ids')!r} begins again in {told_items(where.batch)} ({int(packed[item].max()) + 1} texts in sample "
                f"{item}), and {name!r} lets {told(where.queries, 'query', 'queries')} see the texts before",
                "leave attention_mask out so that the model finds the texts by their positions, or pass a block-diagonal mask",
                where,
                {"texts": int(packed[item].max()) + 1, "queries": int(rows.sum())},
                None if expected else "note",
            )


def _packed(tokens: Tokens) -> Array | None:
    """Which text each token belongs to, int [B, L], when positions show two texts of two or more tokens in some row."""
    assert tokens.positions is not None
    texts = restarts(tokens.positions, tokens.real)
    rises = (np.diff(tokens.positions, axis=1) == 1) & (np.diff(texts, axis=1) == 0)
    several = [len(np.unique(row[1:][up])) > 1 for row, up in zip(texts, rises, strict=True)]
    return texts if any(several) else None


def _covers(saved: Saved, packed: Array) -> bool:
    """Whether a mask is one over all the packed tokens, queries and keys."""
    batch, _, queries, keys = saved.given.shape
    return (
        queries in (1, keys) and keys == packed.shape[1] and batch in (1, len(packed)) and not saved.given.nan
    )


def _crossing(saved: Saved, packed: Array) -> Array:
    """The rows [B, L] of real tokens that see another text by this mask."""
    batch, length = packed.shape
    layout = Layout(batch, length, length, saved.given.shape[1], documents=packed)
    keep = saved.given.keep.broadcast_to(layout.shape)
    assert keep is not None
    crossing = np.any((keep - documents(layout)).keys_per_query > 0, axis=1)
    rows: Array = np.broadcast_to(crossing, packed.shape) & ~np.broadcast_to(
        saved.pad_rows[:, 0], packed.shape
    )
    return rows


def _isolated(scene: Scene, packed: Array) -> bool:
    """Whether weights are there, and none of them crosses from one text to another."""
    maps = [
        a
        for a in scene.attentions
        if a.roled.kind != "cross" and a.shape[::3] == packed.shape and a.shape[2] == a.shape[3]
    ]
    return bool(maps) and not any(_mixes(attention, packed) for attention in maps)


def _mixes(attention: Attention, packed: Array) -> bool:
    batch, heads, queries, keys = attention.shape
    apart = documents(Layout(batch, queries, keys, heads, documents=packed))
    mass = measure(attention.tensor, attention.shape, {"apart": apart}).mass["apart"]
    return bool((mass > CROSSES)[np.broadcast_to(attention.real_rows, mass.shape)].any())


def _numbers_texts(scene: Scene, tokens: Tokens) -> bool:
    """Whether the padding mask is no 0 and 1 but numbers the texts, as some libraries keep them apart."""
    name = tokens.name("padding_mask")
    tensor = next(roled.tensor for roled in scene.tensors if roled.tensor.name == name)
    return bool((tensor.read() > 1).any())


@rule("MSK406", "bad-cu-seqlens", "error", needs=("cu_seqlens",))
def bad_cu_seqlens(scene: Scene) -> Iterator[Found]:
    """The cumulative lengths of packed texts do not start at 0, fall, or do not end at the number of tokens.

    Variable-length attention reads them as borders: a missing 0 drops the first text, a wrong end leaves tokens out or reads
    memory behind the last one, without any error. Equal neighbours are empty texts, and fine.

    In code: `cu_seqlens = lengths.cumsum(0)` without the 0 in front; lengths that count padding which was taken out.

    Fix: `torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)`, over the tokens that are really passed.
    """
    for roled in scene.tensors:
        rows = token_rows(roled.tensor) if roled.role == "cu_seqlens" else None
        if rows is None or rows.shape[1] < 1:
            continue
        totals = _token_counts(scene, roled) if len(rows) == 1 else set()
        for row in rows:
            falls = np.flatnonzero(np.diff(row) < 0)
            last = int(row[-1])
            if row[0] != 0:
                wrong = f"starts at {int(row[0])}, not at 0"
            elif falls.size:
                at = int(falls[0])
                wrong = f"falls from {int(row[at])} to {int(row[at + 1])} at index {at + 1}"
            elif totals and last not in totals:
                wrong = f"ends at {last}, but there are {' or '.join(f'{total}' for total in sorted(totals))} tokens"
            else:
                continue
            yield Found(
                (roled.tensor.name,),
                f"{roled.tensor.name!r} {wrong}: it holds the borders of the packed texts",
                "torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32), over the tokens that are passed",
                Where(),
                {"first": int(row[0]), "last": last},
            )
            break


def _token_counts(scene: Scene, roled: Roled) -> set[int]:
    """How many tokens the queries' borders can speak of: all of the batch, or those that are not padding; empty when unknown.

    Keys can be more than the tokens (a cache) or come from elsewhere, so their borders are not held to them.
    """
    if "_k" in roled.tensor.name.rpartition(".")[2]:
        return set()
    for tokens in scene.tokens:
        name = next(iter(tokens.names.values()))
        alike = next(each for each in scene.tensors if each.tensor.name == name)
        if tokens.kind in (roled.kind, "self") and alike.group == roled.group:
            shape = next(
                rows
                for rows in (tokens.ids, tokens.labels, tokens.real, tokens.positions, tokens.token_types)
                if rows is not None
            )
            real = (
                tokens.real
                if tokens.real is not None or tokens.ids is None
                else real_tokens(tokens.ids, scene.declared)
            )
            return {shape.size} if real is None else {shape.size, int(real.sum())}
    return {
        a.shape[0] * a.shape[2]
        for a in scene.attentions
        if (a.roled.kind, a.roled.group) == (roled.kind, roled.group)
    }


@rule("MSK408", "imprecise-positions", "error", needs=("position_ids",))
def imprecise_positions(scene: Scene) -> Iterator[Found]:
    """Positions went through bfloat16 or float16, which cannot hold every whole number past 256 or 2048.

    From there on neighbours share a position, and later ones jump by 2, 4, 8: the order of the tokens is lost. Nothing shows
    on short texts.

    In code: `torch.arange(length, dtype=torch.bfloat16)`, or `model.to(torch.bfloat16)` on a buffer of positions.

    Fix: count in int64, and compute the angles of rotary positions in float32.
    """
    for tokens in scene.tokens:
        if tokens.positions is None:
            continue
        name = tokens.name("position_ids")
        dtype = next(roled.tensor.dtype for roled in scene.tensors if roled.tensor.name == name)
        lossy = _lossy(tokens.positions, dtype)
        if lossy is None:
            continue
        kind, flags = lossy
        items = np.any(flags, axis=1)
        item = int(items.argmax())
        at = int(flags[item].argmax())
        shown = ", ".join(f"{value:.0f}" for value in tokens.positions[item, at : at + 6])
        where = Where(items_of(items), None, None, runs_of(np.any(flags, axis=0)))
        yield Found(
            (name,),
            f"{name!r} {'is' if kind == dtype else 'was'} {kind}, which is exact up to {EXACT[kind]}: from key {at} of sample {item} on "
            f"the positions are {shown}",
            "count positions in int64 (torch.arange(length)), and convert to float32 where angles are computed",
            where,
            {"highest": int(np.nanmax(tokens.positions)), "exact_up_to": EXACT[kind]},
        )


def _lossy(positions: Array, dtype: str) -> tuple[str, Array] | None:
    """Which type rounded the positions and where [B, L]; None when none did, or when they are no whole numbers."""
    if not np.isfinite(positions).all() or (positions != np.floor(positions)).any() or (positions < 0).any():
        return None
    if dtype in EXACT:
        past = np.any(positions > EXACT[dtype], axis=1)
        return (dtype, (positions >= EXACT[dtype]) & past[:, None]) if past.any() else None
    for kind in SIGNIFICANT_BITS:
        rounded = np.stack(
            [
                _rounded_texts(row, text, kind)
                for row, text in zip(positions, restarts(positions, None), strict=True)
            ]
        )
        if rounded.any():
            return kind, rounded
    return None


def _rounded_texts(row: Array, texts: Array, kind: str) -> Array:
    """Which positions [L] past the exact ones belong to a text that is, to the last value, a rounded run of whole numbers."""
    flags = np.zeros(row.shape, bool)
    if row.max(initial=0) <= EXACT[kind]:
        return flags
    borders = np.flatnonzero(np.diff(texts)) + 1
    for start, stop in zip([0, *borders], [*borders, len(row)], strict=True):
        values = row[start:stop].astype(np.float64)
        past = values >= EXACT[kind]
        if past.sum() >= FEWEST and _is_rounded_run(values, SIGNIFICANT_BITS[kind]):
            flags[start:stop] = past
    return flags


def _is_rounded_run(values: Array, bits: int) -> bool:
    """Whether values are s, s + 1, s + 2, … rounded to `bits` significant bits, with some repeated and some changed.

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
    """Whole numbers as a float of so many significant bits holds them: the nearest, and of two the even one."""
    spacing = 2.0 ** np.maximum(np.floor(np.log2(np.maximum(values, 1))) - bits + 1, 0)
    nearest: Array = np.rint(values / spacing) * spacing
    return nearest
