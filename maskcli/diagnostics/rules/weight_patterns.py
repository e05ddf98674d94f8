"""Rules on patterns of weights, a causal mask or a window that is off: MSK213, MSK214, MSK215, MSK218."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from maskcli.arrays import Array, Rows
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rule import NOT_WEIGHTS, rule
from maskcli.diagnostics.rules.hits import Hit, fold, fold_by
from maskcli.diagnostics.rules.leaks import hit_of
from maskcli.diagnostics.verdicts.judge import verdicts
from maskcli.diagnostics.verdicts.leaks import without
from maskcli.diagnostics.verdicts.verdict import Kind
from maskcli.masks.kinds import causal_top_left, sliding, window
from maskcli.masks.spec import Named, tensors_in
from maskcli.measure.passes import measure
from maskcli.scene.scene import Attention, Scene

# Rows that must agree on a narrower window: one or two short ones can end anywhere.
ROWS = 3
_WINDOWS = (
    "build the mask from this layer's window; Hugging Face counts the query itself, flash-attn's left window "
    "does not"
)


class Narrow(NamedTuple):
    """How many keys queries look back over, and how many they should; None without a window."""

    seen: int
    width: int | None


@rule(
    "MSK213",
    "window-mismatch",
    "error",
    needs=("weights", "window"),
    explained_by=(*NOT_WEIGHTS, "MSK110", "MSK111", "MSK215"),
)
def window_mismatch(scene: Scene) -> Iterator[Found | Undecided]:
    """The weights reach further back than the layer's window, or never as far.

    A model that was trained with one window and runs with another sees positions it does not know; a window
    that was dropped shows only behind W tokens. Libraries count a window differently: Hugging Face's W keys
    include the query itself, flash-attn's `(W, 0)` are W + 1, older masks hold 2W + 1.

    In code: a custom 4-D mask for a model with `sliding_window`, `window_size=(W, 0)` where `(W - 1, 0)` was
    meant, the layer pattern shifted by one.

    Fix: build the mask from the layer's own window, and compare with `maskcli diff MASK "causal &
    sliding:W"`.
    """
    wide = verdicts(scene, Kind.WINDOW)
    for group in fold_by(((hit_of(a, v), (a.spec, v.extra)) for a, v in wide), alike=lambda extra: extra[0]):
        seen = max(seen for _, seen in group.extras if isinstance(seen, int))
        yield group.found(
            f"real queries put {group.percent} of their weight outside of the window of {group.extra[0]!r}: "
            f"they look back over up to {seen} keys, themselves included",
            _WINDOWS,
            **group.layers("mass"),
            keys_seen=seen,
        )

    yield from _never_as_far(scene, {attention.name for attention, _ in wide})


@rule(
    "MSK214",
    "shifted-causal",
    "error",
    needs=("weights",),
    explained_by=("MSK216", "MSK106", "MSK109", "MSK201"),
)
def shifted_causal(scene: Scene) -> Iterator[Found]:
    """The causal diagonal is off by one: tokens see the next one, or do not see themselves.

    One key too many is the answer itself: the loss collapses and generation is noise. One too few leaves the
    first token without any key, and every other without its own.

    In code: `torch.triu(ones, diagonal=2)` or `diagonal=0` where `diagonal=1` masks the future, `q_idx >
    k_idx` for `>=`.

    Fix: `torch.triu(ones, diagonal=1)` marks what to ignore, `k <= q` what to attend.
    """
    hits = ((hit_of(a, v), a.future_expected) for a, v in verdicts(scene, Kind.SHIFTED))
    for group in fold_by(hits):
        yield group.found(
            f"real queries put {group.percent} of their weight on the key right behind them and none further "
            f"on; {group.extra} says attention is causal: its diagonal is one off",
            "attend where k <= q: torch.triu(ones, diagonal=1) marks what to ignore",
            **group.layers("future_mass"),
        )
    for strict in fold(_hits(scene, _strict)):
        yield strict.found(
            "no query weighs itself, in any head, and the first row has no key: the causal diagonal is "
            "one off",
            "attend where k <= q: torch.triu(ones, diagonal=1) marks what to ignore, diagonal=0 takes the "
            "token itself away",
            largest_diagonal_weight=0.0,
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

    Generation forgets what it has just read: aligned to the top left, the first query of a decode step sees
    one key, the oldest. A causal mask over fewer queries than keys belongs to the bottom right corner.

    In code: `scaled_dot_product_attention(..., is_causal=True)` with a cache (it is aligned to the top left),
    flash-attn before 2.1, `torch.tril(ones(Q, K))`.

    Fix: `torch.ones(Q, K).tril(diagonal=K - Q)`, `causal_lower_right`, or no mask at all for a single query.
    """
    past = {attention.name: attention.past for attention in scene.attentions}
    hits = list(_hits(scene, _top_left))
    single = {a.name for a in scene.attentions if a.shape[2] == 1 and _has_past(a)}
    if not single <= {hit.tensor for hit in hits}:
        # One head or layer that looks only at key 0 is a sink; a mask does it to all of them.
        hits = [hit for hit in hits if hit.tensor not in single]
    for group in fold(hits):
        behind = past[group.tensors[0]]
        yield group.found(
            f"{group.told('queries')} weigh keys 0 to q only, though {behind} keys come before the first "
            "query: the causal mask is aligned to the top left",
            "align it to the bottom right: torch.ones(Q, K).tril(diagonal=K - Q); is_causal=True is wrong "
            "with a cache",
            past=behind,
        )


