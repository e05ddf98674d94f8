"""maskcli diagnose: what is wrong in saved tensors."""

from __future__ import annotations

import os
from contextlib import closing
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from maskcli.cli import Exit, app, complain
from maskcli.cli.options import (
    DiagnoseFormat,
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
    Output,
    PadId,
    Past,
    PromptLength,
    Select,
    Severity,
    Tokenizer,
    VocabSize,
    fails,
)
from maskcli.errors import MaskcliError

if TYPE_CHECKING:
    from maskcli.diagnostics.declare import Said
    from maskcli.inputs.many_files import Task
    from maskcli.meant.facts import Expectation


@app.command(epilog="Example:  maskcli diagnose dump.safetensors --expect causal --pad-id 0")
def diagnose(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Saved tensors (.safetensors, .npy, .npz, .pt, .pth, .bin), folders of them, or quoted patterns.",
        ),
    ],
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
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=FILE[:TENSOR]", help="Say what a tensor is, such as mask=m.npy. Repeatable."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            max=512,
            metavar="N",
            help="Processes that share the files. Default: as many as pay off.",
        ),
    ] = None,
    select: Select = None,
    ignore: Ignore = None,
    fail_on: FailOn = Severity.warning,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")] = False,
    form: DiagnoseFormat = None,
    output: Output = None,
) -> int:
    """Check saved attention weights and masks, and say what is wrong, where, why, and how to fix it.

    Tensors are known by their names (attentions.0, attention_mask, input_ids, …), else by shape and values. Files are
    reported in the order given, those of a folder or pattern sorted; one that cannot be checked stops none of the others.
    Exit code 0: nothing found. 1: findings. 2: something could not be read or checked.
    """
    from maskcli.diagnostics.declare import declare
    from maskcli.inputs.files import expand
    from maskcli.inputs.many_files import WORTH_A_PROCESS, check_files
    from maskcli.report.files import write_files
    from maskcli.report.progress import progress
    from maskcli.report.terminal import form as form_of
    from maskcli.report.terminal import output as result

    chosen = form_of(
        output, form.value if form else None, {".json": "json", ".jsonl": "jsonl", ".txt": "text"}, "text"
    )
    said: Said = {
        "expect": expect,
        "exact": exact,
        "model": model,
        "tokenizer": tokenizer,
        "pad_id": pad_id,
        "eos_id": eos_id,
        "convention": convention,
        "past": past,
        "purpose": purpose.value if purpose else None,
        "prompt_length": prompt_length,
        "vocab_size": vocab_size,
        "ignore_index": ignore_index,
        "loss_shift": loss_shift.value if loss_shift else None,
        "select": select,
        "ignore": ignore,
    }
    meaning = declare(**said)
    tasks = _tasks(expand(files), role or [])
    _check_patterns(meaning.declared.expect, tasks)
    jobs = min(jobs or max(1, min(os.cpu_count() or 1, len(tasks) // WORTH_A_PROCESS)), len(tasks))
    with (
        result(output) as stream,
        progress("checking", sum(task.size for task in tasks), len(tasks)) as bar,
        closing(check_files(tasks, jobs, said, meaning, bar.advance)) as checked,
    ):
        total, errors = write_files(bar.while_waiting(checked), chosen, stream)
        sentences = [_sentence(file, error, len(tasks)) for file, error in errors]
        if not total.files and chosen != "jsonl":
            # Nothing was written: what stands at -o FILE stays.
            *others, last = sentences
            for sentence in others:
                complain(sentence)
            raise MaskcliError(last)
    for sentence in sentences:
        complain(sentence)
    if errors:
        return Exit.ERROR
    return Exit.FOUND if not exit_zero and fails(total.worst(), fail_on) else Exit.OK


def _sentence(file: str, error: str, files: int) -> str:
    """An error that names its file, where there are several."""
    return error if files == 1 or repr(file) in error else f"{file!r}: {error}"


def _check_patterns(expect: tuple[Expectation, ...], tasks: list[Task]) -> None:
    """Refuse a pattern that speaks of no attention map and no mask of any file: a typo must not pass for a check.

    Files are opened until each pattern has matched, which the first one mostly settles; bad ones are reported in their turn.
    """
    from maskcli.inputs.many_files import open_roled

    left = {each.pattern for each in expect if each.pattern is not None}
    names: list[str] = []
    opened = False
    for task in tasks if left else ():
        try:
            _, roled = open_roled(task)
        except Exception:
            continue
        found = [each.tensor.name for each in roled if each.role in ("weights", "mask")]
        left = {pattern for pattern in left if not any(fnmatchcase(name, pattern) for name in found)}
        names, opened = names or found, True
        if not left:
            return
    for each in expect if opened else ():
        if each.pattern in left:
            shown = ", ".join(names[:4]) or "none"
            raise MaskcliError(
                f"--expect pattern {each.pattern!r} matches no attention map or mask; there are {shown}"
            )


def _tasks(targets: list[str], roles: list[str]) -> list[Task]:
    """The files with what --role says of the tensors of each; a tensor of another file joins the only one."""
    from maskcli.inputs.many_files import Task
    from maskcli.tensors import parse_role

    said: dict[int, list[str]] = {}
    paths = [Task(target).path for target in targets]
    for text in roles:
        path = parse_role(text)[1]
        if path not in paths and len(targets) > 1:
            raise MaskcliError(
                f"--role {text!r} names a file that is not diagnosed, and there are several; diagnose one file at a time"
            )
        said.setdefault(paths.index(path) if path in paths else 0, []).append(text)
    return [Task(target, tuple(said.get(at, ()))) for at, target in enumerate(targets)]
