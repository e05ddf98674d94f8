"""Golden masks: a mask in a file that people read and compare, and how another one differs from it.

The file has the spec, the shape and the runs of the mask as `maskcli show --format json` writes them.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from maskcli.api.comparing import Comparison
from maskcli.api.showing import show
from maskcli.errors import MaskcliError
from maskcli.inputs.texts import Shown
from maskcli.masks.compare import regions
from maskcli.masks.mask import Mask
from maskcli.masks.naming import name_of
from maskcli.report.differences import print_difference
from maskcli.report.forms import SCHEMA_VERSION
from maskcli.report.terminal import clean, console, json_text, output
from maskcli.untrusted import json_object, read_bytes

# A golden mask is for reading: one of more bytes is none.
MOST_BYTES = 2**26


def seen(mask: Any, convention: str | None = None) -> Shown:
    """What is held to a golden mask: all that `maskcli.show` takes or returns."""
    return mask if isinstance(mask, Shown) else show(mask, convention=convention)


def differing(shown: Shown, path: Path) -> str | None:
    """How a mask differs from the one in a file, as `maskcli diff` says it; None where it does not.

    Raises MaskcliError for a file that holds no mask.
    """
    mask = shown.mask
    if not path.exists():
        return f"there is no golden mask {clean(path)}; this one is {shown.spec} {list(mask.shape)}"
    golden = read(path)
    if golden.shape != mask.shape:
        return f"{clean(path)} keeps a mask {list(golden.shape)}, and this one is {list(mask.shape)}"

    named = name_of(golden)
    compared = Comparison(
        a=f"{path.name}: {named.spec}",
        b=f"this one: {shown.spec}",
        regions=regions(golden, mask, named.layout),
        masks=(golden, mask),
    )
    if compared.equal:
        return None
    screen = io.StringIO()
    print_difference(compared, console(screen))
    return f"the mask is not the golden one in {clean(path)}\n{screen.getvalue()}"


def keep(shown: Shown, path: Path) -> None:
    """Write a mask to a file, and the folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with output(str(path)) as stream:
        stream.write(_text(shown))


def read(path: Path) -> Mask:
    """The mask in a file. Raises MaskcliError where there is none."""
    try:
        return _mask(json_object(read_bytes(path, MOST_BYTES))["mask"])
    except (ValueError, TypeError, KeyError) as error:
        raise MaskcliError(
            f"{str(path)!r} holds no golden mask ({error}); write it anew with pytest --maskcli-update"
        ) from None


def _text(shown: Shown) -> str:
    """JSON with a line for each query, and an empty one before the next head or sample."""
    mask = shown.mask
    items, heads = range(mask.shape[0]), range(mask.stored[1])
    planes = [[_listed(map(str, mask.runs(item, head)), ",\n") for head in heads] for item in items]
    runs = _listed((_listed(of_item, ",\n\n") for of_item in planes), ",\n\n")
    head = f'"spec": {json_text(shown.spec)}, "shape": {list(mask.shape)}'
    return f'{{"schema_version": {SCHEMA_VERSION}, "mask": {{{head}, "runs":\n{runs}}}}}\n'


def _listed(parts: Iterable[str], between: str) -> str:
    return f"[{between.join(parts)}]"


def _mask(kept: dict[str, Any]) -> Mask:
    """A mask of its shape and its runs [B][h][Q]; ValueError where they do not go together."""
    batch, heads, queries, keys = kept["shape"]
    items = kept["runs"]
    planes = [plane for item in items for plane in item]
    stored = (len(items), len(planes) // max(len(items), 1), queries)
    if stored[0] != batch or stored[1] not in (1, heads) or {len(plane) for plane in planes} != {queries}:
        raise ValueError(f"its runs are not those of a mask {kept['shape']}")

    rows = [[edge for run in row for edge in run] for plane in planes for row in plane]
    for row in rows:
        rising = all(low < high for low, high in itertools.pairwise([-1, *row, keys + 1]))
        if not rising or len(row) % 2 or not all(isinstance(edge, int) for edge in row):
            raise ValueError(f"runs {row} do not lie apart in 0..{keys}")
    starts, stops = np.array([edge for row in rows for edge in row], int).reshape(-1, 2).T
    shape = (batch, heads, queries, keys)
    return Mask.from_runs(shape, stored, np.array([len(row) // 2 for row in rows]), starts, stops).compact()
