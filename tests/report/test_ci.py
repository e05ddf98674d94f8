"""The forms for CI: what a workflow, a reader of JUnit XML, code scanning and a comment take."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcli.api.probing import probe_target
from maskcli.probing.subject import Loading
from maskcli.report import github, junit, markdown, probed, sarif
from maskcli.report.entries import Entry, Part, Results, of_probe
from maskcli.report.github import MOST
from tests.cli.running import DATA, refused, run
from tests.documents import DECODER
from tests.report.test_findings import leaking

PROGRAM = "import torch\nq = torch.eye(4, 8)[None, None]\ntorch.nn.functional.scaled_dot_product_attention(q, q, q)\n"
SICK, HEALTHY = DATA / "minilm_attn_nomask.safetensors", DATA / "minilm_attn.safetensors"
COMMAND = re.compile(r"::(error|warning|notice) ([^:]*)::(.*)")
TEXTS = st.text(
    st.characters(codec="utf-8") | st.sampled_from("%\r\n:,|`<>&@\\\x1b\x00\u202e"), min_size=1, max_size=20
)


def text(form, results):
    return "".join(form.tell(results))


def found(count=1, **more):
    """Results of one file with some findings."""
    whole = {
        "code": "MSK202",
        "name": "padding-attended",
        "severity": "error",
        "message": "A",
        "fix": "B",
        "file": "a",
    }
    entries = tuple(Entry(**{**whole, **more}) for _ in range(count))
    return Results((Part("a", entries, frozenset({"MSK202", "MSK203"})),), "so many")


def annotations(told):
    """What GitHub's runner makes of lines: the level, the properties and the message, unescaped."""
    escapes = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}

    def plain(escaped):
        return re.sub("%(?:0D|0A|3A|2C|25)", lambda found: escapes[found[0]], escaped)

    for line in told.splitlines():
        match = COMMAND.fullmatch(line)
        if match:
            pairs = (pair.split("=", 1) for pair in match[2].split(","))
            yield match[1], {name: plain(value) for name, value in pairs}, plain(match[3])


def test_annotations_say_where_and_what():
    done = run("diagnose", SICK, "--format", "github", cwd=DATA, check=1)
    ((level, properties, message),) = annotations(done.stdout)
    assert level == "error"
    assert properties == {"file": SICK.name, "title": "maskcli: MSK202 padding-attended"}
    assert message.startswith("Real queries put 14 to 43 % of their weight on padding")
    assert "; fix: Pass attention_mask to the model" in message
    assert done.stdout.splitlines()[-1] == "maskcli: 1 error in 9 tensors of 1 file"


def test_ten_annotations_then_a_sum():
    told = text(github, found(MOST + 3))
    assert len(list(annotations(told))) == MOST
    assert told.splitlines()[MOST:] == ["and 3 more: 3 errors", "maskcli: so many"]
    assert "more" not in text(github, found(MOST))


@given(TEXTS, TEXTS, TEXTS)
def test_no_text_ends_an_annotation(message, fix, file):
    told = text(github, found(message=message, fix=fix, file=file, line=3))
    assert len(told.splitlines()) == 2
    ((_, properties, _),) = annotations(told)
    assert set(properties) == {"file", "line", "title"}


@given(TEXTS, TEXTS, TEXTS)
def test_junit_is_xml_whatever_stands_in_it(message, fix, file):
    whole = text(junit, found(message=message, fix=fix, file=file))
    root = ElementTree.fromstring(whole.encode())
    assert [case.get("name") for case in root.iter("testcase")] == [
        "MSK202 padding-attended",
        "MSK203 future-attended",
    ]


