"""Why cells are forbidden: by the spec that was declared, else by what the input shows."""

from __future__ import annotations

from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.reasons import Reason, reasons
from maskcli.masks.spec import Spec, names_files, parse, write


def forbidden(allowed: Mask, layout: Layout, declared: Spec | None, by: str) -> tuple[Reason, ...]:
    """Reasons for all that `allowed` [B, H, Q, K] hides, disjoint; what none of them tells is hidden `by` it.

    >>> from maskcli.masks.kinds import causal
    >>> layout = Layout(1, 4, 4)
    >>> [each.kind for each in forbidden(causal(layout), layout, None, "the mask")]
    ['future']
    """
    rest = ~allowed
    found = []
    for reason in reasons(_asked(layout, declared), layout):
        if reason.forbids.shape != rest.shape:
            continue
        cells = reason.forbids & rest
        rest = rest - cells
        if cells.attended:
            found.append(Reason(reason.kind, reason.operand, cells))
    return (*found, Reason("other", by, rest)) if rest.attended else tuple(found)


def _asked(layout: Layout, declared: Spec | None) -> Spec:
    """The declared spec, else what is usual, with the padding and the documents that are known."""
    usual = "full" if layout.cross else "causal"
    # What a file or a function says has no reason of its own.
    known = declared is not None and not names_files(declared)
    parts = [f"({write(declared)})" if known and declared is not None else usual]
    if layout.real is not None:
        parts.append("padding")
    if not known and layout.documents is not None and layout.inside:
        parts.append("documents")
    return parse(" & ".join(parts))
