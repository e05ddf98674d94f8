"""The front door: the commands, and main(), the only place that turns errors into exit codes."""

from __future__ import annotations

import enum
import functools
import gc
import io
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from maskcli import __version__, signals
from maskcli.cli.completion import join_words, words_asked
from maskcli.cli.usage import FINE, Grouped, width
from maskcli.errors import is_internal, sentence


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    FOUND = 1
    ERROR = 2
    INTERRUPTED = 130
    CLOSED_PIPE = 141


# A module each, and a function of that name in it.
COMMANDS = ("audit", "convert", "diagnose", "diff", "docs", "inspect", "probe", "rule", "show", "trace")
# Objects made before the garbage collector looks at them: what a start makes stays, and looking at it again
# and again with Python's usual 700 took a tenth of the time that a small file takes.
SELDOM = 20_000
# Letters of a sentence on standard error.
LONGEST = 2000

app = typer.Typer(
    name="maskcli",
    help="Inspect and debug attention masks.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": width()},
    epilog='Start with:  maskcli show "The cat sat" "Hello"   ·   maskcli diagnose dump.safetensors',
)


def command(
    short_help: str, *examples: str, codes: str = FINE, rewrites: bool = False, **settings: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a command: its line in the list of commands, and what ends its --help."""
    kind = type("Command", (Grouped,), {"examples": examples, "codes": codes, "rewrites": rewrites})
    return app.command(cls=kind, short_help=short_help, **settings)


def _version(asked: bool) -> None:
    if asked:
        print(f"maskcli {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Inspect and debug attention masks: see them, check saved attention, learn what findings mean."""


def main() -> NoReturn:
    """Run and exit: 0 fine, 1 findings, 2 an error in one sentence, 130 interrupted, 141 closed pipe."""
    code = _flushed(_run())
    signals.leave()
    sys.exit(code)


def _flushed(code: int) -> int:
    """The exit code once standard output has taken everything, or is given up."""
    from maskcli.report.terminal import flush, give_up

    try:
        flush()
    except BrokenPipeError:
        code = Exit.CLOSED_PIPE if code in (Exit.OK, Exit.FOUND) else code
    except OSError as error:
        if code in (Exit.OK, Exit.FOUND):
            complain(sentence(error))
            code = Exit.ERROR
    else:
        return code
    give_up(sys.stdout)
    return code


def _run() -> int:
    """The exit code; a signal that ended the run is said, whatever a library made of it."""
    try:
        code = _ran()
    except SystemExit:
        if signals.ended() is None:
            raise
    number = signals.ended()
    if number is None:
        return code
    complain(signals.told(number))
    return 128 + number


def _ran() -> int:
    from maskcli.report.terminal import ClosedPipe

    _open_closed()
    try:
        _prepare()
        # Nothing asked for is a question for help.
        arguments = sys.argv[1:] or ["--help"]
        settings = {"standalone_mode": False, "default_map": _configured(_asked())}
        code = _made(len(app.registered_commands))(arguments, prog_name="maskcli", **settings)
    except (KeyboardInterrupt, typer.Abort) as stop:
        # typer makes one of what a file that ends too early raises, too.
        if isinstance(stop.__cause__ or stop.__context__, EOFError):
            complain("a file ends too early; get it again")
            return Exit.ERROR
        if signals.ended() is None:
            complain("interrupted")
        return Exit.INTERRUPTED
    except (ClosedPipe, BrokenPipeError, SystemExit) as stop:
        # typer makes exit code 1 of what its own help meets.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, BrokenPipeError):
            raise
        return Exit.CLOSED_PIPE
    except typer.Exit as stop:
        return int(stop.exit_code)
    except Exception as error:
        if signals.ended() is not None:
            # A library made an error of its own of it.
            return Exit.ERROR
        if _is_bug(error) and os.environ.get("MASKCLI_DEBUG"):
            raise
        complain(_told(error))
        return Exit.ERROR
    return code if isinstance(code, int) else Exit.OK


def _open_closed() -> None:
    """Have all standard streams: a file that is written must not become the one that was closed."""
    missing = os.open(os.devnull, os.O_RDWR)
    while missing <= 2:
        missing = os.open(os.devnull, os.O_RDWR)
    os.close(missing)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it lasts as long as the process)


def _prepare() -> None:
    """Import the command that is asked for (nobody need wait for the others) and make the process ready."""
    join_words()
    asked = _asked()
    # A program that is traced finds the interrupt that it would find without.
    signals.listen(("SIGTERM", "SIGHUP") if asked == "trace" else ("SIGINT", "SIGTERM", "SIGHUP"))
    if asked != "trace":
        # It runs a program that is not ours, as it always runs.
        gc.set_threshold(SELDOM)
    for name in [asked] if asked in COMMANDS else COMMANDS:
        import_module(f"maskcli.cli.{name}")
    if asked != "trace":
        _let_all_through()
    _let_text_pass()


def _asked() -> str | None:
    """The command that is asked for."""
    return next((word for word in sys.argv[1:] or words_asked() if not word.startswith("-")), None)


@functools.cache
def _made(count: int) -> Any:
    """The imported commands, so many, as typer makes them: once, for it takes longer than small files do."""
    return typer.main.get_command(app)


def _configured(asked: str | None) -> dict[str, dict[str, Any]]:
    """The defaults that pyproject.toml gives for the options of a command."""
    from maskcli.cli.configured import defaults

    if asked not in COMMANDS:
        return {}
    known = _made(len(app.registered_commands)).commands
    return {asked: defaults(known[asked], COMMANDS)}


def _is_bug(error: Exception) -> bool:
    return is_internal(error) and not hasattr(error, "format_message")


def _told(error: Exception) -> str:
    """An error in words; one of usage names the help that tells more."""
    usage = getattr(error, "format_message", None)
    if usage is None:
        return sentence(error)
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else ""
    said = str(usage()).replace("Value error, ", "").rstrip(".")
    if not hint:
        return said
    return f"{said} See {hint}" if said.endswith("?") else f"{said}; see {hint}"


def complain(text: str) -> None:
    """A sentence on standard error; the middle of one that quotes too much is left out."""
    from maskcli.report.terminal import say

    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    say(f"maskcli: {text}" if text.endswith("?") else f"maskcli: {text.rstrip('.')}.")


def _let_all_through() -> None:
    """Buffer standard output that has no buffer (PYTHONUNBUFFERED): what a full disk cuts is lost unsaid."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.RawIOBase):
        encoding = stream.encoding
        whole = io.BufferedWriter(stream.detach())
        sys.stdout = io.TextIOWrapper(whole, encoding, line_buffering=True)


def _let_text_pass() -> None:
    """Text that a stream cannot encode becomes escapes instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
