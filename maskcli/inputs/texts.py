"""What the arguments of `show` stand for: tokens of texts, ids or lengths, and a spec's mask over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from maskcli.arrays import Array, Real
from maskcli.displayed import Pictured
from maskcli.errors import MaskcliError
from maskcli.inputs.given import Given
from maskcli.masks import conventions, spec
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.reasons import Because, Reason, because, by_kind, reasons
from maskcli.masks.spec import Resolve
from maskcli.meant.facts import MOST_KEYS
from maskcli.text import (
    Batch,
    Lines,
    Tokenizer,
    batch_from_ids,
    batch_from_lengths,
    batch_from_texts,
    chat_texts,
    counted_by,
    doubled_warnings,
    load_tokenizer,
    parse_messages,
    parse_tools,
    read_lines,
    read_standard_input,
    read_text,
    split_lines,
)

# Rows of a mask whose cells are told apart by their reasons, which takes some 100 bytes a row.
MOST_EXPLAINED = 2**20


@dataclass(frozen=True, eq=False)
class Shown(Pictured):
    """A mask with the tokens on its axes.

    `queries` are the tokens of the rows, `source` those of the keys when they are another sequence. `past`
    keys stand before the first query, and `axes` names the axes that the spec varies along. `convention` and
    `dtype` say how values are written, `block` the side of the blocks that are counted. `layout` and
    `resolve` are what the mask was built over and of; a mask that was there already has neither.
    """

    spec: str
    mask: Mask
    axes: str
    queries: Batch
    source: Batch | None
    past: int
    convention: str
    dtype: str
    block: int = 128
    layout: Layout | None = None
    resolve: Resolve | None = None

    @property
    def explained(self) -> bool:
        """Whether cells are told apart by their reasons: not of a saved mask, or of one of too many rows."""
        return self.layout is not None and self.mask.shape[0] * self.mask.shape[2] <= MOST_EXPLAINED

    @cached_property
    def reasons(self) -> tuple[Reason, ...]:
        """Why cells are forbidden, as far as that is explained."""
        if self.layout is None or not self.explained:
            return ()
        return reasons(spec.parse(self.spec), self.layout, self.resolve)

    @cached_property
    def _by_kind(self) -> dict[str, Mask]:
        return by_kind(self.reasons)

    @property
    def kinds(self) -> list[str]:
        """The kinds of reasons that occur; where nothing is explained all cells are "other"."""
        return list(self._by_kind) if self.explained else ["other"]

    def forbidden(self, item: int) -> dict[str, Mask]:
        """The forbidden cells of a sample by the kind of their reason, in masks of this or of all samples."""
        if self.explained:
            return self._by_kind
        return {"other": ~self.mask.select(batch=slice(item, item + 1))}

    def why(self, query: int, key: int, item: int = 0, head: int = 0) -> str:
        """Why a query may or may not see a key, as masks/reasons.py says it."""
        return self.because(query, key, item, head).text

    def because(self, query: int, key: int, item: int = 0, head: int = 0) -> Because:
        """The same, with what forbids it. Of a mask that has no exact name nothing more is known."""
        if self.layout is not None:
            return because(spec.parse(self.spec), self.layout, query, key, item, head, self.resolve)
        return Because(f"the mask {'allows' if self.attends(query, key, item, head) else 'forbids'} it", None)

    def attends(self, query: int, key: int, item: int = 0, head: int = 0) -> bool:
        """Whether a query may see a key."""
        return bool(self.mask.dense(item, head, (query, query + 1), (key, key + 1)).all())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd about the tokens, a sentence each."""
        return self.queries.warnings + (self.source.warnings if self.source else ())

    @property
    def broadcast_shape(self) -> list[int]:
        """The smallest shape that broadcasts to the whole: [B, 1, K] for padding, [Q, K] for causal."""
        batch, heads, queries, keys = self.mask.shape
        rows = queries if "q" in self.axes else 1
        if self.mask.stored[1] > 1:
            return [batch, heads, queries, keys]
        return [batch, rows, keys] if "b" in self.axes else [rows, keys]

    def key_token(self, item: int, key: int) -> str:
        """The text of a key's token; cached keys and empty slots have none."""
        batch = self.source or self.queries
        index = key if self.source else key - self.past
        if index < 0:
            return "past"
        return batch.token(item, index) if index < batch.shape[1] else "empty"

    def values(self) -> tuple[str, str]:
        """What attend and ignore are in the shown convention."""
        values = conventions.CONVENTIONS[self.convention].values
        return values.attend, values.ignore