@rule("MSK218", "causal-encoder", "warning", needs=("weights", "full expectation"), explained_by=NOT_WEIGHTS)
def causal_encoder(scene: Scene) -> Iterator[Found]:
    """No head of an encoder, or of a block of image tokens, ever looks ahead, although it was meant to.

    The encoder works as a decoder: each token knows only what stands before it, and the sentence's first
    words know nothing. Embeddings and tags get worse without anything failing.

    In code: `is_causal=True` left over from a decoder, `is_decoder=True` in the config, a serving engine that
    treats every model as causal, a vision-language model that is not given its `token_type_ids`.

    Fix: no causal mask in an encoder; only its padding is masked. Image blocks see all of themselves.
    """
    declared = {each.name: (each.meant_by, _ahead_fix(each)) for each in scene.attentions}
    for group in fold_by((hit, declared[hit.tensor]) for hit in _hits(scene, _never_ahead)):
        yield group.found(
            f"keys behind a query weigh exactly 0 in every head ({group.told('queries')}), although "
            f"{group.extra[0]} lets them be seen",
            group.extra[1],
            future_mass=0.0,
        )


def _never_as_far(scene: Scene, told: set[str]) -> Iterator[Found | Undecided]:
    """Maps, other than those told of, whose queries never look back as far as their declared window."""
    narrow = []
    for attention in scene.attentions:
        if attention.name in told or not _has_width(attention):
            continue
        if attention.window is not None and attention.shape[3] <= attention.window:
            yield Undecided(f"more than {attention.window} keys in {attention.name}")
            continue
        seen, rows = _narrower(attention)
        if rows is not None:
            narrow.append((Hit(attention.name, rows), Narrow(seen, attention.window)))
    for narrower in fold_by(narrow):
        held, width = narrower.extra
        meant = "no window was declared for this layer" if width is None else f"the window holds {width}"
        expected: dict[str, Any] = {} if width is None else {"keys_expected": width}
        yield narrower.found(
            f"no query looks back over more than {held} keys, itself included, in any head, where {meant}",
            _WINDOWS,
            keys_seen=held,
            **expected,
        )


def _hits(scene: Scene, rows_of: Callable[[Attention], Rows | None]) -> Iterator[Hit]:
    """The maps in which some rows show a pattern."""
    for attention in scene.attentions:
        rows = rows_of(attention)
        if rows is not None:
            yield Hit(attention.name, rows)


def _has_width(attention: Attention) -> bool:
    """Whether it was declared how far back a query of this layer reaches: over a window, or without end."""
    if attention.declared is None or attention.expected is None or attention.declared.bound:
        return False
    if attention.window is not None:
        return True
    causal_alone = attention.declared.particular and attention.future_expected
    return bool(causal_alone) and without(attention, {"chunked", "documents"}) is None


