"""Image blocks of vision-language models: real models' weights and masks against what their configurations say."""

import functools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from maskcli.api.checks import diagnose
from maskcli.inputs.looks import inspected
from maskcli.masks.layout import Layout
from maskcli.masks.mask import Mask
from maskcli.masks.spec import build, parse
from maskcli.meant.model_config import read_config
from tests.masks.test_naming_real import captured

LENGTH, IMAGE = 24, 70
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "vocab_size": 99, "head_dim": 8, "max_position_embeddings": 64, "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"], "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
MODELS = {
    "gemma3": ("token_type_ids", {"model_type": "gemma3_text"}, {"image_token_index": IMAGE, "mm_tokens_per_image": 4}),
    "gemma4": (
        "mm_token_type_ids",
        {"model_type": "gemma4_text", "use_bidirectional_attention": "vision", "vocab_size_per_layer_input": 99,
         "hidden_size_per_layer_input": 8, "global_head_dim": 8, "num_global_key_value_heads": 4},
        {"image_token_id": IMAGE, "video_token_id": 71, "audio_token_id": 72, "audio_config": None},
    ),
    "paligemma": ("token_type_ids", {"model_type": "gemma2", "query_pre_attn_scalar": 8}, {"image_token_index": IMAGE}),
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", list(MODELS))
sides = pytest.mark.parametrize("side", ["left", "right"])


@functools.cache
def model_of(kind):
    _, text, extra = MODELS[kind]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, text_config={**TEXT, **text}, vision_config=VISION, **extra)
    return AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()


