"""Rules on which keys a saved mask lets each query see: MSK109 to MSK111."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rule import rule
from maskcli.diagnostics.rules.hits import Hit, fold_by
from maskcli.diagnostics.words import told
from maskcli.masks.kinds import causal as causal_over
from maskcli.masks.kinds import padding as padding_over
from maskcli.masks.kinds import window
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Joined, Named, Spec, build, conjuncts, kinds_in, names_files, needs, write
from maskcli.meant.facts import Meant
from maskcli.scene.scene import Saved, Scene

CAUSAL, DOCUMENTS = Named("causal"), Named("documents")
# Kinds that say "nothing behind the query"; the padding of `combined` is looked at apart.
LOOKS_BACK = (CAUSAL, Named("combined"))


@rule("MSK110", "misaligned-causal", "error", needs=("mask",))
def misaligned_causal(scene: Scene) -> Iterator[Found]:
    """A causal mask over a cache begins at its first key: query q sees keys 0 to q instead of 0 to past + q.

    Most of the cache is hidden, and the query itself: with keys of earlier steps in front, the first new
    query stands at position `past`, not at 0. A decode step of one query sees the first key alone.

    In code: `scaled_dot_product_attention(q, k, v, is_causal=True)` or `tril(ones(Q, K))` with fewer queries
    than keys.

    Fix: `tril(ones(Q, K), diagonal=K - Q)`; for a single query no causal mask at all.
    """
    hits = []
    for saved in _patterned(scene):
        after_cache = saved.past_known and saved.past > 0
        if after_cache and any(_is_top_left(saved, spec) for spec in _meant(saved)):
            hidden = (~saved.given.keep & _real(saved)) & causal_over(saved.layout)
            hits.append((_hit(saved, hidden, _without_padding(saved, hidden)), saved.past))
    for group in fold_by(hits):
        past = group.extra
        first = group.where.queries[0][0] if group.where.queries else 0
        yield group.found(
            f"the mask is aligned at the first key though {past} keys come before the first query: query "
            f"{first} sees no key behind key {first}, and stands at key {first + past}",
            "shift the diagonal by the keys in the cache: torch.tril(ones(Q, K), diagonal=K - Q); one "
            "query needs no causal mask",
            past=past,
        )


def _is_top_left(saved: Saved, spec: Spec) -> bool:
    """Whether the mask is the meant one with its first query at key 0, hiding every real query's own key."""
    if (_own_keys(saved.layout) & saved.given.keep & _real(saved)).attended:
        return False
    meant, shifted = _built(spec, saved.layout), _built(spec, replace(saved.layout, past=0))
    return meant is not None and shifted is not None and _is_causal(saved, meant) and _fits(saved, shifted)


@rule("MSK109", "shifted-diagonal", "error", needs=("mask",), explained_by=("MSK110",))
def shifted_diagonal(scene: Scene) -> Iterator[Found]:
    """The causal mask is off by one: no token sees itself, or every token sees the one behind it.

    Without the diagonal the first token has no key at all, and its row is NaN or a plain mean. With one key
    too many the model reads the very token that it has to predict: the loss falls towards zero and generation
    is worthless.

    In code: `torch.tril(ones, diagonal=-1)`, `triu(ones, diagonal=0)` as the keys to ignore, or `tril(ones,
    diagonal=1)`.

    Fix: attend where `torch.tril(ones)` is 1, which is to ignore where `torch.triu(ones, diagonal=1)` is 1.
    """
    steps = ((saved, _diagonal_step(saved)) for saved in _patterned(scene))
    for group in fold_by(
        (_hit(saved, _own_keys(saved.layout) & _real(saved), None), step) for saved, step in steps if step
    ):
        effect = "shows every query one key behind its own: the token that it has to predict"
        if group.extra < 0:
            effect = (
                "hides every token from itself: a query sees only the keys before its own, and the first "
                "one none"
            )
        yield group.found(
            f"the mask {effect}",
            "attend where torch.tril(torch.ones(Q, K), diagonal=K - Q) is 1, the diagonal included and "
            "nothing behind it",
            diagonal=group.extra,
        )


def _diagonal_step(saved: Saved) -> int:
    """How far the mask's diagonal lies behind the meant one: -1 or 1; 0 for a right mask, or another one."""
    layout = saved.layout
    if layout.queries != layout.keys and not saved.past_known:
        return 0
    keep = saved.given.keep & _real(saved)
    step = 1 if (_own_keys(layout) & keep).attended else -1
    if step > 0 and not (_own_keys(layout.moved(1)) & keep).attended:
        return 0
    return step if any(_is_shifted(saved, spec, step) for spec in _meant(saved)) else 0


