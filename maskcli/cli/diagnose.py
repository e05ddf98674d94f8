"""maskcli diagnose: what is wrong in saved tensors."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from maskcli.cli import Exit, app
from maskcli.cli.options import (
    EosIds,
    Exact,
    Expect,
    FailOn,
    FindingsForm,
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
    from maskcli.diagnostics.facts import Expectation
    from maskcli.tensors import Roled, TensorFile


@app.command(epilog="Example:  maskcli diagnose dump.safetensors --expect causal --pad-id 0")
def diagnose(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Saved tensors: .safetensors, .npy, .npz, .pt, .pth, .bin.")
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
        typer.Option(metavar="ROLE=FILE[:TENSOR]", help="Say what a tensor is, such as mask=m.npy. Repeatable."),
    ] = None,
    select: Select = None,
    ignore: Ignore = None,
    fail_on: FailOn = Severity.warning,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")] = False,
    form: FindingsForm = None,
    output: Output = None,
) -> int:
    """Check saved attention weights and masks, and say what is wrong, where, why, and how to fix it.

    Tensors are known by their names (attentions.0, attention_mask, input_ids, …), else by shape and values.
    Exit code 0: nothing found. 1: findings. 2: something could not be read or checked.
    """
    from maskcli.diagnostics.declare import declare
    from maskcli.diagnostics.diagnose import diagnose as check
    from maskcli.diagnostics.diagnose import together
    from maskcli.diagnostics.evidence import watcher
    from maskcli.live.operands import resolver
    from maskcli.report.findings import show_report
    from maskcli.report.progress import progress

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
    opened, roled = _open(files, role or [])
    _check_patterns(
        declared.expect, [each.tensor.name for roles in roled for each in roles if each.role in ("weights", "mask")]
    )
    total = sum(each.tensor.nbytes for roles in roled for each in roles if each.role == "weights")
    with progress("checking", total) as advance:
        watching = watcher.set(advance)
        reports = [
            check(file, declared, roles, resolver(convention), token, codes) for file, roles in zip(opened, roled, strict=True)
        ]
        watcher.reset(watching)
    report = together(reports)
    if not report.checked:
        raise MaskcliError(
            f"nothing to check in {', '.join(map(repr, files))}: no tensor is attention weights, a mask or ids"
            + "".join(f" ({name}: {why})" for name, why in list(report.unfit.items())[:1])
            + "; name them (attentions.0, attention_mask) or say what they are with --role weights=FILE:TENSOR"
        )
    show_report(report, output, form.value if form else None)
    return Exit.FOUND if not exit_zero and fails(report.worst(), fail_on) else Exit.OK


def _check_patterns(expect: tuple[Expectation, ...], names: list[str]) -> None:
    """Refuse a pattern that speaks of no attention map and no mask: a typo must not pass for a check."""
    for each in expect:
        if each.pattern is not None and not any(fnmatchcase(name, each.pattern) for name in names):
            shown = ", ".join(names[:4]) or "none"
            raise MaskcliError(f"--expect pattern {each.pattern!r} matches no attention map or mask; there are {shown}")


def _open(files: list[str], roles: list[str]) -> tuple[list[TensorFile], list[tuple[Roled, ...]]]:
    """The files with the role of every tensor, --role above names; tensors of other files join the only one."""
    import dataclasses

    from maskcli.tensors import find_tensor, open_tensors, parse_role, roles_of, split_target

    opened, roled = [], []
    for target in files:
        path, name = split_target(target)
        file = open_tensors(path)
        if name is not None:
            file = dataclasses.replace(file, tensors=(find_tensor(file, name),))
        opened.append(file)
        roled.append(roles_of(file))
    for text in roles:
        role, path, name = parse_role(text)
        source = open_tensors(path)
        if name is None and len(source.tensors) != 1:
            raise MaskcliError(f"--role {text!r}: {path!r} has {len(source.tensors)} tensors; say which: {role}={path}:NAME")
        tensor = find_tensor(source, name) if name else source.tensors[0]
        place = next((at for at, file in enumerate(opened) if file.path == source.path), None)
        if place is None and len(opened) > 1:
            raise MaskcliError(
                f"--role {text!r} names a file that is not diagnosed, and there are several; diagnose one file at a time"
            )
        at = place or 0
        known = [each for each in roled[at] if place is None or each.tensor.name != tensor.name]
        said = dataclasses.replace(roles_of(dataclasses.replace(source, tensors=(tensor,)))[0], role=role, why="--role")
        roled[at] = (*known, said)
    return opened, roled
