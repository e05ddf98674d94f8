"""Probing a server from Python: what was meant comes from a spec or a config.json."""

import json

import pytest

from maskcli.api.served import probe_server
from maskcli.errors import MaskcliError
from tests.cli.running import run
from tests.probing.serving import VOCAB, Tiny, serving


def differing(report):
    return {each.test for each in report.behaviour.compared if not each.agrees}


@pytest.mark.long
def test_what_was_meant_is_a_spec_or_a_configuration(tmp_path):
    config = {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "num_hidden_layers": 2, "sliding_window": 5, "vocab_size": VOCAB,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with serving(Tiny(window=5)) as (url, asked):
        assert differing(probe_server(url, expect="sliding:9")) == set()
        assert differing(probe_server(url, expect="sliding:8")) == {"S-window"}
        asked.clear()
        report = probe_server(url, "tiny", model=str(tmp_path))
    assert differing(report) == set()
    assert report.findings == ()
    assert report.target == url
    assert report.behaviour.compared[-1].test == "S-window"
    # The configuration tells how many ids there are, so that the first text is made of them too.
    assert min(asked[1][2]["prompt"]) >= VOCAB // 4
    with serving(Tiny(window=5, bug="window")) as (url, _):
        assert differing(probe_server(url, model=str(tmp_path))) == {"S-window"}


def test_a_server_shows_no_modules():
    with pytest.raises(MaskcliError, match="a server shows no modules"):
        probe_server("http://127.0.0.1:1/v1", expect="model.layers.0=causal")


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("bug", "code"),
    [
        (None, None),
        ("full", "MSK601"),
        ("padding", "MSK602"),
        ("other", "MSK602"),
        ("top-left", "MSK607"),
        ("positions", "MSK607"),
        ("window", "MSK603"),
    ],
)
def test_the_command_calls_each_bug_by_its_one_name(bug, code):
    with serving(Tiny(window=5 if bug == "window" else None, bug=bug)) as (url, _):
        expect = ["--expect", "sliding:9"] if bug == "window" else []
        done = run("probe", url, *expect, "--format", "json", check=1 if code else 0)
    report = json.loads(done.stdout)
    assert report["model"] == "tiny"
    found = [each["code"] for each in report["findings"] if each["severity"] != "note"]
    assert found == ([code] if code else [])


def test_the_command_refuses_what_is_no_server():
    done = run("probe", "http://127.0.0.1:1/v1", check=2)
    assert done.stderr.count("\n") == 1
    assert "cannot be reached" in done.stderr
