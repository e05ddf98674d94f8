"""How much is believed of a file that nobody has checked: the limits of all readers, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The largest public checkpoints have some ten thousand tensors a file.
MAX_TENSORS = 100_000
# Characters: more is no name, and a table has to show it.
MAX_NAME = 1024
# Axes that every numpy can hold.
MAX_RANK = 32
# Elements of a shape, zeros counted as ones: no file holds more, and no product of sizes overflows.
MAX_ELEMENTS = 2**48

# Bytes of a safetensors header: an entry takes about 120, so this is MAX_TENSORS; parsed in some tenths of a
# second.
MAX_HEADER = 16 * 1024 * 1024
# Bytes of the metadata of an archive of arrays, and how many texts those of one by torch.save are.
MAX_METADATA, MAX_TOLD = 2**20, 1000
# Characters of an array header, numpy's own limit: it is parsed as Python literals.
MAX_NPY_HEADER = 10_000

# Files in an archive: a dump has some hundred, and each costs memory before it is looked at.
MAX_MEMBERS = 100_000
# Bytes of its directory: MAX_MEMBERS entries with names of common length.
MAX_DIRECTORY = 32 * 1024 * 1024
# Bytes of a stored member whose checksum is looked at: larger ones are read in place, as a .npy file is.
MAX_SUMMED = 64 * 1024**2
# Bytes that all compressed members may expand to together: they are expanded in memory when read.
MAX_INFLATED = 512 * 1024**2

# Bytes of a .pt that torch itself reads into memory: a mapped file that shrinks meanwhile ends the process.
MAX_LOADED = 256 * 1024**2
# Bytes that tensors of a .pt claim beyond what the file holds: one element may stand for a whole axis, and
# tensors may share their elements, but all of them are read.
MAX_CLAIMED = 4 * 1024**3
# Bytes of the pickle that describes tensors: some 100 for each, unpickled in Python.
MAX_PICKLE = 16 * 1024**2
# Bytes of one that holds numpy arrays, which is followed here and by nothing else; they stay in memory.
MAX_ARRAYS = 64 * 1024**2
# Opcodes that are followed: some 40 tell of one tensor, and each can make an object of 64 bytes.
MAX_OPCODES = 2_000_000
# Arguments of a call, which torch's _rebuild_tensor_v3 has.
MAX_ARGUMENTS = 8
# Objects in a nest of containers: lists that share lists can describe 2^30 in a few hundred bytes.
MAX_VISITED = 200_000
# Containers within containers.
MAX_DEPTH = 64

POSSIBLE = f"at most {MAX_RANK} sizes of at most 2^48 elements"


def is_possible(shape: Sequence[int]) -> bool:
    """Whether an array can have this shape: no negative size, few axes, as many elements as a file holds."""
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        return False
    return math.prod(max(size, 1) for size in shape) <= MAX_ELEMENTS
