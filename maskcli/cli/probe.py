"""maskcli probe: whom the layers of a model see, measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from maskcli.cli import Exit, command
from maskcli.cli.options import (
    INPUT,
    OUTPUT,
    ExitZero,
    FailOn,
    MaxSize,
    Quiet,
    Severity,
    check_quiet,
    fails,
    findings_form,
    option,
)
from maskcli.errors import MaskcliError
from maskcli.report.forms import choose, names, sized
from maskcli.report.probed import FORMS

if TYPE_CHECKING:
    from maskcli.api.probing import Planned
    from maskcli.diagnostics.probed import ProbeReport
    from maskcli.probing.subject import Loading

# Headings of --help.
MEASURED, MODEL = "What is measured", "The model"
SERVER = "A server (its API key, if any, is read from MASKCLI_API_KEY)"
# Files that hold tensors; all others hold the report.
MASKS = (".safetensors", ".npz", ".pt")


@command(
    "Measure whom the layers of a model see.",
    "maskcli probe my.py:make_model --expect causal",
    "maskcli probe my-model --random-weights -o masks.safetensors",
    "maskcli probe http://localhost:8000/v1 --model my-model",
    codes="0 nothing found, 1 findings, 2 nothing could be decided",
)
def probe(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A folder with a config.json, or a hub name; FILE.py:make_model, which returns a torch "
            "module, (module, number of ids) or (module, arguments by name); or the address of a server, "
            "such as http://localhost:8000/v1.",
        ),
    ],
    expect: Annotated[
        list[str] | None,
        option(
            help="The mask that layers should have, such as causal; PATTERN=SPEC for modules of some names. "
            "Repeatable. Default: what the configuration says.",
            panel="What was meant",
            metavar="SPEC",
        ),
    ] = None,
    length: Annotated[
        int | None, option(help="Tokens of a text. Default: 24.", panel=INPUT, min=1, metavar="N")
    ] = None,
    pad: Annotated[
        str | None,
        option(help="Padding: right, left, both, none. Default: both.", panel=INPUT, metavar="SIDE"),
    ] = None,
    documents: Annotated[
        str | None,
        option(help="Lengths of texts to pack into one row, such as 7,9,8.", panel=INPUT, metavar="N,N"),
    ] = None,
    cache: Annotated[
        str | None,
        option(help="Caches: dynamic, static, none. Default: dynamic.", panel=MEASURED, metavar="KIND,KIND"),
    ] = None,
    columns: Annotated[
        str | None,
        option(
            help="Measure all keys, or those at boundaries. Default: all, of texts up to 128 tokens.",
            panel=MEASURED,
            metavar="<all|boundary>",
        ),
    ] = None,
    only: Annotated[
        str | None,
        option(
            help="Measure these alone: masks, cache, batch, equivalence.", panel=MEASURED, metavar="PARTS"
        ),
    ] = None,
    impl: Annotated[
        str | None,
        option(help="Attention in transformers: eager, sdpa, flex_attention, …", panel=MODEL, metavar="NAME"),
    ] = None,
    dtype: Annotated[
        str | None,
        option(
            help="The type of its weights: float32, float64, float16, bfloat16. Default: float32, or that of "
            "make_model.",
            panel=MODEL,
            metavar="TYPE",
        ),
    ] = None,
    device: Annotated[
        str | None,
        option(
            help="Where it runs, such as cuda. Default: cpu, or that of make_model.",
            panel=MODEL,
            metavar="NAME",
        ),
    ] = None,
    random_weights: Annotated[
        bool, option("--random-weights", help="Leave its weights on the disk: masks need none.", panel=MODEL)
    ] = False,
    evaluate: Annotated[
        bool, option("--eval", help="Call eval() on what make_model returns.", panel=MODEL)
    ] = False,
    seed: Annotated[int, option(help="Of the texts.", panel=MODEL, metavar="N")] = 0,
    served: Annotated[
        str | None,
        option(help="The model's name there. Default: the only one.", panel=SERVER, metavar="NAME"),
    ] = None,
    model: Annotated[
        str | None,
        option(help="A folder with its config.json: windows, number of ids.", panel=SERVER, metavar="DIR"),
    ] = None,
    vocab: Annotated[
        int | None,
        option(help="How many ids it has. Default: such as it names.", panel=SERVER, min=8, metavar="N"),
    ] = None,
    fail_on: FailOn = Severity.warning,
    exit_zero: ExitZero = False,
    form: Annotated[str | None, findings_form(names(FORMS))] = None,
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            help="Write the report to FILE, or the measured masks to FILE.safetensors.",
            panel=OUTPUT,
            metavar="FILE",
        ),
    ] = None,
    max_size: MaxSize = None,
    quiet: Quiet = False,
) -> int:
    """Move the input of a model's layers key by key, see which outputs change, and name the mask it shows.

    Any kernel will do, since nothing is asked for but outputs. Masks are compared with what was meant, in
    padded and packed texts and with caches, and whole runs that should agree with each other. Weights may be
    random.
    """
    from maskcli.probing.subject import Loading

    to_masks = output is not None and os.path.splitext(output)[1].lower() in MASKS
    report_to = None if to_masks else output
    check_quiet(quiet, form, report_to)
    write = sized(choose(FORMS, form, report_to), max_size).write
    planned: Planned = {
        "expect": expect,
        "length": length,
        "columns": columns,  # type: ignore[typeddict-item]
        "pad": pad,
        "documents": documents,
        "cache": cache,
        "only": only,
        "seed": seed,
    }
    of_model = {
        "--pad": pad,
        "--documents": documents,
        "--cache": cache,
        "--columns": columns,
        "--only": only,
        "--impl": impl,
        "--dtype": dtype,
        "--device": device,
        "--random-weights": random_weights,
        "--eval": evaluate,
        "--seed": seed,
        "-o FILE.safetensors": to_masks,
    }
    if target.startswith(("http://", "https://")):
        _refuse(of_model, "a server shows nothing but its answers", "probe its model for that")
        report = _asked(target, planned, served, model, vocab)
    else:
        of_server = {"--served": served, "--model": model, "--vocab": vocab}
        _refuse(of_server, "it is for a server", "pass an address such as http://localhost:8000/v1")
        if target.rsplit(":", 1)[0].endswith(".py"):
            of_library = {"--impl": impl, "--random-weights": random_weights}
            _refuse(of_library, "the function makes the model", "pass a folder with a config.json")
        else:
            _refuse({"--eval": evaluate}, "such a model is in eval() mode", "pass FILE.py:make_model")
        report = _probed(target, planned, Loading(impl, dtype, device, random_weights, evaluate))
    if to_masks and output is not None:
        report = report.kept_in(output)
    if not quiet:
        write(report, report_to)
    return Exit.FOUND if not exit_zero and fails(report.worst(), fail_on) else Exit.OK


def _refuse(options: Mapping[str, object], why: str, instead: str) -> None:
    """Refuse options that would do nothing."""
    given = next((name for name, value in options.items() if value), None)
    if given is not None:
        raise MaskcliError(f"{given} does nothing here: {why}; leave it out, or {instead}")


def _probed(target: str, planned: Planned, how: Loading) -> ProbeReport:
    """The report on a model."""
    from maskcli.api.probing import probe_target
    from maskcli.report.progress import working

    with working(f"probing {target}") as told:
        return probe_target(target, how, told, **planned)


def _asked(
    url: str, planned: Planned, served: str | None, model: str | None, vocab: int | None
) -> ProbeReport:
    """The report on a server."""
    from maskcli.api.served import KEY_VARIABLE, probe_server
    from maskcli.report.progress import working

    with working("probing a server") as told:
        return probe_server(
            url,
            served,
            expect=planned.get("expect"),
            model=model,
            length=planned.get("length"),
            vocab=vocab,
            key=os.environ.get(KEY_VARIABLE),
            progress=told,
        )
