"""`audit`: which tokens of a training set the loss counts, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from maskcli.api.said import listing_what_is_said
from maskcli.auditing.audit import Advance, Asked, audit_held, audit_table, workers_for
from maskcli.auditing.results import Audited
from maskcli.diagnostics.catalogue import chosen_codes
from maskcli.diagnostics.declare import Meaning, declare
from maskcli.errors import MaskcliError
from maskcli.meant.facts import Said
from maskcli.tables.columns import Raw
from maskcli.tables.open import open_tables
from maskcli.tables.rows import from_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

Set = TypeVar("Set")


@listing_what_is_said
def audit(
    data: Any,
    *,
    columns: Mapping[str, str] | None = None,
    tools: str | None = None,
    max_length: int | None = None,
    dtype: str | None = None,
    jobs: int = 1,
    **said: Unpack[Said],
) -> Audited:
    """Audit a training set: what the loss counts of it, and what is wrong, told once for all its rows.

    `data` is a file, folder or pattern (or a list of them), a `datasets.Dataset`, a DataLoader, or any
    iterable of rows, or of batches as a collator makes them. `columns` says what columns of other names are,
    as `{"my_mask": "loss_mask"}`. Rows of messages or texts are rendered by the `tokenizer`: `tools` is their
    column of tools, `max_length` where rows are cut. Files of token ids without a header are read as `dtype`,
    and cut behind `eos_id`, or to rows of `max_length`. `jobs` processes read files. What was meant is
    declared as for `diagnose`. Raises MaskcliError where there is no row, no column that says anything of
    tokens, or more than one set: audit each split by itself.

    >>> rows = [{"input_ids": [5, 6, 7, 8, 2], "labels": [-100, -100, 7, 8, -100]}] * 3
    >>> [found.name for found in audit(rows, eos_id=2, pad_id=0).findings]
    ['label-border']
    """
    asked = Asked(columns or {}, said.get("tokenizer"), tools, max_length)
    meaning = declare(**said)
    files = _files(data)
    if files:
        tables = open_tables(files, raw_as(dtype, meaning, max_length))
        table = _only(tables, [each.name for each in tables])
        return audit_table(table, meaning, asked, workers_for(table, jobs))
    held = from_rows(data)
    return audit_held(_only(held, [each.table.name for each in held]), meaning, asked)


def audit_files(
    targets: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    tools: str | None = None,
    max_length: int | None = None,
    dtype: str | None = None,
    rows_of: Sequence[str] = (),
    jobs: int | None = None,
    dask: str | None = None,
    advance: Advance | None = None,
    **said: Unpack[Said],
) -> Iterator[Audited]:
    """The report on each set, or split of one, among files, folders and patterns, as `audit` makes it.

    All row numbers of the rules `rows_of` (codes, names or prefixes) are kept; `dask` is the address of a
    scheduler whose workers read the files; `advance` is told of bytes that are done.
    """
    keep = (chosen_codes(rows_of, ()) or frozenset()) if rows_of else frozenset()
    asked = Asked(columns or {}, said.get("tokenizer"), tools, max_length, keep)
    meaning = declare(**said)
    for table in open_tables(targets, raw_as(dtype, meaning, max_length)):
        yield audit_table(table, meaning, asked, workers_for(table, jobs, dask), advance)


def raw_as(dtype: str | None, meaning: Meaning, length: int | None) -> Raw | None:
    """How files of token ids without a header are read, where their type is said."""
    return None if dtype is None else Raw(dtype, meaning.declared.eos_ids or (), length)


def _files(data: Any) -> list[str]:
    """The files, folders and patterns among what is audited; none for rows."""
    if isinstance(data, str | os.PathLike):
        return [os.fspath(data)]
    paths = isinstance(data, list | tuple) and all(isinstance(each, str | os.PathLike) for each in data)
    return [os.fspath(each) for each in data] if paths else []


def _only(sets: Sequence[Set], names: Sequence[str]) -> Set:
    """The one set there is."""
    if len(sets) > 1:
        raise MaskcliError(f"there are {len(sets)} sets: {', '.join(map(repr, names))}; audit each by itself")
    return sets[0]
