"""Attention as people save it: stacks of layers, the steps of generate, what could not be looked at."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from maskcli.tensors import open_tensors, roles_of
from tests.cli.running import run

PROMPT, NEW, LAYERS = 9, 5, 3
# What is wrong with an attention that was not given its mask, in real queries.
LEAK = {("MSK202", "error")}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="eager", pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(1)
    ids = torch.randint(3, 64, (2, PROMPT))
    mask = torch.ones_like(ids)
    mask[0, :3] = ids[0, :3] = 0
    return ids, mask


@pytest.fixture(scope="module")
def passes(model, batch):
    """The attentions of one forward pass, with the mask and without it."""
    ids, mask = batch
    with torch.no_grad():
        return {
            True: model(ids, attention_mask=mask, output_attentions=True).attentions,
            False: model(ids, output_attentions=True).attentions,
        }


@pytest.fixture(scope="module")
def generations(model, batch):
    """generate's attentions, with the mask, without it, and with it in the first pass alone."""
    ids, mask = batch
    made = {}
    for obeyed in (True, False):
        given = mask if obeyed else torch.ones_like(mask)
        made[obeyed] = model.generate(
            ids, attention_mask=given, output_attentions=True, return_dict_in_generate=True,
            max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
        )  # fmt: skip
    late = (made[True].attentions[0], *made[False].attentions[1:])
    return made[True].attentions, made[False].attentions, late, made[True].sequences


def found(path, *arguments, check=None):
    """(code, severity) of what is worse than a note, and the whole report."""
    told = run(
        "diagnose", path, "--format", "json", *arguments, **({} if check is None else {"check": check})
    )
    report = json.loads(told.stdout)
    worse = {(each["code"], each["severity"]) for each in report["findings"] if each["severity"] != "note"}
    return worse, report


# Stacks


def saved(path, tensors):
    """The tensors in the format of the path."""
    if path.suffix == ".pt":
        torch.save(tensors, path)
    elif path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    return path


