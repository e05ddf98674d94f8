"""Options that several commands share; those that declare a fact come from the table of facts."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from maskcli.cli.completion import conventions, kinds, rules
from maskcli.errors import MaskcliError
from maskcli.meant.facts import FACTS
from maskcli.meant.settling import MOST

if TYPE_CHECKING:
    from maskcli.report.forms import Look

# Headings of --help, in which commands group their options.
MEANT, INPUT, TOKENIZER, MASK = "What was meant", "Input", "Tokenizer", "Mask"
PART, CALLS = "The part", "Calls"
REPORTED, OUTPUT, WORK = "What is reported", "Output", "The work"

Command = TypeVar("Command", bound=Callable[..., Any])


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


class Theme(str, enum.Enum):
    """What --theme takes."""

    light = "light"
    dark = "dark"


class Padding(str, enum.Enum):
    """What --padding takes."""

    longest = "longest"
    max_length = "max-length"
    max_length_ = "max_length"


# What shells offer for facts.
COMPLETERS = {"convention": conventions, "expect": kinds}


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:  # noqa: A002 (typer's word)
    """An option; `panel` is the heading under which --help lists it."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def fact_option(field: str, panel: str = MEANT) -> Any:
    """The option of a declared fact."""
    fact = FACTS[field]
    limits = {"min": fact.lowest, "max": fact.highest}
    if fact.kind in (int, list[int]):
        limits = {"min": -MOST if fact.lowest is None else fact.lowest, "max": fact.highest or MOST}
    offered = COMPLETERS.get(field)
    return option(
        fact.option, help=fact.help, panel=panel, metavar=fact.metavar, autocompletion=offered, **limits
    )