def _narrower(attention: Attention) -> tuple[int, Rows | None]:
    """How many keys every real row far enough from the start reaches back over, and rows that should further.

    All heads and samples together must stop at the same distance in every row: a sharp head or underflow
    stops anywhere.
    """
    sample = attention.sample
    real = sample.of(attention.real_rows)
    weighed = np.any((sample.values > 0) & real[..., None], axis=1)
    distances = attention.placement.distances(sample.queries)[: sample.items]
    behind = np.where(weighed, distances + 1, 0).max(axis=(0, 2))
    seen = int(behind.max(initial=0))
    first = attention.keys.real.argmax(axis=1).max() if attention.keys is not None else 0
    positions = attention.layout.positions[:, 0, sample.queries].min(axis=0)
    far = (positions - first + 1 > seen) & real.any(axis=(0, 1))
    width = math.inf if attention.window is None else attention.window
    if not 0 < seen < width or far.sum() < ROWS or (behind[far] != seen).any():
        return seen, None
    rows = attention.rows(attention.real_rows & (attention.causal.keys_per_query > seen))
    narrow = {"narrow": sliding(attention.layout, seen)}
    mass = measure(attention.tensor, attention.shape, narrow).mass["narrow"][rows]
    return seen, rows if mass.size and not np.nan_to_num(mass).any() else None


def _may_be_causal(attention: Attention) -> bool:
    """Whether nothing says that a query may see what comes behind it."""
    return attention.roled.kind != "cross" and (attention.expected is None or bool(attention.future_expected))


def _has_past(attention: Attention) -> bool:
    """Whether evidence or a declaration says that keys come before the first query."""
    return attention.roled.kind != "cross" and attention.past_known and attention.past > 0


def _strict(attention: Attention) -> Rows | None:
    """The real rows of a square map whose diagonal is exactly 0 in all heads, and whose first row has no key.

    The other rows must sum to 1: where a sink or a zero slot takes the first row's weight, it takes some from
    all rows.
    """
    queries, keys = attention.shape[2:]
    if queries != keys or queries < ROWS or attention.past or not _may_be_causal(attention):
        return None
    measured, future = attention.measured, attention.measured.mass["future"]
    is_first = np.arange(queries) == np.argmax(attention.real_rows, axis=2)[..., None]
    opening = attention.real & is_first
    rows = attention.real & ~is_first & ~attention.looks_empty
    # The second row of a strict mask has one key: where it weighs that less than 1, nothing else needs a
    # look.
    second = measured.high[:, :, 1:][attention.rows(is_first)[:, :, :-1]]
    one_key = (np.abs(second - 1) <= attention.tolerance).all()
    if not rows.any() or not one_key or future[rows].any():
        return None
    empty = attention.looks_empty | (future > 0.5)
    return rows | opening if empty[opening].all() and not _diagonal(attention)[rows].any() else None


def _diagonal(attention: Attention) -> Array:
    """Each query's weight on itself, [B, H, Q]."""
    own = window(attention.layout, 0)
    return measure(attention.tensor, attention.shape, {"own": ~own}).mass["own"]


def _top_left(attention: Attention) -> Rows | None:
    """The real rows of a map with a known past that all see exactly keys 0 to q."""
    if not _has_past(attention) or not _may_be_causal(attention):
        return None
    corner, sample = causal_top_left(attention.layout), attention.sample
    told = ~attention.looks_empty
    chosen = sample.of(attention.real & told)
    outside = (sample.values != 0) & ~sample.allowed(corner)
    if not chosen.any() or outside[chosen].any():
        return None
    meant = attention.causal if attention.expected is None else attention.expected
    rows = attention.real & ((meant - corner).keys_per_query > 0) & told
    mass = measure(attention.tensor, attention.shape, {"corner": corner}).mass["corner"]
    return rows if rows.any() and not mass[rows].any() else None


def _ahead_fix(attention: Attention) -> str:
    """How tokens come to see what lies ahead of them: by blocks that a tensor tells, or as an encoder."""
    read = tensors_in(attention.declared.spec) if attention.declared else set()
    if read:
        return f"give the model {', '.join(sorted(read))}, and build its mask with them"
    if attention.declared and attention.declared.spec != Named("full"):
        return "let the tokens of the prefix or block see one another, as the declared mask does"
    return "leave the causal mask out of an encoder; mask only its padding"


def _never_ahead(attention: Attention) -> Rows | None:
    """The real rows that may look ahead by the declared mask, when none of them does in any head."""
    if attention.expected is None or attention.roled.kind == "cross" or attention.shape[2] < ROWS:
        return None
    ahead = (attention.expected - attention.causal).keys_per_query > 0
    rows = attention.real & ahead & ~attention.looks_empty
    return rows if rows.any() and not attention.measured.mass["future"][rows].any() else None
