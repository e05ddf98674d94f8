"""What `show` writes: its forms, and those for scripts: JSON, JSON lines, CSV, tab-separated text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from maskcli.errors import MaskcliError
from maskcli.report.forms import PAGES, PICTURES, SCHEMA_VERSION, Form, Look, in_pieces, on_screen
from maskcli.report.terminal import clean, csv_line, json_text, say

# The command line asks for the names of the forms: nothing else is imported then.
if TYPE_CHECKING:
    from rich.console import Console

    from maskcli.inputs.texts import Shown
    from maskcli.text import Batch

    Writer = Callable[..., None]

# Tokens that are written as text at once.
TOGETHER = 4096


def as_json(shown: Shown) -> Iterator[str]:
    """The JSON of `show`, streamed: a mask of a million rows is never whole in memory as text."""
    yield f'{{"schema_version": {SCHEMA_VERSION}, "mask": {{'
    yield ", ".join(f"{json_text(key)}: {json_text(value)}" for key, value in facts(shown).items())
    heads = range(shown.mask.stored[1])
    yield ', "runs": '
    yield from _listed(
        _listed(_rows(shown.mask.runs(item, head)) for head in heads) for item in range(shown.mask.shape[0])
    )
    yield '}, "sequences": '
    yield from _sequences(shown.queries)
    yield ', "source": '
    yield from ["null"] if shown.source is None else _sequences(shown.source)
    yield "}\n"


def as_json_lines(shown: Shown) -> Iterator[str]:
    """One JSON object a sample: its facts, its runs (of the first head) and its tokens."""
    for item in range(shown.mask.shape[0]):
        spec = json_text(shown.spec)
        yield f'{{"schema_version": {SCHEMA_VERSION}, "sequence": {item}, "spec": {spec}, "runs": '
        yield from _rows(shown.mask.runs(item))
        yield ', "tokens": '
        yield from _tokens(shown.queries, item)
        yield "}\n"


def as_text(shown: Shown) -> Iterator[str]:
    """A tab-separated line a query: sample, query, token, keys attended, their runs as start:stop."""
    for item in range(shown.mask.shape[0]):
        for query, runs in enumerate(shown.mask.runs(item)):
            yield "\t".join(_row(shown, item, query, runs)) + "\n"


def as_csv(shown: Shown) -> Iterator[str]:
    """The same with a header, as CSV."""
    yield "sequence,query,token,attended,keys\n"
    for item in range(shown.mask.shape[0]):
        for query, runs in enumerate(shown.mask.runs(item)):
            yield csv_line(_row(shown, item, query, runs))


def explained(shown: Shown, cell: str, item: int = 0, head: int = 0) -> str:
    """Whether the query of a cell QUERY,KEY may see its key, and why."""
    query, key = _cell(shown, cell, item, head)
    asks, seen = shown.queries.token(item, query), shown.key_token(item, key)
    may = "may" if shown.attends(query, key, item, head) else "may not"
    reason = shown.why(query, key, item, head)
    return f"query {_named(query, asks)} {may} see key {_named(key, seen)}: {reason}"


def explained_json(shown: Shown, cell: str, item: int = 0, head: int = 0) -> str:
    """The same for scripts: the cell, whether it attends, the operand that forbids it, and the sentence."""
    query, key = _cell(shown, cell, item, head)
    told = shown.because(query, key, item, head)
    reason = told.reason
    return json_text(
        {
            "schema_version": SCHEMA_VERSION,
            "spec": shown.spec,
            "sample": item,
            "head": head,
            "query": query,
            "key": key,
            "query_token": shown.queries.token(item, query),
            "key_token": shown.key_token(item, key),
            "attends": shown.attends(query, key, item, head),
            "kind": None if reason is None else reason.kind,
            "operand": None if reason is None else reason.operand,
            "why": told.text,
        }
    )


def _cell(shown: Shown, cell: str, item: int, head: int) -> tuple[int, int]:
    """QUERY,KEY as numbers that the mask has."""
    found = re.fullmatch(r"\s*(\d{1,12})\s*,\s*(\d{1,12})\s*", cell)
    if found is None:
        raise MaskcliError(f"--why {cell!r} is no cell; write a query and a key, such as --why 4,2")
    query, key = int(found[1]), int(found[2])
    asked = {"--sample": item, "--head": head, "query": query, "key": key}
    for (what, number), size in zip(asked.items(), shown.mask.shape, strict=True):
        if number >= size:
            have = "there is only 0" if size == 1 else f"there are 0 to {size - 1:,}"
            raise MaskcliError(f"{what} {number} is not in this mask: {have}; pass one of these")
    return query, key


def _named(number: int, token: str) -> str:
    """The number of a place, and the token there; where nothing is known of tokens their text is a number."""
    return str(number) if token == str(number) else f"{number} ({clean(token)})"


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
    return [str(item), str(query), clean(shown.queries.token(item, query)), str(attended), spans]


def _listed(items: Iterable[Iterable[str]]) -> Iterator[str]:
    """A JSON list of what comes in pieces itself."""
    yield "["
    for index, pieces in enumerate(items):
        if index:
            yield ", "
        yield from pieces
    yield "]"


def _rows(rows: Iterable[list[list[int]]]) -> Iterator[str]:
    """The runs of every query as a JSON list, a piece a query."""
    yield "["
    for query, runs in enumerate(rows):
        yield f", {runs}" if query else str(runs)
    yield "]"


def _sequences(batch: Batch) -> Iterator[str]:
    return _listed(_sequence(batch, item) for item in range(batch.shape[0]))


def _sequence(batch: Batch, item: int) -> Iterator[str]:
    text = batch.texts[item] if batch.documents is None else None
    yield f'{{"text": {json_text(text)}, "tokens": '
    yield from _tokens(batch, item)
    yield "}"


def _tokens(batch: Batch, item: int) -> Iterator[str]:
    # Encoded one by one, tokens take twice as long.
    starts = range(0, batch.shape[1], TOGETHER)
    return _listed([json_text(token_facts(batch, item, at, at + TOGETHER))[1:-1]] for at in starts)


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


def _table(shown: Shown, console: Console) -> None:
    from maskcli.report.tables import print_shown

    print_shown(shown, console)


def _picture(shown: Shown, path: str | None, look: Look) -> None:
    from maskcli.report.pictures.masks import save_mask

    save_mask(shown, path or "", look)


def _page(shown: Shown, path: str | None, megabytes: int | None = None) -> None:
    from maskcli.report.page.pages import save_shown

    save_shown(shown, path, megabytes)


def _tensor(shown: Shown, path: str | None) -> None:
    """The mask as a file another library reads, with its tokens beside it where the format holds them."""
    from maskcli.inputs.saved import NAME, lost_alone, tensors_of
    from maskcli.tensors import holds_one, write_tensors

    assert path is not None
    tensors, told = tensors_of(shown)
    if not holds_one(path):
        write_tensors(path, tensors, told)
        return
    write_tensors(path, {NAME: tensors[NAME]}, told)
    lost = lost_alone(shown)
    if lost:
        say(f"maskcli: note: {path!r} holds the mask without {' and '.join(lost)}, which -o FILE.npz keeps")


FORMS: tuple[Form[Writer], ...] = (
    Form("table", (), on_screen(_table)),
    Form("json", (".json",), in_pieces(as_json)),
    Form("jsonl", (".jsonl",), in_pieces(as_json_lines)),
    Form("csv", (".csv",), in_pieces(as_csv)),
    Form("text", (".txt",), in_pieces(as_text)),
    Form(None, PICTURES, _picture),
    Form(None, PAGES, _page),
)


def forms_for(path: str | None) -> tuple[Form[Writer], ...]:
    """The forms, with that of tensors where there is a file to write."""
    if path is None:
        return FORMS
    from maskcli.tensors import writable

    return (*FORMS, Form(None, tuple(writable()), _tensor))


def forms_of_why(cell: str, item: int | None, head: int | None) -> tuple[Form[Writer], ...]:
    """The forms of what is said of one cell."""

    def telling(tell: Callable[..., str]) -> Writer:
        return in_pieces(lambda shown: [tell(shown, cell, item or 0, head or 0), "\n"])

    return (Form("text", (".txt",), telling(explained)), Form("json", (".json",), telling(explained_json)))
