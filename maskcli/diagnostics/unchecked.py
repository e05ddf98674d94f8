"""What no rule looked at: said before anything else, so that silence is only ever about the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from maskcli.scene.scene import Attention, Scene
from maskcli.tensors import Roled, Tensor, role_by_name

# Roles by what they are evidence of. Where tensors of one are there and none could be read, nothing is known.
EVIDENCE = {"weights": "weights", "mask": "masks", "padding_mask": "masks"}
# A file of a run that cannot be read.
FILE = "file"
UNKNOWN = "no part of attention by name, shape or values; --role says what a tensor is"


class Unchecked(NamedTuple):
    """Tensors of a file that no rule looked at, and why.

    `what` they are evidence of, "weights" or "masks", or their role, None where it is not known; "file" where
    a file of a run cannot be read. `every` says that all of this evidence is so.
    """

    file: str
    what: str | None
    tensors: tuple[str, ...]
    why: str
    every: bool = False

    @property
    def sentence(self) -> str:
        """What an error says of evidence that could not be looked at."""
        if self.what == FILE:
            return self.why
        return f"none of the {self.what} of {self.file!r} could be checked: {self.why}"


def unchecked(
    file: str, why: dict[str, str], roled: Sequence[Roled], checked: Iterable[str]
) -> tuple[Unchecked, ...]:
    """What was passed over, tensors of one reason together; what makes a file unknown first."""
    seen = set(checked)
    known = {EVIDENCE.get(each.role or "") for each in roled if each.tensor.name in seen}

    groups: dict[tuple[str | None, str], list[str]] = {}
    for each in roled:
        reason = why.get(each.tensor.name, UNKNOWN if _is_unknown(each) else None)
        if reason is not None:
            what = _evidence(each, named=each.tensor.name in why)
            groups.setdefault((what, reason), []).append(each.origin or each.tensor.name)
    found = [
        Unchecked(file, what, tuple(names), reason, what in EVIDENCE.values() and what not in known)
        for (what, reason), names in groups.items()
    ]
    lost = ((each.origin, each.unfit) for each in roled if each.role is None)
    found += [Unchecked(file, FILE, (path,), reason, every=True) for path, reason in lost if path and reason]
    return tuple(sorted(found, key=lambda each: (not each.every, each.what is None)))


def _evidence(roled: Roled, *, named: bool) -> str | None:
    """What a tensor is evidence of, by its role, or by its name alone where it could not be read."""
    role = roled.role or (role_by_name(roled.tensor.name)[0] if named else None)
    return EVIDENCE.get(role or "", role)


def unpaired(scenes: Iterable[Scene], explained: set[str]) -> tuple[Unchecked, ...]:
    """Masks over the keys of weights that do not fit them otherwise, so that the two were not compared.

    Masks that a finding names, `explained`, are left out: it says more.
    """
    found = []
    for scene in scenes:
        compared = any(each.keep is not None or each.keys is not None for each in scene.attentions)
        for name, why in _misfits(scene):
            if name not in explained:
                found.append(Unchecked(scene.file, "masks", (name,), why, not compared))
    return tuple(dict.fromkeys(found))


def _misfits(scene: Scene) -> Iterator[tuple[str, str]]:
    """Masks that fit no map though they have its keys, and why."""
    for saved in scene.masks:
        users = [each for each in scene.attentions if each.given is saved.given]
        if users and not any(
            each.keep is not None or each.shape[3] != saved.given.shape[3] for each in users
        ):
            yield saved.given.tensor.name, _unlike(saved.given.tensor, users[0])
    for roled in scene.tensors:
        near = _unlike_maps(roled, scene) if roled.role == "padding_mask" else []
        if near:
            yield roled.tensor.name, _unlike(roled.tensor, near[0])


def _unlike_maps(padding: Roled, scene: Scene) -> list[Attention]:
    """Maps over the keys of a padding mask of another batch, where no map of its kind has any padding."""
    sizes = padding.tensor.shape
    users = [each for each in scene.attentions if each.roled.kind == padding.kind]
    if len(sizes) != 2 or any(each.keys is not None for each in users):
        return []
    return [each for each in users if each.shape[3] == sizes[1] and sizes[0] not in (1, each.shape[0])]


def _unlike(mask: Tensor, attention: Attention) -> str:
    return (
        f"its shape {list(mask.shape)} does not fit {attention.name} {list(attention.shape)}, "
        "so the weights were not compared with it"
    )


def _is_unknown(roled: Roled) -> bool:
    """Whether a tensor is an array of several axes that nothing tells the part of; parameters are told."""
    return roled.role is None and len(roled.tensor.shape) > 1 and "parameter" not in roled.why