def show(
    given: Given,
    text: str | None = None,
    *,
    past: int = 0,
    cache_length: int | None = None,
    heads: int = 1,
    to: str = "sdpa",
    dtype: str | None = None,
    convention: str | None = None,
    block: int = 128,
) -> Shown:
    """The mask of a spec over the tokens; without a spec the one that goes with them."""
    batch = _batch(given)
    source = _source(given, batch) if given.source else None
    if convention is not None:
        from maskcli.meant.settling import convention as known

        known(convention)
    conventions.check_known(to, "--to ")
    kind = conventions.dtype_of(to, dtype)

    parsed = spec.parse(_usual(batch, source) if text is None else text)
    _check_of_files(parsed, heads, convention)
    if "cross" in spec.kinds_in(parsed) and source is None:
        raise MaskcliError("a cross mask needs its source; pass it with --source TEXT, once for each text")
    layout = _layout(batch, source, past, cache_length, heads)
    if spec.tensors_in(parsed):
        layout = replace(layout, tensors=_of_files)
    resolve = _resolver(parsed, convention)
    mask = spec.build(parsed, layout, resolve)
    conventions.fitting(mask.stored, to, spec.write(parsed))
    return Shown(
        spec=spec.write(parsed),
        mask=mask,
        axes=spec.axes(parsed),
        queries=batch,
        source=source,
        past=past,
        convention=to,
        dtype=kind,
        block=block,
        layout=layout,
        resolve=resolve,
    )


def _check_of_files(parsed: spec.Spec, heads: int, convention: str | None) -> None:
    """Refuse what is said of saved masks and functions where the spec names none."""
    idle = {"--heads": heads > 1, "--from": convention is not None}
    said = next((option for option, is_said in idle.items() if is_said), None)
    if said is not None and not spec.names_files(parsed):
        raise MaskcliError(
            f"{said} is for a saved mask or a function, and {spec.write(parsed)!r} names none; leave it out"
        )


def _batch(given: Given) -> Batch:
    """The tokens of the queries."""
    way = given.way()
    if way == "--lengths":
        return batch_from_lengths(
            given.lengths or "", padding_side=given.side, max_length=given.max_length, packed=given.packed
        )
    if way == "--ids":
        loaded = _tokenizer(given) if given.tokenizer else None
        return batch_from_ids(
            given.ids or "", given.pad_id, tokenizer=loaded, padding_side=given.side, labels=given.labels
        )

    lines, warnings = _lines(given)
    loaded = _tokenizer(given)
    special, counted = given.special_tokens, None
    if given.chat:
        conversations = tuple(messages for line in lines for messages in parse_messages(line))
        tools = parse_tools(read_text(given.tools)) if given.tools else None
        prompt = given.generation_prompt
        lines, special = chat_texts(conversations, loaded, generation_prompt=prompt, tools=tools), False
        warnings += doubled_warnings(lines, loaded)
        if given.labels:
            counted = counted_by(conversations, loaded, generation_prompt=prompt, tools=tools)
    batch = batch_from_texts(
        lines,
        loaded,
        pairs=given.pairs,
        special_tokens=special,
        padding=given.padding,
        max_length=given.max_length,
        padding_side=given.side,
        packed=given.packed,
        labels=given.labels,
        counted=counted,
    )
    return replace(batch, warnings=warnings + batch.warnings)


