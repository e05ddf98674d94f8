"""maskcli audit: which tokens of a training set the loss counts, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from maskcli.cli import Exit, command, complain
from maskcli.cli.completion import rules
from maskcli.cli.options import (
    MEANT,
    Dask,
    ExitZero,
    FailOn,
    Jobs,
    MaxSize,
    Output,
    Quiet,
    Severity,
    check_quiet,
    check_workers,
    declaring,
    fails,
    findings_form,
    option,
)
from maskcli.cli.usage import FOUND
from maskcli.errors import MaskcliError
from maskcli.report.audited import FORMS
from maskcli.report.forms import choose, names, sized

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from maskcli.auditing.audit import Asked
    from maskcli.auditing.results import Audited
    from maskcli.diagnostics.declare import Meaning
    from maskcli.meant.facts import Said
    from maskcli.tables import Table

# A heading of --help.
ROWS = "Rows"
# What can be declared of a training set.
FACTS_OF_SETS = (
    "model",
    "purpose",
    "pad_id",
    "eos_ids",
    "ignore_index",
    "loss_shift",
    "prompt_length",
    "vocab_size",
)


@command(
    "Find what the loss counts in a training set.",
    "maskcli audit train.jsonl -t my-model --for train",
    "maskcli audit 'shards/*.parquet' --pad-id 0 --eos-id 2 --jobs 4",
    "maskcli audit train.jsonl -t my-model --show 17",
    "maskcli audit --template my-model",
    codes=FOUND,
)
@declaring(*FACTS_OF_SETS)
def audit(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="Training sets: .jsonl, .json, .parquet, .arrow (also .gz and .zst), tensors; folders of "
            "them or by save_to_disk; quoted patterns. None: the chat template alone is checked.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        option(
            help="Say what a column is, such as loss_mask=my_mask. Repeatable.",
            panel=MEANT,
            metavar="ROLE=NAME",
        ),
    ] = None,
    tools: Annotated[
        str | None,
        option(help="The column of tools, of rows that are rendered.", panel=MEANT, metavar="NAME"),
    ] = None,
    max_length: Annotated[
        int | None,
        option(
            help="Cut rows that are rendered at N tokens, as a trainer does.", panel=MEANT, metavar="N", min=1
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        option(
            help="The type of token ids in files without a header, such as uint16; --eos-id or --max-length "
            "says where their rows end.",
            panel=MEANT,
            metavar="TYPE",
        ),
    ] = None,
    rows: Annotated[
        str | None,
        option(
            help="Write the numbers of all rows with a finding of a rule, one a line, and no report.",
            panel=ROWS,
            metavar="RULE",
            autocompletion=rules,
        ),
    ] = None,
    show: Annotated[
        list[str] | None,
        option(
            help="Show a row token by token, and no report; rows are counted from 0. Repeatable.",
            panel=ROWS,
            metavar="[FILE:]ROW",
        ),
    ] = None,
    full: Annotated[bool, option("--full", help="With --show: long rows without a gap.", panel=ROWS)] = False,
    jobs: Jobs = None,
    dask: Dask = None,
    fail_on: FailOn = Severity.warning,
    exit_zero: ExitZero = False,
    form: Annotated[
        str | None, findings_form(names(FORMS), ", jsonl for a line of JSON per finding, csv for tables")
    ] = None,
    output: Output = None,
    max_size: MaxSize = None,
    quiet: Quiet = False,
    **said: Unpack[Said],
) -> int:
    """Tell which tokens of a training set the loss counts, and find what is wrong with them.

    Rows of ids and labels (or a loss mask) are read as they are; rows of messages, prompts or texts are
    rendered by the tokenizer and its chat template, which also tells whose turn a token is in.
    """
    from maskcli.api.auditing import raw_as
    from maskcli.auditing.audit import Asked
    from maskcli.auditing.roles import columns_said
    from maskcli.diagnostics.catalogue import matching
    from maskcli.diagnostics.declare import declare
    from maskcli.report.audited import Audits
    from maskcli.report.picked import write_rows
    from maskcli.tables import open_tables

    check_quiet(quiet, form, output, rows, show)
    if not files:
        return _check_template(said, form, output, max_size, fail_on, exit_zero, quiet)
    check_workers(jobs, dask)
    if rows is not None and (show or form is not None):
        raise MaskcliError("--rows writes numbers alone; leave --format and --show out, or --rows")
    if full and not show:
        raise MaskcliError("--full is for rows that are shown; pass --show ROW too, or leave it out")
    write = sized(choose(FORMS, form, None if rows or show else output), max_size).write
    meaning = declare(**said)
    if rows is not None:
        meaning = meaning._replace(codes=frozenset(matching([rows], "--rows")))
    keep = None if rows is not None else frozenset[str]()
    roles = columns_said(column or ())
    asked = Asked(roles, said.get("tokenizer"), tools, max_length, keep)
    tables = open_tables(files, raw_as(dtype, meaning, max_length))
    if show:
        return _show(tables, show, full, meaning, asked, form, output)
    sets, errors = _audited(tables, meaning, asked, jobs, dask)

    if sets and rows is None and not quiet:
        write(Audits(tuple(sets), meaning.token, tuple(errors)), output)
    elif sets and rows is not None:
        several = len({part.path for table in tables for part in table.parts}) > 1
        write_rows(sets, several, output)
    for _, sentence in errors:
        complain(sentence)
    if errors:
        return Exit.ERROR
    worst = Audits(tuple(sets)).worst()
    return Exit.FOUND if not exit_zero and fails(worst, fail_on) else Exit.OK


def _check_template(
    said: Said,
    form: str | None,
    output: str | None,
    max_size: int | None,
    fail_on: Severity,
    exit_zero: bool,
    quiet: bool,
) -> int:
    """Check the chat template of a tokenizer, or one of a file for it."""
    import os

    from maskcli.report.template import FORMS, CheckedTemplate
    from maskcli.text import load_tokenizer, read_text
    from maskcli.text.template_check import check

    template, name = said.get("template"), said.get("tokenizer")
    if template is not None and os.path.isdir(template):
        template, name = None, template
    if name is None:
        raise MaskcliError(
            "there is nothing to audit; name training sets, or pass --template with the folder of a chat "
            "model, or with a file and --tokenizer"
        )
    write = sized(choose(FORMS, form, output), max_size).write
    tokenizer = load_tokenizer(name, chat=True, template=None if template is None else read_text(template))
    checked = CheckedTemplate(template or name, check(tokenizer), tokenizer.token)
    if not quiet:
        write(checked, output)
    return Exit.FOUND if not exit_zero and fails(checked.worst(), fail_on) else Exit.OK


def _show(
    tables: list[Table],
    wanted: list[str],
    full: bool,
    meaning: Meaning,
    asked: Asked,
    form: str | None,
    output: str | None,
) -> int:
    """Show some rows."""
    from maskcli.auditing.showing import shown_rows
    from maskcli.report.row import FORMS, Rows

    write = choose(FORMS, form, output).write
    rows = tuple(shown_rows(tables, wanted, meaning, asked))
    write(Rows(rows, meaning.token, full), output)
    return Exit.OK


def _audited(
    tables: list[Table], meaning: Meaning, asked: Asked, jobs: int | None, dask: str | None
) -> tuple[list[Audited], list[tuple[str, str]]]:
    """Reports on sets, and what keeps others from having one: none of them stops the rest."""
    from maskcli.auditing.audit import audit_table, workers_for
    from maskcli.report.progress import progress

    sets: list[Audited] = []
    errors: list[tuple[str, str]] = []
    parts = [part for table in tables for part in table.parts]
    with progress("auditing", sum(part.size for part in parts), len(parts)) as bar:
        for table in tables:
            try:
                sets.append(audit_table(table, meaning, asked, workers_for(table, jobs, dask), bar.advance))
            except MaskcliError as error:
                if len(tables) == 1:
                    raise
                errors.append((table.name, str(error)))
    return sets, errors