def inputs(kind, side):
    """Two samples, of which the second is padded: two images and one, or a prefix of image and prompt."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (2, LENGTH), generator=generator)
    mask = torch.ones(2, LENGTH, dtype=torch.int64)
    mask[1, slice(0, 3) if side == "left" else slice(LENGTH - 3, LENGTH)] = 0
    types = torch.zeros(2, LENGTH, dtype=torch.int64)
    if kind == "paligemma":
        types[0, 12:], types[1, 9:] = 1, 1
        types[mask == 0] = 0
    else:
        types[0, 2:10], types[0, 14:18], types[1, 6:15] = 1, 1, 1
        ids[types == 1] = IMAGE
    return ids.masked_fill(mask == 0, 0), mask, types


@functools.cache
def ran(kind, side, with_types=True):
    ids, mask, types = inputs(kind, side)
    given = {"input_ids": ids, "attention_mask": mask}
    said = {MODELS[kind][0]: types} if with_types else {}
    with torch.no_grad():
        weights = model_of(kind)(**given, **said, output_attentions=True).attentions
    return {f"attentions.{i}": each for i, each in enumerate(weights)}, given, {MODELS[kind][0]: types}


@pytest.fixture
def folder(tmp_path):
    def saved(kind):
        model_of(kind).config.save_pretrained(tmp_path)
        return str(tmp_path)

    return saved


def codes(report):
    return {finding.code for finding in report.findings if finding.severity != "note"}


@kinds
@sides
def test_masks_that_models_build_are_the_specs_of_their_configurations(kind, side, folder):
    ids, mask, types = inputs(kind, side)
    name = MODELS[kind][0]
    built = captured(model_of(kind), input_ids=ids, attention_mask=mask, **{name: types})
    layout = Layout(2, LENGTH, LENGTH, real=mask.numpy() == 1, tensors={name: types.numpy()}.__getitem__)
    specs = set(read_config(folder(kind)).layers)
    assert len(specs) == 2
    expected = [
        np.array([build(parse(f"({spec}) & padding"), layout).dense(b) for b in range(2)]) for spec in specs
    ]
    masks = {tuple((each == 0)[:, 0].flatten().tolist()) for each in built if each.shape[-1] == LENGTH}
    assert masks == {tuple(each.flatten().tolist()) for each in expected}


@pytest.mark.combinations
@kinds
@sides
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_right_image_blocks_are_silent_and_missing_ones_are_told(kind, side, dtype, folder):
    model = folder(kind)
    for with_types in (True, False):
        weights, given, types = ran(kind, side, with_types)
        weights = {name: each.to(dtype) for name, each in weights.items()}
        found = codes(diagnose({**weights, **given, **types}, model=model))
        assert bool(found) != with_types, found


@kinds
def test_ids_tell_image_blocks_where_the_configuration_says_which_ids_images_have(kind, folder):
    model = folder(kind)
    for with_types in (True, False):
        weights, given, _ = ran(kind, "left", with_types)
        found = codes(diagnose({**weights, **given}, model=model))
        # The prompt of a prefix has ordinary ids: nothing tells it, and nothing is said of it.
        assert bool(found) == (kind != "paligemma" and not with_types)


@kinds
def test_where_nothing_tells_the_blocks_it_is_said_and_nothing_accused(kind, folder):
    model = folder(kind)
    for with_types in (True, False):
        weights, given, _ = ran(kind, "left", with_types)
        report = diagnose({**weights, "attention_mask": given["attention_mask"]}, model=model)
        assert codes(report) == set()
        asked = [need for skipped in report.skipped for need in skipped.needs]
        assert kind == "gemma4" or any("tell the image blocks" in need for need in asked)


@pytest.mark.parametrize("kind", ["gemma3", "paligemma"])
def test_declared_blocks_are_read_from_the_tensors_at_hand(kind, tmp_path):
    weights, given, types = ran(kind, "right")
    blocks = {"gemma3": "spans:token_type_ids=1", "paligemma": "same:token_type_ids=0"}[kind]
    one = {"attentions.1": weights["attentions.1"], **given, **types}
    assert codes(diagnose(one, expect=f"causal | {blocks}")) == set()
    assert "MSK203" in codes(diagnose(one, expect="causal"))
    assert codes(diagnose(one, expect=f"attentions.*=causal | {blocks}")) == set()
    np.save(tmp_path / "types.npy", types["token_type_ids"].numpy())
    file = blocks.replace("token_type_ids", f"{tmp_path}/types.npy")
    del one["token_type_ids"]
    assert codes(diagnose(one, expect=f"causal | {file}")) == set()


def test_configurations_of_text_alone_and_of_switched_off_images_have_no_blocks(tmp_path):
    config = {
        "model_type": "gemma4",
        "text_config": {"model_type": "gemma4_text", "num_hidden_layers": 2},
        "vision_config": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(str(tmp_path)).blocks is None
    hub = {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 1024},
    }
    (tmp_path / "config.json").write_text(json.dumps(hub))
    layers = read_config(str(tmp_path)).layers
    assert layers[5] == "causal | spans:token_type_ids=1"
    assert set(layers[:5]) == {"(causal | spans:token_type_ids=1) & window:1023,-1"}


@pytest.mark.combinations
@kinds
@sides
def test_inspect_names_the_masks_of_models_by_the_tensors_beside_them(kind, side, tmp_path):
    ids, mask, types = inputs(kind, side)
    name = MODELS[kind][0]
    built = captured(model_of(kind), input_ids=ids, attention_mask=mask, **{name: types})
    masks = {f"mask_{i}": each for i, each in enumerate(built) if each.shape[-1] == LENGTH}
    save_file({**masks, name: types, "input_ids": ids}, tmp_path / "dump.safetensors")
    ((_, found),) = inspected([str(tmp_path / "dump.safetensors")], None, None, None).files
    names = {each.roled.tensor.name: each.name for each in found if each.roled.tensor.name in masks}
    assert len(names) == 2
    assert all(each.exact for each in names.values())
    # A prefix is one without labels as well, of another length in each sample.
    by_labels = [each.spec for each in names.values() if f":{name}=" in each.spec]
    assert len(by_labels) == (2 if kind == "gemma3" else 1)
    for tensor, each in names.items():
        assert build(parse(each.spec), each.layout) == Mask.from_dense((masks[tensor] == 0).numpy())


@pytest.mark.parametrize("name", ["mm_token_type_ids", "inputs.mm_token_type_ids"])
def test_types_of_images_are_no_padding(name):
    weights, _, types = ran("gemma4", "right")
    (values,) = types.values()
    report = diagnose({"attentions.1": weights["attentions.1"][:1], name: values[:1]}, expect="causal")
    assert codes(report) == set()
