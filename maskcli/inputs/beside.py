"""What a file tells of the tensor that is drawn: its tokens, and the mask that it has to obey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maskcli.arrays import Array
from maskcli.errors import MaskcliError
from maskcli.masks.mask import Mask
from maskcli.meant.facts import Declared
from maskcli.meant.metadata import from_metadata
from maskcli.scene.assemble import build_scenes
from maskcli.scene.scene import Scene
from maskcli.tensors import open_tensors, roles_of
from maskcli.text import load_tokenizer


@dataclass(frozen=True, eq=False)
class Beside:
    """`meant` is who may attend [B, H, Q, K]; `ids` [B, L] are tokens, whose texts `token` knows."""

    meant: Mask | None = None
    ids: Array | None = None
    token: Callable[[int], str] = str

    def names(self, item: int, places: tuple[int, int], length: int) -> list[str] | None:
        """The tokens of an axis of this length from a place up to another; None where none are known."""
        ids = self.ids
        if ids is None or ids.shape[1] != length or item >= len(ids):
            return None
        return [self.token(int(each)) for each in ids[item, slice(*places)]]


def beside(path: str, tensor: str, tokenizer: str | None = None) -> Beside:
    """What the file of a tensor tells beside it; nothing where it cannot be read as attention."""
    token = load_tokenizer(tokenizer).token if tokenizer is not None else str
    file = open_tensors(path)
    declared = Declared().over(from_metadata(file.metadata, file.path)).with_model()
    try:
        scenes = build_scenes(file.path, roles_of(file), declared)
    except MaskcliError:
        return Beside(token=token)
    for scene in scenes:
        for attention in scene.attentions:
            if attention.tensor.name == tensor:
                return Beside(attention.meant, _ids(scene), token)
    return Beside(None, next(filter(_known, map(_ids, scenes)), None), token)


def _known(ids: Array | None) -> bool:
    return ids is not None


def _ids(scene: Scene) -> Array | None:
    """The ids of its tokens."""
    return next((tokens.ids for tokens in scene.tokens if tokens.ids is not None), None)
