"""Put scenes together: which tensors of a file belong to one another, by group, kind, layer and shape."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from maskcli.arrays import Array, Shape
from maskcli.errors import MaskcliError
from maskcli.masks.kinds import Layout, causal, padding
from maskcli.masks.mask import Mask
from maskcli.masks.spec import Resolve, build, kinds_in, needs, write
from maskcli.meant.facts import Declared, Meant
from maskcli.scene.saved_mask import (
    Given,
    by_weights,
    fills_only,
    last_weighed,
    left_padding,
    read_mask,
    read_padding,
    small_rows,
)
from maskcli.scene.scene import Attention, Padding, Saved, Scene, Tokens, real_tokens, restarts
from maskcli.tensors import Tensor
from maskcli.tensors.roles import Roled


def build_scenes(
    file: str, roled: tuple[Roled, ...], declared: Declared, resolve: Resolve | None = None
) -> tuple[Scene, ...]:
    """One scene for each group of tensors (`left.`, `step3.`, …); a group lacks nothing that the file has for all."""
    groups = list(dict.fromkeys(r.group for r in roled if r.role)) or [""]
    named = [group for group in groups if group]
    if named and not any(r.role == "weights" and r.group == "" for r in roled):
        groups = named
    scenes = (
        _scene(file, tuple(r for r in roled if r.group in (group, "")), group, declared, resolve)
        for group in groups
    )
    return tuple(scenes)


def _scene(
    file: str, tensors: tuple[Roled, ...], group: str, declared: Declared, resolve: Resolve | None
) -> Scene:
    unfit: dict[str, str] = {}
    room = _Room(file, tensors, group, declared, resolve, unfit)
    attentions = tuple(
        a for r in tensors if r.role == "weights" and r.group == group and (a := room.attention(r))
    )
    attentions = tuple(a for a in attentions if not _other_layout(a, attentions, unfit))
    masks = tuple(s for r in tensors if r.role == "mask" and (s := room.saved(r, attentions)))
    return Scene(file, declared, tensors, attentions, masks, tuple(room.token_sets()), unfit)


def _other_layout(attention: Attention, attentions: tuple[Attention, ...], unfit: dict[str, str]) -> bool:
    """Whether a tensor among the maps is none: negative values in a size that no other map has (a linear layer's state)."""
    others = [a.shape[2:] for a in attentions if a is not attention and a.roled.kind == attention.roled.kind]
    if not others or attention.shape[2:] in others or not (attention.measured.low < 0).any():
        return False
    unfit[attention.name] = (
        f"it has negative values and its size {list(attention.shape[2:])} is not that of the other maps"
    )
    return True


def layout_of(
    file: str, tensors: tuple[Roled, ...], declared: Declared, shape: Shape, kind: str = "self"
) -> Layout:
    """What the tensors of a file tell of the input of a mask [B, H, Q, K]: its padding, documents and past.

    Pass only tensors that may testify: a mask under test is no witness of its own padding.
    """
    room = _Room(file, tensors, "", declared, None, {})
    keys = room.padding(room.kinds(kind))
    past = room.past(kind, shape, keys)
    keys = _fitting(keys, shape[0], shape[3])
    return Layout(
        shape[0],
        shape[2],
        shape[3],
        shape[1],
        past,
        keys.real if keys else None,
        room.documents(shape),
        kind == "cross",
    )


# Which kinds of tensors speak for the keys of each kind of attention, best first.
_KEYS = {
    "self": ("self",),
    "decoder": ("decoder", "self"),
    "encoder": ("encoder", "self"),
    "cross": ("encoder", "cross", "self"),
}


class _Room:
    """The tensors of one scene while it is put together."""

    def __init__(
        self,
        file: str,
        tensors: tuple[Roled, ...],
        group: str,
        declared: Declared,
        resolve: Resolve | None,
        unfit: dict[str, str],
    ) -> None:
        self.file, self.tensors, self.group, self.declared, self.resolve = (
            file,
            tensors,
            group,
            declared,
            resolve,
        )
        self.unfit = unfit
        self.encoder_decoder = any(
            r.kind in ("encoder", "cross") for r in tensors if r.role == "weights"
        ) or any(r.kind == "decoder" for r in tensors if r.role in ("input_ids", "padding_mask"))
        self.givens: dict[str, Given | None] = {}
        self.paddings: dict[tuple[str, ...], Padding | None] = {}

    def find(self, role: str, kinds: Iterable[str], layer: int | None = None) -> Roled | None:
        """The tensor of a role: of this group before the common ones, of this layer before those of all layers."""
        found = [r for r in self.tensors if r.role == role]
        for kind in kinds:
            near = [r for r in found if r.kind == kind and (r.layer is None or r.layer == layer)]
            if near:
                return min(
                    near,
                    key=lambda r: (
                        r.group != self.group,
                        r.layer is None,
                        _is_slots(r),
                        self.tensors.index(r),
                    ),
                )
        return None

    def kinds(self, kind: str) -> tuple[str, ...]:
        """Which kinds of padding masks and ids speak for the keys of this kind of attention."""
        if kind == "decoder" and self.encoder_decoder:
            return ("decoder",)
        if kind == "self" and self.encoder_decoder:
            return ("decoder", "self")
        return _KEYS[kind]

    def attention(self, roled: Roled) -> Attention | None:
        """The attention map of one weights tensor, or None (with a reason in `unfit`) when it is none."""
        keys, queries = self.padding(self.kinds(roled.kind)), None
        shape = self.shape(roled, len(keys.real) if keys else None)
        if shape is None:
            return None
        if roled.kind != "cross" and shape[2] > shape[3]:
            self.unfit[roled.tensor.name] = (
                f"its shape {list(roled.tensor.shape)} has fewer keys than queries, as local attention keeps them; where each key "
                "stands is not known"
            )
            return None
        past, known = self.past(roled.kind, shape, keys), self.past_known(roled.kind, shape, keys)
        if past + shape[2] < shape[3] and self._misplaced(roled, shape, past, keys):
            past, known = shape[3] - shape[2], False
        if keys is not None and self._static_cache(roled, shape, keys):
            length = keys.real.shape[1]
            past = length - shape[2] if self.declared.past is None else past
            keys = Padding(np.pad(keys.real, ((0, 0), (0, shape[3] - length))), keys.source)
        elif (
            keys is None
            and roled.kind != "cross"
            and shape[2] < shape[3]
            and not self._past_said(shape, past)
        ):
            # Nothing is said of the padding: behind the last key that anybody weighs are the empty slots of a static cache.
            past = max(last_weighed(roled.tensor, shape) + 1 - shape[2], 0)
        misfit = keys if keys is not None and keys.real.shape[1] != shape[3] else None
        keys = _fitting(keys, shape[0], shape[3])
        if roled.kind == "cross":
            queries = _fitting(self.padding(("decoder",)), shape[0], shape[2])
        elif keys is not None and past + shape[2] <= shape[3]:
            queries = Padding(keys.real[:, past : past + shape[2]], keys.source)
        mask = self.find("mask", (roled.kind, *self.kinds(roled.kind)), roled.layer)
        given = self.given(mask, shape, keys, past) if mask else None
        if mask is not None and given is not None and given.reason == "assumed":
            given = self.givens[mask.tensor.name] = by_weights(given, roled.tensor, shape)
        meant = self.declared.meant(roled.tensor.name, roled.kind, roled.layer)
        documents = None if roled.kind == "cross" else self.documents(shape)
        expected = None if meant is None else self.expected(meant, roled, shape, keys, past, documents)
        if (
            meant is not None
            and expected is not None
            and keys is None
            and past == 0
            and roled.kind != "cross"
        ):
            allowed = expected | causal(Layout(shape[0], shape[2], shape[3], shape[1]))
            if (real := left_padding(roled.tensor, shape, allowed)) is not None:
                queries = Padding(real[:, : shape[2]], "the weights")
                expected = self.expected(meant, roled, shape, Padding(real, "the weights"), past, documents)
        roles = ("scores", "query", "key", "value", "output")
        parts = {
            role: found.tensor for role in roles if (found := self.find(role, (roled.kind,), roled.layer))
        }
        return Attention(
            roled,
            shape,
            past,
            known,
            given,
            keys,
            misfit,
            queries,
            meant,
            expected,
            self.declared.exact,
            documents,
            parts,
        )

    def _past_said(self, shape: Shape, past: int) -> bool:
        """Whether this past was declared, or is what position ids say."""
        return self.declared.past is not None or past == self.past_of_positions(shape, None)

    def _misplaced(self, roled: Roled, shape: Shape, past: int, keys: Padding | None) -> bool:
        """Whether position ids alone put the queries before the end of the keys, and the weights behind them say otherwise."""
        said = self.declared.past is None and past == self.past_of_positions(shape, keys)
        return said and not fills_only(roled.tensor, shape, past + shape[2])

    def _static_cache(self, roled: Roled, shape: Shape, keys: Padding) -> bool:
        """Whether a padding mask shorter than the keys speaks of the filled part of a cache, and the rest is empty slots."""
        length = keys.real.shape[1]
        if roled.kind == "cross" or not shape[2] <= length < shape[3] or len(keys.real) not in (1, shape[0]):
            return False
        return fills_only(roled.tensor, shape, length)

    def shape(self, roled: Roled, batch: int | None) -> Shape | None:
        """[B, H, Q, K] of a tensor of two to four axes; three are [B, Q, K], [B*H, Q, K] or, without a batch, [H, Q, K]."""
        shape = roled.tensor.shape
        if not 2 <= len(shape) <= 4 or 0 in shape:
            self.unfit[roled.tensor.name] = f"its shape {list(shape)} is no [B, H, Q, K]"
            return None
        if len(shape) == 4:
            return shape[0], shape[1], shape[2], shape[3]
        if len(shape) == 2:
            return 1, 1, shape[0], shape[1]
        if batch is not None and shape[0] % batch == 0:
            return batch, shape[0] // batch, shape[1], shape[2]
        return 1, shape[0], shape[1], shape[2]

    def past(self, kind: str, shape: Shape, keys: Padding | None) -> int:
        """Keys before the first query: as declared; for a static cache, up to the last kept key; else K - Q."""
        queries, length = shape[2:]
        if kind == "cross":
            return 0
        if self.declared.past is not None:
            return self.declared.past
        if queries < length and (told := self.past_of_positions(shape, keys)) is not None:
            return told
        if keys is not None and keys.real.shape[1] == length and queries < length and keys.real.any():
            last = int(np.flatnonzero(np.any(keys.real, axis=0))[-1]) + 1
            return max(last - queries, 0)
        return max(length - queries, 0)

    def past_known(self, kind: str, shape: Shape, keys: Padding | None) -> bool:
        """Whether something says where the queries stand, more than that there are fewer of them than keys."""
        if kind == "cross":
            return False
        filled = keys is not None and keys.real.shape[1] == shape[3] and bool(keys.real[:, shape[2] :].any())
        return self.declared.past is not None or self.past_of_positions(shape, keys) is not None or filled

    def past_of_positions(self, shape: Shape, keys: Padding | None) -> int | None:
        """What position ids say: the first query's position and the left padding that it skips, alike for all items."""
        found = self.find("position_ids", ("self", "decoder"))
        rows = small_rows(found.tensor) if found else None
        queries, length = shape[2:]
        if (
            rows is None
            or rows.shape[1] != queries
            or len(rows) not in (1, shape[0])
            or (np.diff(rows, axis=1) != 1).any()
        ):
            return None
        if not np.isfinite(rows[:, 0]).all():
            return None
        left = np.zeros(1, np.int64)
        if keys is not None and keys.real.shape[1] == length:
            left = keys.real.argmax(axis=1)
        pasts = np.unique(rows[:, 0].astype(np.int64) + left)
        return int(pasts[0]) if len(pasts) == 1 and 0 <= pasts[0] <= length - queries else None

    def origin(self, shape: Shape, past: int) -> Array | None:
        """The position of key 0 counted from the first real token, int [B], by the position ids of the queries."""
        found = self.find("position_ids", ("self", "decoder"))
        rows = small_rows(found.tensor) if found else None
        if (
            rows is None
            or rows.shape[1] != shape[2]
            or len(rows) not in (1, shape[0])
            or (np.diff(rows, axis=1) != 1).any()
        ):
            return None
        return np.broadcast_to(rows[:, 0].astype(np.int64) - past, shape[:1])

    def padding(self, kinds: tuple[str, ...]) -> Padding | None:
        """Which tokens are real: from the padding mask, else from the ids and the pad id. Read once for each kind."""
        if kinds not in self.paddings:
            self.paddings[kinds] = self._padding(kinds)
        return self.paddings[kinds]

    def _padding(self, kinds: tuple[str, ...]) -> Padding | None:
        mask = self.find("padding_mask", kinds)
        ids = self.find("input_ids", kinds)
        from_ids = None
        values = None if ids is None or self.declared.pad_id is None else small_rows(ids.tensor)
        real = None if values is None else real_tokens(values, self.declared)
        if ids is not None and real is not None:
            from_ids = Padding(real, f"{ids.tensor.name} and pad id {self.declared.pad_id}")
        if mask is None or (real_mask := read_padding(mask, self.declared.convention)) is None:
            return from_ids
        if from_ids is not None and _is_inverse(real_mask, from_ids.real):
            return from_ids
        return Padding(real_mask, mask.tensor.name)

    def given(self, roled: Roled, like: Shape | None, keys: Padding | None, past: int) -> Given | None:
        """A saved mask, read once."""
        name = roled.tensor.name
        if name not in self.givens:
            shape = self.mask_shape(roled.tensor, like)
            self.givens[name] = (
                None
                if shape is None
                else read_mask(
                    roled.tensor, shape, self.declared.convention, keys.real if keys else None, past
                )
            )
        return self.givens[name]

    def mask_shape(self, tensor: Tensor, like: Shape | None) -> Shape | None:
        """[b, h, q, K] of a saved mask; the first of three axes is the batch, or batch x heads when it is as long as that."""
        shape = tensor.shape
        if not 2 <= len(shape) <= 4 or 0 in shape:
            self.unfit[tensor.name] = f"its shape {list(shape)} is no mask over queries and keys"
            return None
        if len(shape) == 4:
            return shape[0], shape[1], shape[2], shape[3]
        if len(shape) == 2:
            return 1, 1, shape[0], shape[1]
        if like is not None and like[1] > 1 and shape[0] == like[0] * like[1]:
            return like[0], like[1], shape[1], shape[2]
        return shape[0], 1, shape[1], shape[2]

    def saved(self, roled: Roled, attentions: tuple[Attention, ...]) -> Saved | None:
        """A saved mask with the attention map it belongs to, if there is one."""
        users = [a for a in attentions if a.given and a.given.tensor is roled.tensor]
        owner = users[0] if users else None
        meant = self.declared.meant(roled.tensor.name, roled.kind, roled.layer)
        if users and (meant is None or not meant.particular):
            # One mask of several maps is meant as they are, when all of them are meant alike.
            meant = users[0].declared if all(a.declared == users[0].declared for a in users) else None
        if owner is not None and owner.given is not None:
            keys = _fitting(owner.keys, owner.given.shape[0], owner.given.shape[3])
            return Saved(
                roled, owner.given, keys, owner.past, owner.past_known, meant, owner.documents, owner
            )
        keys = self.padding(self.kinds(roled.kind))
        shape = self.mask_shape(roled.tensor, None)
        if shape is None:
            return None
        past = self.past(roled.kind, shape, keys) if shape[2] > 1 else max(shape[3] - 1, 0)
        known = self.past_known(roled.kind, shape, keys)
        keys = _fitting(keys, shape[0], shape[3])
        given = self.given(roled, None, keys, past)
        documents = None if roled.kind == "cross" else self.documents(shape)
        return Saved(roled, given, keys, past, known, meant, documents, None) if given else None

    def expected(
        self,
        meant: Meant,
        roled: Roled,
        shape: Shape,
        keys: Padding | None,
        past: int,
        documents: Array | None,
    ) -> Mask | None:
        """The declared mask over this map, always with the input's padding; None when nothing says where its chunks begin."""
        spec = meant.spec
        origin = self.origin(shape, past) if keys is None and past > 0 else None
        if keys is None and past > 0 and origin is None and "chunked" in kinds_in(spec):
            return None
        missing = (needs(spec) & {"padding"} if keys is None else set()) | (
            needs(spec) & {"documents"} if documents is None else set()
        )
        if missing:
            what = {
                "padding": "which keys are padding: save attention_mask beside it, or input_ids and pass --pad-id",
                "documents": "where documents begin: save position_ids, segment_ids or cu_seqlens, or write documents:5,3,7",
            }
            raise MaskcliError(
                f"{meant.source} {write(spec)!r} for {roled.tensor.name!r} of {self.file!r} needs to know {what[min(missing)]}"
            )
        layout = Layout(
            shape[0],
            shape[2],
            shape[3],
            shape[1],
            past,
            keys.real if keys else None,
            documents,
            origin=origin,
        )
        mask = build(spec, layout, self.resolve)
        return mask & padding(layout) if keys is not None and not keys.real.all() else mask

    def documents(self, shape: Shape) -> Array | None:
        """Which packed document each key belongs to, int [b, K], from segment ids, position ids or cu_seqlens."""
        batch, keys = shape[0], shape[3]
        fits = ((1, keys), (batch, keys))
        if (found := self.find("segment_ids", ("self", "decoder"))) and (
            ids := small_rows(found.tensor)
        ) is not None:
            return np.asarray(ids) if ids.shape in fits else None
        if (found := self.find("position_ids", ("self", "decoder"))) and (
            ids := small_rows(found.tensor)
        ) is not None:
            if ids.shape not in fits:
                return None
            real = _fitting(self.padding(self.kinds("self")), *ids.shape)
            return restarts(ids, None if real is None else real.real)
        if (found := self.find("cu_seqlens", ("self", "decoder"))) and (
            ends := small_rows(found.tensor)
        ) is not None:
            rising = ends[0].size > 1 and ends[0, -1] == keys and bool((np.diff(ends[0]) >= 0).all())
            return np.searchsorted(ends[0, 1:], np.arange(keys), "right")[None] if rising else None
        return None

    def token_sets(self) -> Iterable[Tokens]:
        """The ids, padding mask, labels and positions of each side, as far as they have one shape [B, L]."""
        sides = ("encoder", "decoder") if self.encoder_decoder else ("self", "encoder", "decoder")
        for side in sides:
            saved = {role: found for role in _TOKEN_ROLES if (found := self._of_side(role, side))}
            values = {
                role: rows
                for role, found in saved.items()
                if (rows := self._token_rows(role, found)) is not None
            }
            if not values:
                continue
            shape = values[next(role for role in _TOKEN_ROLES if role in values)].shape
            fit = {role: rows for role, rows in values.items() if rows.shape == shape}
            if "position_ids" in values and values["position_ids"].shape == (1, shape[1]):
                fit["position_ids"] = np.broadcast_to(values["position_ids"], shape)
            documents = None if side == "encoder" else self.documents((shape[0], 1, shape[1], shape[1]))
            yield Tokens(
                side,
                {role: saved[role].tensor.name for role in fit},
                fit.get("input_ids"),
                fit.get("padding_mask"),
                fit.get("labels"),
                fit.get("position_ids"),
                fit.get("token_type_ids"),
                documents if documents is not None and (documents != documents[:, :1]).any() else None,
            )
            if "labels" in values and "labels" not in fit:
                # Labels of another text than the ids saved beside them, as an encoder-decoder has.
                names = {"labels": saved["labels"].tensor.name}
                yield Tokens(side, names, None, None, values["labels"], None, None, None)

    def _of_side(self, role: str, side: str) -> Roled | None:
        """The tensor of a role on one side; what is named for no side speaks of the encoder's, but for the labels."""
        plain = "decoder" if role == "labels" else "encoder"
        found = self.find(role, (side, "self") if self.encoder_decoder and side == plain else (side,))
        return None if found is not None and _is_slots(found) else found

    def _token_rows(self, role: str, found: Roled) -> Array | None:
        return (
            read_padding(found, self.declared.convention)
            if role == "padding_mask"
            else small_rows(found.tensor)
        )


# What is said of every token, in the order in which one gives its shape to the others.
_TOKEN_ROLES = ("input_ids", "labels", "padding_mask", "position_ids", "token_type_ids")


def _is_slots(roled: Roled) -> bool:
    """Whether positions are places in a cache, which count the padding as they should, and not positions of tokens."""
    return roled.role == "position_ids" and roled.tensor.name.lower().endswith("cache_position")


def _fitting(keys: Padding | None, batch: int, length: int) -> Padding | None:
    """Padding for `batch` items of `length` keys; None when its shape says that it speaks of something else."""
    if keys is None or keys.real.shape[1] != length or len(keys.real) not in (1, batch):
        return None
    return Padding(np.broadcast_to(keys.real, (batch, length)), keys.source)


def _is_inverse(real: Array, other: Array) -> bool:
    return real.shape == other.shape and not other.all() and bool((real == ~other).all())
