"""`probe` and `assert_reads_only`: whom the layers of a model see, measured from what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from maskcli.diagnostics.finding import Finding
from maskcli.diagnostics.probed import ProbeReport, report_of
from maskcli.errors import MaskcliError
from maskcli.meant.facts import from_said
from maskcli.probing.plan import LONGEST, PARTS, SHORTEST, USUAL_LENGTH, Cached, Plan, Side

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from maskcli.probing.subject import Loading, Subject

SIDES: tuple[str, ...] = get_args(Side)
CACHES: tuple[str, ...] = get_args(Cached)
# What is said of texts that are made.
OF_TEXTS = ("length", "pad", "documents", "cache")


class Planned(TypedDict, total=False):
    """What a probe is asked for; None is the same as leaving a key out.

    `expect` is the mask that layers should have, as for `maskcli.diagnose`: a spec, or "PATTERN=SPEC" for
    modules of some names (shell globs); without it the model's configuration tells. Texts have `length`
    tokens, and `columns` are "all" or "boundary" (of texts above 128 tokens). `pad` names the sides of
    padding to try (right, left, none), `documents` the lengths of texts to pack into one row, `cache` the
    caches to decode from (dynamic, static, none). `only` leaves the rest out: masks, cache, batch,
    equivalence. Several are a list, or text with commas.
    """

    expect: str | Sequence[str] | None
    length: int | None
    columns: Literal["all", "boundary"] | None
    pad: str | Sequence[str] | None
    documents: str | Sequence[int] | None
    cache: str | Sequence[str] | None
    only: str | Sequence[str] | None
    seed: int | None


def probe(
    model: Any,
    inputs: Mapping[str, Any] | int | None = None,
    *,
    progress: Callable[[str], None] = lambda _: None,
    **planned: Unpack[Planned],
) -> ProbeReport:
    """Measure whom every layer of a torch module sees, and compare it with what was meant.

    `model` stays as it is, in its mode and with its weights. `inputs` are its arguments by name, and then
    their run is the only one; or how many ids it takes, if neither its `config` nor its table of embeddings
    tells, for texts of random ids. `progress` hears which module is at work. The report's `findings` come
    worst first, `behaviour` holds the measured masks, `save(FILE)` writes them. Raises MaskcliError when the
    model answers the same input differently the second time, or fails.

    >>> import torch
    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    >>> states = torch.randn(2, 5, 8)
    >>> report = probe(layer, {"src": states}, expect="causal")
    >>> [finding.name for finding in report.findings]
    ['future-reached']
    """
    from maskcli.probing.subject import subject_of

    plan = plan_of(**planned)
    return _measured(subject_of(model, inputs, type(model).__name__), plan, planned, progress)


def probe_target(
    target: str, how: Loading, progress: Callable[[str], None] = lambda _: None, **planned: Unpack[Planned]
) -> ProbeReport:
    """Measure a model that a command line names: a folder, a hub name or FILE.py:make_model.

    `how` says in which way it is loaded.
    """
    from maskcli.probing.subject import load

    plan = plan_of(**planned)
    return _measured(load(target, how), plan, planned, progress)


def _measured(subject: Subject, plan: Plan, asked: Planned, progress: Callable[[str], None]) -> ProbeReport:
    """Measure what was asked for, and of the rest what the model can do."""
    from maskcli.probing.exact import is_causal
    from maskcli.probing.probe import measure
    from maskcli.probing.runs import takes_padding

    idle = next((name for name in OF_TEXTS if asked.get(name) is not None), None)
    if subject.given is not None and idle is not None:
        raise MaskcliError(
            f"{idle} does nothing for {subject.name!r}: it brings its arguments, and their run is the only "
            "one; leave it out, or pass how many ids it takes"
        )
    decodes = subject.cache_argument is not None and is_causal(subject, plan) and not subject.encodes
    if asked.get("cache") is None and not decodes:
        plan = replace(plan, caches=())
    if asked.get("pad") is None and not takes_padding(subject):
        plan = replace(plan, pads=("none",))
    return report_of(measure(subject, plan, progress), subject.name)


def assert_reads_only(
    model: Any, inputs: Mapping[str, Any] | int | None, spec: str, **planned: Unpack[Planned]
) -> None:
    """Assert that no layer of a torch module reaches a key outside of a mask: for test suites.

    `spec` is the mask that layers may see at most, such as "causal & padding"; inputs are as for `probe`.
    Raises AssertionError, whose message is the finding with its modules and cells, and MaskcliError as
    `probe` does.

    >>> import torch
    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    >>> assert_reads_only(layer, {"src": torch.randn(2, 5, 8)}, "full")
    """
    asked: Planned = {**planned, "expect": spec, "only": ("masks", "batch")}
    report = probe(model, inputs, **asked)
    beyond = [finding for finding in report.findings if _reads_more(finding)]
    if beyond:
        raise AssertionError("\n".join(map(_told, beyond)))


def _reads_more(finding: Finding) -> bool:
    """Whether a finding says that something is read, and not that something is not."""
    keys, meant = (finding.evidence.get(name, 1) for name in ("keys", "expected_keys"))
    fewer = finding.code == "MSK611" or float(keys) < float(meant)
    return finding.severity != "note" and not fewer


def _told(finding: Finding) -> str:
    """A finding with its modules."""
    return f"{finding}\nin {', '.join(finding.tensors)}" if finding.tensors else str(finding)


def plan_of(**planned: Unpack[Planned]) -> Plan:
    """What was asked for, checked. Raises MaskcliError for what cannot be."""
    unknown = [name for name in planned if name not in Planned.__annotations__]
    if unknown:
        known = ", ".join(Planned.__annotations__)
        raise TypeError(f"there is no option {unknown[0]!r} of a probe; there are {known}")
    length = planned.get("length")
    documents = _lengths(planned.get("documents"))
    sides = _some("pad", planned.get("pad"), (*SIDES, "both"), ("right", "left"))
    caches = _some("cache", planned.get("cache"), (*CACHES, "none"), ("dynamic",))
    columns = planned.get("columns")
    if columns not in (None, "all", "boundary"):
        raise MaskcliError(f"columns {columns!r}: pass all or boundary")
    tokens = max(length or 0, sum(documents))
    if tokens > LONGEST:
        raise MaskcliError(f"a text of {tokens:,} tokens is too long; pass {LONGEST:,} at most")
    if length is not None and length < SHORTEST:
        raise MaskcliError(f"a length of {length} tells no mask from another; pass {SHORTEST} or more")
    return Plan(
        declared=from_said({"expect": planned.get("expect")}),
        length=USUAL_LENGTH if length is None else length,
        pads=("right", "left") if "both" in sides else sides,  # type: ignore[arg-type]
        documents=documents,
        caches=tuple(each for each in caches if each != "none"),  # type: ignore[misc]
        every=None if columns is None else columns == "all",
        parts=_some("only", planned.get("only"), PARTS, PARTS),  # type: ignore[arg-type]
        seed=planned.get("seed") or 0,
    )


def _some(
    name: str, given: str | Sequence[str] | None, known: Sequence[str], usual: tuple[str, ...]
) -> tuple[str, ...]:
    """Some of a few words, each once."""
    if given is None:
        return usual
    words = given.split(",") if isinstance(given, str) else given
    chosen = tuple(dict.fromkeys(word.strip() for word in words))
    unknown = [word for word in chosen if word not in known]
    if unknown or not chosen:
        raise MaskcliError(f"{name} {', '.join(unknown)!r} is not one of {', '.join(known)}")
    return chosen


def _lengths(given: str | Sequence[int] | None) -> tuple[int, ...]:
    """Lengths of packed documents."""
    try:
        parts = given.split(",") if isinstance(given, str) else given or ()
        lengths = tuple(int(part) for part in parts)
    except ValueError:
        lengths = (0,)
    if any(length < 1 for length in lengths) or len(lengths) == 1:
        raise MaskcliError(f"documents {given!r}: pass the lengths of two documents or more, such as 7,9,8")
    return lengths
