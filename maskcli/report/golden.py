"""Golden masks: a mask in a file that people read and compare, and how another one differs from it.

The file has the spec, the shape and the runs of the mask as `maskcli show --format json` writes them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskcli.api.comparing import Comparison
from maskcli.api.showing import show
from maskcli.inputs.golden import read
from maskcli.inputs.texts import Shown
from maskcli.masks.compare import regions
from maskcli.masks.naming import name_of
from maskcli.report.differences import print_difference
from maskcli.report.forms import SCHEMA_VERSION
from maskcli.report.terminal import clean, console, json_text, output


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
    golden = read(path).mask
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
