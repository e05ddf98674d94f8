"""flash-attn over a cache: keys and values lie in slots or pages, of which each sample has filled some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maskcli.tracing.calls import Call, Torch
from maskcli.tracing.identity import Kernel

FUNCTION = "flash_attn_with_kvcache"


def of_kvcache(original: Callable[..., Any], given: Mapping[str, Any], output: Torch) -> Call:
    """A call of flash_attn_with_kvcache, by its arguments, after it has written its new keys into the cache.

    Keys are those of the longest sample, by their place in the text: pages are put in order.
    """
    query = given["q"].detach()
    filled = _filled(given)
    count = max(filled)
    key, value = (_in_order(given, given[name].detach())[:, :count] for name in ("k_cache", "v_cache"))

    def again(other: Torch) -> Torch:
        changed = {**given, **_with_values(given, other.transpose(1, 2), filled)}
        out = original(**changed)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    operands = {"query": query, "key": key, "value": value, "output": output.detach()}
    turned = {name: tensor.transpose(1, 2) for name, tensor in operands.items()}
    shape = (len(query), query.shape[2], query.shape[1], count)
    graph = {"query": given["q"], "key": given["k_cache"], "value": given["v_cache"], "output": output}
    return Call(FUNCTION, Kernel(again, turned["value"], shape, query.dtype), turned, dict, graph, False)


def _filled(given: Mapping[str, Any]) -> list[int]:
    """How many keys each sample has, with those of this call."""
    lengths, new, samples = given.get("cache_seqlens"), given.get("k"), len(given["q"])
    more = 0 if new is None else new.shape[1]
    if lengths is None:
        table, cache = given.get("block_table"), given["k_cache"]
        return [cache.shape[1] * (1 if table is None else table.shape[1])] * samples
    several = lengths.tolist() if hasattr(lengths, "tolist") else [lengths] * samples
    return [int(length) + more for length in several]


def _slots(given: Mapping[str, Any], cache: Torch) -> Torch:
    """The places [B, K] of each sample's keys in a cache whose first two axes are one."""
    import torch

    table, size = given.get("block_table"), cache.shape[1]
    if table is None:
        rows = given.get("cache_batch_idx")
        table = torch.arange(len(given["q"])) if rows is None else rows
        table = table[:, None]
    table = table.to(cache.device).long()
    return (table[..., None] * size + torch.arange(size, device=cache.device)).flatten(1)


def _in_order(given: Mapping[str, Any], cache: Torch) -> Torch:
    """Each sample's keys or values [B, K, H, D]."""
    return cache.flatten(0, 1)[_slots(given, cache)]


def _with_values(given: Mapping[str, Any], values: Torch, filled: list[int]) -> dict[str, Any]:
    """The arguments of the same call with other values [B, K, H, D], and a cache that may be written into."""
    import torch

    cache = torch.zeros_like(given["v_cache"])
    places = _slots(given, cache)[:, : values.shape[1]]
    kept = (
        torch.arange(values.shape[1], device=cache.device)
        < torch.tensor(filled, device=cache.device)[:, None]
    )
    # Pages are shared by texts that begin alike; what no sample has filled stays empty.
    cache.flatten(0, 1)[places[kept]] = values[kept].to(cache.dtype)
    changed = {"k_cache": given["k_cache"].detach().clone(), "v_cache": cache}
    if given.get("v") is not None:
        new = given["v"].shape[1]
        rows = [values[item, length - new : length] for item, length in enumerate(filled)]
        changed["v"] = torch.stack(rows).to(cache.dtype)
    return changed
