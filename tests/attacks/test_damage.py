"""Damage that leaves a file readable: it is refused, or what is read is what was written."""

import json
import struct
import zipfile

import numpy as np
import pytest
import torch

import maskcli
from maskcli.errors import MaskcliError
from maskcli.tensors import open_tensors


def opened(path, block):
    path.write_bytes(block)
    return open_tensors(path)


def test_a_member_of_another_checksum_is_no_array(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, weights=np.arange(8.0))
    block = bytearray(path.read_bytes())
    block[block.index(struct.pack("<d", 5.0))] ^= 1
    with pytest.raises(MaskcliError, match="no sound array 'weights'"):
        opened(path, block)


def test_a_member_that_calls_itself_otherwise_is_not_read(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, weights=np.arange(8.0))
    block = path.read_bytes()
    with pytest.raises(MaskcliError, match=r"has no member 'wEights\.npy'"):
        opened(path, b"wEights".join(block.rsplit(b"weights", 1)))


def retold(path, tensors, *changes):
    """The bytes of a file by torch.save whose pickle says something else."""
    torch.save(tensors, path)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            for before, after in changes if name.endswith("data.pkl") else ():
                assert before in content
                content = content.replace(before, after, 1)
            archive.writestr(name, content)
    return path


def test_a_storage_of_another_size_than_its_tensors_say_is_refused(tmp_path):
    path = retold(tmp_path / "x.pt", {"w": torch.ones(4, 4)}, (b"FloatStorage", b"DoubleStorage"))
    with pytest.raises(MaskcliError, match="holds 64 bytes for 'w' where its pickle says 128"):
        open_tensors(path)


def test_one_storage_under_two_types_is_refused(tmp_path):
    both = {"a": torch.ones(4), "b": torch.ones(4, dtype=torch.int32)}
    path = retold(tmp_path / "x.pt", both, (b"X\x01\x00\x00\x001", b"X\x01\x00\x00\x000"))
    with pytest.raises(MaskcliError, match="one storage under two types"):
        open_tensors(path)


@pytest.mark.parametrize("odd", ["null", "1.5", "1e300", "Infinity", "NaN"])
@pytest.mark.parametrize("name", ["input_ids", "labels"])
def test_ids_and_labels_that_are_no_whole_numbers_are_refused(tmp_path, name, odd):
    rows = [{"input_ids": [3, 4, 5], "labels": [3, 4, 5]} for _ in range(3)]
    lines = [json.dumps(row) for row in rows]
    lines[1] = lines[1].replace(f'"{name}": [3, 4', f'"{name}": [3, {odd}')
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    with pytest.raises(MaskcliError):
        maskcli.audit(str(tmp_path / "x.jsonl"))


def test_a_set_whose_rows_hold_single_numbers_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"input_ids": 5, "prompt_lengths": 1}\n' * 2)
    with pytest.raises(MaskcliError):
        maskcli.audit(str(tmp_path / "x.jsonl"))


def test_two_axes_for_mha_are_read_by_their_name_alone():
    keep = np.array([[True, False, False], [True, True, False]])
    as_mha = maskcli.convert(keep, "mha", convention="sdpa")
    with pytest.raises(MaskcliError, match="key_padding_mask"):
        maskcli.convert(as_mha, "additive", convention="mha")


def test_members_that_begin_elsewhere_than_their_neighbours_leave_room_for_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(8.0)}, path)
    block = bytearray(path.read_bytes())
    # The length of what stands between the header's name and the data.
    at = block.index(b"x/data/0") - 2
    block[at] -= 4
    with pytest.raises(MaskcliError, match="holds no sound member 'x/data/0'"):
        opened(path, block)


@pytest.mark.parametrize(
    ("field", "number"), [(30, b"\x00\x20"), (32, b"\x20\x00")], ids=["more about it", "a comment"]
)
def test_a_directory_whose_last_entry_reaches_behind_its_end_is_refused(tmp_path, field, number):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(4)}, path)
    block = bytearray(path.read_bytes())
    at = block.rindex(b"PK\x01\x02") + field
    block[at : at + 2] = number
    with pytest.raises(MaskcliError, match="without a sound directory"):
        opened(path, block)


def test_a_directory_before_the_beginning_of_its_file_has_no_members(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(2)}, path)
    block = bytearray(path.read_bytes())
    struct.pack_into("<Q", block, block.rindex(b"PK\x06\x06") + 48, 2**63 + 5)
    with pytest.raises(MaskcliError, match=r"has no member 'x/data\.pkl' where its directory says"):
        opened(path, block)


def test_a_member_that_calls_itself_a_folder_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(4)}, path)
    block = bytearray(path.read_bytes())
    entry = block.index(b"PK\x01\x02", block.index(b"PK\x01\x02") + 4)
    while block[entry + 46 :][:8] != b"x/data/0":
        entry = block.index(b"PK\x01\x02", entry + 4)
    block[entry + 38] |= 0x10
    with pytest.raises(MaskcliError, match="holds no sound member 'x/data/0'"):
        opened(path, block)


def test_a_stored_member_has_one_size(tmp_path):
    path = tmp_path / "mask.npz"
    np.savez(path, mask=np.ones((2, 1, 4, 4), np.float32))
    block = bytearray(path.read_bytes())
    at = block.rindex(b"PK\x01\x02") + 24
    block[at : at + 4] = (2**30).to_bytes(4, "little")
    with pytest.raises(MaskcliError, match="of two sizes that are not compressed"):
        opened(path, block)


def legacy(path, saved):
    """The bytes of a file in torch's format from before 1.6."""
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def test_a_legacy_file_that_names_no_storage_is_refused(tmp_path):
    """torch loads it, with memory that nobody has filled."""
    path = tmp_path / "x.pt"
    block = legacy(path, {"w": torch.ones(4)})
    begin = block.rindex(b"\x80\x02]")
    path.write_bytes(block[:begin] + b"\x80\x02]." + block[-24:])
    assert torch.load(path, weights_only=True)["w"].shape == (4,)
    with pytest.raises(MaskcliError, match="in torch's old format, and damaged"):
        open_tensors(path)


@pytest.mark.parametrize("end", [1, 9, 17])
def test_a_legacy_file_that_ends_early_is_refused(tmp_path, end):
    path = tmp_path / "x.pt"
    block = legacy(path, {"a": torch.ones(2), "b": torch.ones(2)})
    with pytest.raises(MaskcliError, match="ends in the middle of its tensors"):
        opened(path, block[:-end])


def test_a_legacy_storage_of_another_size_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    block = legacy(path, {"w": torch.ones(4)})
    count = struct.pack("<q", 4) + struct.pack("<f", 1.0)
    with pytest.raises(MaskcliError, match="holds 8 bytes for 'w' where its pickle says 16"):
        opened(path, block.replace(count, struct.pack("<q", 2) + count[8:]))


def test_legacy_keys_that_share_lists_are_refused_at_once(tmp_path):
    """Written out, they would be 2^40 lists."""
    path = tmp_path / "x.pt"
    block = legacy(path, {"w": torch.ones(4)})
    begin = block.rindex(b"\x80\x02]")
    laughs = b"\x80\x02]" + b"q\x01](h\x01h\x01e" * 40 + b"."
    with pytest.raises(MaskcliError, match="in torch's old format, and damaged"):
        opened(path, block[:begin] + laughs + block[-24:])
