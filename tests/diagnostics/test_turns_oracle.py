"""Rules on turns beside an oracle of a few lines that knows which piece of the text each token is, and nothing of turns."""

import random
from typing import NamedTuple

import numpy as np
import pytest

from maskcli.diagnostics.rules.turns import (
    answer_not_supervised,
    header_supervised,
    prompt_turn_supervised,
    turn_end_not_supervised,
)
from maskcli.meant.facts import Declared
from maskcli.scene.assemble import build_scenes
from maskcli.tensors import from_arrays, roles_of
from maskcli.text.turns import learn
from tests.text.chats import TEMPLATES, chat

IGNORE = -100
WORDS = ("yes", "no", "the cat sat", "12 degrees", "it is so", "write it down", "why", "twice two is four")
# How each template writes a turn: what comes before its content, what ends it, what stands behind.
STYLES = {
    "chatml": ("", "<|im_start|>{role}\n", "<|im_end|>", "\n"),
    "llama3": ("{bos}", "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>", ""),
    "zephyr": ("", "<|{role}|>\n", "{eos}", "\n"),
    "phi": ("", "<|{role}|>\n", "<|end|>", "\n"),
}


class Token(NamedTuple):
    """Which turn of its row a token is in, whose, and which part of it."""

    turn: int
    role: str
    part: str


@pytest.fixture(scope="module")
def chats(small_gpt2):
    from transformers import AutoTokenizer

    backbone = AutoTokenizer.from_pretrained(small_gpt2)
    made = {style: chat(backbone, TEMPLATES[style][0]) for style in STYLES}
    return {style: (each, learn(each.tokenizer)) for style, each in made.items()}


def conversation(rng):
    """Roles and contents; answers come alone, behind tools, and one after another question."""
    turns = [("system", rng.choice(WORDS))] if rng.random() < 0.4 else []
    for _ in range(rng.randint(1, 3)):
        turns.append(("user", rng.choice(WORDS)))
        if rng.random() < 0.3:
            turns += [("assistant", rng.choice(WORDS)), ("tool", rng.choice(WORDS))]
        turns.append(("assistant", rng.choice(WORDS)))
    return turns


