"""What `show` shows, and its forms for scripts: JSON, one JSON line a sequence, CSV and tab-separated text."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.mask import Mask
from maskcli.report.terminal import clean, json_text

if TYPE_CHECKING:
    from maskcli.text import Batch

SCHEMA_VERSION = 1
# Tokens that are written as text at once.
TOGETHER = 4096


@dataclass(frozen=True, eq=False)
class Shown:
    """A mask with the tokens on its axes.

    `queries` are the tokens of the rows, `source` those of the keys when they are another sequence. `past` keys stand before
    the first query, and `axes` names the axes that the spec varies along. `convention` and `dtype` say how values are written.
    """

    spec: str
    mask: Mask
    axes: str
    queries: Batch
    source: Batch | None
    past: int
    convention: str
    dtype: str

    @property
    def broadcast_shape(self) -> list[int]:
        """The smallest shape that broadcasts to the whole: [B, 1, K] padding, [Q, K] causal, [B, Q, K] combined."""
        batch, heads, queries, keys = self.mask.shape
        rows = queries if "q" in self.axes else 1
        if self.mask.stored[1] > 1:
            return [batch, heads, queries, keys]
        return [batch, rows, keys] if "b" in self.axes else [rows, keys]

    def sequences(self) -> range:
        """The batch items."""
        return range(self.mask.shape[0])

    def query_token(self, item: int, query: int) -> str:
        """The text of a query's token."""
        return self.queries.token(item, query)

    def key_token(self, item: int, key: int) -> str:
        """The text of a key's token; cached keys and empty slots have none."""
        batch = self.source or self.queries
        at = key if self.source else key - self.past
        if at < 0:
            return "past"
        return batch.token(item, at) if at < batch.shape[1] else "empty"

    def runs(self, item: int) -> Iterator[list[list[int]]]:
        """The runs of every query of a batch item; the first head's when heads differ."""
        return self.mask.runs(item)

    def values(self) -> tuple[str, str]:
        """What attend and ignore are in the shown convention."""
        values = CONVENTIONS[self.convention].values
        return values.attend, values.ignore


def as_json(shown: Shown) -> Iterator[str]:
    """The JSON of `show`, streamed: a mask of a million rows is never whole in memory as text."""
    yield f'{{"schema_version": {SCHEMA_VERSION}, "mask": {{'
    yield ", ".join(f"{json_text(key)}: {json_text(value)}" for key, value in facts(shown).items())
    yield ', "runs": ['
    for item in shown.sequences():
        yield "[" if item == 0 else ", ["
        for head in range(shown.mask.stored[1]):
            yield "[" if head == 0 else ", ["
            for query, runs in enumerate(shown.mask.runs(item, head)):
                yield f", {runs}" if query else str(runs)
            yield "]"
        yield "]"
    yield ']}, "sequences": '
    yield from _sequences(shown.queries)
    yield ', "source": '
    if shown.source is None:
        yield "null"
    else:
        yield from _sequences(shown.source)
    yield "}\n"


def as_json_lines(shown: Shown) -> Iterator[str]:
    """One JSON object a sequence: its facts, its runs (of the first head) and its tokens."""
    for item in shown.sequences():
        yield f'{{"schema_version": {SCHEMA_VERSION}, "sequence": {item}, "spec": {json_text(shown.spec)}, "runs": ['
        for query, runs in enumerate(shown.runs(item)):
            yield f", {runs}" if query else str(runs)
        yield '], "tokens": '
        yield from _tokens(shown.queries, item)
        yield "}\n"


def as_text(shown: Shown) -> Iterator[str]:
    """One plain line a query, tab-separated: sequence, query, token, keys attended, and the runs of keys as start:stop."""
    for item in shown.sequences():
        for query, runs in enumerate(shown.runs(item)):
            yield "\t".join(_row(shown, item, query, runs)) + "\n"


def as_csv(shown: Shown) -> Iterator[str]:
    """The same with a header, as CSV. A leading =, +, - or @ is quoted away, so that no spreadsheet runs it."""
    yield "sequence,query,token,attended,keys\n"
    for item in shown.sequences():
        for query, runs in enumerate(shown.runs(item)):
            row = _row(shown, item, query, runs)
            row[2] = "'" + row[2] if row[2][:1] in "=+-@" and row[2] else row[2]
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(row)
            yield line.getvalue()


def facts(shown: Shown) -> dict[str, Any]:
    """The mask in numbers."""
    mask = shown.mask
    batch, _, queries, keys = mask.shape
    heads = mask.stored[1]
    copies = mask.shape[1] // heads
    return {
        "spec": shown.spec,
        "shape": [batch, heads, queries, keys],
        "broadcast_shape": shown.broadcast_shape,
        "attended": mask.attended // copies,
        "density": mask.density,
        "empty_rows": mask.empty_rows // copies,
    }


def _row(shown: Shown, item: int, query: int, runs: list[list[int]]) -> list[str]:
    attended = sum(stop - start for start, stop in runs)
    spans = ",".join(f"{start}:{stop}" for start, stop in runs)
    return [str(item), str(query), clean(shown.query_token(item, query)), str(attended), spans]


def _sequences(batch: Batch) -> Iterator[str]:
    yield "["
    for item in range(batch.shape[0]):
        text = batch.texts[item] if batch.documents is None else None
        yield f'{", " if item else ""}{{"text": {json_text(text)}, "tokens": '
        yield from _tokens(batch, item)
        yield "}"
    yield "]"


def _tokens(batch: Batch, item: int) -> Iterator[str]:
    yield "["
    for start in range(0, batch.shape[1], TOGETHER):
        # Encoded one by one, tokens take twice as long.
        yield (", " if start else "") + json_text(token_facts(batch, item, start, start + TOGETHER))[1:-1]
    yield "]"


def token_facts(batch: Batch, item: int, start: int, stop: int) -> list[dict[str, Any]]:
    """Rows of the token table; None where the input has no such thing."""
    stop = min(stop, batch.shape[1])

    def column(values: Any) -> Iterable[Any]:
        return itertools.repeat(None) if values is None else values[item, start:stop].tolist()

    columns = {
        "index": range(start, stop),
        "id": column(batch.ids),
        "token": [batch.token(item, index) for index in range(start, stop)],
        "special": column(batch.special),
        "attention_mask": batch.attention_mask[item, start:stop].astype(int).tolist(),
        "position_id": column(batch.position_ids),
        "segment": column(batch.segments),
        "label": column(batch.labels),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=False)]
