"""`audit`: which tokens of a training set the loss counts, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from maskcli.auditing.audit import audit_chunks, learn, report
from maskcli.auditing.results import Audited
from maskcli.auditing.roles import columns_of
from maskcli.auditing.rows import chunks_of
from maskcli.diagnostics.declare import declare
from maskcli.errors import MaskcliError
from maskcli.meant.facts import Said

if TYPE_CHECKING:
    from typing_extensions import Unpack

# What rows without a file are called.
IN_MEMORY = "rows"


def audit(
    data: Iterable[Mapping[str, Any]], *, columns: Mapping[str, str] | None = None, **said: Unpack[Said]
) -> Audited:
    """Audit the rows of a training set: what the loss counts of it, and what is wrong, once for all rows.

    `data` are rows with lists of ids, labels and masks. `columns` says what columns of other names are, as
    `{"my_mask": "loss_mask"}`; what was meant is declared as for `diagnose`. Raises MaskcliError where there
    is no row, or no column that says anything of tokens.

    >>> rows = [{"input_ids": [5, 6, 7, 8, 2], "labels": [-100, -100, 7, 8, -100]}] * 3
    >>> [found.name for found in audit(rows, eos_id=2, pad_id=0).findings]
    ['eos-missing', 'label-border']
    """
    chunks = chunks_of(data)
    head = next(chunks, None)
    if head is None:
        raise MaskcliError("there are no rows to audit")
    task = learn(head, columns_of(list(head.columns), columns), declare(**said))
    fold = audit_chunks(chain([head], chunks), 0, task)
    return report(IN_MEMORY, fold, [IN_MEMORY], task)