@pytest.mark.combinations
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
@pytest.mark.parametrize("layers", [LAYERS, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_stack_is_its_layers(tmp_path, passes, batch, suffix, layers, axis):
    for obeyed, attentions in passes.items():
        stack = torch.stack(attentions[:layers], axis)
        path = saved(tmp_path / f"{obeyed}{suffix}", {"attentions": stack, "attention_mask": batch[1]})
        worse, report = found(path)
        assert worse == (set() if obeyed else LEAK)
        if not obeyed:
            (finding,) = report["findings"]
            assert finding["tensors"] == [f"attentions.{layer}" for layer in range(layers)]
            assert (finding["where"]["batch"], finding["where"]["keys"]) == ([0], [[0, 3]])
        assert report["unchecked"] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("axis", [0, 1])
def test_parts_are_the_layers_themselves(tmp_path, passes, dtype, axis):
    attentions = [layer.to(dtype) for layer in passes[True]]
    mask = torch.ones(2, PROMPT, dtype=torch.int64)
    path = saved(
        tmp_path / "x.safetensors", {"attentions": torch.stack(attentions, axis), "attention_mask": mask}
    )
    parts = [roled.tensor for roled in roles_of(open_tensors(path)) if roled.role == "weights"]
    assert [part.name for part in parts] == [f"attentions.{layer}" for layer in range(LAYERS)]
    for part, layer in zip(parts, attentions, strict=True):
        whole = layer.float().numpy()
        assert part.shape == whole.shape
        np.testing.assert_array_equal(part.read().astype(np.float32), whole)
        np.testing.assert_array_equal(part.read((1, slice(None), 2)).astype(np.float32), whole[1, :, 2])
        rows = whole.reshape(-1, PROMPT)
        np.testing.assert_array_equal(part.rows(5, 60), rows[5:60])


def test_steps_and_layers_in_six_axes(tmp_path, batch):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(4, LAYERS, 2, 4, PROMPT, PROMPT, generator=generator).tril()
    mask = batch[1]
    obeyed = weights * mask[:, None, None, :]
    obeyed[..., 0] += (obeyed.sum(-1) == 0) * 1.0
    for keep, each in ((True, obeyed), (False, weights)):
        stack = each / each.sum(-1, keepdim=True)
        path = saved(tmp_path / f"{keep}.npz", {"attentions": stack, "attention_mask": mask})
        worse, report = found(path)
        assert worse == (set() if keep else LEAK)
        if not keep:
            (finding,) = report["findings"]
            assert len(finding["tensors"]) == 4 * LAYERS


def test_a_lone_stack_is_checked_and_the_layer_is_named(tmp_path, passes):
    sick = torch.stack(passes[True])
    sick[1, :, :, 2, 7] = 0.5
    np.save(tmp_path / "stack.npy", sick.numpy())
    worse, report = found(tmp_path / "stack.npy", "--expect", "causal")
    assert worse
    assert {
        name
        for finding in report["findings"]
        if finding["severity"] == "error"
        for name in finding["tensors"]
    } == {"stack.1"}
    shown = run("inspect", f"{tmp_path / 'stack.npy'}:stack.1", "--rows", "2:3", check=0).stdout
    assert "stack.1" in shown


@pytest.mark.parametrize("name", ["stack", "run12", "attn_3", "w"])
def test_a_number_in_the_name_of_a_stack_is_no_layer(tmp_path, passes, name):
    np.save(tmp_path / f"{name}.npy", torch.stack(passes[True]).numpy())
    _, report = found(tmp_path / f"{name}.npy", "--expect", "causal", check=0)
    assert report["summary"]["tensors"] == LAYERS


def test_masks_and_states_of_a_stack_go_with_its_layers(tmp_path, passes, batch):
    mask = (torch.ones(PROMPT, PROMPT).tril().bool() & batch[1][:, None, None].bool())[None].expand(
        LAYERS, 2, 1, PROMPT, PROMPT
    )
    for obeyed, attentions in passes.items():
        path = saved(
            tmp_path / f"{obeyed}.pt", {"attentions": torch.stack(attentions), "attn_mask": mask.clone()}
        )
        worse, _ = found(path)
        assert {code for code, _ in worse} == (set() if obeyed else {"MSK204"})


# The steps of generate


def test_steps_of_generate_are_one_text(tmp_path, generations, batch):
    right, wrong, late, sequences = generations
    told = {"attention_mask": batch[1], "sequences": sequences}
    for name, attentions in (("right", right), ("wrong", wrong), ("late", late)):
        path = saved(tmp_path / f"{name}.pt", {"attentions": attentions, **told})
        for arguments in ((), ("--expect", "causal"), ("--pad-id", "0")):
            worse, report = found(path, *arguments)
            codes = {code for code, _ in worse}
            assert codes == (set() if name == "right" else {"MSK202"}), (name, arguments)
            errors = [each for each in report["findings"] if each["severity"] == "error"]
            assert len(errors) == len(codes)
            if name == "wrong":
                assert len(errors[0]["tensors"]) == NEW * LAYERS
                assert errors[0]["evidence"]["steps"] == "0 to 4"
            if name == "late":
                assert "decoding only (steps 1 to 4)" in errors[0]["message"]
                assert "grow by a one" in errors[0]["fix"]
                assert not any(tensor.startswith("attentions.0.") for tensor in errors[0]["tensors"])


@pytest.mark.parametrize("grown", [0, NEW - 1])
def test_the_mask_may_be_the_prompts_or_the_whole_texts(tmp_path, generations, batch, grown):
    mask = torch.nn.functional.pad(batch[1], (0, grown), value=1)
    right, wrong, *_ = generations
    for name, attentions in (("right", right), ("wrong", wrong)):
        path = saved(tmp_path / f"{name}.pt", {"attentions": attentions, "attention_mask": mask})
        assert found(path)[0] == (set() if name == "right" else LEAK)


@pytest.mark.parametrize(
    "how", [{"cache_implementation": "static"}, {"use_cache": False}, {"prefill_chunk_size": 4}]
)
def test_caches_that_grow_stay_or_are_none(tmp_path, model, batch, how):
    ids, mask = batch
    for obeyed in (True, False):
        given = mask if obeyed else torch.ones_like(mask)
        out = model.generate(
            ids, attention_mask=given, output_attentions=True, return_dict_in_generate=True,
            max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, **how,
        )  # fmt: skip
        path = saved(tmp_path / f"{obeyed}.pt", {"attentions": out.attentions, "attention_mask": mask})
        worse, report = found(path)
        assert worse == (set() if obeyed else LEAK)
        assert len([each for each in report["findings"] if each["severity"] == "error"]) == len(worse)


@pytest.mark.parametrize("told", ["prompt", "text"])
def test_a_prompt_read_in_chunks(tmp_path, told):
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 14, dtype=torch.int64)
    mask[0, :3] = 0
    for obeyed in (True, False):
        real = mask.bool() if obeyed else torch.ones_like(mask).bool()
        steps = []
        for queries, keys in ((4, 4), (4, 8), (4, 12), (1, 13), (1, 14)):
            seen = torch.ones(queries, keys).tril(keys - queries).bool() & real[:, None, None, :keys]
            scores = torch.randn(LAYERS, 2, 4, queries, keys, generator=generator)
            steps.append(list(scores.masked_fill(~seen, -1e9).softmax(-1)))
        path = saved(
            tmp_path / f"{obeyed}.pt",
            {"attentions": steps, "attention_mask": mask if told == "text" else mask[:, :12]},
        )
        worse, report = found(path, "--expect", "causal")
        assert worse == (set() if obeyed else LEAK)
        if not obeyed:
            assert report["findings"][0]["evidence"]["steps"] == "0 to 4"


def test_a_sliding_cache_shows_its_last_keys(tmp_path, batch):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="eager", pad_token_id=0, eos_token_id=1, sliding_window=6,
    )  # fmt: skip
    ids, mask = batch
    for obeyed in (True, False):
        out = MistralForCausalLM(config).eval().generate(
            ids, attention_mask=mask if obeyed else torch.ones_like(mask), output_attentions=True,
            return_dict_in_generate=True, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
        )  # fmt: skip
        path = saved(tmp_path / f"{obeyed}.pt", {"attentions": out.attentions, "attention_mask": mask})
        assert found(path)[0] == (set() if obeyed else LEAK)


