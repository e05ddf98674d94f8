"""Brute force: every kind as a question about one (query, key) cell, asked cell by cell."""

import numpy as np


def cell(kind, numbers, p, q, k, keys, real, documents):
    left = list(real).index(True) if True in list(real) else 0
    if kind == "full":
        return True
    if kind == "causal":
        return k <= p
    if kind == "causal-top-left":
        return k <= q
    if kind in ("padding", "cross"):
        return bool(real[k])
    if kind == "combined":
        return k <= p and bool(real[k])
    if kind == "prefix":
        return k < numbers[0]
    if kind == "prefix-lm":
        return k < numbers[0] or k <= p
    if kind == "window":
        return abs(p - k) <= numbers[0]
    if kind == "sliding":
        return 0 <= p - k < numbers[0]
    if kind == "blocks":
        return p // numbers[0] == k // numbers[0]
    if kind == "chunked":
        return k <= p and (p - left) // numbers[0] == (k - left) // numbers[0]
    if kind == "dilated":
        return abs(p - k) <= numbers[0] and (p - k) % numbers[1] == 0
    if kind == "global":
        return k < numbers[0] or p < numbers[0]
    if kind == "documents":
        if numbers:
            owner = [d for d, n in enumerate(numbers) for _ in range(n)]
            owner += [len(numbers)] * (keys - len(owner))
        else:
            owner = list(documents)
        return owner[p] == owner[k]
    raise AssertionError(kind)


def dense(kind, numbers, layout):
    out = np.zeros(layout.shape, bool)
    for b in range(layout.batch):
        real = layout.real[b] if layout.real is not None else [True] * layout.keys
        documents = layout.documents[b] if layout.documents is not None else None
        for q in range(layout.queries):
            for k in range(layout.keys):
                out[b, :, q, k] = cell(kind, numbers, q + layout.past, q, k, layout.keys, real, documents)
    return out


def anywhere(kind, numbers, layout):
    """The same where positions are told one by one: the text is laid out by position, and asked there."""
    out = np.zeros(layout.shape, bool)
    for b in range(layout.batch):
        at = list(layout.keys_at[b % len(layout.keys_at)])
        queries = list(layout.queries_at[b % len(layout.queries_at)])
        length = max([*at, *queries]) + 1
        real, documents = [True] * length, [-1] * length
        for k, p in enumerate(at):
            if p >= 0:
                others = [j for j, other in enumerate(at) if other == p and layout.real[b][j]]
                real[p] = bool(others)
                documents[p] = layout.documents[b][k]
        for q, p in enumerate(queries):
            for k, stands in enumerate(at):
                if kind in ("padding", "cross", "causal-top-left"):
                    out[b, :, q, k] = cell(kind, numbers, p, q, k, layout.keys, layout.real[b], None)
                elif stands >= 0:
                    seen = cell(kind, numbers, p, q, stands, length, real, documents)
                    out[b, :, q, k] = seen and (kind != "combined" or layout.real[b][k])
    return out
