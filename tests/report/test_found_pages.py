"""Pages of audit, probe and trace: what was found as cards, and the rows, calls and layers that show it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import maskcli
from maskcli.diagnostics.declare import declare
from maskcli.errors import MaskcliError
from maskcli.report.audited import FORMS
from maskcli.report.forms import choose
from maskcli.report.page.probed import WHOLE, maps_of, save_probed
from maskcli.report.page.traced import traced
from maskcli.report.probed import FORMS as OF_PROBES
from maskcli.report.terminal import clean, lines
from maskcli.tracing.results import Options
from maskcli.tracing.trace import Trace
from tests.cli.running import refused, run
from tests.probing.test_judged import Attention, Decoder
from tests.report.test_audited import WORDS, audits, example, told
from tests.report.test_page import dense, page_of
from tests.tracing.test_watch import IDS, REAL, Net, fused, unmasked


def paged(tmp_path, pieces):
    (tmp_path / "a.html").write_text("".join(pieces))
    return page_of(tmp_path / "a.html")[1]


def audited(tmp_path):
    rows = (
        example([1, 3, 4, 5, 6, 8, 2], counted=(1, 6), flagged=(3, 6), row=4, first=40, length=90),
        example([1, 2], row=9),
    )
    path = tmp_path / "audit.html"
    choose(FORMS, None, str(path)).write(audits(told(*rows)), str(path))
    return path


def test_an_audit_shows_rows_and_what_of_them_is_counted(tmp_path):
    _, data = page_of(audited(tmp_path))
    (only,), (finding,) = data["maps"], data["findings"]
    assert only["shape"] == [2, 1, 1, 7]
    assert (dense(only["mask"], only["shape"])[:, 0, 0] == [[0, 1, 1, 1, 1, 1, 0], [0] * 7]).all()
    assert only["keys"]["tokens"][1] == [clean(WORDS[1]), clean(WORDS[2])]
    assert only["keys"]["real"][1] == [[0, 2, 1], [2, 7, 0]]
    assert only["queries"]["tokens"] == [["row 4"], ["row 9"]]
    assert only["strip"]["firsts"] == [40, 0]
    assert finding["tensors"] == [only["name"]]
    assert finding["places"] == [{"batch": [0], "heads": None, "queries": None, "keys": [[3, 6]]}]
    assert finding["message"] == "The prompt is counted"
    assert finding["place"] == "3 of 1,200 rows (0.2 %): 0, 4, 5"
    assert "counted by the loss" in "\n".join(data["text"])


def test_a_probe_shows_each_layer_beside_what_it_should_be(tmp_path):
    torch.manual_seed(0)
    report = maskcli.probe(
        Decoder(Attention(None)), 40, expect=["causal"], length=8, only="masks", pad="left"
    )
    save_probed(report, str(tmp_path / "p.html"))
    _, data = page_of(tmp_path / "p.html")
    only = next(each for each in data["maps"] if each["name"] == "layers.0")
    measured, meant = (dense(only[name], only["shape"]) for name in ("mask", "meant"))
    future = np.triu(np.ones(only["shape"][2:], bool), 1)
    worst = data["findings"][0]
    assert worst["code"] == "MSK601"
    assert worst["file"] == only["file"]
    assert (measured & future).any()
    assert not (meant & future).any()
    assert {each["kind"] for each in only["reasons"]} >= {"future"}
    assert any("layers.0" in line for line in data["text"])


def test_a_probe_draws_no_difference_where_not_all_that_may_be_seen_has_to_be():
    torch.manual_seed(0)
    report = maskcli.probe(Decoder(Attention()), 40, expect=["causal"], length=8, only="masks", pad="none")
    (seen, *_) = report.behaviour.seen
    fewer = replace(
        seen, module="", reached=seen.reached.select(), expected=seen.expected._replace(whole=False)
    )
    fewer = replace(fewer, reached=fewer.reached - fewer.reached)
    (drawn,) = maps_of(replace(report, behaviour=replace(report.behaviour, seen=(fewer,))))
    assert drawn.name == WHOLE
    assert not (drawn.mask ^ drawn.meant).attended


def trace_of(**options):
    with Trace(Options(declare(expect="causal", pad_id=0).declared, **options), "x.py") as watching:
        Net(fused, unmasked)(IDS, REAL)
    return watching.report


def test_a_trace_shows_the_call_in_which_something_was_found(tmp_path):
    torch.manual_seed(0)
    report = trace_of(draws=True)
    data = paged(tmp_path, traced(report, None))
    calls = {each["file"] for each in data["maps"]}
    assert calls == {"step 0"}
    finding = next(each for each in data["findings"] if each["code"] == "MSK203")
    assert finding["file"] == "step 0"
    drawn = next(each for each in data["maps"] if each["name"] == finding["tensors"][0])
    assert drawn["planes"]
    assert "future" in {each["kind"] for each in drawn["reasons"]}
    assert "from step 0 on" in finding["place"]
    assert any("attention call" in line for line in data["text"])


def test_calls_are_copied_and_only_for_what_draws_them():
    assert trace_of().kept == ()
    (kept, *_) = trace_of(draws=True).kept
    assert not {each.role for each in kept.tensors} & {"query", "key", "value", "output"}


def test_what_names_no_form_or_no_page_is_one_sentence(tmp_path):
    train = tmp_path / "t.jsonl"
    train.write_text('{"input_ids": [5, 2], "labels": [5, 2]}\n')
    assert "'a.htm'" in refused("audit", train, "-o", "a.htm")
    with pytest.raises(MaskcliError, match="html, or pass --format"):
        choose(OF_PROBES, None, "a.htm")
    assert "no page is written" in refused("trace", "--max-size", 5, "x.py")
    assert "'a.html'" in refused("audit", train, "--show", 0, "-o", "a.html")
    run("audit", train, "--pad-id", 0, "-o", tmp_path / "a.html", "--max-size", 1, "--exit-zero", check=0)
    assert page_of(tmp_path / "a.html")[1]["title"] == f"maskcli audit: {train}"


def test_lines_have_no_colour_whatever_the_terminal_wants(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    assert lines(lambda console: console.print("a" * 40, style="bold red"), 50) == ["a" * 40]
