"""Damage: bytes of files, and values of JSON."""

import json
import re

from tests.fuzz.source import NUMBERS

DIGITS = re.compile(rb"-?\d+")
# Values that a field of JSON may hold where another belongs.
VALUES = [
    None,
    True,
    False,
    "",
    "x",
    [],
    {},
    [[]],
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    -0.0,
    "\x1b[31m\u202e",
    "\ud800",
]


def damaged(source, block, other=b""):
    """A block after up to four changes; parts of `other` may come into it."""
    changed = bytearray(block)
    for _ in range(source.between(1, 4)):
        source.choice(CHANGES)(source, changed, other)
    return bytes(changed)


def _flip(source, block, _):
    if block:
        block[_place(source, block)] ^= 1 << source.below(8)


def _set(source, block, _):
    if block:
        block[_place(source, block)] = source.choice([0, 1, 0x7F, 0x80, 0xFF, source.below(256)])


def _whole(source, block, _):
    """A number of two, four or eight bytes, as lengths and offsets are written."""
    size, number = source.choice([2, 4, 8]), source.choice(NUMBERS)
    at = _place(source, block)
    block[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, source.choice(["little", "big"]))


def _digits(source, block, _):
    """A number written in digits, as in headers."""
    found = list(DIGITS.finditer(bytes(block[:4096])))
    if found:
        start, stop = source.choice(found).span()
        block[start:stop] = str(source.number()).encode()


def _cut(source, block, _):
    del block[_place(source, block) :]


def _drop(source, block, _):
    at = _place(source, block)
    del block[at : at + source.between(1, 64)]


def _repeat(source, block, _):
    at, size = _place(source, block), source.between(1, 64)
    block[at:at] = block[at : at + size] * source.choice([1, 2, 100])


def _fill(source, block, _):
    at = _place(source, block)
    block[at:at] = bytes([source.below(256)]) * source.between(1, 64)


def _splice(source, block, other):
    at, start = _place(source, block), _place(source, other)
    size = source.between(1, 256)
    block[at : at + size] = other[start : start + size]


CHANGES = [_flip, _set, _whole, _digits, _cut, _drop, _repeat, _fill, _splice]


def _place(source, block):
    """Anywhere, but half of the time near either end: headers and directories are there."""
    if not block:
        return 0
    near = min(len(block), 256)
    return source.choice(
        [source.below(near), len(block) - 1 - source.below(near), *[source.below(len(block))] * 2]
    )


def damaged_json(source, value):
    """A value of JSON with one of its parts another one."""
    paths = list(_paths(value))
    *way, last = source.choice(paths) if paths else (None,)
    if last is None:
        return _other(source, value)
    holder = value
    for step in way:
        holder = holder[step]
    if source.once_in(5):
        del holder[last]
    elif source.once_in(5) and isinstance(holder, dict):
        holder[source.text()] = holder.pop(last)
    else:
        holder[last] = _other(source, holder[last])
    return value


def _paths(value, way=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in items:
        yield (*way, step)
        yield from _paths(part, (*way, step))


def _other(source, value):
    kind = source.below(5)
    if kind == 0:
        return source.choice(NUMBERS)
    if kind == 1:
        return source.text()
    if kind == 2:
        return [value] * source.choice([0, 1, 2, 50])
    if kind == 3:
        return {source.text(): value}
    return source.choice(VALUES)


def json_bytes(value):
    """JSON as files hold it; what no encoding has is escaped."""
    return json.dumps(value).encode()
