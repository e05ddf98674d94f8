"""What a padding mask says of a step of generate, and what positions say of texts that lost tokens."""

import numpy as np
import pytest

from maskcli.scene.tokens import jumps
from maskcli.scene.witnesses import Padding
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
