"""Tables of training rows: files, folders and Python iterables as chunks of ragged columns."""

from maskcli.tables.columns import CELLS, NUMBERS, ROWS, Chunk, Column, Part, Raw, Table
from maskcli.tables.open import open_tables
from maskcli.tables.read import read
from maskcli.tables.rows import Held, from_rows

__all__ = ["CELLS", "NUMBERS", "ROWS", "Chunk", "Column", "Held", "Part", "Raw", "Table"]
__all__ += ["from_rows", "open_tables", "read"]
