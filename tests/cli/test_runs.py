"""Folders as debugging tools write them are one run: by the tool itself where it can be installed, else as it writes."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM
from transformers.model_debugging_utils import model_addition_debugger_context

from maskcli.inputs.runs import in_runs, member_of
from tests.cli.running import run

BATCH, LENGTH, LAYERS = 2, 9, 3


def weights_and_mask(*, obeyed, left=True, seed=0):
    """Attentions of a causal model [B, H, Q, K] by layer, and the mask [B, K] that they obey or not."""
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[0, slice(0, 3) if left else slice(6, None)] = 0
    generator = torch.Generator().manual_seed(seed)
    seen = torch.ones(LENGTH, LENGTH).tril().bool()
    if obeyed:
        seen = seen & mask[:, None, None].bool()
    scores = torch.randn(LAYERS, BATCH, 4, LENGTH, LENGTH, generator=generator)
    return list(scores.masked_fill(~seen, torch.finfo(torch.float32).min).softmax(-1)), mask


def report(folder, *arguments, check):
    told = run("diagnose", folder, "--format", "json", *arguments, check=check)
    found = json.loads(told.stdout)
    assert found["summary"]["files"] == 1
    return found


def worse(found):
    return [each for each in found["findings"] if each["severity"] != "note"]


# transformers


@pytest.mark.parametrize("obeyed", [True, False])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_folder_of_the_model_debugger_is_one_run(tmp_path, obeyed, kind):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
    }
    if kind == "llama":
        model = LlamaForCausalLM(
            LlamaConfig(**sizes, num_key_value_heads=2, attn_implementation="eager")
        ).eval()
    else:
        model = BertModel(BertConfig(**sizes, attn_implementation="eager")).eval()
    ids = torch.randint(3, 64, (BATCH, LENGTH))
    _, mask = weights_and_mask(obeyed=True, left=kind == "llama")
    ids[mask == 0] = 0
    folder = tmp_path / "debug"
    with model_addition_debugger_context(
        model, debug_path=str(folder), do_prune_layers=False, use_repr=False
    ):
        given = {"attention_mask": mask} if obeyed else {}
        model.forward(input_ids=ids, output_attentions=True, **given)

    found = report(folder, "--pad-id", "0", check=0 if obeyed else 1)
    # The leak is told of the maps, or of the causal masks of the layers, which have forgotten the padding.
    assert len(worse(found)) == (0 if obeyed else 1)
    if not obeyed:
        (leak,) = worse(found)
        assert leak["code"] in ("MSK202", "MSK114" if kind == "llama" else "MSK202")
        kinds = r"(_outputs_attentions_\d|_attention_mask)\.safetensors$"
        assert all(re.search(kinds, name) for name in leak["tensors"])
        assert leak["file"] == str(folder)
        shown = leak["see"].split()[1:]
        assert run(*shown, check=0).stdout


# SGLang


def dumped(folder, name, value, *, step=0, rank=0, index=1, layer=None, form="new"):
    """What sglang's dumper writes, in its present form and in that of 2025."""
    folder.mkdir(parents=True, exist_ok=True)
    tags = {"step": step, "rank": rank, "dump_index": index, "name": name, "recompute_status": "disabled"}
    if form == "old":
        tags = {"forward_pass_id": step, "rank": rank, "name": name, "dump_index": index}
    if layer is not None:
        tags["layer_id"] = layer
    meta = {
        **tags,
        "world_rank": rank,
        "world_size": 1,
        "sglang_parallel_info": {"tp_rank": rank, "tp_size": 1},
    }
    saved = value if form == "old" else {"value": value, "meta": meta}
    torch.save(saved, folder / ("___".join(f"{key}={each}" for key, each in tags.items()) + ".pt"))


