"""Rules on the pattern of weights, a causal mask or a window that is off: MSK213, MSK214, MSK215 and MSK218."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rule import NOT_WEIGHTS, rule
from maskcli.diagnostics.rules.common import Hit, fold, found, ignored_keys, percent, spread, told_places
from maskcli.diagnostics.verdicts.causes import without
from maskcli.diagnostics.verdicts.judge import verdicts
from maskcli.masks.kinds import causal, causal_top_left, sliding
from maskcli.masks.mask import Mask
from maskcli.measure.passes import measure
from maskcli.scene.scene import Attention, Scene

# Rows that must agree on a narrower window: one or two short ones can end anywhere.
ROWS = 3


@rule(
    "MSK213",
    "window-mismatch",
    "error",
    needs=("weights", "window"),
    explained_by=(*NOT_WEIGHTS, "MSK110", "MSK111", "MSK215"),
)
def window_mismatch(scene: Scene) -> Iterator[Found | Undecided]:
    """The weights reach further back than the layer's window, or never as far.

    Libraries count a window differently: Hugging Face's W keys include the query itself, flash-attn's `(W, 0)` are W + 1, older
    masks hold 2W + 1. A model that was trained with one and runs with the other sees positions it does not know; a window that
    was dropped shows only behind W tokens.

    In code: a custom 4-D mask for a model with `sliding_window`, `window_size=(W, 0)` where `(W - 1, 0)` was meant, the layer
    pattern shifted by one.

    Fix: build the mask from the layer's own window, and compare with `maskcli diff MASK "causal & sliding:W"`.
    """
    wide = {a.name: (a, v) for a, v in verdicts(scene, "window")}
    for members, where, each in fold(
        Hit(a.name, v.rows, ignored_keys(v.ignored, v.rows) if v.ignored else None, v.share, a.spec or "")
        for a, v in wide.values()
    ):
        low, high = spread(members)
        held = max(int(wide[hit.tensor][1].size) for hit in members)
        yield found(
            members,
            where,
            each,
            f"real queries put {percent(low, high)} of their weight outside of the window of {members[0].note!r}: they look back over up "
            f"to {held} keys, themselves included",
            "build the mask from this layer's window; Hugging Face counts the query itself, flash-attn's left window does not",
            {"mass_lowest_layer": low, "mass_highest_layer": high, "keys_seen": held},
        )
    narrow = []
    for attention in scene.attentions:
        width = _full_width(attention)
        if width is None or attention.name in wide:
            continue
        if attention.shape[3] <= width and attention.window:
            yield Undecided(f"more than {width} keys in {attention.name}")
            continue
        held, rows = _narrower(attention, width)
        if rows is not None:
            narrow.append(Hit(attention.name, rows, None, None, f"{held} {width}"))
    for members, where, each in fold(narrow):
        held, width = map(int, members[0].note.split())
        yield found(
            members,
            where,
            each,
            f"no query looks back over more than {held} keys, itself included, in any head, where "
            + (f"the window holds {width}" if width < 2**31 - 1 else "no window was declared for this layer"),
            "build the mask from this layer's window; Hugging Face counts the query itself, flash-attn's left window does not",
            {"keys_seen": held, **({"keys_expected": width} if width < 2**31 - 1 else {})},
        )


@rule(
    "MSK214",
    "shifted-causal",
    "error",
    needs=("weights",),
    explained_by=("MSK216", "MSK106", "MSK109", "MSK201"),
)
def shifted_causal(scene: Scene) -> Iterator[Found]:
    """The causal diagonal is off by one: tokens see the next one, or do not see themselves.

    One key too many is the answer itself: the loss collapses and generation is noise. One too few leaves the first token
    without any key, and every other without its own.

    In code: `torch.triu(ones, diagonal=2)` or `diagonal=0` where `diagonal=1` masks the future, `q_idx > k_idx` for `>=`.

    Fix: `torch.triu(ones, diagonal=1)` marks what to ignore, `k <= q` what to attend.
    """
    hits = [
        Hit(a.name, v.rows, ignored_keys(a.causal, v.rows), v.share, a.future_expected or "")
        for a, v in verdicts(scene, "shifted")
    ]
    for members, where, each in fold(hits):
        low, high = spread(members)
        yield found(
            members,
            where,
            each,
            f"real queries put {percent(low, high)} of their weight on the key right behind them and none further on; "
            f"{members[0].note} says attention is causal: its diagonal is one off",
            "attend where k <= q: torch.triu(ones, diagonal=1) marks what to ignore",
            {"future_mass_lowest_layer": low, "future_mass_highest_layer": high},
        )
    strict = [Hit(a.name, rows, None) for a in scene.attentions if (rows := _strict(a)) is not None]
    for members, where, each in fold(strict):
        yield found(
            members,
            where,
            each,
            "no query weighs itself, in any head, and the first row has no key: the causal diagonal is one off",
            "attend where k <= q: torch.triu(ones, diagonal=1) marks what to ignore, diagonal=0 takes the token itself away",
            {"largest_diagonal_weight": 0.0},
        )


@rule(
    "MSK215",
    "misaligned-causal-weights",
    "error",
    needs=("weights", "past"),
    explained_by=(*NOT_WEIGHTS, "MSK110"),
)
def misaligned_causal_weights(scene: Scene) -> Iterator[Found]:
    """With a KV cache, row q sees keys 0 to q instead of everything up to its own position.

    A causal mask over fewer queries than keys belongs to the bottom right corner. Aligned to the top left, the first query of a
    decode step sees one key, the oldest, and generation forgets what it has just read.

    In code: `scaled_dot_product_attention(..., is_causal=True)` with a cache (it is aligned to the top left), flash-attn before
    2.1, `torch.tril(ones(Q, K))`.

    Fix: `torch.ones(Q, K).tril(diagonal=K - Q)`, `causal_lower_right`, or no mask at all for a single query.
    """
    hits = [Hit(a.name, rows, None) for a in scene.attentions if (rows := _top_left(a)) is not None]
    single = [
        a
        for a in scene.attentions
        if a.roled.kind != "cross" and a.shape[2] == 1 and a.past_known and a.past > 0
    ]
    if single and not all(any(hit.tensor == a.name for hit in hits) for a in single):
        # One head or layer that looks only at key 0 is a sink; a mask does it to all of them.
        hits = [hit for hit in hits if not any(hit.tensor == a.name for a in single)]
    past = {a.name: a.past for a in scene.attentions}
    for members, where, each in fold(hits):
        behind = past[members[0].tensor]
        yield found(
            members,
            where,
            each,
            f"{told_places(where, each, 'queries')} weigh keys 0 to q only, though {behind} keys come before the first query: the causal mask "
            "is aligned to the top left",
            "align it to the bottom right: torch.ones(Q, K).tril(diagonal=K - Q); is_causal=True is wrong with a cache",
            {"past": behind},
        )


@rule("MSK218", "causal-encoder", "warning", needs=("weights", "full expectation"), explained_by=NOT_WEIGHTS)
def causal_encoder(scene: Scene) -> Iterator[Found]:
    """No head of an encoder ever looks ahead, although its attention was meant to be full.

    The encoder works as a decoder: each token knows only what stands before it, and the sentence's first words know nothing.
    Embeddings and tags get worse without anything failing.

    In code: `is_causal=True` left over from a decoder, `is_decoder=True` in the config, a serving engine that treats every
    model as causal.

    Fix: no causal mask in an encoder; only its padding is masked.
    """
    hits = []
    for attention in scene.attentions:
        rows = _never_ahead(attention)
        if rows is not None and attention.declared is not None:
            hits.append(
                Hit(attention.name, rows, None, None, f"{attention.declared.source} {attention.spec!r}")
            )
    for members, where, each in fold(hits):
        yield found(
            members,
            where,
            each,
            f"keys behind a query weigh exactly 0 in every head ({told_places(where, each, 'queries')}), although {members[0].note} lets "
            "them be seen",
            "leave the causal mask out of an encoder; mask only its padding",
            {"future_mass": 0.0},
        )


def _full_width(attention: Attention) -> int | None:
    """How many keys a query of this layer should reach back over: its window, or any number when none was declared for it."""
    if attention.declared is None or attention.expected is None:
        return None
    if attention.window is not None:
        return attention.window
    plain = (
        attention.declared.particular
        and attention.future_expected
        and without(attention, {"chunked", "documents"}) is None
    )
    return 2**31 - 1 if plain else None


def _narrower(attention: Attention, width: int) -> tuple[int, Array | None]:
    """The number of keys that every real row far enough from the start reaches back over, when that is less than `width`.

    All heads and samples together must stop at the same distance in every row: a sharp head or underflow stops anywhere.
    """
    found = attention.sample
    positions = found.queries + attention.past
    real = found.of(attention.real_rows)
    weighed = np.any((found.values > 0) & real[..., None], axis=(0, 1))
    behind = np.where(weighed, positions[:, None] - np.arange(attention.shape[3]) + 1, 0).max(axis=1)
    held = int(behind.max(initial=0))
    first = attention.keys.real.argmax(axis=1).max() if attention.keys is not None else 0
    far = (positions - first + 1 > held) & real.any(axis=(0, 1))
    if not 0 < held < width or far.sum() < ROWS or (behind[far] != held).any():
        return held, None
    narrow = sliding(attention.layout, held)
    rows = np.broadcast_to(
        attention.real_rows & (attention.causal.keys_per_query > held), attention.shape[:3]
    )
    mass = measure(attention.tensor, attention.shape, {"narrow": narrow}).mass["narrow"][rows]
    return held, rows if mass.size and not np.nan_to_num(mass).any() else None


def _strict(attention: Attention) -> Array | None:
    """The real rows of a square map whose diagonal is exactly 0 in all heads while the first real row has no key of its own.

    The other rows must sum to 1: where a sink or a zero slot takes the first row's weight, it takes some from all rows.
    """
    batch, heads, queries, keys = attention.shape
    if attention.roled.kind == "cross" or queries != keys or queries < ROWS or attention.past:
        return None
    if attention.expected is not None and not attention.future_expected:
        return None
    measured, real = attention.measured, np.broadcast_to(attention.real_rows, (batch, 1, queries))
    is_first = np.arange(queries) == np.argmax(real, axis=2)[..., None]
    rows = np.broadcast_to(real & ~is_first, attention.shape[:3]) & ~attention.looks_empty
    opening = np.broadcast_to(real & is_first, attention.shape[:3])
    # The second row of a strict mask has one key: where it weighs that less than 1, nothing else needs a look.
    second = np.broadcast_to(is_first[:, :, :-1], (batch, heads, queries - 1))
    whole = np.abs(measured.high[:, :, 1:][second] - 1) <= attention.tolerance
    if not rows.any() or not whole.all() or measured.mass["future"][rows].any():
        return None
    empty = attention.looks_empty | (measured.mass["future"] > 0.5)
    return rows | opening if empty[opening].all() and not _diagonal(attention)[rows].any() else None


def _diagonal(attention: Attention) -> Array:
    """Each query's weight on itself, [B, H, Q]."""
    positions = attention.layout.positions
    own = Mask.from_intervals(attention.shape, positions, positions + 1)
    return measure(attention.tensor, attention.shape, {"own": ~own}).mass["own"]


