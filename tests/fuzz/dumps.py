"""Several bugs in one file, with some of its tensors bent: commands say what they can, whatever stands beside what."""

import torch
from safetensors.torch import save_file

from tests.diagnostics.mixed import SPECS, dump
from tests.fuzz.process import faults, run

OPTIONS = {
    "expect": "--expect", "pad_id": "--pad-id", "eos_ids": "--eos-id", "bos_ids": "--bos-id", "past": "--past", "purpose": "--for",
    "convention": "--convention", "loss_shift": "--loss-shift", "vocab_size": "--vocab-size",
}  # fmt: skip
TYPES = [torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32, torch.float16, torch.float64]


def dumps(source, folder):
    """A dump is read without a fault, as it was made and with tensors of other sizes, orders and types."""
    arrays, declared = dump(source.whole(8))
    for name in source.some(sorted(arrays), 2):
        arrays[name] = _bent(source, arrays[name])
    path = folder / "dump.safetensors"
    save_file({name: array.contiguous() for name, array in arrays.items()}, path)
    words = _others(source, path, sorted(arrays)) if source.once_in(4) else _diagnose(source, path, declared)
    return [f"{fault}: {words}" for fault in faults(run(words))]


def _diagnose(source, path, declared):
    """Most of what is declared of a dump, as options."""
    words = ["diagnose", str(path), "--format", source.choice(["json", "text", "concise"])]
    for name, option in OPTIONS.items():
        if name in declared and source.below(4):
            value = declared[name]
            words += [option, str(value[0] if isinstance(value, tuple) else value)]
    return words


def _others(source, path, names):
    """A command that reads one tensor of a dump, or all of them one by one."""
    one, other = (f"{path}:{source.choice(names)}" for _ in range(2))
    commands = [
        ["inspect", str(path)],
        ["inspect", one],
        ["diff", one, source.choice([other, *SPECS])],
        ["convert", one, "--to", source.choice(["sdpa", "additive", "flex", "flash-attn", "xformers"])],
    ]
    return source.choice(commands)


def _bent(source, array):
    """A tensor with an axis cut, taken away, added, repeated or in another order, or of another type."""
    axis = source.below(max(array.ndim, 1))
    how = source.choice(["cut", "first", "added", "repeated", "turned", "typed", "flipped"])
    if how == "typed":
        return array.to(source.choice(TYPES))
    if how == "added" and array.ndim < 6:
        return array.unsqueeze(axis)
    if array.ndim == 0 or not array.shape[axis]:
        return array
    if how == "first":
        return array.select(axis, 0)
    if how == "cut":
        return array.narrow(axis, 0, source.below(array.shape[axis] + 1))
    if how == "repeated":
        return torch.cat([array, array], dim=axis)
    return array.flip(axis) if how == "flipped" else array.transpose(axis, -1)
