"""Caches of keys: how many come before the queries of a call, by what the last call had or what is empty."""

from __future__ import annotations

from typing import NamedTuple

from maskcli.tracing.calls import Call, Torch, quietly

# Slots of zeros at the end of a cache, at the least.
EMPTY = 2


class _Seen(NamedTuple):
    """The keys of a module's call: how many, and the first and last of them [B, H, 2, D]."""

    length: int
    ends: Torch


class Caches:
    """The keys that modules had when they were last looked at."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def past(self, call: Call, module: str) -> int | None:
        """How many keys come before the queries of a call; None where nothing tells.

        K - Q where its keys begin, bit for bit, with those of an earlier call; in a cache of fixed size the
        queries are the last of its filled slots.
        """
        keys = call.operands.get("key")
        if keys is None or keys.ndim != 4:
            return None
        queries, count = (int(size) for size in call.weights.shape[-2:])
        with quietly():
            filled = _filled(keys)
            if queries <= filled < count:
                return filled - queries
            seen, self._seen[module] = self._seen.get(module), _Seen(count, _ends(keys, count))
            grown = seen is not None and seen.length <= count - queries and _begins(keys, seen)
        return count - queries if grown else None


def _filled(keys: Torch) -> int:
    """How many slots stand before the empty ones at the end; one alone is a key of zeros, which some add."""
    count: int = keys.shape[2]
    if count < EMPTY or bool((keys[:, :, -EMPTY:] != 0).any()):
        return count
    used = (keys != 0).any(-1).flatten(0, 1).any(0)
    return int(used.nonzero().max()) + 1 if bool(used.any()) else count


def _ends(keys: Torch, count: int) -> Torch:
    return keys[:, :, [0, count - 1]].clone()


def _begins(keys: Torch, seen: _Seen) -> bool:
    """Whether keys begin with those that were seen; grouped heads may be repeated in one of the calls."""
    now, then = _ends(keys, seen.length), seen.ends
    heads = min(now.shape[1], then.shape[1])
    now, then = (ends[:, :: ends.shape[1] // heads] for ends in (now, then))
    return bool(now.shape == then.shape and (now == then).all())
