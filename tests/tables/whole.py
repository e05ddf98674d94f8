"""What tests of tables share: sets of rows that hypothesis draws, and a whole set read back as Python lists."""

import json

import numpy as np
from hypothesis import strategies as st

from maskcli.tables import open_tables, read

NAMES = ("input_ids", "labels", "mask")


def plain(column, rows):
    """A column as Python values: one number a row, or a list a row."""
    if column.offsets is None:
        assert len(column.values) == rows
        return column.values.tolist()
    assert column.offsets.dtype == np.int64
    assert len(column.offsets) == rows + 1
    assert column.offsets[0] == 0
    assert column.offsets[-1] == len(column.values)
    return [
        column.values[low:high].tolist()
        for low, high in zip(column.offsets, column.offsets[1:], strict=False)
    ]


def gathered(chunks, numbers, others=()):
    """All rows of chunks, as lists by column; a column that a chunk lacks is empty in its rows."""
    whole = {name: [] for name in (*numbers, *others)}
    rows = 0
    for chunk in chunks:
        assert chunk.first == rows
        rows += chunk.rows
        for name in numbers:
            column = chunk.columns.get(name)
            whole[name] += [[]] * chunk.rows if column is None else plain(column, chunk.rows)
        for name in others:
            assert len(chunk.objects[name]) == chunk.rows
            whole[name] += chunk.objects[name]
    return whole


def read_back(path, **bounds):
    """The one table of a path, and all of its columns."""
    (table,) = open_tables([str(path)])
    whole = {name: [] for name in (*table.numbers, *table.others)}
    for part in table.parts:
        for name, values in gathered(
            read(part, table.numbers, table.others, **bounds), table.numbers, table.others
        ).items():
            whole[name] += values
    return table, whole


whole_numbers = st.integers(-(2**63), 2**63 - 1)
tokens = st.one_of(st.integers(0, 9), st.integers(-100, 200_000), whole_numbers)
lists = st.lists(tokens, max_size=9)
columns = st.integers(0, 12).flatmap(
    lambda rows: st.fixed_dictionaries(
        {name: st.lists(lists, min_size=rows, max_size=rows) for name in NAMES}
    )
)


def telling(columns):
    """The columns that hold numbers in some row: by values alone, nothing tells what the others would hold."""
    return {name: values for name, values in columns.items() if any(values)}


def as_rows(columns):
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def write_jsonl(path, rows, **options):
    path.write_text("".join(json.dumps(row, **options) + "\n" for row in rows))
    return path
