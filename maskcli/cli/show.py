"""maskcli show: the mask of a text."""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from maskcli.cli import Exit, app
from maskcli.cli.options import From, Output, Padding, PadId, Past, Side, Tokenizer
from maskcli.errors import MaskcliError

if TYPE_CHECKING:
    from maskcli.masks.kinds import Layout
    from maskcli.masks.spec import Resolve
    from maskcli.report.shown import Shown
    from maskcli.text import Batch


class ShowForm(str, enum.Enum):
    """What --format takes here."""

    table = "table"
    json = "json"
    json_lines = "json-lines"
    csv = "csv"
    text = "text"


_FORMS = {".json": "json", ".jsonl": "json-lines", ".csv": "csv", ".txt": "text"}
_PICTURES = (".png", ".svg", ".pdf")


@app.command(epilog='Example:  maskcli show "The cat sat" "Hello" -m "causal & padding"')
def show(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT...", help="Texts, one sequence each; - reads standard input."),
    ] = None,
    mask: Annotated[
        str,
        typer.Option(
            "--mask",
            "-m",
            metavar="SPEC",
            help="Kinds joined by & | ~ ( ): causal, padding, sliding:4, documents, FILE.py:NAME, …",
        ),
    ] = "",
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Texts from a file, one sequence a line.")
    ] = None,
    ids: Annotated[str | None, typer.Option(metavar="IDS", help='Token ids: "5 3 2 0 0; 7 4 8 6 0".')] = None,
    lengths: Annotated[str | None, typer.Option(metavar="N,N", help="Lengths alone: 5,3,7.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="The source side of a cross mask, one for each text. Repeatable."),
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="The second text of each sequence. Repeatable.")
    ] = None,
    packed: Annotated[
        bool, typer.Option("--packed", help="Pack the texts into one row (for documents).")
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Texts are messages as JSON, for the tokenizer's chat template.")
    ] = False,
    labels: Annotated[bool, typer.Option("--labels", help="Add the labels, -100 on padding.")] = False,
    tokenizer: Tokenizer = None,
    special_tokens: Annotated[
        bool | None,
        typer.Option(
            "--special-tokens/--no-special-tokens",
            help="Add special tokens, or not. Default: as the tokenizer does.",
        ),
    ] = None,
    padding: Annotated[
        Padding, typer.Option(help="Pad to the longest text or to --max-length.")
    ] = Padding.longest,
    max_length: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cut longer texts to N tokens.")
    ] = None,
    padding_side: Annotated[Side | None, typer.Option(help="Default: as the tokenizer does.")] = None,
    pad_token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="The padding token: a token, or eos.")
    ] = None,
    pad_id: PadId = None,
    past: Past = None,
    cache_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**30,
            metavar="N",
            help="Key slots of a static cache; those behind the text are empty.",
        ),
    ] = None,
    heads: Annotated[
        int,
        typer.Option(min=1, max=4096, metavar="N", help="Heads, for a FILE.py:NAME that tells them apart."),
    ] = 1,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="CONVENTION",
            help="Show the values another library would see: sdpa, mha, megatron, hf, additive, binary.",
        ),
    ] = "sdpa",
    dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="The type of those values, such as float16.")
    ] = None,
    convention: From = None,
    block_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="The side of the blocks that are counted.")
    ] = 128,
    form: Annotated[
        ShowForm | None, typer.Option("--format", help="table for people; text is one line a query.")
    ] = None,
    output: Output = None,
) -> int:
    """Show the attention mask of a text: a table of its tokens, and of which token may attend to which."""
    from maskcli.report.terminal import form as form_of
    from maskcli.report.terminal import output as result
    from maskcli.report.terminal import say, write

    given = _one_of(texts, file, ids, lengths)
    inputs = _Inputs(
        texts or [],
        file,
        ids,
        lengths,
        pair,
        packed,
        chat,
        labels,
        tokenizer,
        special_tokens,
        padding,
        max_length,
        padding_side.value if padding_side else None,
        pad_token,
        pad_id,
    )
    inputs.refuse_unused(given)
    batch = inputs.batch(given)
    origin = inputs.source_batch(source, batch) if source else None
    shown = _shown(mask, batch, origin, past or 0, cache_length, heads, to, dtype, convention)
    for warning in (*batch.warnings, *(origin.warnings if origin else ())):
        say(f"maskcli: warning: {warning}")
    suffix = output[output.rfind(".") :].lower() if output and "." in output else ""
    if form is None and suffix in _PICTURES:
        from maskcli.report.heatmap import save_heatmap

        save_heatmap(shown, output or "")
        return Exit.OK
    others = (*_PICTURES, *_tensor_suffixes()) if output else ()
    if form is None and suffix in others:
        _save_tensor(shown, output or "")
        return Exit.OK
    if form is not None and suffix in others:
        raise MaskcliError(
            f"--format {form.value} does not fit {output!r}, whose suffix names another form; leave one of them out"
        )
    chosen = form_of(output, form.value if form else None, {**_FORMS, **dict.fromkeys(others, "")}, "table")
    with result(output) as stream:
        if chosen == ShowForm.table.value:
            from maskcli.report.tables import print_shown
            from maskcli.report.terminal import console

            print_shown(shown, console(stream), block_size)
        else:
            from maskcli.report import shown as forms

            pieces = {
                "json": forms.as_json,
                "json-lines": forms.as_json_lines,
                "csv": forms.as_csv,
                "text": forms.as_text,
            }
            write(pieces[chosen](shown), stream)
    return Exit.OK