def _is_shifted(saved: Saved, spec: Spec, step: int) -> bool:
    """Whether the mask is the meant one with its diagonal moved by `step`, and nothing else explains it.

    Nothing declared, a mask without its diagonal is a fault only when it leaves a query no key: with a zero
    or sink slot in front it does not. A mask in which every real query sees every key is none of these.
    """
    layout = saved.layout
    apart = tuple(part for part in conjuncts(spec) if isinstance(part, Named) and part.name == "documents")
    rest = tuple(part for part in conjuncts(spec) if part not in apart)
    meant, texts = _built(spec, layout), _all_of(apart, layout)
    if meant is None or texts is None or "documents" in kinds_in(Joined("&", rest)):
        return False
    if not _is_causal(saved, meant) or _is_in_order(saved, meant, step):
        return False
    # As if each query stood one key further, with the far end of its window moved along or not.
    moved = _all_of(rest, layout.moved(step))
    if moved is None:
        return False
    kept_end = moved | meant if step > 0 else moved & meant
    return _fits(saved, moved & texts) or _fits(saved, kept_end & texts)


def _is_in_order(saved: Saved, meant: Mask, step: int) -> bool:
    """Whether the mask is the meant one or hides nothing, or lacks its diagonal where nobody needs it."""
    if _fits(saved, meant) or _fits(saved, Mask.full(saved.given.shape)):
        return True
    return step < 0 and saved.declared is None and _feeds_all(saved)


def _all_of(parts: tuple[Spec, ...], layout: Layout) -> Mask | None:
    """What all the parts let attend; None when one of them cannot be built."""
    whole: Mask | None = Mask.full(layout.shape)
    for part in parts:
        mask = _built(part, layout)
        whole = None if mask is None or whole is None else whole & mask
    return whole


def _feeds_all(saved: Saved) -> bool:
    """Whether the mask leaves every real query a key that is no padding."""
    keep = _without_padding(saved, saved.given.keep)
    return not (_real(saved) - _with_keys(keep)).attended


def _without_padding(saved: Saved, mask: Mask) -> Mask:
    return mask if saved.keys is None else mask & padding_over(saved.layout)


@rule("MSK111", "wrong-window", "error", needs=("mask", "mask window"), explained_by=("MSK110", "MSK109"))
def wrong_window(scene: Scene) -> Iterator[Found | Undecided]:
    """The mask's sliding window is not the one that the layer was trained with.

    One key more is a small error at every token; no window at all, as a custom 4-D mask makes it, is a large
    one on long texts. Libraries count windows differently: "4" is four keys with the query itself, four keys
    before it, or four on both sides.

    In code: `q - k <= window` where `q - k < window` was meant, `abs(q - k) < window`, flash-attn's
    `window_size=(W, 0)`.

    Fix: attend where `0 <= q - k < W`; in flash-attn `window_size=(W - 1, 0)`.
    """
    hits = []
    for saved in scene.masks:
        if saved.declared is None or saved.window is None or saved.given.nan:
            continue
        size, asked = saved.window, saved.declared.spec
        meant, bare = _built(asked, saved.layout), _built(_with(asked, size, CAUSAL), saved.layout)
        if meant is None or bare is None:
            yield Undecided(
                "attention_mask and position_ids beside the mask: the declared mask speaks of them"
            )
            continue
        if not ((meant ^ bare) & _real(saved)).attended:
            yield Undecided(f"a mask over more than {size} keys: over fewer, no window shows")
            continue
        fits = _fits(saved, meant) or (saved.declared.bound and _is_within(saved, meant))
        window = None if fits else _other_window(saved, saved.declared, size)
        if window is not None:
            differing = (saved.given.keep ^ meant) & _real(saved)
            hits.append((_hit(saved, differing, differing), window))

    for group in fold_by(hits, alike=lambda window: window.specs):
        window, (spec, declared) = group.extra, group.extra.specs
        yield group.found(
            f"the mask is {spec!r}: a query sees up to {window.seen} keys where {window.declared.source} "
            f"{declared!r} means {window.meant}, itself included ({window.reading}); first at "
            f"{told(group.where.queries, 'queries')}",
            "attend where 0 <= q - k < W (flash-attn: window_size=(W - 1, 0)), W being the model's "
            "sliding_window",
            window=window.meant,
            keys_seen=window.seen,
        )


class _Window(NamedTuple):
    """A mask with another window than declared: its spec, the keys a query sees and should, the mistake."""

    spec: Spec
    declared: Meant
    seen: int
    meant: int
    reading: str

    @property
    def specs(self) -> tuple[str, str]:
        """What the mask is and what was declared, as text."""
        return write(self.spec), write(self.declared.spec)


