"""maskcli trace: check the attention of a running program."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from maskcli.cli import command
from maskcli.cli.options import (
    CALLS,
    OUTPUT,
    FailOn,
    MaxSize,
    Quiet,
    Severity,
    Verbose,
    check_quiet,
    declares,
    fails,
    findings_form,
    option,
)
from maskcli.errors import MaskcliError
from maskcli.report.forms import PAGES, choose, names, sized
from maskcli.report.traced import FORMS

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from maskcli.meant.facts import Said
    from maskcli.tracing.results import TraceReport


@command(
    "Check the attention calls of a running program.",
    "maskcli trace --expect causal train.py --epochs 1",
    "maskcli trace --limit 100 --save found/ -m my_package.train",
    "maskcli trace --fail-on error -o report.json generate.py",
    codes="those of the program; 1 with --fail-on where it succeeded and findings are so severe",
    context_settings={"allow_interspersed_args": False},
)
@declares
def trace(
    program: Annotated[
        list[str],
        typer.Argument(
            metavar="SCRIPT [ARGS]...", help="A Python script, and its own options and arguments."
        ),
    ],
    as_module: Annotated[
        bool, option("-m", help="The first argument is a module, run as python -m runs it.")
    ] = False,
    every: Annotated[int, option(help="Check every N-th step only.", panel=CALLS, min=1, metavar="N")] = 1,
    limit: Annotated[
        int | None, option(help="Check at most N calls.", panel=CALLS, min=1, metavar="N")
    ] = None,
    modules: Annotated[
        list[str] | None,
        option(
            help="Check modules whose path matches, such as '*.layers.0.*'. Repeatable.",
            panel=CALLS,
            metavar="PATTERN",
        ),
    ] = None,
    save: Annotated[
        str | None,
        option(
            help="Write the tensors of each finding into this folder, as .safetensors.",
            panel=OUTPUT,
            metavar="DIR",
        ),
    ] = None,
    save_all: Annotated[
        bool, option("--save-all", help="With --save: the tensors of every call.", panel=OUTPUT)
    ] = False,
    measure: Annotated[
        bool,
        option(
            help="When it has ended, measure whom each layer of its models sees, as maskcli probe does.",
            panel=CALLS,
        ),
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    fail_on: FailOn = Severity.never,
    form: Annotated[str | None, findings_form(names(FORMS))] = None,
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            help="Write the report to FILE, whose suffix chooses the form.",
            panel=OUTPUT,
            metavar="FILE",
        ),
    ] = None,
    max_size: MaxSize = None,
    **said: Unpack[Said],
) -> int:
    """Run a Python program and check every attention call that it makes.

    The program's output and exit code stay its own; the report goes to standard error when it has ended, or
    to -o FILE. With --fail-on, findings make the exit code 1 where the program itself succeeded.
    """
    from maskcli.diagnostics.declare import declare
    from maskcli.report.live import live
    from maskcli.report.terminal import flush, guarded
    from maskcli.report.terminal import output as result
    from maskcli.tracing.program import module, run, script
    from maskcli.tracing.results import Options
    from maskcli.tracing.trace import Trace

    if save_all and save is None:
        raise MaskcliError("--save-all needs a folder to write to; pass --save DIR")
    if output == "-":
        raise MaskcliError(
            "-o - is standard output, which is the program's; leave -o out for standard error, or name a file"
        )
    check_quiet(quiet, form, output, verbose)
    chosen = sized(choose(FORMS, form, output), max_size)
    # The program may change its folder.
    output, save = (path if path is None else os.path.abspath(path) for path in (output, save))
    draws = chosen.suffixes == PAGES
    meaning, watched_modules = declare(**said), tuple(modules or ())
    options = Options(
        meaning.declared,
        meaning.token,
        meaning.codes,
        every,
        limit,
        watched_modules,
        save,
        save_all,
        measure,
        draws,
    )
    name, *arguments = program
    watched = module(name) if as_module else script(name)
    process, path = os.getpid(), list(sys.path)
    with live(name, not quiet) as told, Trace(options, watched.name, told=told) as watching:
        code = run(watched, arguments)
    if os.getpid() != process:
        # A forked child came to its end: the program is its parent.
        return code

    if quiet:
        return code or _code(watching.report, fail_on, watched.name)
    # What the report needs is imported now, whatever the program made of the path.
    sys.path += [each for each in path if each not in sys.path]
    flush()
    with result(output) if output is not None else nullcontext(guarded(sys.stderr)) as stream:
        chosen.write(watching.report, stream, verbose)
    return code or _code(watching.report, fail_on, watched.name)


def _code(report: TraceReport, fail_on: Severity, name: str) -> int:
    """The exit code that --fail-on gives to a program that succeeded."""
    if fail_on is Severity.never:
        return 0
    if not report.calls:
        raise MaskcliError(
            f"{name!r} made no attention call that could be checked; leave --fail-on out if that is right"
        )
    return int(fails(report.worst(), fail_on))
