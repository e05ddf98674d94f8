"""Batches from texts, ids and lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.errors import MaskcliError
from maskcli.text import Batch, batch_from_ids, batch_from_lengths, batch_from_texts, load_tokenizer

words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=7).map(" ".join)
sides = st.sampled_from(["left", "right"])


def rows(batch: Batch) -> list[list[str]]:
    return [[batch.token(row, index) for index in range(batch.shape[1])] for row in range(batch.shape[0])]


def test_texts_become_padded_rows() -> None:
    batch = batch_from_texts(["a b c", "d"], load_tokenizer(), labels=True)
    assert batch.shape == (2, 3)
    assert rows(batch) == [["a", "b", "c"], ["d", "<pad>", "<pad>"]]
    assert batch.ids is not None
    assert batch.labels is not None
    assert batch.ids.tolist() == [[3, 4, 5], [6, 0, 0]]
    assert batch.attention_mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.special.tolist() == [[False, False, False], [False, True, True]]
    assert batch.labels.tolist() == [[3, 4, 5], [6, -100, -100]]
    assert (batch.segments, batch.documents, batch.warnings) == (None, None, ())
    assert batch.texts == ("a b c", "d")


def test_left_padding_counts_positions_from_the_first_real_token() -> None:
    batch = batch_from_texts(["a b c", "d"], load_tokenizer(), padding_side="left")
    assert rows(batch) == [["a", "b", "c"], ["<pad>", "<pad>", "d"]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]


@given(st.lists(words, min_size=1, max_size=4), sides, st.none() | st.integers(1, 9))
def test_each_row_holds_its_tokens_on_the_side_away_from_the_padding(
    texts: list[str], side: str, max_length: int | None
) -> None:
    tokenizer = load_tokenizer()
    batch = batch_from_texts(
        texts,
        tokenizer,
        padding_side=side,
        max_length=max_length,
        padding="max-length" if max_length else "longest",
    )
    wanted = [text.split()[:max_length] for text in texts]
    width = max_length or max(map(len, wanted))
    pads = [["<pad>"] * (width - len(row)) for row in wanted]
    pairs = zip(wanted, pads, strict=True)
    assert rows(batch) == [row + pad if side == "right" else pad + row for row, pad in pairs]
    assert batch.attention_mask.sum(axis=1).tolist() == [len(row) for row in wanted]
    lost = [i for i, text in enumerate(texts) if max_length and len(text.split()) > max_length]
    assert [warning.split()[1] for warning in batch.warnings] == [str(i) for i in lost]


@given(st.lists(words, min_size=1, max_size=4), st.none() | st.integers(1, 20))
def test_packing_puts_documents_side_by_side(texts: list[str], max_length: int | None) -> None:
    batch = batch_from_texts(
        texts,
        load_tokenizer(),
        packed=True,
        max_length=max_length,
        padding="max-length" if max_length else "longest",
    )
    everything = " ".join(texts).split()
    width = max_length or len(everything)
    kept = everything[:width]
    assert rows(batch) == [kept + ["<pad>"] * (width - len(kept))]
    assert batch.documents is not None
    assert batch.segments is not None
    assert sum(batch.documents) == len(kept)
    positions = [position for length in batch.documents for position in range(length)]
    assert batch.position_ids[batch.attention_mask].tolist() == positions
    index = [number for number, length in enumerate(batch.documents) for _ in range(length)]
    assert batch.segments.tolist() == [index + [-1] * (width - len(kept))]
    assert batch.texts == tuple(texts[: len(batch.documents)])


def test_packing_says_which_texts_it_cut() -> None:
    batch = batch_from_texts(["a b", "c d", "e"], load_tokenizer(), packed=True, max_length=3)
    assert batch.documents == (2, 1)
    assert [warning.split(" tokens")[0] for warning in batch.warnings] == [
        "text 1 lost 1 of its 2",
        "text 2 lost 1 of its 1",
    ]


def test_pairs_show_their_segments() -> None:
    batch = batch_from_texts(["a b", "c"], load_tokenizer(), pairs=["x", "y"], special_tokens=True)
    assert batch.segments is not None
    assert batch.segments.tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]


def test_truncation_of_the_end_is_said() -> None:
    batch = batch_from_texts(["a b <eos>", "c"], load_tokenizer(), max_length=2)
    assert batch.warnings == (
        "text 0 lost 1 of its 3 tokens to the maximum length 2, its end token <eos> among them",
    )


def test_labels_follow_the_attention_mask_where_pad_is_eos() -> None:
    batch = batch_from_texts(["a <eos>", "b", "c d <eos>"], load_tokenizer(pad_token="eos"), labels=True)
    assert batch.labels is not None
    assert batch.labels.tolist() == [[3, 2, -100], [4, -100, -100], [5, 6, 2]]
    borrowed, lost = batch.warnings
    assert "padding is the eos token <eos> (id 2)" in borrowed
    assert "would have lost 2 real eos tokens (samples 0, 2)" in lost


def test_ids_warn_as_texts_do_where_pad_is_eos() -> None:
    batch = batch_from_ids("3 2 2; 4 5 2", 2, tokenizer=load_tokenizer(), labels=True)
    borrowed, lost = batch.warnings
    assert "padding is the eos token <eos> (id 2)" in borrowed
    assert "would have lost 2 real eos tokens (samples 0, 1)" in lost
    assert batch_from_ids("3 0 0; 4 5 2", 0, tokenizer=load_tokenizer(), labels=True).warnings == ()


def test_borrowed_padding_that_pads_nothing_is_not_mentioned() -> None:
    assert batch_from_texts(["a", "b"], load_tokenizer(pad_token="eos"), labels=True).warnings == ()


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "there is no text"),
        ([" ", ""], {}, r"text 0 \(' '\) has no tokens"),
        (["a"], {"padding": "max-length"}, "pass --max-length too"),
        (["a"], {"padding": "longer"}, "no padding 'longer'.*longest or --padding max-length"),
        (["a"], {"max_length": 0}, "length of 0 leaves no tokens"),
        (["a"], {"padding_side": "top"}, "no padding side 'top'"),
        (["a"], {"padding": "max_length", "max_length": 10**12}, "1 x 1000000000000 tokens are more than"),
        (["a"], {"pairs": ["b", "c"]}, "1 texts and 2 second texts"),
    ],
)
def test_what_cannot_be_laid_out_is_an_error(
    texts: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(MaskcliError, match=message):
        batch_from_texts(texts, load_tokenizer(), **options)  # type: ignore[arg-type]


# Ids


def test_ids_are_padding_where_they_are_the_pad_id() -> None:
    batch = batch_from_ids("5 3 2 0 0; 7,4, 0 6 0", 0, labels=True)
    assert batch.attention_mask.tolist() == [
        [True, True, True, False, False],
        [True, True, False, True, False],
    ]
    assert rows(batch)[0] == ["5", "3", "2", "<pad>", "<pad>"]
    assert batch.labels is not None
    assert batch.labels.tolist()[0] == [5, 3, 2, -100, -100]
    assert batch.special.tolist()[0] == [False, False, False, True, True]


@given(st.lists(st.lists(st.integers(1, 2**62), min_size=1, max_size=6), min_size=1, max_size=4), sides)
def test_ids_survive_being_written_and_read(ids: list[list[int]], side: str) -> None:
    text = ";".join(" ".join(map(str, row)) for row in ids)
    for batch in (batch_from_ids(text, 0, padding_side=side), batch_from_ids(ids, 0, padding_side=side)):
        assert batch.ids is not None
        assert [row[mask].tolist() for row, mask in zip(batch.ids, batch.attention_mask, strict=True)] == ids
        edge = batch.attention_mask[:, 0 if side == "right" else -1]
        assert edge.all()


@pytest.mark.parametrize(
    ("text", "real"),
    [
        ("5 6 2 2 2", [1, 1, 1, 0, 0]),
        ("2 2 5 6 2", [0, 0, 1, 1, 1]),
        ("5 2 6 7 8", [1, 1, 1, 1, 1]),
        ("2 2 2 2 2", [1, 0, 0, 0, 0]),
        ("5 6 7 8 9", [1, 1, 1, 1, 1]),
    ],
)
def test_where_pad_is_eos_one_eos_at_the_end_is_real(text: str, real: list[int]) -> None:
    batch = batch_from_ids(text, tokenizer=load_tokenizer(pad_token="eos"))
    assert batch.attention_mask.astype(int).tolist() == [real]


def test_where_pad_is_bos_one_bos_at_the_start_is_real() -> None:
    batch = batch_from_ids("1 1 1 5 6; 1 5 6 1 1; 1 1 1 1 1", tokenizer=load_tokenizer(pad_token="bos"))
    assert batch.attention_mask.astype(int).tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]


def test_filled_up_rows_keep_their_eos() -> None:
    batch = batch_from_ids("5 6 7 2; 5 2; 5", tokenizer=load_tokenizer(pad_token="eos"))
    assert batch.attention_mask.sum(axis=1).tolist() == [4, 2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5 3; 7 4 8", "rows have 2 to 3 ids and no pad id is known.*--pad-id 0"),
        ("5 x 3", "the id 'x' is not a whole number"),
        ("5 1e3", "the id '1e3' is not a whole number"),
        ("5 -3", "the id -3 is out of range"),
        ("", "has no ids"),
        ("1;;2", "has no ids"),
        ("9" * 30, "is not a whole number"),
    ],
)
def test_ids_that_cannot_be_read_are_an_error(text: str, message: str) -> None:
    with pytest.raises(MaskcliError, match=message):
        batch_from_ids(text)


def test_lists_hold_whole_numbers_only() -> None:
    assert batch_from_ids([np.arange(1, 4).tolist(), [4, 5, 6]]).shape == (2, 3)
    for wrong in (1.5, "3", None, 2**63):
        with pytest.raises(MaskcliError, match="out of range"):
            batch_from_ids([[1, wrong]])  # type: ignore[list-item]


def test_a_final_semicolon_is_no_row() -> None:
    assert batch_from_ids("1 2; 3 4;").shape == (2, 2)


# Lengths


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), sides, st.none() | st.integers(1, 12))
def test_lengths_are_rows_without_ids(lengths: list[int], side: str, max_length: int | None) -> None:
    batch = batch_from_lengths(",".join(map(str, lengths)), padding_side=side, max_length=max_length)
    kept = [min(length, max_length or length) for length in lengths]
    assert batch.ids is None
    assert batch.shape == (len(lengths), max_length or max(lengths))
    assert batch.attention_mask.sum(axis=1).tolist() == kept
    assert len(batch.warnings) == sum(cut < length for cut, length in zip(kept, lengths, strict=True))
    real = batch.attention_mask[:, ::-1] if side == "left" else batch.attention_mask
    assert np.array_equal(np.sort(~real, axis=1), ~real)


def test_a_length_has_indices_for_tokens() -> None:
    batch = batch_from_lengths([1, 3])
    assert rows(batch) == [["0", "<pad>", "<pad>"], ["0", "1", "2"]]


def test_packed_lengths_are_documents_of_one_row() -> None:
    batch = batch_from_lengths("2 3", packed=True, max_length=7)
    assert batch.documents == (2, 3)
    assert batch.segments is not None
    assert batch.segments.tolist() == [[0, 0, 1, 1, 1, -1, -1]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 0, 0]]


@pytest.mark.parametrize("text", ["0", "5,0", "", "2.5", "-1", "99999999999", "five"])
def test_lengths_that_make_no_row_are_an_error(text: str) -> None:
    with pytest.raises(MaskcliError, match=r"length|cells"):
        batch_from_lengths(text)


def test_a_text_without_tokens_is_a_row_of_padding() -> None:
    batch = batch_from_texts(["", "a b"], load_tokenizer(), labels=True)
    assert batch.attention_mask.tolist() == [[False, False], [True, True]]
    assert batch.labels is not None
    assert batch.labels[0].tolist() == [-100, -100]


def test_no_label_foretells_the_next_document() -> None:
    batch = batch_from_texts(["a b", "c d", "e"], load_tokenizer(), packed=True, labels=True)
    assert batch.ids is not None
    assert batch.labels is not None
    counted = batch.labels[0] != -100
    assert counted.tolist() == [True, True, False, True, False]
    assert batch.labels[0][counted].tolist() == batch.ids[0][counted].tolist()


def test_a_text_without_tokens_is_no_document() -> None:
    batch = batch_from_texts(["a", "", "b c"], load_tokenizer(), packed=True)
    assert batch.documents == (1, 2)
    assert batch.texts == ("a", "b c")
