"""Damaged files of tensors: what maskcli reads, beside what the library reads that writes such files."""

import collections
import functools
import io
import math
import pickletools
import zipfile

import numpy as np

from tests.fuzz.mutate import damaged
from tests.fuzz.process import faults, measured
from tests.fuzz.seeds import TENSORS


def reader(source, folder):
    """A damaged file is refused, or read as its library reads it; where that refuses it, no tensor changed."""
    from maskcli.errors import MaskcliError, is_internal

    files = seed_files()
    name = source.choice(sorted(files))
    block = damaged(source, files[name], files[source.choice(sorted(files))])
    path = folder / name
    path.write_bytes(block)
    found = {}

    def read():
        try:
            found.update(arrays_of(path))
        except Exception as error:
            if is_internal(error) and not isinstance(error, MaskcliError):
                raise
            return 2
        return 0

    outcome = measured(read)
    told = [fault for fault in faults(outcome) if not fault.startswith("exit code 2 without")]
    if outcome.code != 0:
        return told
    theirs = by_library(path)
    wrong = _changed(found, name, block) if theirs is None else _different(found, theirs)
    return told + wrong


def _different(ours, theirs):
    """Tensors that are not what the library reads."""
    named = [name for name in ours if name in theirs]
    return [f"{name!r} is not what its library reads" for name in named if not same(ours[name], theirs[name])]


def _changed(ours, file, block):
    """Tensors that are no longer what they were, although their bytes are still in the file, and what tells of them."""
    before, stored = originals()[file]
    told = file.endswith(".pt") and not all(part in block for part in pickles()[file])
    changed = (
        [] if told else [name for name in ours if not (name in before and same(ours[name], before[name]))]
    )
    return [
        f"{name!r} changed" for name in changed if name not in before or _lies_in(block, stored.get(name))
    ]


def _lies_in(block, array):
    return array is not None and any(each.tobytes() in block for each in (array, array.T))


@functools.cache
def seed_files():
    """The corpus of tensors: its bytes by file name."""
    return {path.name: path.read_bytes() for path in sorted(TENSORS.iterdir())}


@functools.cache
def originals():
    """What the undamaged files hold, by maskcli and as their libraries have it in memory."""
    return {path.name: (arrays_of(path), by_library(path)) for path in sorted(TENSORS.iterdir())}


@functools.cache
def pickles():
    """The pickles in the undamaged files of torch: in archives, and one behind the other in the old format."""
    found = {}
    for path in TENSORS.glob("*.pt"):
        if zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            found[path.name] = [
                archive.read(each) for each in archive.namelist() if each.endswith("data.pkl")
            ]
        else:
            found[path.name] = list(_in_a_row(path.read_bytes()))
    return found


def _in_a_row(block):
    """The five pickles of the old format: its number, its version, the machine, what was saved, its storages."""
    stream = io.BytesIO(block)
    for _ in range(5):
        start = stream.tell()
        collections.deque(pickletools.genops(stream), maxlen=0)
        yield block[start : stream.tell()]


def arrays_of(path):
    """All tensors of a file by maskcli, as float64 or integers, by name; MaskcliError where it refuses."""
    from maskcli.tensors import open_tensors, roles_of

    file = open_tensors(path)
    roles_of(file)
    return {tensor.name: _whole(tensor) for tensor in file.tensors if math.prod(tensor.shape) <= 2**16}


def _whole(tensor):
    return np.asarray(tensor.rows(0, tensor.row_count)).reshape(tensor.shape)


def by_library(path):
    """The same by numpy, safetensors or torch; None where they refuse."""
    import warnings

    reader = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".pt": _torch}[path.suffix]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return reader(path)
        except Exception:
            return None


def _npy(path):
    return {"": np.load(path, allow_pickle=False)}


def _npz(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _safetensors(path):
    import torch
    from safetensors.torch import load

    return {
        name: _numbers(tensor)
        for name, tensor in load(path.read_bytes()).items()
        if isinstance(tensor, torch.Tensor)
    }


def _torch(path):
    import torch

    return {name: _numbers(tensor) for name, tensor in _named(torch.load(path, weights_only=True))}


def _named(value, name=""):
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _named(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for at, part in enumerate(value):
            yield from _named(part, f"{name}.{at}" if name else str(at))


def _numbers(tensor):
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def same(ours, theirs):
    """Whether two arrays hold the same numbers; NaN equals NaN."""
    if ours.shape != theirs.shape:
        return False
    if ours.dtype.kind in "fc" or theirs.dtype.kind in "fc":
        with np.errstate(invalid="ignore"):
            return np.array_equal(ours.astype(np.float64), theirs.astype(np.float64), equal_nan=True)
    return np.array_equal(ours, theirs)
