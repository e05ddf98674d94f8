"""Dumps with two or three bugs at once and some of their facts missing, and a record of all that is told of them.

    python -m tests.diagnostics.mixed        write the record anew, and print which lines changed

The record is no oracle: it says that nothing that a user reads has changed without being meant to.
"""

import hashlib
import random
import re
from pathlib import Path

import numpy as np

from maskcli.errors import MaskcliError
from tests.diagnostics.attention import DTYPES, SIDES, report
from tests.diagnostics.corpus import BUGS, EOS, FIRST_WORD, PAD, SHAPES, Given, ints

RECORD = Path(__file__).resolve().parents[1] / "data" / "told.txt"
COUNT = 600
SMALL = [shape for shape in SHAPES if shape[3] < 80]
SPECS = [
    "causal", "full", "sliding:4", "chunked:4", "causal & documents", "causal & padding", "prefix-lm:3", "window:2", "blocks:4",
    "dilated:6,2", "causal & sliding:3 | global:1", "per-document:4,4(causal)", "same:segment_ids",
]  # fmt: skip
# What is said with every so many of them, though no bug asks for it.
FACTS = [
    {}, {}, {}, {"pad_id": PAD}, {"eos_ids": (EOS,)}, {"bos_ids": (FIRST_WORD,)}, {"purpose": "generate"}, {"past": 0}, {"past": 2},
    {"convention": "sdpa"}, {"convention": "additive"}, {"loss_shift": "data"}, {"loss_shift": "model"}, {"vocab_size": 40},
    *({"expect": spec} for spec in SPECS),
]  # fmt: skip


def healthy(given):
    """What surrounds the bugs: any of the tensors of a dump that is right."""
    ids, _ = given.text()
    positions = given.real.cumsum(axis=1) - 1
    yield given.maps(given.keep)
    yield given.mask
    yield given.additive(given.keep)
    yield ints(input_ids=ids)
    yield ints(input_ids=ids, labels=np.where(given.real, ids, -100))
    yield ints(position_ids=positions.clip(0))
    yield ints(segment_ids=positions // 4)
    yield ints(token_type_ids=positions > 3)


def dump(number):
    """The arrays of a dump, and what is declared of it; neither depends on the other dumps."""
    rng = random.Random(number)
    given = Given(rng.choice(SMALL), rng.choice(list(DTYPES)), rng.choice(SIDES))
    arrays, declared = {}, {}
    for tensors in rng.sample(list(healthy(given)), 2):
        arrays |= tensors
    for code in rng.sample(sorted(BUGS), rng.choice([1, 2, 2, 3])):
        case = BUGS[code](given)
        if case is not None:
            arrays |= case.arrays
            declared |= case.declared
    arrays = {name: array for name, array in arrays.items() if rng.random() > 0.15} or arrays
    declared = {name: fact for name, fact in declared.items() if rng.random() > 0.3}
    return arrays, declared | rng.choice(FACTS)


def told(number):
    """All that is told of a dump, without what rounding may change."""
    arrays, declared = dump(number)
    try:
        found = report(arrays, **declared)
    except MaskcliError as error:
        return [], str(error)
    codes = [each.code + ("?" if each.severity == "note" else "") for each in found.findings]
    lines = [_said(each) for each in found.findings]
    lines += [f"{each.code} lacks {each.needs} {each.options}" for each in found.skipped]
    lines += [
        f"checked {found.checked} {found.roles}",
        f"unfit {found.unfit}",
        f"unchecked {found.unchecked}",
    ]
    lines.append(f"decided {sorted(found.decided)}")
    return codes, "\n".join(lines)


def _said(finding):
    evidence = {name: value for name, value in finding.evidence.items() if not isinstance(value, float)}
    sentences = re.sub(
        r"-?\d+\.\d+(e[-+]?\d+)?|\d+e[-+]\d+|[\d.]+ %", "#", f"{finding.message}; {finding.fix}"
    )
    where = finding.tensors, finding.where, finding.places, finding.tokens, finding.known, finding.see
    return f"{finding.code} {finding.severity} {where} {evidence} {sorted(finding.evidence)} {finding.excerpt} {sentences}"


def line(number):
    """The line of a dump in the record: its codes (? behind a note) and a digest of the rest."""
    codes, text = told(number)
    return f"{number:04} {hashlib.sha256(text.encode()).hexdigest()[:10]} {' '.join(codes)}".rstrip()


def recorded():
    return RECORD.read_text("utf-8").splitlines()


if __name__ == "__main__":
    before = recorded() if RECORD.exists() else []
    now = [line(number) for number in range(COUNT)]
    RECORD.write_text("\n".join(now) + "\n", "utf-8")
    changed = sorted({*now} - {*before})
    print(*changed, f"{len(changed)} of {COUNT} lines changed", sep="\n")