def _lines(given: Given) -> Lines:
    """The texts themselves, those of a file, or those of standard input (of which a chat is one)."""
    if given.file is not None:
        return read_lines(given.file)
    if list(given.texts) != ["-"]:
        _check_standard_input(given.texts)
        return Lines(tuple(given.texts), () if given.chat else _doubts(given.texts))
    read = read_standard_input()
    return Lines((read,), ()) if given.chat else split_lines(read)


def _check_standard_input(texts: Sequence[str]) -> None:
    """Refuse standard input beside texts."""
    if "-" in texts:
        raise MaskcliError(
            "- reads standard input, and stands here beside other texts; pass - alone, or texts"
        )


def _doubts(texts: Sequence[str]) -> tuple[str, ...]:
    """What texts were meant to be; only calls with texts pay for the rooms behind it."""
    from maskcli.inputs.mistaken import doubts

    return doubts(texts)


def _source(given: Given, batch: Batch) -> Batch:
    """The tokens of the keys of a cross mask."""
    if len(given.source) != batch.shape[0]:
        raise MaskcliError(
            f"there are {batch.shape[0]} samples and {len(given.source)} source texts; "
            "pass --source once for each"
        )
    loaded = load_tokenizer(given.tokenizer, pad_token=given.pad_token)
    return batch_from_texts(
        given.source, loaded, special_tokens=given.special_tokens, padding_side=given.side
    )


def _tokenizer(given: Given) -> Tokenizer:
    template = read_text(given.template) if given.template else None
    return load_tokenizer(given.tokenizer, pad_token=given.pad_token, chat=given.chat, template=template)


def _usual(batch: Batch, source: Batch | None) -> str:
    """The spec where none was given."""
    if source is not None:
        return "cross"
    return "causal & documents" if batch.documents else "combined"


def _resolver(parsed: spec.Spec, convention: str | None) -> spec.Resolve | None:
    """How files in the spec are read; only specs that name some pay for the rooms behind it."""
    if not spec.names_files(parsed):
        return None
    from maskcli.inputs.operands import resolver

    return resolver(convention)


def _of_files(name: str) -> Array:
    """The rows of a tensor that a spec names, FILE:TENSOR; only specs that read some pay for the rooms."""
    from maskcli.scene.named import named_rows

    return named_rows(name, ())


def _layout(batch: Batch, source: Batch | None, past: int, cache_length: int | None, heads: int) -> Layout:
    """Sizes, padding and documents: past keys come first and are real, empty cache slots last and are not."""
    items, queries = batch.shape
    if source is not None:
        if past or cache_length:
            raise MaskcliError(
                "--past and --cache-length speak of self-attention; leave them out with --source"
            )
        return Layout(items, queries, source.shape[1], heads, real=source.attention_mask, cross=True)

    filled = past + queries
    keys = filled if cache_length is None else cache_length
    if keys < filled:
        raise MaskcliError(
            f"--cache-length {keys} has no room for {past} past keys and {queries} new ones; "
            f"pass at least {filled}"
        )
    if items * keys > MOST_KEYS:
        raise MaskcliError(
            f"{items} x {keys:,} keys are more than the {MOST_KEYS:,} that a batch may have; "
            "pass a smaller --past or --cache-length"
        )
    real, documents = real_keys(batch, past, keys), documents_of_keys(batch, past, keys)
    return Layout(items, queries, keys, heads, past, real, documents)


def real_keys(batch: Batch, past: int, keys: int) -> Real:
    """Real keys, bool [B, K]: those of the past are, empty slots behind the tokens are not."""
    around = _around(batch, past, keys)
    return np.pad(batch.attention_mask, around, constant_values=((False, False), (True, False)))


def documents_of_keys(batch: Batch, past: int, keys: int) -> Array | None:
    """The packed document of each key, int [B, K]: past and empty slots belong to those beside them."""
    if batch.documents is None or batch.segments is None:
        return None
    return np.pad(batch.segments, _around(batch, past, keys), mode="edge")


def _around(batch: Batch, past: int, keys: int) -> list[tuple[int, int]]:
    """How many keys stand before and behind the tokens."""
    return [(0, 0), (past, keys - past - batch.shape[1])]
