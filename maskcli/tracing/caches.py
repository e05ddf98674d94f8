"""Caches of keys that grow: how many keys come before the queries of a call, by what the last call had."""

from __future__ import annotations

from typing import NamedTuple

from maskcli.tracing.calls import Call, Torch, quietly


class _Seen(NamedTuple):
    """The keys of a module's call: how many, and the first and last of them [B, H, 2, D]."""

    length: int
    ends: Torch


class Caches:
    """The keys that modules had when they were last looked at."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def past(self, call: Call, module: str) -> int | None:
        """K - Q where the keys of a call begin, bit for bit, with those of an earlier one; else None."""
        keys = call.operands.get("key")
        if keys is None or keys.ndim != 4:
            return None
        queries, count = call.weights.shape[-2:]
        with quietly():
            seen, self._seen[module] = self._seen.get(module), _Seen(count, _ends(keys, count))
            grown = seen is not None and seen.length <= count - queries and _begins(keys, seen)
        return count - queries if grown else None


def _ends(keys: Torch, count: int) -> Torch:
    return keys[:, :, [0, count - 1]].clone()


def _begins(keys: Torch, seen: _Seen) -> bool:
    """Whether keys begin with those that were seen; grouped heads may be repeated in one of the calls."""
    now, then = _ends(keys, seen.length), seen.ends
    heads = min(now.shape[1], then.shape[1])
    now, then = (ends[:, :: ends.shape[1] // heads] for ends in (now, then))
    return bool(now.shape == then.shape and (now == then).all())
