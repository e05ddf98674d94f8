"""What people report: a saved run each, sick and healthy, with what is said of it without any other hint."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers

from maskcli.meant.model_config import read_config
from tests.cli import running
from tests.diagnostics.attention import DTYPES, layers, loud, report, scores, softmax, weights

dtypes = pytest.mark.parametrize("dtype", list(DTYPES))
B, H, N = 2, 4, 24
MAP = (B, H, N, N)
K = np.arange(N)
CAUSAL = K[:, None] >= K
CHUNKS = CAUSAL & (K[:, None] // 8 == K // 8)


class Case(NamedTuple):
    """A saved run: what keeps a key, how many queries are asked last, what was declared, and what is found."""

    keep: np.ndarray
    said: dict
    found: list


def rows(keep, queries):
    """The last queries of a mask."""
    return keep[-queries:]


def without(keep, keys):
    """A mask that never sees some keys."""
    keep = keep.copy()
    keep[:, keys] = False
    return keep


LOST = without(rows(CAUSAL, 12), slice(0, 12))
TREE = np.concatenate([np.ones((5, 19), bool), np.tril(np.ones((5, 5), bool))], axis=1)
TREE[2, 20] = TREE[3, 21] = TREE[4, 21] = TREE[4, 22] = False
CASES = {
    "a rank of a ring that lost the earlier rank's keys": Case(LOST, {"expect": "causal"}, ["MSK222"]),
    "a rank with the keys of all": Case(rows(CAUSAL, 12), {"expect": "causal"}, []),
    "a draft tree": Case(TREE, {"expect": "tree:-1,0,0,1,1"}, []),
    "a draft tree without its text": Case(
        without(TREE, slice(0, 19)), {"expect": "tree:-1,0,0,1,1"}, ["MSK222"]
    ),
}


@dtypes
@pytest.mark.parametrize("name", CASES)
def test_what_is_said_of_weights(name, dtype):
    case = CASES[name]
    shape = (B, H, *case.keep.shape)
    saved = layers(shape, case.keep, dtype)
    assert loud(report(saved, **case.said)) == case.found
    with_mask = saved | {"attn_mask": torch.from_numpy(case.keep)[None, None]}
    assert loud(report(with_mask, **case.said)) == case.found or "MSK114" in loud(
        report(with_mask, **case.said)
    )


def test_leading_padding_of_every_sample_is_no_lost_past():
    """Only a past that no row of any sample reads was lost: one sample's may be padding."""
    keep = np.broadcast_to(CAUSAL[-12:], (B, H, 12, N)).copy()
    keep[0, ..., :12] = False
    assert loud(report(layers((B, H, 12, N), keep), expect="causal")) == []


# ---- states beside maps, whatever their layers are called