@pytest.mark.parametrize("form", ["new", "old"])
@pytest.mark.parametrize("obeyed", [True, False])
def test_files_of_sglangs_dumper_are_one_run(tmp_path, form, obeyed):
    folder = tmp_path / "dump_1764"
    for step in (0, 1):
        maps, mask = weights_and_mask(obeyed=obeyed, seed=step)
        dumped(folder, "attention_mask", mask, step=step, index=1, form=form)
        for layer, each in enumerate(maps):
            dumped(folder, "attn_weights", each, step=step, index=2 + layer, layer=layer, form=form)
            dumped(
                folder,
                "grad__attn_weights",
                torch.randn(2, 4, 9, 9),
                step=step,
                index=20 + layer,
                layer=layer,
                form=form,
            )
            dumped(
                folder,
                "layer_start__hidden_states",
                torch.randn(18, 32),
                step=step,
                index=40 + layer,
                layer=layer,
                form=form,
            )
    found = report(tmp_path, check=0 if obeyed else 1)
    assert [each["code"] for each in worse(found)] == ([] if obeyed else ["MSK202"])
    if not obeyed:
        (leak,) = worse(found)
        assert len(leak["tensors"]) == 2 * LAYERS
        assert "layer_id=0" in leak["tensors"][0]
        assert leak["evidence"]["steps"] == "0 to 1"


def test_ranks_are_runs_of_their_own(tmp_path):
    for rank in (0, 1):
        maps, mask = weights_and_mask(obeyed=rank == 0)
        dumped(tmp_path, "attention_mask", mask, rank=rank)
        for layer, each in enumerate(maps):
            dumped(tmp_path, "attn_weights", each[:, :2], rank=rank, index=2 + layer, layer=layer)
    lines = [
        json.loads(line)
        for line in run("diagnose", tmp_path, "--format", "jsonl", check=1).stdout.splitlines()
    ]
    assert [len(worse(line)) for line in lines] == [0, 1]
    assert "rank 1" in lines[1]["file"]


def test_one_file_of_the_dumper_is_known_by_its_tags(tmp_path):
    maps, _ = weights_and_mask(obeyed=True)
    sick = maps[0].clone()
    sick[:, :, 2, 7] = 0.5
    dumped(tmp_path, "attn_weights", sick, layer=0)
    (path,) = tmp_path.iterdir()
    told = run("diagnose", path, "--expect", "causal", check=1).stdout
    assert "name=attn_weights" in told


def test_outputs_of_modules_in_passes_are_outputs(tmp_path):
    folder = tmp_path / "TP0_PP0_Rank0_pid77"
    folder.mkdir()
    for step, tokens in enumerate((12, 2)):
        tensors = {
            "model.forward_batch_info.input_ids": torch.randint(0, 99, (tokens,)),
            "model.forward_batch_info.seq_lens": torch.tensor([7, 5]),
            "model.forward_batch_info.positions": torch.cat([torch.arange(7), torch.arange(5)])[-tokens:],
        }
        for layer in range(LAYERS):
            tensors[f"model.layers.{layer}.self_attn.qkv_proj"] = torch.randn(tokens, 96)
            tensors[f"model.layers.{layer}.self_attn.attn"] = torch.randn(tokens, 32)
            tensors[f"model.layers.{layer}.self_attn"] = [torch.randn(tokens, 32)] * 2
        torch.save(tensors, folder / f"Pass{step:05d}.pt")
    found = report(tmp_path, check=0)
    assert worse(found) == []


# TransformerEngine, TensorRT-LLM, and arrays by name


@pytest.mark.parametrize("obeyed", [True, False])
def test_iterations_of_tensorrt_are_one_run(tmp_path, obeyed):
    for iteration in (3, 4):
        folder = tmp_path / "tllm_debug" / "PP_1" / "TP_1" / f"iteration_{iteration}"
        folder.mkdir(parents=True)
        maps, mask = weights_and_mask(obeyed=obeyed)
        np.save(folder / "attention_mask.npy", mask.numpy())
        np.save(folder / "request_ids.npy", np.arange(2))
        for layer, each in enumerate(maps):
            np.save(folder / f"transformer.layers.{layer}.attention.attn_weights.npy", each.numpy())
    found = report(tmp_path, check=0 if obeyed else 1)
    assert [each["code"] for each in worse(found)] == ([] if obeyed else ["MSK202"])


