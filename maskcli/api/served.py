"""`probe_server`: what the answers of a server tell of its masks, beside what was meant."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from maskcli.diagnostics.probed import ProbeReport, report_of
from maskcli.errors import MaskcliError
from maskcli.masks.spec import write
from maskcli.meant.facts import from_said
from maskcli.probing.server import LENGTH, measure_server

# Where the command line takes a server's API key from.
KEY_VARIABLE = "MASKCLI_API_KEY"


def probe_server(
    url: str,
    served: str | None = None,
    *,
    expect: str | Sequence[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    length: int | None = None,
    vocab: int | None = None,
    key: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ProbeReport:
    """Probe a server with OpenAI's completions by the log-probs of token ids, and nothing else.

    `served` is the model's name there (None: the only one). `expect` is the mask of the whole model, such as
    "sliding:9", else `model`, a folder with its config.json, tells those of its layers and the number of ids.
    `length`, `vocab` and `key` are as for `maskcli.probing.server.measure_server`. Raises MaskcliError when
    the server cannot be reached, or tells too little.

    >>> probe_server("http://localhost:8000/v1").findings  # doctest: +SKIP
    ()
    """
    layers, told, known = _meant(expect, model)
    behaviour = measure_server(
        url,
        served,
        length=LENGTH if length is None else length,
        vocab=known if vocab is None else vocab,
        key=key,
        layers=layers,
        told=told,
        progress=progress,
    )
    return report_of(behaviour, url)


def _meant(
    expect: str | Sequence[str] | None, model: str | os.PathLike[str] | None
) -> tuple[tuple[str | None, ...], str, int | None]:
    """The masks of layers, who says them, and the number of ids."""
    declared = from_said({"expect": expect, "model": model})
    if any(each.pattern is not None for each in declared.expect):
        raise MaskcliError(
            "a server shows no modules, so that --expect PATTERN=SPEC says nothing; pass the SPEC of the "
            "whole model, or its config.json by --model"
        )
    config = declared.model
    ids = config.vocab_size if config is not None else None
    if declared.expect:
        return (write(declared.expect[-1].spec),), "--expect", ids
    if config is not None:
        return config.layers, config.source, ids
    return (), "", ids
