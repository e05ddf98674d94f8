"""One bug of every rule, made over shapes, types and padding sides: what a user would have saved, and what they would declare."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from maskcli.meant.model_config import Config
from maskcli.text.turns import given
from tests.diagnostics.attention import DTYPES, SIDES, padding, scores, softmax

# batch, heads, queries, keys
SHAPES = [(1, 1, 8, 8), (3, 4, 12, 12), (2, 2, 5, 17), (2, 4, 1, 16), (2, 2, 80, 80), (1, 2, 3, 1024)]
PAD, EOS, FIRST_WORD, VOCABULARY = 0, 2, 10, 5000


class Case(NamedTuple):
    """What was saved, and what was declared (arguments of tests.diagnostics.attention.report)."""

    arrays: dict
    declared: dict


class Given:
    """The sizes, type and padding of one case, and the pieces that bugs are made of."""

    def __init__(self, shape, dtype, side):
        self.shape, self.dtype, self.side = shape, dtype, side
        self.batch, self.heads, self.queries, self.keys = shape
        self.past = self.keys - self.queries
        self.real = padding(shape, side)
        self.positions = np.arange(self.queries)[:, None] + self.past
        self.causal = np.arange(self.keys) <= self.positions
        self.keep = np.broadcast_to(
            self.causal & self.real[:, None, None], (self.batch, 1, self.queries, self.keys)
        )
        self.square = self.queries == self.keys
        self.real_queries = self.real[:, self.past :]

    def cast(self, values):
        return torch.from_numpy(np.array(values)).to(DTYPES[self.dtype])

    def maps(self, keep, fill=-1e30, scale=2.0):
        """Two layers of weights that obey `keep`."""
        return {
            f"attentions.{n}": self.cast(softmax(np.where(keep, scores(self.shape, n, scale), fill)))
            for n in range(2)
        }

    def additive(self, keep, fill=None):
        lowest = torch.finfo(DTYPES[self.dtype]).min if fill is None else fill
        return {
            "attn_mask": torch.where(torch.from_numpy(np.array(keep)), 0.0, lowest).to(DTYPES[self.dtype])
        }

    @property
    def mask(self):
        return {"attention_mask": torch.from_numpy(self.real.astype(np.int64))}

    def text(self, pad=PAD, end=True):
        """Ids [B, K]: words, then the end of the text, then padding on one side; and where the ends are."""
        ids = np.where(self.real, np.arange(self.keys) + FIRST_WORD, pad)
        ends = self.keys - 1 - np.argmax(self.real[:, ::-1], axis=1)
        if end:
            ids[np.arange(self.batch), ends] = EOS
        return ids, ends


def ints(**arrays):
    return {name: torch.from_numpy(np.array(array, dtype=np.int64)) for name, array in arrays.items()}


def emptied(g):
    """A mask that leaves the last query of the first sample, a real token, without any key; None when that one is padding."""
    if not g.real_queries[0, -1]:
        return None
    keep = g.keep.copy()
    keep[0, 0, -1] = False
    return keep


# MSK1xx


def empty_row(g):
    keep = emptied(g)
    return None if keep is None else Case(g.additive(keep, -np.inf) | g.mask, {})


def inverted_mask(g):
    ids, _ = g.text(end=False)
    return Case(ints(input_ids=ids, attention_mask=~g.real), {"pad_id": PAD})


def binary_float_mask(g):
    return Case({"attn_mask": g.cast(g.keep.astype(float))}, {"convention": "additive"})


def weak_fill(g):
    return Case(g.additive(g.keep, -5.0), {})


def overflowed_fill(g):
    lowest = torch.finfo(DTYPES[g.dtype]).min
    planes = [
        torch.where(torch.from_numpy(np.array(p)), 0.0, lowest).to(DTYPES[g.dtype])
        for p in (g.causal, g.real[:, None, None])
    ]
    return (
        Case({"attn_mask": planes[0] + planes[1]}, {})
        if g.queries > 1 and (~g.causal & ~g.real[:, None, None]).any()
        else None
    )


def nan_mask(g):
    return Case(
        {"attn_mask": (1 - torch.from_numpy(g.keep.astype(np.float32))).mul(-np.inf).to(DTYPES[g.dtype])}, {}
    )


def negated_integer_mask(g):
    return Case(ints(attn_mask=~g.keep.astype(np.int64)), {})


def query_axis_mask(g):
    if not g.square:
        return None
    return Case(
        {"attn_mask": torch.from_numpy(np.broadcast_to(g.real[:, None, :, None], g.keep.shape).copy())}
        | g.mask,
        {},
    )


def shifted_diagonal(g):
    if g.queries < 3:
        return None
    return Case(g.additive(np.arange(g.keys) <= g.positions + 1), {"expect": "causal", "past": g.past})


def misaligned_causal(g):
    corner = np.arange(g.keys) <= np.arange(g.queries)[:, None]
    return Case(g.additive(corner), {"past": g.past}) if g.past else None


def wrong_window(g):
    keep = g.causal & (g.positions - np.arange(g.keys) < 5)
    return Case(g.additive(keep), {"expect": "sliding:4"})


def ambiguous_broadcast(g):
    if not g.square or g.queries > 40:
        return None
    real = np.ones((g.keys, g.keys), bool)
    real[0, slice(0, 3) if g.side == "left" else slice(g.keys - 3, g.keys)] = False
    real[3, slice(0, 2) if g.side == "left" else slice(g.keys - 2, g.keys)] = False
    return Case(
        {"attn_mask": torch.from_numpy(real)} | ints(input_ids=np.full((g.keys, g.keys), FIRST_WORD)), {}
    )


def mask_length(g):
    wrong = np.ones((g.batch, g.keys + 4), bool)
    wrong[:, 5:7] = False
    return Case(g.maps(g.causal) | ints(attention_mask=wrong), {})


def mask_not_expected(g):
    if g.queries < 3:
        return None
    return Case(g.additive(np.ones(g.shape, bool)), {"expect": "causal", "past": g.past})


# MSK2xx


def seen_rows(g):
    """Whether some real query belongs to a sample with padding."""
    return (g.real_queries & ~g.real.all(1)[:, None]).any()


def inverted_polarity(g):
    return Case(g.maps(~g.real[:, None, None]) | g.mask, {}) if seen_rows(g) else None


def padding_attended(g):
    return Case(g.maps(np.ones(g.shape, bool)) | g.mask, {}) if seen_rows(g) else None


def future_attended(g):
    return Case(g.maps(np.ones(g.shape, bool)), {"expect": "causal"}) if g.queries > 2 else None


def mask_not_applied(g):
    # Where hardly any key lies behind a query, all of the leak goes to padding, and MSK202 says so.
    if g.queries == 1 or g.past > 100 or not seen_rows(g):
        return None
    return Case(g.maps(np.ones(g.shape, bool)) | g.mask | g.additive(g.keep), {})


def uniform_masked_row(g):
    if g.queries < 5:
        return None
    arrays = g.maps(g.causal)
    for array in arrays.values():
        array[:, :, 2] = 1 / g.keys
    return Case(arrays, {"expect": "causal"})


def uniform_attention(g):
    return Case(
        {f"attentions.{n}": g.cast(softmax(np.where(g.causal, np.zeros(g.shape), -1e30))) for n in range(2)},
        {},
    )


def unnormalised_rows(g):
    return Case({name: (array.float() * 1.5).to(array.dtype) for name, array in g.maps(g.causal).items()}, {})


def softmax_axis(g):
    if g.queries < 2:
        return None
    return Case(
        {
            f"attentions.{n}": g.cast(np.swapaxes(softmax(np.swapaxes(scores(g.shape, n), 2, 3)), 2, 3))
            for n in range(2)
        },
        {},
    )


def mask_after_softmax(g):
    if g.queries < 4:
        return None
    return Case({f"attentions.{n}": g.cast(softmax(scores(g.shape, n)) * g.causal) for n in range(2)}, {})


def soft_masking(g):
    if not seen_rows(g):
        return None
    weak = -4.0 * ~g.real[:, None, None]
    return Case(
        {f"attentions.{n}": g.cast(softmax(scores(g.shape, n, 0.2) + weak)) for n in range(2)} | g.mask, {}
    )


def another_samples_mask(g):
    if g.batch == 1 or g.heads == 1 or g.queries == 1:
        return None
    other = (np.arange(g.batch)[:, None] * g.heads + np.arange(g.heads)) % g.batch
    return Case(g.maps(g.real[other][:, :, None]) | g.mask, {})


def double_softmax(g):
    once = [softmax(scores(g.shape, n, 8.0)) for n in range(2)]
    return (
        Case({f"attentions.{n}": g.cast(softmax(p)) for n, p in enumerate(once)}, {})
        if g.queries > 4
        else None
    )


def window_mismatch(g):
    return Case(g.maps(g.causal), {"expect": "causal & sliding:4"})


def shifted_causal(g):
    return Case(g.maps(np.arange(g.keys) <= g.positions + 1), {"expect": "causal"}) if g.queries > 2 else None


def misaligned_causal_weights(g):
    corner = np.arange(g.keys) <= np.arange(g.queries)[:, None]
    return Case(g.maps(corner), {"past": g.past}) if g.past else None


def invalid_weights(g):
    return Case({f"attentions.{n}": g.cast(scores(g.shape, n)) for n in range(2)}, {})


def document_leak(g):
    texts = np.repeat([0, 1], [g.keys // 2, g.keys - g.keys // 2])[None]
    return Case(g.maps(g.causal) | ints(segment_ids=texts), {"expect": "causal & documents"})


def causal_encoder(g):
    return Case(g.maps(g.keep) | g.mask, {"expect": "full"}) if g.square else None


def empty_cache_slots(g):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(*g.shape[:3], 8)), rng.normal(size=(g.batch, g.heads, g.keys, 8))
    k[:, :, g.keys - 3 :] = 0
    return Case({"attentions.0": g.cast(softmax(q @ k.transpose(0, 1, 3, 2))), "key.0": g.cast(k)}, {})


def cross_mask_swapped(g):
    maps = {
        name.replace("attentions", "cross_attentions"): array
        for name, array in g.maps(np.ones(g.shape, bool)).items()
    }
    target = np.ones((g.batch, g.queries), np.int64)
    return Case(maps | g.mask | ints(decoder_attention_mask=target), {})


def grouped_heads_order(g):
    if g.heads < 4:
        return None
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(*g.shape[:3], 8)), rng.normal(size=(g.batch, 2, g.keys, 8))
    w = softmax(np.where(g.causal, q @ k[:, np.arange(g.heads) % 2].transpose(0, 1, 3, 2), -1e30))
    return Case({"attentions.0": g.cast(w), "query.0": g.cast(q), "key.0": g.cast(k)}, {})


def keys_never_seen(g):
    half = g.past + g.queries // 2
    if g.queries < 10 or half < 8:
        return None
    return Case(g.maps(g.causal & ((g.positions < half) | (np.arange(g.keys) >= half))), {"expect": "causal"})


def bias_not_applied(g):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(*g.shape[:3], 8)), rng.normal(size=(*g.shape[:2], g.keys, 8))
    w = softmax(np.where(g.causal, q @ k.transpose(0, 1, 3, 2) / 8, -1e30))
    slopes = 2.0 ** -np.arange(1, g.heads + 1)[:, None, None] * np.arange(g.keys)
    return Case(
        {"attentions.0": g.cast(w), "query.0": g.cast(q), "key.0": g.cast(k), "alibi": g.cast(slopes)}, {}
    )


# MSK3xx


def nan_from_empty_row(g):
    keep = emptied(g)
    return None if keep is None else Case(g.maps(keep, -np.inf) | g.additive(keep, -np.inf) | g.mask, {})


def with_bad_scores(g, bad):
    raw = np.where(g.causal, scores(g.shape), -np.inf)
    raw[0, 0, -1, 0] = bad
    return Case({"attentions.0": g.cast(softmax(raw)), "scores.0": g.cast(raw)}, {})


def nan_from_input(g):
    return with_bad_scores(g, np.nan)


def score_overflow(g):
    return with_bad_scores(g, np.inf)


def nan_through_value(g):
    value = np.random.default_rng(0).normal(size=(g.batch, g.heads, g.keys, 4))
    value[np.broadcast_to(~g.real[:, None], value.shape[:3])] = np.nan
    return (
        Case(g.maps(g.keep) | g.mask | {"value.0": g.cast(value)}, {})
        if g.side == "right" or g.square
        else None
    )


def unexplained_nan(g):
    arrays = g.maps(g.causal)
    arrays["attentions.1"][0, 0, -1, 0] = np.nan
    return Case(arrays, {})


def weights_not_used(g):
    value = torch.from_numpy(np.random.default_rng(0).normal(size=(g.batch, g.heads, g.keys, 4)))
    maps = g.maps(g.causal)
    output = (maps["attentions.1"].double() @ value).to(DTYPES[g.dtype])
    return Case(
        {"attentions.0": maps["attentions.0"], "value.0": value.to(DTYPES[g.dtype]), "attn_output.0": output},
        {},
    )


# MSK4xx


def padding_not_masked(g):
    ids, _ = g.text()
    return Case(ints(input_ids=ids, attention_mask=np.ones_like(ids)), {"pad_id": PAD, "eos_ids": (EOS,)})


def real_token_masked(g):
    ids, ends = g.text()
    real = g.real.copy()
    real[0, ends[0] - 2] = False
    return Case(ints(input_ids=ids, attention_mask=real), {"pad_id": PAD, "eos_ids": (EOS,)})


def right_padding_for_generation(g):
    return Case(g.mask, {"purpose": "generate"}) if g.side == "right" else None


def left_padding_positions(g):
    if g.side == "right":
        return None
    learned = Config("config.json", "--model", "causal", (), True, None, (), (), None)
    return Case(
        g.mask | ints(position_ids=np.broadcast_to(np.arange(g.keys), g.real.shape)), {"model": learned}
    )


def packed_without_block_mask(g):
    restarting = np.concatenate([np.arange(g.keys // 2), np.arange(g.keys - g.keys // 2)])
    ones = np.ones((g.batch, g.keys))
    arrays = ints(position_ids=np.broadcast_to(restarting, ones.shape), attention_mask=ones)
    return Case(
        arrays | g.additive(np.tril(np.ones((g.keys, g.keys), bool))), {"expect": "causal & documents"}
    )


def bad_cu_seqlens(g):
    return Case({"cu_seqlens": torch.tensor([0, g.keys, g.keys // 2], dtype=torch.int32)}, {})


def swapped_token_types(g):
    ids, _ = g.text()
    second = g.real & (np.arange(g.keys) >= g.keys // 2)
    return Case(
        ints(attention_mask=second, token_type_ids=g.real, input_ids=ids), {"pad_id": PAD, "eos_ids": (EOS,)}
    )


def imprecise_positions(g):
    """bfloat16 holds whole numbers up to 256, float16 up to 2048; as integers again they keep the pattern."""
    positions = torch.arange(g.keys + 2600).to(torch.float16 if g.dtype == "float16" else torch.bfloat16)
    kept = positions.long() if g.dtype == "float32" else positions
    return Case({"position_ids": kept.expand(g.batch, -1).contiguous()}, {})


LEARNED = Config("config.json", "--model", "causal", (), True, None, (), (), None)


def doubled_start(g):
    ids, _ = g.text()
    first = np.argmax(g.real, axis=1)
    ids[np.arange(g.batch), first] = ids[np.arange(g.batch), first + 1] = 1
    return Case(ints(input_ids=ids) | g.mask, {"pad_id": PAD, "bos_ids": (1,)})


def documents_positions(g):
    segments = np.broadcast_to(np.arange(g.keys) // 4, g.real.shape)
    positions = np.broadcast_to(np.arange(g.keys), g.real.shape)
    return Case(ints(segment_ids=segments, position_ids=positions), {})


def first_position(g):
    model = replace(LEARNED, first_position=2)
    return Case(ints(position_ids=np.broadcast_to(np.arange(g.keys), g.real.shape)), {"model": model})


def decoder_start(g):
    ids, _ = g.text()
    model = replace(LEARNED, start_id=EOS + 1)
    return Case(ints(input_ids=ids[:, ::-1], decoder_input_ids=ids), {"model": model, "pad_id": PAD})


# MSK5xx


def taught(g, labels, ids, **declared):
    return Case(ints(input_ids=ids, labels=labels) | g.mask, {"eos_ids": (EOS,)} | declared)


def eos_not_supervised(g):
    ids, _ = g.text(pad=EOS)
    return taught(g, np.where(ids == EOS, -100, ids), ids, pad_id=EOS)


def nothing_supervised(g):
    ids, _ = g.text()
    return taught(g, np.full_like(ids, -100), ids, pad_id=PAD)


def padding_supervised(g):
    ids, _ = g.text()
    return taught(g, ids, ids, pad_id=PAD)


def prompt_supervised(g):
    ids, _ = g.text()
    return taught(g, np.where(g.real, ids, -100), ids, pad_id=PAD, prompt_length=2)


def shifted_labels(g):
    ids, _ = g.text()
    labels = np.full_like(ids, -100)
    labels[:, :-1] = np.where(g.real[:, :-1] & g.real[:, 1:], ids[:, 1:], -100)
    return taught(g, labels, ids, pad_id=PAD, loss_shift="model")


def label_border(g):
    ids, _ = g.text()
    first = np.argmax(g.real, axis=1)[:, None]
    return taught(
        g, np.where(g.real & (np.arange(g.keys) >= first + 3), ids, -100), ids, pad_id=PAD, prompt_length=2
    )


def eos_missing(g):
    ids, _ = g.text(end=False)
    return taught(g, np.where(g.real, ids, -100), ids, pad_id=PAD)


def invalid_label(g):
    ids, ends = g.text()
    labels = np.where(g.real, ids, -100)
    labels[0, ends[0] - 2] = VOCABULARY
    return taught(g, labels, ids, pad_id=PAD, vocab_size=VOCABULARY)


def trained_past_the_end(g):
    """The end stands twice."""
    ids, ends = g.text()
    ids[np.arange(g.batch), ends - 1] = EOS
    return taught(g, np.where(g.real, ids, -100), ids, pad_id=PAD)


def labels_of_another_text(g):
    """Labels are padded three places further than the ids."""
    if g.keys < 12:
        return None
    ids, _ = g.text()
    labels = np.roll(np.where(g.real, ids, -100), 3, axis=1)
    labels[:, :3] = -100
    return taught(g, labels, ids, pad_id=PAD)


def label_length(g):
    ids, _ = g.text()
    return taught(g, np.where(g.real, ids, -100)[:, :-1], ids, pad_id=PAD)


def label_across_documents(g):
    ids, _ = g.text()
    segments = np.broadcast_to(np.arange(g.keys) // 4, g.real.shape)
    case = taught(g, np.where(g.real, ids, -100), ids, pad_id=PAD)
    return Case(case.arrays | ints(segment_ids=segments), case.declared)


def placeholder_supervised(g):
    ids, ends = g.text()
    ids[np.arange(g.batch), ends - 2] = VOCABULARY
    model = replace(LEARNED, media_ids=(VOCABULARY,))
    return taught(g, np.where(g.real, ids, -100), ids, pad_id=PAD, model=model)


# What begins the turns of the corpus; EOS ends them.
USER, ASSISTANT = 5, 6
TURNS = given([("user", [USER]), ("assistant", [ASSISTANT]), ("end", [EOS])])


def chat(g):
    """Ids of a question and its answer, the answers with their ends, and the declaration: [B, K] each."""
    ids, ends = g.text()
    rows, first = np.arange(g.batch), np.argmax(g.real, axis=1)
    for marker, place in ((USER, first), (EOS, first + 2), (ASSISTANT, first + 3)):
        ids[rows, place] = marker
    answers = g.real & (np.arange(g.keys) > first[:, None] + 3)
    return ids, answers, ends, {"pad_id": PAD, "chat": TURNS}


def prompt_turn_supervised(g):
    ids, _, _, declared = chat(g)
    return taught(g, np.where(g.real, ids, -100), ids, **declared)


def turn_end_not_supervised(g):
    if g.keys < 9:
        return None
    ids, answers, _, declared = chat(g)
    return taught(g, np.where(answers & (ids != EOS), ids, -100), ids, **declared)


def answer_not_supervised(g):
    """Answers are counted from their third token on."""
    if g.keys < 12:
        return None
    ids, answers, _, declared = chat(g)
    late = np.arange(g.keys) > np.argmax(answers, axis=1)[:, None] + 1
    return taught(g, np.where(answers & late, ids, -100), ids, **declared)


def header_supervised(g):
    ids, answers, _, declared = chat(g)
    return taught(g, np.where(answers | (ids == ASSISTANT), ids, -100), ids, **declared)


def answer_cut(g):
    """The rows without padding stop before the end of the answer."""
    if g.real.all(axis=1).sum() == 0:
        return None
    ids, answers, ends, declared = chat(g)
    full = np.flatnonzero(g.real.all(axis=1))
    ids[full, ends[full]] = FIRST_WORD
    return taught(g, np.where(answers, ids, -100), ids, **declared)


def same_pair(g):
    """The first of the pairs, padded on the given side and further in the rejected text."""
    ids, _ = g.text()
    other = np.where(g.real & (np.arange(g.batch) > 0)[:, None], ids + 1, ids)
    pads = ((0, 0), (3, 0) if g.side == "left" else (0, 3))
    texts = {"chosen_input_ids": ids, "rejected_input_ids": np.pad(other, pads, constant_values=PAD)}
    masks = {"chosen_attention_mask": g.real, "rejected_attention_mask": np.pad(g.real, pads)}
    return Case(ints(**texts, **masks), {})


# In code order, as the catalogue lists them.
BUGS = {
    "MSK101": empty_row, "MSK102": inverted_mask, "MSK103": binary_float_mask, "MSK104": weak_fill, "MSK105": overflowed_fill,
    "MSK106": nan_mask, "MSK107": negated_integer_mask, "MSK108": query_axis_mask, "MSK109": shifted_diagonal,
    "MSK110": misaligned_causal, "MSK111": wrong_window, "MSK112": ambiguous_broadcast, "MSK113": mask_length,
    "MSK114": mask_not_expected,
    "MSK201": inverted_polarity, "MSK202": padding_attended, "MSK203": future_attended, "MSK204": mask_not_applied,
    "MSK205": uniform_masked_row, "MSK206": uniform_attention, "MSK207": unnormalised_rows, "MSK208": softmax_axis,
    "MSK209": mask_after_softmax, "MSK210": soft_masking, "MSK211": another_samples_mask, "MSK212": double_softmax,
    "MSK213": window_mismatch, "MSK214": shifted_causal, "MSK215": misaligned_causal_weights, "MSK216": invalid_weights,
    "MSK217": document_leak, "MSK218": causal_encoder, "MSK219": empty_cache_slots, "MSK220": cross_mask_swapped,
    "MSK221": grouped_heads_order, "MSK222": keys_never_seen, "MSK223": bias_not_applied, "MSK301": nan_from_empty_row, "MSK302": nan_from_input, "MSK303": score_overflow,
    "MSK304": nan_through_value, "MSK305": unexplained_nan, "MSK306": weights_not_used, "MSK401": padding_not_masked,
    "MSK402": real_token_masked, "MSK403": right_padding_for_generation, "MSK404": left_padding_positions,
    "MSK405": packed_without_block_mask, "MSK406": bad_cu_seqlens, "MSK407": swapped_token_types,
    "MSK408": imprecise_positions, "MSK409": doubled_start, "MSK410": documents_positions,
    "MSK411": first_position, "MSK412": decoder_start, "MSK501": eos_not_supervised, "MSK502": nothing_supervised, "MSK503": padding_supervised,
    "MSK504": prompt_supervised, "MSK505": shifted_labels, "MSK506": label_border, "MSK507": eos_missing,
    "MSK508": invalid_label, "MSK509": prompt_turn_supervised, "MSK510": answer_not_supervised,
    "MSK511": turn_end_not_supervised, "MSK512": header_supervised, "MSK513": trained_past_the_end, "MSK514": labels_of_another_text,
    "MSK515": label_length, "MSK516": label_across_documents, "MSK517": placeholder_supervised,
    "MSK518": answer_cut, "MSK519": same_pair,
}  # fmt: skip


def sick():
    """(code, label, case) of every rule over every shape, type and side in which the bug can occur."""
    for code, bug in BUGS.items():
        for shape in SHAPES:
            for dtype in DTYPES:
                for side in SIDES:
                    case = bug(Given(shape, dtype, side))
                    if case is not None:
                        yield code, f"{'x'.join(map(str, shape))}-{dtype}-{side}", case
