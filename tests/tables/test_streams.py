"""Token ids without a header: cut behind the last token of each text, or by length, with masks beside them."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import maskcli
from maskcli.errors import MaskcliError
from maskcli.tables import Raw, open_tables, read
from tests.cli.running import run
from tests.tables.whole import gathered

anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
EOS = (7,)


def rows_of(path, raw=None):
    (table,) = open_tables([str(path)], raw)
    names = table.numbers
    whole = {name: [] for name in names}
    for part in table.parts:
        for name, values in gathered(read(part, names), names).items():
            whole[name] += values
    return whole


def by_hand(tokens, raw):
    """The rows of a stream, token by token."""
    rows, row = [], []
    for token in tokens:
        row.append(token)
        if len(row) == raw.length or (raw.length is None and token in raw.eos):
            rows.append(row)
            row = []
    return [*rows, row] if row else rows


@anywhere
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.one_of(st.just(None), st.integers(1, 9)),
    st.sampled_from(["uint16", "uint32", "int64"]),
    st.integers(1, 64),
    st.integers(1, 64),
)
def test_a_stream_is_cut_alike_whatever_its_pieces(tmp_path, tokens, length, dtype, part, block):
    raw = Raw(dtype, EOS, length)
    np.array(tokens, dtype).tofile(tmp_path / "token_ids_part_0.npy")
    (np.arange(len(tokens)) % 2 == 0).tofile(tmp_path / "labels_mask_part_0.npy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskcli.tables.streams.PART", part)
        patch.setattr("maskcli.tables.streams.BLOCK", max(block, np.dtype(dtype).itemsize))
        whole = rows_of(tmp_path, raw)
    assert whole["input_ids"] == by_hand(tokens, raw)
    flat = [bit for row in whole["labels_mask"] for bit in row]
    assert flat == [int(at % 2 == 0) for at in range(len(tokens))]
    assert [len(row) for row in whole["labels_mask"]] == [len(row) for row in whole["input_ids"]]


def test_files_with_a_header_stay_what_they_are(tmp_path):
    np.save(tmp_path / "input_ids.npy", np.ones((2, 3), np.int64))
    assert rows_of(tmp_path / "input_ids.npy") == {"input_ids": [[1, 1, 1]] * 2}
    with pytest.raises(MaskcliError, match="leave --dtype out"):
        rows_of(tmp_path / "input_ids.npy", Raw("uint16", EOS))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (Raw("float32", EOS), "'float32' is no type of token ids"),
        (Raw("uint16"), "say where its rows end"),
        (Raw("uint32", EOS), "has 6 bytes, which are no uint32"),
    ],
)
def test_what_a_stream_needs_is_said(tmp_path, raw, said):
    np.arange(3).astype(np.uint16).tofile(tmp_path / "x.bin")
    with pytest.raises(MaskcliError, match=said):
        rows_of(tmp_path / "x.bin", raw)


def test_a_mask_of_another_length_is_told(tmp_path):
    np.arange(3).astype(np.uint16).tofile(tmp_path / "token_ids_part_0.npy")
    np.ones(4, bool).tofile(tmp_path / "labels_mask_part_0.npy")
    with pytest.raises(MaskcliError, match="expected a mask of 3 tokens"):
        rows_of(tmp_path, Raw("uint16", EOS))


def test_a_text_without_an_end_is_not_read_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("maskcli.tables.streams.MAX_VALUES", 100)
    monkeypatch.setattr("maskcli.tables.streams.BLOCK", 64)
    np.zeros(1000, np.uint16).tofile(tmp_path / "x.bin")
    with pytest.raises(
        MaskcliError, match="has no token 7 in 100 tokens from token 0 on; check the id and the type"
    ):
        rows_of(tmp_path / "x.bin", Raw("uint16", EOS))


def test_an_audit_reads_streams(tmp_path):
    np.array([3, 4, 7, 5, 6, 7], np.uint16).tofile(tmp_path / "token_ids_part_0.npy")
    np.array([0, 1, 1, 0, 1, 1], bool).tofile(tmp_path / "labels_mask_part_0.npy")
    done = run("audit", tmp_path, "--dtype", "uint16", "--eos-id", 7, "--format", "json", check=None)
    (report,) = json.loads(done.stdout)["sets"]
    assert (report["glance"]["rows"], report["glance"]["tokens"], report["glance"]["counted"]) == (2, 6, 4)
    glance = maskcli.audit(tmp_path, dtype="uint16", eos_id=7).glance
    assert (glance.rows, glance.tokens, glance.counted) == (2, 6, 4)
    with pytest.raises(MaskcliError, match="such as --dtype uint16"):
        maskcli.audit(tmp_path / "token_ids_part_0.npy", eos_id=7)