def test_junit_counts_what_it_holds(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    to = tmp_path / "report.xml"
    run("diagnose", SICK, HEALTHY, tmp_path / "broken.safetensors", "-o", to, check=2)
    root = ElementTree.parse(to).getroot()
    assert root.tag == "testsuites"
    assert [suite.tag for suite in root] == ["testsuite"] * 3
    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert int(element.get("tests")) == len(cases)
        assert int(element.get("failures")) == len(list(element.iter("failure")))
        assert int(element.get("errors")) == len(list(element.iter("error")))
        assert all(case.get("classname") and case.get("name") for case in cases)
    sick, healthy, broken = root
    (failure,) = sick.iter("failure")
    assert failure.get("type") == "error"
    assert failure.get("message").startswith("Real queries put 14 to 43 %")
    assert len(list(healthy)) == len(list(sick)) > 10
    assert [child.tag for child in broken.find("testcase")] == ["error"]


def test_a_note_is_no_failure():
    root = ElementTree.fromstring(text(junit, found(severity="note")))
    assert root.get("failures") == "0"
    assert root.find("testsuite/testcase/system-out").text.startswith("A\nat: a")


# What the standard requires of each object that is written, and what it may hold besides.
REQUIRED = {
    "log": ({"version", "runs"}, {"$schema"}),
    "run": ({"tool"}, {"results", "invocations"}),
    "driver": ({"name"}, {"version", "rules"}),
    "rule": ({"id"}, {"name", "shortDescription", "fullDescription", "help", "defaultConfiguration"}),
    "result": ({"message"}, {"ruleId", "ruleIndex", "level", "locations", "properties"}),
    "invocation": ({"executionSuccessful"}, {"toolExecutionNotifications"}),
}


def holds(kind, value):
    required, more = REQUIRED[kind]
    assert required <= set(value) <= required | more


def check_sarif(whole):
    holds("log", whole)
    assert whole["version"] == "2.1.0"
    for each in whole["runs"]:
        holds("run", each)
        assert set(each["tool"]) == {"driver"}
        driver = each["tool"]["driver"]
        holds("driver", driver)
        identifiers = [rule["id"] for rule in driver["rules"]]
        assert len(set(identifiers)) == len(identifiers)
        for rule in driver["rules"]:
            holds("rule", rule)
            assert rule["shortDescription"]["text"]
            assert rule["fullDescription"]["text"]
            assert {"text", "markdown"} == set(rule["help"])
            assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
        for result in each["results"]:
            holds("result", result)
            assert identifiers[result["ruleIndex"]] == result["ruleId"]
            assert result["level"] in ("error", "warning", "note")
            assert result["message"]["text"]
            for location in result["locations"]:
                uri = location["physicalLocation"]["artifactLocation"]["uri"]
                assert re.fullmatch(r"[A-Za-z0-9._~:/?#@!$&'()*+,;=%\[\]-]+", uri)
                assert location["physicalLocation"].get("region", {"startLine": 1})["startLine"] >= 1
                assert all(each["fullyQualifiedName"] for each in location.get("logicalLocations", ()))
        for invocation in each["invocations"]:
            holds("invocation", invocation)
            assert all(each["message"]["text"] for each in invocation["toolExecutionNotifications"])


def test_sarif_has_what_the_standard_requires(tmp_path):
    run("diagnose", SICK, "-o", tmp_path / "a.sarif", check=1)
    whole = json.loads((tmp_path / "a.sarif").read_text())
    check_sarif(whole)
    (result,) = whole["runs"][0]["results"]
    assert result["ruleId"] == "MSK202"
    assert [each["fullyQualifiedName"] for each in result["locations"][0]["logicalLocations"]] == [
        f"attentions.{layer}" for layer in range(6)
    ]
    healthy = json.loads(run("diagnose", HEALTHY, "--format", "sarif", check=0).stdout)
    check_sarif(healthy)
    assert healthy["runs"][0]["results"] == []


@given(TEXTS, TEXTS, TEXTS)
def test_sarif_takes_any_text(message, fix, file):
    check_sarif(json.loads(text(sarif, found(message=message, fix=fix, file=file, line=7))))


def test_markdown_is_a_table_of_what_was_found():
    told = text(markdown, found(2, message="a|b `c` <d> @e", file="x_y.npy", line=4))
    lines = told.splitlines()
    assert lines[0] == "**maskcli**: so many"
    assert lines[2:4] == ["| | finding | what | where | fix |", "|---|---|---|---|---|"]
    assert lines[4] == r"| error | MSK202 padding-attended | a\|b \`c\` \<d\> @<!-- -->e | x\_y.npy:4 | B |"
    assert len(lines) == 6
    assert text(markdown, found(0)) == "**maskcli**: so many\n"


def test_a_program_is_told_at_its_line(tmp_path):
    (tmp_path / "run.py").write_text(PROGRAM)
    done = run("trace", "--format", "github", "--expect", "causal", "run.py", cwd=tmp_path, torch=True)
    ((level, properties, _),) = annotations(done.stderr)
    assert level == "error"
    assert (properties["file"], properties["line"]) == ("run.py", "3")


def test_sets_are_told_by_their_rows(tmp_path):
    row = {"input_ids": [5, 6, 7, 8, 2], "labels": [-100, -100, 7, 8, -100]}
    (tmp_path / "set.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    done = run("audit", "set.jsonl", "--eos-id", "2", "--format", "github", cwd=tmp_path, check=1)
    ((_, properties, message), *_) = annotations(done.stdout)
    assert properties["file"] == "set.jsonl"
    assert message.endswith("; 3 of 3 rows")


def test_differences_of_masks_are_told(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 4), bool))
    for form in ("github", "markdown"):
        told = run("diff", "a.npy", "causal", "--format", form, cwd=tmp_path, check=1).stdout
        assert "masks-differ" in told
        assert "a.npy and causal differ" in told
        assert run("diff", "a.npy", "full", "--format", form, cwd=tmp_path, check=0).stdout.endswith(
            "are equal\n"
        )


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A folder with a decoder whose window is one key too wide."""
    folder = tmp_path_factory.mktemp("decoder")
    (folder / "decoder.py").write_text(DECODER)
    return folder


def test_models_are_told_at_their_file(decoder, monkeypatch):
    monkeypatch.chdir(decoder)
    report = probe_target("decoder.py:make_model", Loading(), expect="sliding:4", only="masks")
    results = of_probe(report)
    ((level, properties, message),) = annotations(text(github, results))
    assert (level, properties) == (
        "error",
        {"file": "decoder.py", "title": "maskcli: MSK603 window-measured"},
    )
    assert "measured sliding:5" in message
    assert ElementTree.fromstring(text(junit, results)).attrib["failures"] == "1"
    whole = json.loads(text(sarif, results))
    check_sarif(whole)
    (result,) = whole["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "decoder.py"
    assert "| error | MSK603 window-measured | Queries see 5 keys" in text(markdown, results)
    assert {form.name for form in probed.FORMS} >= {"github", "junit", "sarif", "markdown"}


def test_quiet_of_sets_models_and_programs(decoder, monkeypatch, capfd):
    from maskcli.cli.audit import audit
    from maskcli.cli.probe import probe

    monkeypatch.chdir(decoder)
    row = {"input_ids": [5, 6, 7, 8, 2], "labels": [-100, -100, 7, 8, -100]}
    (decoder / "set.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    assert audit(["set.jsonl"], eos_id=[2], quiet=True) == 1
    assert audit(["set.jsonl"], quiet=True) == 0
    assert probe("decoder.py:make_model", expect=["sliding:4"], only="masks", quiet=True) == 1
    assert probe("decoder.py:make_model", expect=["sliding:5"], only="masks", quiet=True) == 0
    assert capfd.readouterr() == ("", "")
    (decoder / "run.py").write_text(PROGRAM + "print('its own')\n")
    done = run(
        "trace", "-q", "--expect", "causal", "--fail-on", "error", "run.py", cwd=decoder, torch=True, check=1
    )
    assert (done.stdout, done.stderr) == ("its own\n", "")


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_leaves_the_exit_code(tmp_path, flag):
    np.save(tmp_path / "a.npy", np.ones((4, 4), bool))
    for arguments, code in (
        (("diagnose", SICK), 1), (("diagnose", HEALTHY), 0), (("diff", tmp_path / "a.npy", "causal"), 1),
        (("diff", tmp_path / "a.npy", "full"), 0),
    ):  # fmt: skip
        done = run(*arguments, flag, check=code)
        assert (done.stdout, done.stderr) == ("", "")
    assert "--quiet writes no report" in refused("diagnose", SICK, flag, "--format", "json")


def test_quiet_errors_are_said(tmp_path):
    leaking(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"x")
    done = run("diagnose", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-q", check=2)
    assert done.stdout == ""
    assert "b.safetensors" in done.stderr
