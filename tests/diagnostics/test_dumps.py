"""Files of many tensors: layers, sides, runs and steps in one file; a sick run is named and its healthy neighbour is not."""

import numpy as np
import pytest
import torch

from maskcli.diagnostics.diagnose import diagnose
from maskcli.tensors import open_tensors
from tests.diagnostics import zoo
from tests.diagnostics.attention import causal, layers, loud, padding, report, the, weights

SHAPE = (3, 4, 12, 12)
LEFT = padding(SHAPE, "left")
MASK = torch.from_numpy(LEFT.astype(np.int64))
GOOD, BAD = causal(SHAPE) & LEFT[:, None, None], causal(SHAPE)


def grouped(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("healthy", "sick"),
    [
        ("left.", "right."),
        ("step0.", "step1."),
        ("before.", "after."),
        ("run_1/", "run_2/"),
        ("good_", "bad_"),
    ],
)
@pytest.mark.parametrize("own_mask", [True, False])
def test_two_runs_in_one_file(healthy, sick, own_mask):
    """Each run has its padding mask, or both share one; only the run that ignores it is named."""
    arrays = grouped(healthy, layers(SHAPE, GOOD)) | grouped(sick, layers(SHAPE, BAD))
    arrays |= (
        {healthy + "attention_mask": MASK, sick + "attention_mask": MASK}
        if own_mask
        else {"attention_mask": MASK}
    )
    for expect in ((), "causal"):
        found = report(arrays, expect)
        assert loud(found) == ["MSK202"]
        assert the(found, "MSK202").tensors == (f"{sick}attentions.0", f"{sick}attentions.1")


def test_runs_of_other_padding_do_not_borrow_each_others():
    right = padding(SHAPE, "right")
    arrays = grouped("left.", layers(SHAPE, GOOD) | {"attention_mask": MASK})
    arrays |= grouped(
        "right.",
        layers(SHAPE, right[:, None, None]) | {"attention_mask": torch.from_numpy(right.astype(int))},
    )
    assert loud(report(arrays)) == []
    arrays["left.attention_mask"], arrays["right.attention_mask"] = (
        arrays["right.attention_mask"],
        arrays["left.attention_mask"],
    )
    assert loud(report(arrays)) != []


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("static", [False, True])
def test_one_sick_step_among_healthy_ones(name, static):
    """All calls of a generation in one file; in one decode step of one query the padding is weighed."""
    steps = zoo.generation(name, "left", static)
    arrays = {f"step{n}.{key}": array.clone() for n, dump in enumerate(steps) for key, array in dump.items()}
    assert loud(report(arrays)) == []
    filled = zoo.LENGTH + 2
    whole = {
        key
        for key, array in arrays.items()
        if key.startswith("step2.attentions") and array.shape[3] in (filled, zoo.CACHE)
    }
    for each in whole:
        flat = arrays[each] + 0.02
        flat[..., filled:] = 0
        arrays[each] = flat / flat.sum(-1, keepdim=True)
    # Layers that keep the whole text are declared causal one by one, so that the local ones do not have a say.
    found = report(arrays, [f"{each}=causal" for each in whole])
    assert loud(found) == ["MSK202"]
    assert {tensor for each in found.findings if each.severity != "note" for tensor in each.tensors} == whole


@pytest.mark.parametrize("kind", ["encoder", "cross", "decoder"])
def test_one_sick_kind_of_an_encoder_decoder(kind):
    """Of three kinds of maps in two layers each, one does not use its mask: only that kind is named."""
    source, target = padding((3, 4, 12, 12), "right"), padding((3, 4, 8, 8), "left")
    keeps = {
        "encoder": ((3, 4, 12, 12), source[:, None, None]),
        "cross": ((3, 4, 8, 12), source[:, None, None]),
        "decoder": ((3, 4, 8, 8), causal((3, 4, 8, 8)) & target[:, None, None]),
    }
    arrays = {
        "attention_mask": torch.from_numpy(source.astype(int)),
        "decoder_attention_mask": torch.from_numpy(target.astype(int)),
    }
    for each, (shape, keep) in keeps.items():
        sick = causal(shape) if each == "decoder" else np.ones(shape, bool)
        arrays |= {
            f"{each}_{name}": array for name, array in layers(shape, sick if each == kind else keep).items()
        }
    found = report(arrays, "causal")
    assert len(loud(found)) == 1
    named = {tensor for each in found.findings if each.severity != "note" for tensor in each.tensors}
    assert named == {f"{kind}_attentions.0", f"{kind}_attentions.1"}


