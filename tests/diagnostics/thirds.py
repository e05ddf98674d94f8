"""The zoo in thirds. An architecture stays in its own, whichever others come and go."""

import zlib

THIRDS = ("1", "2", "3")


def third(name):
    """The third that an architecture belongs to."""
    return THIRDS[zlib.crc32(name.encode()) % len(THIRDS)]
