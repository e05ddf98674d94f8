"""Where tokens stand: positions under padding and packing, borders of packed texts, positions that lost digits."""

import numpy as np
import pytest
import torch

from maskcli.diagnostics.rules.positions import _is_rounded_run
from maskcli.meant.model_config import Config
from tests.diagnostics.attention import DTYPES, layers, loud, padding, report, the

SHAPE = (3, 2, 12, 12)
ABSOLUTE = Config("config.json", "--model", "causal", ("causal",), True, None, (), (), None)
ROTARY = Config("config.json", "--model", "causal", ("causal",), False, None, (), (), None)


def whole(values):
    return torch.from_numpy(np.ascontiguousarray(values).astype(np.int64))


def codes(found):
    return [(finding.code, finding.severity) for finding in found.findings]


def counted_from(real, begin, pads):
    """Positions that skip the padding, which all gets `pads`."""
    return np.where(real, np.cumsum(real, axis=1) - 1 + begin, pads)


# Padding on the left


@pytest.mark.parametrize("begin", [0, 2])
@pytest.mark.parametrize("pads", [(3, 0, 1), (3,), (2, 5), (3, 1)])
@pytest.mark.parametrize("broadcast", [False, True])
def test_positions_that_count_the_padding(pads, begin, broadcast):
    real = np.arange(12) >= np.array(pads)[:, None]
    positions = np.broadcast_to(np.arange(12) + begin, (1 if broadcast else len(pads), 12))
    arrays = {"attention_mask": whole(real), "position_ids": whole(positions)}
    for model, severity in ((ABSOLUTE, "error"), (ROTARY, "note"), (None, "note")):
        found = report(arrays, model=model)
        assert codes(found) == [("MSK404", severity)]
        (finding,) = found.findings
        padded = tuple(n for n, count in enumerate(pads) if count)
        assert finding.where.batch == (None if len(padded) == len(pads) else padded)
        assert finding.evidence == {"padding": pads[0], "position": pads[0] + begin}
    by_ids = {"input_ids": whole(np.where(real, 7, 0)), "position_ids": arrays["position_ids"]}
    assert codes(report(by_ids, model=ABSOLUTE, pad_id=0)) == [("MSK404", "error")]


@pytest.mark.combinations
@pytest.mark.parametrize("filler", [0, 1])
@pytest.mark.parametrize("begin", [0, 1, 2])
@pytest.mark.parametrize("pads", [(3, 0, 1), (3,), (2, 5), (0, 1)])
def test_positions_that_skip_the_padding(pads, begin, filler):
    real = np.arange(12) >= np.array(pads)[:, None]
    arrays = {"attention_mask": whole(real), "position_ids": whole(counted_from(real, begin, filler))}
    assert report(arrays, model=ABSOLUTE).findings == ()
    # Rotary positions may stand anywhere, row by row.
    offset = counted_from(real, begin, filler) + np.array([[40], [7], [90]])[: len(pads)] * real
    assert report(arrays | {"position_ids": whole(offset)}, model=ABSOLUTE).findings == ()


def test_one_padding_token_everywhere_is_left_open():
    real = np.arange(8) >= np.array([[1], [1]])
    found = report(
        {"attention_mask": whole(real), "position_ids": whole(np.tile(np.arange(8), (2, 1)))}, model=ABSOLUTE
    )
    assert found.findings == ()
    assert "MSK404" in {skip.code for skip in found.skipped}


def test_right_padding_and_places_in_a_cache():
    real = padding(SHAPE, "right")
    positions = whole(np.tile(np.arange(12), (3, 1)))
    assert report({"attention_mask": whole(real), "position_ids": positions}, model=ABSOLUTE).findings == ()
    left = padding(SHAPE, "left")
    slots = {"attention_mask": whole(left), "cache_position": torch.arange(12)}
    assert report(slots, model=ABSOLUTE).findings == ()
    assert report(slots | {"position_ids": whole(counted_from(left, 0, 1))}, model=ABSOLUTE).findings == ()
    assert loud(report(slots | {"position_ids": positions}, model=ABSOLUTE)) == ["MSK404"]


# Packed texts


LENGTHS = [(5, 4, 3), (6, 6), (1, 5, 6)]


