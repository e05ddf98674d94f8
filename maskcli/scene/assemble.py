"""Put scenes together: which tensors of a file belong to one another, by group, kind, layer and shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from maskcli.arrays import Shape
from maskcli.errors import MaskcliError
from maskcli.masks.kinds import causal, padding
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Named, Resolve, Spec, axes, build, conjuncts, kinds_in, needs, write
from maskcli.meant.facts import Declared, Meant
from maskcli.scene.by_weights import by_weights, left_padding, obey_inverse, over_keys
from maskcli.scene.layouts import in_usual_order
from maskcli.scene.named import held
from maskcli.scene.placement import POSITIONS, WEIGHTS, Placement, place
from maskcli.scene.saved_mask import Given, read_mask
from maskcli.scene.scene import Attention, Expected, Saved, Scene
from maskcli.scene.sides import token_sets
from maskcli.scene.standing import check_declared
from maskcli.scene.witnesses import Padding, Witnesses
from maskcli.tensors import Roled, Tensor
from maskcli.tensors.axes import map_shape, mask_shape
from maskcli.tensors.roles import Kind

# Tensors of one layer that belong to its map.
PARTS = ("scores", "bias", "query", "key", "value", "output")
# What a spec may need to know of the input, and what would tell it.
INPUT_FACTS = {
    "padding": "which keys are padding: save attention_mask beside it, or input_ids and pass --pad-id",
    "documents": "where documents begin: save position_ids, segment_ids or cu_seqlens, or write "
    "documents:5,3,7",
}


def build_scenes(
    file: str, roled: tuple[Roled, ...], declared: Declared, resolve: Resolve | None = None
) -> tuple[Scene, ...]:
    """One scene for each group of tensors (`left.`, `step3.`, …); what the file has for all is in each."""
    groups = list(dict.fromkeys(each.group for each in roled if each.role)) or [""]
    common_maps = any(each.role == "weights" and not each.group for each in roled)
    if any(groups) and not common_maps:
        groups = [group for group in groups if group]
    scenes = _in_pairs({group: _scene(file, roled, group, declared, resolve) for group in groups})
    placed = [each for scene in scenes for each in (*scene.attentions, *scene.masks)]
    shapes = [each.placement.shape for each in placed if each.roled.kind != "cross"]
    check_declared(Witnesses(roled, "", declared), shapes)
    return scenes


def _in_pairs(scenes: dict[str, Scene]) -> tuple[Scene, ...]:
    """The scenes by group, those of chosen texts with the rejected ones."""
    others = (scenes.get(group.replace("chosen", "rejected")) for group in scenes)
    return tuple(
        scene if other in (None, scene) else replace(scene, rejected=other.tokens)
        for scene, other in zip(scenes.values(), others, strict=True)
    )


def layout_of(tensors: tuple[Roled, ...], declared: Declared, shape: Shape, kind: str = "self") -> Layout:
    """What the tensors of a file tell of the input of a mask [B, H, Q, K]: its padding, documents and past.

    Pass only tensors that may testify: a mask under test is no witness of its own padding.
    """
    witnesses = Witnesses(tensors, "", declared)
    check_declared(witnesses, [shape])
    placement = place(witnesses, kind, shape)
    return replace(placement.layout, cross=kind == "cross")


def _scene(
    file: str, roled: tuple[Roled, ...], group: str, declared: Declared, resolve: Resolve | None
) -> Scene:
    tensors = in_usual_order(tuple(each for each in roled if each.group in (group, "")))
    if declared.model is not None:
        config = declared.model.told_by(lambda name: held(name, tensors) is not None)
        declared = replace(declared, model=config)
    room = _Room(file, declared, resolve, Witnesses(tensors, group, declared))

    attentions = room.attentions([each for each in tensors if each.role == "weights" and each.group == group])
    room.unfit.update(_of_other_resolution(attentions))
    saved = [room.saved(each, attentions) for each in tensors if each.role == "mask"]
    masks = tuple(mask for mask in saved if mask)
    return Scene(file, declared, tensors, attentions, masks, tuple(token_sets(room.witnesses)), room.unfit)


@dataclass(frozen=True, eq=False)
class _Room:
    """One scene while it is put together: why tensors are `unfit`, and the masks that were read."""

    file: str
    declared: Declared
    resolve: Resolve | None
    witnesses: Witnesses
    unfit: dict[str, str] = field(default_factory=dict)
    givens: dict[str, Given | None] = field(default_factory=dict)

    def attentions(self, weights: list[Roled]) -> tuple[Attention, ...]:
        """The attention maps among tensors of weights; the others are in `unfit`, each with a reason."""
        found = [self.attention(roled) for roled in weights]
        maps = [attention for attention in found if attention]
        sizes = Counter((each.roled.kind, each.shape[2:]) for each in maps)
        return tuple(attention for attention in maps if not self.is_other_layout(attention, sizes))

    def attention(self, roled: Roled) -> Attention | None:
        """The attention map of one weights tensor, or None (with a reason in `unfit`) when it is none."""
        shape = self._map_shape(roled)
        if shape is None:
            return None

        placement = place(self.witnesses, roled.kind, shape, roled.tensor)
        if self._is_guessed_wrong(roled, placement):
            self.witnesses.turn_padding(roled.kind)
            placement = place(self.witnesses, roled.kind, shape, roled.tensor)
        meant = self.declared.meant(roled.tensor.name, roled.kind, roled.layer)
        if meant is not None and _holds_its_window(meant.spec, shape):
            placement = placement.of_last_keys()
        given = self._mask_of(roled, placement)
        expected = self._expected(meant, roled, placement) if meant else None

        real = None if expected is None else _padding_by_weights(roled, placement, expected)
        if meant is not None and real is not None:
            expected = self._expected(meant, roled, replace(placement, keys=real))
            placement = replace(placement, queries=Padding(real.real[:, : shape[2]], real.source))
        return Attention(
            roled, placement, given, meant, expected, self.declared.exact, parts=self._parts(roled)
        )

    def _map_shape(self, roled: Roled) -> Shape | None:
        said = self.witnesses.padding(roled.kind)
        tensor = roled.tensor
        if roled.unfit is not None:
            self.unfit[tensor.name] = roled.unfit
            return None
        shape = map_shape(tensor.shape, len(said.real) if said else None)
        if shape is None:
            self.unfit[tensor.name] = f"its shape {list(tensor.shape)} is no [B, H, Q, K]"
            return None
        if roled.kind != "cross" and shape[2] > shape[3]:
            self.unfit[tensor.name] = (
                f"its shape {list(tensor.shape)} has fewer keys than queries, as local attention keeps them; "
                "where each key stands is not known"
            )
            return None
        return shape

    def _mask_of(self, roled: Roled, placement: Placement) -> Given | None:
        """The saved mask of a map; a guessed polarity is turned as the weights obey it."""
        kinds = (roled.kind, *self.witnesses.kinds(roled.kind))
        mask = self.witnesses.find("mask", kinds, roled.layer)
        given = self._given(mask, placement, like=placement.shape) if mask else None
        if given is None:
            return None
        turned = over_keys(by_weights(given, roled.tensor, placement.shape), roled.tensor, placement.shape)
        self.givens[given.tensor.name] = turned
        return turned

    def _is_guessed_wrong(self, roled: Roled, placement: Placement) -> bool:
        """Whether the padding was read as most of its values are, and the weights obey the opposite."""
        keys = placement.keys
        if keys is None or keys.real.all() or not keys.real.any() or not self.witnesses.is_guess(roled.kind):
            return False
        return obey_inverse(padding(placement.layout), roled.tensor)

    def _parts(self, roled: Roled) -> dict[str, Tensor]:
        found = {role: self.witnesses.find(role, (roled.kind,), roled.layer) for role in PARTS}
        return {role: part.tensor for role, part in found.items() if part}

    def is_other_layout(self, attention: Attention, sizes: Counter[tuple[Kind, tuple[int, int]]]) -> bool:
        """Whether negative values in a size that no other map has show a linear layer's state, and no map.

        `sizes` counts the maps of each kind and size.
        """
        kind, size = attention.roled.kind, attention.shape[2:]
        alone = all(other != kind or (other, one) == (kind, size) for other, one in sizes)
        if alone or sizes[kind, size] > 1 or not (attention.measured.low < 0).any():
            return False
        self.unfit[attention.name] = (
            f"it has negative values and its size {list(size)} is not that of the other maps"
        )
        return True

    def saved(self, roled: Roled, attentions: tuple[Attention, ...]) -> Saved | None:
        """A saved mask with the attention map it belongs to, if there is one."""
        users = tuple(map_ for map_ in attentions if map_.given and map_.given.tensor is roled.tensor)
        meant = self._meant_for_mask(roled, users)
        if users and users[0].given:
            given = users[0].given
            placement = users[0].placement.fitting(given.shape)
            alike = given.shape[2] == users[0].shape[2]
            expected = self._expected_of_mask(meant, placement, one_for_all=not alike)
            return Saved(roled, given, placement, meant, users, expected)

        shape = self._mask_shape(roled, None)
        if shape is None:
            return None
        placement = place(self.witnesses, roled.kind, shape)
        told = placement.queries_at is not None or placement.told_by == POSITIONS
        one_for_all = shape[2] == 1 and not told
        if one_for_all:
            # One row speaks for the last query, or for all, unless its own position is told.
            placement = replace(placement, past=max(shape[3] - 1, 0), queries_at=None, keys_at=None)
        lone = self._given(roled, placement, like=None)
        expected = self._expected_of_mask(meant, placement, one_for_all=one_for_all)
        return Saved(roled, lone, placement, meant, (), expected) if lone else None

    def _expected_of_mask(
        self, meant: Meant | None, placement: Placement, one_for_all: bool
    ) -> tuple[Expected, ...]:
        """What was declared for a saved mask, where its queries can stand.

        Nothing where a fact is missing that the declaration needs, or where one row stands for queries that
        are meant to differ.
        """
        if meant is None or (one_for_all and "q" in axes(meant.spec)) or _is_open(meant.spec, placement):
            return ()
        layouts = [replace(placement, past=past).layout for past in _pasts(placement, kinds_in(meant.spec))]
        return tuple(Expected(build(meant.spec, layout, self.resolve), layout) for layout in layouts)

    def _meant_for_mask(self, roled: Roled, users: tuple[Attention, ...]) -> Meant | None:
        """What was declared for a mask by name, else for its maps where all of them are meant alike."""
        meant = self.declared.meant(roled.tensor.name, roled.kind, roled.layer)
        if not users or (meant is not None and meant.particular):
            return meant
        first = users[0].declared
        return first if all(user.declared == first for user in users) else None

    def _given(self, roled: Roled, placement: Placement, like: Shape | None) -> Given | None:
        """A saved mask, read once."""
        tensor = roled.tensor
        if tensor.name not in self.givens:
            shape = self._mask_shape(roled, like)
            real = placement.keys.real if placement.keys else None
            given = (
                read_mask(tensor, shape, self.declared.convention, real, placement.past) if shape else None
            )
            if given is not None and like is not None and len(tensor.shape) == 3:
                given = _over_images(given, like)
            self.givens[tensor.name] = given
        return self.givens[tensor.name]

    def _mask_shape(self, roled: Roled, like: Shape | None) -> Shape | None:
        """[b, h, q, K] of a saved mask; the first of three axes may be batch x heads."""
        tensor, shape = roled.tensor, roled.tensor.shape
        if len(shape) < 2 or len(shape) > 4 or 0 in shape:
            self.unfit[tensor.name] = f"its shape {list(shape)} is no mask over queries and keys"
            return None
        flat = like is not None and shape[0] == like[0] * like[1]
        return mask_shape(shape, heads=like[1] if like and flat else roled.heads)

    def _expected(self, meant: Meant, roled: Roled, placement: Placement) -> Mask | None:
        """The declared mask with the input's padding; None when nothing says where its chunks or keys are."""
        if not placement.beginning_known and "chunked" in kinds_in(meant.spec):
            return None
        if placement.scattered is not None and _asks_for_order(meant.spec, placement):
            self.unfit[roled.tensor.name] = (
                f"whether it is {write(meant.spec)!r} ({meant.source}): {placement.scattered.why}"
            )
            return None

        told = {"padding": placement.keys, "documents": placement.documents}
        unknown = {fact for fact, known in told.items() if known is None}
        missing = sorted(unknown & needs(meant.spec))
        if missing:
            raise MaskcliError(
                f"{meant.source} {write(meant.spec)!r} for {roled.tensor.name!r} of {self.file!r} "
                f"needs to know {INPUT_FACTS[missing[0]]}"
            )

        layout = placement.layout
        mask = build(meant.spec, layout, self.resolve)
        return mask if placement.keys is None or placement.keys.real.all() else mask & padding(layout)


