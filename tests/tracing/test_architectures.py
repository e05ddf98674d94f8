"""Models of Hugging Face under trace: healthy ones are silent, spoilt ones are found at the module that was spoilt."""

import pytest
import torch

import maskcli
from tests.tracing.models import (
    ALL,
    DECODERS,
    EAGER_ONLY,
    ENCODERS,
    batch,
    inverted,
    model,
    opened,
    spoil_mask,
)

pytestmark = pytest.mark.filterwarnings("default")


def loud(traced):
    return [finding for finding in traced.findings if finding.severity != "note"]


def declared(name):
    return {
        "expect": "full" if name in ENCODERS else "causal" if name in DECODERS else None,
        "pad_id": 1,
        "eos_id": 2,
    }


@pytest.mark.combinations
@pytest.mark.parametrize(("name", "how"), ALL)
def test_a_healthy_model_is_silent_and_computes_the_same(name, how):
    made, inputs = model(name, how), batch(name)
    before = made(**inputs).logits
    state = torch.get_rng_state()
    with maskcli.trace(**declared(name)) as traced:
        after = made(**inputs).logits
        if name not in ENCODERS:
            made.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                min_new_tokens=3,
                max_new_tokens=3,
            )
    assert torch.equal(before, after)
    assert torch.equal(state, torch.get_rng_state())
    assert loud(traced) == []
    report = traced.report
    assert report.unfit == {}
    attentions = 2 if name in DECODERS or name in ENCODERS else 6
    assert len(report.checked) == attentions
    assert report.calls >= attentions
    assert report.steps == (1 if name in ENCODERS else 4 if name in DECODERS else 5)


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("name", "how", "spoil"),
    [(name, how, opened) for name, how in ALL if how == "eager"]
    + [(name, how, inverted) for name, how in ALL if how == "sdpa" or name in EAGER_ONLY],
)
def test_a_spoilt_mask_is_found_at_its_module(name, how, spoil):
    made, inputs = model(name, how), batch(name)
    with maskcli.trace(**declared(name)) as traced:
        made(**inputs)
    sick = traced.report.checked[1]
    spoil_mask(made.get_submodule(sick), spoil)
    with maskcli.trace(**declared(name)) as traced:
        made(**inputs)
    found = [finding for finding in loud(traced) if finding.severity == "error"]
    assert found
    assert {finding.traced.modules for finding in found} == {(sick,)}
    assert {finding.traced.step for finding in found} == {0}
    assert {finding.traced.source[0] for finding in found} == {__file__}
    codes = {finding.code for finding in found}
    assert codes & (
        {"MSK114", "MSK202", "MSK204"}
        if spoil is opened
        else {"MSK102", "MSK114", "MSK201", "MSK202", "MSK203", "MSK204", "MSK206"}
    )
    if name in DECODERS and name != "gpt_neo" and spoil is opened:
        # GPT-Neo keeps a causal mask of its own beside the one that it is given.
        assert codes & {"MSK114", "MSK203", "MSK204"}
