"""Files of tensors: a batch a file, read in pieces; and rows as torch.save keeps a list of them."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import BatchEncoding

from maskcli.errors import MaskcliError
from maskcli.tables import open_tables, read
from tests.tables.whole import gathered, read_back

BATCH = {
    "input_ids": np.arange(12).reshape(4, 3),
    "attention_mask": np.array([[1, 1, 0]] * 4, np.uint8),
    "prompt_lengths": np.array([1, 2, 0, 1]),
    "position_ids": np.zeros((3, 4, 3), np.int64),
    "attention_bias": np.zeros((4, 1, 3, 3), np.float32),
}
SAVERS = {
    "safetensors": lambda path: save_file(BATCH, path),
    "npz": lambda path: np.savez_compressed(path, **BATCH),
    "pt": lambda path: torch.save({name: torch.from_numpy(values) for name, values in BATCH.items()}, path),
}


@pytest.mark.combinations
@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("part", [1, 200, 2**20])
def test_a_batch_is_a_part_or_some(tmp_path, monkeypatch, kind, part):
    monkeypatch.setattr("maskcli.tables.batch_files.PART", part)
    path = tmp_path / f"x.{kind}"
    SAVERS[kind](path)
    table, whole = read_back(path, cells=6)
    assert sum(each.size for each in table.parts) <= path.stat().st_size
    assert set(table.numbers) == {"input_ids", "attention_mask", "prompt_lengths"}
    assert table.others == {
        "position_ids": "one value for a whole batch",
        "attention_bias": "arrays of 3 axes",
    }
    assert {name: whole[name] for name in table.numbers} == {
        name: BATCH[name].tolist() for name in table.numbers
    }
    assert [bias.shape for bias in whole["attention_bias"]] == [(1, 3, 3)] * 4


def test_many_files_are_one_table(tmp_path):
    for at in range(3):
        np.savez(tmp_path / f"{at}.npz", input_ids=np.full((2, 3), at), labels=np.full((2, 3), -at))
    (table,) = open_tables([str(tmp_path)])
    values = [gathered(read(part, ["labels"]), ["labels"])["labels"] for part in table.parts]
    assert values == [[[-at] * 3] * 2 for at in range(3)]


ROWS = {"input_ids": [[1, 2, 3], [4]], "labels": [[-100, 2, 3], [4]], "n": [7, 8]}


@pytest.mark.parametrize("make", [list, np.array, torch.tensor], ids=["lists", "arrays", "tensors"])
@pytest.mark.parametrize("wrap", [dict, BatchEncoding], ids=["dicts", "encodings"])
def test_a_list_of_rows_is_one_set(tmp_path, make, wrap):
    rows = [
        wrap(
            {"input_ids": make(ROWS["input_ids"][at]), "labels": make(ROWS["labels"][at]), "n": ROWS["n"][at]}
        )
        for at in range(2)
    ]
    torch.save(rows, tmp_path / "x.pt")
    table, whole = read_back(tmp_path / "x.pt")
    assert len(table.parts) == 1
    assert whole == ROWS


def test_a_list_of_batches_and_ragged_columns(tmp_path):
    torch.save(
        [{"input_ids": torch.ones(2, 3, dtype=torch.int32)}, {"input_ids": torch.zeros(1, 2)}],
        tmp_path / "x.pt",
    )
    assert read_back(tmp_path / "x.pt")[1] == {"input_ids": [[1, 1, 1], [1, 1, 1], [0, 0]]}
    torch.save({"input_ids": [torch.ones(2), torch.zeros(1)], "labels": [[1, 2], [3]]}, tmp_path / "x.pt")
    assert read_back(tmp_path / "x.pt")[1] == {"input_ids": [[1, 1], [0]], "labels": [[1, 2], [3]]}


def test_a_lone_array_has_the_name_of_its_file(tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(6).reshape(2, 3))
    assert read_back(tmp_path / "tokens.npy")[1] == {"tokens": [[0, 1, 2], [3, 4, 5]]}
    torch.save(torch.arange(6).reshape(2, 3), tmp_path / "labels.pt")
    assert read_back(tmp_path / "labels.pt")[1] == {"labels": [[0, 1, 2], [3, 4, 5]]}
    np.save(tmp_path / "ids.npy", np.arange(3))
    assert read_back(tmp_path / "ids.npy")[1] == {"ids": [[0, 1, 2]]}


class Odd:
    """What no reader knows."""


def test_rows_of_another_kind_are_refused(tmp_path):
    torch.save([Odd()], tmp_path / "x.pt")
    with pytest.raises(MaskcliError, match="holds Python objects"):
        open_tables([str(tmp_path / "x.pt")])
