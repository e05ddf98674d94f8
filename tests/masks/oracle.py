"""Brute force: every kind as a question about one (query, key) cell, asked cell by cell."""

import numpy as np


def cell(kind, numbers, p, q, k, keys, real, documents, b=0, labels=None, queries=0, past=0):
    left = list(real).index(True) if True in list(real) else 0
    each = numbers[min(b, len(numbers) - 1)] if numbers else None
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
        return k < each
    if kind == "prefix-lm":
        return k < each or k <= p
    if kind == "window" and len(numbers) == 2:
        far_left = numbers[0] >= 0 and p - k > numbers[0]
        far_right = numbers[1] >= 0 and k - p > numbers[1]
        return not far_left and not far_right
    if kind == "window":
        return numbers[0] < 0 or abs(p - k) <= numbers[0]
    if kind == "sliding":
        return 0 <= p - k < numbers[0]
    if kind == "blocks":
        return p // numbers[0] == k // numbers[0]
    if kind == "chunked" and len(numbers) == 2:
        first = p // numbers[0] * numbers[0]
        return k in range(first, first + numbers[0]) or k in range(first - numbers[1], first)
    if kind == "chunked":
        return k <= p and (p - left) // numbers[0] == (k - left) // numbers[0]
    if kind == "dilated":
        return abs(p - k) <= numbers[0] and (p - k) % numbers[1] == 0
    if kind == "global":
        return k < each or p < each
    if kind == "documents":
        if numbers:
            owner = [d for d, n in enumerate(numbers) for _ in range(n)]
            owner += [len(numbers)] * (keys - len(owner))
        else:
            owner = list(documents)
        return owner[p] == owner[k]
    if kind == "same":
        return labels[p] == labels[k] and (labels[p] in numbers if numbers else labels[p] >= 0)
    if kind == "spans":
        between = [labels[at] for at in range(min(p, k), max(p, k) + 1)]
        if numbers:
            return all(label in numbers for label in between)
        return between[0] >= 0 and len(set(between)) == 1
    if kind == "keys":
        return any(k in range(a, z) for a, z in zip(numbers[::2], numbers[1::2], strict=True))
    if kind == "rows":
        return any(q in range(a, z) for a, z in zip(numbers[::2], numbers[1::2], strict=True))
    if kind == "tree":
        root = past + queries - len(numbers)
        if p < root or k < root:
            return k <= p
        node = p - root
        while node >= 0:
            if node == k - root:
                return True
            node = numbers[node]
        return False
    if kind == "block-diffusion":
        if len(numbers) == 1:
            return k // numbers[0] <= p // numbers[0]
        size, noised = numbers
        # Kuleshov group's block_diff_mask, term by term.
        clean_q, clean_k = p >= noised, k >= noised
        block_q = (p - noised) // size if clean_q else p // size
        block_k = (k - noised) // size if clean_k else k // size
        diagonal = block_q == block_k and clean_q == clean_k
        offset = block_q > block_k and clean_k and not clean_q
        causal = block_q >= block_k and clean_k and clean_q
        return diagonal or offset or causal
    raise AssertionError(kind)


def dense(kind, numbers, layout):
    labels = layout.tensors("labels") if layout.tensors else None
    out = np.zeros(layout.shape, bool)
    for b in range(layout.batch):
        real = layout.real[b] if layout.real is not None else [True] * layout.keys
        documents = layout.documents[b] if layout.documents is not None else None
        own = labels[b] if labels is not None else None
        for q in range(layout.queries):
            for k in range(layout.keys):
                p = q + layout.past
                out[b, :, q, k] = cell(
                    kind, numbers, p, q, k, layout.keys, real, documents, b, own, layout.queries, layout.past
                )
    return out


def per_document(kind, numbers, layout):
    """Each document's square of the matrix, asked with positions that begin at its first key."""
    out = np.zeros(layout.shape, bool)
    for b in range(layout.batch):
        owner = list(layout.documents[b])
        real = layout.real[b] if layout.real is not None else [True] * layout.keys
        for q in range(layout.queries):
            p = q + layout.past
            start, stop = owner.index(owner[p]), len(owner) - owner[::-1].index(owner[p])
            first = max(start, layout.past)
            last = min(stop, layout.past + layout.queries)
            for k in range(start, stop):
                out[b, :, q, k] = cell(
                    kind, numbers, p - start, p - first, k - start, stop - start, list(real[start:stop]), None,
                    queries=last - first, past=first - start,
                )  # fmt: skip
    return out


def anywhere(kind, numbers, layout):
    """The same where positions are told one by one: the text is laid out by position, and asked there."""
    out = np.zeros(layout.shape, bool)
    for b in range(layout.batch):
        at = list(layout.keys_at[b % len(layout.keys_at)])
        queries = list(layout.queries_at[b % len(layout.queries_at)])
        length = max([*at, *queries]) + 1
        real, documents, labels = [True] * length, [-1] * length, [-1] * length
        for k, p in enumerate(at):
            if p >= 0:
                others = [j for j, other in enumerate(at) if other == p and layout.real[b][j]]
                real[p] = bool(others)
                documents[p] = layout.documents[b][k]
                labels[p] = layout.tensors("labels")[b][k]
        for q, p in enumerate(queries):
            for k, stands in enumerate(at):
                if kind in ("padding", "cross", "causal-top-left", "keys", "rows"):
                    out[b, :, q, k] = cell(kind, numbers, p, q, k, layout.keys, layout.real[b], None)
                elif kind == "tree":
                    # Nodes stand in their slots, wherever they stand in the text.
                    slot = q + layout.past
                    out[b, :, q, k] = cell(
                        kind, numbers, slot, q, k, 0, [], None, queries=layout.queries, past=layout.past
                    )
                elif kind in ("same", "spans", "documents") and p < 0:
                    out[b, :, q, k] = False
                elif stands >= 0:
                    seen = cell(kind, numbers, p, q, stands, length, real, documents, b, labels)
                    out[b, :, q, k] = seen and (kind != "combined" or layout.real[b][k])
    return out