def test_beams_are_copies_of_their_sample(tmp_path, model, batch):
    ids, mask = batch
    for obeyed in (True, False):
        given = mask if obeyed else torch.ones_like(mask)
        out = model.generate(
            ids, attention_mask=given, output_attentions=True, return_dict_in_generate=True,
            max_new_tokens=3, min_new_tokens=3, num_beams=2, do_sample=False,
        )  # fmt: skip
        path = saved(tmp_path / f"{obeyed}.pt", {"attentions": out.attentions, "attention_mask": mask})
        assert found(path)[0] == (set() if obeyed else LEAK)


# What could not be checked


def test_what_is_not_checked_is_said_first_and_ends_in_2(tmp_path, batch):
    stack = torch.rand(3, 5, 4, PROMPT, PROMPT).softmax(-1)
    path = saved(tmp_path / "x.pt", {"attentions": stack, "attention_mask": batch[1]})
    for form in ("text", "concise"):
        told = run("diagnose", path, "--format", form, check=2)
        first = told.stdout.splitlines()[0]
        assert "not checked: all weights (attentions)" in first
        assert "batch" in first
        assert "none of the weights" in told.stderr
    _, report = found(path, check=2)
    (unchecked,) = report["unchecked"]
    assert (unchecked["what"], unchecked["tensors"], unchecked["every"]) == ("weights", ["attentions"], True)
    assert run("diagnose", path, "--exit-zero", check=2).stdout


def test_one_file_of_a_folder_that_could_not_be_checked_makes_it_2(tmp_path, passes, batch):
    stack = torch.rand(3, 5, 4, PROMPT, PROMPT).softmax(-1)
    saved(tmp_path / "a.pt", {"attentions": torch.stack(passes[True]), "attention_mask": batch[1]})
    run("diagnose", tmp_path, check=0)
    saved(tmp_path / "b.pt", {"attentions": stack, "attention_mask": batch[1]})
    told = run("diagnose", tmp_path, check=2)
    assert "b.pt" in told.stderr
    assert "b.pt: not checked" in told.stdout


def test_tensors_of_no_known_part_are_named(tmp_path, passes, batch):
    dump = {"attentions": torch.stack(passes[True]), "hidden_states": torch.randn(2, PROMPT, 32)}
    told = run("diagnose", saved(tmp_path / "x.pt", dump), check=0)
    assert "not checked: hidden_states: no part of attention" in told.stdout.splitlines()[0]


@pytest.mark.parametrize(
    "beside",
    [
        {"attention_mask": torch.ones(4, PROMPT, dtype=torch.int64)},
        {"attn_mask": torch.ones(5, 1, PROMPT, PROMPT).tril().bool()},
        {"attn_mask": torch.ones(2, 3, PROMPT, PROMPT).tril().bool()},
        {"attention_mask": torch.ones(2, 1, 5, PROMPT)},
    ],
)
def test_a_mask_that_fits_no_weights_is_said_not_to_be_compared(tmp_path, passes, beside):
    path = saved(tmp_path / "x.pt", {"attentions": torch.cat(passes[False])[:2].clone(), **beside})
    told = run("diagnose", path, check=2)
    assert "not compared" in told.stdout.splitlines()[0]
    fitting = {"attention_mask": torch.ones(2, PROMPT, dtype=torch.int64)}
    run("diagnose", saved(tmp_path / "y.pt", {"attentions": passes[False], **fitting}), check=0)


def test_layers_one_after_the_other_are_no_batch(tmp_path, passes, batch):
    path = saved(tmp_path / "x.pt", {"attentions": torch.cat(passes[False]), "attention_mask": batch[1]})
    assert "[6, 4, 9, 9]" in run("diagnose", path, check=2).stdout.splitlines()[0]


# Integer keys


def test_integer_keys_are_layers(tmp_path, passes, batch):
    for obeyed, attentions in passes.items():
        plain = dict(enumerate(attentions))
        nested = {layer: {"attn_weights": each} for layer, each in plain.items()}
        for name, dump in (("plain", plain), ("nested", nested)):
            path = tmp_path / f"{name}.pt"
            torch.save({**dump, "attention_mask": batch[1]}, path)
            worse, report = found(path)
            assert worse == (set() if obeyed else LEAK), name
            if not obeyed:
                assert len([each for each in report["findings"] if each["severity"] == "error"]) == 1
            layers = [roled.layer for roled in roles_of(open_tensors(path)) if roled.role == "weights"]
            assert layers == [0, 1, 2]
