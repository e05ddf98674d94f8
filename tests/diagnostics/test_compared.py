"""What is known of a map is compared in both directions: declared, input, saved mask, weights."""

import numpy as np
import pytest
import torch

from tests.diagnostics.attention import DTYPES, causal, layers, loud, padding, report, scores, softmax, the

dtypes = pytest.mark.parametrize("dtype", list(DTYPES))
sides = pytest.mark.parametrize("side", ["left", "right"])
N = 32
SHAPE = (2, 4, N, N)
P, K = np.arange(N)[:, None], np.arange(N)
CAUSAL, ONES = causal(SHAPE), np.ones((N, N), bool)
DOCUMENTS = np.repeat([0, 1, 2], [10, 12, 10])
SAME = DOCUMENTS[:, None] == DOCUMENTS

# A spec, and what it lets attend.
MEANT = {
    "causal": CAUSAL,
    "full": ONES,
    "sliding:4": CAUSAL & (P - K < 4),
    "window:3": abs(P - K) <= 3,
    "chunked:8": CAUSAL & (P // 8 == K // 8),
    "prefix-lm:5": CAUSAL | (K < 5),
    "blocks:4": P // 4 == K // 4,
    "causal & documents:10,12,10": CAUSAL & SAME,
    "causal & dilated:30,2": CAUSAL & ((P - K) % 2 == 0),
}
# How a mask is saved.
FORMS = {
    "bool": lambda keep: torch.from_numpy(np.array(keep))[None, None],
    "two axes": lambda keep: torch.from_numpy(np.array(keep)),
    "batch": lambda keep: additive(np.broadcast_to(keep, (3, 1, N, N))),
    "heads": lambda keep: additive(np.broadcast_to(keep, (1, 4, N, N)), -1e9),
}


def additive(keep, fill=-np.inf, dtype="float32"):
    return torch.where(torch.from_numpy(np.array(keep)), 0.0, fill).to(DTYPES[dtype])


def mask_of(real):
    return {"attention_mask": torch.from_numpy(real.astype(np.int64))}


# MSK114


@pytest.mark.combinations
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("meant", MEANT)
@pytest.mark.parametrize("saved", MEANT)
def test_a_mask_alone_is_compared_with_the_declared_one(saved, meant, form):
    found = report({"attn_mask": FORMS[form](MEANT[saved])}, expect=meant)
    keep, wanted = MEANT[saved], MEANT[meant]
    # What was declared for all layers leaves open which of them have a window.
    if saved == meant or (saved, meant) in (("sliding:4", "causal"), ("window:3", "full")):
        assert loud(found) == []
        return
    codes = loud(found)
    # More exact rules have the word on windows and empty rows.
    assert codes in (["MSK114"], ["MSK111"], ["MSK101"], ["MSK101", "MSK114"], ["MSK109"])
    if codes == ["MSK114"]:
        copies = {"batch": 3, "heads": 4}.get(form, 1)
        evidence = the(found, "MSK114").evidence
        shown = sum(count for name, count in evidence.items() if name != "hidden_cells")
        filled = keep.any(1, keepdims=True)
        # A column that nobody sees may be padding.
        hidden = wanted & ~keep & filled & keep.any(0)
        assert (shown, evidence.get("hidden_cells", 0)) == (
            copies * (keep & ~wanted).sum(),
            copies * hidden.sum(),
        )


@pytest.mark.combinations
@sides
@dtypes
@pytest.mark.parametrize(
    "meant", ["causal", "full", "sliding:4", "prefix-lm:5", "causal & documents:10,12,10"]
)
@pytest.mark.parametrize("told", [True, False])
def test_masks_that_hide_the_padding_besides_are_right(side, dtype, meant, told):
    """With the padding told or not, rows of padding empty or opened as libraries leave them."""
    real = padding((3, 1, N, N), side)
    keep = MEANT[meant] & real[:, None, None]
    empty = ~keep.any(-1, keepdims=True)
    for saved in (keep, keep | empty):
        arrays = {"attn_mask": additive(saved, torch.finfo(DTYPES[dtype]).min, dtype)}
        assert loud(report(arrays | (mask_of(real) if told else {}), expect=meant)) == []


@pytest.mark.parametrize("expect", [(), "causal"])
@pytest.mark.parametrize("told", ["attention_mask", "input_ids"])
@pytest.mark.parametrize("maps", [True, False])
def test_a_mask_that_forgets_the_padding(expect, told, maps):
    shape = (3, 2, N, N)
    real = padding(shape, "left")
    facts = (
        mask_of(real) if told == "attention_mask" else {"input_ids": torch.from_numpy(np.where(real, 7, 0))}
    )
    forgot = np.broadcast_to(CAUSAL, (3, 1, N, N))
    arrays = {"attn_mask": additive(forgot)} | facts | (layers(shape, CAUSAL) if maps else {})
    found = report(arrays, expect=expect, pad_id=0)
    # Where weights show what such a mask lets be read, that is the finding.
    assert loud(found) == ["MSK202" if maps else "MSK114"]
    cells = (CAUSAL & ~real[:, None]) & real[:, :, None]
    if not maps:
        assert the(found, "MSK114").evidence == {"padding_cells": cells.sum()}
    assert the(found, loud(found)[0]).where.batch == (0, 1)

    # Right padding stands behind every real query; and a mask over queries and keys can be one of two.
    behind = real[:, ::-1].copy()
    assert loud(report({"attn_mask": additive(forgot)} | mask_of(behind), expect=expect)) == []
    assert loud(report({"attn_mask": additive(CAUSAL)} | mask_of(real), expect=expect)) == []
    # Weights that see no padding show that something else hides it.
    obeyed = layers(shape, CAUSAL & real[:, None, None])
    assert loud(report({"attn_mask": additive(forgot)} | mask_of(real) | obeyed, expect=expect)) == []


@dtypes
@pytest.mark.parametrize("saved", ["full", "chunked:8", "prefix-lm:5", "blocks:4"])
def test_a_mask_that_is_obeyed_and_wrong(dtype, saved):
    """What the weights see ahead is said of them; a mask that only hides too much is the finding itself."""
    arrays = layers(SHAPE, MEANT[saved], dtype) | {"attn_mask": FORMS["bool"](MEANT[saved])}
    code = "MSK114" if saved == "chunked:8" else "MSK203"
    assert loud(report(arrays, expect="causal")) == [code]
    assert loud(report(arrays)) == []


def test_a_mask_beside_a_flag_of_the_kernel_is_right():
    """A mask over all keys, given together with is_causal: the weights show that both were used."""
    arrays = layers(SHAPE, CAUSAL) | {"attn_mask": FORMS["bool"](ONES)}
    assert loud(report(arrays, expect="causal")) == []


@pytest.mark.parametrize("queries", [1, 5])
def test_masks_over_a_cache_whose_place_is_not_told(queries):
    p = np.arange(queries)[:, None]
    for past in (0, N - queries):
        keep = np.arange(N) <= p + past
        assert loud(report({"attn_mask": additive(keep[None, None])}, expect="causal")) == []
    keep = np.arange(N) <= p + 9
    wrong = loud(report({"attn_mask": additive(keep[None, None])}, expect="causal"))
    assert wrong == (["MSK114"] if queries > 1 else [])


# MSK204 and its kin: weights beside everything else


@dtypes
@pytest.mark.parametrize(
    ("saved", "used"), [("sliding:4", "causal"), ("causal", "full"), ("chunked:8", "causal")]
)
def test_a_saved_mask_that_was_not_applied_is_told_whatever_is_expected(dtype, saved, used):
    arrays = layers(SHAPE, MEANT[used], dtype) | {"attn_mask": additive(MEANT[saved])[None, None]}
    found = report(arrays, expect=used)
    assert loud(found) == ["MSK204"]
    message = the(found, "MSK204").message
    assert "the mask 'attn_mask' forbids" in message
    assert f"what they do obey is --expect {used!r}" in message
    assert loud(report(arrays)) in (["MSK204"], ["MSK203"])


def test_what_is_obeyed_is_not_called_no_mask_when_some_other_mask_is():
    other = (P + K) % 3 > 0
    arrays = layers(SHAPE, other) | {"attn_mask": additive((P * K) % 3 > 0)[None, None]}
    assert "another mask, none of the common ones" in the(report(arrays), "MSK204").message


@dtypes
@pytest.mark.parametrize("leak", [0.03, 0.5])
@pytest.mark.parametrize("length", [64, 512])
def test_one_row_that_leaks_is_not_excused_by_the_others(dtype, leak, length):
    shape = (1, 4, length, length)
    keep = causal(shape)
    arrays = layers(shape, keep, dtype)
    for array in arrays.values():
        array[:, :, 41] = torch.where(torch.from_numpy(keep[41]), (1 - leak) / 42, leak / (length - 42)).to(
            array.dtype
        )
    for found in (report(arrays, "causal"), report(arrays | {"attn_mask": additive(keep)})):
        assert loud(found) == ["MSK203"]
        assert the(found, "MSK203").where.queries == ((41, 42),)


@pytest.mark.parametrize("name", ["backwards", "ahead in a window", "at random", "diagonals"])
@pytest.mark.parametrize("layer", ["same", "by layer"])
def test_bool_masks_that_are_obeyed_are_not_called_inverted(name, layer):
    keep = {
        "backwards": K >= P,
        "ahead in a window": (K >= P) & (K - P < 4),
        "at random": np.random.default_rng(0).random((N, N)) > 0.5,
        "diagonals": (P - K) % 3 == 0,
    }[name]
    mask = torch.from_numpy(keep)[None, None]
    arrays = layers(SHAPE, keep)
    saved = {"attn_mask": mask} if layer == "same" else {f"attn_mask.{n}": mask for n in range(2)}
    assert loud(report(arrays | saved)) == []
    # The same read as ignore, which the weights tell as well.
    assert loud(report(layers(SHAPE, keep) | {key: ~array for key, array in saved.items()})) == []


@pytest.mark.parametrize("filled", [9, 23])
def test_a_padding_mask_read_by_its_shares_is_turned_by_the_weights(filled):
    real = np.zeros((2, N), bool)
    real[:, :filled] = True
    arrays = layers(SHAPE, real[:, None, None])
    for mask in (real, ~real):
        assert loud(report(arrays | {"padding_mask": torch.from_numpy(mask)})) == []
    sick = loud(report(layers(SHAPE, ONES) | {"padding_mask": torch.from_numpy(real)}))
    assert sick == ["MSK202"]


# MSK222


def without(rows, keys, keep=CAUSAL):
    hole = np.array(keep)
    hole[slice(*rows), slice(*keys)] = False
    return hole


HOLES = {
    "chunks of a prefill": ("causal", MEANT["chunked:8"]),
    "another rank's part": ("causal", without((16, 32), (0, 16))),
    "the first half of a document": (
        "causal & documents:10,22",
        without((20, 32), (10, 15), CAUSAL & ((P < 10) == (K < 10))),
    ),
    "a run that nobody sees": ("causal", without((0, 32), (3, 9))),
    "a run of an encoder": ("full", without((0, 32), (8, 16), ONES)),
}


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("case", HOLES)
@pytest.mark.parametrize("padded", [False, True])
def test_runs_of_keys_that_are_never_seen(dtype, case, padded):
    meant, keep = HOLES[case]
    real = padding(SHAPE, "right") if padded else np.ones((2, N), bool)
    arrays = layers(SHAPE, keep & real[:, None, None], dtype) | (mask_of(real) if padded else {})
    found = report(arrays, expect=meant)
    assert loud(found) == ["MSK222"]
    assert "weigh exactly 0 in every head" in the(found, "MSK222").message
    # The rows and keys are those of the hole, as far as rows may see a whole run of it.
    where = the(found, "MSK222").where
    wanted = {"causal": CAUSAL, "full": ONES}.get(meant, CAUSAL & ((P < 10) == (K < 10)))
    rows, keys = np.nonzero(wanted & ~keep)
    assert min(start for start, _ in where.keys) >= keys.min()
    assert max(stop for _, stop in where.keys) <= keys.max() + 1
    assert set().union(*(range(*run) for run in where.queries)) <= set(rows.tolist())
    # Nothing declared, nothing is missed; and some other head, or one layer, is no witness against itself.
    assert loud(report(arrays)) == []
    one = arrays | {"attentions.0": layers(SHAPE, wanted & real[:, None, None], dtype)["attentions.0"]}
    assert the(report(one, expect=meant), "MSK222").tensors == ("attentions.1",)
    for array in arrays.values():
        if array.dim() == 4:
            array[:, 3] = layers(SHAPE, wanted & real[:, None, None], dtype)["attentions.0"][:, 3]
    assert loud(report(arrays, expect=meant)) == []


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("length", [32, 300])
@pytest.mark.parametrize("kind", ["window", "decay", "sharp", "sink", "dropout"])
def test_zeros_that_are_no_evidence_of_a_run(dtype, length, kind):
    shape = (2, 4, length, length)
    keep, p, k = causal(shape), np.arange(length)[:, None], np.arange(length)
    rates = np.array([1, 0.9, 0.8, 0.7])[:, None, None]
    rng = np.random.default_rng(0)
    for strength in (1, 4, 16):
        raw = {
            "window": np.where(p - k < 4 * strength, scores(shape), -np.inf),
            "decay": scores(shape) * 0.3 - strength * np.maximum(p - k, 0) * rates,
            "sharp": scores(shape) * 20 * strength,
            "sink": scores(shape) + 10 * strength * (k == 0),
            "dropout": scores(shape),
        }[kind]
        w = softmax(np.where(keep, raw, -1e30))
        if kind == "dropout":
            w = w * (rng.random(shape) < 0.5) * 2
        assert loud(report({"attentions.0": torch.from_numpy(w).to(DTYPES[dtype])}, expect="causal")) == []


def test_documents_that_the_input_tells_are_no_run_of_keys_that_nobody_sees():
    arrays = layers(SHAPE, CAUSAL & SAME) | {"segment_ids": torch.from_numpy(DOCUMENTS)[None]}
    assert loud(report(arrays, expect="causal")) == []


# Causes behind a leak


@dtypes
@pytest.mark.parametrize("told", ["mask", "expect"])
def test_one_layer_that_is_uniform_over_forbidden_keys_too(dtype, told):
    arrays = layers(SHAPE, CAUSAL, dtype, count=4)
    arrays["attentions.2"] = torch.full(SHAPE, 1 / N).to(DTYPES[dtype])
    mask = {"attn_mask": additive(CAUSAL)[None, None]} if told == "mask" else {}
    found = report(arrays | mask, expect="causal" if told == "expect" else ())
    assert loud(found) == ["MSK206"]
    assert the(found, "MSK206").tensors == ("attentions.2",)


@pytest.mark.combinations
@dtypes
@pytest.mark.parametrize("length", [64, 1024])
def test_a_leak_to_the_next_key_in_a_long_map_is_no_soft_mask(dtype, length):
    keep = np.arange(length) <= np.arange(length)[:, None] + 1
    assert loud(report(layers((1, 4, length, length), keep, dtype), expect="causal")) == ["MSK214"]


@pytest.mark.parametrize("saved", [("mask",), ("mask", "scores"), ("scores",)])
def test_scores_as_large_as_the_fill(saved):
    raw = scores(SHAPE)
    for scale, code in ((3000, "MSK104" if "mask" in saved else "MSK210"), (1, None)):
        tensors = {
            "mask": {"attn_mask": additive(CAUSAL, -1e4)[None, None]},
            "scores": {"scores.0": torch.from_numpy(raw * scale).float()},
        }
        made = torch.from_numpy(softmax(raw * scale + np.where(CAUSAL, 0, -1e4))).float()
        arrays = {"attentions.0": made}
        for name in saved:
            arrays |= tensors[name]
        assert loud(report(arrays, expect="causal")) == ([code] if code else [])


@dtypes
@sides
@pytest.mark.parametrize("look", ["full", "causal"])
def test_scores_multiplied_by_the_padding_mask(dtype, side, look):
    real = np.ones((2, N), bool)
    real[0, slice(0, 6) if side == "left" else slice(N - 6, N)] = False
    if (look, side) == ("causal", "right"):
        return
    raw = scores(SHAPE, 1) * real[:, None, None]
    made = torch.from_numpy(softmax(np.where(MEANT[look], raw, -1e30))).to(DTYPES[dtype])
    assert loud(report({"attentions.0": made} | mask_of(real))) == ["MSK210"]
    # Without any mask, padding that is read, all of it with one key.
    raw = scores(SHAPE, 1)
    raw[0][..., ~real[0]] = raw[0][..., ~real[0]][..., :1]
    made = torch.from_numpy(softmax(np.where(MEANT[look], raw, -1e30))).to(DTYPES[dtype])
    assert loud(report({"attentions.0": made} | mask_of(real))) == ["MSK202"]


def test_padding_that_the_saved_mask_shows_is_to_be_hidden_there():
    shape = (3, 2, 12, 12)
    real, keep = padding(shape, "left"), np.tril(np.ones((12, 12), bool))
    arrays = layers(shape, keep) | mask_of(real)
    found = the(report(arrays | {"attn_mask": torch.from_numpy(keep)[None, None]}), "MSK202")
    assert "the saved mask 'attn_mask' shows them" in found.message
    assert "hide the padding in 'attn_mask' too" in found.fix
    found = the(report(arrays), "MSK202")
    assert "shows them" not in found.message
    assert "pass attention_mask to the model" in found.fix


@pytest.mark.combinations
@dtypes
@sides
@pytest.mark.parametrize("other", [[1, 0, 3, 2], [1, 0, 2, 3], [2, 0, 3, 1]])
def test_samples_in_any_order_have_each_others_padding(dtype, side, other):
    real = np.ones((4, 16), bool)
    real[0, 12:] = real[1, 10:] = real[2, 14:] = False
    real = real if side == "right" else real[:, ::-1].copy()
    arrays = layers((4, 4, 16, 16), real[other][:, None, None], dtype) | mask_of(real)
    found = report(arrays)
    assert loud(found) == ["MSK211"]
    assert f"{other[0]} for 0" in the(found, "MSK211").message
    assert loud(report(layers((4, 4, 16, 16), np.ones((16, 16), bool), dtype) | mask_of(real))) == ["MSK202"]