class _Inputs:
    """The options that say which tokens there are."""

    def __init__(
        self,
        texts: list[str],
        file: str | None,
        ids: str | None,
        lengths: str | None,
        pairs: list[str] | None,
        packed: bool,
        chat: bool,
        labels: bool,
        tokenizer: str | None,
        special_tokens: bool | None,
        padding: Padding,
        max_length: int | None,
        side: str | None,
        pad_token: str | None,
        pad_id: int | None,
    ) -> None:
        self.texts, self.file, self.ids, self.lengths, self.pairs = texts, file, ids, lengths, pairs
        self.packed, self.chat, self.labels, self.tokenizer_name = packed, chat, labels, tokenizer
        self.special_tokens, self.padding, self.max_length = special_tokens, padding, max_length
        self.side, self.pad_token, self.pad_id = side, pad_token, pad_id

    def refuse_unused(self, given: str) -> None:
        """Refuse options that have no meaning beside ids, lengths or texts: none is dropped in silence."""
        texts_only: dict[str, object] = {
            "--pair": self.pairs,
            "--chat": self.chat,
            "--special-tokens": self.special_tokens is not None,
            "--padding max-length": self.padding is not Padding.longest,
            "--pad-token": self.pad_token and given == "lengths",
        }
        unused: dict[str, dict[str, object]] = {
            "ids": {**texts_only, "--packed": self.packed, "--max-length": self.max_length},
            "lengths": {
                **texts_only,
                "--tokenizer": self.tokenizer_name,
                "--labels": self.labels,
                "--pad-id": self.pad_id is not None,
            },
        }
        for option, value in unused.get(given, {"--pad-id": self.pad_id is not None}).items():
            if value:
                raise MaskcliError(
                    f"{option} means nothing beside {'texts' if given in ('texts', 'file') else '--' + given}; leave it out"
                )

    def batch(self, given: str) -> Batch:
        """The tokens of the queries."""
        import maskcli.text as text

        if given == "lengths":
            return text.batch_from_lengths(
                self.lengths or "", padding_side=self.side, max_length=self.max_length, packed=self.packed
            )
        if given == "ids":
            loaded = (
                text.load_tokenizer(self.tokenizer_name, pad_token=self.pad_token)
                if self.tokenizer_name
                else None
            )
            return text.batch_from_ids(
                self.ids or "", self.pad_id, tokenizer=loaded, padding_side=self.side, labels=self.labels
            )
        lines: tuple[str, ...] = tuple(self.texts)
        warnings: tuple[str, ...] = ()
        if self.file is not None:
            lines, warnings = text.read_lines(self.file)
        elif self.texts == ["-"]:
            read = sys.stdin.read()
            lines, warnings = ((read,), ()) if self.chat else text.split_lines(read)
        return self._encoded(lines, warnings)

    def source_batch(self, source: list[str], batch: Batch) -> Batch:
        """The tokens of the keys of a cross mask."""
        if len(source) != batch.shape[0]:
            raise MaskcliError(
                f"there are {batch.shape[0]} sequences and {len(source)} source texts; pass --source once for each"
            )
        import maskcli.text as text

        loaded = text.load_tokenizer(self.tokenizer_name, pad_token=self.pad_token)
        return text.batch_from_texts(
            source, loaded, special_tokens=self.special_tokens, padding_side=self.side
        )

    def _encoded(self, lines: tuple[str, ...], warnings: tuple[str, ...]) -> Batch:
        import dataclasses

        import maskcli.text as text

        loaded = text.load_tokenizer(self.tokenizer_name, pad_token=self.pad_token, chat=self.chat)
        special = self.special_tokens
        if self.chat:
            conversations = tuple(each for line in lines for each in text.parse_messages(line))
            lines, special = text.chat_texts(conversations, loaded), False
        batch = text.batch_from_texts(
            lines,
            loaded,
            pairs=self.pairs,
            special_tokens=special,
            padding=self.padding.value.replace("_", "-"),
            max_length=self.max_length,
            padding_side=self.side,
            packed=self.packed,
            labels=self.labels,
        )
        return dataclasses.replace(batch, warnings=warnings + batch.warnings)