def packed(lengths, batch=1):
    positions = np.tile(np.concatenate([np.arange(n) for n in lengths]), (batch, 1))
    label = np.repeat(np.arange(len(lengths)), lengths)
    return positions, label[:, None] == label


@pytest.mark.combinations
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", ["bool", *DTYPES])
def test_a_mask_that_lets_packed_texts_meet(lengths, batch, kind):
    positions, same = packed(lengths, batch)
    causal = np.tril(np.ones((12, 12), bool))

    def saved(keep, items=batch):
        keep = np.broadcast_to(keep, (items, 1, 12, 12))
        if kind == "bool":
            return torch.from_numpy(keep.copy())
        return torch.from_numpy(np.where(keep, 0, torch.finfo(DTYPES[kind]).min)).to(DTYPES[kind])

    for items in {1, batch}:
        arrays = {"position_ids": whole(positions), "attn_mask": saved(causal, items)}
        found = report(arrays)
        assert codes(found) == [("MSK405", "note")]
        assert found.findings[0].where.queries == ((lengths[0], 12),)
        assert found.findings[0].evidence == {"texts": len(lengths), "queries": (12 - lengths[0]) * batch}
        assert "MSK405" in loud(report(arrays, expect="causal & documents"))
        arrays["attn_mask"] = saved(causal & same, items)
        assert report(arrays).findings == report(arrays, expect="causal & documents").findings == ()
        # What a block-diagonal mask isolates, an all-ones padding mask does not join.
        assert report(arrays | {"attention_mask": whole(np.ones((batch, 12)))}).findings == ()


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("pads", [0, 2])
def test_a_padding_mask_turns_the_search_for_packed_texts_off(lengths, pads):
    positions, same = packed(lengths)
    real = np.arange(12)[None] < 12 - pads
    arrays = {"position_ids": whole(positions), "attention_mask": whole(real)}
    assert codes(report(arrays)) == [("MSK405", "note")]
    assert codes(report(arrays, expect="causal & documents")) == [("MSK405", "error")]
    # Weights that keep the texts apart all the same, and masks that number the texts.
    keep = np.tril(np.ones((12, 12), bool)) & same & real
    apart = layers((1, 2, 12, 12), keep)
    assert report(arrays | apart).findings == ()
    together = layers((1, 2, 12, 12), np.tril(np.ones((12, 12), bool)) & real)
    assert "MSK405" in [code for code, _ in codes(report(arrays | together))]
    numbered = np.repeat(np.arange(len(lengths)) + 1, lengths)[None]
    assert report({"position_ids": whole(positions), "attention_mask": whole(numbered)}).findings == ()


@pytest.mark.parametrize("filler", [0, 1])
@pytest.mark.parametrize("known", [True, False])
def test_padding_does_not_begin_a_text(filler, known):
    real = padding(SHAPE, "left")
    arrays = {
        "position_ids": whole(counted_from(real, 0, filler)),
        "attn_mask": torch.ones(1, 1, 12, 12, dtype=torch.bool),
    }
    if known:
        arrays["attention_mask"] = whole(real)
    assert "MSK405" not in [code for code, _ in codes(report(arrays, expect="full"))]


# Whatever tells of packed texts

PACKED = [[5, 4, 3], [2, 10], [3, 3, 3, 3]]


def told_by(form, lengths, pads):
    """What a trainer saves of rows of packed texts, each row with its lengths and `pads` of padding behind."""
    numbers = np.array([np.repeat(np.arange(len(row) + 1) + 1, [*row, pads]) for row in lengths])
    inside = numbers <= np.array([[len(row)] for row in lengths])
    filled = np.array([[*row, *[0] * (4 - len(row))] for row in lengths])
    flat = [n for row in lengths for n in [*row, pads] if n]
    ends = np.cumsum(filled, axis=1)
    return {
        "axolotl": {"attention_mask": whole(numbers * inside)},
        "torchtune": {"seq_lens": whole(flat)},
        "trl": {"seq_lengths": whole(filled)},
        "t5x": {"decoder_segment_ids": whole(numbers * inside)},
        "llm-foundry": {"sequence_id": whole(np.where(inside, numbers - 1, -1))},
        "maxtext": {"inputs_segmentation": whole(numbers * inside)},
        "nemo": {"cu_seqlens": whole(np.pad(ends, ((0, 0), (1, 0))))},
        "nemo, filled": {
            "cu_seqlens": whole([[0, *np.cumsum(row), *[-1] * (5 - len(row))] for row in lengths])
        },
    }[form]