@pytest.mark.parametrize(
    "pattern",
    [
        "attentions.{}",
        "model.layers.{}.self_attn.attn_weights",
        "transformer.h.{}.attn.attn_weights",
        "layer_{}_attn_weights",
        "attn_weights_{}",
        "encoder.layer.{}.attention.self.attention_probs",
    ],
)
def test_names_of_layers(pattern):
    full = pattern.startswith("encoder")
    good, bad = (LEFT[:, None, None], np.ones((12, 12), bool)) if full else (GOOD, BAD)
    for keep, codes in ((good, []), (bad, ["MSK202"])):
        arrays = {pattern.format(layer): array for layer, array in enumerate(layers(SHAPE, keep).values())}
        found = report(arrays | {"attention_mask": MASK}, "full" if full else "causal")
        assert loud(found) == codes
        if codes:
            assert the(found, "MSK202").tensors == tuple(pattern.format(layer) for layer in range(2))


def test_only_the_sick_layer_of_many_is_named_when_its_mask_was_declared():
    arrays = layers(SHAPE, GOOD, count=12) | {"attention_mask": MASK}
    arrays["attentions.7"] = weights(SHAPE, LEFT[:, None, None])
    found = report(arrays, "causal")
    assert loud(found) == ["MSK203"]
    assert the(found, "MSK203").tensors == ("attentions.7",)


def test_averaged_and_unbatched_maps():
    """[B, Q, K] averaged over heads with a padding mask of B rows; [H, Q, K] of one text with a mask of one row."""
    for keep, codes in ((GOOD, []), (BAD, ["MSK202"])):
        mean = {name: array.mean(1) for name, array in layers(SHAPE, keep).items()}
        assert loud(report(mean | {"attention_mask": MASK}, "causal")) == codes
        one = {name: array[0] for name, array in layers(SHAPE, keep).items()}
        assert loud(report(one | {"attention_mask": MASK[:1]}, "causal")) == codes
        assert loud(report(one | {"attention_mask": MASK[0]}, "causal")) == codes


def test_fewer_key_heads_than_query_heads():
    """Queries, keys and values of grouped heads beside the maps change nothing."""
    parts = {
        "query": torch.randn(3, 4, 12, 8),
        "key": torch.randn(3, 2, 12, 8),
        "value": torch.randn(3, 2, 12, 8),
    }
    grouped_heads = {f"layers.{layer}.{role}": part for layer in range(2) for role, part in parts.items()}
    for keep, codes in ((GOOD, []), (BAD, ["MSK202"])):
        arrays = {f"layers.{n}.attn_weights": array for n, array in enumerate(layers(SHAPE, keep).values())}
        assert loud(report(arrays | grouped_heads | {"attention_mask": MASK}, "causal")) == codes


@pytest.mark.parametrize(("task", "name"), [("encoder", "longformer"), ("encoder", "funnel"), ("image", "swin"), ("decoder", "minimax"), ("decoder", "lfm2")])  # fmt: skip
def test_layouts_that_are_no_maps_over_the_tokens(task, name):
    """Longformer's bands, Funnel's pooled queries, Swin's windows, states of linear layers: nothing is accused."""
    dump = zoo.images(name) if task == "image" else zoo.forward(task, name, "left")
    assert loud(report(dump)) == []


@pytest.mark.parametrize("shape", [(3, 4, 12, 12, 2), (12,), (3, 0, 12, 12)])
def test_tensors_that_cannot_be_maps_are_passed_over_with_a_reason(shape):
    found = report(layers(SHAPE, GOOD) | {"attentions.2": torch.zeros(shape), "attention_mask": MASK})
    assert loud(found) == []
    assert "attentions.2" not in found.checked


# Chunks of a cache that no longer holds the beginning.


