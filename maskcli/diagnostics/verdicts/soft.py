"""Masks that only soften: forbidden keys keep a small, constant or evenly shifted part of their weight."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Rows
from maskcli.diagnostics.verdicts.verdict import FEW_KEYS, TINY, Kind, Softened, Verdict
from maskcli.masks.mask import Mask
from maskcli.scene.scene import Attention
from maskcli.tensors.tolerances import tolerances

# A soft mask leaves a forbidden key at most this share of an allowed one's weight: exp(-3). What a model that
# reads its padding gives it lies between 0.15 and 1 (measured), and differs from head to head.
SOFTENED = 0.05
# Fills that ordinary scores do not reach, and large ones do; rows that weigh one key alone have such scores.
THOUSANDS, ONE_KEY, HALF_OF_EVEN = (-1.05e4, -1e3), 0.99, 0.8
# Keys and rows that place a weight among others, in standard deviations of their scores, and how far a real
# key's place wanders at least.
PLACED_KEYS, PLACED_ROWS, WANDERS = 12, 32, 0.5


class Looked(NamedTuple):
    """Sampled cells [items, heads, n, K]: their weights, which are allowed, and which are forbidden and weigh
    something in some head; what weighs nothing was hidden by another mask. And which rows count.
    """

    values: Array
    allowed: Array
    weighed: Array
    rows: Array


def soft(attention: Attention, rows: Rows, share: Array) -> Verdict | None:
    """A soft mask over flagged rows [B, H, Q], by what was added to scores, by equal or by small weights."""
    if attention.meant is None:
        return None
    looked = _look(attention, attention.meant, rows)
    if not looked.rows.any():
        return None
    bias, rounding = implied_bias(attention, looked), 4 * tolerances(attention.tensor.dtype).bias
    if bias is not None and bias.spread <= rounding:
        extra = Softened("implied_bias", bias.strength) if bias.strength < -rounding else None
    else:
        extra = _overcome(attention, share) or _constant(attention, looked, only_real=bias is None)
        extra = extra or _small(looked)
    return None if extra is None else Verdict(Kind.SOFT, rows, share, attention.meant, extra)


def _look(attention: Attention, meant: Mask, rows: Rows) -> Looked:
    """The sample, with the flagged rows that have both allowed and forbidden keys."""
    sample = attention.sample
    allowed = sample.allowed(meant)
    chosen = sample.of(rows) & (allowed.sum(axis=3) > 0) & ((~allowed).sum(axis=3) > 0)
    weighed = ~allowed & np.any(sample.values > 0, axis=1, keepdims=True)
    return Looked(sample.values, allowed, weighed, chosen)


def multiplied(attention: Attention, rows: Rows, share: Array) -> Verdict | None:
    """Scores multiplied by a mask of 0 and 1 over flagged rows: real keys of the score 0 weigh the same."""
    if attention.meant is None:
        return None
    extra = _constant(attention, _look(attention, attention.meant, rows), only_real=True)
    return None if extra is None else Verdict(Kind.SOFT, rows, share, attention.meant, extra)


def _constant(attention: Attention, looked: Looked, only_real: bool) -> Softened | None:
    """Every forbidden key of a row weighs the same, while allowed ones differ."""
    values, allowed = looked.values.astype(np.float64), looked.allowed
    telling = looked.weighed
    # Padding tokens that share a position have one key, and so one weight, without any mask: only real tokens
    # tell, or a weight that keeps its place among the others, as that of the score 0 does.
    if only_real and attention.keys is not None:
        of_real = telling & attention.keys.real[: len(values), None, None]
        of_zero = not of_real[looked.rows].any() and _keeps_its_place(looked) and not _are_zeros(attention)
        telling = telling if of_zero else of_real
    several = looked.rows & (telling.sum(axis=3) > 1) & (allowed.sum(axis=3) > 1)
    low, high = extremes(values, telling)
    least, most = extremes(values, allowed)
    constant = several & (low == high) & (low > 0) & (most > 1.01 * least)
    if several.sum() < FEW_KEYS or not constant[several].all():
        return None
    return Softened("constant_weight", float(low[several].mean()))


def _are_zeros(attention: Attention) -> bool:
    """Whether the saved keys of padding are zeros, as padding_idx makes them: then so are their scores."""
    key, keys = attention.parts.get("key"), attention.keys
    if key is None or keys is None or (key.shape[0], key.shape[-2]) != keys.real.shape:
        return False
    item = int((~keys.real).any(axis=1).argmax())
    values = key.read((slice(item, item + 1),))
    used = (values != 0).any(axis=-1).reshape(-1, key.shape[-2]).any(axis=0)
    return not bool(used[~keys.real[item]].any())


def _overcome(attention: Attention, share: Array) -> Softened | None:
    """A fill of a few thousand beside scores as large: rows weigh one key, and mostly an allowed one."""
    given = attention.given
    fill = None if given is None else given.fill
    if fill is None or not THOUSANDS[0] <= fill <= THOUSANDS[1]:
        return None
    high = attention.measured.high[attention.real]
    if np.median(high) < ONE_KEY or np.mean(share[attention.real]) > HALF_OF_EVEN * _even(attention):
        return None
    return Softened("fill", fill)


def _even(attention: Attention) -> float:
    """The share of a row that ignored keys would have if all were alike, on average."""
    assert attention.meant is not None
    kept = attention.rows(attention.meant.keys_per_query)[attention.real]
    return float(1 - kept.mean() / attention.shape[3])


def _keeps_its_place(looked: Looked) -> bool:
    """Whether forbidden keys, all of one weight, lie where scores of 0 do: near the middle in every row.

    The score of a real key wanders from row to row as far as those of other keys do.
    """
    values, allowed = looked.values.astype(np.float64), looked.allowed & (looked.values > 0)
    logs = np.log(values, out=np.zeros(values.shape), where=values > 0)
    counts = allowed.sum(axis=3)
    least = np.where(looked.weighed, values, np.inf).min(axis=3)
    rows = looked.rows & (counts >= PLACED_KEYS) & (least > 0) & np.isfinite(least)
    if rows.sum() < PLACED_ROWS:
        return False
    mean = (logs * allowed).sum(axis=3) / np.maximum(counts, 1)
    spread = np.sqrt(((logs - mean[..., None]) ** 2 * allowed).sum(axis=3) / np.maximum(counts, 1))
    forbidden = np.where(looked.weighed, logs, -np.inf).max(axis=3)
    places = ((forbidden - mean) / np.maximum(spread, TINY))[rows]
    return bool(np.std(places) < WANDERS and abs(np.mean(places)) < 1)


def _small(looked: Looked) -> Softened | None:
    """A forbidden key weighs something in every head, and everywhere far less than an allowed one."""
    per_allowed, per_forbidden = _mean(looked.values, looked.allowed), _mean(looked.values, ~looked.allowed)
    ratio = np.divide(per_forbidden, per_allowed, out=np.ones(per_allowed.shape), where=per_allowed > 0)
    heads = np.where(looked.rows, ratio, 0.0).max(axis=(0, 2), initial=0.0)
    if heads.min() <= 0 or heads.max() >= SOFTENED:
        return None
    return Softened("ratio", float(ratio[looked.rows].mean()))


def _mean(values: Array, chosen: Array) -> Array:
    mean: Array = (values.astype(np.float64) * chosen).sum(axis=3) / np.maximum(chosen.sum(axis=3), 1)
    return mean


def extremes(values: Array, chosen: Array) -> tuple[Array, Array]:
    """The lowest and highest of the chosen values along the last axis; infinities where none is chosen."""
    low = np.min(values, axis=-1, where=chosen, initial=np.inf)
    high = np.max(values, axis=-1, where=chosen, initial=-np.inf)
    return low, high


def of_sample(attention: Attention, role: str) -> Array | None:
    """The sampled rows of a tensor of the map's shape, such as its scores; None without one."""
    tensor = attention.parts.get(role)
    if tensor is None or tensor.shape != attention.tensor.shape:
        return None
    sample = attention.sample
    rows = np.empty(sample.values.shape)
    for item, head in np.ndindex(sample.items, sample.heads):
        start = (item * attention.shape[1] + head) * attention.shape[2]
        rows[item, head] = [tensor.rows(start + q, start + q + 1)[0] for q in sample.queries.tolist()]
    return rows


