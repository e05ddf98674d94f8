"""The rule on biases that positions add to the scores: MSK223."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.rule import NOT_WEIGHTS, rule
from maskcli.diagnostics.rules.hits import Hit, fold_by
from maskcli.diagnostics.rules.products import fit_the_map
from maskcli.diagnostics.verdicts.soft import of_sample
from maskcli.diagnostics.words import listed
from maskcli.masks.conventions import SILENT
from maskcli.scene.scene import Attention, Scene
from maskcli.tensors import Tensor
from maskcli.tensors.tolerances import tolerances

# A head tells when the bias, over the keys of a row, varies so many times as far as what it leaves
# unexplained: scores that hide it or stand in for it would have to be its mirror image, key by key.
PLAINLY = 4.0
# How far the slope of log W over the bias may lie from 0 (missing) and above -1 (reversed); 1 is applied, and
# some libraries add it twice.
NEAR = 0.25
# Heads that have to tell, in a map that has as many, and cells of a head.
HEADS, CELLS = 2, 6
# Weights below these have lost their digits: the least normal number of the type.
LEAST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126}


class Bias(NamedTuple):
    """What is added to the sampled scores [items, heads, n, K], NaN where none is told, and who says so."""

    values: Array
    said: str


class Line(NamedTuple):
    """How log W of a head follows the bias: the slope, and whether it is plain."""

    slope: float
    plain: bool


@rule(
    "MSK223",
    "bias-not-applied",
    "error",
    needs=("weights", "bias"),
    explained_by=(*NOT_WEIGHTS, "MSK201", "MSK204", "MSK206", "MSK212", "MSK215"),
)
def bias_not_applied(scene: Scene) -> Iterator[Found | Undecided]:
    """The weights do not follow the positional bias that the model has: it is missing, or has the wrong sign.

    Without the bias the model runs on, on a bag of words; with the wrong sign it looks at what is farthest
    away. A model with ALiBi or a relative bias knows the order of its tokens by nothing else.

    In code: a fused kernel called without `alibi_slopes` or `attn_mask=bias`, a bias of 0 in a converted
    model, `slope * (q - k)` where `slope * (k - q)` is right.

    Fix: add the bias to the scores before the softmax; ALiBi's falls with the distance.
    """
    hits = []
    for attention in scene.attentions:
        bias = _bias(attention, scene)
        if bias is None:
            continue
        slope = _slope(attention, bias)
        if slope is None:
            yield Undecided("query and key (or the scores before the bias)")
        elif abs(slope) <= NEAR or slope <= NEAR - 1:
            hits.append((Hit(attention.name, attention.real), (bias.said, slope > -NEAR, slope)))
    for group in fold_by(hits, alike=lambda extra: extra[:2]):
        said, missing, _ = group.extra
        # No minus before a slope of 0.
        slope = round(float(np.median([extra[2] for extra in group.extras])), 2) + 0.0
        what = "is missing from the weights" if missing else "is applied with the wrong sign"
        told = f"log W of {listed(group.tensors)} follows it with a slope of {slope:.2f}, not 1"
        yield group.found(
            f"{said} {what}: {told}",
            "add the bias to the scores before the softmax"
            if missing
            else "turn the sign of the bias: ALiBi adds slope * (k - q), which falls with the distance",
            slope=slope,
        )


def _bias(attention: Attention, scene: Scene) -> Bias | None:
    """The bias of a map's sampled cells, by a tensor, by its mask, or by the model's config."""
    tensor, given = attention.parts.get("bias"), attention.given
    if tensor is not None:
        sizes = _sizes(tensor.shape, attention.shape)
        values = None if sizes is None else _of_tensor(attention, tensor, sizes)
        return None if values is None else Bias(values, f"the bias {tensor.name!r}")
    if given is not None and given.is_bias and given.shape[3] == attention.shape[3]:
        values = _of_tensor(attention, given.tensor, given.shape)
        return Bias(values, f"the bias in the mask {given.tensor.name!r}")
    return _by_config(attention, scene)


def _by_config(attention: Attention, scene: Scene) -> Bias | None:
    """ALiBi as a declared config has it, where it is known where the keys stand."""
    config = scene.declared.model
    slopes = None if config is None or not config.declared else config.alibi
    placed = attention.roled.kind != "cross" and attention.placement.scattered is None
    if config is None or slopes is None or not placed or len(slopes) != attention.shape[1]:
        return None
    return Bias(_of_slopes(attention, slopes), f"the ALiBi bias that {config.source} declares")


def _sizes(saved: tuple[int, ...], shape: Shape) -> Shape | None:
    """A bias [H or B*H, Q, K], each axis 1 or the map's, as [b, h, q, K]; None when it does not fit."""
    batch, heads, queries, keys = shape
    if not 2 <= len(saved) <= 4 or saved[-1] != keys:
        return None
    blocks = len(saved) == 3 and saved[0] == batch * heads
    b, h, q = (batch, heads, saved[1]) if blocks else (1, 1, 1, *saved[:-1])[-3:]
    fits = b in (1, batch) and h in (1, heads) and q in (1, queries)
    return (b, h, q, keys) if fits else None


