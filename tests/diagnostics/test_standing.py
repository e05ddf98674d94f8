"""Queries and keys that stand out of order: ranks of ring attention, ring buffers, paged and evicted caches.

Each is attention over the whole text, computed once, of which a rank or a cache holds some rows and keys.
"""

import numpy as np
import pytest
import torch

from maskcli import compare, diagnose
from maskcli.errors import MaskcliError
from maskcli.meant import metadata
from tests.diagnostics.attention import DTYPES, loud, report, softmax, the

BATCH, HEADS, LENGTH = 2, 3, 32
RANKS = 4
REST = -np.inf


def zigzag(rank, ranks=RANKS, length=LENGTH):
    """The rank's chunk from the front and its chunk from the back, so that all ranks have the same work."""
    chunk = length // (2 * ranks)
    front, back = np.arange(chunk), np.arange(chunk)
    return np.concatenate([front + rank * chunk, back + (2 * ranks - 1 - rank) * chunk])


def striped(rank, ranks=RANKS, length=LENGTH):
    return np.arange(rank, length, ranks)


def everything(order):
    return np.concatenate([order(rank) for rank in range(RANKS)])


def attention(queries, keys, allowed, dtype="float32", seed=0):
    """Weights [B, H, q, k] over the keys a query may see; positions [q] or [B, q], -1 is an empty slot."""
    rng = np.random.default_rng(seed)
    queries, keys = (np.broadcast_to(at, (BATCH, np.shape(at)[-1])) for at in (queries, keys))
    scores = rng.normal(size=(BATCH, HEADS, queries.shape[1], keys.shape[1])) * 2
    keep = np.vectorize(allowed)(queries[:, None, :, None], keys[:, None, None, :])
    return torch.from_numpy(softmax(np.where(keep, scores, REST))).to(DTYPES[dtype])


def layers(queries, keys, allowed, dtype="float32"):
    return {f"attentions.{n}": attention(queries, keys, allowed, dtype, n) for n in range(2)}


def causal(p, k):
    return 0 <= k <= p


def sliding(width):
    return lambda p, k: 0 <= k <= p < k + width


def told(positions):
    return np.broadcast_to(positions, (BATCH, np.shape(positions)[-1])).astype(np.int64)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("order", [zigzag, striped])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_of_context_parallelism_over_gathered_keys(order, rank, dtype):
    mine, keys = order(rank), np.arange(LENGTH)
    right = layers(mine, keys, causal, dtype) | {"position_ids": told(mine)}
    assert loud(report(right, "causal")) == []
    wrong = layers(LENGTH - mine.size + np.arange(mine.size), keys, causal, dtype)
    assert loud(report(wrong | {"position_ids": told(mine)}, "causal")) == ["MSK203"]


@pytest.mark.parametrize("order", [zigzag, striped])
def test_a_rank_over_its_own_keys(order):
    mine = order(1)
    assert loud(report(layers(mine, mine, causal) | {"position_ids": told(mine)}, "causal")) == []
    window = layers(mine, mine, sliding(8)) | {"position_ids": told(mine)}
    assert loud(report(window, "sliding:8")) == []


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("order", [zigzag, striped])
def test_all_ranks_behind_one_another(order, dtype):
    at = everything(order)
    right = layers(at, at, causal, dtype) | {"position_ids": told(at)}
    assert loud(report(right, "causal")) == []
    as_they_come = layers(np.arange(LENGTH), np.arange(LENGTH), causal, dtype)
    assert loud(report(as_they_come | {"position_ids": told(at)}, "causal")) == ["MSK203"]
    mask = {"attn_mask": np.vectorize(causal)(at[:, None], at[None])[None, None]}
    assert loud(report(right | mask)) == []
    assert loud(report(mask | {"position_ids": told(at)}, "causal")) == []


def test_keys_of_which_nothing_tells_where_they_stand_accuse_nobody():
    mine = zigzag(1)
    arrived = np.concatenate([zigzag(0), zigzag(1)])
    found = report(layers(mine, arrived, causal) | {"position_ids": told(mine)}, "causal")
    assert loud(found) == []
    assert all("--key-positions" in found.unfit[name] for name in ("attentions.0", "attentions.1"))


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("new", [1, 3])
def test_a_ring_buffer_whose_keys_are_told(new, dtype):
    size, end = 12, 19
    slots = np.full(size, -1)
    for position in range(end):
        slots[position % size] = position
    queries = np.arange(end - new, end)
    for spec, allowed in (("sliding:6", sliding(6)), ("causal", causal)):
        right = layers(queries, slots, allowed, dtype)
        right |= {"position_ids": told(queries), "key_positions": told(slots)}
        assert loud(report(right, spec)) == []
    wrong = layers(np.arange(size - new, size), np.arange(size), sliding(6), dtype)
    wrong |= {"position_ids": told(queries), "key_positions": told(slots)}
    # The newest query sees too far back only, the two before it behind themselves as well.
    assert loud(report(wrong, "sliding:6")) == (["MSK213"] if new == 1 else ["MSK204"])


FILLED = np.array([24, 9])


