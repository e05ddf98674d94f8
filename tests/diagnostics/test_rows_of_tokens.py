"""What rules ask of rows of tokens, each against a loop over the tokens of one row."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.diagnostics.finding import Contrary, Found
from maskcli.diagnostics.rules import endings
from maskcli.diagnostics.rules.answers import _first_target, _lost_in_shards, _whole_rows_counted
from maskcli.diagnostics.rules.beginnings import _start_ids
from maskcli.diagnostics.rules.labels import _supervised_padding
from maskcli.diagnostics.rules.packed_texts import STILL, _borders, _is_asked_for, _standing_still
from maskcli.diagnostics.rules.packing import _first, _packed, _wrong_borders
from maskcli.diagnostics.rules.positions import _counts_padding, _one_value_each
from maskcli.diagnostics.rules.token_types import _first_sentence, _in_front, _last, _padding_in_front
from maskcli.diagnostics.rules.tokens import (
    WORDS,
    _distinct,
    _inside,
    _inverse,
    _matters,
    _perhaps_real,
    _runs_at_edges,
    _up_to_last,
    _words_at_edges,
)
from maskcli.meant.facts import Declared

seeds = given(st.integers(0, 2**32 - 1))
PAD = 0


def drawn(seed, words=4, most=10):
    """Ids [B, L] of few words, and which tokens a mask keeps: a stretch of most rows, at times with holes."""
    rng = np.random.default_rng(seed)
    batch, length = int(rng.integers(1, 4)), int(rng.integers(1, most))
    ids = rng.integers(0, words, size=(batch, length))
    real = np.ones((batch, length), bool)
    for row in real:
        low, high = sorted(rng.integers(0, length + 1, size=2))
        row[:low] = row[high:] = False
    if rng.random() < 0.4:
        real &= rng.random(real.shape) < 0.8
    return ids, real, rng


def edges_of(flags):
    """The stretches of True at the front and at the end of a row, as lists of places."""
    front = [at for at in range(len(flags)) if all(flags[: at + 1])]
    end = [at for at in range(len(flags)) if all(flags[at:])]
    return [front, end] if front != end else [front]


@seeds
def test_hidden_edges_of_one_other_id(seed):
    ids, real, _ = drawn(seed)
    wanted = np.zeros(real.shape, bool)
    for row, (own, kept) in enumerate(zip(ids, real, strict=True)):
        for edge in edges_of(~kept):
            others = [at for at in edge if own[at] != PAD]
            if len(others) > 1 and len({own[at] for at in others}) == 1:
                wanted[row, others] = True
    assert np.array_equal(_runs_at_edges(SimpleNamespace(ids=ids, real=real), PAD), wanted)


@seeds
def test_hidden_edges_of_words(seed):
    ids, real, _ = drawn(seed, words=8, most=14)
    wanted = np.zeros(real.shape, bool)
    for row, (own, kept) in enumerate(zip(ids, real, strict=True)):
        assert _distinct(ids, real)[row] == len(set(own[kept]))
        for edge in edges_of(~kept):
            if len({own[at] for at in edge}) >= WORDS and len(set(own[kept])) > 1:
                wanted[row, edge] = True
    assert np.array_equal(_words_at_edges(ids, real), wanted)


@seeds
def test_places_beside_kept_tokens(seed):
    _, real, _ = drawn(seed)
    for row, kept in enumerate(real):
        places = np.flatnonzero(kept)
        for at in range(len(kept)):
            behind, before = (places >= at).any(), (places <= at).any()
            assert _up_to_last(real)[row, at] == behind
            assert _inside(real)[row, at] == (behind and before)
            assert _in_front(real)[row, at] == (bool(places.size) and not before)
            assert _first(real)[row, at] == (places.size > 0 and at == places[0])
        if places.size:
            assert _last(real)[row] == places[-1]


def test_a_mask_that_keeps_just_the_padding_is_turned_around():
    pads = np.array([[0, 0, 1], [0, 0, 0], [0, 1, 1]], bool)
    assert _inverse(pads, pads)
    assert _inverse(np.where([[True], [False], [True]], pads, True), pads)
    assert not _inverse(~pads, pads)
    assert not _inverse(np.where([[True], [False], [False]], pads, ~pads), pads)
    assert not _inverse(pads, np.zeros_like(pads))


@seeds
def test_tokens_of_a_decoder_that_a_label_asks_for(seed):
    ids, real, rng = drawn(seed)
    labels = np.where(rng.random(ids.shape) < 0.5, ids, -100)
    tokens = SimpleNamespace(kind="decoder", ids=ids, real=real, labels=labels)
    found = np.broadcast_to(_matters(tokens, Declared(pad_id=PAD)), ids.shape)
    for row, col in np.ndindex(ids.shape):
        assert found[row, col] == (labels[row, col:] != -100).any()
    tokens.kind = "self"
    assert _matters(tokens, Declared(pad_id=PAD)).all()


@pytest.mark.parametrize(
    ("ids", "real", "hidden"),
    [
        # All texts end in one id that the mask hides: it may be the end, of which nothing is asked.
        ([[5, 6, 1, 0], [7, 8, 9, 1]], [[1, 1, 0, 0], [1, 1, 1, 0]], [(0, 2), (1, 3)]),
        ([[5, 6, 2, 0], [7, 8, 9, 1]], [[1, 1, 0, 0], [1, 1, 1, 0]], []),
        ([[5, 6, 1, 0], [7, 8, 9, 3]], [[1, 1, 0, 0], [1, 1, 1, 1]], [(0, 2), (1, 3)]),
    ],
)
def test_the_end_of_a_decoders_text_may_be_hidden(ids, real, hidden):
    tokens = SimpleNamespace(kind="decoder", ids=np.array(ids), real=np.array(real, bool), labels=None)
    found = np.broadcast_to(_matters(tokens, Declared(pad_id=PAD)), (2, 4))
    assert [(int(row), int(col)) for row, col in np.argwhere(~found)] == hidden
    assert _matters(tokens, Declared()).all()


@pytest.mark.parametrize(
    ("positions", "left", "counts"),
    [
        # A row without padding says where texts begin.
        ([[0, 1, 2, 3], [0, 1, 2, 3]], [0, 2], [False, True]),
        ([[0, 1, 2, 3], [0, 0, 0, 1]], [0, 2], [False, False]),
        ([[2, 3, 4, 5], [0, 1, 2, 3]], [0, 2], [False, False]),
        ([[2, 3, 4, 5], [2, 3, 4, 5]], [0, 1], [False, True]),
        # None does: two padding tokens that are counted are enough, one is not.
        ([[0, 1, 2, 3], [0, 1, 2, 3]], [1, 2], [True, True]),
        ([[0, 1, 2, 3], [0, 1, 2, 3]], [1, 1], None),
        ([[1, 1, 1, 2], [0, 0, 0, 1]], [2, 2], [False, False]),
        ([[-1, 0, 1, 2], [0, 0, 0, 1]], [2, 2], [False, False]),
        ([[0, 1, 2, 7], [0, 1, 7, 3]], [2, 2], [True, False]),
        ([[0, 1, 2, 3], [9, 9, 9, 9]], [2, 4], [True, False]),
    ],
)
def test_positions_that_count_the_padding_in_front(positions, left, counts):
    real = np.arange(4) >= np.array(left)[:, None]
    found = _counts_padding(np.array(positions), real)
    assert (None if found is None else found.tolist()) == counts


@seeds
def test_packed_texts_of_two_tokens_or_more(seed):
    ids, real, rng = drawn(seed)
    # A row of one token holds no two texts.
    ids, real = (np.repeat(each, 2, axis=1) if each.shape[1] == 1 else each for each in (ids, real))
    texts = np.cumsum(rng.random(ids.shape) < 0.3, axis=1)
    tokens = SimpleNamespace(
        documents=texts, real=real, kind="self", positions=None, name=lambda _: "s", names={}
    )
    found, several = _packed(tokens), False
    wanted = np.zeros(ids.shape, int)
    for row in range(len(ids)):
        pairs = {
            texts[row, at]
            for at in range(1, ids.shape[1])
            if texts[row, at] == texts[row, at - 1] and real[row, at - 1 : at + 1].all()
        }
        several |= len(pairs) > 1
        number, begun = 0, False
        for at in range(ids.shape[1]):
            new = at > 0 and texts[row, at] != texts[row, at - 1] and real[row, at]
            number += new and begun
            begun |= real[row, at]
            wanted[row, at] = number
    assert (found is not None) == several
    assert found is None or np.array_equal(found, wanted)
    tokens.kind = "encoder"
    assert _packed(tokens) is None


@pytest.mark.parametrize(
    ("row", "totals", "words"),
    [
        ([0, 3, 3, 8], {8}, None), ([0, 3, 8], set(), None), ([1, 3, 8], {8}, "starts at 1, not at 0"), ([0, 5, 3, 8], {8}, "falls from 5 to 3 at index 2"),
        ([0, 3, 7], {8}, "ends at 7, but there are 8 tokens"), ([0, 3, 7], {12, 8}, "ends at 7, but there are 8 or 12 tokens"), ([0, 3, 12], {12, 8}, None),
    ],
)  # fmt: skip
def test_borders_of_texts_in_words(row, totals, words):
    assert _wrong_borders(np.array(row), totals) == words


@seeds
def test_positions_that_stand_still_and_borders(seed):
    ids, real, rng = drawn(seed)
    positions = (
        np.where(rng.random(ids.shape) < 0.15, 1, 0) if rng.random() < 0.7 else np.zeros(ids.shape, int)
    )
    positions = positions + rng.choice([0, 7, 300])
    for told in (True, False):
        rows = []
        for own, kept, at in zip(ids, real, positions, strict=True):
            held = set(at[kept])
            rows.append(
                len(held) == 1 and max(held) < 256 and kept.sum() >= STILL and (told or len(set(own)) > 1)
            )
        wanted = real & np.array(rows)[:, None]
        assert np.array_equal(_standing_still(SimpleNamespace(ids=ids), positions, real, told=told), wanted)
    texts = np.cumsum(rng.random(ids.shape) < 0.3, axis=1)
    for row, at in np.ndindex(ids.shape):
        border = at > 0 and texts[row, at] != texts[row, at - 1] and real[row, at] and real[row, at - 1]
        assert _borders(texts, real)[row, at] == border


def test_positions_without_ids_stand_still_in_all_rows_or_in_none():
    real, still = np.ones((2, STILL + 1), bool), np.zeros((2, STILL + 1), int)
    moving = np.stack([still[0], np.arange(STILL + 1)])
    assert _standing_still(SimpleNamespace(ids=None), still, real, told=False).all()
    assert not _standing_still(SimpleNamespace(ids=None), moving, real, told=False).any()
    assert _standing_still(SimpleNamespace(ids=None), moving, real, told=True).sum() == STILL + 1


@seeds
def test_tokens_that_a_label_asks_for_by_id(seed):
    ids, real, rng = drawn(seed)
    labels, shift = rng.integers(0, 4, size=ids.shape), int(rng.integers(0, min(3, ids.shape[1])))
    found = _is_asked_for(SimpleNamespace(shift=shift, labels=labels, ids=ids, taught=real))
    for row, at in np.ndindex(ids.shape):
        asked = at >= shift and labels[row, at - shift] == ids[row, at]
        assert found[row, at] == (asked and real[row, at])


@pytest.mark.parametrize(
    ("ids", "stop", "pad", "begins"),
    [
        ([0, 0, 5, 6, 7], 4, 0, 2), ([0, 5, 6, 7, 8], 4, 0, 1), ([5, 6, 0, 7, 8], 4, 0, 0), ([9, 9, 5, 6, 7], 4, None, 2),
        ([9, 9, 5, 6, 7], 4, 0, 0), ([9, 5, 9, 6, 7], 4, None, 0), ([0, 5, 6, 7, 8], 1, 0, 0), ([0, 0, 5, 6, 7], 2, 0, 0),
    ],
)  # fmt: skip
def test_where_text_begins_behind_padding(ids, stop, pad, begins):
    assert _padding_in_front(np.array(ids), stop, pad) == begins


@pytest.mark.parametrize(
    ("ids", "kept", "hidden"),
    [
        # [CLS] a b [SEP] c d [SEP], of which the mask keeps the second sentence.
        ([[101, 5, 6, 102, 7, 8, 102], [101, 5, 102, 6, 7, 8, 102]], [4, 3], [(0, 4), (0, 3)]),
        ([[0, 101, 5, 102, 7, 8, 102], [101, 5, 102, 6, 7, 8, 102]], [4, 3], [(1, 4), (0, 3)]),
        # Another beginning or end, or too few ids, is no sentence.
        ([[100, 5, 6, 102, 7, 8, 102], [101, 5, 102, 6, 7, 8, 102]], [4, 3], None),
        ([[101, 5, 6, 103, 7, 8, 102], [101, 5, 102, 6, 7, 8, 102]], [4, 3], None),
        ([[101, 101, 101, 102, 7, 8, 102], [101, 5, 102, 6, 7, 8, 102]], [4, 3], None),
        ([[101, 5, 0, 102, 7, 8, 102], [101, 5, 102, 6, 7, 8, 102]], [4, 3], None),
    ],
)
def test_the_sentence_that_a_mask_hides_in_front(ids, kept, hidden):
    real = np.arange(7) >= np.array(kept)[:, None]
    found = _first_sentence(np.array(ids), real, PAD)
    if hidden is None:
        assert found is None
    else:
        assert np.array_equal(found, [[low <= at < high for at in range(7)] for low, high in hidden])


def test_one_value_in_the_flagged_part_of_each_row():
    rows, flags = np.array([[1, 2, 2], [3, 3, 4]]), np.array([[0, 1, 1], [1, 1, 0]], bool)
    assert _one_value_each(rows, flags)
    assert not _one_value_each(rows, np.ones_like(flags))
    assert _one_value_each(rows, np.zeros_like(flags))


EOS, BOS = 1, 2


@seeds
def test_labels_lost_between_equal_parts(seed):
    """The largest number of parts, a power of two, of which at least two borders lack their label and nothing else does."""
    rng = np.random.default_rng(seed)
    length, rows = int(rng.choice([8, 12, 16, 24, 32])), int(rng.integers(1, 4))
    ids = rng.integers(0, 40, size=(rows, length))
    taught = rng.random(ids.shape) < rng.choice([0.7, 0.97, 1.0])
    parts = int(rng.choice([2, 4, 8]))
    lost = [at for at in range(1, length) if length % parts == 0 and at % (length // parts) == 0]
    taught[: int(rng.integers(0, rows + 1)), lost] = False
    texts = np.cumsum(rng.random(ids.shape) < 0.05, axis=1) if rng.random() < 0.3 else None
    shift = int(rng.choice([1, 1, 1, 0]))
    text = SimpleNamespace(
        labels=ids, shift=shift, taught=taught, ids=ids, tokens=SimpleNamespace(documents=texts)
    )
    found, told = _lost_in_shards(text, Declared(eos_ids=(EOS,), bos_ids=(BOS,)))

    def misses(row, at):
        beside = taught[row, at - 1] and taught[row, at + 1] and not taught[row, at]
        begins = ids[row, at - 1] == EOS or ids[row, at] == BOS
        return beside and not begins and (texts is None or texts[row, at] == texts[row, at - 1])

    wanted, most = np.zeros(ids.shape, bool), 0
    for count in (2, 4, 8, 16) if shift == 1 else ():
        if length % count or length // count < 2:
            continue
        borders = range(length // count, length, length // count)
        here = np.zeros(ids.shape, bool)
        for row in range(rows):
            within = [at for at in borders if taught[row, at - 1] and taught[row, at + 1]]
            if len(within) > 1 and all(misses(row, at) for at in within):
                here[row, within] = True
        if here.any():
            wanted, most = here, count
    assert told == most
    assert np.array_equal(found, wanted)


@seeds
def test_what_stands_behind_the_last_end(seed):
    rng = np.random.default_rng(seed)
    rows, length = int(rng.integers(1, 4)), int(rng.integers(3, 12))
    ids = rng.integers(4, 9, size=(rows, length))
    real = np.arange(length) < rng.integers(1, length + 1, size=rows)[:, None]
    for row in ids:
        for _ in range(int(rng.integers(0, 4))):
            row[int(rng.integers(0, length))] = EOS
    if rng.random() < 0.5:
        ids[:, -2:] = EOS
    taught = real & (rng.random(ids.shape) < rng.choice([0.9, 1.0]))
    known = rng.random() < 0.7
    bos = (EOS,) if rng.random() < 0.3 else (BOS,) if rng.random() < 0.5 else ()
    text = SimpleNamespace(
        labels=ids, ids=ids, taught=taught, supervised=taught, real=real if known else None, shift=1
    )
    with mock.patch.multiple(endings, chat_of=lambda *_: None, ends_in=lambda *_: ids == EOS):
        found = endings._behind_ends(text, SimpleNamespace(declared=Declared(eos_ids=(EOS,), bos_ids=bos)))

    for row in range(rows):
        ends = [at for at in range(length) if ids[row, at] == EOS and taught[row, at]]
        again = [at for at in ends if at - 1 in ends and EOS not in bos]
        firsts = [at for at in ends if at not in again]
        at = firsts[-1] if firsts else length - 1
        tail = [k for k in range(at + 1, length) if taught[row, k] and (real[row, k] or not known)]
        few = 0 < len(tail) <= endings.BEHIND
        unbroken = tail == list(range(at + 1, at + 1 + len(tail)))
        nothing_more = not known or not tail or not real[row, tail[-1] + 1 :].any()
        sure = bool(bos) and len(tail) == 1 and tail[0] in again
        full = taught[row, -2:].any() and (not known or real[row].all())
        said = bool(ends) and at > 0 and taught[row, at - 1]
        wrong = few and unbroken and nothing_more and said and (sure or not full)
        assert found[row].tolist() == [wrong and k in tail for k in range(length)]


@pytest.mark.parametrize(
    ("ids", "first", "told", "begin"),
    [
        # An end in front of every row begins texts too; of a run of them that may be padding, the last one.
        ([[1, 5, 6], [1, 7, 8]], [0, 0], True, (EOS,)),
        ([[5, 6, 1], [7, 8, 1]], [0, 0], True, ()),
        ([[1, 1, 5], [1, 1, 7]], [2, 2], False, (EOS,)),
        ([[0, 1, 5], [0, 1, 7]], [2, 2], False, (EOS,)),
        ([[1, 0, 5], [1, 0, 7]], [2, 2], False, ()),
        ([[1, 1, 5], [1, 1, 7]], [2, 2], True, ()),
    ],
)
def test_ends_that_begin_texts_as_well(ids, first, told, begin):
    tokens = SimpleNamespace(real=np.ones((2, 3), bool) if told else None)
    text = SimpleNamespace(ids=np.array(ids), first=np.array(first), tokens=tokens)
    assert endings.ends_that_begin(text, Declared(eos_ids=(EOS, 3))) == begin
    assert endings.ends_that_begin(text, Declared(eos_ids=(EOS,), bos_ids=(EOS,))) == (EOS,)


@pytest.mark.parametrize(
    ("kind", "pad", "starts"),
    [("decoder", 0, (BOS, 9)), ("decoder", 9, (BOS,)), ("self", 0, (BOS,)), ("encoder", 0, (BOS,))],
)
def test_ids_that_begin_texts(kind, pad, starts):
    """A decoder's start does, where it is not its padding as well."""
    declared = SimpleNamespace(model=SimpleNamespace(start_id=9), pad_id=pad, bos_ids=(BOS,))
    assert _start_ids(SimpleNamespace(kind=kind), declared) == starts
    declared.model = None
    assert _start_ids(SimpleNamespace(kind=kind), declared) == (BOS,)


