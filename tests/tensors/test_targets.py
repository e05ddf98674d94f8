"""FILE[:TENSOR], names that are nearly right, and --role."""

import numpy as np
import pytest

from maskcli.errors import MaskcliError
from maskcli.tensors import find_tensor, from_arrays, parse_role, split_target


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("dump.safetensors", ("dump.safetensors", None)),
        ("dump.safetensors:attn.0", ("dump.safetensors", "attn.0")),
        ("dump.safetensors:", ("dump.safetensors", None)),
        ("C:\\dumps\\a.npz", ("C:\\dumps\\a.npz", None)),
        ("C:\\dumps\\a.npz:x", ("C:\\dumps\\a.npz", "x")),
        ("a.npz:layer:0", ("a.npz", "layer:0")),
        ("noSuffix", ("noSuffix", None)),
    ],
)
def test_a_target_is_a_path_and_a_name(target, parts):
    assert split_target(target) == parts


def test_a_path_that_exists_wins(tmp_path):
    odd = tmp_path / "run:3.npy"
    odd.touch()
    assert split_target(str(odd)) == (str(odd), None)
    assert split_target(f"{odd}:x:y") == (str(odd), "x:y")


def test_the_nearest_name_is_offered():
    file = from_arrays({"attentions.0": np.ones(1), "mask": np.ones(1)}, "dump.pt")
    assert find_tensor(file, "mask").name == "mask"
    with pytest.raises(
        MaskcliError, match=r"'dump.pt' has no tensor 'attention.0': did you mean 'attentions.0'\?"
    ):
        find_tensor(file, "attention.0")
    with pytest.raises(MaskcliError, match=r"it has 'attentions\.0', 'mask'"):
        find_tensor(file, "zzz")


def test_roles_on_the_command_line():
    assert parse_role("mask=dump.npz:x") == ("mask", "dump.npz", "x")
    assert parse_role("padding-mask=a=b.npy") == ("padding_mask", "a=b.npy", None)
    for wrong in ("mask", "mask=", "shape=a.npy", "=a.npy"):
        with pytest.raises(MaskcliError, match="ROLE=FILE"):
            parse_role(wrong)