@pytest.mark.combinations
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("witness", ["position_ids", "seq_lens", "cache_seqlens", "both"])
@pytest.mark.parametrize("expect", [(), "causal"])
@pytest.mark.parametrize("new", [1, 2])
def test_a_decode_step_in_which_each_sample_stands_elsewhere(witness, expect, dtype, new):
    capacity = 24
    queries = FILLED[:, None] - new + np.arange(new)
    facts = {
        "position_ids": {"position_ids": queries},
        "seq_lens": {"seq_lens": FILLED},
        "cache_seqlens": {"cache_seqlens": FILLED - new},
        "both": {"position_ids": queries, "attention_mask": (np.arange(capacity) < FILLED[:, None]) * 1},
    }[witness]
    right = layers(queries, np.arange(capacity), causal, dtype)
    assert loud(report(right | facts, expect)) == []
    stale = layers(np.arange(capacity - new, capacity), np.arange(capacity), causal, dtype)
    found = loud(report(stale | facts, expect))
    # Slots that hold no token are told once; the second of two new tokens is the first one's future as well.
    behind = ["MSK203"] if expect and (witness == "position_ids" or new > 1) else []
    assert found == (behind if witness == "position_ids" else ["MSK202", *behind])


def test_keys_that_were_evicted():
    keys = np.array([0, 1, 2, 9, 14, 17, 18, 19])
    queries = np.array([18, 19])
    facts = {"position_ids": told(queries), "key_positions": told(keys)}
    assert loud(report(layers(queries, keys, causal) | facts, "causal")) == []
    assert loud(report(layers(queries, keys, sliding(6)) | facts, "sliding:6")) == []
    found = report(layers(queries, keys, lambda p, k: True) | facts, "causal")
    assert the(found, "MSK203").where.queries == ((0, 1),)


def test_a_paged_cache_by_its_block_table():
    table, size, lengths = np.array([[3, 0], [1, 5]]), 4, np.array([7, 5])
    slots = np.full((BATCH, 24), -1)
    for item, blocks in enumerate(table):
        for position in range(lengths[item]):
            slots[item, blocks[position // size] * size + position % size] = position
    facts = {"block_tables": table, "block_size": np.array([size]), "seq_lens": lengths}
    queries = lengths[:, None] - 1
    assert loud(report(layers(queries, slots, causal) | facts, "causal")) == []
    stale = layers(queries, np.where(np.isin(np.arange(24) // size, table)[None], 0, -1), causal)
    assert loud(report(stale | facts, "causal")) != []


def test_declared_positions_do_as_saved_ones_do():
    mine, keys = zigzag(2), np.arange(LENGTH)
    right, text = layers(mine, keys, causal), ",".join(map(str, mine))
    wrong = layers(LENGTH - mine.size + np.arange(mine.size), keys, causal)
    for positions in (text, mine, "8:12,20:24"):
        assert not diagnose(arrays(right), expect="causal", positions=positions).findings
        found = diagnose(arrays(wrong), expect="causal", positions=positions)
        assert [finding.code for finding in found.findings] == ["MSK203"]


def arrays(saved):
    return {name: values.float().numpy() for name, values in saved.items()}


@pytest.mark.parametrize("order", [zigzag, striped])
def test_diff_compares_masks_where_their_tokens_stand(order, tmp_path):
    mine, path = order(1), tmp_path / "rank.npz"
    right = np.vectorize(causal)(mine[:, None], np.arange(LENGTH)[None])[None, None]
    wrong = np.arange(LENGTH) <= (LENGTH - mine.size + np.arange(mine.size))[None, None, :, None]
    for positions in (mine, ",".join(map(str, mine))):
        assert compare(right, "causal", positions=positions).equal
        assert not compare(wrong, "causal", positions=positions).equal
        assert [region.what for region in compare(wrong, "causal", positions=positions).regions] == ["future"]
    np.savez(path, attn_mask=right, bad_mask=wrong, position_ids=mine[None])
    assert compare(f"{path}:attn_mask", "causal").equal
    assert not compare(f"{path}:bad_mask", "causal").equal
    np.savez(path, attn_mask=right, bad_mask=wrong, mine=mine)
    assert compare(f"{path}:attn_mask", "causal", positions="mine").equal
    assert compare(f"{path}:attn_mask", "causal", positions=f"{path}:mine").equal
    assert not compare(f"{path}:attn_mask", "causal").equal

    square = np.vectorize(causal)(mine[:, None], mine[None])
    assert compare(square, "sliding:64", positions=mine).equal
    assert not compare(square, "sliding:8", positions=mine, key_positions=mine).equal


@pytest.mark.parametrize(
    ("positions", "sentence"),
    [
        ("0,1,x", "there is no such tensor of positions"),
        ("0,1;2", "has rows of 2, 1 positions"),
        ("0:4:8", "has '0:4:8' where a position belongs"),
        ("nowhere.npz:at", "does not exist"),
        ([0.5, 1.5], "positions are whole numbers below"),
        ([2**40], "positions are whole numbers below"),
    ],
)
def test_positions_that_are_none_are_refused(positions, sentence):
    with pytest.raises(MaskcliError, match=sentence):
        compare(np.tril(np.ones((2, 2), bool)), "causal", positions=positions)


def test_metadata_declares_positions_but_names_no_files():
    assert metadata.from_metadata({"maskcli.positions": "0:3,7"}, "f").positions.rows.tolist() == [
        [0, 1, 2, 7]
    ]
    with pytest.raises(MaskcliError, match="only the command line may name files"):
        metadata.from_metadata({"maskcli.key_positions": "other.npy"}, "f")