def _one_of(texts: list[str] | None, file: str | None, ids: str | None, lengths: str | None) -> str:
    """Which of the ways to give tokens was used; exactly one has to be."""
    given = [
        name
        for name, value in (("texts", texts), ("file", file), ("ids", ids), ("lengths", lengths))
        if value is not None and value != []
    ]
    if len(given) != 1:
        names = {"texts": "texts", "file": "--file", "ids": "--ids", "lengths": "--lengths"}
        said = " and ".join(names[name] for name in given) if given else "nothing"
        raise MaskcliError(
            f'{said} was given where one of texts, --file, --ids or --lengths belongs; for example maskcli show "Hello world"'
        )
    return given[0]


def _shown(
    text: str,
    batch: Batch,
    source: Batch | None,
    past: int,
    cache_length: int | None,
    heads: int,
    to: str,
    dtype: str | None,
    convention: str | None,
) -> Shown:
    """The mask of a spec over the tokens."""
    from maskcli.masks import conventions, spec
    from maskcli.report.shown import Shown

    if convention is not None:
        from maskcli.meant.facts import convention as known

        known(convention)
    if to not in conventions.CONVENTIONS:
        raise MaskcliError(
            f"--to {to!r} is not a convention; choose one of {', '.join(conventions.CONVENTIONS)}"
        )
    kind = conventions.dtype_of(to, dtype)
    if not text:
        text = "cross" if source is not None else "causal & documents" if batch.documents else "combined"
    parsed = spec.parse(text)
    if "cross" in spec.kinds_in(parsed) and source is None:
        raise MaskcliError(
            "a cross mask needs its source sequence; pass it with --source TEXT, once for each text"
        )
    layout = _layout(batch, source, past, cache_length, heads)
    mask = spec.build(parsed, layout, _resolver(convention) if spec.names_files(parsed) else None)
    conventions.fitting(mask.stored, to, spec.write(parsed))
    return Shown(spec.write(parsed), mask, spec.axes(parsed), batch, source, past, to, kind)


def _resolver(convention: str | None) -> Resolve:
    """How files in the spec are read; only specs that name some pay for the rooms behind it."""
    from maskcli.inputs.operands import resolver

    return resolver(convention)


def _layout(batch: Batch, source: Batch | None, past: int, cache_length: int | None, heads: int) -> Layout:
    """Sizes, padding and documents: past keys come first and are real, empty cache slots last and are not."""
    import numpy as np

    from maskcli.masks.kinds import Layout

    items, queries = batch.shape
    if source is not None:
        if past or cache_length:
            raise MaskcliError(
                "--past and --cache-length speak of self-attention; leave them out with --source"
            )
        return Layout(items, queries, source.shape[1], heads, 0, source.attention_mask, None, cross=True)
    keys = past + queries if cache_length is None else cache_length
    if keys < past + queries:
        raise MaskcliError(
            f"--cache-length {keys} has no room for {past} past keys and {queries} new ones; pass at least {past + queries}"
        )
    slots = ((0, 0), (past, keys - past - queries))
    real = np.pad(batch.attention_mask, [(0, 0), (past, 0)], constant_values=True)
    real = np.pad(real, [(0, 0), (0, keys - past - queries)])
    documents = None
    if batch.documents is not None and batch.segments is not None:
        documents = np.pad(batch.segments, slots, mode="edge")
    return Layout(items, queries, keys, heads, past, real, documents)


def _tensor_suffixes() -> tuple[str, ...]:
    from maskcli.tensors import writable

    return tuple(writable())


def _save_tensor(shown: Shown, path: str) -> None:
    """The mask as a file another library reads, in the shape that broadcasts for it."""
    from maskcli.masks.conventions import CONVENTIONS, chunks
    from maskcli.tensors import Source, write_tensors

    mask = shown.mask
    target = CONVENTIONS[shown.convention].target(mask.stored, mask.shape, shown.axes == "q")
    values = chunks(mask, target, shown.convention, shown.dtype)
    write_tensors(
        path,
        {"mask": Source(shown.dtype, target.shape, values)},
        {"maskcli.spec": shown.spec, "maskcli.from": shown.convention},
    )