FORMS = ["axolotl", "torchtune", "trl", "t5x", "llm-foundry", "maxtext", "nemo", "nemo, filled"]


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("form", "pads"),
    # NeMo's borders end where the tokens do.
    [(form, pads) for form in FORMS for pads in (0, 3) if not (pads and "nemo" in form)],
)
@pytest.mark.parametrize("rows", [[0], [0, 1], [0, 1, 2]])
def test_packed_texts_are_known_by_whatever_tells_of_them(form, pads, rows):
    lengths = [PACKED[row] for row in rows]
    length = 12 + pads
    texts = np.array([np.repeat(np.arange(len(row) + 1), [*row, pads]) for row in lengths])
    real = np.arange(length)[None] < np.full((len(rows), 1), 12)
    arrays = told_by(form, lengths, pads)
    if "attention_mask" not in arrays:
        arrays["attention_mask"] = whole(real)
    shape = (len(rows), 2, length, length)
    causal = np.tril(np.ones((length, length), bool)) & real[:, None]
    apart = causal & (texts[:, :, None] == texts[:, None])
    # A mask over keys alone cannot keep texts apart; one that numbers them can, and the weights show it.
    sick = report(layers(shape, causal[:, None]) | arrays, "causal & documents")
    assert loud(sick) == ["MSK217" if form == "axolotl" else "MSK405"]
    where = the(sick, loud(sick)[0]).where
    assert where.queries == ((min(row[0] for row in lengths), 12),)
    assert loud(report(layers(shape, apart[:, None]) | arrays, "causal & documents")) == []
    assert loud(report(layers(shape, causal[:, None]) | arrays)) == []
    # A saved mask over all of a row is held to it as well.
    mask = torch.from_numpy(causal[:, None].copy())
    found = report(arrays | {"attn_mask": mask}, "causal & documents")
    assert [code for code in loud(found) if code in ("MSK217", "MSK405")]
    right = report(arrays | {"attn_mask": torch.from_numpy(apart[:, None].copy())}, "causal & documents")
    assert loud(right) == []


@pytest.mark.parametrize("lengths", [[9, 12], [5, 7], [12, 12]])
@pytest.mark.parametrize("name", ["seq_lens", "seq_lengths"])
def test_a_length_for_each_sample_tells_of_padding_and_no_texts(lengths, name):
    shape = (2, 2, 12, 12)
    causal = np.broadcast_to(np.tril(np.ones((12, 12), bool)), (2, 1, 12, 12))
    found = report(layers(shape, causal) | {name: whole(lengths)})
    assert found.findings == ()


def test_the_numbers_of_global_attention_are_no_texts():
    shape = (1, 2, 8, 8)
    for numbers in ([2, 1, 1, 1, 1, 1, 1, 0], [1, 1, 2, 1, 1, 1, 0, 0], [2, 2, 1, 1, 1, 1, 1, 1]):
        real = np.array(numbers) > 0
        arrays = layers(shape, np.broadcast_to(real, (1, 1, 8, 8))) | {"attention_mask": whole([numbers])}
        assert report(arrays).findings == ()


def test_borders_without_padding_beside_borders_with_it():
    """Megatron keeps both where each text was padded to a multiple."""
    arrays = {"input_ids": torch.arange(5, 21)[None], "cu_seqlens_q": whole([0, 5, 12])}
    assert loud(report(arrays)) == ["MSK406"]
    assert loud(report(arrays | {"cu_seqlens_q_padded": whole([0, 8, 16])})) == []


# Borders of packed texts


@pytest.mark.parametrize(
    ("borders", "said"),
    [
        ([5, 9, 12], "starts at 5"),
        ([0, 9, 5, 12], "falls from 9 to 5 at index 2"),
        ([0, 5, 12, 0], "falls from 12 to 0 at index 3"),
        ([0, 5, 9], "ends at 9, but there are 12 tokens"),
        ([0, 5, 13], "ends at 13"),
    ],
)
@pytest.mark.parametrize("name", ["cu_seqlens", "cu_seqlens_q", "cu_seq_lens_q"])
def test_borders_that_are_wrong(borders, said, name):
    for other in ({"input_ids": torch.arange(5, 17)[None]}, {"position_ids": torch.arange(12)}):
        found = report({name: torch.tensor(borders, dtype=torch.int32), **other})
        assert loud(found) == ["MSK406"]
        assert said in the(found, "MSK406").message