def test_dumps_of_transformer_engine_are_one_run(tmp_path):
    for rank in (0, 1):
        folder = tmp_path / "tensor_dumps" / f"rank_{rank}"
        folder.mkdir(parents=True)
        for layer in range(LAYERS):
            for tensor in ("activation", "gradient", "weight", "output"):
                name = f"transformer_layer_{layer}_self_attention_layernorm_qkv_{tensor}_iter_000001.pt"
                torch.save({"high_precision": torch.randn(16, 32)}, folder / name)
        maps, mask = weights_and_mask(obeyed=rank == 0)
        torch.save({"high_precision": mask}, folder / "attention_mask_iter_000001.pt")
        torch.save({"high_precision": maps[0]}, folder / "layer_0_attn_weights_iter_000001.pt")
    lines = [
        json.loads(line)
        for line in run("diagnose", tmp_path, "--format", "jsonl", check=1).stdout.splitlines()
    ]
    assert [len(worse(line)) for line in lines] == [0, 1]


@pytest.mark.parametrize("obeyed", [True, False])
def test_arrays_that_are_named_as_parts_are_one_run(tmp_path, obeyed):
    maps, mask = weights_and_mask(obeyed=obeyed)
    np.save(tmp_path / "attention_mask.npy", mask.numpy())
    np.save(tmp_path / "attentions.npy", torch.stack(maps).numpy())
    found = report(tmp_path, check=0 if obeyed else 1)
    assert [each["code"] for each in worse(found)] == ([] if obeyed else ["MSK202"])


def test_a_broken_file_of_a_run_leaves_the_others(tmp_path):
    maps, mask = weights_and_mask(obeyed=False)
    dumped(tmp_path, "attention_mask", mask)
    for layer, each in enumerate(maps):
        dumped(tmp_path, "attn_weights", each, index=2 + layer, layer=layer)
    broken = next(path for path in tmp_path.iterdir() if "layer_id=1" in path.name)
    broken.write_bytes(broken.read_bytes()[:200])
    told = run("diagnose", tmp_path, "--format", "json", check=2)
    found = json.loads(told.stdout)
    (leak,) = worse(found)
    assert len(leak["tensors"]) == LAYERS - 1
    assert str(broken) in found["unchecked"][0]["tensors"]
    assert broken.name in told.stderr


def test_roles_by_hand_reach_the_files_of_a_run(tmp_path):
    maps, mask = weights_and_mask(obeyed=False)
    dumped(tmp_path, "what_to_see", mask.float())
    dumped(tmp_path, "attn_weights", maps[0], layer=0)
    run("diagnose", tmp_path, check=0)
    odd = next(path for path in tmp_path.iterdir() if "what_to_see" in path.name)
    assert "MSK202" in run("diagnose", tmp_path, "--role", f"padding-mask={odd}:value", check=1).stdout


# Names

NAMES = st.from_regex(r"[a-z][a-z_]{0,10}[a-z](\.[0-9]{1,2})?", fullmatch=True)


@given(
    NAMES, st.integers(0, 10**6), st.integers(0, 99), st.integers(0, 10**4), st.none() | st.integers(0, 99)
)
def test_tags_are_read_back(name, step, rank, index, layer):
    tags = {"step": step, "rank": rank, "dump_index": index, "name": name}
    if layer is not None:
        tags["layer_id"] = layer
    member = member_of("dump/" + "___".join(f"{key}={value}" for key, value in tags.items()) + ".pt")
    assert (member.step, member.rank, member.folder) == (step, f"rank {rank}", "dump")
    plain = name.replace("__", ".")
    assert member.name in (plain, f"layers.{layer}.{plain}")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)))
def test_any_names_are_files_or_runs(names):
    paths = list(dict.fromkeys(f"folder/{name}" for name in names))
    tasks = in_runs(paths)
    kept = [
        path
        for task in tasks
        for path in ([task] if isinstance(task, str) else [each.path for each in task.members])
    ]
    assert sorted(kept) == sorted(paths)
