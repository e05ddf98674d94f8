"""The zoo, and tests of all combinations, in thirds. An architecture stays in its own, whichever others come and go."""

import zlib

THIRDS = ("1", "2", "3")


def third(name):
    """The third that an architecture belongs to."""
    return THIRDS[zlib.crc32(name.encode()) % len(THIRDS)]


def third_in_turn(rank):
    """The third that a combination belongs to: of three in a row each is in another, and none always goes with one value."""
    return THIRDS[(rank + rank // 3 + rank // 9) % len(THIRDS)]