@pytest.mark.parametrize("borders", [[0, 12], [0, 5, 9, 12], [0, 5, 5, 12], [0, 5, 12, 12, 12], [0, 0, 12]])
def test_borders_that_are_right(borders):
    numbers = torch.tensor(borders, dtype=torch.int32)
    assert report({"cu_seqlens": numbers, "input_ids": torch.arange(5, 17)[None]}).findings == ()
    assert report({"cu_seqlens": numbers}).findings == ()
    # The keys of a cache are more than the tokens.
    assert (
        report({"cu_seqlens_k": numbers + (numbers > 0) * 7, "input_ids": torch.arange(5, 17)[None]}).findings
        == ()
    )


def test_borders_may_count_the_real_tokens_or_all():
    real = padding(SHAPE, "right")
    arrays = {"input_ids": whole(np.where(real, 7, 0)), "attention_mask": whole(real)}
    for lengths, expected in ((real.sum(1), []), (np.full(3, 12), []), (real.sum(1) + 1, ["MSK406"])):
        borders = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        assert loud(report(arrays | {"cu_seqlens": borders}, pad_id=0)) == expected


# Positions that lost digits


@pytest.mark.combinations
@pytest.mark.parametrize(("kind", "exact"), [("bfloat16", 256), ("float16", 2048)])
@pytest.mark.parametrize("begin", [0, 2, 255, 300])
@pytest.mark.parametrize("back", [None, torch.int64, torch.int32, torch.float32])
def test_positions_in_sixteen_bits(kind, exact, begin, back):
    true = torch.arange(begin, begin + exact + 90)
    stored = true.to(DTYPES[kind])
    found = report({"position_ids": (stored if back is None else stored.to(back))[None]})
    assert loud(found) == ["MSK408"]
    finding = the(found, "MSK408")
    assert kind in finding.message
    assert finding.evidence == {"highest": int(stored.max()), "exact_up_to": exact}
    # The place covers every position that changed.
    changed = np.flatnonzero(stored.to(torch.int64).numpy() != true.numpy())
    ((start, stop),) = finding.where.keys
    assert (start <= changed.min(), stop) == (True, len(true))
    assert stored[start] >= exact
    # Rounding makes no packed texts.
    ones = {"position_ids": (stored if back is None else stored.to(back))[None], "attention_mask": torch.ones(1, len(true), dtype=torch.int64)}  # fmt: skip
    assert loud(report(ones)) == ["MSK408"]