def chunk(size, first, queries, keys, lefts):
    """The mask of chunked attention over the last keys, [B, 1, Q, K], cell by cell: key 0 stands at `first` in the batch."""
    keep = np.zeros((len(lefts), 1, queries, keys), bool)
    for item, left in enumerate(lefts):
        for query in range(queries):
            position = first + keys - queries + query - left
            for key in range(keys):
                other = first + key - left
                keep[item, 0, query, key] = 0 <= other <= position and other // size == position // size
    return keep


@pytest.mark.parametrize(
    ("size", "first", "queries", "keys"), [(4, 9, 1, 4), (4, 9, 3, 6), (5, 11, 4, 8), (4, 8, 4, 7)]
)
def test_chunks_are_counted_from_the_first_real_token_even_when_the_cache_lost_it(size, first, queries, keys):
    lefts, total = (0, 2, 3), first + keys
    positions = np.stack([np.arange(total - queries, total) - left for left in lefts])
    mask = torch.from_numpy((np.arange(total) >= np.array(lefts)[:, None]).astype(int))
    beside = {"attention_mask": mask, "position_ids": torch.from_numpy(positions)}
    shape = (3, 2, queries, keys)
    good = layers(shape, chunk(size, first, queries, keys, lefts))
    assert loud(report(good | beside, f"chunked:{size}")) == []
    # Without positions nobody knows where the chunks begin, and nothing is said.
    assert loud(report(good | {"attention_mask": mask}, f"chunked:{size}")) == []
    assert loud(report(good, f"chunked:{size}")) == []
    allowed = chunk(size, first, queries, keys, lefts)
    everything = chunk(1000, first, queries, keys, lefts)
    assert (everything != allowed).any()
    found = report(layers(shape, everything) | beside, f"chunked:{size}")
    assert loud(found) == ["MSK213"]
    sick = tuple(np.flatnonzero((everything != allowed).any((1, 2, 3))).tolist())
    assert the(found, "MSK213").where.batch == (None if len(sick) == 3 else sick)


# Padding that only the weights show.


@pytest.mark.parametrize("fall", ["real keys", "levels"])
def test_padding_queries_that_fall_through_a_finite_fill(fall):
    """GPT's causal -1e4 beside finfo.min for padding, or float16's few levels: leading rows look at the future, all others do not."""
    maps = {}
    for name, array in layers(SHAPE, GOOD).items():
        for item, query in zip(*np.nonzero(~LEFT), strict=True):
            row = torch.rand(4, 12) + 0.1
            row[:, ~LEFT[item] if fall == "real keys" else slice(0, 0)] = 0
            array[item, :, query] = (row / row.sum(-1, keepdim=True)).to(array.dtype)
        maps[name] = array
    assert loud(report(maps, "causal")) == []
    assert loud(report(maps)) == []
    # The same rows with one later row that looks behind itself are no padding, and neither are all rows of a model without a mask.
    leaking = {name: array.clone() for name, array in maps.items()}
    for array in leaking.values():
        array[0, :, 9] = 1 / 11
        array[0, :, 9, 0] = 0
    assert loud(report(leaking, "causal")) != []
    for keep in (
        np.ones((12, 12), bool),
        np.triu(np.ones((12, 12), bool)),
        np.triu(np.ones((12, 12), bool), 1) | np.eye(12, dtype=bool),
    ):
        assert loud(report(layers(SHAPE, keep), "causal")) != []


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fnuz], ids=str)
@pytest.mark.parametrize("name", ["mask", "attn_mask", "attention_mask", "labels", "attentions.1"])
def test_a_tensor_that_cannot_be_read_leaves_the_rest_of_the_file(dtype, name, tmp_path):
    good = torch.softmax(torch.randn(1, 2, 7, 7), -1)
    path = tmp_path / "run.pt"
    torch.save(
        {name: torch.zeros(3, 7).to(dtype), "attentions.0": good, "freqs_cis": torch.zeros(3, 7).to(dtype)},
        path,
    )
    found = diagnose(open_tensors(str(path)))
    assert found.checked == ("attentions.0",)
    assert list(found.unfit) == [name]
    assert str(dtype).removeprefix("torch.") in found.unfit[name]
