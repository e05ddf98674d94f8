"""`maskcli.show`: a mask over tokens, whichever way mask and tokens are given."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import maskcli
from maskcli.masks.mask import Mask
from tests.cli.running import run
from tests.masks.strategies import dense_masks

REAL = np.array([[1, 1, 1], [1, 0, 0]])
COMBINED = np.tril(np.ones((3, 3), bool)) & (REAL == 1)[:, None]


def dense(shown):
    return np.asarray(shown.mask)[:, 0]


@pytest.mark.parametrize(
    "tokens",
    [
        {"lengths": [3, 1]},
        {"lengths": "3,1"},
        {"ids": [[5, 6, 7], [8, 0, 0]], "pad_id": 0},
        {"ids": torch.tensor([[5, 6, 7], [8, 0, 0]]), "pad_id": 0},
        {"ids": "5 6 7; 8 0 0", "pad_id": 0},
    ],
)
def test_a_spec_over_tokens(tokens):
    shown = maskcli.show("causal & padding", **tokens)
    assert np.array_equal(dense(shown), COMBINED)
    assert np.array_equal(shown.queries.attention_mask, REAL)


def test_a_spec_over_texts():
    shown = maskcli.show("combined", "one two three", "four", labels=True)
    assert np.array_equal(dense(shown), COMBINED)
    assert np.array_equal(shown.queries.labels == -100, REAL == 0)
    assert maskcli.show("cross", "one two", source=["a b c"]).mask.shape == (1, 1, 2, 3)


@pytest.mark.parametrize("array", [COMBINED, torch.from_numpy(COMBINED), np.where(COMBINED, 0, -np.inf)])
def test_an_array_is_shown_by_its_name(array):
    shown = maskcli.show(array)
    assert shown.spec == "causal & padding"
    assert np.array_equal(dense(shown), COMBINED)
    assert np.array_equal(dense(maskcli.show(~COMBINED, convention="mha")), COMBINED)


def test_how_an_array_is_read_is_said():
    later = np.triu(np.ones((4, 4), bool), 1)
    shown = maskcli.show(later)
    assert (shown.spec, shown.convention, shown.dtype) == ("causal", "mha", "bool")
    assert "False = attend, True = ignore (mha)" in shown._repr_html_()
    assert maskcli.show(later, convention="sdpa").spec == "~causal"


def test_an_array_over_texts_has_their_tokens():
    shown = maskcli.show(np.tril(np.ones((3, 3), bool)), "one two three", "four five six")
    assert shown.mask.shape == (2, 1, 3, 3)
    assert [shown.key_token(1, key) for key in range(3)] == ["four", "five", "six"]
    assert shown.queries.token(0, 0) == "one"
    step = maskcli.show(np.ones((1, 1, 3), bool), "now")
    assert [step.key_token(0, key) for key in range(3)] == ["past", "past", "now"]


def test_a_padding_mask_and_a_file(tmp_path):
    assert maskcli.show(REAL).spec == "padding"
    assert maskcli.show(REAL).mask.shape == (2, 1, 3, 3)
    np.save(tmp_path / "mask.npy", COMBINED)
    assert np.array_equal(dense(maskcli.show(tmp_path / "mask.npy")), COMBINED)


@settings(max_examples=40)
@given(dense_masks())
def test_a_mask_is_an_array_again(made):
    _, (array,) = made
    mask = Mask.from_dense(array)
    assert np.array_equal(np.asarray(mask), array)
    assert np.array_equal(np.asarray(maskcli.show(mask).mask), array)
    assert maskcli.compare(mask, array).equal


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(maskcli.MaskcliError, match="needs tokens to lie over; pass texts, ids or lengths"):
        maskcli.show("causal")
    with pytest.raises(maskcli.MaskcliError, match="fit tokens"):
        maskcli.show(COMBINED, "only two")
    with pytest.raises(maskcli.MaskcliError, match="is no mask"):
        maskcli.show(np.zeros((1, 1, 1, 2, 2), bool))
    with pytest.raises(maskcli.MaskcliError, match=r"take a part of it"):
        np.asarray(maskcli.show("causal", lengths=[1_000_000]).mask)


def test_print_of_a_comparison_is_its_differences():
    compared = maskcli.compare("causal", "sliding:2", padding=np.ones((1, 6)))
    assert str(compared) == f"{compared.regions[0].meaning}\nA: causal, B: sliding:2: 10 cells differ"
    assert str(maskcli.compare("causal", "causal & sliding:9", padding=np.ones((1, 6)))) == "equal"


def test_a_mask_that_was_there_says_why_as_well():
    shown = maskcli.show(COMBINED[:, None], ids=[[5, 6, 7], [8, 0, 0]], pad_id=0)
    assert shown.why(2, 1, 1) == "key 1 is padding"
    assert shown.because(0, 2).reason.kind == "future"
    odd = maskcli.show(np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]], bool))
    assert (odd.why(0, 2), odd.why(0, 1)) == ("the mask allows it", "the mask forbids it")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: maskcli.show("causal"), "'causal' needs tokens to lie over; pass texts, ids or lengths"),
        (lambda: maskcli.show("cross", "a b"), "pass it with source TEXT"),
        (lambda: maskcli.show("causal", "a", pad_id=3), "pad_id means nothing beside texts"),
        (lambda: maskcli.show("causal", ids=[[1, 2], [3]]), "no pad id is known"),
    ],
)
def test_what_is_wrong_is_said_in_keywords(wrong, told):
    with pytest.raises(maskcli.MaskcliError) as failed:
        wrong()
    assert told in str(failed.value)
    assert "--" not in str(failed.value)


def test_a_mask_is_printed_as_show_prints_it():
    shown = maskcli.show("causal & padding", "The cat sat", "Hello")
    printed = run("show", "The cat sat", "Hello", "-m", "causal & padding", COLUMNS="100", check=0).stdout
    assert str(shown).split() == printed.split()
    assert "attended 6 of 9 cells" in str(maskcli.show("causal", lengths=[3]).mask)
    assert repr(shown.mask).startswith("Mask(")


def test_a_mask_that_is_not_made_of_runs_has_no_name_and_is_shown():
    padding = np.random.default_rng(0).random((500, 700)) < 0.5
    assert "500, 1, 700, 700" in str(maskcli.show(padding))
