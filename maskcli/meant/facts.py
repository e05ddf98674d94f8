"""What the user declares about input and model: the table of facts, each with an option and a metadata key.

A row of `Declared` is all that a fact needs: the commands take their options from it, and files their
metadata. `Said` types it for Python.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from maskcli.meant.settling import (
    Expectation,
    Origin,
    check_numbers,
    config,
    convention,
    expectations,
    ids,
    one_of,
    places_of,
)

# The command line builds its options from this file: what masks are is imported when something is declared.
if TYPE_CHECKING:
    from maskcli.masks.spec import Spec
    from maskcli.meant.model_config import Config
    from maskcli.meant.places import Places
    from maskcli.meant.shown import Shown
    from maskcli.text.learning import Chat, Learnt
    from maskcli.text.turns import Turns

# The mask that hides nothing.
FULL = "full"
# Keys of a cache, more than any has: they are laid out one by one.
MOST_KEYS = 2**25


class Purpose(str, enum.Enum):
    """What a batch is for."""

    train = "train"
    # All of every text is to be learnt, whoever wrote it: nothing is said of prompts and turns.
    pretrain = "pretrain"
    generate = "generate"


class LossShift(str, enum.Enum):
    """Who moves the labels one place."""

    model = "model"
    data = "data"


class Meant(NamedTuple):
    """The mask one tensor should have used, who says so, and whether of this layer in particular.

    With `bound` it is only known what must not be seen: less than the mask allows may be meant.
    """

    spec: Spec
    source: str
    particular: bool
    bound: bool = False


class Fact(NamedTuple):
    """A row of the table: how a fact is called and explained, what is given for it, and how that is settled.

    `kind` is what an option or a keyword holds: a type, or a list of them. `key` follows `maskcli.` in
    metadata.
    """

    name: str
    kind: Any
    help: str
    option: str
    key: str | None
    metavar: str | None
    lowest: int | None
    highest: int | None
    settle: Callable[[Any, Origin], object]


def _fact(
    kind: Any,
    help_: str,
    *,
    default: object = None,
    name: str = "",
    option: str = "",
    key: str | None = "",
    metavar: str | None = None,
    lowest: int | None = None,
    highest: int | None = None,
    settle: Callable[[Any, Origin], object] = lambda value, _: value,
) -> Any:
    """A field of `Declared` with its row; names that are not given follow from the field's."""
    row = Fact(name, kind, help_, option, key, metavar, lowest, highest, settle)
    return dataclasses.field(default=default, metadata={"row": row})


