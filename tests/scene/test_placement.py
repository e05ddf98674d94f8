"""Where queries stand among keys: each witness alone, and who is believed before whom."""

import numpy as np
import pytest

from maskcli.meant.facts import Declared
from maskcli.meant.places import Places
from maskcli.scene.placement import WITNESSES, _of_standing, _over_the_cache, place
from maskcli.scene.standing import Stand
from maskcli.scene.witnesses import Padding, Witnesses
from maskcli.tensors import from_array, from_arrays, roles_of


def placed(shape, weights=None, declared=None, kind="self", **arrays):
    file = from_arrays({name: np.asarray(values) for name, values in arrays.items()})
    witnesses = Witnesses(roles_of(file), "", declared or Declared())
    tensor = None if weights is None else from_array("attentions.0", weights.astype(np.float32))
    return place(witnesses, kind, shape, tensor)


def causal_weights(queries, keys, past):
    """Causal rows that grow, so that none of them is uniform; nothing behind the last query's own key."""
    rows = np.tril(np.arange(1, keys + 1) * np.ones((queries, keys)), past)
    return (rows / rows.sum(axis=1, keepdims=True))[None, None]


def test_with_nothing_said_queries_are_the_last_keys():
    place_ = placed((2, 1, 3, 8))
    assert (place_.past, place_.told_by, place_.past_known) == (5, None, False)
    assert place_.keys is None
    assert place_.queries is None


def test_a_declaration_is_believed_first():
    padding = np.ones((1, 8), int)
    place_ = placed((1, 1, 2, 8), declared=Declared(past=1), position_ids=[[4, 5]], attention_mask=padding)
    assert (place_.past, place_.told_by, place_.past_known) == (1, "--past", True)


@pytest.mark.parametrize(("left", "past"), [(0, 4), (2, 6)])
def test_positions_skip_the_left_padding(left, past):
    padding = np.ones((1, 8), int)
    padding[:, :left] = 0
    place_ = placed((1, 1, 2, 8), position_ids=[[4, 5]], attention_mask=padding)
    assert (place_.past, place_.told_by) == (past, "position_ids")


def test_positions_that_differ_between_items_place_each_by_itself_or_show_padding():
    assert placed((2, 1, 2, 8), position_ids=[[4, 5], [3, 4]]).told_by is None
    together = np.concatenate([causal_weights(2, 8, past=4), causal_weights(2, 8, past=4)])
    together[1, ..., 0] = 0
    assert placed((2, 1, 2, 8), together, position_ids=[[4, 5], [3, 4]]).told_by == "the weights"
    apart = np.concatenate([causal_weights(2, 8, past=4), causal_weights(2, 8, past=3)])
    place_ = placed((2, 1, 2, 8), apart, position_ids=[[4, 5], [3, 4]])
    assert (place_.past, place_.told_by) == (3, "position_ids")
    assert place_.queries_at.tolist() == [[4, 5], [3, 4]]


def test_equal_weights_over_all_keys_refute_no_positions():
    place_ = placed((2, 1, 2, 6), np.full((2, 1, 2, 6), 1 / 6), position_ids=[[4, 5], [3, 4]])
    assert (place_.told_by, place_.queries_at.tolist()) == ("position_ids", [[4, 5], [3, 4]])


def test_weights_behind_the_last_query_refute_positions():
    weights = causal_weights(2, 8, past=6)
    place_ = placed((1, 1, 2, 8), weights, position_ids=[[1, 2]])
    assert place_.told_by == "the weights"
    assert place_.past == 6


def test_padding_over_a_cache_ends_with_the_last_query():
    padding = np.array([[1, 1, 1, 1, 1, 0, 0, 0]])
    place_ = placed((1, 1, 2, 8), attention_mask=padding)
    assert (place_.past, place_.told_by) == (3, "the padding")
    assert place_.queries.real.tolist() == [[True, True]]


def test_padding_of_a_first_step_says_that_nothing_came_before():
    place_ = placed((1, 1, 3, 8), attention_mask=[[1, 1, 1, 0, 0, 0, 0, 0]])
    assert (place_.past, place_.told_by) == (0, None)


def test_padding_shorter_than_a_cache_with_empty_slots_is_laid_over_its_beginning():
    weights = causal_weights(1, 8, past=4)
    place_ = placed((1, 1, 1, 8), weights, attention_mask=np.ones((1, 5), int))
    assert place_.past == 4
    assert place_.misfit is None
    assert place_.keys.real.tolist() == [[True] * 5 + [False] * 3]


def test_padding_of_another_length_is_a_misfit():
    weights = causal_weights(1, 8, past=7)
    place_ = placed((1, 1, 1, 8), weights, attention_mask=np.ones((1, 5), int))
    assert place_.keys is None
    assert place_.misfit.real.shape == (1, 5)


def test_weights_alone_show_empty_slots_and_are_no_witness_to_rules():
    place_ = placed((1, 1, 2, 8), causal_weights(2, 8, past=3))
    assert (place_.past, place_.told_by, place_.past_known) == (3, "the weights", False)


def test_cross_attention_has_no_past_and_two_paddings():
    place_ = placed(
        (1, 1, 3, 5),
        kind="cross",
        encoder_attention_mask=[[1, 1, 1, 0, 0]],
        decoder_attention_mask=[[1, 1, 0]],
    )
    assert (place_.past, place_.told_by) == (0, None)
    assert place_.keys.real.tolist() == [[True, True, True, False, False]]
    assert place_.queries.real.tolist() == [[True, True, False]]