@pytest.mark.parametrize(("kind", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_runs_of_rounded_numbers_wherever_they_begin(kind, bits):
    for begin in (2**bits, 2**bits + 1, 2**bits + 2, 2**bits + 3, 2 ** (bits + 1) + 1, 2 ** (bits + 1) + 6):
        true = torch.arange(begin, begin + 60)
        stored = true.to(DTYPES[kind]).double().numpy()
        assert _is_rounded_run(stored, bits)
        assert not _is_rounded_run(true.double().numpy(), bits)
        assert not _is_rounded_run(np.where(np.arange(60) == 30, stored + 8, stored), bits)


def summed(kind, length, left, moved, sequential):
    """What a cumulative sum of a padding mask comes to in a type, less 1; `moved` is added as whole numbers."""
    ones = (torch.arange(length + left) >= left).to(kind)
    total = ones.cumsum(0)
    if sequential:
        # One step after the other in the type itself, as an accelerator's scan may do it.
        total, steps = torch.zeros((), dtype=kind), []
        for one in ones:
            total = total + one
            steps.append(total)
        total = torch.stack(steps)
    return torch.where(ones == 1, total - 1 if moved is None else total, 0), ones, moved


@pytest.mark.combinations
@pytest.mark.parametrize(("kind", "exact"), [("bfloat16", 256), ("float16", 2048)])
@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize("moved", [None, -1, 1])
@pytest.mark.parametrize("sequential", [False, True])
def test_positions_summed_in_sixteen_bits(kind, exact, left, moved, sequential):
    total, ones, _ = summed(DTYPES[kind], exact + 100, left, moved, sequential)
    backs = [torch.int64, torch.float32] + ([None] if moved is None else [])
    for back in backs:
        positions = (total if back is None else total.to(back) + (moved or 0))[None].clamp(min=0)
        arrays = {"position_ids": positions, "attention_mask": ones.long()[None]}
        found = report(arrays)
        assert loud(found) == ["MSK408"]
        assert kind in the(found, "MSK408").message
        ((start, stop),) = the(found, "MSK408").where.keys
        assert (abs(start - left - exact) <= 2, stop) == (True, exact + 100 + left)
        assert ("stop growing" in the(found, "MSK408").message) == sequential


def test_positions_that_do_not_grow_over_padding():
    """A cumulative sum of the mask stays at the last token's position over the padding on the right."""
    for length, pads in ((256, 60), (2048, 60), (255, 60), (257, 3), (300, 200)):
        mask = (torch.arange(length + pads) < length).long()[None]
        positions = mask.cumsum(1) - 1
        assert loud(report({"position_ids": positions, "attention_mask": mask})) == []
        padded = torch.where(mask == 1, torch.arange(length + pads) + 5, 0)
        assert loud(report({"position_ids": positions, "input_ids": padded})) == []
        assert loud(report({"position_ids": positions, "input_ids": padded}, pad_id=0)) == []
        assert loud(report({"position_ids": positions})) == []


def test_positions_that_do_not_grow_over_words():
    positions = torch.arange(400).clamp(max=255)[None]
    for other in ({"input_ids": torch.arange(5, 405)[None]}, {"attention_mask": torch.ones(1, 400).long()}):
        assert loud(report({"position_ids": positions, **other})) == ["MSK408"]
    assert loud(report({"position_ids": positions.expand(3, -1)})) == ["MSK408"]
    alone = report({"position_ids": positions})
    assert (alone.findings, "MSK408" in {skip.code for skip in alone.skipped}) == ((), True)


@pytest.mark.parametrize("lengths", [(300, 280), (900, 20, 600)])
def test_packed_positions_in_sixteen_bits(lengths):
    true = np.concatenate([np.arange(n) for n in lengths])
    stored = torch.from_numpy(true).to(torch.bfloat16).to(torch.int64)[None]
    finding = the(report({"position_ids": stored}), "MSK408")
    inside = np.zeros(len(true), bool)
    for start, stop in finding.where.keys:
        inside[start:stop] = True
    assert (inside == (stored[0].numpy() >= 256)).all()


def test_a_batch_of_which_one_row_is_long():
    positions = torch.stack([torch.arange(400), torch.arange(400) % 200])
    finding = the(report({"position_ids": positions.to(torch.bfloat16)}), "MSK408")
    assert finding.where.batch == (0,)


@pytest.mark.parametrize(
    "positions",
    [
        torch.arange(5000),
        torch.arange(5000, dtype=torch.float32),
        torch.arange(5000, dtype=torch.float32) / 4,
        torch.arange(257, dtype=torch.bfloat16),
        torch.arange(2049, dtype=torch.float16),
        torch.arange(0, 2000, 2),
        torch.full((300,), 300),
        torch.tensor([300, 301, 301, 302, 302, 302, 303, 303, 304]),
        torch.tensor([256, 256, 258, 258, 260, 260, 262, 262, 264]),
        torch.tensor([float("nan"), 1.0, 2.0]),
        torch.arange(300).repeat_interleave(2),
    ],
    ids=str,
)
def test_exact_positions(positions):
    assert report({"position_ids": positions[None]}).findings == ()


def test_positions_of_three_kinds():
    """M-RoPE keeps time, height and width apart: [3, B, S], where neighbours of an image share numbers."""
    grid = np.stack([np.full(400, 260), 260 + np.arange(400) // 20, 260 + np.arange(400) % 20])
    for batch in (1, 2):
        positions = whole(np.repeat(grid[:, None], batch, axis=1))
        assert (
            report(
                {"position_ids": positions, "attention_mask": torch.ones(batch, 400, dtype=torch.int64)}
            ).findings
            == ()
        )
