"""Masks beside brute force: what specs mean cell by cell, what masks are called, what conversion keeps, what findings count."""

import numpy as np

from tests.fuzz.process import faults, measured
from tests.fuzz.source import NUMBERS
from tests.masks.oracle import dense, per_document

# Kinds that say nothing inside of documents.
WHOLE = ("documents", "same", "spans", "tree", "keys", "rows", "block-diffusion")
# Conventions that a mask is carried through.
READ_BACK = ("sdpa", "mha", "megatron", "hf", "additive", "binary")


def masks(source, folder):
    """One of the checks below, on a mask of a few cells."""
    check = source.choice([_spec, _spec, _name, _conversion, _difference, _counts])
    found = []

    def checked():
        found.extend(check(source))
        return 0

    outcome = measured(checked)
    return [f"{check.__name__[1:]}: {fault}" for fault in [*found, *faults(outcome)]]


def _layout(source):
    from maskcli.masks.layout import Layout

    batch, queries, past = source.between(1, 3), source.between(1, 9), source.choice([0, 0, 1, 4])
    keys = queries + past + source.choice([0, 0, 3])
    real = np.ones((batch, keys), bool)
    for row in real:
        cut, other = source.below(keys), source.below(keys)
        side = source.choice(["none", "left", "right", "both", "holes"])
        row[: cut if side in ("left", "both") else 0] = False
        row[keys - other if side in ("right", "both") else keys :] = False
        if side == "holes":
            row[:] = [source.below(2) for _ in range(keys)]
    documents = np.sort([[source.between(-1, 3) for _ in range(keys)] for _ in range(batch)], axis=1)
    labels = np.array([[source.between(-1, 2) for _ in range(keys)] for _ in range(batch)])
    return Layout(batch, queries, keys, 1, past, real, documents, cross=True, tensors=lambda _: labels)


def _operand(source, layout):
    """A kind with numbers that it takes."""
    from maskcli.masks.kinds import KINDS
    from maskcli.masks.spec import Named

    name = source.choice([*KINDS])
    kind = KINDS[name]
    if name == "documents":
        lengths = tuple(source.between(0, 5) for _ in range(source.below(4)))
        return Named(name, lengths if 0 < sum(lengths) <= layout.keys else ())
    if name == "tree":
        nodes = source.between(1, layout.past + layout.queries)
        return Named(name, tuple(source.between(-1, node - 1) if node else -1 for node in range(nodes)))
    if kind.reads == "labels":
        return Named(name, tuple(sorted({source.below(3) for _ in range(source.below(3))})), "labels")
    if kind.reads == "ranges":
        starts = [source.below(12) for _ in range(source.between(1, 3))]
        return Named(name, tuple(at for start in starts for at in (start, start + source.between(1, 6))))
    if kind.reads == "sizes":
        return Named(name, tuple(source.below(20) for _ in range(source.choice([1, layout.batch]))))
    least = len(kind.numbers) - kind.optional
    numbers = [_size(source, kind.lowest) for _ in range(least)]
    if kind.optional and source.below(2):
        numbers += [_size(source, kind.lowest_optional) for _ in range(kind.optional)]
    return Named(name, tuple(numbers))


def _size(source, lowest):
    if source.once_in(10):
        return max(lowest, source.choice([number for number in NUMBERS if number < 10**15]))
    return source.between(lowest, 12)


def _drawn(source, layout, depth=0):
    """A spec, and its cells by brute force."""
    from maskcli.masks.spec import Joined, Not, PerDocument

    way = source.below(8) if depth < 3 else 0
    if way == 5:
        operand, cells = _drawn(source, layout, depth + 1)
        return Not(operand), ~cells
    if way == 6 and depth == 0:
        operand = _operand(source, layout)
        if operand.name not in WHOLE and len(operand.numbers) < 2:
            return PerDocument(operand), per_document(operand.name, operand.numbers, layout)
    if way == 7:
        (first, a), (second, b) = (_drawn(source, layout, depth + 1) for _ in range(2))
        sign = source.choice("&|")
        return Joined(sign, (first, second)), a & b if sign == "&" else a | b
    operand = _operand(source, layout)
    return operand, dense(operand.name, operand.numbers, layout)


def _spec(source):
    """A spec means what its kinds mean cell by cell, also when it is written and read again."""
    from maskcli.masks.spec import build, parse, write

    layout = _layout(source)
    spec, cells = _drawn(source, layout)
    text = write(spec)
    return [] if _equal(build(parse(text), layout), cells) else [f"{text} over {layout}"]


def _name(source):
    """A name that is exact rebuilds the mask, another one is off by as many cells as it says."""
    from maskcli.masks.mask import Mask
    from maskcli.masks.naming import name_of
    from maskcli.masks.spec import build, parse

    layout = _layout(source)
    _, cells = _drawn(source, layout)
    if source.once_in(3):
        cells = cells.copy()
        cells[tuple(source.below(size) for size in cells.shape)] ^= True
    name = name_of(Mask.from_dense(cells))
    off = int((_cells(build(parse(name.spec), name.layout)) != cells).sum())
    return (
        []
        if off == name.wrong and name.exact == (off == 0)
        else [f"{name.spec} is off by {off}, not {name.wrong}"]
    )


def _conversion(source):
    """A mask that is converted and read back is the mask it was."""
    import maskcli
    from maskcli.errors import MaskcliError

    rows, keys = source.between(2, 6), source.between(2, 6)
    cells = np.array([[bool(source.below(3)) for _ in range(keys)] for _ in range(rows)])
    ways = [*(source.choice(READ_BACK) for _ in range(3)), "sdpa"]
    saved, convention = cells, "sdpa"
    for to in ways:
        try:
            saved = maskcli.convert(saved, to, convention=convention)
        except MaskcliError:
            # Two axes may be [B, K] or [Q, K].
            return []
        convention = to
    back = np.asarray(saved)
    same = np.array_equal(np.broadcast_to(back.reshape(back.shape[-2:]), cells.shape), cells)
    return [] if same else [f"{ways} of {cells.tolist()}"]


def _difference(source):
    """Two masks differ in as many cells as brute force counts."""
    import maskcli

    sides = [np.array([[bool(source.below(2)) for _ in range(5)] for _ in range(4)]) for _ in range(2)]
    result = maskcli.compare(*sides, convention="sdpa")
    count = int((sides[0] != sides[1]).sum())
    told = result.cells if not result.equal else 0
    return [] if result.equal == (count == 0) else [f"{told} of {count}"]


def _counts(source):
    """Padding that queries attend to is told with the shares and places that the arrays hold."""
    import maskcli

    batch, length = source.between(1, 3), source.between(4, 9)
    real = np.ones((batch, length), int)
    for row in real:
        row[source.between(2, length) :] = 0
    weights = np.array(
        [[[1 + source.below(9) for _ in range(length)] for _ in range(length)] for _ in range(batch)], float
    )
    weights = (weights / weights.sum(-1, keepdims=True))[:, None].astype(np.float32)
    report = maskcli.diagnose({"attentions.0": weights, "attention_mask": real}, select=["MSK202"])
    padded = real.sum(-1) < length
    expected = tuple(int(item) for item in np.flatnonzero(padded))
    told = tuple(item for finding in report.findings for item in finding.where.batch or range(batch))
    return [] if tuple(sorted(told)) == expected else [f"samples {told}, not {expected}"]


def _cells(mask):
    batch, heads = mask.shape[:2]
    return np.array([[mask.dense(item, head) for head in range(heads)] for item in range(batch)])


def _equal(mask, cells):
    return mask.shape == cells.shape and np.array_equal(_cells(mask), cells)