def form_option(names: Sequence[str], told: str) -> Any:
    """--format, which takes one of the names of a table of forms."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, names))}.")
        return value

    shown = f"<{'|'.join(names)}>"
    return option(
        "--format", help=told, panel=OUTPUT, metavar=shown, callback=check, autocompletion=lambda: list(names)
    )


def findings_form(names: Sequence[str], more: str = "") -> Any:
    """--format of a command that reports findings; `more` tells of forms of its own."""
    told = "text for people, concise for one line each, json for scripts"
    return form_option(names, f"{told}{more}; github, junit, sarif, markdown for CI.")


From = Annotated[str | None, fact_option("convention", MASK)]
Past = Annotated[int | None, fact_option("past", MASK)]
Positions = Annotated[str | None, fact_option("positions", INPUT)]
KeyPositions = Annotated[str | None, fact_option("key_positions", INPUT)]
PadId = Annotated[int | None, fact_option("pad_id", TOKENIZER)]
EosIds = Annotated[list[int] | None, fact_option("eos_ids", TOKENIZER)]
Tokenizer = Annotated[
    str | None,
    option(
        "--tokenizer",
        "-t",
        help="A tokenizer.json, a folder, or a hub name. Default: built in, words as tokens.",
        panel=TOKENIZER,
        metavar="NAME",
    ),
]
ChatTokenizer = Annotated[
    str | None,
    option(
        "--tokenizer",
        "-t",
        help="A tokenizer.json, a folder, or a hub name: special ids, the text of tokens, the chat template.",
        panel=TOKENIZER,
        metavar="NAME",
    ),
]
Template = Annotated[
    str | None,
    option(help="A file with a chat template, in place of the tokenizer's.", panel=TOKENIZER, metavar="FILE"),
]
Turn = Annotated[
    list[str] | None,
    option(
        help="What begins a role's turn, or end=what ends one: text such as 'user=<|im_start|>user\\n', or "
        "ids. Default: by the chat template. Repeatable.",
        panel=TOKENIZER,
        metavar="ROLE=MARKER",
    ),
]
Select = Annotated[
    list[str] | None,
    option(
        help="Report these rules only: codes, names or prefixes such as MSK5. Repeatable, or commas.",
        panel=REPORTED,
        metavar="RULES",
        autocompletion=rules,
    ),
]
Ignore = Annotated[
    list[str] | None,
    option(
        help="Do not report these rules. Wins over --select.",
        panel=REPORTED,
        metavar="RULES",
        autocompletion=rules,
    ),
]
Jobs = Annotated[
    int | None,
    option(
        "--jobs",
        "-j",
        help="Processes that share the files. Default: as many as pay off.",
        panel=WORK,
        min=1,
        max=512,
        metavar="N",
    ),
]
Dask = Annotated[
    str | None,
    option(
        help="A Dask scheduler whose workers, which see the same files, do the work.",
        panel=WORK,
        metavar="ADDRESS",
    ),
]
ExitZero = Annotated[bool, option("--exit-zero", help="Exit with 0 whatever was found.", panel=REPORTED)]
FailOn = Annotated[Severity, option(help="The mildest severity that makes the exit code 1.", panel=REPORTED)]
Lengths = Annotated[
    str | None, option(help="Real lengths of the samples: 5,3,7.", panel=INPUT, metavar="N,N")
]
PaddingSide = Annotated[Side | None, option(help="Where --lengths leave the padding.", panel=INPUT)]
Form = Annotated[str | None, form_option(("text", "json"), "text for people, json for scripts.")]
MaxSize = Annotated[
    int | None, option(help="Megabytes of a page. Default: 25.", panel=OUTPUT, min=1, max=2000, metavar="MB")
]
Output = Annotated[
    str | None,
    option(
        "--output",
        "-o",
        help="Write to FILE, whose suffix chooses the form; - is standard output.",
        panel=OUTPUT,
        metavar="FILE",
    ),
]


Quiet = Annotated[
    bool, option("--quiet", "-q", help="No report: the exit code tells, and errors.", panel=OUTPUT)
]
Verbose = Annotated[
    bool,
    option("--verbose", "-v", help="Say of every rule that could not decide what it lacks.", panel=OUTPUT),
]
Title = Annotated[
    str | None, option(help="Of a picture: its title. Default: what it shows.", panel=OUTPUT, metavar="TEXT")
]
Dpi = Annotated[
    int | None, option(help="Of a picture: dots per inch.", panel=OUTPUT, min=30, max=400, metavar="N")
]
Ground = Annotated[Theme | None, option("--theme", help="Of a picture: its ground.", panel=OUTPUT)]


def look(title: str | None, dpi: int | None, theme: Theme | None) -> Look:
    """How a picture is to look."""
    from maskcli.report.forms import Look

    return Look(title, dpi, theme.value) if theme else Look(title, dpi)


def declares(command: Command) -> Command:
    """A command whose **said takes facts, a tokenizer, turns, and the choice of rules: an option each."""
    return declaring(*FACTS)(command)


def declaring(*facts: str) -> Callable[[Command], Command]:
    """The same of some facts alone, by their fields."""

    def decorate(command: Command) -> Command:
        # A type that only checkers import; typer would look for it.
        command.__annotations__.pop("said")
        signature = inspect.signature(command, eval_str=True)
        argument, *own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        named = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(name, named, default=None, annotation=annotation)
            for name, annotation in _said_options(facts).items()
        ]
        parameters = [argument, *shared, *(parameter.replace(kind=named) for parameter in own)]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _said_options(facts: Sequence[str]) -> dict[str, Any]:
    """The options of some facts, of tokenizer and turns, and of the choice of rules, by keyword."""
    options: dict[str, Any] = {}
    for field in facts:
        fact = FACTS[field]
        kind = fact.kind if fact.kind is bool else fact.kind | None
        options[fact.name] = Annotated[kind, fact_option(field)]
    return options | {
        "tokenizer": ChatTokenizer,
        "template": Template,
        "turn": Turn,
        "select": Select,
        "ignore": Ignore,
    }


def check_quiet(quiet: bool, *written: object) -> None:
    """Refuse to be quiet where something else is to be written."""
    if quiet and any(written):
        raise MaskcliError("--quiet writes no report; leave it out, or what asks for one (--format, -o)")


def check_workers(jobs: int | None, dask: str | None) -> None:
    """Refuse both ways to say who does the work."""
    if jobs is not None and dask is not None:
        raise MaskcliError("--jobs and --dask both say who does the work; pass one of them")


def fails(worst: str | None, fail_on: Severity) -> bool:
    """Whether the worst finding makes the exit code 1."""
    if worst is None or fail_on is Severity.never:
        return False
    order = [severity.value for severity in Severity]
    return order.index(worst) <= order.index(fail_on.value)
