"""What an audit takes: lists, datasets, loaders and batches of rows, columns by many names, files in several processes."""

from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import maskcli
from maskcli.auditing.roles import columns_of, parse_column

IGNORED, PAD, END = -100, 0, 2
FACTS = {"pad_id": PAD, "eos_id": END}


def rows_of(count, seed=0, sick=(3,)):
    """Rows of a prompt and a counted answer; of the `sick` ones the end is not counted."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        ids = [*rng.permutation(np.arange(10, 900))[: int(rng.integers(12, 20))].tolist(), END]
        labels = [IGNORED] * 5 + ids[5:]
        if number in sick:
            labels[-1] = IGNORED
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def collated(rows):
    """A batch as a collator makes it: padded on the right, with an attention mask."""
    longest = max(len(row["input_ids"]) for row in rows)
    fills = {"input_ids": PAD, "labels": IGNORED, "attention_mask": 0}
    with_mask = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
    return {
        name: torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in with_mask])
        for name, fill in fills.items()
    }


def told(report):
    return [(found.code, [row.row for row in found.first]) for found in report.findings]


def test_lists_datasets_loaders_and_batches_say_the_same():
    datasets = pytest.importorskip("datasets")
    rows = rows_of(10)
    loader = torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=collated)
    for data in (rows, iter(rows), datasets.Dataset.from_list(rows), loader, list(loader), collated(rows)):
        report = maskcli.audit(data, **FACTS)
        assert told(report) == [("MSK506", [3])]
        assert (report.glance.rows, report.glance.real) == (10, sum(len(row["input_ids"]) for row in rows))


def test_splits_are_audited_one_by_one():
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows_of(4)) for name in ("train", "test")}
    )
    with pytest.raises(maskcli.MaskcliError, match="2 sets: 'train', 'test'"):
        maskcli.audit(splits)


@pytest.mark.parametrize("group", ["", "chosen_", "rejected_"])
def test_prompts_and_answers_are_one_row(group):
    answer = f"{group}ids" if group else "completion_ids"
    rows = [{"prompt_ids": row["input_ids"][:5], answer: row["input_ids"][5:]} for row in rows_of(6, sick=())]
    report = maskcli.audit(rows, **FACTS)
    assert told(report) == []
    assert report.glance.counted == sum(len(row[answer]) for row in rows)
    rows[2][answer].append(END)
    assert told(maskcli.audit(rows, **FACTS)) == [("MSK513", [2])]


def test_padded_prompts_and_answers_by_their_masks():
    rows = [
        {
            "prompt_ids": [PAD] * 2 + row["input_ids"][:5],
            "prompt_mask": [0] * 2 + [1] * 5,
            "completion_ids": row["input_ids"][5:] + [PAD] * 3,
            "completion_mask": [1] * (len(row["input_ids"]) - 5) + [0] * 3,
        }
        for row in rows_of(6, sick=())
    ]
    report = maskcli.audit(rows, **FACTS)
    assert told(report) == []
    assert report.glance.padding == 6 * 5
    assert report.glance.counted == sum(sum(row["completion_mask"]) for row in rows)


def test_chosen_and_rejected_are_two_sides_of_one_row():
    good, other = rows_of(5, sick=()), rows_of(5, seed=1, sick=(4,))
    rows = [
        {
            f"{side}_{name}": values
            for side, row in (("chosen", a), ("rejected", b))
            for name, values in row.items()
        }
        for a, b in zip(good, other, strict=True)
    ]
    report = maskcli.audit(rows, **FACTS)
    assert (report.glance.rows, told(report)) == (5, [("MSK506", [4])])
    assert report.findings[0].examples[0].tokens == tuple(other[4]["input_ids"])


def test_masks_and_labels_count_where_both_do():
    rows = rows_of(6, sick=())
    for row in rows:
        row["completion_mask"] = [0] * 8 + [1] * (len(row["input_ids"]) - 8)
    report = maskcli.audit(rows, **FACTS)
    assert report.glance.counted == sum(len(row["input_ids"]) - 8 for row in rows)


@pytest.mark.parametrize("name", ["seq_lengths", "cu_seqlens", "seq_start_id", "segment_ids", "position_ids"])
def test_packed_rows_by_whatever_tells_their_texts(name):
    rows = []
    for number in range(6):
        texts = [row["input_ids"] for row in rows_of(3, seed=number, sick=())]
        lengths = [len(text) for text in texts]
        ids = list(chain.from_iterable(texts))
        ends = np.cumsum(lengths)
        told_by = {
            "seq_lengths": lengths,
            "cu_seqlens": [0, *ends.tolist()],
            "seq_start_id": [0, *ends[:-1].tolist()],
            "segment_ids": np.repeat([1, 2, 3], lengths).tolist(),
            "position_ids": np.concatenate([np.arange(n) for n in lengths]).tolist(),
        }
        labels = np.array(ids)
        labels[[0, *ends[:-1]]] = IGNORED
        rows.append({"input_ids": ids, "labels": labels.tolist(), name: told_by[name]})
    glance = maskcli.audit(rows, **FACTS).glance
    assert (glance.packed_rows, glance.documents) == (6, 18)
    assert told(maskcli.audit(rows, **FACTS)) == []
    rows[2]["labels"] = rows[2]["input_ids"]
    assert told(maskcli.audit(rows, **FACTS)) == [("MSK516", [2])]


def test_columns_of_unknown_names_are_told_and_can_be_said():
    rows = [row | {"my_mask": [0] * 6 + [1] * (len(row["input_ids"]) - 6)} for row in rows_of(4, sick=())]
    unsaid = maskcli.audit(rows, **FACTS)
    assert unsaid.unread == {
        "my_mask": "its name says nothing; say what it is, such as --column loss_mask=my_mask"
    }
    said = maskcli.audit(rows, columns={"my_mask": "loss_mask"}, **FACTS)
    assert (said.unread, said.roles["my_mask"]) == ({}, "loss_mask")
    assert said.glance.counted == unsaid.glance.counted - 4
    assert parse_column("loss_mask=my_mask") == ("my_mask", "loss_mask")
    for wrong in ("my_mask", "weights=my_mask", "loss_mask="):
        with pytest.raises(maskcli.MaskcliError, match="expected ROLE=NAME"):
            parse_column(wrong)
    with pytest.raises(maskcli.MaskcliError, match="there is no column 'other'"):
        columns_of(["input_ids"], {"other": "labels"})


def test_ragged_columns_of_any_kind_are_no_internal_error():
    rng = np.random.default_rng(0)
    names = [
        "input_ids",
        "labels",
        "attention_mask",
        "position_ids",
        "seq_lengths",
        "loss_mask",
        "token_type_ids",
    ]
    for _ in range(60):
        chosen = [name for name in names if rng.random() < 0.6]
        rows = [
            {name: rng.integers(-2, 5, rng.integers(0, 6)).tolist() for name in chosen}
            for _ in range(int(rng.integers(1, 9)))
        ]
        try:
            report = maskcli.audit(rows, **FACTS)
        except maskcli.MaskcliError:
            continue
        assert report.glance.rows == len(rows)


def test_row_groups_in_two_processes_say_the_same(tmp_path):
    rows, path = rows_of(400, sick=(7, 399)), tmp_path / "set.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    one, two = (maskcli.audit(path, jobs=jobs, **FACTS) for jobs in (1, 2))
    assert one == two
    assert told(two) == [("MSK506", [7, 399])]
