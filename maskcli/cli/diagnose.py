"""maskcli diagnose: what is wrong in saved tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from maskcli.cli import Exit, command, complain
from maskcli.cli.options import (
    MEANT,
    Dask,
    Dpi,
    ExitZero,
    FailOn,
    Ground,
    Jobs,
    MaxSize,
    Output,
    Quiet,
    Severity,
    Title,
    Verbose,
    check_quiet,
    check_workers,
    declares,
    fails,
    findings_form,
    look,
    option,
)
from maskcli.cli.usage import FOUND
from maskcli.errors import MaskcliError
from maskcli.report.files import FORMS
from maskcli.report.forms import choose, drawn, names, sized

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from maskcli.meant.facts import Said


@command(
    "Find what is wrong in saved attention.",
    "maskcli diagnose dump.safetensors --expect causal --pad-id 0",
    "maskcli diagnose dumps/ --model my-model --format jsonl",
    "maskcli diagnose a.npy --role mask=m.npy --select MSK2",
    codes=FOUND,
)
@declares
def diagnose(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Saved tensors (.safetensors, .npy, .npz, .pt, .pth, .bin), "
            "folders of them, or quoted patterns.",
        ),
    ],
    role: Annotated[
        list[str] | None,
        option(
            help="Say what a tensor is, such as mask=m.npy. Repeatable.",
            panel=MEANT,
            metavar="ROLE=FILE[:TENSOR]",
        ),
    ] = None,
    jobs: Jobs = None,
    dask: Dask = None,
    fail_on: FailOn = Severity.warning,
    exit_zero: ExitZero = False,
    form: Annotated[str | None, findings_form(names(FORMS), ", jsonl for a line of JSON per file")] = None,
    output: Output = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    title: Title = None,
    dpi: Dpi = None,
    theme: Ground = None,
    max_size: MaxSize = None,
    **said: Unpack[Said],
) -> int:
    """Check saved attention weights and masks, and say what is wrong, where, why, and how to fix it.

    Tensors are known by their names (attentions.0, attention_mask, input_ids, …), else by shape and values.
    Files are reported in the order given, those of a folder or pattern sorted; one that cannot be checked
    stops none of the others.
    """
    from contextlib import closing
    from functools import partial

    from maskcli.diagnostics.declare import declare
    from maskcli.inputs.many_files import check_files, processes, scenes_again
    from maskcli.inputs.spread import Workers
    from maskcli.inputs.tasks import check_patterns, tasks_of
    from maskcli.report.files import nothing, write_files
    from maskcli.report.progress import progress
    from maskcli.report.terminal import output as result

    check_workers(jobs, dask)
    check_quiet(quiet, form, output, verbose)
    chosen = drawn(sized(choose(FORMS, form, output), max_size), look(title, dpi, theme))
    writer = nothing if quiet else chosen.write
    meaning = declare(**said)
    tasks = tasks_of(files, role or [])
    check_patterns(meaning.declared.expect, tasks)
    scenes = partial(scenes_again, tasks, meaning)
    workers = Workers(processes(tasks, jobs), dask)
    with (
        result(output) as stream,
        progress("checking", sum(task.size for task in tasks), len(tasks)) as bar,
        closing(check_files(tasks, workers, said, meaning, bar.advance)) as checked,
    ):
        outcome = write_files(bar.while_waiting(checked), writer, stream, verbose, scenes, meaning.token)
        sentences = [_sentence(file, error, len(tasks)) for file, error in outcome.errors + outcome.blind]
        if not outcome.written:
            # What stands at -o FILE stays.
            *others, last = sentences
            for sentence in others:
                complain(sentence)
            raise MaskcliError(last)

    for sentence in sentences:
        complain(sentence)
    if outcome.errors or outcome.blind:
        return Exit.ERROR
    found = not exit_zero and fails(outcome.total.worst(), fail_on)
    return Exit.FOUND if found else Exit.OK


def _sentence(file: str, error: str, files: int) -> str:
    """An error that names its file, where there are several."""
    return error if files == 1 or repr(file) in error else f"{file!r}: {error}"
