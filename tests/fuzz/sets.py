"""Training sets and conversations: damaged tables through `audit`, and turns beside what wrote them."""

import functools
import json

import numpy as np

from maskcli.text.markers import ROLES
from tests.fuzz.command_lines import changed
from tests.fuzz.process import faults, measured, run
from tests.fuzz.seeds import SETS, TEXTS

IGNORED = -100


def audit(source, folder):
    """A damaged set is refused or counted; what is whole is counted as a loop over its rows counts it."""
    if source.once_in(3):
        return _counted(source, folder)
    seed = source.choice(sorted(SETS.iterdir()))
    path = folder / seed.name
    path.write_bytes(changed(source, seed))
    words = ["audit", str(path), "--format", source.choice(["json", "text", "csv"])]
    words += source.choice([[], ["-t", str(TEXTS)], ["--show", str(source.below(5))], ["--rows", "MSK401"]])
    return [f"{fault}: {words}" for fault in faults(run(words))]


def _counted(source, folder):
    rows = []
    for _ in range(source.between(1, 6)):
        # None twice in a row: where tokens repeat, labels may fit as labels that were moved.
        ids = [10 * at + source.between(3, 9) for at in range(source.between(1, 9))]
        labels = [token if source.below(2) else IGNORED for token in ids]
        real = [1] * len(ids)
        pads = source.below(3)
        rows.append(
            {
                "input_ids": ids + [0] * pads,
                "attention_mask": real + [0] * pads,
                "labels": labels + [IGNORED] * pads,
            }
        )
    path = folder / "whole.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = run(["audit", str(path), "--format", "json", "--loss-shift", "model"])
    told = faults(outcome)
    if told:
        return told
    glance = json.loads(outcome.out)["sets"][0]["glance"]
    # The loss shifts: what stands first is never counted.
    counted = sum(label != IGNORED for row in rows for label in row["labels"][1:])
    expected = {
        "rows": len(rows),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "padding": sum(row["attention_mask"].count(0) for row in rows),
        "counted": counted,
    }
    return [
        f"{name} is {glance[name]}, not {value}" for name, value in expected.items() if glance[name] != value
    ]


def turns(source, folder):
    """Turns that are read from ids are those of the messages that the chat template wrote."""
    tokenizer, learnt = _chat()
    messages = [
        {"role": source.choice(["system", "user", "assistant"]), "content": source.text()}
        for _ in range(source.between(1, 5))
    ]
    found = []

    def split():
        ids = tokenizer.encode(tokenizer.template.render(messages), None, False, None).ids
        told = learnt.split(ids[None])
        begins = np.flatnonzero(np.diff(told.turn[0], prepend=-1))
        found.extend(ROLES[told.role[0, at]] for at in begins)
        return 0

    told = faults(measured(split))
    expected = [message["role"] for message in messages]
    return told if told or found == expected else [f"turns of {found}, not {expected}: {messages}"]


@functools.cache
def _chat():
    from maskcli.text import load_tokenizer
    from maskcli.text.turns import learn

    tokenizer = load_tokenizer(str(TEXTS), chat=True)
    return tokenizer, learn(tokenizer)
