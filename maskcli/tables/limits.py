"""How much is believed of a table that nobody has checked, and how large its parts are."""

from __future__ import annotations

from maskcli.untrusted import MEBIBYTE

# Bytes of a part: some tenths of a second of work, so that a file keeps several processes busy to its end.
PART = 32 * MEBIBYTE
# Bytes of lines that become one chunk, before it is cut to its size.
BLOCK = 2 * MEBIBYTE
# Bytes from the beginning of a file of rows that tell its columns, and files that are asked.
SAMPLE = MEBIBYTE
SAMPLED = 64

# Bytes of one row as JSON: 10 million tokens with labels and a mask take some 160.
MAX_LINE = 256 * MEBIBYTE
# Numbers in one row: more is no text, and a few compressed bytes can stand for any number of zeros.
MAX_VALUES = 2**26
# Bytes that a packed file may expand to for each of its own, as far as it has any to speak of: JSON of masks
# alone takes a hundredth.
MAX_EXPANSION = 1000
MIN_EXPANSION = 64 * MEBIBYTE
# Letters of columns in one JSON object, or of a row in a JSON list: Python's numbers take six times as much.
MAX_WHOLE = 64 * MEBIBYTE
# Bytes of what save_to_disk says of a folder: some 30 for each of its files.
MAX_STATE = 16 * MEBIBYTE
# Columns: each is told by its name.
MAX_COLUMNS = 1000
# Bytes that decoding a few rows of parquet or Arrow may take. 10 million tokens with labels and a mask in one
# row take some 700 MiB, and Arrow's allocator sets 1 GiB aside before it needs any.
MAX_DECODED = 2048 * MEBIBYTE