@seeds
def test_the_first_label_of_a_decoder_alone_is_ignored(seed):
    rng = np.random.default_rng(seed)
    supervised = rng.random((int(rng.integers(1, 4)), int(rng.integers(1, 4)))) < 0.8
    if rng.random() < 0.7:
        supervised[:, 0] = False
    wanted = np.zeros(supervised.shape, bool)
    if supervised.shape[1] > 1:
        wanted[:, 0] = all(not row[0] and row[1] for row in supervised)
    for kind in ("decoder", "self"):
        text = SimpleNamespace(labels=supervised, supervised=supervised, tokens=SimpleNamespace(kind=kind))
        assert np.array_equal(_first_target(text), wanted & (kind == "decoder"))


@seeds
def test_labels_on_padding_that_nothing_ties_to_the_tokens(seed):
    """They count where each row has one label on all of its padding, or where they ask for the padding's own id."""
    ids, real, rng = drawn(seed)
    ids = np.where(real, ids + 4, PAD)
    supervised = rng.random(ids.shape) < rng.choice([0.5, 1.0])
    one_each = rng.random() < 0.5
    labels = np.where(real, 7, 5 if one_each else rng.integers(4, 8, size=ids.shape))
    pads = np.array(
        [[any(at in edge for edge in edges_of(~kept)) for at in range(len(kept))] for kept in real]
    )
    reading = SimpleNamespace(
        shift=None, labels=labels, supervised=supervised, in_place=SimpleNamespace(supervised=supervised),
        tokens=SimpleNamespace(real=real, ids=ids),
    )  # fmt: skip
    found = _supervised_padding(reading, real, Declared(pad_id=PAD))
    for row in range(len(ids)):
        own = [at for at in range(ids.shape[1]) if pads[row, at]]
        alike = (
            len(own) > 1
            and all(supervised[row, at] for at in own)
            and len({labels[row, at] for at in own}) == 1
        )
        assert found[row].tolist() == [alike and at in own for at in range(ids.shape[1])]
    # The padding's own id.
    reading.labels = np.where(pads, PAD, labels)
    found = _supervised_padding(reading, real, Declared(pad_id=PAD))
    for row in range(len(ids)):
        own = [at for at in range(ids.shape[1]) if pads[row, at]]
        if len(own) == ids.shape[1]:
            continue
        alike = len(own) > 1 and all(supervised[row, at] for at in own)
        borders = {
            at for at in own if at + 1 < ids.shape[1] and not pads[row, at + 1] and not real[row, :at].any()
        }
        borders |= {at for at in own if at and not pads[row, at - 1] and not real[row, at:].any()}
        assert found[row].tolist() == [
            at in own and bool(supervised[row, at]) and (alike or at not in borders)
            for at in range(ids.shape[1])
        ], (ids[row], real[row], supervised[row])


