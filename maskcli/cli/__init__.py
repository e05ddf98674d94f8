"""The front door: the commands, and main(), the only place that turns errors into exit codes."""

from __future__ import annotations

import enum
import gc
import os
import signal
import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from maskcli import __version__
from maskcli.errors import is_internal, sentence


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    FOUND = 1
    ERROR = 2
    INTERRUPTED = 130
    CLOSED_PIPE = 141


# A module each, and a function of that name in it.
COMMANDS = ("convert", "diagnose", "diff", "inspect", "rule", "show", "trace")
# Objects made before the garbage collector looks at them: what a start makes stays, and looking at it again and again
# with Python's usual 700 took a tenth of the time that a small file takes.
SELDOM = 20_000

app = typer.Typer(
    name="maskcli",
    help="Inspect and debug attention masks.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='Start with:  maskcli show "The cat sat" "Hello"   ·   maskcli diagnose dump.safetensors',
)


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
    """Inspect and debug attention masks: see them, check saved attention, and learn what each finding means."""


def main() -> NoReturn:
    """Run the command line and exit: 0 fine, 1 findings, 2 an error in one sentence, 130 interrupted, 141 closed pipe."""
    sys.exit(_run())


def _run() -> int:
    from maskcli.report.terminal import ClosedPipe

    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    if command != "trace":
        # It runs a program that is not ours, as it always runs.
        gc.set_threshold(SELDOM)
    # Each adds its command; whoever asks for one need not wait for the others.
    for name in [command] if command in COMMANDS else COMMANDS:
        import_module(f"maskcli.cli.{name}")
    _let_text_pass()
    # A polite end still removes what is half-written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        return Exit.INTERRUPTED
    except (ClosedPipe, BrokenPipeError):
        # Nobody reads any more: keep the interpreter from failing once more when it flushes on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.CLOSED_PIPE
    except typer.Exit as stop:
        return int(stop.exit_code)
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is not None:
            context = getattr(error, "ctx", None)
            hint = f"; see {context.command_path} --help" if context is not None else ""
            return _fail(usage().rstrip(".") + hint)
        if is_internal(error) and os.environ.get("MASKCLI_DEBUG"):
            raise
        return _fail(sentence(error))
    return code if isinstance(code, int) else Exit.OK


def _fail(text: str) -> int:
    complain(text)
    return Exit.ERROR


def complain(text: str) -> None:
    """A sentence on standard error."""
    from maskcli.report.terminal import say

    say(f"maskcli: {text}" if text.endswith("?") else f"maskcli: {text.rstrip('.')}.")


def _let_text_pass() -> None:
    """Text that a stream cannot encode becomes escapes instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
