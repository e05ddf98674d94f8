"""Option types that several commands share."""

from __future__ import annotations

import enum
from typing import Annotated

import typer


class Severity(str, enum.Enum):
    """What --fail-on takes."""

    error = "error"
    warning = "warning"
    note = "note"
    never = "never"


class Side(str, enum.Enum):
    """What --padding-side takes."""

    left = "left"
    right = "right"


class Padding(str, enum.Enum):
    """What --padding takes."""

    longest = "longest"
    max_length = "max-length"
    max_length_ = "max_length"


class ResultForm(str, enum.Enum):
    """What --format takes where a result is text or JSON."""

    text = "text"
    json = "json"


class DiagnoseForm(str, enum.Enum):
    """What --format takes where findings are of files."""

    text = "text"
    concise = "concise"
    json = "json"
    jsonl = "jsonl"


class TraceForm(str, enum.Enum):
    """What --format takes where findings are of a program."""

    text = "text"
    concise = "concise"
    json = "json"


class Purpose(str, enum.Enum):
    """What --for takes."""

    train = "train"
    generate = "generate"


class Shift(str, enum.Enum):
    """What --loss-shift takes."""

    model = "model"
    data = "data"


Expect = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPEC",
        help="The mask that was meant, such as causal; PATTERN=SPEC for tensors of some names. Repeatable.",
    ),
]
Exact = Annotated[bool, typer.Option("--exact", help="Ignored cells must weigh exactly 0.")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="A folder with the model's config.json: layers and windows, ids, positions. Nothing of the model is loaded.",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        "-t",
        metavar="NAME",
        help="A tokenizer.json, a folder, or a hub name. Default: built in, words as tokens.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write to FILE, whose suffix chooses the form; - is standard output.",
    ),
]
PadId = Annotated[int | None, typer.Option("--pad-id", min=0, help="The id of the padding token.")]
EosId = Annotated[int | None, typer.Option("--eos-id", min=0, help="The id of the token that ends a text.")]
EosIds = Annotated[
    list[int] | None,
    typer.Option("--eos-id", min=0, help="The id of the token that ends a text. Repeatable."),
]
Past = Annotated[
    int | None,
    typer.Option(
        "--past", min=0, max=2**30, metavar="N", help="Keys that come before the first query (a KV cache)."
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="CONVENTION",
        help="How the saved mask is written: sdpa, mha, megatron, hf, additive, binary.",
    ),
]
Form = Annotated[ResultForm | None, typer.Option("--format", help="text for people, json for scripts.")]
For = Annotated[
    Purpose | None,
    typer.Option("--for", help="What the batch is for: training, or generation from its last token."),
]
PromptLength = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Tokens of the prompt, which are not to be trained on.")
]
VocabSize = Annotated[int | None, typer.Option(min=1, metavar="N", help="How many ids there are.")]
IgnoreIndex = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="The label that the loss leaves out. Default: -100, and -1 where labels hold it."
    ),
]
LossShift = Annotated[
    Shift | None,
    typer.Option(
        help="Who moves the labels one place: the model (as Hugging Face's do) or the data (as nanoGPT's does)."
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RULES",
        help="Report these rules only: codes, names or prefixes such as MSK5. Repeatable, or commas.",
    ),
]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="RULES", help="Do not report these rules. Wins over --select.")
]
FailOn = Annotated[Severity, typer.Option(help="The mildest severity that makes the exit code 1.")]
DiagnoseFormat = Annotated[
    DiagnoseForm | None,
    typer.Option(
        "--format",
        help="text for people, concise for one line each, json for scripts, jsonl for a line of JSON per file.",
    ),
]
TraceFormat = Annotated[
    TraceForm | None,
    typer.Option("--format", help="text for people, concise for one line each, json for scripts."),
]


def fails(worst: str | None, fail_on: Severity) -> bool:
    """Whether the worst finding makes the exit code 1."""
    order = [severity.value for severity in Severity]
    return (
        worst is not None
        and fail_on is not Severity.never
        and order.index(worst) <= order.index(fail_on.value)
    )