def attention(dtype="float32", turn=False, heads=8, groups=2):
    """Weights of grouped-query attention, and the query, key and value that made them, as [B, L, H, D]."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(B, heads, N, 16))
    k, v = (rng.normal(size=(B, groups, N, 16)) for _ in range(2))
    order = np.arange(heads) % groups if turn else np.arange(heads) // (heads // groups)
    made = softmax(np.where(CAUSAL, q @ k[:, order].swapaxes(-1, -2) / 4, -1e30))
    saved = {"query": q, "key": k, "value": v, "attn_output": made @ v[:, order]}
    behind = {name: torch.from_numpy(each).transpose(1, 2).to(DTYPES[dtype]) for name, each in saved.items()}
    return torch.from_numpy(made).to(DTYPES[dtype]), behind


@dtypes
@pytest.mark.parametrize("name", ["attn_weights", "attentions.0", "layers.3.self_attn.attn_weights"])
def test_states_without_a_layer_belong_to_the_only_map(name, dtype):
    made, states = attention(dtype)
    assert loud(report({name: made, **states})) == []
    other = weights((B, 8, N, N), CAUSAL, dtype, seed=5)
    assert loud(report({name: other, **states})) == ["MSK306"]
    turned, states = attention(dtype, turn=True)
    del states["value"], states["attn_output"]
    assert loud(report({name: turned, **states})) == ["MSK221"]


# ---- what a config.json says when it was saved by itself


LLAMA4 = {"model_type": "llama4_text", "use_cache": True, "num_hidden_layers": 4, "attention_chunk_size": 8}
CONFIGS = {
    "a text model by itself": (
        {"model_type": "llama", "use_cache": True, "num_hidden_layers": 4},
        ["causal"] * 4,
    ),
    "an encoder that names a cache": (
        {"model_type": "markuplm", "use_cache": True, "num_hidden_layers": 1},
        ["full"],
    ),
    "Llama 4": (LLAMA4, ["chunked:8"] * 3 + ["causal"]),
    "Llama 4 with its images": (
        {
            "model_type": "llama4",
            "vision_config": {},
            "text_config": LLAMA4 | {"no_rope_layers": [1, 0, 1, 1]},
        },
        ["chunked:8", "causal", "chunked:8", "chunked:8"],
    ),
    "Qwen 2.5 with its images": (
        {"model_type": "qwen2_5_vl", "vision_config": {}, "text_config": {"num_hidden_layers": 2}},
        ["causal"] * 2,
    ),
    "images and nothing known": (
        {"model_type": "unheard", "vision_config": {}, "text_config": {"num_hidden_layers": 2}},
        [None] * 2,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_without_a_class_says_its_layers(name, tmp_path):
    saved, expected = CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert list(read_config(str(tmp_path)).layers) == expected


@dtypes
@pytest.mark.parametrize("side", ["left", "right"])
def test_chunks_of_llama4_count_from_the_first_real_token(side, dtype, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA4))
    model = read_config(str(tmp_path))
    real = np.ones((B, N), bool)
    real[1, :5] = side == "right"
    real[1, N - 5 :] = side == "left"
    first = real.argmax(1)[:, None, None]
    chunks = CAUSAL & ((K - first) // 8 == (K[:, None] - first) // 8)

    def saved(chunked):
        keep = [chunked[:, None], CAUSAL[None, None]]
        keep = [each & real[:, None, None] | np.eye(N, dtype=bool) & ~real[:, None, :, None] for each in keep]
        maps = {f"attentions.{n}": weights(MAP, keep[n == 3], dtype, seed=n) for n in range(4)}
        return maps | {"attention_mask": torch.from_numpy(real.astype(int))}

    assert loud(report(saved(chunks), model=model)) == []
    from_the_slot = saved(np.broadcast_to(CHUNKS, (B, N, N)))
    assert loud(report(from_the_slot, model=model)) == (["MSK213"] if side == "left" else [])
    assert loud(report(saved(np.broadcast_to(CAUSAL, (B, N, N))), model=model)) == ["MSK213"]


@dtypes
def test_a_prefix_that_does_not_see_itself_is_no_encoder(dtype):
    (finding,) = report(layers(MAP, CAUSAL, dtype), expect="prefix-lm:6").findings
    assert finding.code == "MSK218"
    assert "encoder" not in finding.fix


# ---- one cause, and words that fit it


def binary(keep):
    return torch.from_numpy(np.array(keep)).float()


@dtypes
def test_scores_times_a_causal_mask_are_not_called_added(dtype):
    shown = softmax(scores(MAP) * CAUSAL)
    saved = {"attn_weights": torch.from_numpy(shown).to(DTYPES[dtype]), "mask": binary(CAUSAL)}
    assert loud(report(saved)) == ["MSK210"]
    added = {"attn_weights": torch.from_numpy(softmax(scores(MAP) + CAUSAL)).to(DTYPES[dtype])}
    assert loud(report(added | {"mask": binary(CAUSAL)})) == ["MSK103"]


@dtypes
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_times_the_padding_under_a_declared_causal_mask(side, dtype):
    real = np.ones((B, 64), bool)
    real[1, slice(0, 9) if side == "left" else slice(55, 64)] = False
    times = scores((B, H, 64, 64)) * real[:, None, None]
    causal = torch.from_numpy(softmax(np.where(np.tri(64), times, -1e30))).to(DTYPES[dtype])
    saved = {"attention_mask": torch.from_numpy(real.astype(int)), "attentions.0": causal}
    # Padding on the right is behind every real query.
    assert loud(report(saved, expect="causal")) == (["MSK210"] if side == "left" else [])


@dtypes
def test_a_mask_that_shows_the_future_is_named_where_weights_obey_it(dtype):
    ones = torch.ones(1, 1, N, N, dtype=torch.bool)
    (finding,) = report(layers(MAP, True, dtype) | {"attn_mask": ones}, expect="causal").findings
    assert finding.code == "MSK203"
    assert "'attn_mask' shows them" in finding.message
    assert "'attn_mask'" in finding.fix
    (finding,) = report(layers(MAP, True, dtype), expect="causal").findings
    assert "shows" not in finding.message
    masks = {f"layers.{n}.attn_mask": ones.clone() for n in range(2)}
    maps = {f"layers.{n}.attn_weights": each for n, each in enumerate(layers(MAP, True, dtype).values())}
    assert len(report(maps | masks, expect="causal").findings) == 1


def test_documents_with_wrong_borders_are_one_finding():
    documents = np.repeat([0, 1, 2], [9, 7, 8])
    wrong = np.repeat([0, 1, 2], [11, 7, 6])
    positions = torch.cat([torch.arange(n) for n in (9, 7, 8)])[None]
    meant = {"expect": "causal & documents"}
    for order, found in ((wrong, ["MSK114"]), (documents, []), (0 * documents, ["MSK405"])):
        mask = binary(CAUSAL & (order[:, None] == order))[None, None].bool()
        assert loud(report({"attn_mask": mask, "position_ids": positions}, **meant)) == found


@dtypes
def test_keras_calls_its_weights_attention_scores(dtype):
    saved = {"attention_scores": weights(MAP, True, dtype), "attention_mask": torch.from_numpy(CAUSAL)[None]}
    assert loud(report(saved)) == ["MSK203"]
    assert loud(report(saved | {"attention_scores": weights(MAP, CAUSAL, dtype)})) == []


def test_a_mask_of_the_source_beside_a_decoder_alone_is_at_no_other_resolution():
    source = torch.ones(B, 40, dtype=torch.int64)
    saved = {"decoder_attentions.0": weights(MAP, CAUSAL), "attention_mask": source}
    found = report(saved, expect="causal")
    assert not found.unchecked
    assert not found.findings
    frames = {"attentions.0": weights(MAP, True), "attention_mask": source}
    assert [each.tensors for each in report(frames).unchecked] == [("attention_mask",)]


# ---- positions of one query, and slots without a token


def test_a_decode_mask_with_its_position_is_compared_with_what_was_declared():
    shown = torch.zeros(1, 1, 1, 32)
    right = shown.masked_fill(torch.arange(32) > 12, -torch.inf)
    at = {"cache_position": torch.tensor([12])}
    assert loud(report({"attention_mask": shown} | at, expect="causal")) == ["MSK114"]
    assert loud(report({"attention_mask": right} | at, expect="causal")) == []
    # Without its position one row may be that of all queries.
    assert loud(report({"attention_mask": shown}, expect="causal")) == []


@dtypes
def test_empty_slots_of_a_ring_buffer_are_no_future(dtype):
    slots = torch.tensor([[0, 1, 2, 3, 4, 5, -1, -1]])
    at = {"key_positions": slots, "position_ids": torch.tensor([[5]])}
    read = report({"attn_weights": weights((1, H, 1, 8), True, dtype)} | at, expect="causal")
    assert loud(read) == ["MSK202"]
    assert "key_positions" in read.findings[0].message
    hidden = {"attn_weights": weights((1, H, 1, 8), slots.numpy() >= 0, dtype)}
    assert loud(report(hidden | at, expect="causal")) == []


# ---- folders


@pytest.mark.combinations
@pytest.mark.parametrize("form", ["one tensor each", "layers", "a batch and a tuple"])
@pytest.mark.parametrize("sick", [True, False])
def test_files_of_torch_that_are_named_as_parts_are_one_run(form, sick, tmp_path):
    real = np.ones((B, N), bool)
    real[1, 15:] = False
    maps = tuple(layers(MAP, True if sick else real[:, None, None]).values())
    mask = torch.from_numpy(real.astype(int))
    if form == "one tensor each":
        torch.save(mask, tmp_path / "attention_mask.pt")
        torch.save(torch.stack(maps), tmp_path / "attentions.pt")
    elif form == "layers":
        torch.save(mask, tmp_path / "attention_mask.pth")
        for layer, each in enumerate(maps):
            torch.save(each, tmp_path / f"layer_{layer}_attn_weights.pt")
    else:
        torch.save(transformers.BatchEncoding({"attention_mask": mask}), tmp_path / "inputs.pt")
        torch.save(maps, tmp_path / "attentions.pt")
    done = running.run("diagnose", tmp_path, "--format", "json", torch=True)
    found = json.loads(done.stdout)
    assert [each["code"] for each in found["findings"]] == (["MSK202"] if sick else [])
    assert done.returncode == int(sick)


@dtypes
def test_a_mask_of_as_many_rows_as_samples_is_over_keys_where_weights_say_so(dtype):
    real = np.arange(6) < np.array([6, 5, 4, 3, 6, 2])[:, None]
    shape = (6, H, 6, 6)
    mask = {"attn_mask": torch.from_numpy(real)}
    assert loud(report(layers(shape, real[:, None, None], dtype) | mask)) == []
    assert loud(report(layers(shape, real, dtype) | mask)) == []
    assert "MSK204" in loud(report(layers(shape, True, dtype) | mask))
