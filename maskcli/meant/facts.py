"""What the user declared about the input and the model: options, the file's own metadata, and a model's config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from maskcli.errors import MaskcliError
from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.spec import Spec, names_files, needs, parse
from maskcli.meant.model_config import Config

PURPOSES = ("train", "generate")
LOSS_SHIFTS = ("model", "data")


@dataclass(frozen=True)
class Expectation:
    """The mask that tensors whose name matches `pattern` should have used (None: self-attention without a pattern)."""

    pattern: str | None
    spec: Spec


class Meant(NamedTuple):
    """The mask one tensor should have used, who says so, and whether that was said of this layer and not of all alike."""

    spec: Spec
    source: str
    particular: bool


@dataclass(frozen=True)
class Declared:
    """Everything a user can declare. None (or nothing) means: not said.

    `loss_shift` says who moves the labels one place: the model (as Hugging Face's do) or the data (as
    nanoGPT's does).
    """

    expect: tuple[Expectation, ...] = ()
    exact: bool = False
    model: Config | None = None
    pad_id: int | None = None
    bos_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    convention: str | None = None
    past: int | None = None
    purpose: str | None = None
    prompt_length: int | None = None
    vocab_size: int | None = None
    ignore_index: int | None = None
    loss_shift: str | None = None

    def meant(self, name: str, kind: str, layer: int | None) -> Meant | None:
        """The mask declared for a tensor; patterns win over the plain spec, later ones over earlier, options over the model.

        Without a pattern a spec speaks of self-attention; encoder and cross attention are then expected
        `full`.
        """
        for each in reversed(self.expect):
            if each.pattern is not None and fnmatchcase(name, each.pattern):
                return Meant(each.spec, "--expect", True)
        mine = kind in ("self", "decoder")
        for each in reversed(self.expect):
            if each.pattern is None:
                return Meant(each.spec if mine else parse("full"), "--expect", False)
        text = self.model.mask(layer, name) if self.model is not None and mine else None
        return None if text is None else Meant(parse(text), "--model", True)

    def over(self, other: Declared) -> Declared:
        """These facts where they are said, else the other's."""
        mine = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        said = {
            name: value
            for name, value in mine.items()
            if value is not None and value is not False and value != ()
        }
        return dataclasses.replace(other, **said)

    def with_model(self) -> Declared:
        """The ids and the vocabulary that the model's config gives, where nothing else says them."""
        if self.model is None:
            return self
        config = self.model
        return self.over(
            Declared(
                pad_id=config.pad_id,
                bos_ids=config.bos_ids,
                eos_ids=config.eos_ids,
                vocab_size=config.vocab_size,
            )
        )


def expectation(text: str, source: str = "--expect", files: bool = True) -> Expectation:
    """`SPEC` or `PATTERN=SPEC`; without `files`, a spec that names a file (and could run code) is refused."""
    pattern, equals, spec_text = text.rpartition("=")
    spec = parse(spec_text if equals else text)
    if not files and names_files(spec):
        raise MaskcliError(
            f"{source} is {text!r}: only the command line may name files; pass --expect instead"
        )
    if "source" in needs(spec):
        raise MaskcliError(
            f"{source} {text!r}: write full for cross-attention; the source's padding is always part of it"
        )
    return Expectation(pattern if equals else None, spec)


def convention(name: str, source: str = "--from") -> str:
    """A convention that a saved mask can be in."""
    if name not in CONVENTIONS:
        raise MaskcliError(
            f"{source} {name!r} is not a convention of saved masks; choose one of {', '.join(CONVENTIONS)}"
        )
    return name


def one_of(text: str, choices: tuple[str, ...], source: str) -> str:
    """A word out of a few."""
    if text not in choices:
        raise MaskcliError(f"{source} is {text!r}; choose one of {', '.join(choices)}")
    return text


def from_metadata(metadata: Mapping[str, str], file: str) -> Declared:
    """The facts under `maskcli.` in a safetensors file's metadata. Specs there never name files, nor does a model."""
    said = {
        key.removeprefix("maskcli."): value for key, value in metadata.items() if key.startswith("maskcli.")
    }
    source = f"the metadata of {file!r}: maskcli."

    def number(key: str, negative: bool = False) -> int | None:
        return _whole(said[key], source + key, negative) if key in said else None

    def word(key: str, choices: tuple[str, ...]) -> str | None:
        return one_of(said[key], choices, source + key) if key in said else None

    return Declared(
        expect=tuple(
            expectation(part.strip(), source + "expect", files=False)
            for part in said.get("expect", "").split(";")
            if part.strip()
        ),
        exact=said.get("exact", "").lower() in ("1", "true", "yes"),
        pad_id=number("pad_id"),
        eos_ids=tuple(
            _whole(part, source + "eos_id") for part in said.get("eos_id", "").split(",") if part.strip()
        ),
        convention=convention(said["from"], source + "from") if "from" in said else None,
        past=number("past"),
        purpose=word("for", PURPOSES),
        prompt_length=number("prompt_length"),
        vocab_size=number("vocab_size"),
        ignore_index=number("ignore_index", negative=True),
        loss_shift=word("loss_shift", LOSS_SHIFTS),
    )


def _whole(text: str, source: str, negative: bool = False) -> int:
    digits = text.strip().removeprefix("-") if negative else text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise MaskcliError(f"{source} is {text!r}, where a whole number belongs")
    return int(text)
