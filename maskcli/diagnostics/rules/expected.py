"""Rules on what was expected and is not so: MSK114 and MSK222."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from maskcli.diagnostics.finding import Found
from maskcli.diagnostics.rule import NOT_WEIGHTS, SEEN, rule
from maskcli.diagnostics.rules.hits import Hit, fold_by
from maskcli.diagnostics.rules.mask import query_axis_rows
from maskcli.diagnostics.verdicts.compared import BEYOND, FUTURE, OTHERS, PADS, Apart, apart
from maskcli.diagnostics.verdicts.judge import judge
from maskcli.diagnostics.verdicts.unseen import Unseen, is_chunked, never_seen
from maskcli.diagnostics.words import told
from maskcli.masks.spec import write
from maskcli.masks.words import counted
from maskcli.scene.scene import Attention, Saved, Scene

# So many layers of either kind are no accident.
IN_TURNS = 2


@rule(
    "MSK114",
    "mask-not-expected",
    "error",
    needs=("mask", ("expectation", "mask expectation", "padding")),
    explained_by=(*SEEN, "MSK102", "MSK106", "MSK107", "MSK109", "MSK110", "MSK111"),
)
def mask_not_expected(scene: Scene) -> Iterator[Found]:
    """The saved mask is not the one that was meant: it shows cells that it should hide, or hides others.

    A mask that forgets the padding, the documents or the causal triangle is obeyed to the letter, and what it
    shows is read; one that hides too much takes context away, and nothing fails. The mask is compared with
    what was declared and with the padding of the input, in the rows of real tokens.

    In code: a custom 4-D mask, which Hugging Face models take as it is; a mask of ones; a mask function with
    another window, chunk or prefix; `attention_mask` of the tokenizer dropped on the way.

    Fix: build the mask from the same facts as the model, and compare it with `maskcli diff MASK SPEC`.
    """
    hits = []
    for saved in scene.masks:
        found = apart(saved) if query_axis_rows(saved) is None else None
        if found is not None:
            hits.append((_hit(saved, found), (saved, found)))
    for group in fold_by(hits, alike=lambda extra: _told(*extra)):
        saved, found = group.extra
        shown = found.too_much.items()
        counts: dict[str, Any] = {
            _REASONS[why].evidence: cells.attended for why, cells in shown if cells.attended
        }
        if found.too_little.attended:
            counts["hidden_cells"] = found.too_little.attended
        yield group.found(f"{_told(saved, found)} ({group.told('queries')})", _fix(found), **counts)


@rule(
    "MSK222",
    "keys-never-seen",
    "error",
    needs=("weights", "expectation"),
    explained_by=(*NOT_WEIGHTS, "MSK110", "MSK113", "MSK114", "MSK213", "MSK215", "MSK218"),
)
def keys_never_seen(scene: Scene) -> Iterator[Found]:
    """Queries never see a run of keys that they were meant to see, in any head.

    Context is lost without anything failing: a chunk of the prompt, the part of another rank, the first half
    of a document. Scores near minus infinity, sinks and sparse heads leave zeros here and there; a whole run
    of keys that weighs exactly 0 in all heads of many rows was masked, or was not there.

    In code: chunked prefill that attends within the chunk only, ring attention that leaves out a step, a
    cache that was not concatenated, a mask of one document's part.

    Fix: compare the keys that each query gets with `maskcli show`; merge the parts of all ranks and chunks.
    """
    hits = []
    for attention in scene.attentions:
        unseen = None if judge(attention) else never_seen(attention)
        if unseen is not None and not _is_local_layer(attention, unseen, scene):
            hits.append((Hit(attention.name, unseen.rows, unseen.keys), attention.meant_by))
    for group in fold_by(hits):
        yield group.found(
            f"{told(group.where.queries, 'queries')} never see {group.told()}: these weigh exactly 0 in "
            f"every head, and {group.extra} lets them be seen",
            "look for what leaves these keys out: a chunk of a prefill, the part of another rank, a cache "
            "that was not joined",
            rows=int(sum(np.any(hit.rows, axis=1).sum() for hit in group.hits)),
        )


class _Reason(NamedTuple):
    """How cells that a mask should have hidden are told of, how evidence calls them, and the fix."""

    words: str
    evidence: str
    fix: str


def _is_local_layer(attention: Attention, unseen: Unseen, scene: Scene) -> bool:
    """Whether maps are chunked in turns: a declaration for all layers leaves open which of them are."""
    declared = attention.declared
    if declared is None or declared.particular or not is_chunked(attention, unseen):
        return False
    alike = [map_ for map_ in scene.attentions if map_.shape[:3] == attention.shape[:3]]
    missing = sum(never_seen(map_) is not None for map_ in alike)
    return min(missing, len(alike) - missing) >= IN_TURNS


_REASONS = {
    FUTURE: _Reason("behind the query", "future_cells", "hide what is behind each query (torch.tril)"),
    PADS: _Reason("of padding", "padding_cells", "hide the padding: & attention_mask[:, None, None, :]"),
    OTHERS: _Reason("of other documents", "document_cells", "keep documents apart (block-diagonal)"),
    BEYOND: _Reason("beyond its window, chunk or prefix", "other_cells", "hide what the declared mask hides"),
}


def _told(saved: Saved, found: Apart) -> str:
    """What the mask shows and hides, against whose word."""
    shown = {why: cells.attended for why, cells in found.too_much.items() if cells.attended}
    declared = saved.declared
    said = "" if declared is None else f"{declared.source} {write(declared.spec)!r}"
    sources = [said] if said and set(shown) - {PADS} else []
    if PADS in shown and saved.keys is not None:
        sources.append(f"the padding in {saved.keys.source}")

    parts = []
    if shown:
        forbids = "forbids" if len(sources) == 1 else "forbid"
        cells = (f"{counted(count, 'cell')} {_REASONS[why].words}" for why, count in shown.items())
        parts.append(f"lets real queries see what {' and '.join(sources)} {forbids}: {', '.join(cells)}")
    if found.too_little.attended:
        parts.append(f"hides {counted(found.too_little.attended, 'cell')} that {said} allows")
    return "the mask " + "; and it ".join(parts)


def _fix(found: Apart) -> str:
    """What to do about it."""
    steps = [_REASONS[why].fix for why, cells in found.too_much.items() if cells.attended]
    if found.too_little.attended:
        steps.append("let real queries see all that the declared mask allows")
    return "; ".join(steps) + '; compare with maskcli diff MASK "SPEC"'


def _hit(saved: Saved, found: Apart) -> Hit:
    """The rows that differ, and the keys in which they do."""
    cells = found.cells
    rows = np.broadcast_to(cells.keys_per_query > 0, cells.shape[:3])
    keys = np.broadcast_to(np.any(cells.seen, axis=1), (cells.shape[0], cells.shape[3]))
    return Hit(saved.given.tensor.name, rows, keys)