def _top_left(attention: Attention) -> Array | None:
    """The real rows of a map with a known past that all see exactly keys 0 to q."""
    shape = attention.shape
    if attention.roled.kind == "cross" or not attention.past_known or attention.past <= 0:
        return None
    if attention.expected is not None and not attention.future_expected:
        return None
    corner = causal_top_left(attention.layout)
    found = attention.sample
    chosen = found.of(np.broadcast_to(attention.real_rows & ~attention.looks_empty, shape[:3]))
    if not chosen.any() or ((found.values != 0) & ~found.allowed(corner))[chosen].any():
        return None
    meant = attention.expected if attention.expected is not None else causal(attention.layout)
    rows = (
        np.broadcast_to(attention.real_rows & ((meant - corner).keys_per_query > 0), shape[:3])
        & ~attention.looks_empty
    )
    mass = measure(attention.tensor, shape, {"corner": corner}).mass["corner"]
    return rows if rows.any() and not mass[rows].any() else None


def _never_ahead(attention: Attention) -> Array | None:
    """The real rows that may look ahead by the declared mask, when none of them does in any head."""
    if attention.expected is None or attention.roled.kind == "cross" or attention.shape[2] < ROWS:
        return None
    ahead = (attention.expected - attention.causal).keys_per_query > 0
    rows = np.broadcast_to(attention.real_rows & ahead, attention.shape[:3]) & ~attention.looks_empty
    if not rows.any() or attention.measured.mass["future"][rows].any():
        return None
    return rows