def row(made, style, turns):
    """Ids, and what each is: of the piece that holds its first letter."""
    start, before, end, behind = STYLES[style]
    special = {"bos": made.reference.bos_token, "eos": made.reference.eos_token}
    text, owners = start.format(**special), []
    owners += [Token(-1, "", "start")] * len(text)
    for turn, (role, content) in enumerate(turns):
        pieces = (before.format(role=role, **special), content, end.format(**special), behind)
        for piece, part in zip(pieces, ("header", "content", "end", "behind"), strict=True):
            text += piece
            owners += [Token(turn, role, part)] * len(piece)
    rendered = made.tokenizer.template.render([{"role": role, "content": content} for role, content in turns])
    assert rendered.startswith(text)
    encoded = made.reference(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoded["input_ids"], [owners[begin] for begin, _ in encoded["offset_mapping"]]


def mask(rng, tokens):
    """What is counted: answers, with a mistake or two."""
    turns = sorted({token.turn for token in tokens})
    chosen = {turn: rng.random() < 0.9 for turn in turns}
    ways = rng.sample(("prompt", "tool", "ends", "late", "headers", "none", "none"), 2)
    late = rng.choice((1, 2, 3))
    which = rng.choice(turns)

    def counts(at, token):
        if token.role != "assistant":
            return token.part == "content" and token.role in ways and token.turn == which
        if token.part == "content":
            before = sum(other == token for other in tokens[:at])
            return chosen[token.turn] and not ("late" in ways and token.turn == which and before < late)
        if token.part == "end":
            return chosen[token.turn] and not ("ends" in ways and token.turn == which)
        return token.part == "header" and "headers" in ways and chosen[token.turn]

    if "prompt" in ways:
        ways = [*ways, "user", "system"]
    return [counts(at, token) for at, token in enumerate(tokens)]


def oracle(tokens, counted):
    """The places that each rule is to flag, token by token."""
    places = {code: set() for code in ("MSK509", "MSK510", "MSK511", "MSK512")}
    of = {
        turn: [at for at, token in enumerate(tokens) if token.turn == turn]
        for turn in {t.turn for t in tokens} - {-1}
    }
    parts = {
        (turn, part): [at for at in all_ if tokens[at].part == part]
        for turn, all_ in of.items()
        for part in ("header", "content", "end", "behind")
    }
    answers = [
        turn for turn in sorted(of) if tokens[of[turn][0]].role == "assistant" and parts[turn, "content"]
    ]
    said = {turn: [at for at in parts[turn, "content"] if counted[at]] for turn in answers}
    for turn, all_ in of.items():
        content, role = parts[turn, "content"], tokens[all_[0]].role
        if role != "assistant" and any(counted[at] for at in content):
            places["MSK509"] |= {at for at in all_ if counted[at]}
        if role == "assistant" and parts[turn, "header"] and counted[parts[turn, "header"][0]]:
            places["MSK512"] |= {at for at in parts[turn, "header"] if counted[at]}
    for turn in answers:
        content, end = parts[turn, "content"], parts[turn, "end"][-1]
        if said[turn] and not counted[end]:
            places["MSK511"].add(end)
        if said[turn] and content.index(said[turn][0]) > 1:
            places["MSK510"] |= set(content[: content.index(said[turn][0])])
        if not said[turn] and any(said.values()):
            places["MSK510"] |= set(content)
    return places


RULES = (prompt_turn_supervised, answer_not_supervised, turn_end_not_supervised, header_supervised)


@pytest.mark.combinations
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(3))
def test_rules_flag_the_tokens_that_the_oracle_names(chats, style, seed):
    made, turns = chats[style]
    rng, seen = random.Random(f"{style} {seed}"), set()
    for _ in range(60):
        rows = [row(made, style, conversation(rng)) for _ in range(rng.randint(1, 4))]
        width = max(len(ids) for ids, _ in rows) + rng.randint(1, 3)
        left = rng.random() < 0.5
        ids, real, counted = (
            np.full((len(rows), width), made.reference.eos_token_id),
            np.zeros((len(rows), width), bool),
            np.zeros((len(rows), width), bool),
        )
        expected = {rule.code: set() for rule in RULES}
        for number, (tokens, pieces) in enumerate(rows):
            first = width - len(tokens) if left else 0
            flags = mask(rng, pieces)
            ids[number, first : first + len(tokens)] = tokens
            real[number, first : first + len(tokens)] = True
            counted[number, first : first + len(tokens)] = flags
            for code, places in oracle(pieces, flags).items():
                expected[code] |= {(number, first + at) for at in places}
        shift = rng.choice((0, 1))
        labels = np.pad(
            np.where(counted, ids, IGNORE)[:, shift:], [(0, 0), (0, shift)], constant_values=IGNORE
        )
        arrays = {"input_ids": ids, "labels": labels, "attention_mask": real.astype(np.int64)}
        file = from_arrays(arrays)
        if shift:
            # A label for the first token of a row has no place.
            expected = {code: {at for at in places if at[1] != 0} for code, places in expected.items()}
        (scene,) = build_scenes(
            "", roles_of(file), Declared(chat=turns, loss_shift="data" if shift else "model")
        )
        if counted.sum() < 4:
            continue
        for rule in RULES:
            flagged = {
                tuple(map(int, cell))
                for found in rule.check(scene)
                for cell in np.argwhere(found.flags.cells)
            }
            assert flagged == expected[rule.code], (rule.code, shift, left, labels.tolist())
            seen |= {rule.code} if flagged else set()
    assert seen == {rule.code for rule in RULES}
