"""What a file tells of the tensor that is drawn: its tokens, and the mask that it has to obey."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from maskcli.arrays import Array
from maskcli.diagnostics.diagnose import scenes_of
from maskcli.errors import MaskcliError
from maskcli.inputs.operands import resolver
from maskcli.masks.mask import Mask
from maskcli.meant.facts import Declared
from maskcli.scene.scene import Scene
from maskcli.tensors import open_tensors, roles_of
from maskcli.text import load_tokenizer

NOTHING = Declared()


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


def beside(path: str, tensor: str, tokenizer: str | None = None, declared: Declared = NOTHING) -> Beside:
    """What the file of a tensor tells beside it; nothing where it cannot be read as attention."""
    return telling(path, tokenizer, declared)(tensor)


def telling(path: str, tokenizer: str | None = None, declared: Declared = NOTHING) -> Callable[[str], Beside]:
    """The same for each of a file's tensors by name."""
    token = load_tokenizer(tokenizer).token if tokenizer is not None else str
    file = open_tensors(path)
    scenes: tuple[Scene, ...] = ()
    with suppress(MaskcliError):
        scenes = scenes_of(file, declared, roles_of(file), resolver())

    def told(tensor: str) -> Beside:
        return max(
            (in_scene(scene, tensor, token) for scene in scenes), key=_known, default=Beside(token=token)
        )

    return told


def _known(told: Beside) -> tuple[bool, bool]:
    return told.meant is not None, told.ids is not None


def in_scene(scene: Scene, tensor: str, token: Callable[[int], str]) -> Beside:
    """What a scene tells beside one of its tensors."""
    meant = next((each.meant for each in scene.attentions if each.tensor.name == tensor), None)
    return Beside(meant, _ids(scene), token)


def _ids(scene: Scene) -> Array | None:
    """The ids of its tokens."""
    return next((tokens.ids for tokens in scene.tokens if tokens.ids is not None), None)
