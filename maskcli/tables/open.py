"""What a command is given as training sets: files, folders and patterns as tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from maskcli.errors import MaskcliError
from maskcli.tables import streams
from maskcli.tables.columns import NOTHING, Look, Raw, Table, table_of
from maskcli.tables.forms import Form, form_of, is_known, suffixes
from maskcli.tables.limits import MAX_STATE
from maskcli.tables.places import exists, opened
from maskcli.tensors import Address, files_of, is_folder, is_pattern, is_remote, shown
from maskcli.untrusted import json_object

# What Dataset.save_to_disk and DatasetDict.save_to_disk leave in a folder.
STATE, SPLITS = "state.json", "dataset_dict.json"
# Files in folders that say what others are, and hold no rows.
_ABOUT = re.compile(
    r"dataset_infos?\.json|metadata\.json|\w*config\.json|tokenizer\.json|special_tokens_map\.json"
)


class _Set(NamedTuple):
    """Files that are one table, and what people call it."""

    name: str
    files: list[str]


def open_tables(targets: Sequence[str], raw: Raw | None = None) -> list[Table]:
    """Training sets as tables; `raw` says how files of token ids without a header are read.

    A folder is one set, a pattern is one, and files named one by one are one together, in the order given. A
    folder by `save_to_disk` is a table for each split, by the split's name. Raises MaskcliError for what does
    not exist, is of several forms at once, or holds no rows.
    """
    addressed = (Address(each) if is_remote(each) else each for each in targets)
    tables = [_table(each, raw) for each in _sets(list(addressed))]
    if raw is not None and not any(part.raw for table in tables for part in table.parts):
        raise MaskcliError(
            f"{raw.dtype} is a type for files of bare token ids, and {tables[0].name!r} tells its own; "
            "leave --dtype out"
        )
    return tables


def _sets(targets: Sequence[str]) -> Iterator[_Set]:
    single = list(dict.fromkeys(path for path in targets if not is_folder(path) and not is_pattern(path)))
    if single:
        more = f" and {len(single) - 1} more" if len(single) > 1 else ""
        yield _Set(shown(single[0]) + more, single)
    for path in dict.fromkeys(targets):
        if path in single:
            continue
        if is_folder(path) and exists(_within(path, SPLITS)):
            for split in _listed(_within(path, SPLITS), "splits"):
                yield _Set(split, _saved(_within(path, split)))
        elif is_folder(path) and exists(_within(path, STATE)):
            yield _Set(shown(path), _saved(path))
        else:
            yield _Set(shown(path), files_of(path, _has_rows, ", ".join(suffixes())))


def _has_rows(path: str) -> bool:
    """Whether a file in a folder may hold rows, by its name."""
    return is_known(path) and not _ABOUT.fullmatch(os.path.basename(path))


def _saved(folder: str) -> list[str]:
    """The files of a split by save_to_disk, as its state names them."""
    path = _within(folder, STATE)
    files = _listed(path, "_data_files")
    names = [each.get("filename") if isinstance(each, dict) else None for each in files]
    return [_within(folder, _plain(name, path)) for name in names]


def _within(folder: str, name: str) -> str:
    """A file or folder in a folder, of this machine or elsewhere."""
    path = os.path.join(folder, name)
    return Address(path) if is_remote(path) else path


def _listed(path: str, key: str) -> list[Any]:
    """A list of names in one of the JSON files of save_to_disk."""
    try:
        with opened(path) as file:
            found = json_object(file.read(MAX_STATE)).get(key)
    except ValueError as reason:
        raise MaskcliError(f"{path!r} {reason}; save the set again with save_to_disk") from None
    if not isinstance(found, list):
        raise MaskcliError(f"{path!r} has no list {key!r}; save the set again with save_to_disk")
    return [_plain(each, path) if key == "splits" else each for each in found]


def _plain(name: Any, path: str) -> str:
    """A name that leads nowhere else."""
    if not isinstance(name, str) or name in ("", ".", "..") or os.path.basename(name) != name:
        raise MaskcliError(f"{path!r} names {str(name)[:80]!r}, expected a file or folder beside it")
    return name


def _table(given: _Set, raw: Raw | None) -> Table:
    """The table of a set's files; MaskcliError where they are of several forms."""
    files = [path for path in given.files if raw is None or not streams.is_mask(path)]
    forms = {path: form_of(path, raw) for path in files}
    _check_one(given.name, forms)
    looks = {path: form.look(path, form.name) for path, form in forms.items()}
    parts = tuple(part for look in looks.values() for part in look.parts)
    words, unread = _merged(looks)
    return table_of(given.name, parts, words, unread)


def _check_one(name: str, forms: dict[str, Form]) -> None:
    first, form = next(iter(forms.items()))
    for path, other in forms.items():
        if other.name != form.name:
            raise MaskcliError(
                f"{name!r} mixes {form.name} ({first!r}) and {other.name} ({path!r}), expected "
                "one form in a set; pass a pattern such as '*.parquet'"
            )


def _merged(looks: dict[str, Look]) -> tuple[dict[str, str], dict[str, str]]:
    """What each column of all files holds, and why some cannot be read: files that disagree."""
    words: dict[str, str] = {}
    unread: dict[str, str] = {}
    told: dict[str, str] = {}
    for path, look in looks.items():
        for name, word in look.columns.items():
            before = words.get(name, NOTHING)
            if before == NOTHING:
                words[name], told[name] = word, path
            elif word not in (before, NOTHING):
                unread[name] = f"holds {before} in {told[name]!r} and {word} in {path!r}"
    return {name: word for name, word in words.items() if name not in unread}, unread
