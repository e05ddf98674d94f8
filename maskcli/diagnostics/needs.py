"""NEEDS: the tensors and facts that rules need, how a user is asked for each, and whether a scene has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

from maskcli.masks.spec import kinds_in
from maskcli.meant.facts import Meant
from maskcli.scene.scene import LOCAL, Attention, Saved, Scene
from maskcli.scene.tokens import several
from maskcli.tensors.roles import ROLES

# Roles of tensors that show where packed documents begin.
PACKING = ("position_ids", "segment_ids", "cu_seqlens", "lengths", "document_starts")


class Need(NamedTuple):
    """The tensor to save or the option to pass, in words a user can act on, and whether a scene has it."""

    asked: str
    there: Callable[[Scene], bool]


def needed(words: tuple[str | tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """Needs as groups of alternatives, a word alone as a group of one; KeyError for none of NEEDS."""
    groups = tuple((word,) if isinstance(word, str) else word for word in words)
    unknown = [word for group in groups for word in group if word not in NEEDS]
    if unknown:
        raise KeyError(f"no need is called {unknown[0]!r}; needs.NEEDS lists them")
    return groups


def met_by(scene: Scene) -> frozenset[str]:
    """The needs that a scene meets."""
    return frozenset(word for word, need in NEEDS.items() if need.there(scene))


def unmet(groups: tuple[tuple[str, ...], ...], met: frozenset[str], scene: Scene) -> tuple[str, ...]:
    """What to ask a user for, of each group of alternatives of which none is met."""
    missing = [group for group in groups if met.isdisjoint(group)]
    return tuple(" or ".join(dict.fromkeys(_asked(word, scene) for word in group)) for group in missing)


@cache
def settled_by(groups: tuple[tuple[str, ...], ...], met: frozenset[str]) -> tuple[str, ...]:
    """The options of HINTS of which each alone would meet all that is not met."""
    missing = [group for group in groups if met.isdisjoint(group)]
    return tuple(
        option
        for option, gives in HINTS.items()
        if missing and all(any(gives.get(word) in (ALWAYS, *met) for word in group) for group in missing)
    )


def _asked(word: str, scene: Scene) -> str:
    """What to ask for: with a model whose image blocks nothing tells, for what would tell them."""
    config = scene.declared.model
    untold = config is not None and config.blocks is not None and config.spec is None
    if config is None or config.blocks is None or not untold or not word.endswith("expectation"):
        return NEEDS[word].asked
    by_ids = " or input_ids" if config.blocks.by_ids else ""
    return (
        f"{config.blocks.tensor}{by_ids}, which tell the image blocks that {config.source} has, or --expect"
    )


def _tensor(role: str, scene: Scene) -> bool:
    return role in scene.roles


def _maps_and_masks(scene: Scene) -> tuple[Attention | Saved, ...]:
    return (*scene.attentions, *scene.masks)


def _padding(scene: Scene) -> bool:
    return any(placed.keys is not None for placed in _maps_and_masks(scene))


def _window(scene: Scene) -> bool:
    """Whether a local kind was declared for a map, or something for its layer alone."""
    declared = (a.declared for a in scene.attentions if a.declared is not None)
    return any(meant.particular or kinds_in(meant.spec) & LOCAL for meant in declared)


def _packed(scene: Scene) -> bool:
    """Whether anything shows, or a declared spec says, that several documents share a row."""
    shown = any(tokens.documents is not None for tokens in scene.tokens)
    held = any(several(saved.documents) for saved in scene.masks)
    said = any(_speaks_of_documents(placed.declared) for placed in _maps_and_masks(scene))
    return shown or held or said or any(a.same_document is not None for a in scene.attentions)


def _may_be_packed(scene: Scene) -> bool:
    """Whether a tensor is there that would show packed documents, or one that shows some."""
    told = any(roled.role in PACKING for roled in scene.tensors)
    return told or any(tokens.documents is not None for tokens in scene.tokens)


def _speaks_of_documents(meant: Meant | None) -> bool:
    return meant is not None and "documents" in kinds_in(meant.spec)


def _bias(scene: Scene) -> bool:
    """Whether a config, a tensor or a mask says what positions add to the scores."""
    config = scene.declared.model
    said = config is not None and config.declared and config.alibi is not None
    in_masks = any(a.given is not None and a.given.is_bias for a in scene.attentions)
    return said or in_masks or any("bias" in a.parts for a in scene.attentions)


def _full(scene: Scene) -> bool:
    return any(a.expected is not None and not a.future_expected for a in scene.attentions)


def _past(scene: Scene) -> bool:
    return any(a.past_known and a.past > 0 for a in scene.attentions)


def _cross(scene: Scene) -> bool:
    return any(a.roled.kind == "cross" for a in scene.attentions)


def _model(fact: str) -> Callable[[Scene], bool]:
    """Whether a model's config says something."""
    return lambda scene: getattr(scene.declared.model, fact, None) not in (None, ())