@dataclass(frozen=True)
class Declared:
    """Everything a user can declare. None (or nothing) means: not said."""

    expect: tuple[Expectation, ...] = _fact(
        list[str],
        "The mask that was meant, such as causal; PATTERN=SPEC for tensors of some names. Repeatable.",
        default=(),
        metavar="SPEC",
        settle=expectations,
    )
    exact: bool = _fact(bool, "Ignored cells must weigh exactly 0.", default=False)
    model: Config | None = _fact(
        str,
        "A folder with the model's config.json: layers and windows, ids, positions. "
        "Nothing of the model is loaded.",
        key=None,
        metavar="DIR",
        settle=config,
    )
    pad_id: int | None = _fact(int, "The id of the padding token.", metavar="ID", lowest=0)
    bos_ids: tuple[int, ...] = ()
    # Where turns are told from: markers of one's own, or a chat template, which is read when something asks.
    chat: Turns | Chat | None = None
    # Rows of a set are judged alike, whichever stand in a batch with them.
    shown: Shown | None = None
    # What may be seen at most, and who says so: a loss that asks each token for the next one tells that much.
    at_most: tuple[str, str] | None = None
    eos_ids: tuple[int, ...] = _fact(
        list[int],
        "The id of the token that ends a text. Repeatable.",
        default=(),
        name="eos_id",
        metavar="ID",
        lowest=0,
        settle=ids,
    )
    convention: str | None = _fact(
        str,
        "How the saved mask is written: sdpa, mha, megatron, hf, additive, binary.",
        option="--from",
        key="from",
        metavar="CONVENTION",
        settle=convention,
    )
    past: int | None = _fact(
        int, "Keys that come before the first query (a KV cache).", metavar="N", lowest=0, highest=MOST_KEYS
    )
    positions: Places | None = _fact(
        str,
        "Where each query stands in its text, such as 0:4,28:32 (rows between semicolons), a tensor of the "
        "file, or FILE:TENSOR.",
        metavar="POSITIONS",
        settle=places_of,
    )
    key_positions: Places | None = _fact(
        str,
        "Where each key stands, likewise; -1 for an empty slot of a cache.",
        metavar="POSITIONS",
        settle=places_of,
    )
    purpose: str | None = _fact(
        Purpose,
        "What the batch is for: training on answers, training on all of its texts, or generation from its "
        "last token.",
        option="--for",
        key="for",
        settle=one_of(Purpose),
    )
    prompt_length: int | None = _fact(
        int, "Tokens of the prompt, which are not to be trained on.", metavar="N", lowest=0
    )
    vocab_size: int | None = _fact(int, "How many ids there are.", metavar="N", lowest=1)
    ignore_index: int | None = _fact(
        int, "The label that the loss leaves out. Default: -100, and -1 where labels hold it.", metavar="N"
    )
    loss_shift: str | None = _fact(
        LossShift,
        "Who moves the labels one place: the model (as Hugging Face's do) or the data (as nanoGPT's does).",
        settle=one_of(LossShift),
    )

    def meant(self, name: str, kind: str, layer: int | None) -> Meant | None:
        """The mask declared for a tensor: patterns win over the plain spec, options over the model.

        Without a pattern a spec speaks of self-attention; encoder and cross attention are then expected
        `full`.
        """
        from maskcli.masks.spec import parse

        for expected in reversed(self.expect):
            if expected.pattern is not None and fnmatchcase(name, expected.pattern):
                return Meant(expected.spec, "--expect", True)

        mine = kind in ("self", "decoder")
        for expected in reversed(self.expect):
            if expected.pattern is None:
                return Meant(expected.spec if mine else parse("full"), "--expect", False)

        text = self.model.mask(layer, name) if self.model is not None and mine else None
        if self.model is not None and text is not None:
            return Meant(parse(text), self.model.source, True, bound=not self.model.declared)
        encodes = kind == "encoder" and self.at_most is not None and self.at_most[0] == FULL
        if self.at_most is not None and (mine or encodes):
            bound, source = self.at_most
            return Meant(parse(bound), source, False, bound=True)
        return None

    @property
    def turns(self) -> Turns | None:
        """How turns begin and end, learnt now if need be; None where nothing tells."""
        return self.learnt.turns

    @property
    def learnt(self) -> Learnt:
        """The turns, or why the chat template tells none."""
        from maskcli.text.learning import learnt

        return learnt(self.chat)

    def over(self, other: Declared) -> Declared:
        """These facts where they are said, else the other's."""
        mine = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(other, **{name: value for name, value in mine.items() if _is_said(value)})

    def with_model(self) -> Declared:
        """The ids and the vocabulary that the model's config gives, where nothing else says them."""
        if self.model is None:
            return self
        config = self.model
        return self.over(
            Declared(
                pad_id=config.pad_id,
                bos_ids=config.bos_ids,
                eos_ids=config.eos_ids,
                vocab_size=config.vocab_size,
            )
        )


class Said(TypedDict, total=False):
    """What Python and the command line declare: facts as they are given, and who reads and reports them.

    `tokenizer` is a tokenizer.json, a folder or a hub name: it gives special ids, the text of tokens and the
    chat template; `template` is a file with another one. `turn` are markers of turns where no template tells
    them, such as "user=<|im_start|>user\\n" or "end=151645": text or ids.
    `select` and `ignore` are codes, names or prefixes of rules to report, or not. None is the same as leaving
    a key out.
    """

    expect: str | Sequence[str] | None
    exact: bool
    model: str | None
    tokenizer: str | None
    template: str | None
    turn: str | Sequence[str] | None
    pad_id: int | None
    eos_id: int | Sequence[int] | None
    convention: str | None
    past: int | None
    positions: Any
    key_positions: Any
    purpose: str | None
    prompt_length: int | None
    vocab_size: int | None
    ignore_index: int | None
    loss_shift: str | None
    select: Sequence[str] | None
    ignore: Sequence[str] | None


def _rows() -> dict[str, Fact]:
    """The table: the field of `Declared`, and its row with the names that follow from it."""
    rows: dict[str, Fact] = {}
    for field in dataclasses.fields(Declared):
        if "row" not in field.metadata:
            continue
        row: Fact = field.metadata["row"]
        name = row.name or field.name
        option = row.option or "--" + name.replace("_", "-")
        key = name if row.key == "" else row.key
        rows[field.name] = row._replace(name=name, option=option, key=key)
    return rows


FACTS = _rows()


def from_said(said: Mapping[str, Any]) -> Declared:
    """The facts among options or keywords. Raises MaskcliError for what cannot be."""
    values: dict[str, Any] = {}
    for field, fact in FACTS.items():
        value = said.get(fact.name)
        if value is not None:
            chosen = isinstance(fact.kind, enum.EnumMeta)
            origin = Origin(f"the {fact.name}" if chosen else fact.option)
            if fact.kind in (int, list[int]):
                check_numbers(value, origin, fact.lowest, fact.highest)
            values[field] = fact.settle(value, origin)
    return Declared(**values)


def _is_said(value: object) -> bool:
    return value is not None and value is not False and value != ()