def _over_images(given: Given, like: Shape) -> Given:
    """A mask [nW, N, N] of the windows of one image, as that of a batch of images, image by image."""
    windows, items = given.shape[0], like[0]
    fits = given.shape[1:] == (1, *like[2:]) and windows > 1 and items > windows and items % windows == 0
    if not fits:
        return given
    shape = (items, 1, *like[2:])
    rows = np.arange(given.keep.rows).reshape(given.keep.stored)
    return replace(given, shape=shape, keep=given.keep.take(shape, np.tile(rows, (items // windows, 1, 1))))


def _windows(spec: Spec) -> list[int]:
    """The W of every `sliding:W` that a spec joins by &."""
    parts = [part for part in conjuncts(spec) if isinstance(part, Named)]
    return [part.numbers[0] for part in parts if part.name == "sliding"]


def _holds_its_window(spec: Spec, shape: Shape) -> bool:
    """Whether a map has just the keys that a sliding layer's cache keeps for its new queries."""
    queries, keys = shape[2:]
    return queries < keys and any(keys in (size, size - 1 + queries) for size in _windows(spec))


def _asks_for_order(spec: Spec, placement: Placement) -> bool:
    """Whether a mask over a cache shorter than its text depends on where in it each key stands.

    A sliding layer's cache holds its window in order; all that came before is seen in any order.
    """
    queries, keys = placement.shape[2:]
    jumping = placement.scattered is not None and placement.scattered.jumping
    return "q" in axes(spec) and (jumping or any(keys > size - 1 + queries for size in _windows(spec)))


def _of_other_resolution(attentions: tuple[Attention, ...]) -> dict[str, str]:
    """Padding masks of more positions than any square map has keys, by name, and what that means.

    Beside a decoder's maps alone, a longer mask is its source's.
    """
    alike = [each for each in attentions if each.roled.kind not in ("cross", "decoder")]
    square = [each for each in alike if each.shape[2] == each.shape[3]]
    most = max((each.shape[3] for each in square), default=0)
    misfits = [each.placement.misfit for each in square]
    longer = [misfit for misfit in misfits if misfit is not None and misfit.real.shape[1] > most]
    if len(longer) < len(square):
        return {}
    return {
        misfit.source: f"it covers {misfit.real.shape[1]} positions, and the maps have {most} keys: it is at "
        "another resolution, as before a feature extractor or pooling; save the mask that the layers get"
        for misfit in longer
    }


def _is_open(spec: Spec, placement: Placement) -> bool:
    """Whether a spec needs a fact of the input that nothing tells."""
    documents, kinds = placement.documents, kinds_in(spec)
    told = documents is not None and len(documents) in (1, placement.shape[0])
    known = {fact for fact, is_known in (("padding", placement.keys), ("documents", told)) if is_known}
    beginning = "chunked" not in kinds or placement.beginning_known
    inside = "documents" not in kinds or placement.layout.inside
    scattered = placement.scattered is not None and _asks_for_order(spec, placement)
    return bool(needs(spec) - known) or scattered or not (beginning and inside)


def _pasts(placement: Placement, kinds: Collection[str]) -> Iterable[int]:
    """How many keys may come before the first query of a saved mask, the likeliest number first."""
    queries, keys = placement.shape[2:]
    told = placement.past_known or placement.queries_at is not None
    # A tree stands on the last queries.
    if queries >= keys or told or "tree" in kinds:
        return [placement.past]
    # A cache may be filled from its first slot on, and may have one slot less or more than it seems.
    last = keys - queries
    nearby = [0, last, last - 1] if "documents" in kinds else [0, last, last - 1, last + 1]
    return dict.fromkeys([placement.past, *nearby])


def _padding_by_weights(roled: Roled, placement: Placement, expected: Mask) -> Padding | None:
    """Leading padding that the weights alone show, where nothing else says which tokens are real."""
    if roled.kind == "cross" or placement.keys is not None or placement.past > 0:
        return None
    batch, heads, queries, keys = placement.shape
    allowed = expected | causal(Layout(batch, queries, keys, heads))
    real = left_padding(roled.tensor, placement.shape, allowed)
    return None if real is None else Padding(real, WEIGHTS)
