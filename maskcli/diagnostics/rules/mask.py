"""Rules on the mask tensor itself: MSK101 to MSK108."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Where, items_of
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.common import Hit, fold, found, told_places
from maskcli.diagnostics.verdicts.judge import verdicts
from maskcli.diagnostics.verdicts.verdict import Kind
from maskcli.masks.conventions import LOWEST, WEAKEST
from maskcli.masks.mask import Mask, runs_of
from maskcli.scene.scene import Saved, Scene
from maskcli.scene.tokens import real_tokens

# -1e4 and what float16 and bfloat16 make of it: a mask unless a whole row is masked or scores are of that size.
TEN_THOUSAND = (-1.05e4, -9e3)


@rule(
    "MSK101",
    "empty-row",
    "error",
    needs=("mask",),
    explained_by=(
        "MSK107",
        "MSK108",
        "MSK102",
        "MSK301",
        "MSK205",
        "MSK206",
        "MSK201",
        "MSK106",
        "MSK109",
        "MSK110",
    ),
)
def empty_row(scene: Scene) -> Iterator[Found]:
    """The mask leaves a query no key at all.

    A softmax over nothing is NaN with -inf or False, and the plain mean of all values with a finite fill. On a padding
    query that is harmless as long as nobody reads its output; on a real token it breaks the result, and NaN spreads through
    the whole batch at the next layer.

    In code: left padding combined with a causal mask (the first rows see only padding), a sliding window that lies inside
    the padding, a sample that is padding throughout.

    Fix: keep the diagonal (`mask | eye`), or drop samples that are all padding, and zero the output of rows without keys.
    """
    real_hits: list[Hit] = []
    pad_hits: list[Hit] = []
    for saved in scene.masks:
        empty = saved.given.keep.keys_per_query == 0
        if not empty.any():
            continue
        pads = saved.pad_rows if not empty.all() else np.zeros((1, 1, 1), bool)
        if empty.shape[2] == 1:
            pads = np.all(pads, axis=2, keepdims=True)
        for hits, rows in ((real_hits, empty & ~pads), (pad_hits, empty & pads)):
            if rows.any():
                hits.append(Hit(saved.given.tensor.name, rows, None))
    for hits, severity in ((real_hits, None), (pad_hits, "note")):
        for members, where, each in fold(hits):
            who = "padding tokens" if severity else "real tokens"
            yield found(
                members,
                where,
                each,
                f"the mask leaves {told_places(where, each, 'queries')} no key to attend to ({who})",
                "harmless as long as nothing reads the output of padding tokens; with -inf these rows are NaN, so prefer a "
                "finite fill or keep the diagonal"
                if severity
                else "keep at least the diagonal for every real token, and zero the output of rows without keys",
                {"rows": int(sum(hit.rows.sum() for hit in members))},
                severity,
            )


@rule(
    "MSK102",
    "inverted-mask",
    "error",
    needs=(("mask", "padding_mask"), ("padding_mask", "pad_id", "convention")),
    explained_by=("MSK407",),
)
def inverted_mask(scene: Scene) -> Iterator[Found]:
    """The mask says the opposite of what it should: it keeps the padding, or only the future.

    Half of all libraries read True as "attend", the other half as "ignore". A mask for one, handed to the other, hides
    every real token.

    In code: `mask = ids == pad_id` where attention_mask wants `ids != pad_id`; `torch.triu(ones, 1)` given to
    scaled_dot_product_attention.

    Fix: invert it where it is built, and say in its name what True means (`keep_mask`, `ignore_mask`).
    """
    for tokens in scene.tokens:
        real = None if tokens.ids is None else real_tokens(tokens.ids, scene.declared)
        if tokens.real is None or real is None:
            continue
        pads = ~real
        inverted = np.any(pads, axis=1) & ~np.all(pads, axis=1) & (tokens.real == pads).all(axis=1)
        if inverted.any() and inverted[np.any(pads, axis=1)].all():
            yield Found(
                (tokens.name("padding_mask"), tokens.name("input_ids")),
                f"{tokens.name('padding_mask')!r} is 1 exactly where the ids are the pad id {scene.declared.pad_id}: it keeps the padding "
                "and hides every real token",
                "build it as ids != pad_id",
                Where(items_of(inverted), None, None, runs_of(np.any(pads[inverted], axis=0))),
                {"samples": int(inverted.sum())},
            )
    for saved in scene.masks:
        given = saved.given
        keep = given.keep
        if given.reason in ("shape", "assumed") or given.nan or not keep.attended:
            continue
        where = _keeps_only_padding(saved) or (
            _keeps_only_future(saved) if given.reason == "declared" else None
        )
        if where:
            what = "the padding" if where.keys else "the keys behind each query"
            yield Found(
                (given.tensor.name,),
                f"read as {given.convention!r}, the mask keeps only {what}: it is the inverse of what {given.convention!r} wants",
                "invert it (~mask, or 1 - mask) where it is built, or pass the convention it is in with --from",
                where,
                {"attended": keep.attended},
            )


@rule("MSK103", "binary-float-mask", "error", needs=("mask",))
def binary_float_mask(scene: Scene) -> Iterator[Found]:
    """A float mask holds only 0 and 1: added to the scores it masks nothing.

    With `masked_fill(mask == 0, -inf)` such a mask is right. Attention that adds its float mask (torch's SDPA, Hugging
    Face's eager path) raises the kept keys by 1 instead, and the model reads padding and future all the same.

    In code: `mask.float()` or `mask.to(dtype)` given to `scaled_dot_product_attention` or as a 4-D attention_mask.

    Fix: pass booleans, or `(1 - mask) * torch.finfo(dtype).min`.
    """
    shown = {id(a.given): v for a, v in verdicts(scene, Kind.ADDED) if a.given}
    for saved in scene.masks:
        given = saved.given
        binary = given.tensor.dtype in LOWEST and given.values is not None and set(given.values) == {0.0, 1.0}
        if not binary or given.minus_inf or given.nan:
            continue
        verdict = shown.get(id(given))
        declared = given.reason == "declared" and given.added
        obeyed = saved.attention is not None and saved.attention.keep is not None and verdict is None
        if (obeyed and not declared) or (given.reason == "declared" and not declared):
            continue
        evidence: dict[str, float | int | str] = {"values": "0 and 1", "dtype": given.tensor.dtype}
        if verdict is not None:
            evidence["violation"] = float(verdict.share[verdict.rows].mean())
        yield Found(
            (given.tensor.name,),
            f"a {given.tensor.dtype} mask of only 0 and 1"
            + (
                " was added to the scores, so it masked nothing"
                if verdict or declared
                else " masks nothing where it is added to the scores"
            ),
            "pass booleans, or (1 - mask) * torch.finfo(dtype).min; with masked_fill(mask == 0, ...) it is right as it is",
            Where(),
            evidence,
            "error" if verdict or declared else "note",
        )


@rule("MSK104", "weak-fill", "error", needs=("mask",))
def weak_fill(scene: Scene) -> Iterator[Found]:
    """The fill is too small to silence a key.

    exp(fill) is what remains of an ignored key's weight: -1e-9 leaves all of it, -10 a few hundred-thousandths, and scores
    that differ by more than the fill bring it back whole. -1e4 is enough beside ordinary scores (a note), but a row that is
    masked throughout turns into ordinary attention.

    In code: `masked_fill(mask == 0, -1e-9)` for -1e9, or `mask * -1` and `mask * -10`.

    Fix: use `float("-inf")`, or `torch.finfo(dtype).min` where a row can be fully masked.
    """
    for saved in scene.masks:
        given = saved.given
        values = given.values
        if not given.added or values is None or given.minus_inf or len(values) != 2 or values[1] != 0.0:
            continue
        fill = values[0]
        ten_thousand = TEN_THOUSAND[0] <= fill <= TEN_THOUSAND[1]
        if not (WEAKEST < fill < 0 and _is_mask_shaped(saved)) and not ten_thousand:
            continue
        empty = bool((given.keep.keys_per_query == 0).any())
        note = ten_thousand and not empty
        what = "is enough beside ordinary scores only" if ten_thousand else "cannot silence a key"
        yield Found(
            (given.tensor.name,),
            f"ignored keys get {fill:.6g}, which {what}: exp({fill:.6g}) = {np.exp(fill):.2g} of their weight remains"
            + (", and a fully masked row becomes ordinary attention" if ten_thousand and empty else ""),
            'use float("-inf"), or torch.finfo(dtype).min where a row can be fully masked',
            Where(),
            {"fill": fill, "remaining": float(np.exp(fill))},
            "note" if note else None,
        )


@rule("MSK105", "overflowed-fill", "warning", needs=("mask",))
def overflowed_fill(scene: Scene) -> Iterator[Found]:
    """-inf stands beside the lowest finite number, or where another copy of the mask has a finite fill.

    finfo.min + finfo.min is -inf, and -1e9 or float32's minimum cast to float16 is -inf. A fill that was chosen finite, so
    that fully masked rows stay finite, has become the one that makes them NaN.

    In code: `causal_mask + padding_mask` with finfo.min in both; `mask.half()` of a float32 mask.

    Fix: combine masks as booleans first, and fill once, in the dtype of the scores.
    """
    finite = [saved.given for saved in scene.masks if saved.given.added and _finite_fill(saved)]
    for saved in scene.masks:
        given = saved.given
        if not given.added or not given.minus_inf or given.values is None:
            continue
        lowest = LOWEST.get(given.tensor.dtype)
        twin = next((each for each in finite if each.keep == given.keep), None)
        if lowest is not None and any(value <= lowest * 0.99 for value in given.values):
            beside = f"{min(given.values):.6g}, the lowest {given.tensor.dtype}"
            yield Found(
                (given.tensor.name,),
                f"-inf stands beside {beside}: two filled masks were added and overflowed",
                "combine the masks as booleans, then fill once in the dtype of the scores",
                Where(),
                {"lowest_finite": min(given.values)},
            )
        elif twin is not None:
            yield Found(
                (given.tensor.name, twin.tensor.name),
                f"{given.tensor.name!r} has -inf where its copy {twin.tensor.name!r} has {twin.fill:.6g}: the fill overflowed "
                f"when it was cast to {given.tensor.dtype}",
                f"fill with torch.finfo(torch.{given.tensor.dtype}).min after the cast, not before",
                Where(),
                {"fill_in_copy": twin.fill or 0.0},
            )


@rule("MSK106", "nan-mask", "error", needs=("mask",))
def nan_mask(scene: Scene) -> Iterator[Found]:
    """The mask itself holds NaN.

    NaN in the mask makes every row that it touches NaN, whatever the model does.

    In code: `(1 - mask) * float("-inf")`: at kept cells that is 0 * -inf, which is NaN.

    Fix: `torch.zeros(...).masked_fill(mask == 0, float("-inf"))`.
    """
    for saved in scene.masks:
        if saved.given.nan is None:
            continue
        at = list(saved.given.nan)
        yield Found(
            (saved.given.tensor.name,),
            f"the mask holds NaN, first at index {at}: 0 * -inf at a kept cell",
            'build it with masked_fill(mask == 0, float("-inf")) instead of multiplying',
            _cell(at, saved.given.tensor.shape),
            {"index": str(at)},
        )


@rule("MSK107", "negated-integer-mask", "error", needs=("mask",))
def negated_integer_mask(scene: Scene) -> Iterator[Found]:
    """An integer mask was negated with ~, which gives -1 and -2 (or 255 and 254), all of them true.

    `~` on integers flips bits: 1 becomes -2, 0 becomes -1. Both count as True, so the mask keeps everything.

    In code: `~attention_mask` on an int64 tensor.

    Fix: `attention_mask == 0`, or `~attention_mask.bool()`.
    """
    for saved in scene.masks:
        values = saved.given.values
        if not saved.given.tensor.dtype.startswith(("int", "uint")) or not values:
            continue
        whole = {int(value) for value in values}
        top = (
            2 ** int(saved.given.tensor.dtype.lstrip("uint"))
            if saved.given.tensor.dtype.startswith("uint")
            else 0
        )
        if whole in ({-2, -1}, {top - 2, top - 1}):
            yield Found(
                (saved.given.tensor.name,),
                f"an integer mask holds only {min(whole)} and {max(whole)}: ~ was applied to integers, and both count as True",
                "negate booleans: mask == 0, or ~mask.bool()",
                Where(),
                {"values": f"{min(whole)} and {max(whole)}"},
            )


@rule("MSK108", "query-axis-mask", "error", needs=("mask",))
def query_axis_mask(scene: Scene) -> Iterator[Found]:
    """Padding is masked along queries instead of keys: whole rows are hidden, and every real token still sees the padding.

    A padding mask belongs on the key axis: [B, 1, 1, K]. On the query axis it empties the rows of padding tokens, which
    nobody reads, and hides no key from anybody.

    In code: `mask[:, None, :, None]` or `mask.unsqueeze(-1)` where `mask[:, None, None, :]` was meant.

    Fix: `mask[:, None, None, :]`.
    """
    for saved in scene.masks:
        rows = _query_axis_rows(saved)
        if rows is not None:
            where = Where(items_of(np.any(rows, axis=1)), None, runs_of(np.any(rows, axis=0)), None)
            yield Found(
                (saved.given.tensor.name,),
                "the mask hides whole queries and no key: padding is masked along the query axis, so real tokens attend to it",
                "put the padding on the key axis: mask[:, None, None, :]",
                where,
                {"hidden_rows": int(rows.sum())},
            )


def _query_axis_rows(saved: Saved) -> Array | None:
    """The rows [b, q] that a query-axis mask hides; None when the mask is another one."""
    keep = saved.given.keep
    b, _h, q = keep.stored
    if q < 2 or saved.given.nan:
        return None
    counts = keep.keys_per_query
    empty: Array = np.all(counts == 0, axis=1)
    if not empty.any() or empty.all():
        return None
    full = np.all(counts == keep.shape[3], axis=1)
    if (empty | full).all():
        return empty
    # Under a causal mask: exactly the padding rows are empty, and every other row sees all that causal lets it see.
    if (
        saved.keys is None
        or saved.keys.real.all()
        or keep.shape[2] != keep.shape[3]
        or len(saved.keys.real) != b
    ):
        return None
    base = Mask.from_intervals(
        keep.shape, np.zeros(1, np.int64), np.arange(keep.shape[2]).reshape(1, 1, -1) + 1
    )
    pads = ~saved.keys.real
    shown = np.where(pads[:, None], 0, keep.shape[3])
    by_rows = base & Mask.from_intervals(keep.shape, np.zeros(1, np.int64), shown)
    padded = Mask.from_dense(pads[:, None, None, :]).broadcast_to(keep.shape)
    if keep == by_rows and padded is not None and (by_rows & padded).attended:
        return empty
    return None


def _keeps_only_padding(saved: Saved) -> Where | None:
    keep = saved.given.keep
    if saved.keys is None or saved.keys.real.all() or len(saved.keys.real) != keep.shape[0]:
        return None
    pads = ~saved.keys.real
    real = Mask.from_dense(saved.keys.real[:, None, None, :]).broadcast_to(keep.shape)
    padded = np.any(pads, axis=1)
    if (
        real is None
        or (keep & real).attended
        or not (np.any(keep.seen, axis=1)[padded] == pads[padded]).all()
    ):
        return None
    # A sample without padding is left no key at all: it is part of the same mistake.
    return Where(None, None, None, runs_of(np.any(pads[padded], axis=0)))


def _keeps_only_future(saved: Saved) -> Where | None:
    """Whether a square mask keeps exactly what lies behind the diagonal (with the diagonal or without), nothing before it."""
    keep = saved.given.keep
    queries, keys = keep.shape[2:]
    if queries != keys or queries < 2:
        return None
    positions = np.arange(queries).reshape(1, 1, -1)
    for first in (positions, positions + 1):
        if keep == Mask.from_intervals(keep.shape, first, np.full(1, keys)):
            return Where()
    return None


def _is_mask_shaped(saved: Saved) -> bool:
    """Whether two values of one sign are a mask and no bias: all heads alike, and some query or key is treated otherwise."""
    keep = saved.given.keep
    return keep.compact().stored[1] == 1 and 0 < keep.attended < keep.cells and keep.shape[3] > 2


def _finite_fill(saved: Saved) -> bool:
    given = saved.given
    return (
        not given.minus_inf
        and given.values is not None
        and len(given.values) == 2
        and given.values[0] <= TEN_THOUSAND[1]
    )


def _cell(index: list[int], shape: tuple[int, ...]) -> Where:
    """The place of one cell of a tensor of two to four axes."""
    query, key = index[-2:]
    batch = (index[0],) if len(shape) >= 3 else None
    heads = (index[1],) if len(shape) == 4 else None
    return Where(batch, heads, ((query, query + 1),), ((key, key + 1),))
