"""Axes in other orders than [B, H, Q, K] and [B, H, L, D]: the same finding, or silence, as in the usual one."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maskcli.diagnostics.rules import products
from maskcli.diagnostics.rules.biases import _products
from maskcli.diagnostics.rules.products import FEW_KEYS, _correlation, _has_values
from maskcli.meant.facts import Declared
from maskcli.scene.assemble import build_scenes
from maskcli.scene.layouts import in_usual_order
from maskcli.tensors import from_array, from_arrays, roles_of
from maskcli.tensors.orders import permuted, regrouped, saved_index, split_heads
from tests.diagnostics.attention import DTYPES, SIDES, causal, loud, padding, report, softmax, the

SHAPES = [(2, 4, 12, 12), (3, 2, 9, 12), (1, 4, 9, 9), (2, 4, 4, 4)]


def model(shape, keep, dtype="float32", groups=None, seed=0):
    """Query, key, value, weights and output of one layer of attention, [B, H, L, D]."""
    batch, heads, queries, keys = shape
    groups = groups or heads
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(batch, heads, queries, 8)) * 2
    key, value = (rng.normal(size=(batch, groups, keys, 8)) for _ in range(2))
    wide = [np.repeat(each, heads // groups, axis=1) for each in (key, value)]
    scores = query @ wide[0].transpose(0, 1, 3, 2) / np.sqrt(8)
    weights = softmax(np.where(keep, scores, -1e30))
    made = {
        "query": query,
        "key": key,
        "value": value,
        "attn_weights": weights,
        "attn_output": weights @ wide[1],
    }
    return {name: torch.from_numpy(each).to(DTYPES[dtype]) for name, each in made.items()}


def tokens_first(saved):
    """Queries, keys, values and outputs as [B, L, H, D], as flash-attn takes them."""
    states = ("query", "key", "value", "attn_output")
    return {
        name: each.transpose(1, 2).contiguous() if name in states else each for name, each in saved.items()
    }


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("small", [0, products.SMALL])
def test_tokens_before_heads(shape, dtype, small, monkeypatch):
    """Whether values are multiplied in one go or head by head."""
    monkeypatch.setattr(products, "SMALL", small)
    keep = causal(shape)
    right = model(shape, keep, dtype)
    assert loud(report(tokens_first(right))) == []
    other = model(shape, np.ones_like(keep), dtype)
    wrong = tokens_first(right | {"attn_output": other["attn_output"]})
    assert loud(report(wrong)) == ["MSK306"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("order", ["tokens first", "usual"])
def test_grouped_heads_dealt_in_turn(order, dtype):
    shape = (2, 4, 12, 12)
    right = model(shape, causal(shape), dtype, groups=2)
    arrange = tokens_first if order == "tokens first" else dict
    assert loud(report(arrange(right))) == []
    key, value = (torch.cat([right[name]] * 2, dim=1) for name in ("key", "value"))
    scores = right["query"].double() @ key.double().transpose(-1, -2) / np.sqrt(8)
    weights = scores.masked_fill(~torch.from_numpy(causal(shape)), -torch.inf).softmax(-1)
    dealt = {
        "attn_weights": weights.to(DTYPES[dtype]),
        "attn_output": (weights @ value.double()).to(DTYPES[dtype]),
    }
    assert "MSK221" in loud(report(arrange(right | dealt)))


@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0])
def test_how_far_weights_follow_the_products_of_queries_and_keys(scale):
    """The correlation of log W with q.k, both without the mean of their row, by numpy's own function."""
    shape = (2, 4, 12, 12)
    saved = {name: each * scale for name, each in model(shape, causal(shape)).items()}
    saved["attn_weights"] = model(shape, causal(shape), seed=0)["attn_weights"]
    file = from_arrays({name: each.numpy() for name, each in saved.items()})
    (scene,) = build_scenes(file.path, roles_of(file), Declared())
    (attention,) = scene.attentions
    query, key = attention.parts["query"], attention.parts["key"]
    for head, other in ((0, 0), (0, 1), (3, 2)):
        (told,) = _correlation(attention, query, key, head, other)
        logs, products = [], []
        for item, row in itertools.product(range(2), range(12)):
            seen = saved["attn_weights"][item, head, row].numpy().astype(float)
            if (seen > 0).sum() >= FEW_KEYS:
                log = np.log(seen[seen > 0])
                product = saved["key"][item, other].numpy().astype(float) @ saved["query"][
                    item, head, row
                ].numpy().astype(float)
                logs += [*(log - log.mean())]
                products += [*(product[seen > 0] - product[seen > 0].mean())]
        assert told == pytest.approx(np.corrcoef(logs, products)[0, 1], abs=1e-6)


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_products_of_queries_with_keys_that_heads_share(groups):
    shape = (2, 4, 12, 12)
    saved = model(shape, causal(shape), groups=groups)
    file = from_arrays({name: each.numpy() for name, each in saved.items()})
    (scene,) = build_scenes(file.path, roles_of(file), Declared())
    (attention,) = scene.attentions
    wide = saved["key"].double().repeat_interleave(4 // groups, dim=1)
    wanted = (saved["query"].double() @ wide.transpose(-1, -2)).numpy()[:, :, attention.sample.queries]
    assert np.allclose(_products(attention), wanted)


@pytest.mark.parametrize("side", SIDES)
def test_nan_in_values_that_nobody_sees(side):
    shape = (2, 4, 12, 12)
    real = padding(shape, side)
    saved = model(shape, causal(shape) & real[:, None, None])
    saved["attention_mask"] = torch.from_numpy(real.astype(np.int64))
    saved["value"][~torch.from_numpy(real)[:, None].expand(-1, 4, -1)] = torch.nan
    del saved["attn_output"]
    assert loud(report(tokens_first(saved))) == ["MSK304"]
    without = {name: each for name, each in saved.items() if name != "attn_weights"}
    mask = {"attn_mask": torch.from_numpy(real[:, None, None])}
    assert loud(report(tokens_first(without) | mask)) == ["MSK304"]


def test_scores_that_overflow():
    shape = (1, 2, 6, 6)
    saved = model(shape, causal(shape), "float16")
    saved["query"][:, 0, 3] = 200
    saved["key"][:, 0, 2] = 200
    saved["attn_weights"][:, 0, 3] = torch.nan
    del saved["attn_output"], saved["value"]
    assert loud(report(tokens_first(saved))) == ["MSK303"]


def test_an_index_is_that_of_the_saved_tensor():
    shape = (1, 2, 6, 6)
    saved = tokens_first(model(shape, causal(shape)))
    saved["query"][0, 4, 1, 3] = torch.nan
    found = the(report(saved), "MSK302")
    assert found.evidence["index"] == "[0, 4, 1, 3]"
    assert (found.where.heads, found.where.queries) == ((1,), ((4, 5),))


def test_empty_slots_of_a_cache_with_tokens_first():
    shape = (2, 4, 3, 16)
    keep = np.ones((3, 16), bool)
    saved = model(shape, keep)
    saved["key"][:, :, 10:] = 0
    weights = (saved["query"] @ saved["key"].transpose(-1, -2) / np.sqrt(8)).softmax(-1)
    saved |= {"attn_weights": weights, "attn_output": weights @ saved["value"]}
    assert loud(report(tokens_first(saved), "causal", past=7)) == ["MSK219"]


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_outputs_whose_heads_are_joined(dtype):
    shape = (2, 4, 12, 12)
    right = model(shape, causal(shape), dtype)
    other = model(shape, np.ones((12, 12), bool), dtype)

    def joined(output):
        return output.transpose(1, 2).reshape(2, 12, 32)

    assert loud(report(right | {"attn_output": joined(right["attn_output"])})) == []
    assert loud(report(right | {"attn_output": joined(other["attn_output"])})) == ["MSK306"]
    torch.manual_seed(0)
    projected = joined(right["attn_output"].float()) @ torch.randn(32, 32)
    found = report(right | {"attn_output": projected.to(DTYPES[dtype])})
    assert loud(found) == []
    assert "MSK306" in {skip.code for skip in found.skipped}


WEIGHTS = {
    "[B, Q, H, K]": lambda each: each.transpose(1, 2).contiguous(),
    "[B, H, K, Q]": lambda each: each.transpose(2, 3).contiguous(),
    "[B, G, H/G, Q, K]": lambda each: each.unflatten(1, (2, -1)),
}


@pytest.mark.combinations
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("layout", list(WEIGHTS))
@pytest.mark.parametrize("side", [None, *SIDES])
def test_weights_in_another_layout(layout, side, dtype):
    shape = (2, 4, 12, 12)
    real = np.ones((2, 12), bool) if side is None else padding(shape, side)
    facts = {"attention_mask": torch.from_numpy(real.astype(np.int64))}

    def dump(keep):
        maps = {f"attn_weights.{n}": model(shape, keep, dtype, seed=n)["attn_weights"] for n in range(2)}
        return {name: WEIGHTS[layout](each) for name, each in maps.items()} | facts

    keep = causal(shape) & real[:, None, None]
    right = report(dump(keep), "causal")
    assert loud(right) == [], right.findings
    noted = [finding.code for finding in right.findings if "transpose" in finding.message]
    assert noted == (["MSK208"] if layout == "[B, H, K, Q]" else [])
    if side == "left":
        forgot = report(dump(causal(shape) & np.ones((2, 1, 1, 12), bool)), "causal")
        assert loud(forgot) == ["MSK202"]
    if layout != "[B, H, K, Q]":
        ahead = report(dump(real[:, None, None] & np.ones((12, 12), bool)), "causal")
        assert loud(ahead) == ["MSK203"]


def test_new_queries_in_transposed_maps():
    shape = (2, 4, 5, 17)
    maps = {"attn_weights": model(shape, causal(shape))["attn_weights"].transpose(2, 3).contiguous()}
    assert loud(report(maps, "causal")) == []
    # Of samples without heads as well.
    maps["attn_weights"] = maps["attn_weights"][:, 0].contiguous()
    assert loud(report(maps, "causal")) == []
    ahead = model(shape, np.ones((5, 17), bool))["attn_weights"].transpose(2, 3).contiguous()
    assert loud(report({"attn_weights": ahead}, "causal")) == ["MSK203"]


@pytest.mark.parametrize("heads", [8, 12])
def test_as_many_heads_as_keys_at_a_decode_step(heads):
    shape = (2, heads, 3, heads)
    keep = causal(shape)
    tokens = {"attention_mask": torch.ones(2, heads, dtype=torch.int64)}
    assert loud(report({"attn_weights": model(shape, keep)["attn_weights"]} | tokens, "causal")) == []
    one = (2, heads, 1, heads)
    assert loud(report({"attn_weights": model(one, causal(one))["attn_weights"]} | tokens, "causal")) == []


def test_states_beside_maps_that_are_means_of_heads_are_not_those_of_one_head():
    """What torch's own module returns: the mean of the maps, and the states of all heads side by side."""
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    states = torch.randn(2, 12, 32)
    with torch.no_grad():
        output, mean = attention(states, states, states, need_weights=True)
    query, key, value = torch.nn.functional.linear(
        states, attention.in_proj_weight, attention.in_proj_bias
    ).chunk(3, -1)
    saved = {"attn_weights": mean, "query": query, "key": key, "value": value, "attn_output": output}
    for weights in (mean, mean[:, None]):
        arrays = {name: each.detach().numpy() for name, each in (saved | {"attn_weights": weights}).items()}
        assert loud(report(arrays)) == []
        read = {each.role: each.tensor.shape for each in in_usual_order(roles_of(from_arrays(arrays)))}
        assert {read[role] for role in ("query", "key", "value", "output")} == {(2, 12, 32)}


def test_a_softmax_over_the_wrong_axis_is_no_transpose():
    shape = (2, 4, 12, 12)
    scores = torch.randn(shape).masked_fill(~torch.from_numpy(causal(shape)), -torch.inf)
    assert loud(report({"attn_weights": scores.softmax(2)})) == ["MSK208"]
    found = report({"attn_weights": torch.randn(shape).softmax(2)})
    # And no note on its sums besides.
    assert [finding.code for finding in found.findings] == ["MSK208"]


def test_views_hold_the_same_elements():
    saved = np.arange(2 * 6 * 5 * 4, dtype=np.float32).reshape(2, 6, 5, 4)
    tensor = from_array("t", saved)
    views = {
        "permuted": (permuted(tensor, (0, 2, 1, 3), ""), saved.transpose(0, 2, 1, 3)),
        "turned": (permuted(tensor, (0, 1, 3, 2), ""), saved.swapaxes(2, 3)),
        "joined": (regrouped(tensor, (12,), ""), saved.reshape(12, 5, 4)),
        "apart": (regrouped(tensor, (2, 3, 2), ""), saved.reshape(2, 3, 2, 5, 4)),
    }
    flat = saved.reshape(2, 30, 4)
    split = flat.reshape(2, 30, 2, 2).transpose(0, 2, 1, 3)
    views["split"] = (split_heads(from_array("t", flat), 2, ""), split)
    for view, wanted in views.values():
        whole = flat if wanted is split else saved
        assert np.array_equal(view.read(), wanted)
        rows = wanted.reshape(-1, wanted.shape[-1])
        assert np.array_equal(view.rows(3, len(rows) - 2), rows[3:-2])
        part = tuple(slice(size // 2, None) for size in wanted.shape)
        assert np.array_equal(view.read(part), wanted[part])
        at = tuple(size - 1 for size in wanted.shape)
        assert whole[saved_index(view, at)] == wanted[at]
        at = tuple(size // 2 for size in wanted.shape)
        assert whole[saved_index(view, at)] == wanted[at]


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ((2, 4, 9, 8), True), ((2, 2, 9, 8), True), ((2, 1, 9, 8), True), ((2, 3, 9, 8), False), ((1, 4, 9, 8), False),
        ((2, 4, 7, 8), False), ((2, 9, 4, 8), False), ((2, 0, 9, 8), False), ((4, 9, 8), False), ((2, 4, 9), False), ((2, 4, 9, 8, 1), False),
    ],
)  # fmt: skip
def test_values_are_of_a_map_by_samples_keys_and_groups_of_heads(value, fits):
    attention = SimpleNamespace(parts={"value": SimpleNamespace(shape=value)}, shape=(2, 4, 7, 9))
    assert _has_values(attention) == fits
