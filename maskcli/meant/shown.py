"""What the first rows of a training set show of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Shown(NamedTuple):
    """What the first rows of a training set show of all: where labels stand (a shift by the tensor's name),
    whether they ask for ends of texts, and which of these ids begin texts too.

    `longest` is the most tokens that a row has; rows of a `stream` are cut out of one long text. `bare` rows
    hold no padding of their own: what a batch of them has was put there to make it one.
    """

    shifts: Mapping[str, int]
    ends: bool
    starts: tuple[int, ...]
    longest: int | None = None
    stream: bool = False
    bare: bool = False
