"""What `show -o FILE` wrote is read by the other commands as what it is, with nothing added."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import maskcli
from maskcli.api.comparing import compare
from maskcli.api.converting import convert
from maskcli.inputs.given import Given
from maskcli.inputs.texts import show
from maskcli.masks.conventions import CONVENTIONS
from maskcli.masks.naming import name_of
from maskcli.report.shown import forms_for
from maskcli.tensors import open_tensors
from tests.cli.running import read, refused, run

SUFFIXES = (".safetensors", ".npz", ".pt")


def saved(shown, path):
    """The file that `show -o` writes."""
    (form,) = (each for each in forms_for(str(path)) if path.suffix in each.suffixes)
    form.write(shown, str(path))
    return str(path)


def dense(shown):
    """A mask as a boolean array [B, H, Q, K]."""
    batch, heads, queries, _ = shown.mask.shape
    planes = itertools.product(range(batch), range(heads))
    return np.stack([shown.mask.dense(item, head, (0, queries)) for item, head in planes]).reshape(
        shown.mask.shape
    )


KINDS = {
    "causal": {"lengths": "4,4"},
    "padding": {"lengths": "2,4,4,1"},
    "causal & padding": {"lengths": "5,3,4", "side": "left"},
    "(causal | prefix:2) & padding": {"lengths": "3,2,3"},
    "combined": {"ids": "5 3 2 0 0; 7 4 8 6 0", "pad_id": 0},
    "prefix-lm:2 & padding": {"texts": ("The cat sat", "Hello")},
    "causal & documents": {"texts": ("a b", "c", "d e f"), "packed": True},
    "documents": {"lengths": "2,3,1", "packed": True},
    "cross": {"texts": ("guten Tag", "ja"), "source": ("good day to you", "yes")},
    "cross & prefix:3": {"texts": ("a b c d",), "source": ("one two three four",)},
    "same:token_type_ids": {"texts": ("a b", "c"), "pairs": ("d", "e f g"), "special_tokens": True},
}


@pytest.mark.combinations
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("to", CONVENTIONS)
@pytest.mark.parametrize("spec", [spec for spec in KINDS if "same" not in spec])
def test_every_kind_in_every_convention_and_format(spec, to, suffix, tmp_path):
    if CONVENTIONS[to].over_keys and spec not in ("padding", "cross"):
        pytest.skip("hf holds one row of keys for each sample")
    shown = show(Given(**KINDS[spec]), spec, to=to)
    check(shown, spec, saved(shown, tmp_path / f"mask{suffix}"))


def check(shown, spec, path):
    """A file says the same as what was shown, in every way to read it."""
    assert compare(path, spec).equal
    wide = np.broadcast_to(convert(path, "sdpa"), shown.mask.shape)
    assert np.array_equal(wide, dense(shown))
    if shown.source is None:
        assert maskcli.name(path).spec == name_of(shown.mask, shown.past).spec
    assert [found.code for found in maskcli.diagnose(path).findings if found.severity == "error"] == []


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right"]),
    spec=st.sampled_from(
        ["causal", "causal & padding", "sliding:2 & padding", "window:1 | prefix:1", "full & padding"]
    ),
    to=st.sampled_from([name for name, row in CONVENTIONS.items() if not row.over_keys]),
    suffix=st.sampled_from(SUFFIXES),
    past=st.integers(0, 3),
    slots=st.integers(0, 3),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lengths_pasts_and_caches(lengths, side, spec, to, suffix, past, slots, tmp_path):
    given = Given(lengths=",".join(map(str, lengths)), side=side)
    cache = past + max(lengths) + slots if slots else None
    shown = show(given, spec, past=past, cache_length=cache, to=to)
    path = saved(shown, tmp_path / f"mask{suffix}")
    assert compare(path, spec).equal
    assert np.array_equal(np.broadcast_to(convert(path, "sdpa"), shown.mask.shape), dense(shown))


@pytest.mark.combinations
@pytest.mark.parametrize("to", ["sdpa", "mha", "additive"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_heads_of_their_own(to, suffix, tmp_path):
    (tmp_path / "mods.py").write_text("def near(b, h, q, k):\n    return abs(q - k) <= h\n")
    path, spec = tmp_path / f"mask{suffix}", f"{tmp_path}/mods.py:near & padding"
    run("show", "--lengths", "5,3", "-m", spec, "--heads", "3", "--to", to, "-o", path, check=0, torch=True)
    run("diff", path, spec, check=0, torch=True)
    meant = read("show", "--lengths", "5,3", "-m", spec, "--heads", "3", torch=True)["mask"]["attended"]
    assert convert(str(path), "sdpa").sum() == meant


def test_the_commands_need_nothing_more(tmp_path):
    run("show", "The cat sat", "Hello", "--past", "2", "--to", "mha", "-o", tmp_path / "a.npz", check=0)
    assert "equal: " in run("diff", "a.npz", "causal & padding", cwd=tmp_path, check=0).stdout
    (tensors,) = (each["tensors"] for each in read("inspect", "a.npz", cwd=tmp_path)["files"])
    by_name = {each["name"]: each for each in tensors}
    assert set(by_name) == {"mask", "attention_mask", "input_ids"}
    assert (by_name["mask"]["mask"]["spec"], by_name["mask"]["mask"]["convention"]) == (
        "causal & padding",
        "mha",
    )
    run("convert", "a.npz", "--to", "additive", "-o", "b.npz", cwd=tmp_path, check=0)
    run("diff", "a.npz", "b.npz", cwd=tmp_path, check=0)
    run("show", "--lengths", "3,1", "--past", "2", "-m", "a.npz & causal", cwd=tmp_path, check=0)


def test_what_is_said_outdoes_the_file(tmp_path):
    run("show", "--lengths", "4", "-m", "causal", "--to", "mha", "-o", tmp_path / "a.npz", check=0)
    run("diff", "a.npz", "causal", cwd=tmp_path, check=0)
    run("diff", "a.npz", "causal", "--from", "sdpa", cwd=tmp_path, check=1)


def test_a_file_of_one_tensor_says_what_it_lacks(tmp_path):
    def said(*arguments):
        return run("show", *arguments, "-o", "a.npy", cwd=tmp_path, check=0).stderr

    assert "without its padding and its convention, which -o FILE.npz keeps" in said(
        "a b", "c", "--to", "mha"
    )
    assert "without its past" in said("a b", "--past", "1")
    assert said("a b", "-m", "causal") == ""


def test_libraries_read_the_same_files(tmp_path):
    shown = show(Given(lengths="3,2"), "causal & padding")
    np.testing.assert_array_equal(np.load(saved(shown, tmp_path / "a.npz"))["mask"], dense(shown))
    assert json.loads(str(np.load(tmp_path / "a.npz")["__metadata__"]))["maskcli.spec"] == "causal & padding"
    loaded = torch.load(saved(shown, tmp_path / "a.pt"), weights_only=True)
    assert np.array_equal(loaded["mask"].numpy(), dense(shown))


@pytest.mark.parametrize(
    "held",
    [np.array([1, 2]), np.array("no JSON"), np.array('{"maskcli.from": 3}'), np.array(["{}"] * 2), np.array("[" * 9999)],
)  # fmt: skip
def test_metadata_that_are_none_are_a_tensor_like_others(held, tmp_path):
    np.savez(tmp_path / "a.npz", mask=np.tril(np.ones((3, 3), bool)), __metadata__=held)
    file = open_tensors(tmp_path / "a.npz")
    assert file.metadata == {}
    assert [each.name for each in file.tensors] == ["mask", "__metadata__"]
    run("diff", "a.npz:mask", "causal", cwd=tmp_path, check=0)


@pytest.mark.parametrize(
    "told", [{"maskcli.heads": "0"}, {"maskcli.heads": "7"}, {"maskcli.axes": "B,K"}, {"maskcli.mask": "x"}]
)
def test_metadata_that_do_not_fit_are_passed_over(told, tmp_path):
    metadata = {"maskcli.mask": "mask", "maskcli.axes": "B*H,Q,K"} | told
    np.savez(
        tmp_path / "a.npz",
        mask=np.tril(np.ones((2, 3, 3), bool)),
        __metadata__=np.array(json.dumps(metadata)),
    )
    run("diff", "a.npz", "causal", cwd=tmp_path, check=0)


def test_a_convention_that_is_none_is_one_sentence(tmp_path):
    np.savez(tmp_path / "a.npz", mask=np.ones((3, 3), bool), __metadata__=np.array('{"maskcli.from": "x"}'))
    assert "is not a convention" in refused("diff", "a.npz", "causal", cwd=tmp_path)


@pytest.mark.parametrize("fill", [-1e9, -np.inf, -1e4])
@pytest.mark.parametrize(
    ("dense", "role", "spec"),
    [
        (np.tril(np.ones((5, 5), bool)), "mask", "causal"),
        (np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool), "padding_mask", "padding"),
        (np.tril(np.ones((4, 6), bool), 2), "mask", "causal"),
    ],
)
def test_flat_floats_of_0_and_one_large_negative_are_a_mask(dense, role, spec, fill, tmp_path):
    np.save(tmp_path / "x.npy", np.where(dense, 0.0, fill).astype(np.float32))
    (tensor,) = read("inspect", "x.npy", cwd=tmp_path)["files"][0]["tensors"]
    assert (tensor["role"], tensor["mask"]["spec"], tensor["mask"]["convention"]) == (role, spec, "additive")


def test_other_flat_floats_are_nothing_that_is_known(tmp_path):
    floats = {
        "zero": np.zeros((3, 3)),
        "two": np.array([[0, -1e9], [-1e4, 0]]),
        "small": np.array([[0, -5.0], [0, 0]]),
    }
    np.savez(tmp_path / "x.npz", **floats)
    assert [each["role"] for each in read("inspect", "x.npz", cwd=tmp_path)["files"][0]["tensors"]] == [
        None
    ] * 3


def test_json_is_a_mask_with_its_tokens(tmp_path):
    run("show", "The cat sat", "Hi", "-m", "combined", "-o", "a.json", cwd=tmp_path, check=0)
    run("show", "a b", "c", "--packed", "-m", "causal & documents", "-o", "d.json", cwd=tmp_path, check=0)
    run("show", "a b", "--source", "x y z", "-m", "cross", "-o", "c.json", cwd=tmp_path, check=0)
    for file, spec in (("a.json", "causal & padding"), ("d.json", "causal & documents"), ("c.json", "cross")):
        assert run("diff", file, spec, cwd=tmp_path).stdout.startswith("equal: ")
    assert "A ignores padding keys 1..3" in run("diff", "a.json", "causal", cwd=tmp_path, check=1).stdout
    assert read("show", "x y z", "y", "-m", "a.json & sliding:2", cwd=tmp_path)["mask"]["attended"] == 7
    run("convert", "a.json", "--to", "additive", "-o", "a.npy", cwd=tmp_path, check=0)
    assert np.isneginf(np.load(tmp_path / "a.npy")).sum() == 9
    (tmp_path / "empty.json").write_text("{}")
    assert "'empty.json' holds no mask (it has no 'mask')" in refused(
        "diff", "empty.json", "causal", cwd=tmp_path
    )
    assert "of JSON its mask is taken" in refused("diff", "a.json:ids", "causal", cwd=tmp_path)
    assert "no such file" in refused("diff", "nowhere.json", "causal", cwd=tmp_path)


def test_diagnose_reads_heads_that_are_folded_into_samples(tmp_path):
    keep = np.tril(np.ones((2, 3, 5, 5), bool))
    keep[1, 1, 4] = False
    told = {"maskcli.mask": "m", "maskcli.axes": "B*H,Q,K", "maskcli.heads": "3", "maskcli.from": "mha"}
    save_file({"m": ~keep.reshape(6, 5, 5)}, tmp_path / "m.safetensors", told)
    (finding,) = read("diagnose", "m.safetensors", cwd=tmp_path, check=1)["findings"]
    assert finding["where"] == {"batch": [1], "heads": [1], "queries": [[4, 5]], "keys": None}
