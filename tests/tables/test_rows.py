"""Rows that Python holds: datasets, loaders, collators' batches, lists and generators."""

import numpy as np
import pytest
import torch
from hypothesis import given

from maskcli.errors import MaskcliError
from maskcli.tables import from_rows
from tests.tables.whole import as_rows, columns, gathered, telling

ROWS = {"input_ids": [[1, 2, 3], [4], []], "labels": [[-100, 2, 3], [4], []]}


def held_of(data, **bounds):
    """The one table of some data, and all of its columns."""
    (held,) = from_rows(data)
    table = held.table
    return table, gathered(held.read(table.numbers, table.others, **bounds), table.numbers, table.others)


@pytest.mark.long
@given(columns)
def test_rows_of_lists_arrays_and_tensors(columns):
    rows = as_rows(columns)
    for make in (
        list,
        tuple,
        lambda row: np.array(row, np.int64),
        lambda row: torch.tensor(row, dtype=torch.int64),
    ):
        made = [{name: make(values) for name, values in row.items()} for row in rows]
        _, whole = held_of(made, rows=3)
        assert whole == (telling(columns) if make in (list, tuple) else columns if rows else {})


def test_a_generator_is_read_once():
    (held,) = from_rows(row for row in as_rows(ROWS) * 20)
    assert gathered(held.read(["labels"]), ["labels"]) == {"labels": ROWS["labels"] * 20}
    with pytest.raises(MaskcliError, match="gives its rows only once"):
        next(held.read(["labels"]))
    (held,) = from_rows(as_rows(ROWS))
    assert [gathered(held.read(["labels"]), ["labels"]) for _ in range(2)] == [{"labels": ROWS["labels"]}] * 2


def test_datasets_keep_their_selection_of_rows_and_columns():
    datasets = pytest.importorskip("datasets")
    messages = [[{"role": "user", "content": "hi"}], [], None]
    dataset = datasets.Dataset.from_dict({**ROWS, "messages": messages, "n": [7, 8, 9]})
    table, whole = held_of(dataset)
    assert table.numbers == ("input_ids", "labels", "n")
    assert table.others == {"messages": "objects"}
    assert whole == {**ROWS, "messages": messages, "n": [7, 8, 9]}

    _, whole = held_of(dataset.select([2, 0]).with_format("torch", columns=["labels", "n"]))
    assert whole == {"labels": [[], [-100, 2, 3]], "n": [9, 7]}
    made = dataset.with_transform(lambda batch: {"input_ids": [[0, *ids] for ids in batch["input_ids"]]})
    assert held_of(made)[1] == {"input_ids": [[0, 1, 2, 3], [0, 4], [0]]}
    assert held_of(dataset.to_iterable_dataset().select_columns(["labels"]))[1] == {"labels": ROWS["labels"]}

    splits = from_rows(datasets.DatasetDict({"train": dataset, "test": dataset}))
    assert [held.table.name for held in splits] == ["train", "test"]


def test_batches_of_a_loader_are_rows():
    from transformers import DataCollatorForSeq2Seq

    class Tokenizer:
        padding_side = "right"

        def pad(self, features, **_):
            longest = max(len(row["input_ids"]) for row in features)
            padded = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in features]
            return {"input_ids": torch.tensor(padded)}

    rows = [{"input_ids": [1, 2, 3]}, {"input_ids": [4]}, {"input_ids": [5, 6]}]
    loader = torch.utils.data.DataLoader(rows, batch_size=2, collate_fn=DataCollatorForSeq2Seq(Tokenizer()))
    assert held_of(loader)[1] == {"input_ids": [[1, 2, 3], [4, 0, 0], [5, 6]]}


def test_a_batch_is_taken_apart_by_rows():
    batch = {
        "input_ids": torch.tensor([[1, 2], [3, 4]]),
        "labels": [[1, 2], [3]],
        "prompt_lengths": torch.tensor([1, 0]),
        "pixel_values": torch.zeros(2, 3, 4, 4),
        "position_ids": torch.zeros(3, 2, 2),
        "num_items_in_batch": 4,
        "texts": ["a", "b"],
    }
    table, whole = held_of(batch)
    assert table.numbers == ("input_ids", "labels", "prompt_lengths")
    assert {name: whole[name] for name in table.numbers} == {
        "input_ids": [[1, 2], [3, 4]],
        "labels": [[1, 2], [3]],
        "prompt_lengths": [1, 0],
    }
    assert {name: whole[name] for name in ("texts", "position_ids")} == {
        "texts": ["a", "b"],
        "position_ids": [None, None],
    }
    assert table.others == {
        "pixel_values": "arrays of 3 axes",
        "texts": "text",
        **dict.fromkeys(("position_ids", "num_items_in_batch"), "one value for a whole batch"),
    }


def test_a_batch_of_one_packed_row_has_all_that_comes_with_it():
    batch = {
        "input_ids": torch.arange(5)[None],
        "cu_seq_lens_q": torch.tensor([0, 2, 5], dtype=torch.int32),
        "max_length_q": 3,
    }
    assert held_of([batch, batch])[1] == {
        "input_ids": [[0, 1, 2, 3, 4]] * 2,
        "cu_seq_lens_q": [[0, 2, 5]] * 2,
        "max_length_q": [3] * 2,
    }


def test_ragged_batches_and_rows_with_odd_columns():
    batches = [
        {"input_ids": [[1, 2], [3]]},
        {"input_ids": [[4]], "labels": [[5]]},
        {"input_ids": [6], "labels": []},
    ]
    assert held_of(batches)[1] == {"input_ids": [[1, 2], [3], [4], [6]], "labels": [[], [], [5], []]}
    row = {"input_ids": [1, 2], "image_grid_thw": [[1, 2, 3]], "label": 1}
    table, whole = held_of([row])
    assert table.others == {"image_grid_thw": "nested lists"}
    assert whole == {"input_ids": [[1, 2]], "label": [1], "image_grid_thw": [[[1, 2, 3]]]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (7, "'int' is no training set"),
        ([[1, 2, 3]], "item 0 of 'rows' is a list, expected a row or batch by its columns"),
        (["text"], "item 0 of 'rows' is a str"),
        ([{"input_ids": [1]}, torch.zeros(3)], "item 1 of 'rows' is a Tensor"),
        ([{"input_ids": [1]}, {"input_ids": "x"}], "row 1 of 'rows' holds text ('x') as 'input_ids'"),
        ([{"input_ids": [1]}, {"input_ids": [1, None]}], "row 1 of 'rows' holds a null at place 1"),
        ([{"input_ids": [1]}, {"input_ids": [2**80]}], "row 1 of 'rows' holds whole numbers beyond 64 bits"),
        ([{"input_ids": [1]}, {"input_ids": object()}], "row 1 of 'rows' holds object"),
        (
            [{"input_ids": [1]}, {"input_ids": [[1], [2, 3]], "labels": [1]}, {"input_ids": [1, [2]]}],
            "row 3 of 'rows'",
        ),
    ],
)
def test_wrong_types_are_one_sentence(data, said):
    with pytest.raises(MaskcliError) as caught:
        held_of(data)
    assert said in str(caught.value)
