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
    """What --format takes where results are findings."""

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
    typer.Option("--output", "-o", metavar="FILE", help="Write to FILE, whose suffix chooses the form; - is standard output."),
]
PadId = Annotated[int | None, typer.Option("--pad-id", min=0, help="The id of the padding token.")]
EosId = Annotated[int | None, typer.Option("--eos-id", min=0, help="The id of the token that ends a text.")]
Past = Annotated[
    int | None,
    typer.Option("--past", min=0, max=2**30, metavar="N", help="Keys that come before the first query (a KV cache)."),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="CONVENTION", help="How the saved mask is written: sdpa, mha, megatron, hf, additive, binary."
    ),
]
Form = Annotated[ResultForm | None, typer.Option("--format", help="text for people, json for scripts.")]
