"""Rules on texts packed into one row: MSK405 and MSK406."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import for_each, rule
from maskcli.diagnostics.rules.hits import at_queries, query_places
from maskcli.diagnostics.words import told, told_items
from maskcli.masks.kinds import documents
from maskcli.masks.layout import Layout
from maskcli.masks.spec import kinds_in
from maskcli.measure.passes import measure
from maskcli.scene.scene import Attention, Saved, Scene, named
from maskcli.scene.tokens import Tokens
from maskcli.tensors.axes import token_rows
from maskcli.tensors.roles import Roled

# Weights past a document's border that are more than rounding: those of isolated documents are exactly 0.
CROSSES = 1e-3


@rule(
    "MSK405",
    "packed-without-block-mask",
    "error",
    needs=("packing", ("mask", "padding_mask")),
    explained_by=("MSK114",),
)
def packed_without_block_mask(scene: Scene) -> Iterator[Found]:
    """Texts are packed into one row, and the mask lets them see each other.

    Each text is then read as a part of the next one's context. Positions that begin again, segment ids,
    lengths or an attention_mask that numbers texts say that a row holds several. A mask over keys alone
    cannot keep them apart, and Hugging Face models look for packed texts only when no attention_mask is
    given: one of all ones turns that off. Some recipes pack like this on purpose; then nothing is wrong.

    In code: `model(input_ids, position_ids=position_ids, attention_mask=torch.ones_like(input_ids))`.

    Fix: leave attention_mask out, or pass a block-diagonal mask; `--expect "causal & documents"` makes this
    an error.
    """
    meant_apart = any("documents" in kinds_in(meant.spec) for meant in scene.declared.expect)
    for tokens in scene.tokens:
        packed = _packed(tokens)
        if packed is None or _isolated(scene, packed):
            continue
        for mask, rows in _crossing_rows(scene, tokens, packed):
            if not rows.any():
                continue
            name, where = tokens.name("documents"), at_queries(rows)
            item = int(rows.any(axis=1).argmax())
            count = int(packed[item].max()) + 1
            several = "begins again" if _by_positions(tokens) else "tells of several texts"
            yield Found(
                (mask, name),
                f"{name!r} {several} in {told_items(where.batch)} ({count} texts in sample {item}), and "
                f"{mask!r} lets {told(where.queries, 'queries')} see the texts before",
                "leave attention_mask out so that the model finds the texts by their positions, or pass a "
                "block-diagonal mask",
                where,
                {"texts": count, "queries": int(rows.sum())},
                None if meant_apart else "note",
                query_places(rows),
            )


def _by_positions(tokens: Tokens) -> bool:
    """Whether position ids are what tells the texts."""
    return tokens.name("documents") == tokens.names.get("position_ids")


def _packed(tokens: Tokens) -> Array | None:
    """Which text each token belongs to, int [B, L] from 0 on; None unless a row holds two of two or more
    tokens. Padding goes with the text before it.
    """
    texts, real = tokens.documents, tokens.real
    if texts is None or tokens.kind == "encoder":
        return None
    known = np.ones(texts.shape, bool) if real is None else real
    inside = (np.diff(texts, axis=1) == 0) & known[:, 1:] & known[:, :-1]
    if _by_positions(tokens) and tokens.positions is not None:
        inside &= np.diff(tokens.positions, axis=1) == 1
    held = np.where(inside, texts[:, 1:], np.iinfo(np.int64).max).min(axis=1)
    if not (np.where(inside, texts[:, 1:], np.iinfo(np.int64).min).max(axis=1) > held).any():
        return None

    begins = np.zeros(texts.shape, bool)
    begins[:, 1:] = (np.diff(texts, axis=1) != 0) & known[:, 1:]
    begins &= np.logical_or.accumulate(known, axis=1) & ~_first(known)
    return np.cumsum(begins, axis=1)


def _first(known: Array) -> Array:
    """The first flagged token of each row."""
    first: Array = known & (np.cumsum(known, axis=1) == 1)
    return first


def _crossing_rows(scene: Scene, tokens: Tokens, packed: Array) -> Iterator[tuple[str, Array]]:
    """Saved masks, else the padding mask, over packed tokens, with the rows [B, L] that see another text."""
    saved = [mask for mask in scene.masks if mask.roled.kind != "cross" and _covers(mask, packed)]
    for mask in saved:
        yield mask.given.tensor.name, _crossing(mask, packed)
    if not saved and tokens.real is not None and not _numbers_texts(scene, tokens):
        yield tokens.name("padding_mask"), tokens.real & (packed > 0)


def _covers(saved: Saved, packed: Array) -> bool:
    """Whether a mask is one over all the packed tokens, queries and keys."""
    batch, _, queries, keys = saved.given.shape
    alike = keys == packed.shape[1] and batch in (1, len(packed))
    return alike and queries in (1, keys) and not saved.given.nan


def _crossing(saved: Saved, packed: Array) -> Array:
    """The rows [B, L] of real tokens that see another text by this mask."""
    batch, length = packed.shape
    layout = Layout(batch, length, length, saved.given.shape[1], documents=packed)
    keep = saved.given.keep.broadcast_to(layout.shape)
    assert keep is not None
    crossing = np.any((keep - documents(layout)).keys_per_query > 0, axis=1)
    real = ~np.broadcast_to(saved.pad_rows[:, 0], packed.shape)
    rows: Array = np.broadcast_to(crossing, packed.shape) & real
    return rows


def _isolated(scene: Scene, packed: Array) -> bool:
    """Whether weights are there, and none of them crosses from one text to another."""
    square = (a for a in scene.attentions if a.roled.kind != "cross" and a.shape[2] == a.shape[3])
    maps = [attention for attention in square if attention.shape[::3] == packed.shape]
    return bool(maps) and not any(_mixes(attention, packed) for attention in maps)


def _mixes(attention: Attention, packed: Array) -> bool:
    batch, heads, queries, keys = attention.shape
    apart = documents(Layout(batch, queries, keys, heads, documents=packed))
    mass = measure(attention.tensor, attention.shape, {"apart": apart}).mass["apart"]
    return bool((mass > CROSSES)[np.broadcast_to(attention.real_rows, mass.shape)].any())


def _numbers_texts(scene: Scene, tokens: Tokens) -> bool:
    """Whether the padding mask is no 0 and 1 but numbers the texts, as some libraries keep them apart."""
    return bool((named(scene, tokens.name("padding_mask")).tensor.read() > 1).any())


def _cu_seqlens(scene: Scene) -> Iterator[Roled]:
    return (roled for roled in scene.tensors if roled.role == "cu_seqlens")


@rule("MSK406", "bad-cu-seqlens", "error", needs=("cu_seqlens",))
@for_each(_cu_seqlens)
def bad_cu_seqlens(roled: Roled, scene: Scene) -> Found | None:
    """The cumulative lengths of packed texts do not start at 0, fall, or do not end at the number of tokens.

    Variable-length attention reads them as borders: a missing 0 drops the first text, a wrong end leaves
    tokens out or reads memory behind the last one, without any error. Equal neighbours are empty texts, and
    fine.

    In code: `cu_seqlens = lengths.cumsum(0)` without the 0 in front; lengths that count padding which was
    taken out.

    Fix: `torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)`, over the tokens that are really
    passed.
    """
    rows = token_rows(roled.tensor)
    if rows is None or rows.shape[1] < 1:
        return None
    totals = _token_counts(scene, roled) if len(rows) == 1 else set()
    for filled in rows:
        # NeMo fills rows of borders up with -1.
        row = filled[: np.flatnonzero(filled != -1)[-1] + 1] if (filled != -1).any() else filled
        wrong = _wrong_borders(row, totals)
        if wrong is not None:
            return Found(
                (roled.tensor.name,),
                f"{roled.tensor.name!r} {wrong}: it holds the borders of the packed texts",
                "torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32), over the tokens that "
                "are passed",
                evidence={"first": int(row[0]), "last": int(row[-1])},
            )
    return None


def _wrong_borders(row: Array, totals: set[int]) -> str | None:
    """What is wrong with cumulative lengths, in words; None when nothing is."""
    falls = np.flatnonzero(np.diff(row) < 0)
    if row[0] != 0:
        return f"starts at {int(row[0])}, not at 0"
    if falls.size:
        at = int(falls[0])
        return f"falls from {int(row[at])} to {int(row[at + 1])} at index {at + 1}"
    if totals and int(row[-1]) not in totals:
        return f"ends at {int(row[-1])}, but there are {' or '.join(map(str, sorted(totals)))} tokens"
    return None


def _token_counts(scene: Scene, roled: Roled) -> set[int]:
    """How many tokens the queries' borders can speak of: all of the batch, or those that are not padding;
    empty when unknown.

    Keys can be more than the tokens (a cache) or come from elsewhere, so their borders are not held to them.
    """
    leaf = roled.tensor.name.rpartition(".")[2]
    padded = any(f"{leaf}_padded" in other.tensor.name for other in scene.tensors)
    # Borders with and without the padding between texts: those with it end where the tokens do.
    if "_k" in leaf or padded:
        return set()
    for tokens in scene.tokens:
        alike = named(scene, next(iter(tokens.names.values()))).group == roled.group
        if alike and tokens.kind in (roled.kind, "self"):
            said = (
                tokens.ids,
                tokens.labels,
                tokens.real,
                tokens.positions,
                tokens.token_types,
                tokens.counted,
            )
            size = next(rows.size for rows in said if rows is not None)
            real = tokens.known_real(scene.declared)
            return {size} if real is None else {size, int(real.sum())}
    family = (roled.kind, roled.group)
    maps = (a for a in scene.attentions if (a.roled.kind, a.roled.group) == family)
    return {attention.shape[0] * attention.shape[2] for attention in maps}
