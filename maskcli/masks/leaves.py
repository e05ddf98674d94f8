"""The operands of a spec: a kind with what stands behind its colon, or a file."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from maskcli.errors import MaskcliError
from maskcli.masks.kinds import KINDS, Kind
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask

PER_DOCUMENT = "per-document"
FILE_SUFFIXES = (".safetensors", ".npy", ".npz", ".pt", ".pth", ".bin", ".json", ".py")
# How a tensor's name or a file's path may begin, so that no wrong number is taken for one.
_TENSOR = re.compile(r"[A-Za-z_./\\]..+")
_CHOSEN = re.compile(r"(.+)=(\d+(?:,\d+)*)")
_RANGE = re.compile(r"(\d+):(\d+)")
_DASHED = re.compile(r"(\d+)-(\d+)")
# Numbers that an error message proposes; 4 for all others.
_EXAMPLES = {
    "dilated": "4,2",
    "documents": "5,3,7",
    "tree": "-1,0,0,1,1",
    "same": "token_type_ids",
    "spans": "token_type_ids=1",
}
_RANGES = "0:4,10:12"
# What papers and libraries call a kind that has another name here.
_CALLED = {
    "autoregressive": "causal",
    "band": "window",
    "banded": "window",
    "bidirectional": "full",
    "block-diagonal": "documents",
    "look-ahead": "causal",
    "lookahead": "causal",
}
# Digits of the largest number: none that any mask needs has more.
_DIGITS = 15


@dataclass(frozen=True)
class Named:
    """A kind with its numbers, e.g. sliding and (4,), and the `tensor` that it reads."""

    name: str
    numbers: tuple[int, ...] = ()
    tensor: str | None = None


@dataclass(frozen=True)
class File:
    """An operand that names a file: a saved mask, or FILE.py:NAME."""

    target: str


def leaf(word: str) -> Named | File:
    """The operand that `word` writes."""
    written, colon, rest = word.partition(":")
    name = written.lower().replace("_", "-")
    reads = KINDS[name].reads if name in KINDS else ""
    if _names_file(written) or (_names_file(word) and not (colon and reads in ("labels", "sizes"))):
        return File(word)
    if name == PER_DOCUMENT:
        raise MaskcliError(f"{PER_DOCUMENT} takes a mask in parentheses: {PER_DOCUMENT}(causal)")
    if name not in KINDS:
        raise MaskcliError(f"unknown mask kind {written!r}; {_hint(name)}known kinds: {', '.join(KINDS)}")

    given = rest if colon else None
    if reads == "labels":
        return _with_labels(name, given)
    if reads == "ranges":
        return Named(name, _ranges(name, given))
    if reads == "sizes" and given and _TENSOR.fullmatch(given):
        return Named(name, tensor=given)
    return Named(name, _numbers(name, KINDS[name], given))


def _hint(name: str) -> str:
    """The kind that an unknown name may mean, as a question."""
    called = [_CALLED[name]] if name in _CALLED else []
    close = called or difflib.get_close_matches(name, [*KINDS, PER_DOCUMENT], 1, 0.5)
    return f"did you mean {close[0]!r}? " if close else ""


def leaf_text(spec: Named | File) -> str:
    """The text that reads as this operand."""
    if isinstance(spec, File):
        return spec.target
    numbers = [str(number) for number in spec.numbers]
    if KINDS[spec.name].reads == "ranges":
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        numbers = [f"{start}:{stop}" for start, stop in pairs]
    chosen = "=" if spec.tensor and numbers else ""
    behind = f"{spec.tensor or ''}{chosen}{','.join(numbers)}"
    return f"{spec.name}:{behind}" if behind else spec.name


def reads_file(spec: Named | File) -> bool:
    """Whether an operand names a file, itself or for the tensor that it reads."""
    return isinstance(spec, File) or (spec.tensor is not None and _names_file(spec.tensor))


def build_kind(spec: Named, layout: Layout) -> Mask:
    """The mask of a kind over a layout that holds what it needs."""
    mask: Mask = KINDS[spec.name].build(layout, *arguments_of(spec, layout))
    return mask


def arguments_of(spec: Named, layout: Layout) -> tuple[str | int, ...]:
    """What a kind is called with: its numbers, those of a tensor, or the name of one and numbers."""
    kind = KINDS[spec.name]
    if kind.reads == "labels":
        return spec.tensor or "", *spec.numbers
    if spec.tensor is not None:
        if layout.tensors is None:
            raise MaskcliError(
                f"{leaf_text(spec)!r} reads the tensor {spec.tensor!r}, and there is no file that holds it; "
                "write FILE:TENSOR in its place"
            )
        rows = layout.tensors(spec.tensor)
        return _one_for_each(spec, tuple(int(size) for size in rows.ravel()), layout)
    return _one_for_each(spec, spec.numbers, layout) if kind.reads == "sizes" else spec.numbers


def _one_for_each(spec: Named, sizes: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """One number for all samples, or one for each."""
    if len(sizes) not in (1, layout.batch):
        raise MaskcliError(
            f"{leaf_text(spec)!r} has {len(sizes)} numbers, one for each sample, but there "
            f"{'is 1 sample' if layout.batch == 1 else f'are {layout.batch} samples'}; "
            "pass one number, or as many as there are samples"
        )
    return sizes


def axes_of(spec: Named | File) -> str:
    """The axes that an operand varies along, of "b", "h" and "q"."""
    if isinstance(spec, File):
        return "bhq"
    kind = KINDS[spec.name]
    each = kind.reads == "sizes" and (spec.tensor is not None or len(spec.numbers) > 1)
    return "b" + kind.axes if each else kind.axes


def _names_file(word: str) -> bool:
    is_path = "/" in word or "\\" in word
    before_colon = word.partition(":")[0].lower()
    return is_path or before_colon.endswith(FILE_SUFFIXES) or word.lower().endswith(FILE_SUFFIXES)


def _with_labels(name: str, rest: str | None) -> Named:
    """TENSOR, or TENSOR=1,2: a kind that reads labels."""
    if not rest:
        raise MaskcliError(f"{name} needs a tensor of labels: {name}:{_EXAMPLES[name]}")
    chosen = _CHOSEN.fullmatch(rest)
    if chosen is None:
        return Named(name, tensor=rest)
    numbers = chosen[2].split(",")
    if any(len(number) > _DIGITS for number in numbers):
        raise MaskcliError(
            f"{name}:{rest} chooses a label of more than {_DIGITS} digits; write a smaller one"
        )
    return Named(name, tuple(map(int, numbers)), chosen[1])


def _ranges(name: str, rest: str | None) -> tuple[int, ...]:
    """START:STOP,START:STOP as borders."""
    if not rest:
        raise MaskcliError(f"{name} needs ranges START:STOP: {name}:{_RANGES}")
    borders: list[int] = []
    for part in rest.split(","):
        found = _RANGE.fullmatch(part) if len(part) <= 2 * _DIGITS else None
        if found is None or int(found[1]) >= int(found[2]):
            dashed = _DASHED.fullmatch(part) if len(part) <= 2 * _DIGITS else None
            meant = (
                f"{dashed[1]}:{int(dashed[2]) + 1} ({part}, both included)" if dashed else f"{name}:{_RANGES}"
            )
            raise MaskcliError(
                f"{name}:{rest} has {part!r} where a range START:STOP belongs, STOP behind its last; "
                f"write {meant}"
            )
        borders += [int(found[1]), int(found[2])]
    return tuple(borders)


def _numbers(name: str, kind: Kind, rest: str | None) -> tuple[int, ...]:
    """The numbers behind a kind's colon; `rest` is None without a colon."""
    expected, any_number = len(kind.numbers), kind.numbers == ("...",)
    least = expected - kind.optional
    example = f"{name}:{_EXAMPLES.get(name, '4')}"
    if not expected and rest is not None:
        raise MaskcliError(f"{name!r} takes no number, but {name}:{rest} was given; write {name}")
    if rest is None and (not expected or (any_number and kind.needs)):
        return ()
    if not rest:
        what = "a size" if least == 1 and not any_number else f"{least} numbers"
        raise MaskcliError(f"{name} needs {'its numbers' if any_number else what}: {example}")

    parts = rest.split(",")
    free = any_number or kind.reads == "sizes"
    if not free:
        _check_count(name, rest, range(least, expected + 1), example)
    required = len(parts) if free else least
    lows = [kind.lowest] * required + [kind.lowest_optional] * (len(parts) - required)
    for part, lowest in zip(parts, lows, strict=True):
        _check_number(f"{name}:{rest}", part, lowest, example)
    return tuple(map(int, parts))


def _check_count(name: str, rest: str, allowed: range, example: str) -> None:
    count = rest.count(",") + 1
    if count not in allowed:
        takes = " or ".join(map(str, allowed))
        raise MaskcliError(f"{name} takes {takes} number(s), but {name}:{rest} has {count}; write {example}")


def _check_number(text: str, part: str, lowest: int, example: str) -> None:
    if not _is_number(part, lowest):
        raise MaskcliError(
            f"{text} has {part!r} where a whole number of at least {lowest} belongs; write {example}"
        )


def _is_number(text: str, lowest: int) -> bool:
    digits = text.removeprefix("-") if lowest < 0 else text
    plain = digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS
    return plain and int(text) >= lowest
