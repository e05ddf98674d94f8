"""RULES: every rule of diagnose, in the order in which root causes are looked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from maskcli.diagnostics.finding import Rule
from maskcli.diagnostics.rules import (
    alignment,
    labels,
    leaks,
    mask,
    mask_patterns,
    numerics,
    positions,
    products,
    sums,
    tokens,
    weight_patterns,
    weights,
)
from maskcli.errors import MaskcliError

_PADDING = ("padding",)
# Where these are, the numbers are no weights of a softmax over keys, and say nothing about a mask.
_NOT_WEIGHTS = ("MSK216", "MSK208", "MSK106")
# Causes of leaks that need no second word on where they go.
_LEAKS = (*_NOT_WEIGHTS, "MSK107", "MSK109", "MSK113", "MSK219")
_TEXT = (("input_ids",), ("labels",))
# What shows which tokens are padding: the padding mask, or the ids and the pad id.
_PADDED = (("padding_mask", "input_ids"), ("padding_mask", "pad_id"))

RULES: tuple[Rule, ...] = (
    Rule("MSK106", "nan-mask", "error", (("mask",),), mask.nan_mask),
    Rule("MSK107", "negated-integer-mask", "error", (("mask",),), mask.negated_integer_mask),
    Rule(
        "MSK407",
        "swapped-token-types",
        "error",
        (("padding_mask",), ("token_type_ids", "input_ids")),
        tokens.swapped_token_types,
    ),
    Rule("MSK110", "misaligned-causal", "error", (("mask",),), mask_patterns.misaligned_causal),
    Rule("MSK109", "shifted-diagonal", "error", (("mask",),), mask_patterns.shifted_diagonal, ("MSK110",)),
    Rule(
        "MSK111",
        "wrong-window",
        "error",
        (("mask",), ("mask window",)),
        mask_patterns.wrong_window,
        ("MSK110", "MSK109"),
    ),
    Rule("MSK303", "score-overflow", "error", (("scores", "query"),), numerics.score_overflow),
    Rule(
        "MSK302",
        "nan-from-input",
        "error",
        (("scores", "query", "key"),),
        numerics.nan_from_input,
        ("MSK303",),
    ),
    Rule(
        "MSK304",
        "nan-through-value",
        "error",
        (("value", "key"), ("padding", "mask")),
        numerics.nan_through_value,
    ),
    Rule("MSK216", "invalid-weights", "error", (("weights",),), sums.invalid_weights),
    Rule(
        "MSK102",
        "inverted-mask",
        "error",
        (("mask", "padding_mask"), ("padding_mask", "pad_id", "convention")),
        mask.inverted_mask,
        ("MSK407",),
    ),
    Rule(
        "MSK201",
        "inverted-polarity",
        "error",
        (("weights",), ("padding", "mask", "expectation")),
        leaks.inverted_polarity,
        ("MSK102", "MSK407"),
    ),
    Rule(
        "MSK214",
        "shifted-causal",
        "error",
        (("weights",),),
        weight_patterns.shifted_causal,
        ("MSK216", "MSK106", "MSK109", "MSK201"),
    ),
    Rule(
        "MSK301",
        "nan-from-empty-row",
        "error",
        (("weights",),),
        numerics.nan_from_empty_row,
        ("MSK201", "MSK106", "MSK109", "MSK214"),
    ),
    Rule(
        "MSK305",
        "unexplained-nan",
        "error",
        (("weights",),),
        numerics.unexplained_nan,
        ("MSK201", "MSK106", "MSK109", "MSK302", "MSK303", "MSK214"),
    ),
    Rule("MSK212", "double-softmax", "warning", (("weights",),), weights.double_softmax, ("MSK216",)),
    Rule("MSK208", "softmax-axis", "error", (("weights",),), sums.softmax_axis, ("MSK216",)),
    Rule(
        "MSK209",
        "mask-after-softmax",
        "error",
        (("weights",),),
        weights.mask_after_softmax,
        ("MSK216", "MSK208"),
    ),
    Rule(
        "MSK207",
        "unnormalised-rows",
        "warning",
        (("weights",),),
        sums.unnormalised_rows,
        ("MSK216", "MSK208", "MSK209"),
    ),
    Rule("MSK206", "uniform-attention", "error", (("weights",),), weights.uniform_attention),
    Rule(
        "MSK205",
        "uniform-masked-row",
        "error",
        (("weights",),),
        weights.uniform_masked_row,
        ("MSK109", "MSK214"),
    ),
    Rule("MSK103", "binary-float-mask", "error", (("mask",),), mask.binary_float_mask),
    Rule("MSK108", "query-axis-mask", "error", (("mask",),), mask.query_axis_mask),
    Rule("MSK104", "weak-fill", "error", (("mask",),), mask.weak_fill),
    Rule("MSK105", "overflowed-fill", "warning", (("mask",),), mask.overflowed_fill),
    Rule(
        "MSK101",
        "empty-row",
        "error",
        (("mask",),),
        mask.empty_row,
        ("MSK107", "MSK108", "MSK102", "MSK301", "MSK205", "MSK206", "MSK201", "MSK106", "MSK109", "MSK110"),
    ),
    Rule(
        "MSK219",
        "empty-cache-slots",
        "error",
        (("weights",), ("key",)),
        leaks.empty_cache_slots,
        _NOT_WEIGHTS,
    ),
    Rule(
        "MSK221",
        "grouped-heads-order",
        "error",
        (("weights",), ("query",), ("key",)),
        products.grouped_heads_order,
        _NOT_WEIGHTS,
    ),
    Rule(
        "MSK113",
        "mask-length",
        "error",
        (("weights",), ("padding_mask", "mask")),
        alignment.mask_length,
        (*_NOT_WEIGHTS, "MSK219"),
    ),
    Rule(
        "MSK220",
        "cross-mask-swapped",
        "error",
        (("cross weights",), ("source and target padding",)),
        leaks.cross_mask_swapped,
        _NOT_WEIGHTS,
    ),
    Rule(
        "MSK211",
        "another-samples-mask",
        "error",
        (("weights",), _PADDING),
        leaks.another_samples_mask,
        _NOT_WEIGHTS,
    ),
    Rule(
        "MSK112",
        "ambiguous-broadcast",
        "warning",
        (("mask",), ("weights", "input_ids")),
        alignment.ambiguous_broadcast,
        ("MSK211",),
    ),
    Rule(
        "MSK210",
        "soft-masking",
        "error",
        (("weights",), ("padding", "mask", "expectation")),
        leaks.soft_masking,
        (*_NOT_WEIGHTS, "MSK103", "MSK104", "MSK107"),
    ),
    Rule(
        "MSK215",
        "misaligned-causal-weights",
        "error",
        (("weights",), ("past",)),
        weight_patterns.misaligned_causal_weights,
        (*_NOT_WEIGHTS, "MSK110"),
    ),
    Rule(
        "MSK218",
        "causal-encoder",
        "warning",
        (("weights",), ("full expectation",)),
        weight_patterns.causal_encoder,
        _NOT_WEIGHTS,
    ),
    Rule(
        "MSK213",
        "window-mismatch",
        "error",
        (("weights",), ("window",)),
        weight_patterns.window_mismatch,
        (*_NOT_WEIGHTS, "MSK110", "MSK111", "MSK215"),
    ),
    Rule(
        "MSK204",
        "mask-not-applied",
        "error",
        (("weights",), ("mask", "expectation")),
        leaks.mask_not_applied,
        (*_LEAKS, "MSK110"),
    ),
    Rule(
        "MSK203",
        "future-attended",
        "error",
        (("weights",), ("causal expectation",)),
        leaks.future_attended,
        _LEAKS,
    ),
    Rule(
        "MSK202",
        "padding-attended",
        "error",
        (("weights",), _PADDING),
        leaks.padding_attended,
        (*_LEAKS, "MSK108", "MSK407"),
    ),
    Rule(
        "MSK306",
        "weights-not-used",
        "warning",
        (("weights",), ("value",), ("output",)),
        products.weights_not_used,
        _NOT_WEIGHTS,
    ),
    Rule(
        "MSK401",
        "padding-not-masked",
        "error",
        (("input_ids",), ("padding_mask",), ("pad_id",)),
        tokens.padding_not_masked,
        ("MSK407",),
    ),
    Rule(
        "MSK402",
        "real-token-masked",
        "warning",
        (("input_ids",), ("padding_mask",)),
        tokens.real_token_masked,
        ("MSK407",),
    ),
    Rule(
        "MSK403",
        "right-padding-for-generation",
        "error",
        (*_PADDED, ("purpose",)),
        tokens.right_padding_for_generation,
        ("MSK102", "MSK407"),
    ),
    Rule("MSK408", "imprecise-positions", "error", (("position_ids",),), positions.imprecise_positions),
    Rule(
        "MSK404",
        "left-padding-positions",
        "error",
        (*_PADDED, ("position_ids",)),
        positions.left_padding_positions,
        ("MSK102", "MSK407"),
    ),
    Rule(
        "MSK405",
        "packed-without-block-mask",
        "error",
        (("position_ids",), ("mask", "padding_mask")),
        positions.packed_without_block_mask,
    ),
    Rule("MSK406", "bad-cu-seqlens", "error", (("cu_seqlens",),), positions.bad_cu_seqlens),
    Rule(
        "MSK217",
        "document-leak",
        "error",
        (("weights", "mask"), ("documents",)),
        leaks.document_leak,
        (*_LEAKS, "MSK405"),
    ),
    Rule("MSK508", "invalid-label", "error", (("labels", "input_ids"),), labels.invalid_label),
    Rule("MSK502", "nothing-supervised", "error", (("labels",),), labels.nothing_supervised),
    Rule("MSK505", "shifted-labels", "error", _TEXT, labels.shifted_labels),
    Rule(
        "MSK503",
        "padding-supervised",
        "error",
        (("labels",), ("padding_mask", "pad_id")),
        labels.padding_supervised,
        ("MSK102", "MSK402"),
    ),
    Rule("MSK504", "prompt-supervised", "warning", (*_TEXT, ("prompt_length",)), labels.prompt_supervised),
    Rule(
        "MSK501", "eos-not-supervised", "error", (*_TEXT, ("eos_id",)), labels.eos_not_supervised, ("MSK102",)
    ),
    Rule(
        "MSK506",
        "label-border",
        "warning",
        (*_TEXT, ("eos_id", "prompt_length")),
        labels.label_border,
        ("MSK102",),
    ),
    Rule(
        "MSK507",
        "eos-missing",
        "warning",
        (*_TEXT, ("eos_id",)),
        labels.eos_missing,
        ("MSK102", "MSK402", "MSK501", "MSK506"),
    ),
)


def rule(text: str) -> Rule:
    """The rule of this code or name; MaskcliError suggests the nearest."""
    wanted = text.strip().lower()
    for each in RULES:
        if wanted in (each.code.lower(), each.name):
            return each
    names = [known for each in RULES for known in (each.code, each.name)]
    close = difflib.get_close_matches(wanted, [name.lower() for name in names], 1, 0.5)
    hint = f"did you mean {next(name for name in names if name.lower() == close[0])}? " if close else ""
    raise MaskcliError(f"there is no rule {text!r}; {hint}maskcli rule --all lists them")


def chosen_codes(select: Sequence[str], ignore: Sequence[str]) -> frozenset[str] | None:
    """The codes that --select and --ignore leave, each a list of codes, names and prefixes, with commas; None for all."""
    if not select and not ignore:
        return None
    wanted = _matching(select, "--select") if select else {each.code for each in RULES}
    return frozenset(wanted - _matching(ignore, "--ignore"))


def _matching(texts: Sequence[str], option: str) -> set[str]:
    found: set[str] = set()
    for text in (part.strip() for each in texts for part in each.split(",")):
        prefixed = {each.code for each in RULES if text and each.code.lower().startswith(text.lower())}
        if not prefixed and not (prefixed := {each.code for each in RULES if each.name == text.lower()}):
            raise MaskcliError(
                f"{option} {text!r}: no rule has this code, name or prefix; maskcli rule --all lists them"
            )
        found |= prefixed
    return found


def in_code_order() -> tuple[Rule, ...]:
    """The rules by code, for people to read."""
    return tuple(sorted(RULES, key=lambda each: each.code))
