"""maskcli trace: check the attention of a running program."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from maskcli.cli import app
from maskcli.cli.options import (
    EosIds,
    Exact,
    Expect,
    FailOn,
    For,
    From,
    Ignore,
    IgnoreIndex,
    LossShift,
    Model,
    PadId,
    Past,
    PromptLength,
    Select,
    Severity,
    Tokenizer,
    TraceFormat,
    VocabSize,
    fails,
)
from maskcli.errors import MaskcliError


@app.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Example:  maskcli trace --expect causal train.py --epochs 1",
)
def trace(
    program: Annotated[
        list[str],
        typer.Argument(
            metavar="SCRIPT [ARGS]...", help="A Python script, and its own options and arguments."
        ),
    ],
    as_module: Annotated[
        bool, typer.Option("-m", help="The first argument is a module, run as python -m runs it.")
    ] = False,
    expect: Expect = None,
    exact: Exact = False,
    model: Model = None,
    tokenizer: Tokenizer = None,
    pad_id: PadId = None,
    eos_id: EosIds = None,
    convention: From = None,
    purpose: For = None,
    prompt_length: PromptLength = None,
    vocab_size: VocabSize = None,
    ignore_index: IgnoreIndex = None,
    loss_shift: LossShift = None,
    past: Past = None,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Check every N-th step only.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Check at most N calls.")] = None,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Check modules whose path matches, such as '*.layers.0.*'. Repeatable."
        ),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Write the tensors of each finding into this folder, as .safetensors."
        ),
    ] = None,
    save_all: Annotated[
        bool, typer.Option("--save-all", help="With --save: the tensors of every call.")
    ] = False,
    select: Select = None,
    ignore: Ignore = None,
    fail_on: FailOn = Severity.never,
    form: TraceFormat = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the report to FILE, whose suffix chooses the form."
        ),
    ] = None,
) -> int:
    """Run a Python program and check every attention call that it makes.

    The program's output and exit code stay its own; the report goes to standard error when it has ended, or to -o FILE.
    With --fail-on, findings make the exit code 1 where the program itself succeeded.
    """
    from maskcli.diagnostics.declare import declare
    from maskcli.report.findings import show_trace
    from maskcli.report.terminal import form as form_of
    from maskcli.tracing.checker import Options
    from maskcli.tracing.program import module, run, script
    from maskcli.tracing.trace import Trace

    if save_all and save is None:
        raise MaskcliError("--save-all needs a folder to write to; pass --save DIR")
    if output == "-":
        raise MaskcliError(
            "-o - is standard output, which is the program's; leave -o out for standard error, or name a file"
        )
    chosen = form_of(output, form.value if form else None, {".json": "json", ".txt": "text"}, "text")
    declared, token, codes = declare(
        expect=expect,
        exact=exact,
        model=model,
        tokenizer=tokenizer,
        pad_id=pad_id,
        eos_id=eos_id,
        convention=convention,
        past=past,
        purpose=purpose.value if purpose else None,
        prompt_length=prompt_length,
        vocab_size=vocab_size,
        ignore_index=ignore_index,
        loss_shift=loss_shift.value if loss_shift else None,
        select=select,
        ignore=ignore,
    )
    # The program may change its folder.
    output, save = (path if path is None else os.path.abspath(path) for path in (output, save))
    options = Options(declared, token, codes, every, limit, tuple(modules or ()), save, save_all)
    name, *arguments = program
    found = module(name) if as_module else script(name)
    process = os.getpid()
    with Trace(options, found.name) as watching:
        code = run(found, arguments)
    if os.getpid() != process:
        # A forked child came to its end: the program is its parent.
        return code
    sys.stdout.flush()
    report = watching.report
    show_trace(report, output, chosen, sys.stderr)
    if code == 0 and fail_on is not Severity.never and not report.calls:
        raise MaskcliError(
            f"{found.name!r} made no attention call that could be checked; leave --fail-on out if that is right"
        )
    return 1 if code == 0 and fails(report.worst(), fail_on) else code
