"""What a probe measured of a model: whom each layer sees, and how far whole runs are apart that should
agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask

# Whose keys a layer sees: its own tokens, those of another sequence, or the slots of a cache (and its own
# tokens).
Keys = Literal["self", "cross", "cache"]


class Expected(NamedTuple):
    """The mask that a layer should have: its spec, who says so, and the cells [B, 1, Q, K].

    `whole` says that every one of them should be seen; else, as for a convolution in a decoder, they are the
    most that may be.
    """

    spec: str
    told: str
    mask: Mask
    whole: bool = True


@dataclass(frozen=True, eq=False)
class Seen:
    """Whom the queries of one module call see in one run.

    `module` is its path, "" for the model itself, and `kind` its class. `setting` says which run, such as
    "right padding". `reached` [B, 1, Q, K] are the cells that a move of ordinary size changes, `soft` those
    that only a very large one does, `noise` how many changed by no more than rounding does. The cell of a
    query itself says nothing: a token always reaches its own output. Only `columns` were measured (None:
    all).

    `layout` holds sizes, past, padding and documents; queries that are padding say nothing either. `rows` are
    pairs (a, b): what stands in row a of the batch changes the outputs of row b. `attention` tells attention
    from convolutions, recurrences and norms.
    """

    module: str
    kind: str
    setting: str
    keys: Keys
    reached: Mask
    soft: Mask
    noise: int
    columns: tuple[int, ...] | None
    layout: Layout
    expected: Expected | None
    rows: tuple[tuple[int, int], ...] = ()
    attention: bool = True


@dataclass(frozen=True)
class Compared:
    """Two runs of the whole model that should agree.

    `test` is its name (see `maskcli.probing.equivalence`), `what` says in words what was compared,
    `difference` is the largest at real tokens, over the standard deviation of the outputs, `limit` what
    rounding makes at most. `cells` are some of the places (row, position) that differ.
    """

    test: str
    what: str
    setting: str
    difference: float
    limit: float
    cells: tuple[tuple[int, int], ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the difference."""
        return self.difference <= self.limit

    @property
    def told(self) -> str:
        """How large the difference is, in words; it is infinite where one of the runs has NaN."""
        if not math.isfinite(self.difference):
            return "NaN or infinity in one of them"
        return f"{self.difference:.2g} of their spread, where rounding makes {self.limit:.0e} at most"


class Reach(NamedTuple):
    """How far tokens reach through the whole model: derived from its layers, and measured.

    `derived` is the name of the composed masks; `more` and `fewer` count cells in which the whole model
    reaches more or less than its layers composed. Rounding hides what is deep: `fewer` is no fault.
    """

    derived: str
    more: int
    fewer: int


@dataclass(frozen=True, eq=False)
class Behaviour:
    """All that was measured of one model.

    `model` is its class, `calls` how many module calls one run makes, `forwards` how many runs it took to
    find the `mixing` ones. `only_attention` says that its configuration declares attention and nothing else
    that mixes positions. `unmeasured` says in words what could not be, `notes` how the rest was measured
    where that is not as usual.
    """

    model: str
    calls: int
    mixing: tuple[str, ...]
    seen: tuple[Seen, ...]
    compared: tuple[Compared, ...] = ()
    reach: Reach | None = None
    forwards: int = 0
    only_attention: bool = True
    unmeasured: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_black_box(self) -> bool:
        """Whether nothing but answers was to be had, as of a server."""
        return self.calls == 0
