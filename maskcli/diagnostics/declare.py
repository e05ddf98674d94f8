"""What a user declares in options or keyword arguments, turned into facts: one list of them for every way in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from maskcli.diagnostics.catalogue import chosen_codes
from maskcli.meant.facts import LOSS_SHIFTS, PURPOSES, Declared, convention, expectation, one_of
from maskcli.meant.model_config import read_config

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Said(TypedDict, total=False):
    """What can be declared; None (or nothing) is the same as leaving it out.

    - `expect`: the mask that was meant, such as "causal & sliding:4096", or PATTERN=SPEC for some tensors; one or several.
    - `exact`: ignored cells must weigh exactly 0.
    - `model`: a folder with the model's config.json (layers and windows, ids, positions).
    - `tokenizer`: a tokenizer.json, a folder or a hub name (pad and eos ids, the text of tokens).
    - `pad_id`, `eos_id`: ids of the padding token, and of the token or tokens that end a text.
    - `convention`: how the mask is written (sdpa, mha, megatron, hf, additive, binary).
    - `past`: keys that come before the first query (a KV cache).
    - `purpose`: "train" or "generate"; `prompt_length`: tokens of the prompt.
    - `vocab_size`: how many ids there are; `ignore_index`: the label that the loss leaves out.
    - `loss_shift`: who moves the labels one place, "model" or "data".
    - `select`, `ignore`: report these rules only, or not these: codes, names or prefixes.
    """

    expect: str | Sequence[str] | None
    exact: bool
    model: str | None
    tokenizer: str | None
    pad_id: int | None
    eos_id: int | Sequence[int] | None
    convention: str | None
    past: int | None
    purpose: str | None
    prompt_length: int | None
    vocab_size: int | None
    ignore_index: int | None
    loss_shift: str | None
    select: Sequence[str] | None
    ignore: Sequence[str] | None


class Meaning(NamedTuple):
    """What was declared: the facts, how an id becomes text (None: unknown), and the rules to report (None: all)."""

    declared: Declared
    token: Callable[[int], str] | None
    codes: frozenset[str] | None


def declare(**said: Unpack[Said]) -> Meaning:
    """The facts that are declared. Raises MaskcliError for what cannot be."""
    expect, eos = said.get("expect") or (), said.get("eos_id")
    model, named = said.get("model"), said.get("convention")
    purpose, shift = said.get("purpose"), said.get("loss_shift")
    token, of_tokenizer = _tokenizer(said.get("tokenizer"))
    declared = Declared(
        expect=tuple(expectation(text) for text in ([expect] if isinstance(expect, str) else expect)),
        exact=said.get("exact", False),
        model=read_config(model) if model else None,
        pad_id=said.get("pad_id"),
        eos_ids=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        convention=convention(named) if named else None,
        past=said.get("past"),
        purpose=one_of(purpose, PURPOSES, "the purpose") if purpose else None,
        prompt_length=said.get("prompt_length"),
        vocab_size=said.get("vocab_size"),
        ignore_index=said.get("ignore_index"),
        loss_shift=one_of(shift, LOSS_SHIFTS, "--loss-shift") if shift else None,
    ).over(of_tokenizer)
    return Meaning(declared, token, chosen_codes(said.get("select") or (), said.get("ignore") or ()))


def _tokenizer(name: str | None) -> tuple[Callable[[int], str] | None, Declared]:
    """How ids become text, and the special ids that a tokenizer gives."""
    if name is None:
        return None, Declared()
    from maskcli.text import load_tokenizer

    loaded = load_tokenizer(name)
    return loaded.token, Declared(
        pad_id=loaded.pad_id, eos_ids=() if loaded.eos_id is None else (loaded.eos_id,)
    )
