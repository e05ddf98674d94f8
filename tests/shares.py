"""What is long to test, in shares. A plain pytest runs the first; a test stays in its own, whichever others come and go."""

import zlib

SHARES = tuple(map(str, range(1, 16)))


def share(name):
    """The share that an architecture, or a long test, belongs to."""
    return SHARES[zlib.crc32(name.encode()) % len(SHARES)]


def share_in_turn(rank):
    """The share that a combination belongs to: of as many in a row each is in another, and none always goes with one value."""
    return SHARES[(rank + rank // len(SHARES) + rank // len(SHARES) ** 2) % len(SHARES)]