@pytest.mark.parametrize(
    ("counted", "real", "answer"),
    [
        ([[1, 1, 0], [1, 1, 1]], [[1, 1, 0], [1, 1, 1]], Found), ([[0, 1, 0], [1, 1, 1]], [[1, 1, 0], [1, 1, 1]], Contrary),
        ([[1, 1, 1]], None, Found), ([[1, 1, 0]], None, Contrary), ([[0, 0, 0]], [[0, 0, 0]], type(None)),
    ],
)  # fmt: skip
def test_a_mask_of_answers_that_counts_all(counted, real, answer):
    tokens = SimpleNamespace(
        counted=np.array(counted),
        names={"loss_mask": "assistant_masks"},
        documents=None,
        name=lambda role: role,
    )
    text = SimpleNamespace(tokens=tokens, real=None if real is None else np.array(real, bool))
    assert isinstance(_whole_rows_counted(text), answer)
    for change in ({"names": {"loss_mask": "weights"}}, {"documents": np.zeros((2, 3))}, {"counted": None}):
        other = SimpleNamespace(tokens=SimpleNamespace(**vars(tokens) | change), real=text.real)
        assert _whole_rows_counted(other) is None


@pytest.mark.parametrize(
    ("bos", "eos", "real"),
    [
        ((), (), [[0, 1, 1, 1, 0]]),
        ((BOS,), (), [[0, 0, 1, 1, 0]]),
        ((), (EOS,), [[0, 1, 1, 0, 0]]),
        ((BOS,), (EOS,), [[0, 0, 1, 0, 0]]),
    ],
)
def test_padding_that_may_begin_or_end_a_text(bos, eos, real):
    """Of the ids of padding beside a text, one in front may begin it and one behind may end it, unless others are known to."""
    tokens = SimpleNamespace(ids=np.array([[PAD, PAD, 5, PAD, PAD]]), real=np.ones((1, 5), bool))
    found = _perhaps_real(tokens, Declared(pad_id=PAD, bos_ids=bos, eos_ids=eos))
    assert found.astype(int).tolist() == real