def _of_tensor(attention: Attention, tensor: Tensor, sizes: Shape) -> Array:
    """A saved bias in the sampled cells; fills are no bias."""
    sample = attention.sample
    values = np.empty(sample.values.shape)
    for item, head in np.ndindex(sample.items, sample.heads):
        plane = (item if sizes[0] > 1 else 0) * sizes[1] + (head if sizes[1] > 1 else 0)
        for at, query in enumerate(sample.queries.tolist()):
            row = plane * sizes[2] + (query if sizes[2] > 1 else 0)
            values[item, head, at] = tensor.rows(row, row + 1)[0]
    return np.where(values > SILENT, values, np.nan)


def _of_slopes(attention: Attention, slopes: tuple[float, ...]) -> Array:
    """ALiBi's bias in the sampled cells, but for what is the same over a row."""
    sample, layout = attention.sample, attention.layout
    at = np.arange(layout.keys)[None] if layout.keys_at is None else layout.keys_at[: sample.items]
    rising = np.array(slopes[: sample.heads])[:, None, None] * at[:, None, None].astype(np.float64)
    return np.broadcast_to(rising, sample.values.shape)


def _slope(attention: Attention, bias: Bias) -> float | None:
    """The slope of log W over the bias that all heads that tell have in common; None where none tells.

    What queries and keys, else the scores, explain is taken away first. Scores that explain all of W may hold
    the bias already: then the weights have to tell by themselves.
    """
    logs, cells = _logs(attention, bias)
    products = _products(attention)
    if products is not None:
        found = _common(attention, logs, bias.values, cells, products)
        if found is not None:
            return found
    scores = of_sample(attention, "scores")
    if scores is not None:
        finite = cells & np.isfinite(scores)
        found = _common(attention, logs - np.where(finite, scores, 0), bias.values, finite, None)
        if found is not None and abs(found) > NEAR:
            return found
    return _common(attention, logs, bias.values, cells, None)


def _logs(attention: Attention, bias: Bias) -> tuple[Array, Array]:
    """log W, and the cells [items, heads, n, K] that count: of real rows, for keys that they may see, with
    weights that have their digits.
    """
    sample = attention.sample
    values = sample.values.astype(np.float64)
    cells = np.isfinite(values) & (values > LEAST.get(attention.tensor.dtype, 2.0**-126))
    cells &= np.isfinite(bias.values) & sample.of(attention.real_rows)[..., None]
    if attention.meant is not None:
        cells &= sample.allowed(attention.meant)
    if attention.padding is not None:
        cells &= sample.allowed(attention.padding)
    return np.log(values, out=np.zeros(values.shape), where=cells), cells


def _products(attention: Attention) -> Array | None:
    """q.k of the sampled cells, for keys of fewer heads as well; None without queries and keys that fit."""
    query, key, heads = attention.parts.get("query"), attention.parts.get("key"), attention.shape[1]
    if query is None or key is None or not fit_the_map(attention, query, key) or heads % key.shape[1]:
        return None
    sample, shared = attention.sample, heads // key.shape[1]
    made = np.empty(sample.values.shape)
    for item, head in np.ndindex(sample.items, sample.heads):
        rows = query.read((item, head)).astype(np.float64)[sample.queries]
        made[item, head] = rows @ key.read((item, head // shared)).astype(np.float64).T
    return made if np.isfinite(made).all() else None


def _common(
    attention: Attention, logs: Array, bias: Array, cells: Array, products: Array | None
) -> float | None:
    """The median slope of the heads that tell, when they agree; 1 (nothing to say) when they do not."""
    rounding = tolerances(attention.tensor.dtype).bias
    lines = []
    for head in range(logs.shape[1]):
        more = None if products is None else products[:, head]
        lines.append(_line(logs[:, head], bias[:, head], cells[:, head], more, rounding))
    slopes = [line.slope for line in lines if line.plain]
    if len(slopes) < min(HEADS, len(lines)):
        return None
    middle = float(np.median(slopes))
    apart = float(np.abs(np.array(slopes) - middle).max())
    return middle if apart <= 2 * NEAR * max(1.0, abs(middle)) else 1.0


def _line(logs: Array, bias: Array, cells: Array, products: Array | None, rounding: float) -> Line:
    """log W of one head [items, n, K] as a line over the bias, and over q.k where these are known."""
    explained = bias if products is None else products
    columns = [_centred(bias, cells), _centred(explained, cells)]
    wanted = _centred(logs, cells)
    if wanted.size < CELLS:
        return Line(1.0, False)
    if products is not None:
        # What q.k explains of either is no evidence.
        scale = max(float(columns[1] @ columns[1]), np.finfo(float).tiny)
        left = columns[0] - columns[1] * (columns[0] @ columns[1] / scale)
        wanted = wanted - columns[1] * (wanted @ columns[1] / scale)
    else:
        left = columns[0]
    varies = float(np.sqrt(np.mean(left**2)))
    if varies == 0:
        return Line(1.0, False)
    slope = float(left @ wanted / (left @ left))
    rest = float(np.sqrt(np.mean((wanted - slope * left) ** 2)))
    return Line(slope, varies > max(PLAINLY * rest, rounding))


def _centred(values: Array, cells: Array) -> Array:
    """The values of the cells, flat, less the mean of their row."""
    inside = np.where(cells, values, 0.0)
    means = inside.sum(axis=-1, keepdims=True) / np.maximum(cells.sum(axis=-1, keepdims=True), 1)
    centred: Array = (inside - means)[cells]
    return centred