def _other_window(saved: Saved, declared: Meant, size: int) -> _Window | None:
    """The mask as the declared one with another window, or with none; None when it is not just that."""
    seen = int((saved.given.keep & _real(saved)).keys_per_query.max())
    readings: list[tuple[Spec, str]] = [
        (Named("sliding", (size + 1,)), "one key too many: the query itself was not counted"),
        (CAUSAL, "no window at all"),
        (Named("sliding", (max(seen, 1),)), "another window"),
        (Named("window", (size,)), "a window on both sides"),
        (Named("window", (size - 1,)), "a window on both sides"),
    ]
    for put, reading in readings:
        other = _with(declared.spec, size, put)
        mask = _built(other, saved.layout)
        if mask is not None and _fits(saved, mask):
            return _Window(other, declared, seen, size, reading)
    return None


def _with(spec: Spec, size: int, put: Spec) -> Spec:
    """A declared mask with another kind in the place of its window and of the kinds that look back."""
    kept = tuple(
        part for part in conjuncts(spec) if part != Named("sliding", (size,)) and part not in LOOKS_BACK
    )
    return Joined("&", (put, *kept)) if kept else put


def _patterned(scene: Scene) -> Iterator[Saved]:
    """Masks of attention within one sequence, of which the cells of some real query can be read."""
    for saved in scene.masks:
        within = saved.roled.kind != "cross" and not saved.given.nan
        if within and (saved.given.keep & _real(saved)).attended:
            yield saved


def _meant(saved: Saved) -> tuple[Spec, ...]:
    """What the mask can be meant to be: as declared, else causal, over packed documents as well."""
    if saved.declared is not None:
        return (saved.declared.spec,)
    return (CAUSAL,) if saved.documents is None else (CAUSAL, Joined("&", (CAUSAL, DOCUMENTS)))


def _built(spec: Spec, layout: Layout) -> Mask | None:
    """The mask of a spec, None when what it needs is not known."""
    known = {"padding": layout.real is not None, "documents": layout.documents is not None and layout.inside}
    if names_files(spec) or not all(known.get(need, False) for need in needs(spec)):
        return None
    return build(spec, layout)


def _is_causal(saved: Saved, meant: Mask) -> bool:
    """Whether every real query is meant to see itself and nothing behind it."""
    behind = meant - causal_over(saved.layout)
    return not behind.attended and not ((_own_keys(saved.layout) - meant) & _real(saved)).attended


def _fits(saved: Saved, wanted: Mask) -> bool:
    """Whether the mask is the wanted one in the rows of real tokens, with or without the padding.

    Which keys are padding says the input, or else the mask itself: those that no query sees.
    """
    keep, real = saved.given.keep, _real(saved)
    seen = np.any((keep & real).seen, axis=1)
    shown = _columns(keep.shape, seen) if saved.keys is None else padding_over(saved.layout)
    return any(not ((keep ^ each) & real).attended for each in (wanted, wanted & shown))


def _is_within(saved: Saved, bound: Mask) -> bool:
    """Whether the mask shows real queries nothing beyond what may be seen at most."""
    return not ((saved.given.keep - bound) & _real(saved)).attended


def _real(saved: Saved) -> Mask:
    """Every cell in the row of a real token."""
    shape = saved.given.shape
    return Mask.from_intervals(shape, np.zeros(1, np.int64), np.where(saved.pad_rows, 0, shape[3]))


def _with_keys(keep: Mask) -> Mask:
    """Every cell in a row that has a key."""
    return Mask.from_intervals(
        keep.shape, np.zeros(1, np.int64), np.where(keep.keys_per_query > 0, keep.shape[3], 0)
    )


def _own_keys(layout: Layout) -> Mask:
    """The cell of each query and its own key."""
    return window(layout, 0)


def _columns(shape: tuple[int, int, int, int], keys: Array) -> Mask:
    """The columns of some keys [b, K]."""
    columns = Mask.from_dense(keys[:, None, None, :]).broadcast_to(shape)
    assert columns is not None
    return columns


def _hit(saved: Saved, rows: Mask, keys: Mask | None) -> Hit:
    """A mask whose rows with a cell in `rows` are flagged, and the keys that cells of `keys` concern."""
    flagged = rows.keys_per_query > 0
    if keys is None:
        return Hit(saved.given.tensor.name, flagged)
    concerned = np.broadcast_to(np.any(keys.seen, axis=1), (len(flagged), saved.given.shape[3]))
    return Hit(saved.given.tensor.name, flagged, concerned)