def test_positions_of_a_rolled_cache_tell_where_key_0_stands():
    place_ = placed((1, 1, 1, 4), position_ids=[[9]])
    assert place_.told_by is None
    assert place_.origin.tolist() == [6]
    assert place_.beginning_known


def test_witnesses_are_asked_in_the_stated_order():
    assert list(WITNESSES) == ["--past", "position_ids", "the padding", "the weights"]


@pytest.mark.parametrize(("padding", "rows"), [(None, [[5], [5]]), (np.ones((2, 8), int), [[5], [3]])])
def test_items_that_stand_elsewhere_do_so_where_the_padding_is_told(padding, rows):
    """Without a padding mask, the shorter text may as well have padding in front."""
    told = {} if padding is None else {"attention_mask": padding}
    place_ = placed((2, 1, 1, 8), position_ids=[[5], [3]], **told)
    assert (place_.queries_at is None) == (padding is None)
    if padding is not None:
        assert (place_.queries_at.tolist(), place_.told_by) == (rows, "position_ids")


@pytest.mark.parametrize(("rows", "past"), [([[2, 3]], 2), ([[2, 5]], 0), ([[2, 3], [4, 5]], 2)])
def test_only_queries_that_follow_each_other_have_one_number_of_keys_before_them(rows, past):
    at = np.array(rows)
    place_ = placed((2, 1, 2, 8), declared=Declared(positions=Places("--positions", at)))
    assert (place_.past, place_.queries_at.tolist()) == (past, at.tolist())


@pytest.mark.parametrize(("slots", "told"), [(24, True), (22, False)])
def test_a_block_table_is_one_of_whole_blocks(slots, told):
    """Blocks 3 and 0 hold sample 0, 1 and 2 sample 1; a cache that ends inside a block is not cut into them."""
    table, lengths = [[3, 0], [1, 2]], [7, 5]
    place_ = placed((2, 1, 1, slots), block_tables=table, block_size=[4], seq_lens=lengths)
    assert (place_.told_by == "the block table") == told
    if told:
        filled = [np.flatnonzero(row).tolist() for row in place_.keys.real]
        assert filled == [[0, 1, 2, 12, 13, 14, 15], [4, 5, 6, 7, 8]]
        assert place_.queries_at.tolist() == [[6], [4]]


def test_blocks_of_one_slot():
    table, lengths = [[3, 0, 2], [1, 4, 5]], [3, 2]
    place_ = placed((2, 1, 1, 6), block_tables=table, block_size=[1], seq_lens=lengths)
    assert [np.flatnonzero(row).tolist() for row in place_.keys.real] == [[0, 2, 3], [1, 4]]
    assert place_.queries_at.tolist() == [[2], [1]]


def test_a_cache_of_no_tokens_yet():
    """One sample is at its first token, whose own slot is the only one that is filled."""
    place_ = placed((2, 1, 1, 4), cache_seqlens=[0, 3])
    assert place_.queries_at.tolist() == [[0], [3]]


def test_positions_that_follow_each_other_tell_the_past():
    rows = np.array([[5, 6, 7], [3, 4, 5]])
    assert _of_standing(Stand(rows, None, "position_ids")) == (3, "position_ids")
    assert _of_standing(Stand(rows, np.arange(9)[None], "slots")) == (0, "slots")
    assert _of_standing(Stand(rows * 2, None, "position_ids")) == (0, "position_ids")


def test_a_mask_over_other_keys_has_none_of_the_facts_of_its_map():
    texts = np.arange(16).reshape(1, 16).repeat(2, axis=0) // 4
    whole = placed((2, 4, 16, 16), segment_ids=texts, attention_mask=np.ones((2, 16), int))
    for shape, known in (
        ((2, 1, 16, 16), True),
        ((1, 1, 16, 16), False),
        ((2, 1, 16, 24), False),
        ((5, 1, 1, 16), False),
    ):
        fitted = whole.fitting(shape)
        assert (fitted.documents is not None) == known, shape
        assert fitted.layout.shape == shape
    alike = placed((2, 4, 16, 16), segment_ids=texts[:1])
    assert alike.fitting((5, 1, 1, 16)).documents is not None
    assert alike.fitting((5, 1, 1, 8)).documents is None


@pytest.mark.parametrize("rows", [1, 3])
def test_distances_to_keys_that_stand_elsewhere_in_each_sample(rows):
    at = np.stack([np.roll(np.arange(4), item) for item in range(rows)])
    at[0, 0] = -1
    place_ = placed(
        (3, 1, 4, 4),
        declared=Declared(
            positions=Places("--positions", np.arange(4)[None]), key_positions=Places("--key-positions", at)
        ),
    )
    found = place_.distances(np.arange(4))
    for item, query, key in np.ndindex(found.shape):
        stands = at[item if rows > 1 else 0, key]
        assert found[item, query, key] == query - stands if stands >= 0 else found[item, query, key] < -1000


@pytest.mark.parametrize(("said", "used", "added"), [(6, 6, 2), (7, 7, 1), (8, 8, 0), (6, 7, 0)])
def test_padding_of_the_filled_part_of_a_static_cache(said, used, added):
    weights = np.where(np.arange(8) < used, np.arange(1, 9.0), 0)[None, None, None] * np.ones((2, 1, 1, 1))
    padding = Padding(np.ones((2, said), bool), "attention_mask")
    found = _over_the_cache(padding, weights.shape, from_array("w", weights / weights.sum(-1, keepdims=True)))
    assert found.real.shape == (2, said + added)
    assert found.real.sum() == 2 * said
