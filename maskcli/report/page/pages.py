"""What each command draws on its page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.errors import MaskcliError
from maskcli.inputs.beside import Beside, telling
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.reasons import Reason
from maskcli.meant.facts import Meant
from maskcli.report.page.data import Drawn, Place, Room, Side, card, page_data
from maskcli.report.page.html import html
from maskcli.report.terminal import output, say, write
from maskcli.scene.forbidden import forbidden
from maskcli.tensors.axes import map_shape

if TYPE_CHECKING:
    from maskcli.api.comparing import Comparison
    from maskcli.diagnostics.diagnose import Report
    from maskcli.diagnostics.finding import Finding
    from maskcli.inputs.looks import Inspected
    from maskcli.inputs.texts import Shown
    from maskcli.scene.describe import Described
    from maskcli.scene.scene import Attention, Saved, Scene
    from maskcli.text import Batch

# Megabytes of a page where --max-size does not say, and what is more than masks and weights in it.
MEGABYTES = 25
MEGABYTE = 10**6

Token = Callable[[int], str]


def page(title: str, drawn: Iterable[Drawn], megabytes: int | None, **more: Any) -> Iterator[str]:
    """A page in pieces; what had no room in it is said."""
    room = Room((megabytes or MEGABYTES) * MEGABYTE)
    data = page_data(title, drawn, room, **more)
    if room.sentences:
        say(f"maskcli: not on the page: {', '.join(room.sentences)}; a larger --max-size takes them in")
    return html(data)


def save(title: str, drawn: Iterable[Drawn], path: str | None, megabytes: int | None, **more: Any) -> None:
    """Write a page."""
    pieces = page(title, drawn, megabytes, **more)
    with output(path) as stream:
        write(pieces, stream)


def save_shown(shown: Shown, path: str | None, megabytes: int | None = None) -> None:
    """The page of `show`: the mask over its tokens."""
    save(f"maskcli show: {shown.spec}", [_shown(shown)], path, megabytes)


def _shown(shown: Shown) -> Drawn:
    batch, _, _, keys = shown.mask.shape
    queries = shown.queries
    heads = shown.mask.stored[1]
    names = [[shown.key_token(item, key) for key in range(keys)] for item in range(batch)]
    cached = keys - queries.shape[1] if shown.source is None else 0
    real = queries.attention_mask if shown.source is None else shown.source.attention_mask
    if cached:
        empty = cached - shown.past
        real = np.pad(real, [(0, 0), (shown.past, 0)], constant_values=True)
        real = np.pad(real, [(0, 0), (0, empty)])
    return Drawn(
        file="",
        name=shown.spec,
        role="mask",
        shape=(batch, heads, shown.mask.shape[2], keys),
        mask=shown.mask,
        reasons=shown.reasons,
        queries=Side(_texts(queries), queries.attention_mask, _documents(queries)),
        keys=Side(names, real, None if cached else _documents(shown.source or queries)),
        past=shown.past,
    )


def _texts(batch: Batch) -> list[list[str]]:
    items, length = batch.shape
    return [[batch.token(item, index) for index in range(length)] for item in range(items)]


def _documents(batch: Batch) -> Array | None:
    return batch.segments if batch.documents is not None else None


def save_inspected(inspected: Inspected, path: str | None, megabytes: int | None = None) -> None:
    """The page of `inspect`: every map of weights and every mask, one that is named alone in every cell."""
    alone = len(inspected.files) == 1 and len(inspected.files[0][1]) == 1
    drawn = []
    for file, tensors in inspected.files:
        told = telling(file, inspected.tokenizer, inspected.declared)
        maps = (_inspected(file, described, alone, told) for described in tensors)
        drawn += [each for each in maps if each is not None]
    if not drawn:
        raise MaskcliError(
            f"{path!r} shows attention weights and masks, and there are none; leave -o out for the list"
        )
    zoom = inspected.zoom
    start = (
        None
        if zoom is None
        else {"sample": zoom.batch, "head": zoom.head, "rows": zoom.rows, "keys": zoom.keys}
    )
    names = ", ".join(file for file, _ in inspected.files)
    save(f"maskcli inspect: {names}", drawn, path, megabytes, start=start)


def _inspected(file: str, described: Described, alone: bool, told: Callable[[str], Beside]) -> Drawn | None:
    tensor, role = described.roled.tensor, described.roled.role or ""
    if described.given is not None:
        shape = described.given.shape
        drawn = Drawn(file, tensor.name, role, shape, mask=described.given.keep)
        return _named(drawn, told(tensor.name))
    whole = map_shape(tensor.shape) if role in ("weights", "scores") else None
    if whole is None:
        return None
    drawn = Drawn(file, tensor.name, role, whole, tensor=tensor, asked=None if alone else ())
    return _named(drawn, told(tensor.name))


def _named(drawn: Drawn, told: Beside) -> Drawn:
    """A map of a file with the names of its tokens, and of weights with whom they may see."""
    batch, _, queries, keys = drawn.shape
    sides = [[told.names(item, (0, size), size) for item in range(batch)] for size in (queries, keys)]
    names = [None if None in side else [row or [] for row in side] for side in sides]
    fits = told.meant is not None and told.meant.shape == drawn.shape
    mask = told.meant if drawn.mask is None and fits else drawn.mask
    return replace(drawn, mask=mask, queries=Side(names[0]), keys=Side(names[1]))


def diagnosed(
    scenes: Iterable[Scene], report: Report, token: Token | None, text: Iterable[str], megabytes: int | None
) -> Iterator[str]:
    """The page of `diagnose`: maps of weights with their masks, and saved masks, with what was found."""
    drawn = [each for scene in scenes for each in of_scene(scene, report.findings, token)]
    title = f"maskcli diagnose: {', '.join(report.files)}"
    return page(title, drawn, megabytes, findings=map(card, report.findings), text=text)


def of_scene(scene: Scene, findings: Sequence[Finding], token: Token | None) -> Iterator[Drawn]:
    """The maps of a scene: weights with their masks, and saved masks."""
    for attention in scene.attentions:
        yield _attention(scene, attention, findings, token)
    for saved in scene.masks:
        yield _saved(scene, saved, token)


def _attention(scene: Scene, each: Attention, findings: Sequence[Finding], token: Token | None) -> Drawn:
    queries, keys = _sides(scene, each.roled.kind, each.shape, each.placement.own, token)
    said = each.placement.keys
    return Drawn(
        file=scene.file,
        name=each.name,
        role="weights",
        shape=each.shape,
        tensor=each.tensor,
        mask=each.keep,
        meant=each.meant,
        reasons=reasons_of(each.meant, each.layout, each.declared, each.meant_by),
        queries=Side(queries, None if each.queries is None else each.queries.real),
        keys=Side(keys, None if said is None else said.real, each.placement.documents),
        past=each.past,
        asked=_asked(each, findings),
    )


def reasons_of(allowed: Mask | None, layout: Layout, declared: Meant | None, by: str) -> tuple[Reason, ...]:
    """Why cells are forbidden, where it is known which may be seen."""
    if allowed is None:
        return ()
    return forbidden(allowed, layout, declared.spec if declared else None, by)


def _asked(each: Attention, findings: Sequence[Finding]) -> set[Place]:
    """Samples and heads where something was found."""
    batch, heads = each.shape[:2]
    return {
        (item, head)
        for finding in findings
        if each.name in finding.tensors
        for place in finding.places or (finding.where,)
        for item in place.batch or range(batch)
        for head in place.heads or range(heads)
    }


def _saved(scene: Scene, each: Saved, token: Token | None) -> Drawn:
    shape = each.given.shape
    queries, keys = _sides(scene, each.roled.kind, shape, each.placement.own, token)
    said = each.keys
    meant = each.expected[0].mask.broadcast_to(shape) if each.expected else None
    return Drawn(
        file=scene.file,
        name=each.given.tensor.name,
        role="mask",
        shape=shape,
        mask=each.given.keep,
        meant=meant,
        reasons=reasons_of(meant or each.given.keep, each.layout, each.declared, "the mask"),
        queries=Side(queries),
        keys=Side(keys, None if said is None else said.real, each.documents),
        past=each.past,
    )


def _sides(
    scene: Scene, kind: str, shape: Shape, own: Array, token: Token | None
) -> tuple[list[list[str]] | None, list[list[str]] | None]:
    """The texts of queries and keys, where ids of their number tell them; queries also by their own keys."""
    source, target = ("encoder", "decoder") if kind == "cross" else (kind, kind)
    keys = _ids(scene, (source, "self"), shape[3])
    queries = _ids(scene, (target, "self"), shape[2])
    if queries is None and keys is not None and kind != "cross" and own.min(initial=0) >= 0:
        queries = np.take_along_axis(keys, np.broadcast_to(own, (len(keys), own.shape[1])), axis=1)
    return _words(queries, token), _words(keys, token)


def _ids(scene: Scene, kinds: tuple[str, ...], length: int) -> Array | None:
    fitting = (
        tokens.ids
        for kind in kinds
        for tokens in scene.tokens
        if tokens.kind == kind and tokens.ids is not None and tokens.ids.shape[1] == length
    )
    return next(fitting, None)


def _words(ids: Array | None, token: Token | None) -> list[list[str]] | None:
    if ids is None:
        return None
    return [[str(each) if token is None else token(each) for each in row] for row in ids.tolist()]


def save_compared(compared: Comparison, path: str | None, megabytes: int | None = None) -> None:
    """The page of `diff`: two masks, or pairs of weights, on one place."""
    title = f"maskcli diff: A {compared.a}, B {compared.b}"
    text = [region.meaning for region in compared.regions]
    if compared.masks is not None:
        a, b = compared.masks
        drawn = [Drawn("", "A and B", "mask", _stored(a, b), mask=a, meant=b, words=("A", "B"))]
    else:
        drawn = list(_pairs(compared))
    save(title, drawn, path, megabytes, text=text or [str(compared)])


def _stored(a: Mask, b: Mask) -> Shape:
    """The shape of two masks; heads that are alike are one."""
    heads = max(a.stored[1], b.stored[1])
    return (a.shape[0], heads, a.shape[2], a.shape[3])


def _pairs(compared: Comparison) -> Iterator[Drawn]:
    from maskcli.inputs.operands import operand

    a, b = operand(compared.a), operand(compared.b)
    for pair in compared.tensors:
        first, second = _tensor(a, pair.a), _tensor(b, pair.b)
        shape = map_shape(first.shape)
        if shape is not None and first.shape == second.shape:
            drawn = Drawn("", pair.a, "weights", shape, tensor=first, other=second, words=("A", "B"))
            yield replace(drawn, asked=() if pair.difference.equal else None)


def _tensor(given: Any, name: str) -> Any:
    """The tensor of this name that an operand stands for."""
    known = given.tensors if given.tensor is None else (given.tensor,)
    return next(roled.tensor for roled in known if roled.tensor.name == name)
