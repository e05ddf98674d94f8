"""maskcli diagnose: what is wrong in saved tensors."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from maskcli.cli import Exit, app
from maskcli.cli.options import DiagnoseForm, From, Output, PadId, Past, Purpose, Severity, Shift, Tokenizer
from maskcli.errors import MaskcliError

if TYPE_CHECKING:
    from maskcli.diagnostics.facts import Declared, Expectation
    from maskcli.tensors import Roled, TensorFile


@app.command(epilog="Example:  maskcli diagnose dump.safetensors --expect causal --pad-id 0")
def diagnose(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Saved tensors: .safetensors, .npy, .npz, .pt, .pth, .bin.")
    ],
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC", help="The mask that was meant, such as causal; PATTERN=SPEC for tensors of some names. Repeatable."
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Ignored cells must weigh exactly 0.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="A folder with the model's config.json: layers and windows, ids, positions. Nothing of the model is loaded.",
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    pad_id: PadId = None,
    eos_id: Annotated[list[int] | None, typer.Option(min=0, help="The id of the token that ends a text. Repeatable.")] = None,
    convention: From = None,
    purpose: Annotated[
        Purpose | None, typer.Option("--for", help="What the batch is for: training, or generation from its last token.")
    ] = None,
    prompt_length: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Tokens of the prompt, which are not to be trained on.")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many ids there are.")] = None,
    ignore_index: Annotated[
        int | None,
        typer.Option(metavar="N", help="The label that the loss leaves out. Default: -100, and -1 where labels hold it."),
    ] = None,
    loss_shift: Annotated[
        Shift | None,
        typer.Option(help="Who moves the labels one place: the model (as Hugging Face's do) or the data (as nanoGPT's does)."),
    ] = None,
    past: Past = None,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=FILE[:TENSOR]", help="Say what a tensor is, such as mask=m.npy. Repeatable."),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULES", help="Report these rules only: codes, names or prefixes such as MSK5. Repeatable, or commas."
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="RULES", help="Do not report these rules. Wins over --select.")
    ] = None,
    fail_on: Annotated[Severity, typer.Option(help="The mildest severity that makes the exit code 1.")] = Severity.warning,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")] = False,
    form: Annotated[
        DiagnoseForm | None, typer.Option("--format", help="text for people, concise for one line each, json for scripts.")
    ] = None,
    output: Output = None,
) -> int:
    """Check saved attention weights and masks, and say what is wrong, where, why, and how to fix it.

    Tensors are known by their names (attentions.0, attention_mask, input_ids, …), else by shape and values.
    Exit code 0: nothing found. 1: findings. 2: something could not be read or checked.
    """
    from maskcli.diagnostics import facts
    from maskcli.diagnostics.catalogue import chosen_codes
    from maskcli.diagnostics.diagnose import diagnose as check
    from maskcli.diagnostics.diagnose import together
    from maskcli.diagnostics.evidence import watcher
    from maskcli.live.operands import resolver
    from maskcli.report.findings import as_json, concise, print_report
    from maskcli.report.progress import progress
    from maskcli.report.terminal import console, write
    from maskcli.report.terminal import form as form_of
    from maskcli.report.terminal import output as result

    token, of_tokenizer = _token(tokenizer)
    declared = facts.Declared(
        expect=tuple(facts.expectation(text) for text in expect or ()),
        exact=exact,
        model=facts.read_config(model) if model else None,
        pad_id=pad_id,
        eos_ids=tuple(eos_id or ()),
        convention=facts.convention(convention) if convention else None,
        past=past,
        purpose=purpose.value if purpose else None,
        prompt_length=prompt_length,
        vocab_size=vocab_size,
        ignore_index=ignore_index,
        loss_shift=loss_shift.value if loss_shift else None,
    ).over(of_tokenizer)
    codes = chosen_codes(select or [], ignore or [])
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
    chosen = form_of(output, form.value if form else None, {".json": "json", ".txt": "text"}, "text")
    with result(output) as stream:
        if chosen == "json":
            write(as_json(report), stream)
        elif chosen == "concise":
            write(concise(report), stream)
        else:
            print_report(report, console(stream))
    return Exit.FOUND if not exit_zero and _fails(report.worst(), fail_on) else Exit.OK


def _check_patterns(expect: tuple[Expectation, ...], names: list[str]) -> None:
    """Refuse a pattern that speaks of no attention map and no mask: a typo must not pass for a check."""
    for each in expect:
        if each.pattern is not None and not any(fnmatchcase(name, each.pattern) for name in names):
            shown = ", ".join(names[:4]) or "none"
            raise MaskcliError(f"--expect pattern {each.pattern!r} matches no attention map or mask; there are {shown}")


def _fails(worst: str | None, fail_on: Severity) -> bool:
    order = [severity.value for severity in Severity]
    return worst is not None and fail_on is not Severity.never and order.index(worst) <= order.index(fail_on.value)


def _token(name: str | None) -> tuple[Callable[[int], str] | None, Declared]:
    """How ids become text, and the special ids that a tokenizer gives."""
    from maskcli.diagnostics.facts import Declared

    if name is None:
        return None, Declared()
    from maskcli.text import load_tokenizer

    loaded = load_tokenizer(name)
    return loaded.token, Declared(pad_id=loaded.pad_id, eos_ids=() if loaded.eos_id is None else (loaded.eos_id,))


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
