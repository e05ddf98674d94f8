"""What tensors say of tokens: padding at a step of generate, positions that jump, labels that were moved."""

from dataclasses import replace

import numpy as np
import pytest

from maskcli.meant.facts import Declared
from maskcli.scene.sides import token_sets
from maskcli.scene.tokens import jumps
from maskcli.scene.witnesses import Padding, Witnesses
from maskcli.tensors import from_arrays, roles_of
from maskcli.tensors.roles import Step

PROMPT = np.array([[0, 0, 1, 1], [1, 1, 1, 1]], bool)


@pytest.mark.parametrize(
    ("saved", "step", "keys", "expect"),
    [
        # The mask of the prompt alone: the tokens behind it were generated, so they are real.
        (PROMPT, Step(4, 2, 6), 6, [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]),
        (PROMPT, Step(4, 0, 4), 4, [[0, 0, 1, 1], [1, 1, 1, 1]]),
        # A cache that dropped its oldest keys holds the last ones.
        (PROMPT, Step(4, 2, 6), 5, [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]),
        # The mask of the whole text, of which this step has read the beginning.
        (np.array([[0, 1, 1, 1, 0, 0]], bool), Step(4, 1, 5), 5, [[0, 1, 1, 1, 0]]),
    ],
)
def test_a_padding_mask_grows_with_the_text_that_is_generated(saved, step, keys, expect):
    found = Padding(saved, "attention_mask").at_step(step, len(saved), keys)
    assert found.real.astype(int).tolist() == expect


def test_beams_have_the_padding_of_their_sample():
    found = Padding(PROMPT, "attention_mask").at_step(Step(4, 1, 5), 4, 5)
    assert found.real.astype(int).tolist() == [[0, 0, 1, 1, 1]] * 2 + [[1] * 5] * 2


def test_a_step_of_generate_is_that_of_its_own_group():
    maps = {f"{name}.attentions.0": np.ones((1, 1, 2, 2), np.float32) for name in ("left", "right")}
    steps = {"left": Step(4, 1, 5), "right": Step(3, 0, 3)}
    roled = tuple(replace(each, step=steps[each.group]) for each in roles_of(from_arrays(maps)))
    for group, step in steps.items():
        assert Witnesses(roled, group, Declared()).step == step
    assert Witnesses(roled, "", Declared()).step is None


@pytest.mark.parametrize(
    ("positions", "real", "expect"),
    [
        # Each pair of neighbours that are tokens is in order; what jumps is the step over the padding.
        ([0, 1, 0, 5], [1, 1, 0, 1], True),
        ([0, 1, 0, 2], [1, 1, 0, 1], False),
        ([0, 0, 0, 1, 2], [0, 0, 1, 1, 1], False),
        ([0, 1, 2, 0, 0], [1, 1, 1, 0, 0], False),
        ([0, 1, 4, 5], [1, 1, 1, 1], True),
        ([0, 1, 0, 1], [1, 1, 1, 1], False),
    ],
)
def test_positions_jump_over_tokens_that_are_gone_and_not_over_padding(positions, real, expect):
    assert jumps(np.array([positions]), np.array([real], bool)) is expect


@pytest.mark.parametrize("names", [("labels",), ("shift_labels",), ("labels", "shift_labels")])
def test_moved_labels_are_read_once_and_are_moved_only_beside_others(names):
    saved = {"labels": np.array([[-100, 6, 7, 8]]), "shift_labels": np.array([[6, 7, 8, -100]])}
    file = from_arrays({"input_ids": np.array([[5, 6, 7, 8]])} | {name: saved[name] for name in names})
    (tokens,) = token_sets(Witnesses(roles_of(file), "", Declared()))
    assert np.array_equal(tokens.labels, saved[names[0]])
    assert (tokens.moved_labels is not None) == (len(names) == 2)
    if len(names) == 2:
        assert np.array_equal(tokens.moved_labels, saved["shift_labels"])
