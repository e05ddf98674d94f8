"""Probing a server from Python: what was meant comes from a spec or a config.json."""

import json

import pytest

from maskcli.api.served import probe_server
from maskcli.errors import MaskcliError
from tests.probing.serving import VOCAB, Tiny, serving


def differing(report):
    return {each.test for each in report.behaviour.compared if not each.agrees}


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
