"""What the rows of a mask show, of which it is named."""

import numpy as np
import pytest

from maskcli.masks.edges import edges_of
from maskcli.masks.layout import Layout
from maskcli.masks.spec import build, parse


@pytest.mark.parametrize("past", [0, 3])
def test_one_row_for_all_queries_bounds_the_first_and_the_last(past):
    mask = build(parse("keys:1:3,4:5"), Layout(2, 6, 6 + past, past=past))
    assert mask.compact().stored == (1, 1, 1)
    edges = edges_of(mask.compact(), Layout(2, 6, 6 + past, past=past))
    assert edges.position.tolist() == [past, 5 + past]
    assert (edges.first.tolist(), edges.stop.tolist()) == ([1, 1], [5, 5])
    assert (edges.ahead, edges.behind, edges.last) == (4 - past, 4 + past, 5)


@pytest.mark.parametrize(
    ("spec", "queries", "step"), [("dilated:6,2", 9, 2), ("dilated:9,3", 9, 3), ("dilated:6,2", 2, 2), ("sliding:1", 9, 0), ("window:1", 9, 0), ("causal & blocks:2", 6, 0)]
)  # fmt: skip
def test_the_step_between_attended_keys(spec, queries, step):
    layout = Layout(1, queries, max(queries, 6), past=max(queries, 6) - queries)
    assert edges_of(build(parse(spec), layout), layout).step == step


def test_sizes_of_blocks_are_smaller_than_the_text():
    layout = Layout(1, 8, 8)
    assert edges_of(build(parse("blocks:3"), layout), layout)._sizes(np.arange(8), np.arange(8), 8) == []
    assert edges_of(build(parse("blocks:3"), layout), layout)._sizes(np.arange(8), np.arange(8), 6) == [
        (6,),
        (7,),
    ]
