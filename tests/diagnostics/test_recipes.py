"""How a rule is added: one function under its identity, one row of the catalogue; everything else follows from the two."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import maskcli.cli.rule  # noqa: F401 (registers the command)
from maskcli.cli import app
from maskcli.diagnostics import catalogue
from maskcli.diagnostics.finding import Found, Undecided
from maskcli.diagnostics.needs import NEEDS
from maskcli.diagnostics.rule import for_each, masks, rule
from maskcli.diagnostics.rules.hits import Hit, fold, fold_by, found_at, in_words
from tests.diagnostics.attention import report


@rule("MSK999", "even-mask", "warning", needs=("mask", ("pad_id", "eos_id")), explained_by=("MSK106",))
@for_each(masks)
def even_mask(saved, scene):
    """The mask keeps an even number of cells.

    In code: by chance.

    Fix: none is known.
    """
    if saved.given.keep.attended % 2:
        return Undecided("a mask that keeps one cell more")
    return Found((saved.given.tensor.name,), "the mask is even", "add a cell", evidence={"cells": 2})


@pytest.fixture
def _listed(monkeypatch):
    rules = (*catalogue.RULES, even_mask)
    monkeypatch.setattr(catalogue, "RULES", rules)
    monkeypatch.setattr(catalogue, "CAUSES", catalogue.causes_in(rules))


def mask(*row):
    return {"attn_mask": np.array([[[row]]], bool)}


@pytest.mark.usefixtures("_listed")
def test_a_rule_of_one_function_and_one_row_finds_asks_and_is_skipped():
    found = report(mask(True, True, False), pad_id=0)
    (finding,) = [each for each in found.findings if each.code == "MSK999"]
    assert (finding.name, finding.severity, finding.tensors) == ("even-mask", "warning", ("attn_mask",))
    assert finding.evidence == {"cells": 2}
    assert "MSK999" in found.decided

    needs = {skip.code: skip.needs for skip in report(mask(True, False, False), pad_id=0).skipped}
    assert needs["MSK999"] == ("a mask that keeps one cell more",)
    needs = {skip.code: skip.needs for skip in report(mask(True, True, False)).skipped}
    assert needs["MSK999"] == ("--pad-id or --eos-id",)


@pytest.mark.usefixtures("_listed")
def test_it_is_explained_listed_and_selectable():
    explained = CliRunner().invoke(app, ["rule", "even-mask", "--format", "json"])
    told = json.loads(explained.stdout)
    assert (told["code"], told["needs"]) == ("MSK999", [["mask"], ["pad_id", "eos_id"]])
    assert told["text"].startswith("The mask keeps an even number of cells.\n\nIn code:")
    assert "MSK999 even-mask" in CliRunner().invoke(app, ["rule", "--all"]).stdout
    assert catalogue.chosen_codes(["MSK9"], []) == {"MSK999"}
    assert "MSK999" not in catalogue.chosen_codes([], ["even-mask"])


def test_a_misspelt_need_fails_where_the_rule_is_made():
    with pytest.raises(KeyError, match="'pad-id'"):
        rule("MSK998", "typo", "error", needs=("mask", ("pad-id", "eos_id")))


def test_every_need_says_how_to_meet_it():
    assert all(need.asked for need in NEEDS.values())


def test_hits_of_one_place_are_one_finding():
    rows = np.zeros((2, 1, 3), bool)
    rows[0, 0, 1] = True
    share = np.full(rows.shape, 0.5)
    (group,) = fold([Hit("a", rows, None, share), Hit("none", rows & False), Hit("b", rows, None, share / 2)])
    found = group.found("message", "fix", severity="note", **group.layers("mass"))
    assert (found.tensors, found.severity, group.rows) == (("a", "b"), "note", 2)
    assert found.where.batch == (0,)
    assert found.where.queries == ((1, 2),)
    assert found.evidence == {"mass_lowest_layer": 0.25, "mass_highest_layer": 0.5}
    assert group.percent == "25 to 50 %"


def test_hits_fold_by_what_the_rule_knows_of_them():
    rows = np.ones((1, 1, 2), bool)
    hits = [(Hit("a", rows), 3), (Hit("b", rows), 4), (Hit("c", rows), 3)]
    assert [(group.extra, group.tensors) for group in fold_by(hits)] == [(3, ("a", "c")), (4, ("b",))]
    (group,) = fold_by(hits, alike=lambda _: None)
    assert group.extras == (3, 4, 3)


def test_a_place_is_put_into_a_message_whatever_the_names_hold():
    flags = np.array([[False, True]])
    found = in_words(found_at(("a{0}{}",), flags, "'a{0}{}' at {}, again", "fix", values=1))
    assert found.message == "'a{0}{}' at token 1 of every sample, again"
