"""Measured masks in a file, by the paths of their modules: for inspect, diff and whoever reads tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from maskcli.arrays import Array
from maskcli.diagnostics.behaviour import Seen
from maskcli.diagnostics.verdicts.called import called_by, longest
from maskcli.errors import MaskcliError
from maskcli.masks.mask import CHUNK_CELLS, Mask
from maskcli.masks.spec import build, parse
from maskcli.tensors import Source, write_tensors


def keep(seen: Iterable[Seen], path: str) -> None:
    """Write the measured masks, bool [1, 1, Q, K], True where a key is reached, those of the longest text.

    A mask is called by its module, in other runs than the first by MODULE@RUN, such as
    `model.layers.0.self_attn@left-padding`. Slots of a cache behind the last one that is seen are left out,
    and masks of which some columns were measured, and no name fits.
    """
    tensors: dict[str, Source] = {}
    for each in seen:
        mask = _mask(each)
        if mask is not None:
            tensors[_name(each, tensors)] = Source("bool", mask.shape, _rows(mask))
    if not tensors:
        raise MaskcliError(
            f"no mask was measured that {path!r} could hold; write the report with -o FILE.json"
        )
    write_tensors(path, tensors, {"maskcli.from": "sdpa"})


def _mask(seen: Seen) -> Mask | None:
    """The mask of the longest text; of some columns, that which their name says."""
    if seen.columns is None:
        return _without_empty_slots(seen)
    called = called_by(seen)
    if called.wrong:
        return None
    return _without_empty_slots(replace(seen, reached=build(parse(called.spec), seen.layout)))


def _without_empty_slots(seen: Seen) -> Mask:
    if seen.keys != "cache":
        return longest(seen)[0]
    mask = longest(replace(seen, layout=replace(seen.layout, real=None)))[0]
    last = int(mask.stops.max(initial=0))
    return mask.select(keys=slice(0, max(last, min(seen.layout.past + mask.shape[2], mask.shape[3]))))


def _name(seen: Seen, taken: Iterable[str]) -> str:
    """The path of the module, with the run and whose keys they are where that is needed."""
    of_run = name_in(seen.module, seen.setting)
    names = (name_in(seen.module), of_run, f"{of_run}-{seen.keys}")
    return next((name for name in names if name not in taken), f"{names[-1]}-{len(list(taken))}")


def name_in(module: str, setting: str | None = None) -> str:
    """What the mask of a module is called in a file: in its first run, or in that of a setting.

    >>> name_in("layers.0", "1 token after 23, dynamic cache")
    'layers.0@1-token-after-23-dynamic-cache'
    """
    run = "" if setting is None else "@" + setting.replace(",", "").replace(" ", "-")
    return f"{module or 'model'}{run}"


def _rows(mask: Mask) -> Iterator[Array]:
    """Its rows, some at a time."""
    step = max(1, CHUNK_CELLS // max(mask.shape[3], 1))
    for low in range(0, mask.shape[2], step):
        yield mask.dense(rows=(low, min(low + step, mask.shape[2])))