def _starts(scene: Scene) -> bool:
    """Whether an id is known that begins texts."""
    return bool(scene.declared.bos_ids) or _model("start_id")(scene)


def _both_sides(scene: Scene) -> bool:
    return any(a.roled.kind == "cross" and a.keys and a.queries for a in scene.attentions)


NEEDS: dict[str, Need] = {
    **{role: Need(role, partial(_tensor, role)) for role in ROLES},
    "weights": Need("weights", lambda scene: bool(scene.attentions)),
    "mask": Need("mask", lambda scene: bool(scene.masks)),
    "labels": Need("labels", lambda scene: bool({"labels", "loss_mask"} & set(scene.roles))),
    "padding_mask": Need("attention_mask", partial(_tensor, "padding_mask")),
    "padding": Need("attention_mask (or input_ids with --pad-id)", _padding),
    "documents": Need("position_ids, segment_ids or cu_seqlens that show packed documents", _packed),
    "packing": Need("position_ids, segment_ids, cu_seqlens or seq_lengths", _may_be_packed),
    "past": Need("position_ids, a padding mask over the whole cache, or --past", _past),
    "cross weights": Need("cross_attentions", _cross),
    "source and target padding": Need("attention_mask and decoder_attention_mask", _both_sides),
    "expectation": Need("--expect", lambda scene: any(a.expected is not None for a in scene.attentions)),
    "causal expectation": Need(
        "--expect causal (or a causal mask)", lambda scene: any(a.future_expected for a in scene.attentions)
    ),
    "full expectation": Need("--expect full (an encoder)", _full),
    "window": Need("--expect with sliding:W, or --model", _window),
    "mask window": Need(
        "--expect with sliding:W, or --model", lambda scene: any(saved.window for saved in scene.masks)
    ),
    "mask expectation": Need("--expect", lambda scene: any(saved.expected for saved in scene.masks)),
    "bias": Need("a saved bias, or --model with ALiBi", _bias),
    "convention": Need("--from", lambda scene: scene.declared.convention is not None),
    "pad_id": Need("--pad-id", lambda scene: scene.declared.pad_id is not None),
    "bos_id": Need("--tokenizer or --model with bos_token_id", _starts),
    "start_id": Need("--model with decoder_start_token_id", _model("start_id")),
    "first_position": Need("--model with a table of positions", _model("first_position")),
    "media_ids": Need("--model with ids of images", _model("media_ids")),
    "eos_id": Need("--eos-id", lambda scene: bool(scene.declared.eos_ids)),
    "rejected": Need("chosen_input_ids and rejected_input_ids", lambda scene: bool(scene.rejected)),
    "turns": Need(
        "--turn or a --tokenizer with a chat template", lambda scene: scene.declared.chat is not None
    ),
    "prompt_length": Need("--prompt-length", lambda scene: scene.declared.prompt_length is not None),
    "purpose": Need("--for", lambda scene: scene.declared.purpose is not None),
}

# What options give: the words of NEEDS that they meet, each where another word is met. What depends on what a
# tokenizer or a config holds is left out, but for the ids that nearly all of them have.
ALWAYS = ""
HINTS: dict[str, dict[str, str]] = {
    "--expect causal": {
        "expectation": "weights",
        "causal expectation": "weights",
        "mask expectation": "mask",
    },
    "--expect full": {"expectation": "weights", "full expectation": "weights", "mask expectation": "mask"},
    "-t TOKENIZER": {"pad_id": ALWAYS, "bos_id": ALWAYS, "eos_id": ALWAYS, "padding": "input_ids"},
    "--pad-id N": {"pad_id": ALWAYS, "padding": "input_ids"},
    "--eos-id N": {"eos_id": ALWAYS},
    "--for train": {"purpose": ALWAYS},
    "--prompt-length N": {"prompt_length": ALWAYS},
    "--from CONVENTION": {"convention": ALWAYS},
}

# Needs that several rules share: ids and labels; what shows which tokens are padding.
TEXT = ("input_ids", "labels")
PADDED = (("padding_mask", "input_ids"), ("padding_mask", "pad_id"))
