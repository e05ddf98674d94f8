"""RULES: every rule of diagnose, in the order in which root causes are looked for; PROBED: those of probe."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from maskcli.diagnostics.rule import Rule
from maskcli.diagnostics.rules import (
    alignment,
    answers,
    beginnings,
    biases,
    endings,
    expected,
    labels,
    leaks,
    mask,
    mask_patterns,
    mask_values,
    numerics,
    packed_texts,
    packing,
    positions,
    preferences,
    products,
    reached,
    sums,
    targets,
    token_types,
    tokens,
    turns,
    weight_patterns,
    weights,
    whole_runs,
)
from maskcli.diagnostics.verdicts.measured import Judged
from maskcli.errors import MaskcliError, meant
from maskcli.scene.scene import Scene

RULES: tuple[Rule[Scene], ...] = (
    mask_values.nan_mask,
    mask_values.negated_integer_mask,
    token_types.swapped_token_types,
    mask_patterns.misaligned_causal,
    mask_patterns.shifted_diagonal,
    mask_patterns.wrong_window,
    numerics.score_overflow,
    numerics.nan_from_input,
    numerics.nan_through_value,
    sums.invalid_weights,
    mask.inverted_mask,
    leaks.inverted_polarity,
    weight_patterns.shifted_causal,
    numerics.nan_from_empty_row,
    numerics.unexplained_nan,
    weights.double_softmax,
    sums.softmax_axis,
    weights.mask_after_softmax,
    sums.unnormalised_rows,
    mask.query_axis_mask,
    weights.uniform_attention,
    weights.uniform_masked_row,
    mask_values.binary_float_mask,
    mask_values.weak_fill,
    mask_values.overflowed_fill,
    mask.empty_row,
    leaks.empty_cache_slots,
    products.grouped_heads_order,
    alignment.mask_length,
    leaks.cross_mask_swapped,
    leaks.another_samples_mask,
    alignment.ambiguous_broadcast,
    leaks.soft_masking,
    weight_patterns.misaligned_causal_weights,
    weight_patterns.causal_encoder,
    weight_patterns.window_mismatch,
    leaks.future_attended,
    leaks.padding_attended,
    expected.mask_not_expected,
    expected.keys_never_seen,
    leaks.mask_not_applied,
    biases.bias_not_applied,
    products.weights_not_used,
    tokens.padding_not_masked,
    tokens.real_token_masked,
    tokens.right_padding_for_generation,
    positions.imprecise_positions,
    positions.left_padding_positions,
    packing.packed_without_block_mask,
    beginnings.doubled_start,
    beginnings.first_position,
    beginnings.decoder_start,
    packing.bad_cu_seqlens,
    packed_texts.documents_positions,
    leaks.document_leak,
    labels.invalid_label,
    labels.nothing_supervised,
    labels.shifted_labels,
    targets.labels_of_another_text,
    targets.label_length,
    labels.padding_supervised,
    targets.placeholder_supervised,
    packed_texts.label_across_documents,
    turns.prompt_turn_supervised,
    answers.prompt_supervised,
    endings.eos_not_supervised,
    turns.turn_end_not_supervised,
    turns.answer_not_supervised,
    turns.header_supervised,
    answers.label_border,
    endings.trained_past_the_end,
    endings.answer_cut,
    endings.eos_missing,
    preferences.same_pair,
)


def causes_in(rules: tuple[Rule[Scene], ...]) -> dict[str, tuple[Rule[Scene], ...]]:
    """The rules that may explain what one of them finds, by its code: those that are looked for before it."""
    return {
        rule.code: tuple(cause for cause in rules[:at] if cause.code in rule.explained_by)
        for at, rule in enumerate(rules)
    }


CAUSES = causes_in(RULES)
# What rules need that look at nothing but what is said of tokens, and what only attention itself has.
_TOKENS = {
    *("input_ids", "labels", "loss_mask", "padding_mask", "position_ids", "token_type_ids"),
    *("pad_id", "eos_id", "prompt_length", "purpose", "convention", "turns", "rejected"),
}
_ATTENTION = {"weights", "cross weights", "mask", "scores", "query", "key", "value", "output"}
# Codes of rules that may find something in the tensors of attention, and in what is said of tokens alone.
OF_ATTENTION = frozenset(
    rule.code for rule in RULES if not all(_TOKENS.issuperset(group) for group in rule.needs)
)
OF_TOKENS = frozenset(
    rule.code for rule in RULES if not any(_ATTENTION.issuperset(group) for group in rule.needs)
)

PROBED: tuple[Rule[Judged], ...] = (
    reached.rows_reached,
    reached.weak_fill_reached,
    reached.source_padding_reached,
    reached.empty_slot_reached,
    reached.padding_reached,
    reached.future_reached,
    reached.document_reached,
    reached.window_measured,
    reached.key_not_reached,
    whole_runs.cache_changes_output,
    whole_runs.padding_changes_output,
    reached.mixes_elsewhere,
    whole_runs.not_covered,
)


def named(text: str) -> Rule[Any]:
    """The rule of this code or name; MaskcliError suggests the nearest."""
    wanted = text.strip().lower()
    for each in in_code_order():
        if wanted in (each.code.lower(), each.name):
            return each
    names = _names()
    close = difflib.get_close_matches(wanted, [name.lower() for name in names], 1, 0.5)
    hint = f"did you mean {next(name for name in names if name.lower() == close[0])}? " if close else ""
    raise MaskcliError(f"there is no rule {text!r}; {hint}maskcli rule --all lists them")


def _names() -> list[str]:
    """The codes and names of all rules."""
    return [known for each in in_code_order() for known in (each.code, each.name)]


def _spelled(text: str) -> str:
    """A text as codes are written, or names."""
    return text.upper() if any(letter.isdigit() for letter in text) else text.lower()


def family(text: str) -> tuple[Rule[Any], ...]:
    """The rules whose codes begin with MSK2 or the like, in code order; none for a whole code or a name."""
    wanted = text.strip().upper()
    rules = in_code_order()
    begins = tuple(rule for rule in rules if wanted.startswith("MSK") and rule.code.startswith(wanted))
    return () if wanted in (rule.code for rule in rules) else begins


def chosen_codes(select: Sequence[str], ignore: Sequence[str]) -> frozenset[str] | None:
    """The codes that --select and --ignore leave: codes, names and prefixes, with commas; None for all."""
    if not select and not ignore:
        return None
    wanted = matching(select, "--select") if select else {rule.code for rule in RULES}
    left = frozenset(wanted - matching(ignore, "--ignore"))
    if not left:
        raise MaskcliError("--select and --ignore leave no rule to check; name others")
    return left


def matching(texts: Sequence[str], option: str) -> set[str]:
    """The codes that an option names by codes, names and prefixes, with commas."""
    codes: set[str] = set()
    for text in ",".join(texts).split(",") if texts else ():
        wanted = text.strip()
        matches = _called(wanted)
        if not matches:
            hint = meant(_spelled(wanted), _names(), "maskcli rule --all lists them")
            raise MaskcliError(f"{option} {wanted!r}: no rule has this code, name or prefix; {hint}")
        codes |= matches
    return codes


def _called(text: str) -> set[str]:
    """The codes that begin with a text, else that of the rule with this name; none for no text."""
    wanted = text.lower()
    begins = {rule.code for rule in RULES if text and rule.code.lower().startswith(wanted)}
    return begins or {rule.code for rule in RULES if rule.name == wanted}


def in_code_order() -> tuple[Rule[Any], ...]:
    """All rules, those of diagnose and of probe, by code, for people to read."""
    return tuple(sorted((*RULES, *PROBED), key=lambda rule: rule.code))
