"""The rows of a part of a table, in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from maskcli.tables.columns import CELLS, ROWS, Chunk, Part, Wanted
from maskcli.tables.cut import cut
from maskcli.tables.forms import reader_of


def read(
    part: Part, numbers: Sequence[str], others: Sequence[str] = (), *, cells: int = CELLS, rows: int = ROWS
) -> Iterator[Chunk]:
    """The rows of a part with columns of `numbers`, and `others` as Python values, in chunks of bounded size.

    A column that a chunk's rows lack is missing from its `columns`; one that only some have is empty in the
    others. Rows are counted from the part's first. Raises MaskcliError for what is damaged, and for a row
    whose numbers are none.
    """
    wanted = Wanted(tuple(numbers), tuple(others), cells, rows)
    for chunk in reader_of(part)(part, wanted):
        yield from cut(chunk, wanted)