class Bias(NamedTuple):
    """What was really added to forbidden scores, and how far that varies."""

    strength: float
    spread: float


def implied_bias(attention: Attention, looked: Looked) -> Bias | None:
    """What was added to forbidden scores, from log W - S centred on the allowed keys.

    None without scores of the map's shape, or when W is no softmax of S on the allowed keys.
    """
    scores = of_sample(attention, "scores")
    if scores is None:
        return None
    weighed = (looked.values > 0) & np.isfinite(scores) & looked.rows[..., None]
    logs = np.log(looked.values, out=np.zeros(scores.shape), where=weighed)
    added = logs - np.where(weighed, scores, 0.0)
    kept, lost = looked.allowed & weighed, ~looked.allowed & weighed
    counts = kept.sum(axis=3, keepdims=True)
    added = added - (added * kept).sum(axis=3, keepdims=True) / np.maximum(counts, 1)
    # A row that weighs no allowed key has nothing to be centred on.
    kept, lost = kept & (counts > 0), lost & (counts > 0)
    rounding = 4 * tolerances(attention.tensor.dtype).bias
    if not lost.any() or np.abs(added[kept]).max(initial=0.0) > rounding:
        return None
    middle = float(np.median(added[lost]))
    return Bias(middle, float(np.abs(added[lost] - middle).max()))
