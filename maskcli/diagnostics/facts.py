"""What the user declared about the input and the model: options, and the metadata of the file itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from maskcli.errors import MaskcliError
from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.spec import Spec, names_files, needs, parse


@dataclass(frozen=True)
class Expectation:
    """The mask that tensors whose name matches `pattern` should have used (None: self-attention without a pattern)."""

    pattern: str | None
    spec: Spec


@dataclass(frozen=True)
class Declared:
    """Everything a user can declare in this version. None: not said."""

    expect: tuple[Expectation, ...] = ()
    exact: bool = False
    pad_id: int | None = None
    eos_id: int | None = None
    convention: str | None = None
    past: int | None = None

    def expected(self, name: str, kind: str) -> Spec | None:
        """The spec declared for a tensor; patterns win over the plain one, later ones over earlier.

        Without a pattern it speaks of self-attention; encoder and cross attention are then expected `full`.
        """
        for expectation in reversed(self.expect):
            if expectation.pattern is not None and fnmatchcase(name, expectation.pattern):
                return expectation.spec
        for expectation in reversed(self.expect):
            if expectation.pattern is None:
                return expectation.spec if kind in ("self", "decoder") else parse("full")
        return None

    def over(self, other: Declared) -> Declared:
        """These facts where they are said, else the other's."""
        mine = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        said = {name: value for name, value in mine.items() if value is not None and value is not False and value != ()}
        return dataclasses.replace(other, **said)


def expectation(text: str, source: str = "--expect", files: bool = True) -> Expectation:
    """`SPEC` or `PATTERN=SPEC`; without `files`, a spec that names a file (and could run code) is refused."""
    pattern, equals, spec_text = text.rpartition("=")
    spec = parse(spec_text if equals else text)
    if not files and names_files(spec):
        raise MaskcliError(f"{source} is {text!r}: only the command line may name files; pass --expect instead")
    if "source" in needs(spec):
        raise MaskcliError(f"{source} {text!r}: write full for cross-attention; the source's padding is always part of it")
    return Expectation(pattern if equals else None, spec)


def convention(name: str, source: str = "--from") -> str:
    """A convention that a saved mask can be in."""
    if name not in CONVENTIONS:
        raise MaskcliError(f"{source} {name!r} is not a convention of saved masks; choose one of {', '.join(CONVENTIONS)}")
    return name


def from_metadata(metadata: Mapping[str, str], file: str) -> Declared:
    """The facts under `maskcli.` in a safetensors file's metadata. Specs there never name files."""
    said = {key.removeprefix("maskcli."): value for key, value in metadata.items() if key.startswith("maskcli.")}
    source = f"the metadata of {file!r}: maskcli."
    return Declared(
        expect=tuple(
            expectation(part, source + "expect", files=False) for part in said.get("expect", "").split(";") if part.strip()
        ),
        exact=said.get("exact", "").lower() in ("1", "true", "yes"),
        pad_id=_whole(said.get("pad_id"), source + "pad_id"),
        eos_id=_whole(said.get("eos_id"), source + "eos_id"),
        convention=convention(said["from"], source + "from") if "from" in said else None,
        past=_whole(said.get("past"), source + "past"),
    )


def _whole(text: str | None, source: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise MaskcliError(f"{source} is {text!r}, where a whole number belongs")
    return int(text)
