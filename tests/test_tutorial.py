"""What courses on attention masks teach, one step after the other: a command or a line of Python gives what their torch
gives, and finds the bug that they warn of."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

import maskcli
from tests.cli.running import read, run
from tests.documents import furnished

PAD, INF = 0, float("inf")
IDS = torch.tensor([[5, 6, 7, 8, 2], [9, 3, 2, 0, 0]])
IDS_TEXT = "5 6 7 8 2; 9 3 2 0 0"
KEEP = IDS != PAD
LENGTH = IDS.shape[1]


@pytest.fixture(scope="module")
def folder():
    with furnished() as made:
        yield made


def shown(*arguments, **options):
    """The mask that `maskcli show` prints, bool [B, Q, K]."""
    mask = read("show", *arguments, **options)["mask"]
    batch, _, queries, keys = mask["shape"]
    dense = np.zeros((batch, queries, keys), bool)
    for item, (plane,) in enumerate(mask["runs"]):
        for query, runs in enumerate(plane):
            for start, stop in runs:
                dense[item, query, start:stop] = True
    return torch.from_numpy(dense)


def same(mine, theirs):
    """Masks that broadcast to each other and agree."""
    mine, theirs = torch.broadcast_tensors(torch.as_tensor(mine), theirs.bool())
    return torch.equal(mine, theirs)


def codes(report):
    return [finding.code for finding in report.findings]


# Building masks


def test_padding_from_ids_or_lengths():
    theirs = KEEP[:, None, None, :]
    assert same(maskcli.mask("padding", padding=IDS != PAD), theirs)
    assert same(shown("--ids", IDS_TEXT, "--pad-id", PAD, "-m", "padding"), theirs[:, 0])
    assert same(shown("--lengths", "5,3", "-m", "padding"), theirs[:, 0])


def test_causal_built_both_ways():
    lower = torch.tril(torch.ones(LENGTH, LENGTH))
    upper = torch.triu(torch.ones(LENGTH, LENGTH), diagonal=1)
    assert torch.equal(lower == 1, upper == 0)
    assert same(maskcli.mask("causal", keys=LENGTH), lower)
    assert same(shown("--lengths", LENGTH, "-m", "causal"), lower)
    assert maskcli.name(lower).spec == "causal"
    assert maskcli.name(upper.bool(), convention="mha").spec == "causal"
    assert maskcli.compare(upper == 0, "causal").equal


def test_ones_own_function_is_held_to_the_kind(folder):
    done = run("diff", "masks.py:create_causal_mask", "causal", "--lengths", "6", cwd=folder, check=0)
    assert "equal" in done.stdout
    (folder / "off.py").write_text((folder / "masks.py").read_text().replace("bool))", "bool), 1)"))
    done = run("diff", "off.py:create_causal_mask", "causal", "--lengths", "6", cwd=folder, check=1)
    assert "see 1 future key" in done.stdout


def test_padding_and_causal_combined():
    theirs = KEEP[:, None, :] & torch.tril(torch.ones(LENGTH, LENGTH)).bool()
    assert same(maskcli.mask("causal & padding", padding=KEEP)[:, 0], theirs)
    assert same(shown("--ids", IDS_TEXT, "--pad-id", PAD, "-m", "combined"), theirs)


def test_cross_attention_hides_the_padding_of_the_source():
    source = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    theirs = source[:, None, :].bool().expand(2, 3, 4)
    texts = ["ein zwei drei", "vier"]
    sources = ["one two three four", "five six"]
    assert same(shown(*texts, "--source", sources[0], "--source", sources[1]), theirs)
    assert same(maskcli.mask("cross", padding=source, queries=3)[:, 0], theirs)
    assert np.asarray(maskcli.show("cross", *texts, source=sources).mask)[:, 0].tolist() == theirs.tolist()


def test_a_prefix_is_seen_by_all():
    theirs = torch.tril(torch.ones(6, 6))
    theirs[:, :2] = 1
    assert same(maskcli.mask("prefix-lm:2", keys=6), theirs)
    assert same(shown("--lengths", 6, "-m", "prefix-lm:2"), theirs)


def test_a_sliding_window():
    theirs = torch.tril(torch.ones(8, 8)) * torch.triu(torch.ones(8, 8), diagonal=-2)
    assert same(maskcli.mask("sliding:3", keys=8), theirs)
    assert same(shown("--lengths", 8, "-m", "sliding:3"), theirs)
    assert maskcli.name(theirs).spec == "sliding:3"


def test_packed_texts_are_a_block_diagonal():
    theirs = torch.block_diag(*(torch.ones(length, length) for length in (3, 2, 4)))
    assert same(maskcli.mask("documents:3,2,4", keys=9), theirs)
    assert same(shown("--lengths", "3,2,4", "--packed", "-m", "documents"), theirs)
    assert same(shown("--lengths", "3,2,4", "--packed"), torch.tril(theirs))


def test_what_is_added_to_the_scores(tmp_path):
    keep = torch.tril(torch.ones(4, 4)).bool()
    theirs = torch.zeros(4, 4).masked_fill(~keep, -INF)
    assert same(maskcli.convert(keep, "additive").reshape(4, 4) == 0, keep)
    assert torch.equal(torch.from_numpy(maskcli.convert(keep, "additive").reshape(4, 4)), theirs)
    np.save(tmp_path / "mask.npy", keep.numpy())
    run("convert", "mask.npy", "--to", "additive", "-o", "added.npy", cwd=tmp_path, check=0)
    assert np.array_equal(np.load(tmp_path / "added.npy").reshape(4, 4), theirs.numpy())


# Using them


def attention(keep, fill=-INF):
    """Weights [B, Q, K] of random scores under a mask, and the scores."""
    scores = torch.randn(2, LENGTH, LENGTH, generator=torch.Generator().manual_seed(0)) * 2
    return scores.masked_fill(~keep, fill).softmax(-1), scores


def test_masked_positions_get_exactly_zero():
    keep = KEEP[:, None, :] & torch.tril(torch.ones(LENGTH, LENGTH)).bool()
    weights, _ = attention(keep)
    maskcli.assert_attention_respects(weights, keep)
    maskcli.assert_attention_respects(weights, "causal", lengths=[5, 3])
    leaking, _ = attention(KEEP[:, None, :].expand(2, LENGTH, LENGTH))
    with pytest.raises(AssertionError, match="future-attended"):
        maskcli.assert_attention_respects(leaking, "causal")


def test_a_row_without_keys_is_where_nan_comes_from(tmp_path):
    keep = torch.tril(torch.ones(LENGTH, LENGTH)).bool() & (torch.arange(LENGTH) != 0)
    weights, _ = attention(keep)
    assert torch.isnan(weights[:, 0]).all()
    arrays = {"attentions.0": weights[:, None].contiguous(), "attn_mask": keep}
    report = maskcli.diagnose(arrays)
    assert codes(report)[0] == "MSK301"
    assert report.findings[0].where.queries == ((0, 1),)
    save_file(arrays, tmp_path / "dump.safetensors")
    assert "MSK301 nan-from-empty-row" in run("diagnose", tmp_path / "dump.safetensors", check=1).stdout


def test_a_row_without_keys_under_a_finite_fill_is_uniform():
    keep = torch.tril(torch.ones(LENGTH, LENGTH)).bool() & (torch.arange(LENGTH) != 0)
    weights = torch.zeros(2, LENGTH, LENGTH).masked_fill(~keep, -1e9).softmax(-1)
    assert torch.equal(weights[:, 0], torch.full((2, LENGTH), 1 / LENGTH))
    assert "MSK205" in codes(maskcli.diagnose({"attentions.0": weights[:, None], "attn_mask": keep}))


def test_weights_that_are_uniform_everywhere_are_told():
    uniform = torch.full((1, 2, 8, 8), 1 / 8)
    assert "MSK206" in codes(maskcli.diagnose({"attentions.0": uniform}))


def test_a_mask_that_multiplies_the_weights_is_told():
    keep = torch.tril(torch.ones(LENGTH, LENGTH)).bool()
    _, scores = attention(keep)
    multiplied = scores.softmax(-1) * keep
    assert codes(maskcli.diagnose({"attentions.0": multiplied[:, None], "attn_mask": keep})) == ["MSK209"]


# Training batches


def test_padding_that_is_the_end_of_text_loses_the_labels_of_ends(folder):
    end = "<｜end▁of▁sentence｜>"
    texts = (f"Paris is in France.{end}", f"Yes it is.{end}")
    done = run("show", *texts, "-t", "my-model", "--labels", "--format", "json", cwd=folder, check=0)
    batch = maskcli.show("causal", *texts, tokenizer=str(folder / "my-model"), labels=True)
    (warning,) = batch.warnings
    assert f"the pad token is the eos token ({end}, id 1)" in warning
    assert "would have lost 2 real eos tokens (samples 0, 1)" in warning
    assert done.stderr == f"maskcli: warning: {warning}\n"

    ids, mask = torch.from_numpy(batch.queries.ids), torch.from_numpy(batch.queries.attention_mask)
    usual = ids.masked_fill(ids == 1, -100)
    assert batch.queries.labels.tolist() == ids.masked_fill(~mask, -100).tolist() != usual.tolist()
    arrays = {"input_ids": ids, "attention_mask": mask.long(), "labels": usual}
    assert codes(maskcli.diagnose(arrays, eos_id=1)) == ["MSK501"]


def test_labels_are_the_ids_and_minus_100_on_padding():
    theirs = IDS.masked_fill(IDS == PAD, -100)
    table = read("show", "--ids", IDS_TEXT, "--pad-id", PAD, "--labels")["sequences"]
    assert [[token["label"] for token in row["tokens"]] for row in table] == theirs.tolist()
    assert maskcli.show("causal", ids=IDS, pad_id=PAD, labels=True).queries.labels.tolist() == theirs.tolist()


def test_labels_that_are_wrong_are_told():
    batch = {"input_ids": IDS, "attention_mask": KEEP.long(), "labels": IDS.masked_fill(IDS == PAD, -100)}
    assert codes(maskcli.diagnose(batch)) == []
    assert codes(maskcli.diagnose(batch | {"labels": IDS})) == ["MSK503"]
    ends = batch["labels"].masked_fill(IDS == 2, -100)
    assert codes(maskcli.diagnose(batch | {"labels": ends}, eos_id=2)) == ["MSK501"]


def test_labels_shifted_twice_are_told():
    longer = torch.arange(3, 43).reshape(2, 20)
    shifted = functional.pad(longer[:, 1:], (0, 1), value=-100)
    batch = {"input_ids": longer, "attention_mask": torch.ones_like(longer), "labels": shifted}
    assert "MSK505" in codes(maskcli.diagnose(batch, loss_shift="model"))
    assert codes(maskcli.diagnose(batch, loss_shift="data")) == []


# Reading masks of others


def test_the_four_ways_to_write_one_mask():
    keep = torch.tril(torch.ones(6, 6)).bool()
    added = torch.zeros(6, 6).masked_fill(~keep, -INF)
    forms = {"sdpa": keep, "mha": ~keep, "additive": added, "binary": keep.float()}
    for convention, mask in forms.items():
        assert maskcli.name(mask, convention=convention).spec == "causal"
        assert maskcli.compare(mask, "causal", convention=convention).equal


def test_an_inverted_mask_is_told():
    keep = KEEP[:, None, :] & torch.tril(torch.ones(LENGTH, LENGTH)).bool()
    inverted, _ = attention(~keep | torch.eye(LENGTH).bool())
    assert (
        maskcli.diagnose({"attentions.0": inverted[:, None], "attn_mask": keep[:, None]}).worst() == "error"
    )
